//! Which tunnel a new stream goes into: one dial per key at a time, shared streams up to a limit, never across pods.
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use trackbed_contract::Identity;
use trackbed_tls::Certified;

use crate::limits::Limits;
use crate::scratch;
use crate::server::millis;
use crate::{ConnectRequest, Timing, Tunnel, TunnelError, TunnelStream};

/// Whose tunnel to whom. Two targets share a tunnel only if all of it is equal, the certificate's generation included.
#[derive(Debug, Clone)]
pub struct Target {
    pub source_uid: Arc<str>,
    /// Address the tunnel's socket is bound to, inside the pod's network namespace.
    pub source_address: IpAddr,
    /// The source pod's identity.
    pub certified: Arc<Certified>,
    /// The server must be one of these; order does not matter.
    pub expected: Vec<Identity>,
    /// HBONE address of the destination (pod address and its HBONE port).
    pub destination: SocketAddr,
}

/// Makes the socket of a tunnel, inside the source pod's network namespace.
pub trait Connector: 'static {
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;
    fn connect(&self, target: &Target) -> impl Future<Output = io::Result<Self::Io>>;
}

/// The tunnels of one worker; clones are the same pool. Tunnels without a stream for `limits.idle` are closed; the rest ends with its
/// certificates, after it has left new streams to a successor for half of its life. No borrow of the table is ever held across an await.
#[derive(Debug)]
pub struct Pool<C>(Rc<Inner<C>>);

#[derive(Debug)]
struct Inner<C> {
    connector: C,
    limits: Limits,
    places: RefCell<HashMap<Key, Place>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    source_uid: Arc<str>,
    source_address: IpAddr,
    source: Identity,
    generation: u64,
    /// Sorted, no doubles.
    expected: Vec<Identity>,
    destination: SocketAddr,
}

/// A caller whose own dials gave no room this often (to a peer that allows no streams, or behind a crowd) gives up.
const OWN_DIALS: usize = 3;

/// Time between two looks at what is idle.
const SWEEP: Duration = Duration::from_secs(1);
/// An idle tunnel beside another one of its key is closed after this time: longer than a crowd pauses, short for the memory that it holds.
const SPARE_IDLE: Duration = Duration::from_secs(3);

/// A pair that opened so many streams within `HOT_TIME` is hot: somebody will want its next tunnel within seconds.
const HOT: u32 = 10;
const HOT_TIME: Duration = Duration::from_mins(1);

/// Everything there is for one key.
#[derive(Debug, Default)]
struct Place {
    /// The newest first.
    tunnels: Vec<Pooled>,
    dial: Option<Dial>,
    uses: Uses,
}

/// Streams that were asked for since some time within the last minute or two.
#[derive(Debug, Default)]
struct Uses {
    since: Option<Instant>,
    count: u32,
}

#[derive(Debug, Clone)]
struct Pooled {
    tunnel: Tunnel,
    made: Instant,
    connect: Duration,
}

/// A dial under way. Whoever wants a tunnel meanwhile waits for its result.
#[derive(Debug)]
struct Dial {
    result: watch::Receiver<Option<Result<(), TunnelError>>>,
    task: AbortHandle,
}

impl<C> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<C: Connector> Pool<C> {
    /// Inside a local runtime: starts the task that closes idle tunnels.
    pub fn new(connector: C, limits: Limits) -> Self {
        let inner = Rc::new(Inner { connector, limits, places: RefCell::default() });
        tokio::task::spawn_local(sweep(Rc::downgrade(&inner), limits.idle));
        Self(inner)
    }

    /// A stream to `target`, in a tunnel with room or in a new one. A stream that the peer did not take (REFUSED_STREAM, GOAWAY), or that
    /// found its pooled tunnel dead, is tried once more in a tunnel made since.
    pub async fn open(&self, target: &Target, request: &ConnectRequest) -> Result<TunnelStream, TunnelError> {
        self.open_for(target, request, None).await
    }

    /// The same for this client; see [`Tunnel::open_for`].
    pub async fn open_for(
        &self,
        target: &Target,
        request: &ConnectRequest,
        client: Option<&TcpStream>,
    ) -> Result<TunnelStream, TunnelError> {
        let key = Key::of(target);
        let start = Instant::now();
        let (pooled, first) = self.tunnel(&key, target, None).await?;
        let error = match pooled.tunnel.open_for(request, client).await {
            Ok(stream) => return Ok(timed(stream, &pooled, first)),
            Err(error) => error,
        };
        let stale = pooled.made < start && matches!(error, TunnelError::Lost(_));
        if !stale && !matches!(error, TunnelError::NotTaken(_)) {
            return Err(error);
        }
        tracing::debug!(%error, destination = %target.destination, "stream is tried again in a fresh tunnel");
        let (pooled, first) = self.tunnel(&key, target, Some(pooled.made)).await?;
        Ok(timed(pooled.tunnel.open_for(request, client).await?, &pooled, first))
    }

