//! The client's side of a tunnel: connect once, then open streams.
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trackbed_contract::Identity;
use trackbed_contract::tables::bounds;
use trackbed_tls::{Certified, PeerInfo};

use crate::driver::{Driver, End};
use crate::early::Early;
use crate::frozen::{self, Facts, FreezeError, Frozen, ThawError, Thawed};
use crate::h2::{Answered, Connection, Reason, Role};
use crate::leg::Gone;
use crate::limits::Limits;
use crate::link::{self, Handle, Link};
use crate::server::millis;
use crate::vigil::Vigil;
use crate::{Timing, TunnelError, TunnelStream, headers};

/// What CONNECT says. Make the texts with [`crate::headers`].
#[derive(Debug, Clone, Default)]
pub struct ConnectRequest {
    /// `host:port`, IPv6 in brackets.
    pub authority: String,
    pub baggage: Option<String>,
    pub forwarded: Option<String>,
    pub traceparent: Option<String>,
}

/// One TLS connection with its driver task. Cheap to clone; the connection closes when the last clone and the last stream are gone,
/// and at the latest when one of the two certificates ends.
#[derive(Debug, Clone)]
pub struct Tunnel(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Rc<Link>,
    facts: Facts,
    limits: Limits,
}

/// A stream that was asked for, until its answer comes. Dropping it resets the stream.
#[derive(Debug)]
pub struct Asking {
    pub(crate) handle: Handle,
    pub(crate) peer: Arc<PeerInfo>,
    /// Bytes at the front of the client's socket that the peer was told already.
    pub(crate) early: usize,
    pub(crate) limit: Duration,
}

impl Asking {
    /// The answer to what was asked before the tunnel was frozen.
    pub async fn answered(self) -> Result<TunnelStream, TunnelError> {
        let early = Early::told(self.early);
        self.wait(early).await
    }

    async fn wait(self, mut early: Early<'_>) -> Result<TunnelStream, TunnelError> {
        let Self { handle, peer, limit, .. } = self;
        let answer = timeout(limit, poll_fn(|cx| poll_answer(&handle, &mut early, cx))).await;
        let answer = answer.unwrap_or_else(|_| Err(TunnelError::Timeout { what: "the answer to CONNECT", milliseconds: millis(limit) }));
        let answered = answer.map_err(|error| early.judge(error))?;
        if answered.status != 200 {
            return Err(TunnelError::Refused { status: answered.status });
        }
        let baggage = headers::merged(&answered.headers, "baggage");
        Ok(TunnelStream { handle, peer, timing: Timing::default(), baggage, early: early.sent() })
    }
}

