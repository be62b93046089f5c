//! The client's side of a tunnel: connect once, then open streams.
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use trackbed_contract::Identity;
use trackbed_tls::{Certified, PeerInfo};

use crate::limits::Limits;
use crate::{TunnelError, TunnelStream};

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
struct Inner {}

impl Tunnel {
    /// TLS and HTTP/2 handshakes on a connected socket, within `limits.handshake`.
    pub async fn connect<Io>(io: Io, ours: &Arc<Certified>, expected: &[Identity], limits: Limits) -> Result<Self, TunnelError>
    where
        Io: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let _ = (io, ours, expected, limits);
        todo!()
    }

    /// CONNECT, within `limits.connect_answer`. Any status but 200 is `TunnelError::Refused`.
    pub async fn open(&self, request: &ConnectRequest) -> Result<TunnelStream, TunnelError> {
        let _ = request;
        todo!()
    }

    pub fn peer(&self) -> &Rc<PeerInfo> {
        todo!()
    }

    /// It can take another stream now: not closing, below the limits of both sides.
    pub fn has_room(&self) -> bool {
        todo!()
    }

    /// Streams open or being opened.
    pub fn streams(&self) -> usize {
        todo!()
    }

    /// Ends the connection and every stream in it at once.
    pub fn close(&self) {
        todo!()
    }
}
