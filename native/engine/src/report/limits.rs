//! What a waypoint held back, and whom it spared: requests refused by limits, endpoints ejected, and how the limits stand.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use trackbed_contract::tables::metrics;
use trackbed_l7::{BackendKey, Cause, Ejection, LimitSeen, Table};

use super::series::{Escaped, header};

/// Limits that are told apart; what is beyond is counted without a name.
const MOST_LIMITS: usize = 1024;
const NAMELESS: &str = "other";

/// One lock for all threads: held for the time of one addition, and only where a request was refused.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    /// By name and Envoy's response flag.
    refused: Mutex<HashMap<(Box<str>, &'static str), u64>>,
    ejected: Mutex<HashMap<&'static str, u64>>,
}

impl Limits {
    pub(crate) fn refused(&self, limit: &str, flag: &'static str) {
        let mut counts = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(limit), flag);
        let known = counts.len() < MOST_LIMITS || counts.contains_key(&key);
        *counts.entry(if known { key } else { (NAMELESS.into(), flag) }).or_default() += 1;
    }

    pub(crate) fn ejected(&self, backend: &BackendKey, ejection: &Ejection) {
        let cause = match ejection.cause {
            Cause::Consecutive5xx => "consecutive_5xx",
            Cause::ConsecutiveGateway => "consecutive_gateway_errors",
            Cause::ConsecutiveLocal => "consecutive_local_origin_errors",
            Cause::SuccessRate => "success_rate",
        };
        tracing::warn!(target: "waypoint", backend = %backend.service, port = backend.port, endpoint = %ejection.uid, cause,
            time = format!("{}ms", ejection.time.as_millis()), "an endpoint is passed over for a while");
        *self.ejected.lock().unwrap_or_else(PoisonError::into_inner).entry(cause).or_default() += 1;
    }

    /// Nothing at all where there is nothing to tell.
    pub(crate) fn write(&self, text: &mut String, table: &Table) {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let refused =
            refused.iter().map(|((limit, flag), count)| (format!("limit=\"{}\",response_flags=\"{flag}\"", Escaped(limit)), *count));
        family(text, metrics::TRACKBED_REQUESTS_LIMITED_TOTAL, "counter", "requests refused by a rate limit or by load shedding", refused);
        let ejected = self.ejected.lock().unwrap_or_else(PoisonError::into_inner);
        let ejected = ejected.iter().map(|(cause, count)| (format!("cause=\"{cause}\""), *count));
        family(text, metrics::TRACKBED_ENDPOINTS_EJECTED_TOTAL, "counter", "endpoints passed over for a while", ejected);
        let name = |name: &str| format!("limit=\"{}\"", Escaped(name));
        let shared = table.limits().filter_map(|seen| match seen {
            LimitSeen::Rate { name: limit, keys_shared } if keys_shared > 0 => Some((name(limit), keys_shared)),
            _ => None,
        });
        family(
            text,
            metrics::TRACKBED_RATE_LIMIT_KEYS_SHARED_TOTAL,
            "counter",
            "requests whose key found no room and shared a bucket",
            shared,
        );
        let parallel = table.limits().filter_map(|seen| match seen {
            LimitSeen::Parallel { name: limit, limit: now } => Some((name(limit), u64::from(now))),
            LimitSeen::Rate { .. } => None,
        });
        family(text, metrics::TRACKBED_CONCURRENCY_LIMIT, "gauge", "requests that load shedding lets be under way now", parallel);
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: impl Iterator<Item = (String, u64)>) {
    let mut samples: Vec<_> = samples.take(MOST_LIMITS).collect();
    if samples.is_empty() {
        return;
    }
    samples.sort_unstable();
    header(text, name, kind, help);
    for (labels, value) in samples {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name}{{{labels}}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_limits_than_are_told_apart_are_still_counted() {
        let limits = Limits::default();
        for index in 0..MOST_LIMITS * 2 {
            limits.refused(&format!("shop/p{index}/0"), "RL");
        }
        limits.refused("shop/p0/0", "RL");
        let mut text = String::new();
        limits.write(&mut text, &Table::default());
        assert!(text.contains("{limit=\"shop/p0/0\",response_flags=\"RL\"} 2\n"), "{text}");
        assert!(!text.contains("ejected"), "what never happened is not told");
    }
}
