//! Tunnels against our own other side and against peers made of the h2 crate or of bare frames.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request as HttpRequest, StatusCode, Version};
use support::{Authority, CLIENT, SERVER, eventually, identity, local, pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, spawn_local};
use trackbed_hbone::headers::{Baggage, Forwarded, TraceParent};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Request, Shutdown, Tunnel, TunnelError, TunnelStream, serve};
use trackbed_tls::Certified;

const WIRE: usize = 1 << 20;

struct Sides {
    client: Arc<Certified>,
    server: Arc<Certified>,
}

fn sides() -> Sides {
    let authority = Authority::new();
    Sides { client: authority.certify(CLIENT), server: authority.certify(SERVER) }
}

fn to(authority: &str) -> ConnectRequest {
    ConnectRequest { authority: authority.into(), ..ConnectRequest::default() }
}

/// Our server on one end of a pipe; the other end is the test's.
fn served<F>(
    sides: &Sides,
    limits: Limits,
    shutdown: Shutdown,
    handler: impl Fn(Request) -> F + 'static,
) -> (DuplexStream, JoinHandle<Result<(), TunnelError>>)
where
    F: Future<Output = ()> + 'static,
{
    let (near, far) = duplex(WIRE);
    let ours = Arc::clone(&sides.server);
    let task = spawn_local(async move { serve(far, "10.0.0.9:4711".parse().unwrap(), &ours, limits, shutdown, handler).await });
    (near, task)
}

async fn tunnel(sides: &Sides, io: DuplexStream, limits: Limits) -> Result<Tunnel, TunnelError> {
    Tunnel::connect(io, &sides.client, &[identity(SERVER)], limits).await
}

/// A client made of the h2 crate alone, in our TLS.
async fn foreign_client(sides: &Sides, io: DuplexStream) -> h2::client::SendRequest<Bytes> {
    let (stream, _) = trackbed_tls::connect(io, &sides.client, &[identity(SERVER)]).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    spawn_local(connection);
    sender
}

fn connect_message(authority: &str) -> HttpRequest<()> {
    HttpRequest::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(authority).body(()).unwrap()
}

#[test]
fn a_refusal_reaches_the_client_with_its_status() {
    local(async {
        let sides = sides();
        for status in [400, 401, 503] {
            let (io, _) = served(&sides, Limits::default(), Shutdown::new(), move |request| async move { request.refuse(status) });
            let error = tunnel(&sides, io, Limits::default()).await.unwrap().open(&to("10.0.0.1:80")).await.unwrap_err();
            assert_eq!((&error, error.code()), (&TunnelError::Refused { status }, "E_TUNNEL_PEER_REFUSED"));
        }
    });
}

#[test]
fn the_handler_sees_who_asks_for_what_and_both_sides_get_the_others_baggage() {
    local(async {
        let sides = sides();
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), |request| async move {
            assert_eq!(request.peer.identity, identity(CLIENT));
            assert_eq!(request.peer_address.to_string(), "10.0.0.9:4711");
            assert_eq!(request.authority, "[fd00::1]:8080");
            assert_eq!(Forwarded::host_from_headers(&request.headers).as_deref(), Some("cart.shop.svc.cluster.local"));
            assert!(TraceParent::parse(request.headers["traceparent"].to_str().unwrap()).is_some());
            assert_eq!(Baggage::from_headers(&request.headers).namespace, "shop");
            let stream = request.accept(Some("k8s.namespace.name=far")).unwrap();
            drop(stream);
        });
        let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
        let request = ConnectRequest {
            authority: "[fd00::1]:8080".into(),
            baggage: Some(Baggage { namespace: "shop".into(), ..Baggage::default() }.to_string()),
            forwarded: Some(
                Forwarded { source: "[fd00::2]:999".parse().unwrap(), host: Some("cart.shop.svc.cluster.local".into()) }.to_string(),
            ),
            traceparent: Some(TraceParent::random().to_string()),
        };
        let stream = tunnel.open(&request).await.unwrap();
        assert_eq!(stream.baggage(), Some("k8s.namespace.name=far"));
        assert_eq!(tunnel.peer().identity, identity(SERVER));
        assert_eq!((tunnel.peer().version, tunnel.peer().group), ("TLSv1.3", "X25519MLKEM768"));
    });
}

