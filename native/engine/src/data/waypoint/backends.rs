//! How a waypoint reaches backends: an endpoint for each request by the mesh's own decision, and a connection under the waypoint's identity.
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use trackbed_contract::tables::errors;
use trackbed_decide::{Candidates, Outbound, Plain, Relay, Tunnel, World, candidates, recheck_outbound};
use trackbed_hbone::headers::{Forwarded, TraceParent};
use trackbed_hbone::{ConnectRequest, Target};
use trackbed_l7::{BackendKey, ConnectError, Endpoint, Member, NoEndpoint, Upstream};
use trackbed_netns::socket::Peer;

use super::carrier::Carrier;
use crate::data::station::Station;
use crate::data::{Thread, dial, hold};
use crate::worker::shared::Pod;

pub(crate) struct Backends {
    thread: Rc<Thread>,
    station: Weak<Station>,
}

/// Who could be asked, and of what they were made: as long as that is the same, nothing can have changed.
pub(crate) struct Asked {
    candidates: Candidates,
    pod: Arc<Pod>,
    world: RefCell<std::sync::Weak<Option<World>>>,
    /// To each candidate, as far as somebody went there in this world.
    ways: RefCell<Box<[Gone]>>,
}

/// The way to a candidate, and its address, if somebody went there.
type Gone = Option<(Rc<Way>, SocketAddr)>;

/// How an endpoint is reached.
pub(crate) enum Way {
    Tunnel(Box<Tunnel>),
    Plain(Box<Plain>),
}

impl Asked {
    /// Whether they were last seen to be current in this very world. Held weakly, its place in memory is nobody else's.
    fn is_of(&self, snapshot: &Arc<Option<World>>) -> bool {
        std::ptr::eq(self.world.borrow().as_ptr(), Arc::as_ptr(snapshot))
    }
}

impl Backends {
    pub(super) fn new(thread: Rc<Thread>, station: Weak<Station>) -> Self {
        Self { thread, station }
    }

    /// The waypoint's own pod, as the control thread has it now.
    fn pod(&self) -> Option<Arc<Pod>> {
        Some(self.thread.published(&*self.station.upgrade()?))
    }

    async fn tunnel(&self, pod: &Arc<Pod>, tunnel: &Tunnel) -> Result<Carrier, ConnectError> {
        let ready = hold::ready(&self.thread.shared, pod).map_err(|refusal| failed(refusal.code, refusal.reason))?;
        // The request may have waited since its endpoint was chosen.
        let world = ready.world().ok_or_else(|| failed(errors::WORKLOAD_UNKNOWN, "control has said nothing yet"))?;
        recheck_outbound(world, &pod.local, &tunnel.standing()).map_err(|refusal| failed(refusal.code, refusal.reason))?;
        let source = own_address(pod, tunnel.dial.ip());
        let target = Target {
            source_uid: Arc::clone(&pod.local.uid),
            source_address: source,
            certified: Arc::clone(&ready.certified),
            expected: tunnel.accept.clone(),
            destination: tunnel.dial,
        };
        drop(ready);
        let host = tunnel.service.as_ref().map(|service| service.hostname.to_string());
        let request = ConnectRequest {
            authority: tunnel.authority.clone(),
            baggage: Some(self.thread.introductions.of(&tunnel.source).to_string()),
            // Requests of many clients go through it: it comes from the waypoint.
            forwarded: Some(Forwarded { source: SocketAddr::new(source, 0), host }.to_string()),
            traceparent: Some(TraceParent::random().to_string()),
        };
        let opened = self.thread.pool.open(&target, &request).await;
        let stream = opened.map_err(|error| failed(error.code(), format!("{}: {error}", tunnel.dial)))?;
        Ok(Carrier::Tunnel(stream.into_duplex()))
    }

    async fn plain(&self, pod: &Pod, plain: &Plain) -> Result<Carrier, ConnectError> {
        let dialled = dial(pod, own_address(pod, plain.address.ip()), plain.address, Peer::Network).await;
        dialled.map(Carrier::socket).map_err(|error| {
            let late = error.kind() == std::io::ErrorKind::TimedOut;
            failed(if late { errors::UPSTREAM_TIMEOUT } else { errors::UPSTREAM_REFUSED }, format!("{}: {error}", plain.address))
        })
    }
}