impl Tunnel {
    /// TLS and HTTP/2 handshakes on a connected socket, within `limits.handshake`.
    pub async fn connect<Io>(io: Io, ours: &Arc<Certified>, expected: &[Identity], limits: Limits) -> Result<Self, TunnelError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let start = Instant::now();
        // Boxed: the handshake's state is large and would otherwise stay in every holder's future.
        let handshake = Box::pin(trackbed_tls::connect(io, ours, expected));
        let too_long = || TunnelError::Timeout { what: "the handshake", milliseconds: millis(limits.handshake) };
        let (stream, peer) = timeout(limits.handshake, handshake).await.map_err(|_| too_long())??;
        let (wire, channel, rest) = stream.into_parts();
        let end = peer.not_after.min(ours.not_after());
        let now = Instant::now();
        let left = limits.handshake.saturating_sub(now.duration_since(start));
        let vigil = Vigil::new(Role::Client, &limits, left, end, now);
        let h2 = Connection::new(Role::Client, link::bounds(Role::Client, 0), now);
        let link = Rc::new(Link::new(Box::new(wire), channel, rest, h2, vigil));
        let prime = now + end.duration_since(SystemTime::now()).unwrap_or_default() / 2;
        let facts = Facts { peer: Arc::new(peer), address: None, handshake: start.elapsed(), prime };
        Ok(Self::drive(link, facts, limits))
    }

    /// CONNECT, within `limits.connect_answer`. Any status but 200 is `TunnelError::Refused`.
    pub async fn open(&self, request: &ConnectRequest) -> Result<TunnelStream, TunnelError> {
        self.open_for(request, None).await
    }

    /// The same for this client: what it has said already goes along, and stays in its socket until the pump has it.
    pub async fn open_for(&self, request: &ConnectRequest, client: Option<&TcpStream>) -> Result<TunnelStream, TunnelError> {
        let asking =
            Asking { handle: self.ask(request)?, peer: Arc::clone(&self.0.facts.peer), early: 0, limit: self.0.limits.connect_answer };
        asking.wait(Early::new(client)).await
    }

    /// Takes the tunnel out of this process, with every stream in it: a successor goes on with it. Whoever still uses it here is told.
    pub fn freeze(&self) -> Result<Frozen, FreezeError> {
        frozen::freeze(&self.0.link, &self.0.facts, Instant::now())
    }

    /// Goes on with a tunnel, within a local runtime. Streams that are dropped are reset.
    pub fn thaw(frozen: Frozen, limits: Limits) -> Result<(Self, Vec<Thawed>), ThawError> {
        let (link, facts, streams) = frozen::thaw(frozen, Role::Client, &limits, Instant::now())?;
        Ok((Self::drive(link, facts, limits), streams))
    }

    fn drive(link: Rc<Link>, facts: Facts, limits: Limits) -> Self {
        let driver = Driver::new(Rc::clone(&link), false);
        tokio::task::spawn_local(async move {
            match driver.run(|_, _| {}).await {
                End::Orderly => tracing::debug!("tunnel ended"),
                End::Lost(reason) => tracing::debug!(reason, "tunnel ended"),
                End::Mute(patience) => tracing::debug!(milliseconds = millis(patience), "tunnel ended: no HTTP/2 from the peer"),
                End::Frozen => tracing::debug!("tunnel goes on in a successor"),
            }
        });
        Self(Rc::new(Inner { link, facts, limits }))
    }

    pub fn peer(&self) -> &Arc<PeerInfo> {
        &self.0.facts.peer
    }

    /// How long TLS and HTTP/2 took to set up.
    pub fn handshake_time(&self) -> Duration {
        self.0.facts.handshake
    }

    /// It can take another stream now: not closing, below the limits of both sides, and without a stream that needs it for itself.
    pub fn has_room(&self) -> bool {
        let core = self.0.link.borrow();
        let most = core.h2.most_streams().map_or(usize::MAX, |most| most as usize).min(self.0.limits.client_streams);
        core.h2.live() < most && core.is_open() && !core.is_taken()
    }

    /// New streams are possible in principle: no GOAWAY, no error.
    pub fn is_open(&self) -> bool {
        self.0.link.borrow().is_open()
    }

    /// Half of its life is over: a certificate ends it, and cuts what is in it, so that whoever begins now is better off in a younger one.
    pub(crate) fn is_old(&self) -> bool {
        Instant::now() >= self.0.facts.prime
    }

    /// Streams open or being opened.
    pub fn streams(&self) -> usize {
        self.0.link.borrow().h2.live()
    }

    /// For how long there was no stream.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let core = self.0.link.borrow();
        core.idle_since().filter(|_| core.h2.live() == 0).map(|since| since.elapsed())
    }

    /// Ends the connection and every stream in it at once.
    pub fn close(&self) {
        self.0.link.borrow_mut().end("closed by us");
    }

    /// Until the request is handed over nothing was sent, so every failure may be repeated elsewhere.
    fn ask(&self, request: &ConnectRequest) -> Result<Handle, TunnelError> {
        check(request)?;
        let texts = [("baggage", &request.baggage), ("forwarded", &request.forwarded), ("traceparent", &request.traceparent)];
        let texts = texts.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?.as_bytes())));
        let link = Rc::clone(&self.0.link);
        let id = {
            let core = &mut *link.borrow_mut();
            if let Some(reason) = core.over() {
                return Err(TunnelError::NotTaken(reason.to_string()));
            }
            let pseudo = [(":method", &b"CONNECT"[..]), (":authority", request.authority.as_bytes())];
            let id = core.h2.ask(pseudo.into_iter().chain(texts), Instant::now());
            core.schedule();
            id.ok_or_else(|| TunnelError::NotTaken("the peer takes no more streams in this tunnel".into()))?
        };
        Ok(Handle { link, id })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut core = self.link.borrow_mut();
        core.retired = true;
        core.schedule();
    }
}

fn poll_answer(handle: &Handle, early: &mut Early<'_>, cx: &mut Context<'_>) -> Poll<Result<Box<Answered>, TunnelError>> {
    let mut core = handle.link.borrow_mut();
    let over = core.over().map(ToString::to_string);
    let frozen = core.is_frozen();
    let Some(stream) = core.h2.stream(handle.id).filter(|_| !frozen) else { return Poll::Ready(Err(TunnelError::Frozen(handle.id))) };
    let leg = &mut stream.user;
    if let Some(answered) = leg.answer.take() {
        return Poll::Ready(Ok(answered));
    }
    match leg.gone {
        Some(Gone::Reset(Reason::REFUSED_STREAM)) => Poll::Ready(Err(TunnelError::NotTaken("it was refused".into()))),
        Some(Gone::Reset(reason)) => Poll::Ready(Err(TunnelError::Lost(format!("the stream was reset: {reason}")))),
        Some(Gone::Lost) => Poll::Ready(Err(TunnelError::Lost(over.unwrap_or_default()))),
        None => {
            leg.attend(cx);
            early.poll(cx, &mut core, handle.id);
            Poll::Pending
        }
    }
}

/// What cannot be written is refused before anything of it is sent.
fn check(request: &ConnectRequest) -> Result<(), TunnelError> {
    let bad = |what: &str| TunnelError::Request(format!("{what} of CONNECT to {:?} is not valid", request.authority));
    let authority = request.authority.parse::<Authority>().map_err(|_| bad(":authority"))?;
    if authority.port().is_none() || request.authority.len() > bounds::AUTHORITY_BYTES as usize {
        return Err(bad(":authority"));
    }
    for (name, text) in [("baggage", &request.baggage), ("forwarded", &request.forwarded), ("traceparent", &request.traceparent)] {
        if text.as_ref().is_some_and(|text| !headers::is_writable(text)) {
            return Err(bad(name));
        }
    }
    Ok(())
}