#[test]
fn a_request_that_cannot_be_written_is_refused_before_it_is_sent() {
    local(async {
        let sides = sides();
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), |_| async { panic!("nothing was to be sent") });
        let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
        for authority in ["", "10.0.0.1", "with space:80", "nul\0:80", &format!("{}:80", "a".repeat(400))] {
            let error = tunnel.open(&to(authority)).await.unwrap_err();
            assert!(matches!(error, TunnelError::Request(_)), "{authority:?}: {error:?}");
        }
        let split = ConnectRequest { baggage: Some("a=b\r\nx: y".into()), ..to("10.0.0.1:80") };
        assert!(matches!(tunnel.open(&split).await, Err(TunnelError::Request(_))));
    });
}

#[test]
fn a_foreign_client_gets_400_for_everything_that_is_no_proper_connect() {
    local(async {
        let sides = sides();
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), |_| async { panic!("not a request for the handler") });
        let mut sender = foreign_client(&sides, io).await;
        let get = HttpRequest::builder().uri("https://10.0.0.1:80/").body(()).unwrap();
        let long = connect_message(&format!("{}:80", "a.".repeat(160)));
        let user = connect_message("user@10.0.0.1:80");
        for message in [get, long, user] {
            let (response, _) = sender.send_request(message, true).unwrap();
            assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
        }
    });
}

/// One HEADERS frame of literal fields, as a peer without any library might send it.
fn headers_frame(stream: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, u8::try_from(name.len()).unwrap()]);
        block.extend(name.as_bytes());
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, stream];
    frame.extend(block);
    frame
}

#[test]
fn connect_with_path_scheme_or_without_authority_never_reaches_the_handler() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let host = (":authority", "10.0.0.1:80");
    let bad: [&[(&str, &str)]; 5] = [
        &[(":method", "CONNECT"), host, (":path", "/")],
        &[(":method", "CONNECT"), host, (":scheme", "https")],
        &[(":method", "CONNECT")],
        &[(":method", "CONNECT"), (":authority", "")],
        &[(":method", "CONNECT"), (":protocol", "connect-tcp"), (":scheme", "https"), (":path", "/"), host],
    ];
    local(async {
        let sides = sides();
        for fields in bad {
            let called = Rc::new(Cell::new(false));
            let seen = Rc::clone(&called);
            let (io, _) = served(&sides, Limits::default(), Shutdown::new(), move |request| {
                seen.set(true);
                async move { request.refuse(503) }
            });
            let (mut stream, _) = trackbed_tls::connect(io, &sides.client, &[identity(SERVER)]).await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            stream.write_all(&headers_frame(1, fields)).await.unwrap();
            // HEADERS with END_STREAM (a status) or RST_STREAM for stream 1, or the end of the connection.
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).await.is_err() {
                    break;
                }
                let mut body = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut body).await.unwrap();
                if head[8] == 1 && (head[3] == 3 || (head[3] == 1 && head[4] & 1 == 1)) {
                    break;
                }
            }
            assert!(!called.get(), "{fields:?}");
        }
    });
}

#[test]
fn early_data_waits_for_200_and_is_dropped_with_a_refusal() {
    local(async {
        let sides = sides();
        let accepted: Rc<RefCell<Vec<TunnelStream>>> = Rc::default();
        let streams = Rc::clone(&accepted);
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), move |request| {
            let streams = Rc::clone(&streams);
            async move {
                if request.authority == "10.0.0.1:81" {
                    return request.refuse(401);
                }
                streams.borrow_mut().push(request.accept(None).unwrap());
            }
        });
        let mut sender = foreign_client(&sides, io).await;
        let (refused, mut early) = sender.send_request(connect_message("10.0.0.1:81"), false).unwrap();
        early.send_data(Bytes::from_static(b"secret"), false).unwrap();
        assert_eq!(refused.await.unwrap().status(), StatusCode::UNAUTHORIZED);
        let (taken, mut early) = sender.send_request(connect_message("10.0.0.1:82"), false).unwrap();
        early.send_data(Bytes::from_static(b"hello"), true).unwrap();
        assert_eq!(taken.await.unwrap().status(), StatusCode::OK);
        let (mut application, near) = pair().await;
        let stream = accepted.borrow_mut().pop().unwrap();
        spawn_local(async move { trackbed_hbone::pump::inbound(stream, near, &trackbed_hbone::Meter::new()).await });
        let mut seen = String::new();
        application.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "hello");
    });
}

