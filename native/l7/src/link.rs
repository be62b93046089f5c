//! One connection to an endpoint: its handshake, the task that drives it, and what is left of it after an upgrade.
use crate::limits::{CONNECTION_WINDOW, HEAD_BYTES, HEADERS, STREAM_WINDOW};
use crate::rewound::Rewound;
use crate::upload::Outgoing;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

pub(crate) struct Http1<Io> {
    pub(crate) sender: http1::SendRequest<Outgoing>,
    left: Rc<RefCell<Option<oneshot::Sender<Rewound<Io>>>>>,
}

impl<Io: AsyncRead + AsyncWrite + Unpin + 'static> Http1<Io> {
    pub(crate) async fn over(io: Io) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_headers(HEADERS).max_buf_size(HEAD_BYTES as usize);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        let left: Rc<RefCell<Option<oneshot::Sender<Rewound<Io>>>>> = Rc::default();
        let heir = Rc::clone(&left);
        spawn_local(async move {
            // How it ended is told to the request that it ended under.
            let Ok(parts) = connection.without_shutdown().await else { return };
            let mut io = parts.io.into_inner();
            let heir = heir.borrow_mut().take();
            match heir {
                Some(heir) => drop(heir.send(Rewound::new(parts.read_buf, io))),
                None => drop(io.shutdown().await),
            }
        });
        Ok(Self { sender, left })
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

pub(crate) async fn http2_over<Io>(io: Io) -> hyper::Result<http2::SendRequest<Outgoing>>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = http2::Builder::new(Local);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_BYTES);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
    spawn_local(async move {
        if let Err(cause) = connection.await {
            tracing::debug!(%cause, "an HTTP/2 connection to an endpoint ended");
        }
    });
    Ok(sender)
}
