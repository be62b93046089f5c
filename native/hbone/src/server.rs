//! The server's side of a tunnel: handshake, then one handler call per CONNECT.
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use trackbed_tls::{Certified, PeerInfo};

use crate::driver::{Driver, End};
use crate::frozen::{self, Facts, FreezeError, Frozen, ThawError, Thawed};
use crate::h2::{Asked, Connection, Reason, Role};
use crate::leg::Gone;
use crate::limits::Limits;
use crate::link::{self, Handle, Link};
use crate::vigil::Vigil;
use crate::{Timing, TunnelError, TunnelStream, headers};

/// One CONNECT that is well formed and waits for its answer. Dropping it resets the stream.
pub struct Request {
    pub peer: Arc<PeerInfo>,
    pub peer_address: SocketAddr,
    /// As sent, at most `bounds::AUTHORITY_BYTES` long; not otherwise checked.
    pub authority: String,
    pub headers: HeaderMap,
    handle: Handle,
}

impl Request {
    /// Any status but 200, without a body. What the client sent meanwhile is dropped unread.
    pub fn refuse(self, status: u16) {
        let status = Some(status).filter(|status| (300..600).contains(status)).unwrap_or(503);
        let mut core = self.handle.link.borrow_mut();
        core.h2.answer(self.handle.id, status, &[], true);
    }

    /// 200 with the destination's baggage: call it only once the application has accepted.
    pub fn accept(self, baggage: Option<&str>) -> Result<TunnelStream, TunnelError> {
        if let Some(text) = baggage.filter(|text| !headers::is_writable(text)) {
            return Err(TunnelError::Request(format!("baggage {text:?} is not a header value")));
        }
        {
            let core = &mut *self.handle.link.borrow_mut();
            let over = core.over().map(ToString::to_string);
            match core.h2.stream(self.handle.id).map_or(Some(Gone::Lost), |stream| stream.user.gone) {
                None => {}
                Some(Gone::Reset(reason)) => return Err(TunnelError::Lost(format!("the client took its request back: {reason}"))),
                Some(Gone::Lost) => return Err(TunnelError::Lost(over.unwrap_or_default())),
            }
            core.h2.answer(self.handle.id, 200, baggage.map(|text| ("baggage", text.as_bytes())).as_slice(), false);
            core.schedule();
        }
        let baggage = headers::merged(&self.headers, "baggage");
        Ok(TunnelStream { handle: self.handle, peer: self.peer, timing: Timing::default(), baggage, early: 0 })
    }

