//! What a pod's applications send: one captured connection from accept to its end, by relay, tunnel or in plain.
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use trackbed_contract::engine::{Direction, Path};
use trackbed_contract::tables::errors;
use trackbed_decide::{Chooser, Outbound, Plain, Refusal, Tunnel, outbound, recheck_outbound};
use trackbed_hbone::headers::{Forwarded, TraceParent};
use trackbed_hbone::{ConnectRequest, Target, TunnelError, TunnelStream, pump};
use trackbed_netns::socket::{self, Peer};

use super::hold::{self, Ready, hold_for, missing};
use super::live::{Facts, Registered};
use super::station::Station;
use super::{Thread, dial};
use crate::report::account::Account;
use crate::worker::shared::Pod;

/// Endpoints tried for one connection before the application is told: the first and two others.
const ATTEMPTS: usize = 3;

/// One captured connection: who, whither, by which pod.
pub(super) struct Captured {
    pub(super) pod: Arc<Pod>,
    pub(super) client: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) account: Account,
}

/// Why an attempt did not lead to a connection.
pub(super) struct Failed {
    pub(super) refusal: Refusal,
    pub(super) next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The endpoint is at fault, and another one may do better.
    Another,
    /// The endpoint is at fault, but its application may have heard the client: nobody else may be told the same.
    Avoid,
    /// Every endpoint would say so.
    Tell,
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, next: Next::Tell }
    }
}

/// Where the bytes go.
enum Carrier {
    Tunnel(TunnelStream),
    Socket(TcpStream),
}

impl Thread {
    pub(super) async fn outbound(self: Rc<Self>, station: Rc<Station>, client: TcpStream, from: SocketAddr) {
        let Ok(destination) = socket::original_destination(&client, from) else {
            // Nothing redirected it: it was made straight to the listener.
            return pump::reset(client);
        };
        if super::proof::is_proof(destination) {
            return self.proofs.receive(client).await;
        }
        pump::guard(&client);
        let pod = station.pod();
        let account = Account::new(&self.ledger, Direction::Outbound, &pod);
        let mut captured = Captured { pod, client: from, destination, account };
        captured.account.source(from, None, None);
        captured.account.destination(destination, None, None);
        let mut client = Client(Some(client));
        if let Err(refusal) = self.carry(&station, &mut captured, &mut client).await {
            client.reset();
            captured.account.refused(&refusal);
        }
    }

    /// Carries the connection to its end. The error is that of a connection that was never opened.
    async fn carry(self: &Rc<Self>, station: &Station, captured: &mut Captured, client: &mut Client) -> Result<(), Refusal> {
        let mut failed: Vec<Arc<str>> = Vec::new();
        let mut first: Option<Refusal> = None;
        loop {
            let source = captured.client.ip();
            let ready = hold_for(&self.shared, || self.published(station), |pod| sends_from(pod, source)).await?;
            captured.pod = self.published(station);
            captured.account.source(captured.client, Some(&ready.local.workload), Some(ready.local.identity()));
            let decision = self.choose(&ready, captured, &failed);
            if let (Outbound::Refuse(_), Some(first)) = (&decision, &first) {
                // No other endpoint is left: what went wrong with the first says more.
                return Err(first.clone());
            }
            let endpoint = name_ends(captured, &decision);
            let Err(error) = self.attempt(ready, captured, decision, client).await else { return Ok(()) };
            let Some(uid) = endpoint.filter(|_| error.next != Next::Tell) else { return Err(error.refusal) };
            self.load.borrow_mut().failed(&uid, Instant::now());
            failed.push(uid);
            if error.next == Next::Avoid || failed.len() == ATTEMPTS {
                return Err(error.refusal);
            }
            first.get_or_insert(error.refusal);
        }
    }

    /// The pod as the control thread has it now: its word to the station may still be under way when the bell rings.
    pub(super) fn published(&self, station: &Station) -> Arc<Pod> {
        let pod = station.pod();
        let published = self.shared.pods.load().get(&pod.local.uid).filter(|published| published.cookie == pod.cookie).cloned();
        published.unwrap_or(pod)
    }

