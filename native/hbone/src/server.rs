//! The server's side of a tunnel: handshake, then one handler call per CONNECT.
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use trackbed_contract::tables::bounds;
use trackbed_tls::{Certified, PeerInfo};

use crate::client::millis;
use crate::limits::{self, Limits};
use crate::linger::Held;
use crate::stream::Chunk;
use crate::{Timing, TunnelError, TunnelStream, alive, headers};

/// One CONNECT that is well formed and waits for its answer. Dropping it resets the stream.
pub struct Request {
    pub peer: Rc<PeerInfo>,
    pub peer_address: SocketAddr,
    /// As sent, at most `bounds::AUTHORITY_BYTES` long; not otherwise checked.
    pub authority: String,
    pub headers: HeaderMap,
    respond: SendResponse<Chunk>,
    body: RecvStream,
}

impl Request {
    /// Any status but 200, without a body. What the client sent meanwhile is dropped unread.
    pub fn refuse(mut self, status: u16) {
        let status = StatusCode::from_u16(status).ok().filter(|status| *status != StatusCode::OK);
        answer(&mut self.respond, status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
    }

    /// 200 with the destination's baggage: call it only once the application has accepted.
    pub fn accept(mut self, baggage: Option<&str>) -> Result<TunnelStream, TunnelError> {
        let mut response = Response::new(());
        if let Some(text) = baggage {
            let value = HeaderValue::from_str(text).map_err(|_| TunnelError::Request(format!("baggage {text:?} is not a header value")))?;
            response.headers_mut().insert("baggage", value);
        }
        let send = self.respond.send_response(response, false).map_err(|error| TunnelError::Lost(error.to_string()))?;
        let baggage = headers::merged(&self.headers, "baggage");
        Ok(TunnelStream { send, recv: self.body, peer: self.peer, timing: Timing::default(), baggage, _slot: None })
    }

    /// Returns when the client takes the request back, or is gone: stop working for it.
    pub async fn withdrawn(&mut self) {
        let _ = poll_fn(|cx| self.respond.poll_reset(cx)).await; // reset or error, both are the end
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("authority", &self.authority).field("peer", &self.peer.identity).finish_non_exhaustive()
    }
}

/// Ends servers from outside: one per pod, cloned into each `serve`.
#[derive(Debug, Clone)]
pub struct Shutdown(Rc<watch::Sender<Phase>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Closed,
}

impl Shutdown {
    pub fn new() -> Self {
        Self(Rc::new(watch::Sender::new(Phase::Serving)))
    }

    /// GOAWAY: no new streams, those that are open go on to their end.
    pub fn drain(&self) {
        self.0.send_if_modified(|phase| *phase == Phase::Serving && std::mem::replace(phase, Phase::Draining) == Phase::Serving);
    }