    /// The address belongs to another workload now, or to none: its tunnels end at once, dials under way included.
    pub fn evict(&self, destination: IpAddr) {
        self.evict_where(|key| key.destination.ip() == destination);
    }

    /// The source pod is gone.
    pub fn evict_pod(&self, uid: &str) {
        self.evict_where(|key| &*key.source_uid == uid);
    }

    /// Certificates were renewed: pairs that are hot get a tunnel with the new one before somebody waits for it. One after the other: each
    /// handshake takes its time from the streams of this thread.
    pub fn renew(&self, current: impl Fn(&Identity) -> Option<Arc<Certified>>) {
        let now = Instant::now();
        let renewed = |key: &Key| current(&key.source).filter(|certified| certified.generation() != key.generation);
        let due: Vec<_> = {
            let places = self.0.places.borrow();
            let hot = places.iter().filter(|(_, place)| place.uses.is_hot(now));
            hot.filter_map(|(key, _)| Some((key.clone(), key.target(renewed(key)?)))).collect()
        };
        if due.is_empty() {
            return;
        }
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            for (before, target) in due {
                let next = Key::of(&target);
                let is_wanted = {
                    let places = pool.0.places.borrow();
                    places.contains_key(&before) && !places.contains_key(&next)
                };
                if is_wanted {
                    // One that fails is made again for whoever needs it.
                    let _ = pool.dial(&next, &target).0.wait_for(Option::is_some).await;
                }
            }
        });
    }

    /// Open tunnels, for the gauge.
    pub fn tunnels(&self) -> usize {
        self.0.places.borrow().values().map(|place| place.tunnels.iter().filter(|pooled| pooled.tunnel.is_open()).count()).sum()
    }

    /// Ends everything.
    pub fn close(&self) {
        self.evict_where(|_| true);
    }

    /// A tunnel with room, made after `newer_than`; true if it was made for this caller.
    async fn tunnel(&self, key: &Key, target: &Target, newer_than: Option<Instant>) -> Result<(Pooled, bool), TunnelError> {
        let (mut dialled, mut own_dials) = (false, 0);
        if let Some(place) = self.0.places.borrow_mut().get_mut(key) {
            place.uses.note(Instant::now());
        }
        loop {
            if let Some(pooled) = self.with_room(key, newer_than) {
                if pooled.tunnel.is_old() {
                    // Nobody waits for its successor.
                    self.dial(key, target);
                }
                return Ok((pooled, dialled));
            }
            if own_dials == OWN_DIALS {
                return Err(TunnelError::NotTaken("no room in any tunnel to this peer".into()));
            }
            let (mut result, ours) = self.dial(key, target);
            dialled = ours;
            own_dials += usize::from(ours);
            let outcome = result.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
            // The sender goes without a word only when the dial was evicted.
            outcome.ok().flatten().unwrap_or_else(|| Err(evicted()))?;
        }
    }

    fn with_room(&self, key: &Key, newer_than: Option<Instant>) -> Option<Pooled> {
        let places = self.0.places.borrow();
        let mut tunnels = places.get(key)?.tunnels.iter();
        tunnels.find(|pooled| newer_than.is_none_or(|time| pooled.made > time) && pooled.tunnel.has_room()).cloned()
    }

    /// Joins the dial of this key, or starts it (then true). It runs in a task of its own: a caller that gives up takes nobody along.
    fn dial(&self, key: &Key, target: &Target) -> (watch::Receiver<Option<Result<(), TunnelError>>>, bool) {
        let mut places = self.0.places.borrow_mut();
        let place = places.entry(key.clone()).or_default();
        // A dial whose task died without a result would otherwise be joined for ever.
        if let Some(dial) = place.dial.as_ref().filter(|dial| dial.result.has_changed().is_ok()) {
            return (dial.result.clone(), false);
        }
        let (sender, result) = watch::channel(None);
        let task = tokio::task::spawn_local(dial(Rc::clone(&self.0), key.clone(), target.clone(), sender));
        place.dial = Some(Dial { result: result.clone(), task: task.abort_handle() });
        (result, true)
    }

    fn evict_where(&self, condemned: impl Fn(&Key) -> bool) {
        let gone: Vec<_> = self.0.places.borrow_mut().extract_if(|key, _| condemned(key)).collect();
        for (_, place) in gone {
            place.tunnels.iter().for_each(|pooled| pooled.tunnel.close());
            if let Some(dial) = place.dial {
                dial.task.abort();
            }
        }
    }
}

