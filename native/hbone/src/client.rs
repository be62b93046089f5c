//! The client's side of a tunnel: connect once, then open streams.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};

use h2::client::{Builder, Connection, SendRequest};
use h2::{Error, Reason};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::timeout;
use trackbed_contract::Identity;
use trackbed_contract::tables::bounds;
use trackbed_tls::{Certified, PeerInfo};

use crate::limits::{self, Limits};
use crate::linger::Held;
use crate::stream::Chunk;
use crate::{Timing, TunnelError, TunnelStream, alive, headers};

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
    sender: SendRequest<Chunk>,
    peer: Rc<PeerInfo>,
    handshake: Duration,
    limits: Limits,
    state: Rc<State>,
}

/// What the driver, the tunnel's holders and its streams share. The driver must not hold `Inner`: h2 ends an orderly connection when the
/// last sender is gone.
#[derive(Debug)]
struct State {
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    /// Why the connection is over.
    over: RefCell<Option<String>>,
    close: Notify,
}

/// A stream's place in its tunnel.
#[derive(Debug)]
pub(crate) struct Slot(Rc<State>);

impl Tunnel {
    /// TLS and HTTP/2 handshakes on a connected socket, within `limits.handshake`.
    pub async fn connect<Io>(io: Io, ours: &Arc<Certified>, expected: &[Identity], limits: Limits) -> Result<Self, TunnelError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let start = Instant::now();
        // Boxed: the handshake's state is large and would otherwise stay in every holder's future.
        let handshake = Box::pin(async {
            let (stream, peer) = trackbed_tls::connect(io, ours, expected).await?;
            let (inner, outer) = Held::new(stream);
            let (sender, connection) =
                builder(&limits).handshake(inner).await.map_err(|error| TunnelError::Handshake(error.to_string()))?;
            Ok::<_, TunnelError>((sender, connection, outer, peer))
        });
        let (sender, connection, io, peer) = timeout(limits.handshake, handshake).await.map_err(|_| handshake_timeout(&limits))??;
        let state = Rc::new(State { streams: Cell::new(0), idle_since: Cell::new(start), over: RefCell::new(None), close: Notify::new() });
        let end = peer.not_after.min(ours.not_after());
        let left = limits.handshake.saturating_sub(start.elapsed());
        tokio::task::spawn_local(drive(connection, io, Rc::clone(&state), limits, left, end));
        Ok(Self(Rc::new(Inner { sender, peer: Rc::new(peer), handshake: start.elapsed(), limits, state })))
    }

    /// CONNECT, within `limits.connect_answer`. Any status but 200 is `TunnelError::Refused`.
    pub async fn open(&self, request: &ConnectRequest) -> Result<TunnelStream, TunnelError> {
        let message = message(request)?;
        let slot = Slot::take(&self.0.state);
        let answer = timeout(self.0.limits.connect_answer, self.exchange(message)).await;
        let (response, send) = answer
            .map_err(|_| TunnelError::Timeout { what: "the answer to CONNECT", milliseconds: millis(self.0.limits.connect_answer) })??;
        if response.status() != StatusCode::OK {
            return Err(TunnelError::Refused { status: response.status().as_u16() });
        }
        let baggage = headers::merged(response.headers(), "baggage");
        let peer = Rc::clone(&self.0.peer);
        Ok(TunnelStream { send, recv: response.into_body(), peer, timing: Timing::default(), baggage, _slot: Some(slot) })
    }

    pub fn peer(&self) -> &Rc<PeerInfo> {
        &self.0.peer
    }

    /// How long TLS and HTTP/2 took to set up.
    pub fn handshake_time(&self) -> Duration {
        self.0.handshake
    }

    /// It can take another stream now: not closing, below the limits of both sides.
    pub fn has_room(&self) -> bool {
        let most = self.0.limits.client_streams.min(self.0.sender.current_max_send_streams());
        self.streams() < most && self.is_open()
    }

    /// New streams are possible in principle: no GOAWAY, no error.
    pub fn is_open(&self) -> bool {
        let probe = self.0.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.0.state.over.borrow().is_none() && !matches!(probe, Poll::Ready(Err(_)))
    }

    /// Streams open or being opened.
    pub fn streams(&self) -> usize {
        self.0.state.streams.get()
    }

    /// For how long there was no stream.
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.streams() == 0).then(|| self.0.state.idle_since.get().elapsed())
    }

    /// Ends the connection and every stream in it at once.
    pub fn close(&self) {
        self.0.state.end("closed by us");
        self.0.state.close.notify_one();
    }

    async fn exchange(&self, message: Request<()>) -> Result<(Response<h2::RecvStream>, h2::SendStream<Chunk>), TunnelError> {
        // Until the request is handed over nothing was sent, so every failure may be repeated elsewhere.
        let not_taken = |error: Error| TunnelError::NotTaken(self.0.state.explain(&error));
        let mut sender = self.0.sender.clone();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(not_taken)?;
        let (response, send) = sender.send_request(message, false).map_err(not_taken)?;
        let response = response.await.map_err(|error| self.0.state.classify(&error))?;
        Ok((response, send))
    }
}

