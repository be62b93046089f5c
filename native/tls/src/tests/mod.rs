//! The record layer against itself and against rustls: what is carried, what ends a connection, and what is refused.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod ends;
mod frozen;
mod handshake;
mod properties;
mod refusals;
#[path = "../../tests/support/mod.rs"]
mod support;
mod transfer;

use std::sync::Arc;

use rustls::pki_types::ServerName;
use support::{Authority, OURS, PEER, good, identity, provider, uri};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::record::{HEADER, Keys, Secret, Suite, TAG};
use crate::{TlsStream, accept, connect};

type Own = TlsStream<DuplexStream>;
type Client = tokio_rustls::client::TlsStream<DuplexStream>;
type Server = tokio_rustls::server::TlsStream<DuplexStream>;

fn name() -> ServerName<'static> {
    ServerName::try_from("ignored.example").unwrap()
}

/// Two of ours, on a pipe that holds `wire` bytes.
async fn own_pair(wire: usize) -> (Own, Own) {
    let authority = Authority::new();
    let (client, server) = (authority.certify(OURS), authority.certify(PEER));
    let (near, far) = duplex(wire);
    let expected = [identity(PEER)];
    let (client, server) = tokio::join!(connect(near, &client, &expected), accept(far, &server));
    (client.unwrap().0, server.unwrap().0)
}

async fn own_client(wire: usize, provider: rustls::crypto::CryptoProvider) -> (Own, Server) {
    let authority = Authority::new();
    let ours = authority.certify(OURS);
    let mut config = authority.leaf(&good(vec![uri(PEER)])).server(provider);
    if wire < 4096 {
        config.send_tls13_tickets = 0; // they would fill the wire before anybody reads
    }
    let (near, far) = duplex(wire);
    let expected = [identity(PEER)];
    let (client, server) = tokio::join!(connect(near, &ours, &expected), TlsAcceptor::from(Arc::new(config)).accept(far));
    (client.unwrap().0, server.unwrap())
}

async fn own_server(wire: usize, provider: rustls::crypto::CryptoProvider) -> (Client, Own) {
    let authority = Authority::new();
    let ours = authority.certify(OURS);
    let config = authority.leaf(&good(vec![uri(PEER)])).client(provider);
    let (near, far) = duplex(wire);
    let (client, server) = tokio::join!(TlsConnector::from(Arc::new(config)).connect(name(), near), accept(far, &ours));
    (client.unwrap(), server.unwrap().0)
}

/// Two ends of one direction, without a handshake.
fn keys(suite: Suite) -> (Keys, Keys) {
    let length = if suite == Suite::Aes128GcmSha256 { 32 } else { 48 };
    let one = || Keys::new(suite, Secret::new(&vec![42; length])).unwrap();
    (one(), one())
}

/// A record whose protected content is exactly `data` and the byte `last`: any content type, any padding, any size.
fn record(keys: &mut Keys, data: &[u8], last: u8) -> Vec<u8> {
    let mut record = vec![0; HEADER + data.len() + 1 + TAG];
    keys.seal(last, Some(data), &mut record).unwrap();
    record
}
