//! DNS of a pod: the names of the world as it is at each query, seen from the pod's namespace.
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use trackbed_dns::{Addresses, Counters, Names, Resolver};
use trackbed_netns::Netns;

use super::station::Station;
use crate::worker::shared::Shared;

/// Holds the station only weakly: its own tasks serve the resolver.
#[derive(Debug)]
pub(super) struct PodNames {
    shared: Arc<Shared>,
    station: std::rc::Weak<Station>,
}

pub(super) type PodResolver = Resolver<PodNames, Arc<Netns>>;

pub(super) fn resolver(shared: &Arc<Shared>, station: &Rc<Station>) -> PodResolver {
    let names = PodNames { shared: Arc::clone(shared), station: Rc::downgrade(station) };
    Resolver::new(names, Arc::clone(&station.pod().netns))
}

impl Names for PodNames {
    fn lookup(&self, hostname: &str) -> Option<Addresses> {
        let pod = self.station.upgrade()?.pod();
        let guard = self.shared.world.load();
        let answer = guard.as_ref().as_ref()?.lookup(hostname, &pod.local.namespace)?;
        let mut addresses = Addresses { headless: answer.service.addresses.is_empty(), ..Addresses::default() };
        for address in answer.addresses {
            match address {
                IpAddr::V4(address) => addresses.v4.push(address),
                IpAddr::V6(address) => addresses.v6.push(address),
            }
        }
        Some(addresses)
    }

    fn search(&self) -> impl AsRef<[String]> {
        self.station.upgrade().map(|station| station.pod().dns_search.clone()).unwrap_or_default()
    }
}

/// Adds a pod's counters to the engine's; `seen` is what was added before.
pub(super) fn count(counters: &Counters, seen: &mut [u64; 4], shared: &Shared) {
    let now = [&counters.answered, &counters.forwarded, &counters.refused, &counters.failed].map(std::cell::Cell::get);
    let totals: [&AtomicU64; 4] =
        [&shared.counters.dns_answered, &shared.counters.dns_forwarded, &shared.counters.dns_refused, &shared.counters.dns_failed];
    for ((total, now), seen) in totals.into_iter().zip(now).zip(seen.iter_mut()) {
        total.fetch_add(now.wrapping_sub(*seen), Ordering::Relaxed);
        *seen = now;
    }
}