    /// Everything ends at once.
    pub fn close(&self) {
        self.0.send_replace(Phase::Closed);
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves one accepted connection until it ends. Each CONNECT is given to `handler` in a local task of its own; those tasks live on until
/// their stream ends. Requests that are no proper CONNECT are answered 400 here.
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
    Io: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    // Boxed: the handshake's state is large and would otherwise stay in the connection's future.
    let handshake = Box::pin(async {
        let (stream, peer) = trackbed_tls::accept(io, ours).await?;
        let (inner, outer) = Held::new(stream);
        let connection = builder(&limits).handshake(inner).await.map_err(|error| TunnelError::Handshake(error.to_string()))?;
        Ok::<_, TunnelError>((connection, outer, Rc::new(peer)))
    });
    let (connection, io, peer) = timeout(limits.handshake, handshake)
        .await
        .map_err(|_| TunnelError::Timeout { what: "the handshake", milliseconds: millis(limits.handshake) })??;
    let end = peer.not_after.min(ours.not_after());
    let intake = Intake { peer, peer_address, most: limits.server_streams as usize * 2, running: Rc::default(), handler };
    let ended = tokio::select! {
        result = run(connection, &limits, shutdown, &intake) => result,
        () = alive::until(end) => Err(TunnelError::Lost("a certificate of the tunnel ended".into())),
    };
    if ended.is_ok() {
        io.linger().await;
    }
    ended
}

/// Accepts streams until the connection ends. Returning drops the connection, which ends every stream still in it.
async fn run<Io, H, F>(
    mut connection: Connection<Held<Io>, Chunk>,
    limits: &Limits,
    shutdown: Shutdown,
    intake: &Intake<H>,
) -> Result<(), TunnelError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request) -> F,
    F: Future<Output = ()> + 'static,
{
    let mut phases = shutdown.0.subscribe();
    phases.mark_changed();
    let mut alive = std::pin::pin!(alive::keepalive(connection.ping_pong(), limits, None));
    let mut idle = std::pin::pin!(sleep(limits.first_connect));
    let mut asked = false;
    let (mut excess, most_excess) = (0, limits.server_streams as usize);
    loop {
        tokio::select! {
            biased;
            // The sender cannot go away: `shutdown` holds it.
            _ = phases.changed() => match *phases.borrow_and_update() {
                Phase::Serving => {}
                Phase::Draining => connection.graceful_shutdown(),
                Phase::Closed => return Err(TunnelError::Lost("closed by us".into())),
            },
            reason = &mut alive => return Err(TunnelError::Lost(reason)),
            () = &mut idle, if !asked => {
                return Err(TunnelError::Timeout { what: "the first CONNECT", milliseconds: millis(limits.first_connect) });
            }
            next = connection.accept() => match next {
                None if excess > most_excess => return Err(TunnelError::Lost("the client asked and took back too much".into())),
                None => return Ok(()),
                Some(Err(error)) => return Err(TunnelError::Lost(error.to_string())),
                Some(Ok((request, respond))) => {
                    asked = true;
                    excess += usize::from(!intake.take(request, respond));
                    if excess > most_excess {
                        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    }
                }
            },
        }
    }
}

/// Turns what h2 accepted into requests, or answers at once.
struct Intake<H> {
    peer: Rc<PeerInfo>,
    peer_address: SocketAddr,
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
    /// False when the request was turned away because too many handlers run.
    fn take(&self, request: http::Request<RecvStream>, mut respond: SendResponse<Chunk>) -> bool {
        if self.running.get() >= self.most {
            respond.send_reset(Reason::REFUSED_STREAM);
            return false;
        }
        let Some(authority) = authority(&request) else {
            answer(&mut respond, StatusCode::BAD_REQUEST);
            return true;
        };
        let (parts, body) = request.into_parts();
        let (peer, peer_address) = (Rc::clone(&self.peer), self.peer_address);
        let running = Running::new(&self.running);
        let work = (self.handler)(Request { peer, peer_address, authority, headers: parts.headers, respond, body });
        tokio::task::spawn_local(async move {
            work.await;
            drop(running);
        });
        true
    }
}

/// The authority of a proper CONNECT. h2 itself resets streams whose pseudo headers contradict each other (`:path` or `:scheme` in CONNECT).
fn authority(request: &http::Request<RecvStream>) -> Option<String> {
    let proper = request.method() == Method::CONNECT
        && request.uri().scheme().is_none()
        && request.uri().path_and_query().is_none()
        && request.extensions().get::<h2::ext::Protocol>().is_none();
    let authority = request.uri().authority().filter(|_| proper)?.as_str();
    (authority.len() <= bounds::AUTHORITY_BYTES as usize && !authority.contains('@')).then(|| authority.into())
}

fn answer(respond: &mut SendResponse<Chunk>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, "the client was gone before its answer");
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

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::FRAME_BYTES)
        .max_header_list_size(limits::SERVER_HEADER_LIST)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_concurrent_streams(limits.server_streams)
        .max_concurrent_reset_streams(limits::RESET_STREAMS)
        .max_pending_accept_reset_streams(limits::RESET_STREAMS)
        .max_local_error_reset_streams(Some(limits::LOCAL_ERROR_RESETS));
    builder
}