    fn choose(&self, ready: &Ready, captured: &Captured, failed: &[Arc<str>]) -> Outbound {
        let Some(world) = ready.world() else {
            return Outbound::Refuse(missing(errors::WORKLOAD_UNKNOWN, "the director has said nothing yet".into()));
        };
        let load = self.load.borrow();
        let mut rng = fastrand::Rng::new();
        let mut chooser = Chooser { rng: &mut rng, load: &load, now: Instant::now(), exclude: failed };
        outbound(world, &captured.pod.local, captured.destination, &mut chooser)
    }

    /// Whoever takes `ready` lets go of it before bytes move: it holds a whole snapshot of the mesh.
    async fn attempt(
        self: &Rc<Self>,
        ready: Ready,
        captured: &mut Captured,
        decision: Outbound,
        client: &mut Client,
    ) -> Result<(), Failed> {
        match decision {
            Outbound::Refuse(refusal) => Err(refusal.into()),
            Outbound::Plain(plain) => {
                drop(ready);
                self.plain(captured, plain, client).await
            }
            Outbound::Tunnel(tunnel) => self.tunnel(ready, captured, tunnel, client).await,
            Outbound::Relay(relay) => {
                if let Some(destination) = self.relay_destination(captured, &relay).await {
                    self.relay(ready, captured, relay, &destination, client).await
                } else {
                    drop(ready);
                    // The probe may have taken a second, in which nothing was registered to be decided again.
                    let ready = hold::ready(&self.shared, &captured.pod)?;
                    let world =
                        ready.world().ok_or_else(|| missing(errors::WORKLOAD_UNKNOWN, "the director has said nothing yet".into()))?;
                    recheck_outbound(world, &captured.pod.local, &relay.tunnel.standing())?;
                    self.tunnel(ready, captured, relay.tunnel, client).await
                }
            }
        }
    }

    async fn plain(self: &Rc<Self>, captured: &mut Captured, plain: Plain, client: &mut Client) -> Result<(), Failed> {
        captured.account.path(Path::Plain);
        let address = plain.address;
        let endpoint = plain.endpoint.as_ref().map(|endpoint| Arc::clone(&endpoint.uid));
        let registered = self.register(&captured.pod, Facts::Outbound(plain.standing()));
        let started = Instant::now();
        let dialled = registered.unless_cut(dial(&captured.pod, captured.client.ip(), address, Peer::Network)).await?;
        let server = dialled.map_err(|error| upstream_failed(address, &error))?;
        captured.account.timing(started.elapsed(), Duration::ZERO);
        self.pump(captured, registered, client, Carrier::Socket(server), endpoint)
    }

    async fn tunnel(self: &Rc<Self>, ready: Ready, captured: &mut Captured, tunnel: Tunnel, client: &mut Client) -> Result<(), Failed> {
        captured.account.path(Path::Tunnel);
        let (target, request) = (target(&ready, captured, &tunnel), self.request(captured, &tunnel));
        drop(ready);
        let endpoint = Arc::clone(&tunnel.endpoint);
        let registered = self.register(&captured.pod, Facts::Outbound(tunnel.standing()));
        let opened = registered.unless_cut(self.pool.open_for(&target, &request, client.0.as_ref())).await?;
        let stream = opened.map_err(|error| tunnel_failed(target.destination, &error))?;
        let (peer, timing) = (Arc::clone(stream.peer()), stream.timing());
        captured.account.peer(&peer);
        captured.account.timing(timing.connect, timing.handshake);
        captured.account.destination(captured.destination, Some(&endpoint), Some(&peer.identity));
        self.pump(captured, registered, client, Carrier::Tunnel(stream), Some(Arc::clone(&endpoint.uid)))
    }

    fn request(&self, captured: &Captured, tunnel: &Tunnel) -> ConnectRequest {
        let host = tunnel.service.as_ref().map(|service| service.hostname.to_string());
        ConnectRequest {
            authority: tunnel.authority.clone(),
            baggage: Some(self.introductions.of(&tunnel.source).to_string()),
            forwarded: Some(Forwarded { source: captured.client, host }.to_string()),
            traceparent: Some(TraceParent::random().to_string()),
        }
    }