impl Upstream for Backends {
    type Io = Carrier;
    type Detail = Rc<Way>;
    type Candidates = Asked;

    fn candidates(&self, key: &BackendKey) -> Result<Asked, NoEndpoint> {
        let pod = self.pod().ok_or(NoEndpoint::None)?;
        let snapshot = self.thread.shared.world.load_full();
        let world = snapshot.as_ref().as_ref().ok_or(NoEndpoint::None)?;
        match candidates(world, &pod.local, &key.service, key.port) {
            Ok(candidates) => {
                let ways = RefCell::new(vec![None; candidates.members().len()].into());
                Ok(Asked { candidates, pod, world: RefCell::new(Arc::downgrade(&snapshot)), ways })
            }
            Err(refusal) => {
                tracing::debug!(target: "waypoint", backend = %key.service, port = key.port, code = refusal.code, reason = refusal.reason, "no endpoint");
                Err(if refusal.code == errors::SERVICE_NO_PORT { NoEndpoint::Unknown } else { NoEndpoint::None })
            }
        }
    }

    fn are_current(&self, _: &BackendKey, asked: &Asked) -> bool {
        let snapshot = self.thread.shared.world.load();
        let Some(pod) = self.pod().filter(|pod| Arc::ptr_eq(pod, &asked.pod)) else { return false };
        if asked.is_of(&snapshot) {
            return true;
        }
        let current = snapshot.as_ref().as_ref().is_some_and(|world| asked.candidates.are_current(world, &pod.local));
        if current {
            *asked.world.borrow_mut() = Arc::downgrade(&snapshot);
            asked.ways.borrow_mut().fill(None);
        }
        current
    }

    fn members<'a>(&self, asked: &'a Asked) -> &'a [Member] {
        asked.candidates.members()
    }

    fn endpoint(&self, asked: &Asked, index: usize) -> Option<Endpoint<Rc<Way>>> {
        let snapshot = self.thread.shared.world.load();
        let uid = Arc::clone(&asked.candidates.members()[index].uid);
        // Made of one world, it holds in that one.
        let same = asked.is_of(&snapshot);
        if let Some((way, address)) = asked.ways.borrow()[index].as_ref().filter(|_| same) {
            return Some(Endpoint { uid, address: *address, detail: Rc::clone(way) });
        }
        let way = Rc::new(match asked.candidates.reach(snapshot.as_ref().as_ref()?, index) {
            Outbound::Tunnel(tunnel) | Outbound::Relay(Relay { tunnel, .. }) => Way::Tunnel(Box::new(tunnel)),
            Outbound::Plain(plain) => Way::Plain(Box::new(plain)),
            Outbound::Refuse(refusal) => {
                tracing::debug!(target: "waypoint", code = refusal.code, reason = refusal.reason, "an endpoint cannot be reached");
                return None;
            }
        });
        let address = match &*way {
            Way::Tunnel(tunnel) => tunnel.authority.parse().ok()?,
            Way::Plain(plain) => plain.address,
        };
        if same {
            asked.ways.borrow_mut()[index] = Some((Rc::clone(&way), address));
        }
        Some(Endpoint { uid, address, detail: way })
    }

    async fn connect(&self, endpoint: &Endpoint<Rc<Way>>) -> Result<Carrier, ConnectError> {
        let pod = self.pod().ok_or_else(|| failed(errors::POD_LEFT, "the waypoint has left the mesh"))?;
        match &*endpoint.detail {
            Way::Tunnel(tunnel) => self.tunnel(&pod, tunnel).await,
            Way::Plain(plain) => self.plain(&pod, plain).await,
        }
    }
}

fn own_address(pod: &Pod, like: IpAddr) -> IpAddr {
    let own = &pod.local.addresses;
    own.iter().find(|address| address.is_ipv4() == like.is_ipv4()).or(own.first()).copied().unwrap_or(like)
}

fn failed(code: &'static str, reason: impl Into<String>) -> ConnectError {
    ConnectError { code, reason: reason.into() }
}
