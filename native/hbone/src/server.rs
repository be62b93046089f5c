//! The server's side of a tunnel: handshake, then one handler call per CONNECT.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use trackbed_tls::{Certified, PeerInfo};

use crate::limits::Limits;
use crate::{TunnelError, TunnelStream};

/// One CONNECT that is well formed and waits for its answer. Dropping it resets the stream.
#[derive(Debug)]
pub struct Request {
    pub peer: Rc<PeerInfo>,
    pub peer_address: SocketAddr,
    /// As sent, at most `bounds::AUTHORITY_BYTES` long; not otherwise checked.
    pub authority: String,
    pub headers: HeaderMap,
}

impl Request {
    /// Any status but 200, without a body. What the client sent meanwhile is dropped unread.
    pub fn refuse(self, status: u16) {
        let _ = status;
        todo!()
    }

    /// 200 with the destination's baggage: call it only once the application has accepted.
    pub fn accept(self, baggage: Option<&str>) -> Result<TunnelStream, TunnelError> {
        let _ = baggage;
        todo!()
    }
}

/// Ends servers from outside: one per pod, cloned into each `serve`.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {}

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// GOAWAY: no new streams, those that are open go on to their end.
    pub fn drain(&self) {
        todo!()
    }

    /// Everything ends at once.
    pub fn close(&self) {
        todo!()
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
    let _ = (io, peer_address, ours, limits, shutdown, handler);
    todo!()
}
