//! A handshake on any byte stream, in both roles: its end is a stream and the proven facts about the peer, or a coded error.
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trackbed_contract::Identity;

use crate::verify::from_rustls;
use crate::{ALPN, Certified, PeerInfo, TlsError};

pub type ClientStream<Io> = tokio_rustls::client::TlsStream<Io>;
pub type ServerStream<Io> = tokio_rustls::server::TlsStream<Io>;

/// Proves `ours` to a server that must be one of `expected`. The caller sets the deadline.
pub async fn connect<Io>(io: Io, ours: &Certified, expected: &[Identity]) -> Result<(ClientStream<Io>, PeerInfo), TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    ours.check(SystemTime::now())?;
    // rustls wants a name even when it neither sends nor checks one; identities are checked instead.
    let no_name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let stream = TlsConnector::from(ours.client_config(expected)).connect(no_name, io).await.map_err(|error| coded(&error))?;
    let (_, connection) = stream.get_ref();
    require_alpn(connection.alpn_protocol())?;
    let peer = PeerInfo::of(connection)?;
    Ok((stream, peer))
}

/// Serves as `ours`, to clients of our trust domain only. The caller sets the deadline.
pub async fn accept<Io>(io: Io, ours: &Certified) -> Result<(ServerStream<Io>, PeerInfo), TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    ours.check(SystemTime::now())?;
    let stream = TlsAcceptor::from(ours.server_config()).accept(io).await.map_err(|error| coded(&error))?;
    let (_, connection) = stream.get_ref();
    require_alpn(connection.alpn_protocol())?;
    let peer = PeerInfo::of(connection)?;
    Ok((stream, peer))
}

/// rustls refuses a foreign ALPN by itself, but lets a peer pass that names none.
fn require_alpn(chosen: Option<&[u8]>) -> Result<(), TlsError> {
    if chosen == Some(ALPN) { Ok(()) } else { Err(TlsError::Handshake("the peer did not choose the protocol h2 (ALPN)".into())) }
}

fn coded(error: &io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(inner) => from_rustls(inner),
        None => TlsError::Handshake(error.to_string()),
    }
}
