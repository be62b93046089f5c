//! Where the handshake ends and our records begin.
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::support::{Authority, OURS, PEER, good, identity, provider, uri};
use super::{name, own_client, own_server};
use crate::handshake::layer;
use crate::record::Role;
use crate::secrets::Secrets;
use crate::{accept, connect};

const WIRE: usize = 1 << 20;

fn flight(tls: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn take(tls: &mut Connection, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        tls.read_tls(&mut bytes).unwrap();
        tls.process_new_packets().unwrap();
    }
}

#[tokio::test]
async fn data_in_the_same_segment_as_finished_is_not_lost() {
    for size in [1, 100, 5000, 200_000] {
        let authority = Authority::new();
        let ours = authority.certify(OURS);
        let config = Arc::new(authority.leaf(&good(vec![uri(PEER)])).client(provider()));
        let (mut near, far) = duplex(WIRE);
        let client = async {
            let mut tls = Connection::from(ClientConnection::new(config, name()).unwrap());
            tls.set_buffer_limit(None);
            near.write_all(&flight(&mut tls)).await.unwrap();
            let mut buffer = vec![0; 20_000];
            while tls.is_handshaking() {
                let count = near.read(&mut buffer).await.unwrap();
                take(&mut tls, &buffer[..count]);
            }
            tls.writer().write_all(&vec![5; size]).unwrap();
            near.write_all(&flight(&mut tls)).await.unwrap();
            let count = near.read(&mut buffer).await.unwrap();
            take(&mut tls, &buffer[..count]);
            let mut answer = [0; 2];
            tls.reader().read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"ok");
        };
        let server = async {
            let (mut stream, _) = accept(far, &ours).await.unwrap();
            let mut seen = vec![0; size];
            stream.read_exact(&mut seen).await.unwrap();
            assert!(seen.iter().all(|byte| *byte == 5));
            stream.write_all(b"ok").await.unwrap();
            stream
        };
        let ((), _stream) = tokio::join!(client, server);
    }
}

#[tokio::test]
async fn a_hello_retry_request_is_survived_in_both_roles() {
    let only = |groups: &[&'static dyn rustls::crypto::SupportedKxGroup]| CryptoProvider { kx_groups: groups.to_vec(), ..provider() };
    let (mut own, mut other) = own_client(WIRE, only(&[kx_group::SECP256R1])).await;
    assert_eq!(other.get_ref().1.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    own.write_all(b"x").await.unwrap();
    other.read_exact(&mut [0]).await.unwrap();
    let (mut other, mut own) = own_server(WIRE, only(&[kx_group::SECP384R1, kx_group::SECP256R1])).await;
    assert_eq!(other.get_ref().1.handshake_kind(), Some(HandshakeKind::FullWithHelloRetryRequest));
    own.write_all(b"x").await.unwrap();
    other.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test]
async fn what_does_not_belong_into_a_handshake_ends_it() {
    let authority = Authority::new();
    let (ours, peer) = (authority.certify(OURS), identity(PEER));
    let garbage = [&[23, 3, 3, 0, 64][..], &[0xab; 64]].concat();
    let config = Arc::new(authority.leaf(&good(vec![uri(PEER)])).client(provider()));
    let hello = flight(&mut ClientConnection::new(config, name()).unwrap().into());
    let rows: &[(&str, Vec<u8>)] = &[
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("an oversized record", vec![22, 3, 1, 0xff, 0xff]),
        ("early data without its announcement", [&hello[..], &garbage].concat()),
        ("data at once", garbage.clone()),
        ("endless ChangeCipherSpec", [20, 3, 3, 0, 1, 1].repeat(100)),
        ("an empty handshake record", vec![22, 3, 3, 0, 0]),
        ("a handshake message of 16 MiB", [&[22, 3, 3, 0x40, 0][..], &[1, 255, 255, 255], &[0; 16380]].concat()),
        ("the end, within the hello", hello[..hello.len() / 2].to_vec()),
    ];
    for (what, bytes) in rows {
        for as_server in [true, false] {
            let (mut near, far) = duplex(WIRE);
            near.write_all(bytes).await.unwrap();
            near.shutdown().await.unwrap();
            let error =
                if as_server { accept(far, &ours).await.err() } else { connect(far, &ours, std::slice::from_ref(&peer)).await.err() };
            assert_eq!(error.expect(what).code(), "E_TUNNEL_HANDSHAKE", "{what}");
        }
    }
}

/// The handshake of two of our configurations in memory, with what was overheard of the client's.
fn overheard() -> (Connection, Secrets) {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(OURS), authority.certify(PEER));
    let mut client = Connection::from(ClientConnection::new(ours.client_config(&[identity(PEER)]), name()).unwrap());
    let mut server = Connection::from(ServerConnection::new(theirs.server_config()).unwrap());
    let mut secrets = Secrets::default();
    while client.is_handshaking() || server.is_handshaking() {
        take(&mut server, &flight(&mut client));
        let bytes = flight(&mut server);
        secrets.overhear(|| take(&mut client, &bytes));
    }
    (client, secrets)
}

#[test]
fn keys_that_are_not_those_of_rustls_are_never_used() {
    let (tls, secrets) = overheard();
    assert!(layer(tls, secrets, Role::Client).is_ok());
    let (tls, secrets) = overheard();
    let error = layer(tls, secrets, Role::Server).err().unwrap();
    assert_eq!(error.to_string(), "TLS handshake failed: our keys are not those of rustls");
    let (tls, secrets) = (overheard().0, overheard().1);
    layer(tls, secrets, Role::Client).err().unwrap();
    let (tls, mut secrets) = overheard();
    secrets.server = None;
    layer(tls, secrets, Role::Client).err().unwrap();
}

#[tokio::test]
async fn secrets_are_never_printed_and_nobody_else_is_overheard() {
    let (own, _) = own_client(WIRE, provider()).await;
    let text = format!("{own:?}");
    assert!(!text.contains("keys") && !text.contains("secret"), "{text}");
    let authority = Authority::new();
    let config = authority.certify(OURS).server_config();
    assert!(!config.key_log.will_log("SERVER_TRAFFIC_SECRET_0"), "not listening");
    Secrets::default().overhear(|| {
        assert!(config.key_log.will_log("SERVER_TRAFFIC_SECRET_0"));
        assert!(!config.key_log.will_log("EXPORTER_SECRET"));
    });
}