async fn dial<C: Connector>(pool: Rc<Inner<C>>, key: Key, target: Target, sender: watch::Sender<Option<Result<(), TunnelError>>>) {
    let made = connect(&pool, &target).await;
    {
        // An evicted dial was aborted at its await above, so the place is still ours.
        let mut places = pool.places.borrow_mut();
        let place = places.entry(key.clone()).or_default();
        place.dial = None;
        place.tunnels.retain(|pooled| pooled.tunnel.is_open());
        match &made {
            Ok(pooled) => place.tunnels.insert(0, pooled.clone()),
            Err(_) if place.tunnels.is_empty() => _ = places.remove(&key),
            Err(_) => {}
        }
    }
    sender.send_replace(Some(made.map(|_| ())));
}

async fn connect<C: Connector>(pool: &Inner<C>, target: &Target) -> Result<Pooled, TunnelError> {
    let (limits, start) = (pool.limits, Instant::now());
    let socket = timeout(limits.connect, pool.connector.connect(target)).await;
    let socket = socket.unwrap_or_else(|_| Err(io::Error::other(format!("no answer within {} ms", millis(limits.connect)))));
    let socket = socket.map_err(|error| TunnelError::Unreachable(format!("{}: {error}", target.destination)))?;
    let connect = start.elapsed();
    let tunnel = Tunnel::connect(socket, &target.certified, &target.expected, limits).await?;
    Ok(Pooled { tunnel, made: Instant::now(), connect })
}

/// Closes what was idle for too long, forgets what ended, and gives back what only a crowd needed. Ends with the pool.
async fn sweep<C>(pool: Weak<Inner<C>>, idle: Duration) {
    loop {
        // A tenth: idle tunnels live at most 10 % longer than they should.
        sleep((idle / 10).clamp(Duration::from_millis(10), SWEEP)).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.places.borrow_mut().retain(|_, place| {
            place.tunnels.retain(|Pooled { tunnel, .. }| tunnel.is_open() && tunnel.idle().is_none_or(|time| time < idle));
            place.close_spares(idle.min(SPARE_IDLE));
            !place.tunnels.is_empty() || place.dial.is_some()
        });
        scratch::settle();
    }
}

impl Place {
    /// One idle tunnel is for whoever comes next; those beside it were made for a crowd.
    fn close_spares(&mut self, idle: Duration) {
        let mut kept = false;
        self.tunnels.retain(|Pooled { tunnel, .. }| tunnel.idle().is_none_or(|time| !std::mem::replace(&mut kept, true) || time < idle));
    }
}

impl Key {
    fn of(target: &Target) -> Self {
        let mut expected = target.expected.clone();
        expected.sort_unstable();
        expected.dedup();
        Self {
            source_uid: Arc::clone(&target.source_uid),
            source_address: target.source_address,
            source: target.certified.identity().clone(),
            generation: target.certified.generation(),
            expected,
            destination: target.destination,
        }
    }

    fn target(&self, certified: Arc<Certified>) -> Target {
        Target {
            source_uid: Arc::clone(&self.source_uid),
            source_address: self.source_address,
            certified,
            expected: self.expected.clone(),
            destination: self.destination,
        }
    }
}

impl Uses {
    fn note(&mut self, now: Instant) {
        if self.since.is_none_or(|since| now.duration_since(since) > HOT_TIME) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count = self.count.saturating_add(1);
    }

    fn is_hot(&self, now: Instant) -> bool {
        self.count >= HOT && self.since.is_some_and(|since| now.duration_since(since) <= 2 * HOT_TIME)
    }
}

/// Set-up time counts for the stream that caused it.
fn timed(mut stream: TunnelStream, pooled: &Pooled, first: bool) -> TunnelStream {
    if first {
        stream.timing = Timing { connect: pooled.connect, handshake: pooled.tunnel.handshake_time() };
    }
    stream
}

fn evicted() -> TunnelError {
    TunnelError::Lost("the tunnel's source or destination left while it was made".into())
}
