//! Which tunnel a new stream goes into: one dial per key at a time, shared streams up to a limit, never across pods.
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use trackbed_contract::Identity;
use trackbed_tls::Certified;

use crate::limits::Limits;
use crate::{ConnectRequest, TunnelError, TunnelStream};

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

/// The tunnels of one worker. Tunnels without a stream for `limits.idle` are closed; the rest ends with its certificates.
#[derive(Debug)]
pub struct Pool<C> {
    _connector: C,
}

impl<C: Connector> Pool<C> {
    pub fn new(connector: C, limits: Limits) -> Self {
        let _ = limits;
        Self { _connector: connector }
    }

    /// A stream to `target`, in a tunnel with room or in a new one. A stream that the peer did not take (REFUSED_STREAM, GOAWAY) is tried
    /// once more in a fresh tunnel.
    pub async fn open(&self, target: &Target, request: &ConnectRequest) -> Result<TunnelStream, TunnelError> {
        let _ = (target, request);
        todo!()
    }

    /// The address belongs to another workload now, or to none: its tunnels end at once, dials under way included.
    pub fn evict(&self, destination: IpAddr) {
        let _ = destination;
        todo!()
    }

    /// The source pod is gone.
    pub fn evict_pod(&self, uid: &str) {
        let _ = uid;
        todo!()
    }

    /// Open tunnels, for the gauge.
    pub fn tunnels(&self) -> usize {
        todo!()
    }

    /// Ends everything.
    pub fn close(&self) {
        todo!()
    }
}