    /// Returns when the client takes the request back, or is gone: stop working for it.
    pub async fn withdrawn(&mut self) {
        poll_fn(|cx| {
            let mut core = self.handle.link.borrow_mut();
            let Some(stream) = core.h2.stream(self.handle.id) else { return Poll::Ready(()) };
            stream.user.attend(cx);
            if stream.user.gone.is_none() { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("authority", &self.authority).field("peer", &self.peer.identity).finish_non_exhaustive()
    }
}

/// Ends servers from outside: one per pod, cloned into each `serve`.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Rc<Served>);

#[derive(Debug, Default)]
struct Served {
    phase: Cell<Phase>,
    connections: RefCell<Vec<Weak<Connected>>>,
}

/// One connection after its handshake.
#[derive(Debug)]
struct Connected {
    link: Rc<Link>,
    facts: Facts,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    Draining,
    Closed,
}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// GOAWAY: no new streams, those that are open go on to their end.
    pub fn drain(&self) {
        if self.0.phase.get() == Phase::Serving {
            self.0.phase.set(Phase::Draining);
            self.each(|connected| drain(&connected.link));
        }
    }

    /// Everything ends at once.
    pub fn close(&self) {
        self.0.phase.set(Phase::Closed);
        self.each(|connected| close(&connected.link));
    }

    /// Takes every connection out of this process that is past its handshake and not at its end. Requests that are not answered yet are
    /// refused as not looked at: their clients ask again.
    pub fn freeze(&self) -> Vec<Result<Frozen, FreezeError>> {
        let connections: Vec<_> = self.0.connections.borrow().iter().filter_map(Weak::upgrade).collect();
        connections.iter().map(|connected| frozen::freeze(&connected.link, &connected.facts, Instant::now())).collect()
    }

    fn each(&self, act: impl Fn(&Connected)) {
        self.0.connections.borrow().iter().filter_map(Weak::upgrade).for_each(|connected| act(&connected));
    }

    /// From now on this connection obeys, and at once if the order was given while it was made.
    fn watch(&self, connected: &Rc<Connected>) {
        let mut connections = self.0.connections.borrow_mut();
        if connections.len() == connections.capacity() {
            connections.retain(|known| known.strong_count() > 0);
        }
        connections.push(Rc::downgrade(connected));
        match self.0.phase.get() {
            Phase::Serving => {}
            Phase::Draining => drain(&connected.link),
            Phase::Closed => close(&connected.link),
        }
    }

    /// It has ended: even a weak pointer would keep its memory.
    fn forget(&self, connected: &Rc<Connected>) {
        self.0.connections.borrow_mut().retain(|known| !std::ptr::eq(known.as_ptr(), Rc::as_ptr(connected)));
    }
}

fn drain(link: &Link) {
    let mut core = link.borrow_mut();
    core.h2.announce_leave();
    core.schedule();
}

fn close(link: &Link) {
    link.borrow_mut().end("closed by us");
}

/// Serves one accepted connection until it ends. Each CONNECT is given to `handler` in a local task of its own; those tasks live on until
/// their stream ends. Requests that are no proper CONNECT are answered 400 without it.
///
/// The connection is cut when its own or the peer's certificate ends.
pub async fn serve<Io, H, F>(
    io: Io,
    peer_address: SocketAddr,
    ours: &Arc<Certified>,
    limits: Limits,
    shutdown: Shutdown,
    handler: H,
) -> Result<(), TunnelError>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    // Boxed: the handshake's state is large and would otherwise stay in the connection's future.
    let handshake = timeout(limits.handshake, Box::pin(trackbed_tls::accept(io, ours))).await;
    let (stream, peer) =
        handshake.map_err(|_| TunnelError::Timeout { what: "the handshake", milliseconds: millis(limits.handshake) })??;
    let (wire, channel, rest) = stream.into_parts();
    let end = peer.not_after.min(ours.not_after());
    let now = Instant::now();
    let vigil = Vigil::new(Role::Server, &limits, limits.first_connect, end, now);
    let h2 = Connection::new(Role::Server, link::bounds(Role::Server, limits.server_streams), now);
    let link = Rc::new(Link::new(Box::new(wire), channel, rest, h2, vigil));
    let facts = Facts { peer: Arc::new(peer), address: Some(peer_address), handshake: Duration::ZERO, prime: now };
    Resumed(Rc::new(Connected { link, facts })).serve(limits, shutdown, handler).await
}

/// A connection that is ready to be served.
#[derive(Debug)]
pub struct Resumed(Rc<Connected>);

/// Goes on with a connection that [`Shutdown::freeze`] gave, within a local runtime. Streams that are dropped are reset.
pub fn thaw(frozen: Frozen, limits: Limits) -> Result<(Resumed, Vec<Thawed>), ThawError> {
    let (link, facts, streams) = frozen::thaw(frozen, Role::Server, &limits, Instant::now())?;
    Ok((Resumed(Rc::new(Connected { link, facts })), streams))
}

impl Resumed {
    /// As [`serve`] does, to the end of the connection, or until it is frozen (again).
    pub async fn serve<H, F>(self, limits: Limits, shutdown: Shutdown, handler: H) -> Result<(), TunnelError>
    where
        H: Fn(Request) -> F,
        F: Future<Output = ()> + 'static,
    {
        let Self(connected) = self;
        shutdown.watch(&connected);
        let driver = Driver::new(Rc::clone(&connected.link), true);
        let intake = Intake { connected, most: limits.server_streams as usize * 2, running: Rc::default(), handler };
        let end = driver.run(|id, asked| intake.take(id, *asked)).await;
        shutdown.forget(&intake.connected);
        match end {
            End::Orderly | End::Frozen => Ok(()),
            End::Lost(reason) => Err(TunnelError::Lost(reason)),
            End::Mute(patience) => Err(TunnelError::Timeout { what: "the first CONNECT", milliseconds: millis(patience) }),
        }
    }
}

/// Turns what was asked into requests for the handler.
struct Intake<H> {
    connected: Rc<Connected>,
    /// Handlers of one connection that may run at a time. A client that resets what it asked frees the stream at once, but not the
    /// handler that works for it (rapid reset).
    most: usize,
    running: Rc<Cell<usize>>,
    handler: H,
}

impl<H, F> Intake<H>
where
    H: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    fn take(&self, id: u32, asked: Asked) {
        let Connected { link, facts } = &*self.connected;
        let handle = Handle { link: Rc::clone(link), id };
        let (Some(authority), Some(peer_address), true) = (asked.authority, facts.address, self.running.get() < self.most) else {
            return link.borrow_mut().h2.reset(id, Reason::REFUSED_STREAM);
        };
        let running = Running::new(&self.running);
        let peer = Arc::clone(&facts.peer);
        let work = (self.handler)(Request { peer, peer_address, authority, headers: asked.headers, handle });
        tokio::task::spawn_local(async move {
            work.await;
            drop(running);
        });
    }
}

/// Counts a handler while it runs, however it ends.
struct Running(Rc<Cell<usize>>);

impl Running {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
