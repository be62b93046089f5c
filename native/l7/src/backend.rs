//! Where requests go, and whose turn it is.
use crate::BackendKey;
use crate::filter::Filter;
use crate::invalid::{At, Invalid, Parsed, each};
use crate::service::{port_number, service_name};
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) key: Arc<BackendKey>,
    pub(crate) filters: Box<[Filter]>,
    pub(crate) protocol: route::Protocol,
    /// Set for a reference that cannot be used.
    pub(crate) refuse: Option<StatusCode>,
    weight: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Backends {
    list: Box<[Arc<Backend>]>,
    total: u64,
    turn: Turn,
}

/// Draws that fall evenly, not at random: after 500 of them each share is met within one percent, where chance would miss it by five now and
/// then. The steps are of the golden ratio, so that also every second or every tenth draw falls evenly.
#[derive(Debug)]
pub(crate) struct Turn(AtomicU32);

const GOLDEN_STEP: u32 = 0x9E37_79B9;

impl Default for Turn {
    fn default() -> Self {
        Self(AtomicU32::new(fastrand::u32(..)))
    }
}

impl Turn {
    /// Below `total`.
    pub(crate) fn next(&self, total: u64) -> u64 {
        let point = u64::from(self.0.fetch_add(GOLDEN_STEP, Ordering::Relaxed));
        // The sum of weights may need more than 32 bits.
        u64::try_from((u128::from(point) * u128::from(total)) >> 32).unwrap_or(total)
    }
}

impl Backend {
    pub(crate) fn parse(from: &route::Backend) -> Parsed<Self> {
        let refuse = match from.refuse_status {
            0 => None,
            status => Some(error_status(status).at("refuse_status")?),
        };
        let protocol = route::Protocol::try_from(from.protocol).map_err(|_| Invalid::because("is not known")).at("protocol")?;
        let filters = each("filters", &from.filters, Filter::parse)?;
        // One that cannot be used may name what does not exist.
        let key = if refuse.is_some() {
            BackendKey { service: from.service.as_str().into(), port: u16::try_from(from.port).unwrap_or_default() }
        } else {
            BackendKey { service: service_name(&from.service).at("service")?, port: port_number(from.port).at("port")? }
        };
        Ok(Self { key: Arc::new(key), filters, protocol, refuse, weight: from.weight })
    }
}

impl Backends {
    pub(crate) fn parse(from: &[route::Backend]) -> Parsed<Self> {
        let list = each("backends", from, |backend| Backend::parse(backend).map(Arc::new))?;
        let total = list.iter().map(|backend| u64::from(backend.weight)).sum();
        Ok(Self { list, total, turn: Turn::default() })
    }

    pub(crate) fn weighted(&self) -> impl Iterator<Item = (Arc<BackendKey>, u32)> {
        self.list.iter().map(|backend| (Arc::clone(&backend.key), backend.weight))
    }

    pub(crate) fn only(key: BackendKey, protocol: route::Protocol) -> Self {
        let backend = Backend { key: Arc::new(key), filters: Box::default(), protocol, refuse: None, weight: 1 };
        Self { list: Box::new([Arc::new(backend)]), total: 1, turn: Turn::default() }
    }

    /// None: there is none, or none has a weight.
    pub(crate) fn choose(&self) -> Option<&Arc<Backend>> {
        if let [only] = &*self.list {
            return (self.total > 0).then_some(only);
        }
        let mut point = if self.total == 0 { return None } else { self.turn.next(self.total) };
        self.list.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let its = point < weight;
            point = point.saturating_sub(weight);
            its
        })
    }
}

fn error_status(status: u32) -> Parsed<StatusCode> {
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    status.filter(|status| status.is_client_error() || status.is_server_error()).ok_or_else(|| Invalid::because("is not an error"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn backends(weights: &[u32]) -> Backends {
        let backend = |(index, weight): (usize, &u32)| route::Backend {
            service: format!("shop/v{index}"),
            port: 80,
            weight: *weight,
            ..Default::default()
        };
        Backends::parse(&weights.iter().enumerate().map(backend).collect::<Vec<_>>()).unwrap()
    }

    fn shares(backends: &Backends, draws: u32, every: usize) -> HashMap<Arc<str>, u32> {
        let mut counts = HashMap::new();
        for _ in 0..draws {
            *counts.entry(Arc::clone(&backends.choose().unwrap().key.service)).or_default() += 1;
            (1..every).for_each(|_| assert!(backends.choose().is_some()));
        }
        counts
    }

    #[test]
    fn nothing_goes_to_weight_zero() {
        let backends = backends(&[0, 3, 0]);
        assert_eq!(shares(&backends, 1000, 1), HashMap::from([("shop/v1".into(), 1000)]));
    }

    #[test]
    fn weights_that_are_all_zero_choose_nobody() {
        assert!(backends(&[0, 0]).choose().is_none());
        assert!(backends(&[0]).choose().is_none());
        assert!(backends(&[]).choose().is_none());
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let backends = backends(&[u32::MAX, u32::MAX, u32::MAX]);
        assert!(shares(&backends, 3000, 1).values().all(|count| (990..=1010).contains(count)));
    }

    proptest! {
        #[test]
        fn five_hundred_draws_meet_every_share_within_two_percent(weights in prop::collection::vec(0_u32..100, 1..6), every in 1_usize..12) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let counts = shares(&backends(&weights), 500, every);
            for (index, weight) in weights.iter().enumerate() {
                let got = counts.get(format!("shop/v{index}").as_str()).copied().unwrap_or_default();
                prop_assert!((f64::from(got) / 500.0 - f64::from(*weight) / f64::from(total)).abs() < 0.02, "{index}: {got} of 500, weights {weights:?}");
            }
        }
    }
}
