//! The same-node path: both pods are held by this engine, so it joins their sockets, under the full policy of both sides.
//!
//! The relay does not cross the pods' links, where NetworkPolicy is enforced: it is used only while the destination's port 15008 can be
//! reached from the source pod over the pod network.
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;
use trackbed_contract::engine::{Direction, Path};
use trackbed_contract::tables::{errors, ports};
use trackbed_decide::{Relay, recheck_outbound, relay_inbound};
use trackbed_hbone::pump;
use trackbed_netns::socket::{self, Peer};

use super::hold::{Ready, missing, ready};
use super::live::{Facts, Relayed};
use super::outbound::{Captured, Client, Counted, Failed, Next, upstream_failed};
use super::{Thread, dial_application};
use crate::report::account::Account;
use crate::worker::shared::Pod;

/// A NetworkPolicy that closes the port acts on new relays after at most this time.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Both ends are on this node: a handshake takes microseconds, or it is dropped.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// Pairs of pods remembered per data thread; more than any node's pods use within 5 s. When full everything is asked again.
const MOST_PAIRS: usize = 4096;

/// Whether a pod may reach another one's HBONE port over the network, as last tried.
#[derive(Debug, Default)]
pub(super) struct Reachable(RefCell<HashMap<Pair, Rc<Tried>>>);

/// Uid and address of the source, address of the destination.
type Pair = (Arc<str>, IpAddr, IpAddr);

/// One probe, that all who ask meanwhile wait for.
#[derive(Debug)]
struct Tried {
    at: Instant,
    answer: OnceCell<bool>,
}

impl Reachable {
    pub(super) fn forget(&self, address: IpAddr) {
        self.0.borrow_mut().retain(|(_, _, known), _| *known != address);
    }

    async fn check(&self, pod: &Pod, source: IpAddr, address: IpAddr) -> bool {
        let tried = self.last((Arc::clone(&pod.local.uid), source, address));
        *tried.answer.get_or_init(|| probe(pod, source, address)).await
    }

    fn last(&self, pair: Pair) -> Rc<Tried> {
        let mut known = self.0.borrow_mut();
        if let Some(tried) = known.get(&pair).filter(|tried| tried.at.elapsed() < REMEMBERED) {
            return Rc::clone(tried);
        }
        if known.len() >= MOST_PAIRS {
            known.clear();
        }
        let tried = Rc::new(Tried { at: Instant::now(), answer: OnceCell::new() });
        known.insert(pair, Rc::clone(&tried));
        tried
    }
}

async fn probe(pod: &Pod, source: IpAddr, address: IpAddr) -> bool {
    let Ok(started) = socket::connect_from(&pod.netns, source, SocketAddr::new(address, ports::HBONE), Peer::Network) else { return false };
    let Ok(Ok(stream)) = tokio::time::timeout(PROBE_LIMIT, socket::established(started)).await else { return false };
    // Nothing was said and nothing will be: no TIME_WAIT for a probe.
    pump::reset(stream);
    true
}

impl Thread {
    /// The destination's pod, when the direct path is open.
    pub(super) async fn relay_destination(&self, captured: &Captured, relay: &Relay) -> Option<Arc<Pod>> {
        let endpoint = &relay.tunnel.endpoint;
        let destination = self.shared.pods.load().of_workload(&endpoint.namespace, &endpoint.name, relay.address.ip()).cloned()?;
        self.reachable.check(&captured.pod, captured.client.ip(), relay.address.ip()).await.then_some(destination)
    }

    pub(super) async fn relay(
        self: &Rc<Self>,
        source: Ready,
        captured: &mut Captured,
        relay: Relay,
        destination: &Arc<Pod>,
        client: &mut Client,
    ) -> Result<(), Failed> {
        captured.account.path(Path::Relay);
        // The probe may have taken a second: both sides are asked as they are now.
        // What this endpoint lacks yet another one may have.
        let theirs = ready(&self.shared, destination).map_err(|refusal| Failed { refusal, next: Next::Another })?;
        let world = theirs.world().ok_or_else(|| missing(errors::WORKLOAD_UNKNOWN, "the director has said nothing yet".into()))?;
        let standing = relay.tunnel.standing();
        recheck_outbound(world, &captured.pod.local, &standing)?;
        let (from, to) = (captured.client, relay.address);
        let (client_workload, identity) = (source.local.workload.clone(), source.local.identity().clone());
        drop(source);
        let endpoint = Arc::clone(&relay.tunnel.endpoint);

        let mut inbound = Account::new(&self.ledger, Direction::Inbound, destination);
        inbound.path(Path::Relay);
        inbound.source(from, Some(&client_workload), Some(&identity));
        inbound.destination(to, Some(&endpoint), Some(&endpoint.identity));
        inbound.service(relay.tunnel.service.as_ref());
        captured.account.destination(captured.destination, Some(&endpoint), Some(&endpoint.identity));

        let admitted = match relay_inbound(world, &destination.local, &identity, from.ip(), to) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                inbound.refused(&refusal);
                return Err(refusal.into());
            }
        };
        for account in [&mut inbound, &mut captured.account] {
            account.policy(admitted.policy.as_ref());
            account.audit(admitted.audit.as_deref());
        }
        let registered =
            self.register(&captured.pod, Facts::Relay(Box::new(Relayed { standing, admitted, destination: Arc::clone(destination) })));
        drop(theirs);
        let started = Instant::now();
        let dialled = registered.unless_cut(dial_application(destination, from.ip(), to)).await;
        let dialled = dialled.map_err(Failed::from).and_then(|dialled| dialled.map_err(|error| upstream_failed(to, &error)));
        let server = match dialled {
            Ok(server) => server,
            Err(failed) => {
                inbound.refused(&failed.refusal);
                return Err(failed);
            }
        };
        let client = client.take()?;
        let counted = Counted::open(self, Arc::clone(&endpoint.uid));
        let mut outbound = captured.account.take();
        outbound.timing(started.elapsed(), Duration::ZERO);
        inbound.timing(started.elapsed(), Duration::ZERO);
        registered.opened(outbound, Some(inbound));
        registered.carry(|meter| pump::relay(client, server, meter), Some(counted));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_a_probe_is_under_way_shares_it() {
        let reachable = Reachable::default();
        let address: IpAddr = [10, 0, 0, 2].into();
        let pair = || (Arc::from("pod"), IpAddr::from([10, 0, 0, 1]), address);
        let first = reachable.last(pair());
        assert!(Rc::ptr_eq(&first, &reachable.last(pair())));
        reachable.forget(address);
        assert!(!Rc::ptr_eq(&first, &reachable.last(pair())), "the address may be another pod's now");
    }
}