#[test]
fn a_foreign_server_sees_a_plain_connect_with_our_headers_only() {
    local(async {
        let sides = sides();
        let (near, far) = duplex(WIRE);
        let ours = Arc::clone(&sides.server);
        let seen: Rc<RefCell<Option<HttpRequest<()>>>> = Rc::default();
        let store = Rc::clone(&seen);
        spawn_local(async move {
            let (stream, peer) = trackbed_tls::accept(far, &ours).await.unwrap();
            assert_eq!(peer.identity, identity(CLIENT));
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let (parts, _) = request.into_parts();
                *store.borrow_mut() = Some(HttpRequest::from_parts(parts, ()));
                let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                send.send_data(Bytes::from_static(b"served"), true).unwrap();
            }
        });
        let tunnel = tunnel(&sides, near, Limits::default()).await.unwrap();
        let request = ConnectRequest { baggage: Some("service.name=a".into()), ..to("10.0.0.1:80") };
        let stream = tunnel.open(&request).await.unwrap();
        let (mut client, captured) = pair().await;
        spawn_local(async move { trackbed_hbone::pump::outbound(captured, stream, &trackbed_hbone::Meter::new()).await });
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "served");
        let seen = seen.borrow_mut().take().unwrap();
        assert_eq!(seen.method(), Method::CONNECT);
        assert_eq!(seen.uri().authority().unwrap(), "10.0.0.1:80");
        assert!(seen.uri().scheme().is_none() && seen.uri().path_and_query().is_none());
        let names: Vec<_> = seen.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["baggage"]);
        assert_eq!(seen.headers().get_all("baggage").iter().count(), 1);
        let _: &HeaderMap = seen.headers();
    });
}

#[test]
fn the_wrong_server_is_refused_before_anything_is_asked() {
    local(async {
        let sides = sides();
        let (io, served) = served(&sides, Limits::default(), Shutdown::new(), |_| async { panic!("nothing was to be asked") });
        let other = [identity("spiffe://cluster.local/ns/shop/sa/other")];
        let error = Tunnel::connect(io, &sides.client, &other, Limits::default()).await.unwrap_err();
        assert_eq!(error.code(), "E_IDENTITY_MISMATCH");
        assert_eq!(served.await.unwrap().unwrap_err().code(), "E_TUNNEL_HANDSHAKE");
    });
}

#[test]
fn silence_ends_at_the_deadline_of_each_step() {
    let quick = Duration::from_millis(50);
    local(async {
        let sides = sides();
        // TCP only, both roles.
        let (near, _held) = duplex(WIRE);
        let limits = Limits { handshake: quick, ..Limits::default() };
        assert_eq!(tunnel(&sides, near, limits).await.unwrap_err().code(), "E_TUNNEL_HANDSHAKE");
        let (_held, server) = served(&sides, limits, Shutdown::new(), |_| async {});
        assert!(matches!(server.await.unwrap(), Err(TunnelError::Timeout { what: "the handshake", .. })));

        // TLS, but no CONNECT.
        let limits = Limits { first_connect: quick, ..Limits::default() };
        let (io, server) = served(&sides, limits, Shutdown::new(), |_| async {});
        let held = tunnel(&sides, io, Limits::default()).await.unwrap();
        assert!(matches!(server.await.unwrap(), Err(TunnelError::Timeout { what: "the first CONNECT", .. })));
        eventually("the client sees the end of the connection", || !held.is_open()).await;

        // TLS, but no HTTP/2.
        let (near, far) = duplex(WIRE);
        let ours = Arc::clone(&sides.server);
        let mute = spawn_local(async move { trackbed_tls::accept(far, &ours).await.unwrap() });
        let limits = Limits { handshake: Duration::from_millis(1500), ..Limits::default() };
        let held = tunnel(&sides, near, limits).await.unwrap();
        let _stream = mute.await.unwrap();
        eventually("a peer without HTTP/2 is given up", || !held.is_open()).await;

        // CONNECT, but no answer.
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), |mut request| async move { request.withdrawn().await });
        let limits = Limits { connect_answer: quick, ..Limits::default() };
        let error = tunnel(&sides, io, limits).await.unwrap().open(&to("10.0.0.1:80")).await.unwrap_err();
        assert!(matches!(error, TunnelError::Timeout { what: "the answer to CONNECT", .. }));
    });
}

