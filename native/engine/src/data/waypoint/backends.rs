//! How a waypoint reaches backends: an endpoint for each request by the mesh's own decision, and a connection under the waypoint's identity.
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use trackbed_contract::tables::errors;
use trackbed_decide::{Chooser, Outbound, Plain, Relay, Tunnel, backend, recheck_outbound};
use trackbed_hbone::headers::{Forwarded, TraceParent};
use trackbed_hbone::{ConnectRequest, Target};
use trackbed_l7::{BackendKey, ConnectError, Endpoint, NoEndpoint, Outcome, Upstream};
use trackbed_netns::socket::Peer;

use super::carrier::Carrier;
use crate::data::outbound::Counted;
use crate::data::station::Station;
use crate::data::{Thread, dial, hold};
use crate::worker::shared::Pod;

pub(crate) struct Backends {
    thread: Rc<Thread>,
    station: Weak<Station>,
}

/// How an endpoint is reached, and that a request is under way to it.
pub(crate) struct Way {
    path: Path,
    _counted: Counted,
}

enum Path {
    Tunnel(Box<Tunnel>),
    Plain(Box<Plain>),
}

impl Backends {
    pub(super) fn new(thread: Rc<Thread>, station: Weak<Station>) -> Self {
        Self { thread, station }
    }

    /// The waypoint's own pod, as the control thread has it now.
    fn pod(&self) -> Option<Arc<Pod>> {
        Some(self.thread.published(&*self.station.upgrade()?))
    }

    fn decide(&self, pod: &Pod, key: &BackendKey, exclude: &[Arc<str>]) -> Result<Path, &'static str> {
        let snapshot = self.thread.shared.world.load();
        let world = snapshot.as_ref().as_ref().ok_or(errors::WORKLOAD_UNKNOWN)?;
        let load = self.thread.load.borrow();
        let mut rng = fastrand::Rng::new();
        let mut chooser = Chooser { rng: &mut rng, load: &load, now: Instant::now(), exclude };
        match backend(world, &pod.local, &key.service, key.port, &mut chooser) {
            Outbound::Tunnel(tunnel) | Outbound::Relay(Relay { tunnel, .. }) => Ok(Path::Tunnel(Box::new(tunnel))),
            Outbound::Plain(plain) => Ok(Path::Plain(Box::new(plain))),
            Outbound::Refuse(refusal) => {
                tracing::debug!(target: "waypoint", backend = %key.service, port = key.port, code = refusal.code, reason = refusal.reason, "no endpoint");
                Err(refusal.code)
            }
        }
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
    type Detail = Way;

    fn choose(&self, key: &BackendKey, avoid: &[Arc<str>]) -> Result<Endpoint<Way>, NoEndpoint> {
        let pod = self.pod().ok_or(NoEndpoint::None)?;
        let path = self.decide(&pod, key, avoid).or_else(|code| match code {
            errors::SERVICE_NO_ENDPOINT if !avoid.is_empty() => self.decide(&pod, key, &[]),
            code => Err(code),
        });
        let path = path.map_err(|code| if code == errors::SERVICE_NO_PORT { NoEndpoint::Unknown } else { NoEndpoint::None })?;
        let (uid, address) = match &path {
            Path::Tunnel(tunnel) => (Arc::clone(&tunnel.endpoint.uid), tunnel.authority.parse().map_err(|_| NoEndpoint::None)?),
            Path::Plain(plain) => (Arc::clone(&plain.endpoint.as_ref().ok_or(NoEndpoint::None)?.uid), plain.address),
        };
        let counted = Counted::begin(&self.thread, Arc::clone(&uid));
        Ok(Endpoint { uid, address, detail: Way { path, _counted: counted } })
    }

    async fn connect(&self, endpoint: &Endpoint<Way>) -> Result<Carrier, ConnectError> {
        let pod = self.pod().ok_or_else(|| failed(errors::POD_LEFT, "the waypoint has left the mesh"))?;
        match &endpoint.detail.path {
            Path::Tunnel(tunnel) => self.tunnel(&pod, tunnel).await,
            Path::Plain(plain) => self.plain(&pod, plain).await,
        }
    }

    fn observe(&self, endpoint: &Endpoint<Way>, outcome: Outcome) {
        let mut load = self.thread.load.borrow_mut();
        match outcome {
            Outcome::Unreachable | Outcome::Lost => load.failed(&endpoint.uid, Instant::now()),
            Outcome::Answered(_) => load.succeeded(&endpoint.uid),
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
