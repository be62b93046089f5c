//! One connection to an endpoint: its handshake, the task that drives it, and what is left of it after an upgrade.
use crate::allowed::{Allowed, Heard};
use crate::limits::{CONNECTION_WINDOW, HEAD_BYTES, HEADERS, IDLE_TIME, STREAM_WINDOW};
use crate::rewound::Rewound;
use crate::traffic::{BackendSettings, Breaker};
use crate::upload::Outgoing;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::spawn_local;

/// For how long, and for how much, a connection is used.
#[derive(Debug)]
pub(crate) struct Terms {
    begun: Instant,
    requests: Cell<u32>,
    settings: Arc<BackendSettings>,
    /// One of those that may be open; held while the connection is.
    permit: Option<Rc<OwnedSemaphorePermit>>,
}

impl Terms {
    pub(crate) fn new(settings: &Arc<BackendSettings>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { begun: Instant::now(), requests: Cell::new(0), settings: Arc::clone(settings), permit: permit.map(Rc::new) }
    }

    /// A request more is sent on it.
    pub(crate) fn used(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Whether it may be given another request.
    pub(crate) fn lasts(&self, now: Instant) -> bool {
        let bounds = &self.settings.connections;
        bounds.most_requests.is_none_or(|most| self.requests.get() < most)
            && bounds.longest.is_none_or(|longest| now.saturating_duration_since(self.begun) < longest)
    }

    pub(crate) fn idle_time(&self) -> Duration {
        self.settings.connections.idle_timeout.unwrap_or(IDLE_TIME)
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.settings.breaker
    }
}

pub(crate) struct Http1<Io> {
    pub(crate) sender: http1::SendRequest<Outgoing>,
    pub(crate) terms: Box<Terms>,
    left: Rc<RefCell<Option<oneshot::Sender<Rewound<Io>>>>>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin + 'static> Http1<Io> {
    pub(crate) async fn over(io: Io, terms: Terms) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_headers(HEADERS).max_buf_size(HEAD_BYTES as usize);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        terms.used();
        let left: Rc<RefCell<Option<oneshot::Sender<Rewound<Io>>>>> = Rc::default();
        let heir = Rc::clone(&left);
        let permit = terms.permit.clone();
        spawn_local(async move {
            let _permit = permit;
            // How it ended is told to the request that it ended under.
            let Ok(parts) = connection.without_shutdown().await else { return };
            let mut io = parts.io.into_inner();
            let heir = heir.borrow_mut().take();
            match heir {
                Some(heir) => drop(heir.send(Rewound::new(parts.read_buf, io))),
                None => drop(io.shutdown().await),
            }
        });
        Ok(Self { sender, terms: Box::new(terms), left })
    }

    /// Before a request that may upgrade: what is left of the connection when it did.
    pub(crate) fn left(&self) -> oneshot::Receiver<Rewound<Io>> {
        let (sender, receiver) = oneshot::channel();
        *self.left.borrow_mut() = Some(sender);
        receiver
    }
}

/// The library keeps the futures of streams on the runtime of its caller.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// To send on a shared connection.
#[derive(Clone)]
pub(crate) struct Http2 {
    pub(crate) sender: http2::SendRequest<Outgoing>,
    pub(crate) allowed: Rc<Allowed>,
}

pub(crate) async fn http2_over<Io>(io: Io, terms: &Terms) -> hyper::Result<Http2>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES);
    let io = Heard::new(io);
    let allowed = Rc::clone(io.allowed());
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
    let permit = terms.permit.clone();
    spawn_local(async move {
        let _permit = permit;
        if let Err(cause) = connection.await {
            tracing::debug!(%cause, "an HTTP/2 connection to an endpoint ended");
        }
    });
    Ok(Http2 { sender, allowed })
}