#[test]
fn a_client_that_gives_up_ends_the_handlers_work() {
    local(async {
        let sides = sides();
        let ended = Rc::new(Cell::new(false));
        let seen = Rc::clone(&ended);
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), move |mut request| {
            let seen = Rc::clone(&seen);
            async move {
                request.withdrawn().await;
                seen.set(true);
            }
        });
        let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
        let asked = tokio::time::timeout(Duration::from_millis(100), tunnel.open(&to("10.0.0.1:80"))).await;
        assert!(asked.is_err() && tunnel.streams() == 0);
        eventually("the handler hears of it", || ended.get()).await;
    });
}

#[test]
fn an_unanswered_ping_ends_the_tunnel() {
    local(async {
        let sides = sides();
        let limits = Limits { ping_interval: Duration::from_millis(20), ping_timeout: Duration::from_secs(1), ..Limits::default() };
        // A relay that can be stopped stands between client and server.
        let (near, mut middle) = duplex(WIRE);
        let (mut io, _) = served(&sides, Limits::default(), Shutdown::new(), |request| async move {
            let _held = request.accept(None).unwrap();
            std::future::pending::<()>().await;
        });
        let wire = spawn_local(async move { tokio::io::copy_bidirectional(&mut middle, &mut io).await.map(|_| (middle, io)) });
        let tunnel = tunnel(&sides, near, limits).await.unwrap();
        let start = Instant::now();
        let _stream = tunnel.open(&to("10.0.0.1:80")).await.unwrap();
        while start.elapsed() < Duration::from_millis(300) {
            assert!(tunnel.is_open(), "answered pings keep it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wire.abort();
        eventually("silence is noticed", || !tunnel.is_open()).await;
    });
}

#[test]
fn draining_lets_open_streams_finish_and_takes_no_new_ones() {
    local(async {
        let sides = sides();
        let shutdown = Shutdown::new();
        let (io, server) = served(&sides, Limits::default(), shutdown.clone(), |request| async move {
            let stream = request.accept(None).unwrap();
            let (near, mut far) = pair().await;
            let echo = async {
                let mut text = String::new();
                far.read_to_string(&mut text).await.unwrap();
                far.write_all(text.as_bytes()).await.unwrap();
                far.shutdown().await.unwrap();
            };
            let meter = trackbed_hbone::Meter::new();
            tokio::join!(trackbed_hbone::pump::inbound(stream, near, &meter), echo);
        });
        let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
        let stream = tunnel.open(&to("10.0.0.1:80")).await.unwrap();
        shutdown.drain();
        eventually("GOAWAY arrives", || !tunnel.has_room()).await;
        let error = tunnel.open(&to("10.0.0.1:80")).await.unwrap_err();
        assert!(matches!(error, TunnelError::NotTaken(_)), "{error:?}");
        assert!(!server.is_finished());
        let (mut client, near) = pair().await;
        spawn_local(async move { trackbed_hbone::pump::outbound(near, stream, &trackbed_hbone::Meter::new()).await });
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "late");
        server.await.unwrap().unwrap();
    });
}

#[test]
fn closing_ends_open_streams_at_once() {
    local(async {
        let sides = sides();
        let shutdown = Shutdown::new();
        let (io, server) = served(&sides, Limits::default(), shutdown.clone(), |request| async move {
            let stream = request.accept(None).unwrap();
            let (near, _held) = pair().await;
            assert!(trackbed_hbone::pump::inbound(stream, near, &trackbed_hbone::Meter::new()).await.reset);
        });
        let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
        let stream = tunnel.open(&to("10.0.0.1:80")).await.unwrap();
        shutdown.close();
        let (_client, near) = pair().await;
        let end = trackbed_hbone::pump::outbound(near, stream, &trackbed_hbone::Meter::new()).await;
        assert_eq!((end.reset, end.code), (true, "E_TUNNEL_LOST"));
        assert!(server.await.unwrap().is_err());
    });
}

#[test]
fn a_tunnel_ends_with_the_certificate_it_was_made_with() {
    local(async {
        let authority = Authority::new();
        let rounds = [(3, 3600), (3600, 3)].map(async |(client, server)| {
            let sides = Sides {
                client: authority.certify_for(CLIENT, Duration::from_secs(client)),
                server: authority.certify_for(SERVER, Duration::from_secs(server)),
            };
            let (io, server) = served(&sides, Limits::default(), Shutdown::new(), |request| async move {
                let _held = request.accept(None).unwrap();
                std::future::pending::<()>().await;
            });
            let tunnel = tunnel(&sides, io, Limits::default()).await.unwrap();
            let _stream = tunnel.open(&to("10.0.0.1:80")).await.unwrap();
            assert!(tunnel.is_open());
            eventually("expiry ends the tunnel", || !tunnel.is_open()).await;
            assert!(server.await.unwrap().is_err());
            // And its owner is not used again for another.
            let (near, _far) = duplex(WIRE);
            if sides.client.not_after() < sides.server.not_after() {
                let error = Tunnel::connect(near, &sides.client, &[identity(SERVER)], Limits::default()).await.unwrap_err();
                assert_eq!(error.code(), "E_IDENTITY_MISSING");
            }
        });
        futures_util::future::join_all(rounds).await;
    });
}

#[test]
fn rapid_resets_do_not_pile_up_handlers() {
    local(async {
        let sides = sides();
        let (running, most) = (Rc::new(Cell::new(0_usize)), Rc::new(Cell::new(0_usize)));
        let (now, peak) = (Rc::clone(&running), Rc::clone(&most));
        let (io, server) = served(&sides, Limits::default(), Shutdown::new(), move |request| {
            let now = Rc::clone(&now);
            now.set(now.get() + 1);
            peak.set(peak.get().max(now.get()));
            async move {
                // Deliberately deaf to the reset, as an application that takes its time to accept.
                tokio::time::sleep(Duration::from_secs(5)).await;
                drop(request);
                now.set(now.get() - 1);
            }
        });
        let mut sender = foreign_client(&sides, io).await;
        for _ in 0..20_000 {
            if futures_util::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
                break;
            }
            match sender.send_request(connect_message("10.0.0.1:80"), false) {
                Ok((_, mut send)) => send.send_reset(h2::Reason::CANCEL),
                Err(_) => break,
            }
            tokio::task::yield_now().await;
        }
        assert!(server.await.unwrap().is_err(), "the connection is cut");
        assert!(most.get() <= 400, "{} handlers ran at once", most.get());
    });
}

