//! The one backend of the bench, over plain TCP.
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpSocket, TcpStream};
use trackbed_contract::tables::errors;
use trackbed_l7::{BackendKey, ConnectError, Endpoint, Member, NoEndpoint, Upstream};

use crate::sockets;

#[derive(Debug)]
pub(crate) struct Next(pub(crate) SocketAddr, pub(crate) Arc<str>);

impl Upstream for Next {
    type Io = TcpStream;
    type Detail = ();
    type Candidates = [Member; 1];

    fn candidates(&self, _: &BackendKey) -> Result<[Member; 1], NoEndpoint> {
        Ok([Member { uid: Arc::clone(&self.1), weight: 1, rank: 0 }])
    }

    fn are_current(&self, _: &BackendKey, _: &[Member; 1]) -> bool {
        true
    }

    fn members<'a>(&self, candidates: &'a [Member; 1]) -> &'a [Member] {
        candidates
    }

    fn endpoint(&self, _: &[Member; 1], _: usize) -> Option<Endpoint<()>> {
        Some(Endpoint { uid: Arc::clone(&self.1), address: self.0, detail: () })
    }

    async fn connect(&self, endpoint: &Endpoint<()>) -> Result<TcpStream, ConnectError> {
        connect(endpoint.address).await
    }
}

pub(crate) async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectError> {
    let failed = |error: std::io::Error| ConnectError { code: errors::UPSTREAM_REFUSED, reason: error.to_string() };
    let socket = sockets::new(address).map_err(failed)?;
    TcpSocket::from_std_stream(socket.into()).connect(address).await.map_err(failed)
}