impl State {
    /// The first reason is the true one.
    fn end(&self, reason: &str) {
        self.over.borrow_mut().get_or_insert_with(|| reason.into());
    }

    fn explain(&self, error: &Error) -> String {
        self.over.borrow().clone().unwrap_or_else(|| error.to_string())
    }

    fn classify(&self, error: &Error) -> TunnelError {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let beyond_goaway = error.is_go_away() && error.is_remote();
        let reason = self.explain(error);
        if refused || beyond_goaway { TunnelError::NotTaken(reason) } else { TunnelError::Lost(reason) }
    }
}

impl Slot {
    fn take(state: &Rc<State>) -> Self {
        state.streams.set(state.streams.get() + 1);
        Self(Rc::clone(state))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Runs the connection until it ends by itself, by us, by silence or by a certificate.
async fn drive<Io>(
    mut connection: Connection<Held<Io>, Chunk>,
    io: Held<Io>,
    state: Rc<State>,
    limits: Limits,
    preface: Duration,
    end: SystemTime,
) where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let pings = connection.ping_pong();
    let orderly = tokio::select! {
        result = &mut connection => {
            state.end(&result.as_ref().map_or_else(ToString::to_string, |()| "closed by the peer".into()));
            result.is_ok()
        }
        () = state.close.notified() => false,
        reason = alive::keepalive(pings, &limits, Some(preface)) => {
            state.end(&reason);
            false
        }
        () = alive::until(end) => {
            state.end("a certificate of the tunnel ended");
            false
        }
    };
    tracing::debug!(reason = state.over.borrow().as_deref(), "tunnel ended");
    drop(connection);
    if orderly {
        io.linger().await;
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_frame_size(limits::FRAME_BYTES)
        .max_header_list_size(limits::CLIENT_HEADER_LIST)
        .max_send_buffer_size(limits::SEND_BUFFER)
        .max_concurrent_reset_streams(limits::RESET_STREAMS)
        .initial_max_send_streams(limits.client_streams);
    builder
}

fn message(request: &ConnectRequest) -> Result<Request<()>, TunnelError> {
    let bad = |what: &str| TunnelError::Request(format!("{what} of CONNECT to {:?} is not valid", request.authority));
    let authority = request.authority.parse::<Authority>().map_err(|_| bad(":authority"))?;
    if authority.port().is_none() || request.authority.len() > bounds::AUTHORITY_BYTES as usize {
        return Err(bad(":authority"));
    }
    let uri = Uri::builder().authority(authority).build().map_err(|_| bad(":authority"))?;
    let mut message = Request::new(());
    *message.method_mut() = Method::CONNECT;
    *message.uri_mut() = uri;
    let texts = [("baggage", &request.baggage), ("forwarded", &request.forwarded), ("traceparent", &request.traceparent)];
    for (name, text) in texts {
        if let Some(text) = text {
            let value = HeaderValue::from_str(text).map_err(|_| bad(name))?;
            message.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    Ok(message)
}

fn handshake_timeout(limits: &Limits) -> TunnelError {
    TunnelError::Timeout { what: "the handshake", milliseconds: millis(limits.handshake) }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