#[test]
fn sixty_thousand_tiny_unread_frames_do_not_cost_the_tunnel() {
    // h2 cuts a connection that makes it keep many small frames: a slow reader and a chatty writer must not do that to their neighbours.
    const FRAMES: usize = 60_000; // as many as a stream's first window holds
    local(async {
        let sides = sides();
        let applications: Rc<RefCell<Vec<tokio::net::TcpStream>>> = Rc::default();
        let arrived = Rc::clone(&applications);
        let (io, _) = served(&sides, Limits::default(), Shutdown::new(), move |request| {
            let arrived = Rc::clone(&arrived);
            async move {
                let (near, far) = pair().await;
                socket2::SockRef::from(&near).set_send_buffer_size(4096).unwrap();
                socket2::SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
                let stream = request.accept(None).unwrap();
                arrived.borrow_mut().push(far);
                trackbed_hbone::pump::inbound(stream, near, &trackbed_hbone::Meter::new()).await;
            }
        });
        let mut sender = foreign_client(&sides, io).await;
        let (response, mut chatty) = sender.send_request(connect_message("10.0.0.1:80"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        for sent in 0..FRAMES {
            chatty.reserve_capacity(1);
            futures_util::future::poll_fn(|cx| {
                if chatty.capacity() > 0 { std::task::Poll::Ready(()) } else { chatty.poll_capacity(cx).map(|_| ()) }
            })
            .await;
            chatty.send_data(Bytes::from_static(b"x"), false).unwrap_or_else(|error| panic!("after {sent} frames: {error}"));
            if sent % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let (response, mut neighbour) = sender.send_request(connect_message("10.0.0.1:80"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
        neighbour.send_data(Bytes::from_static(b"still there"), true).unwrap();
        let mut seen = String::new();
        let mut application = applications.borrow_mut().pop().unwrap();
        application.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, "still there");
        // And the slow reader gets it all once it reads.
        chatty.send_data(Bytes::new(), true).unwrap();
        let mut slow = applications.borrow_mut().pop().unwrap();
        seen.clear();
        slow.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen.len(), FRAMES);
    });
}
