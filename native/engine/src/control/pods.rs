//! The pods of this node: what the director asked for, the namespace that arrived for it, and the facts told about it.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use trackbed_contract::Identity;
use trackbed_contract::engine::{AddPod, Observe, PodState};
use trackbed_contract::tables::errors;
use trackbed_decide::{LocalPod, World};
use trackbed_netns::{Netns, NetnsError};

use super::identities::{Identities, Trouble};
use crate::clock;
use crate::worker::shared::{Open, Pod};

/// AddPod waits this long for its namespace before it says that something is wrong.
pub(super) const HANDOVER_WAIT: Duration = Duration::from_secs(5);
/// A namespace that nobody asks for is let go after this time.
const PARKED_LIMIT: Duration = Duration::from_secs(30);
/// Namespaces that wait for AddPod: a full node twice over. The oldest goes when another one comes.
const MOST_PARKED: usize = 512;
/// Until then a missing workload or policy is on its way; after it something is wrong.
const POLICY_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) spec: AddPod,
    pub(super) since: Instant,
    /// AddPod named it on the present stream.
    pub(super) named: bool,
    /// It drains; this ends the wait for that.
    pub(super) leaving: Option<AbortHandle>,
    /// The namespace, while the listeners in it cannot be bound.
    pub(super) netns: Option<Arc<Netns>>,
    pub(super) pod: Option<Arc<Pod>>,
    pub(super) watch: Option<AbortHandle>,
    pub(super) trouble: Option<Trouble>,
    /// As last told.
    pub(super) told: PodState,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.stay();
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

impl Entry {
    pub(super) fn new(spec: AddPod, now: Instant) -> Self {
        Self { spec, since: now, named: true, leaving: None, netns: None, pod: None, watch: None, trouble: None, told: PodState::default() }
    }

    /// Ends a drain under way.
    pub(super) fn stay(&mut self) {
        if let Some(draining) = self.leaving.take() {
            draining.abort();
        }
    }

    /// A waypoint that leaves does not listen any more, and its clients were told to go: it can only begin anew.
    pub(super) fn has_stopped(&self) -> bool {
        self.spec.waypoint && self.leaving.is_some()
    }

    /// The facts as they are now.
    pub(super) fn state(&self, world: Option<&World>, identities: &Identities, now: Instant) -> PodState {
        let mut state = PodState {
            uid: self.spec.uid.clone(),
            netns_cookie: self.spec.netns_cookie,
            listening: self.pod.is_some(),
            ..PodState::default()
        };
        let mut trouble = self.trouble.clone();
        if let Some(pod) = &self.pod {
            state.connections = pod.open.count();
            if let Some(certified) = identities.certified(&pod.identity) {
                state.identity = true;
                state.certificate_not_after = clock::nanoseconds(certified.not_after());
            } else {
                trouble = trouble.or_else(|| identities.trouble(&pod.identity).cloned());
            }
            match policy(world, &pod.local) {
                Ok(()) => state.policy = true,
                Err(missing) if now.duration_since(self.since) > POLICY_WAIT => trouble = trouble.or(Some(missing)),
                Err(_on_its_way) => {}
            }
        }
        if let Some(trouble) = trouble {
            (state.code, state.reason) = (trouble.code, trouble.reason);
        }
        state
    }
}

fn policy(world: Option<&World>, pod: &LocalPod) -> Result<(), Trouble> {
    let trouble = |code: &str, reason: String| Trouble { code: code.to_owned(), reason };
    let world = world.ok_or_else(|| trouble(errors::WORKLOAD_UNKNOWN, "no settings yet".into()))?;
    let local = world.local(pod).map_err(|refusal| trouble(refusal.code, refusal.reason))?;
    match world.missing_policies(&local.workload).first() {
        None => Ok(()),
        Some(name) => Err(trouble(errors::POLICY_UNKNOWN, format!("policy {name} is not known"))),
    }
}

/// The pod that a spec describes in this namespace: with the addresses that the namespace holds, and what is wrong if it lacks some.
pub(super) fn describe(spec: &AddPod, netns: &Arc<Netns>, open: Arc<Open>, world: &World) -> Result<(Pod, Option<Trouble>), Trouble> {
    let trouble = |code: &str, reason: String| Trouble { code: code.to_owned(), reason };
    let mut local = LocalPod::from_wire(spec).map_err(|refusal| trouble(refusal.code, refusal.reason))?;
    let identity = Identity::new(&world.settings().trust_domain, &spec.namespace, &spec.service_account)
        .map_err(|error| trouble(errors::IDENTITY_MALFORMED, error.to_string()))?;
    let held = usable(netns).map_err(|error| trouble(error.code(), error.to_string()))?;
    if spec.waypoint && local.addresses.is_empty() {
        local.addresses = held.iter().filter(|address| is_reachable(address)).copied().collect();
    }
    let missing: Vec<_> = local.addresses.iter().filter(|address| !held.contains(address)).map(ToString::to_string).collect();
    local.addresses.retain(|address| held.contains(address));
    let wrong = (!missing.is_empty())
        .then(|| trouble(errors::WORKLOAD_UNKNOWN, format!("the pod's namespace does not hold {} (yet)", missing.join(", "))));
    match wrong {
        // It is told everything of itself when it starts, and where it listens follows from that.
        Some(wrong) if spec.waypoint => return Err(wrong),
        _ => {}
    }
    // What a later director means by another word is perhaps that nothing is to be looked into.
    let observe = Observe::try_from(spec.observe).unwrap_or(Observe::Off);
    let (dns_search, netns, waypoint) = (spec.dns_search.clone(), Arc::clone(netns), spec.waypoint);
    Ok((Pod { local, cookie: spec.netns_cookie, identity, dns_search, waypoint, observe, netns, open }, wrong))
}

fn usable(netns: &Netns) -> Result<Vec<IpAddr>, NetnsError> {
    Ok(netns.addresses()?.into_iter().filter(|held| held.usable).map(|held| held.address).collect())
}

/// From another pod.
fn is_reachable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

/// Namespaces that arrived before anybody asked for them.
#[derive(Debug, Default)]
pub(super) struct Parked(HashMap<String, (Instant, Netns)>);

impl Parked {
    /// A second namespace for one uid takes the place of the first: the sender knows better by then.
    pub(super) fn park(&mut self, uid: String, netns: Netns, now: Instant) {
        if self.0.len() >= MOST_PARKED
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (since, _))| *since).map(|(uid, _)| uid.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.insert(uid, (now, netns));
    }

    /// The namespace of exactly this cookie.
    pub(super) fn take(&mut self, uid: &str, cookie: u64) -> Option<Netns> {
        if self.cookie(uid) == Some(cookie) { self.0.remove(uid).map(|(_, netns)| netns) } else { None }
    }

    pub(super) fn cookie(&self, uid: &str) -> Option<u64> {
        self.0.get(uid).map(|(_, netns)| netns.cookie())
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (since, _)| now.duration_since(*since) < PARKED_LIMIT);
    }
}
