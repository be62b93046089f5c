//! What a client says before its stream is accepted: sent along with CONNECT where it may be, and never lost.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use support::{Authority, CLIENT, SERVER, identity, local, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::timeout;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Meter, Request, Shutdown, Tunnel, TunnelError, TunnelStream, pump, serve};

const REFUSED: &str = "10.0.0.1:81";
const HELD: &str = "10.0.0.1:82";

fn to(authority: &str) -> ConnectRequest {
    ConnectRequest { authority: authority.into(), ..ConnectRequest::default() }
}

struct Fixture {
    tunnel: Tunnel,
    accepted: Rc<RefCell<Vec<TunnelStream>>>,
    /// Lets the held one be accepted.
    go: Rc<Notify>,
}

/// A tunnel to a server that keeps what it accepts, refuses one authority and lets another wait.
async fn fixture() -> Fixture {
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
    let (near, far) = pair().await;
    let accepted: Rc<RefCell<Vec<TunnelStream>>> = Rc::default();
    let go = Rc::new(Notify::new());
    let (streams, gate) = (Rc::clone(&accepted), Rc::clone(&go));
    spawn_local(async move {
        let handler = move |request: Request| {
            let (streams, gate) = (Rc::clone(&streams), Rc::clone(&gate));
            async move {
                if request.authority == REFUSED {
                    return request.refuse(503);
                }
                if request.authority == HELD {
                    gate.notified().await;
                }
                streams.borrow_mut().push(request.accept(None).unwrap());
            }
        };
        let peer = far.peer_addr().unwrap();
        serve(far, peer, &theirs, Limits::default(), Shutdown::new(), handler).await
    });
    let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
    // The answer comes behind the server's settings.
    drop(tunnel.open(&to("10.0.0.1:80")).await.unwrap());
    accepted.borrow_mut().clear();
    Fixture { tunnel, accepted, go }
}

/// A client whose first words are with the kernel of its captured socket.
async fn client(words: &[u8]) -> (TcpStream, TcpStream) {
    let (mut client, captured) = pair().await;
    client.write_all(words).await.unwrap();
    while !words.is_empty() && captured.peek(&mut vec![0; words.len()]).await.unwrap() < words.len() {}
    (client, captured)
}

#[test]
fn first_words_go_along_with_connect_and_arrive_once() {
    local(async {
        let Fixture { tunnel, accepted, .. } = fixture().await;
        for words in [b"hello".to_vec(), vec![7; 100_000]] {
            let (mut client, captured) = client(&words).await;
            let stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
            let meter = Meter::new();
            let outbound = pump::outbound(captured, stream, &meter);
            let early = meter.sent();
            assert_eq!(early, words.len().min(16 << 10) as u64, "counted before the pump has run");
            let (mut application, near) = pair().await;
            let stream = accepted.borrow_mut().pop().unwrap();
            spawn_local(async move { pump::inbound(stream, near, &Meter::new()).await });
            let exchange = async {
                client.write_all(b", and more").await.unwrap();
                client.shutdown().await.unwrap();
                let mut seen = Vec::new();
                application.read_to_end(&mut seen).await.unwrap();
                drop(application);
                seen
            };
            let (outcome, seen) = tokio::join!(outbound, exchange);
            assert!(seen == [&words, &b", and more"[..]].concat(), "{} bytes arrived", seen.len());
            assert_eq!(outcome.sent, words.len() as u64 + 10);
        }
    });
}

#[test]
fn first_words_are_with_the_application_before_its_pump_has_had_a_turn() {
    local(async {
        let Fixture { tunnel, accepted, .. } = fixture().await;
        let (_client, captured) = client(b"hello").await;
        let _stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
        let ((mut application, near), meter) = (pair().await, Meter::new());
        let stream = accepted.borrow_mut().pop().unwrap();
        let _never_run = pump::inbound(stream, near, &meter);
        let mut seen = [0; 5];
        timeout(Duration::from_secs(10), application.read_exact(&mut seen)).await.unwrap().unwrap();
        assert_eq!((&seen, meter.sent()), (b"hello", 5));
    });
}

#[test]
fn nothing_of_a_connection_that_was_cut_reaches_the_application() {
    local(async {
        let Fixture { tunnel, accepted, .. } = fixture().await;
        let (_client, captured) = client(b"hello").await;
        let _stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
        let ((mut application, near), meter) = (pair().await, Meter::new());
        let stream = accepted.borrow_mut().pop().unwrap();
        meter.cut();
        spawn_local(pump::inbound(stream, near, &meter));
        let end = timeout(Duration::from_secs(10), application.read(&mut [0; 5])).await.unwrap();
        assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(meter.sent(), 0);
    });
}

#[test]
fn words_that_come_while_the_answer_is_awaited_go_along_too() {
    local(async {
        let Fixture { tunnel, accepted: _held, go } = fixture().await;
        let (mut client, captured) = client(b"one").await;
        let request = to(HELD);
        let mut opening = Box::pin(tunnel.open_for(&request, Some(&captured)));
        assert!(futures_util::poll!(&mut opening).is_pending());
        client.write_all(b" two").await.unwrap();
        while captured.peek(&mut [0; 7]).await.unwrap() < 7 {}
        assert!(futures_util::poll!(&mut opening).is_pending());
        go.notify_one();
        let stream = opening.await.unwrap();
        let meter = Meter::new();
        drop(pump::outbound(captured, stream, &meter));
        assert_eq!(meter.sent(), 7);
    });
}