    /// Starts to move bytes.
    fn pump(
        self: &Rc<Self>,
        captured: &mut Captured,
        registered: Registered,
        client: &mut Client,
        carrier: Carrier,
        endpoint: Option<Arc<str>>,
    ) -> Result<(), Failed> {
        let client = client.take()?;
        let counted = endpoint.map(|uid| Counted::open(self, uid));
        registered.opened(captured.account.take(), None);
        match carrier {
            Carrier::Tunnel(stream) => registered.carry(|meter| pump::outbound(client, stream, meter), counted),
            Carrier::Socket(server) => registered.carry(|meter| pump::relay(client, server, meter), counted),
        }
        Ok(())
    }
}

/// The client's socket until a pump takes it: an attempt that fails leaves it for the next one.
pub(super) struct Client(Option<TcpStream>);

impl Client {
    /// Once: nothing that carries can fail and be tried again afterwards.
    pub(super) fn take(&mut self) -> Result<TcpStream, Refusal> {
        self.0.take().ok_or_else(|| missing(errors::ENGINE_LIMIT, "the connection is already carried".into()))
    }

    fn reset(&mut self) {
        if let Some(client) = self.0.take() {
            pump::reset(client);
        }
    }
}

/// An open stream in the endpoint's load, taken back when it ends.
pub(super) struct Counted {
    thread: Rc<Thread>,
    uid: Arc<str>,
}

impl Counted {
    pub(super) fn open(thread: &Rc<Thread>, uid: Arc<str>) -> Self {
        let mut load = thread.load.borrow_mut();
        load.succeeded(&uid);
        load.opened(&uid);
        drop(load);
        Self { thread: Rc::clone(thread), uid }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.thread.load.borrow_mut().closed(&self.uid);
    }
}

/// An address may be in use before the engine knows of it: the director names it later, or duplicate address detection has just ended.
fn sends_from(pod: &Pod, source: IpAddr) -> Result<(), Refusal> {
    if pod.local.addresses.contains(&source) {
        Ok(())
    } else {
        Err(missing(errors::WORKLOAD_UNKNOWN, format!("source address {source} is none of the pod's")))
    }
}

/// Puts the decided ends into the account; the endpoint's uid for retries.
fn name_ends(captured: &mut Captured, decision: &Outbound) -> Option<Arc<str>> {
    let (endpoint, service) = match decision {
        Outbound::Relay(relay) => (Some(&relay.tunnel.endpoint), relay.tunnel.service.as_ref()),
        Outbound::Tunnel(tunnel) => (Some(&tunnel.endpoint), tunnel.service.as_ref()),
        Outbound::Plain(plain) => (plain.endpoint.as_ref(), plain.service.as_ref()),
        Outbound::Refuse(_) => return None,
    };
    captured.account.destination(captured.destination, endpoint, None);
    captured.account.service(service);
    endpoint.map(|endpoint| Arc::clone(&endpoint.uid))
}

fn target(ready: &Ready, captured: &Captured, tunnel: &Tunnel) -> Target {
    Target {
        source_uid: Arc::clone(&captured.pod.local.uid),
        source_address: captured.client.ip(),
        certified: Arc::clone(&ready.certified),
        expected: tunnel.accept.clone(),
        destination: tunnel.dial,
    }
}

/// Nothing was sent yet, so another endpoint may be tried after any of these.
pub(super) fn upstream_failed(address: SocketAddr, error: &std::io::Error) -> Failed {
    let code = if error.kind() == std::io::ErrorKind::TimedOut { errors::UPSTREAM_TIMEOUT } else { errors::UPSTREAM_REFUSED };
    Failed { refusal: missing(code, format!("{address}: {error}")), next: Next::Another }
}

fn tunnel_failed(dial: SocketAddr, error: &TunnelError) -> Failed {
    let next = match error {
        // 400 and 401 are answers about this connection, which every endpoint would give.
        TunnelError::Refused { status } if *status != 503 => Next::Tell,
        TunnelError::Request(_) => Next::Tell,
        error if error.before_application() => Next::Another,
        _ => Next::Avoid,
    };
    Failed { refusal: missing(error.code(), format!("{dial}: {error}")), next }
}
