//! Our tunnels against an independent peer in both roles: the h2 crate in rustls, with nothing of ours in between.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Request as HttpRequest, Response, StatusCode, Version};
use support::{Authority, CLIENT, SERVER, identity, local, pair, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Meter, Outcome, Shutdown, Tunnel, pump, serve};

/// Several windows and many frames, both ways at once.
const TOTAL: u64 = 24 << 20;

async fn send_pattern(mut stream: SendStream<Bytes>) {
    let mut sent = 0;
    while sent < TOTAL {
        stream.reserve_capacity(70_001);
        while stream.capacity() == 0 {
            poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        }
        let size = usize::try_from(TOTAL - sent).unwrap().min(stream.capacity());
        let mut bytes = vec![0; size];
        pattern(sent, &mut bytes);
        sent += size as u64;
        stream.send_data(bytes.into(), sent == TOTAL).unwrap();
    }
}

async fn check_pattern(mut stream: RecvStream) {
    let (mut received, mut expected) = (0, Vec::new());
    while let Some(bytes) = stream.data().await {
        let bytes = bytes.unwrap();
        expected.resize(bytes.len(), 0);
        pattern(received, &mut expected);
        assert!(bytes == expected, "bytes differ after offset {received}");
        received += bytes.len() as u64;
        stream.flow_control().release_capacity(bytes.len()).unwrap();
    }
    assert_eq!(received, TOTAL);
}

/// The application behind our side does the same.
async fn application(mut socket: TcpStream) {
    let (mut read, mut write) = socket.split();
    let sending = async {
        let mut buffer = vec![0; 100_003];
        let mut sent = 0;
        while sent < TOTAL {
            let size = usize::try_from(TOTAL - sent).unwrap().min(buffer.len());
            pattern(sent, &mut buffer[..size]);
            write.write_all(&buffer[..size]).await.unwrap();
            sent += size as u64;
        }
        write.shutdown().await.unwrap();
    };
    let checking = async {
        let (mut buffer, mut expected, mut received) = (vec![0; 65536], vec![0; 65536], 0);
        loop {
            let count = read.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            pattern(received, &mut expected[..count]);
            assert!(buffer[..count] == expected[..count], "bytes differ after offset {received}");
            received += count as u64;
        }
        assert_eq!(received, TOTAL);
    };
    tokio::join!(sending, checking);
}

fn check(outcome: &Outcome) {
    assert_eq!((outcome.sent, outcome.received, outcome.reset, outcome.code), (TOTAL, TOTAL, false, ""));
}

#[test]
fn our_client_and_the_h2_crates_server_carry_every_byte_both_ways() {
    local(async {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        let server = spawn_local(async move {
            let stream = TlsAcceptor::from(theirs.server_config()).accept(far).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            assert_eq!((request.method(), request.uri().authority().unwrap().as_str()), (&Method::CONNECT, "[fd00::1]:80"));
            let send = respond.send_response(Response::new(()), false).unwrap();
            let streams = async { tokio::join!(send_pattern(send), check_pattern(request.into_body())) };
            let driver = async { while connection.accept().await.is_some() {} };
            tokio::join!(streams, driver);
        });
        let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
        let request = ConnectRequest { authority: "[fd00::1]:80".into(), baggage: Some("a=b".into()), ..ConnectRequest::default() };
        let stream = tunnel.open(&request).await.unwrap();
        let (client, captured) = pair().await;
        let meter = Meter::new();
        let (outcome, ()) = tokio::join!(pump::outbound(captured, stream, &meter), application(client));
        check(&outcome);
        drop(tunnel);
        server.await.unwrap();
    });
}

#[test]
fn the_h2_crates_client_and_our_server_carry_every_byte_both_ways() {
    local(async {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(SERVER), authority.certify(CLIENT));
        let (near, far) = pair().await;
        let (done, mut outcomes) = tokio::sync::mpsc::unbounded_channel();
        let server = spawn_local(async move {
            let handler = move |request: trackbed_hbone::Request| {
                let done = done.clone();
                async move {
                    let stream = request.accept(Some("c=d")).unwrap();
                    let (socket, server) = pair().await;
                    let meter = Meter::new();
                    let (outcome, ()) = tokio::join!(pump::inbound(stream, server, &meter), application(socket));
                    done.send(outcome).unwrap();
                }
            };
            let peer = far.peer_addr().unwrap();
            serve(far, peer, &ours, Limits::default(), Shutdown::new(), handler).await
        });
        let config = theirs.client_config(&[identity(SERVER)]);
        let name = ServerName::try_from("ignored.example").unwrap();
        let stream = TlsConnector::from(config).connect(name, near).await.unwrap();
        let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = spawn_local(connection);
        let request = HttpRequest::builder().method(Method::CONNECT).version(Version::HTTP_2).uri("10.0.0.1:80").body(()).unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!((response.status(), &response.headers()["baggage"]), (StatusCode::OK, &http::HeaderValue::from_static("c=d")));
        tokio::join!(send_pattern(send), check_pattern(response.into_body()));
        check(&outcomes.recv().await.unwrap());
        drop(sender);
        driver.await.unwrap().unwrap();
        server.await.unwrap().unwrap();
    });
}

#[test]
fn small_messages_of_many_streams_pass_both_ways_with_a_foreign_server() {
    local(async {
        const STREAMS: usize = 16;
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        spawn_local(async move {
            let stream = TlsAcceptor::from(theirs.server_config()).accept(far).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                spawn_local(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(bytes)) = body.data().await {
                        body.flow_control().release_capacity(bytes.len()).unwrap();
                        send.send_data(bytes, false).unwrap();
                    }
                    send.send_data(Bytes::new(), true).unwrap();
                });
            }
        });
        let tunnel = Rc::new(Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap());
        let streams = (0..STREAMS).map(|index| {
            let tunnel = Rc::clone(&tunnel);
            async move {
                let request = ConnectRequest { authority: "10.0.0.1:80".into(), ..ConnectRequest::default() };
                let stream = tunnel.open(&request).await.unwrap();
                let (mut client, captured) = pair().await;
                let pump = spawn_local(async move { pump::outbound(captured, stream, &Meter::new()).await });
                for round in 0..200_usize {
                    let message = vec![u8::try_from((index + round) % 251).unwrap(); 1 + (round * 37) % 500];
                    client.write_all(&message).await.unwrap();
                    let mut echo = vec![0; message.len()];
                    client.read_exact(&mut echo).await.unwrap();
                    assert!(echo == message);
                }
                client.shutdown().await.unwrap();
                assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
                assert!(!pump.await.unwrap().reset);
            }
        });
        futures_util::future::join_all(streams).await;
        assert_eq!(tunnel.streams(), 0);
    });
}