#[test]
fn a_refused_client_has_said_nothing_yet() {
    local(async {
        let tunnel = fixture().await.tunnel;
        let (mut client, captured) = client(b"hello").await;
        let error = tunnel.open_for(&to(REFUSED), Some(&captured)).await.unwrap_err();
        assert_eq!(error, TunnelError::Refused { status: 503 });
        let again = tunnel.open_for(&to(REFUSED), Some(&captured)).await.unwrap_err();
        assert_eq!(again, error);
        let ((mut application, near), meter) = (pair().await, Meter::new());
        let exchange = async {
            client.shutdown().await.unwrap();
            let mut seen = String::new();
            application.read_to_string(&mut seen).await.unwrap();
            drop(application);
            seen
        };
        let (_, seen) = tokio::join!(pump::relay(captured, near, &meter), exchange);
        assert_eq!(seen, "hello", "the next endpoint is told the same");
    });
}

/// The application behind what was accepted last, and its pump.
async fn application(accepted: &RefCell<Vec<TunnelStream>>) -> TcpStream {
    let (application, near) = pair().await;
    let stream = accepted.borrow_mut().pop().unwrap();
    spawn_local(async move { pump::inbound(stream, near, &Meter::new()).await });
    application
}

#[test]
fn a_client_that_has_said_all_before_its_answer_ends_in_order() {
    local(async {
        let Fixture { tunnel, accepted, .. } = fixture().await;
        let (mut client, captured) = client(b"all of it").await;
        client.shutdown().await.unwrap();
        let stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
        let mut application = application(&accepted).await;
        let exchange = async {
            let mut seen = String::new();
            application.read_to_string(&mut seen).await.unwrap();
            application.write_all(b"the answer").await.unwrap();
            drop(application);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            (seen, answer)
        };
        let meter = Meter::new();
        let (outcome, seen) = tokio::join!(pump::outbound(captured, stream, &meter), exchange);
        assert_eq!((outcome.reset, seen), (false, ("all of it".into(), "the answer".into())));
    });
}

#[test]
fn a_client_that_resets_before_its_answer_is_a_reset_behind_its_words() {
    local(async {
        let Fixture { tunnel, accepted, go } = fixture().await;
        let (client, captured) = client(b"last words").await;
        let request = to(HELD);
        let mut opening = Box::pin(tunnel.open_for(&request, Some(&captured)));
        assert!(futures_util::poll!(&mut opening).is_pending());
        pump::reset(client);
        go.notify_one();
        let stream = opening.await.unwrap();
        let mut application = application(&accepted).await;
        let exchange = async {
            let mut seen = Vec::new();
            let end = application.read_to_end(&mut seen).await.unwrap_err().kind();
            (seen, end)
        };
        let meter = Meter::new();
        let (outcome, (seen, end)) = tokio::join!(pump::outbound(captured, stream, &meter), exchange);
        assert_eq!((seen.as_slice(), end, outcome.reset), (&b"last words"[..], std::io::ErrorKind::ConnectionReset, true));
    });
}

#[test]
fn a_client_that_waits_for_the_server_to_speak_costs_it_no_time() {
    local(async {
        let Fixture { tunnel, accepted, .. } = fixture().await;
        let (mut client, captured) = client(b"").await;
        let stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
        let mut application = application(&accepted).await;
        let exchange = async {
            application.write_all(b"220 ready").await.unwrap();
            let mut seen = [0; 9];
            client.read_exact(&mut seen).await.unwrap();
            drop((application, client));
            seen
        };
        let meter = Meter::new();
        assert_eq!(&tokio::join!(pump::outbound(captured, stream, &meter), exchange).1, b"220 ready");
    });
}

#[test]
fn a_peer_that_does_not_ask_for_it_gets_nothing_before_its_answer() {
    local(async {
        let authority = Authority::new();
        let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
        let (near, far) = pair().await;
        let silent = Rc::new(Cell::new(0));
        let count = Rc::clone(&silent);
        spawn_local(async move {
            let (stream, _) = trackbed_tls::accept(far, &theirs).await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let ping = Rc::new(tokio::sync::Mutex::new(connection.ping_pong().unwrap()));
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (ping, count) = (Rc::clone(&ping), Rc::clone(&count));
                spawn_local(async move {
                    let mut body = request.into_body();
                    // Whatever the client sent before it heard of this is here afterwards.
                    ping.lock().await.ping(h2::Ping::opaque()).await.unwrap();
                    count.set(count.get() + usize::from(futures_util::poll!(std::pin::pin!(body.data())).is_pending()));
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    while let Some(Ok(bytes)) = body.data().await {
                        send.send_data(bytes, false).unwrap();
                    }
                    // The first stream is only opened, not carried.
                    let _ = send.send_data(Bytes::new(), true);
                });
            }
        });
        let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
        drop(tunnel.open(&to("10.0.0.1:80")).await.unwrap());
        let (mut client, captured) = client(b"hello").await;
        let stream = tunnel.open_for(&to("10.0.0.1:80"), Some(&captured)).await.unwrap();
        assert_eq!(silent.get(), 2);
        let meter = Meter::new();
        let outbound = pump::outbound(captured, stream, &meter);
        assert_eq!(meter.sent(), 0);
        let exchange = async {
            client.shutdown().await.unwrap();
            let mut seen = String::new();
            client.read_to_string(&mut seen).await.unwrap();
            seen
        };
        assert_eq!(tokio::join!(outbound, exchange).1, "hello");
    });
}
