//! Both versions of HTTP on both sides, and what of them goes on.
use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use trackbed_contract::route::{self, Protocol};
use trackbed_l7::{End, Flag};

fn to_protocol(protocol: Protocol) -> route::Port {
    let backends = vec![route::Backend { protocol: protocol.into(), ..weighted("shop/v1", 1) }];
    one_rule(route::HttpRule { backends, ..Default::default() })
}

#[test]
fn a_backend_is_spoken_to_in_its_own_version_or_else_in_the_clients() {
    run(async {
        for (protocol, http1, http2) in [
            (Protocol::Unspecified, Version::HTTP_11, Version::HTTP_2),
            (Protocol::Http, Version::HTTP_11, Version::HTTP_11),
            (Protocol::Http2, Version::HTTP_2, Version::HTTP_2),
            (Protocol::Grpc, Version::HTTP_2, Version::HTTP_2),
        ] {
            let waypoint = waypoint(to_protocol(protocol)).await;
            let v1 = backend("v1").await;
            waypoint.backend("shop/v1", &v1);
            let (mut one, mut two) = (waypoint.http1().await, waypoint.http2().await);
            assert_eq!(one.get("/x?y").await.header("x-backend"), "v1");
            assert_eq!(two.get("/x?y").await.header("x-backend"), "v1");
            let seen = v1.seen.borrow();
            assert_eq!((seen[0].version, seen[1].version), (http1, http2), "{protocol:?}");
            for seen in &*seen {
                let expected = if seen.version == Version::HTTP_2 { ("http://cart/x?y", "") } else { ("/x?y", "cart") };
                assert_eq!((seen.uri.as_str(), seen.header("host")), expected, "{protocol:?}");
            }
        }
    });
}

#[test]
fn a_grpc_request_goes_to_a_backend_that_is_declared_http_as_http2() {
    run(async {
        let waypoint = waypoint(to_protocol(Protocol::Http)).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let request = get("/pkg.Service/Method").method("POST").header("content-type", "application/grpc").header("te", "trailers");
        waypoint.http2().await.send(request.body(body("")).unwrap()).await;
        let seen = v1.seen.borrow();
        assert_eq!((seen[0].version, seen[0].header("te")), (Version::HTTP_2, "trailers"));
    });
}

#[test]
fn a_grpc_stream_goes_both_ways_piece_by_piece_and_ends_with_trailers() {
    run(async {
        let waypoint = waypoint(port(Protocol::Grpc, None)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint(SERVICE, PORT, "echo", listener.local_addr().unwrap());
        spawn_local(async move {
            let (io, _) = listener.accept().await.unwrap();
            // Sends each piece back as it comes.
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let mut incoming = request.into_body();
                let (mut send, receive) = Channel::<Bytes>::new(1);
                spawn_local(async move {
                    while let Some(Ok(frame)) = incoming.frame().await {
                        send.send(frame).await.unwrap();
                    }
                    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("7"))]);
                    send.send(Frame::trailers(trailers)).await.unwrap();
                });
                Ok::<_, std::convert::Infallible>(Response::new(receive))
            });
            let io = hyper_util::rt::TokioIo::new(io);
            drop(hyper::server::conn::http2::Builder::new(Local).serve_connection(io, service).await);
        });
        let mut client = waypoint.http2().await;
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
            let piece = receiver.recv().await?;
            Some((Ok(Frame::data(piece)), receiver))
        });
        let request = Request::post("http://cart/pkg.Service/Chat").header("content-type", "application/grpc");
        let request = request.body(BodyExt::boxed(StreamBody::new(stream))).unwrap();
        let mut answer = client.0.send_request(request).await.unwrap().into_body();
        for piece in ["one", "two", "three"] {
            sender.send(piece.into()).await.unwrap();
            assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
        }
        drop(sender);
        let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        let told = waypoint.told().await;
        assert_eq!((told.grpc_status, told.request_bytes, told.response_bytes, told.flags), (Some(7), 11, 11, vec![]));
    });
}

#[test]
fn errors_are_told_to_grpc_clients_as_grpc_statuses() {
    run(async {
        let mut of_port = http_port(vec![
            (vec![prefix("/none")], to("shop/none")),
            (
                vec![prefix("/bad")],
                route::HttpRule {
                    backends: vec![route::Backend { refuse_status: 500, weight: 1, ..Default::default() }],
                    ..Default::default()
                },
            ),
        ]);
        of_port.protocol = Protocol::Grpc.into();
        let waypoint = waypoint(of_port).await;
        let mut client = waypoint.http2().await;
        for (path, status) in [("/other", 12), ("/none", 14), ("/bad", 14)] {
            let got = client.get(path).await;
            assert_eq!(
                (got.status.as_u16(), got.header("grpc-status"), got.body.as_str()),
                (200, status.to_string().as_str(), ""),
                "{path}"
            );
            assert_eq!(got.header("content-type"), "application/grpc");
            assert!(!got.header("grpc-message").is_empty());
            assert_eq!(waypoint.told().await.grpc_status, Some(status));
        }
    });
}

#[test]
fn what_speaks_of_one_connection_does_not_go_over_to_the_next() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend_that("v1", |_| async {
            let response = Response::builder().header("connection", "x-hop, close").header("x-hop", "1").header("keep-alive", "timeout=1");
            response.header("x-stays", "1").body(body("")).unwrap()
        })
        .await;
        waypoint.backend("shop/v1", &v1);
        let got = waypoint
            .http1()
            .await
            .send(
                get("/")
                    .header("connection", "keep-alive, X-Hop")
                    .header("x-hop", "1")
                    .header("keep-alive", "timeout=5")
                    .header("proxy-connection", "keep-alive")
                    .header("proxy-authorization", "Basic eDp5")
                    .header("te", "trailers")
                    .header("x-stays", "1")
                    .body(body(""))
                    .unwrap(),
            )
            .await;
        let seen = v1.seen.borrow();
        for name in ["connection", "x-hop", "keep-alive", "proxy-connection", "proxy-authorization", "te"] {
            assert_eq!(seen[0].header(name), "", "{name}");
        }
        assert_eq!(seen[0].header("x-stays"), "1");
        assert_eq!((got.header("x-hop"), got.header("keep-alive"), got.header("x-stays")), ("", "", "1"));
    });
}

#[test]
fn a_backend_learns_whom_a_request_is_from_and_can_follow_it() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let mut client = waypoint.http1().await;
        client.get("/").await;
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = get("/").header("x-forwarded-for", "192.0.2.1").header("x-forwarded-proto", "https");
        client.send(request.header("traceparent", traceparent).header("x-request-id", "mine").body(body("")).unwrap()).await;
        let seen = v1.seen.borrow();
        assert_eq!((seen[0].header("x-forwarded-for"), seen[0].header("x-forwarded-proto")), ("127.0.0.1", "http"));
        assert_eq!((seen[0].header("x-request-id").len(), seen[0].header("traceparent").len()), (36, 55));
        assert_eq!((seen[1].header("x-forwarded-for"), seen[1].header("x-forwarded-proto")), ("192.0.2.1, 127.0.0.1", "https"));
        assert_eq!((seen[1].header("x-request-id"), seen[1].header("traceparent")), ("mine", traceparent));
    });
}

#[test]
fn answers_without_a_body_keep_their_heads() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend_that("v1", |seen| async move {
            match (seen.method, seen.uri.as_str()) {
                (Method::HEAD, _) => Response::builder().header("content-length", "1234").body(body("")).unwrap(),
                (_, "/204") => Response::builder().status(204).body(body("")).unwrap(),
                _ => Response::builder().status(304).header("etag", "\"x\"").header("content-length", "99").body(body("")).unwrap(),
            }
        })
        .await;
        waypoint.backend("shop/v1", &v1);
        let mut client = waypoint.http1().await;
        let head = client.send(get("/").method("HEAD").body(body("")).unwrap()).await;
        assert_eq!((head.status.as_u16(), head.header("content-length"), head.body.as_str()), (200, "1234", ""));
        assert_eq!(client.get("/204").await.status, StatusCode::NO_CONTENT);
        let cached = client.get("/304").await;
        assert_eq!((cached.status.as_u16(), cached.header("etag")), (304, "\"x\""));
        assert_eq!(client.get("/204").await.status, StatusCode::NO_CONTENT);
        assert_eq!(v1.connections.get(), 1, "the backend's connection was used again after each");
    });
}

#[test]
fn a_client_that_expects_to_be_asked_for_its_body_is_asked() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        io.write_all(b"POST / HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        let mut asked = [0; 25];
        io.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        io.write_all(b"hello").await.unwrap();
        let mut status = [0; 15];
        io.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200 OK");
        let seen = v1.seen.borrow();
        assert_eq!((seen[0].body.as_str(), seen[0].header("expect")), ("hello", ""));
    });
}

#[test]
fn connect_is_refused_in_both_versions() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        assert!(waypoint.raw(b"CONNECT cart:80 HTTP/1.1\r\nHost: cart:80\r\nConnection: close\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        let mut client = waypoint.http2().await;
        let request = Request::connect("cart:80").body(body("")).unwrap();
        assert_eq!(client.0.send_request(request).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(v1.seen.borrow().is_empty());
    });
}

#[test]
fn a_websocket_goes_on_as_bytes_both_ways() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint("shop/v1", PORT, "socket", listener.local_addr().unwrap());
        let backend = spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await.unwrap());
            }
            // The first word of the new protocol comes with the answer.
            io.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nwelcome",
            )
            .await
            .unwrap();
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.unwrap();
            io.write_all(b"bye").await.unwrap();
            (String::from_utf8(head).unwrap().to_lowercase(), rest)
        });
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        io.write_all(b"GET /chat HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\nearly")
            .await
            .unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"welcome") {
            got.push(io.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(got).unwrap().to_lowercase();
        assert!(
            answer.starts_with("http/1.1 101 ") && answer.contains("upgrade: websocket") && answer.contains("sec-websocket-accept: x"),
            "{answer}"
        );
        io.write_all(b" and late").await.unwrap();
        io.shutdown().await.unwrap();
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
        let (head, received) = backend.await.unwrap();
        assert!(
            head.contains("connection: upgrade") && head.contains("upgrade: websocket") && head.contains("sec-websocket-key: x"),
            "{head}"
        );
        assert_eq!(received, b"early and late");
        assert_eq!(waypoint.ended().await, End::Closed);
        assert_eq!(waypoint.told().await.status, 101);
        let told = waypoint.told_connection().await;
        assert_eq!(
            (told.route.as_deref(), told.endpoint.as_deref(), told.request_bytes, told.response_bytes),
            (Some("route-0"), Some("socket"), 14, 10)
        );
        assert_eq!(waypoint.endpoints.held.get(), 0);
    });
}

#[test]
fn a_backend_that_switches_unasked_is_refused() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint("shop/v1", PORT, "socket", listener.local_addr().unwrap());
        spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            io.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await.unwrap();
            drop(io.read(&mut [0; 1000]).await);
        });
        assert_eq!(waypoint.http1().await.get("/").await.status, StatusCode::BAD_GATEWAY);
        assert_eq!(waypoint.told().await.flags, [Flag::UpstreamProtocolError]);
    });
}

/// A backend that answers a GET that wishes to upgrade with `answer`, then says what it heard until the end.
async fn socket(waypoint: &Waypoint, answer: &'static [u8]) -> tokio::task::JoinHandle<(String, Vec<u8>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    waypoint.endpoint("shop/v1", PORT, "socket", listener.local_addr().unwrap());
    spawn_local(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        io.write_all(answer).await.unwrap();
        let mut rest = Vec::new();
        io.read_to_end(&mut rest).await.unwrap();
        let _ = io.write_all(b"bye").await;
        (String::from_utf8(head).unwrap().to_lowercase(), rest)
    })
}

fn extended(protocol: &'static str) -> Request<Body> {
    let request = Request::connect("http://cart/chat?x=1").extension(hyper::ext::Protocol::from_static(protocol));
    request.header("sec-websocket-version", "13").body(body("")).unwrap()
}

#[test]
fn a_websocket_of_http2_goes_on_beside_other_requests_to_a_backend_of_http1() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        let switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\nwelcome";
        let backend = socket(&waypoint, switched).await;
        let mut client = waypoint.http2().await;
        let answer = client.0.send_request(extended("websocket")).await.unwrap();
        assert_eq!((answer.status(), answer.headers().get("sec-websocket-protocol").unwrap().to_str().unwrap()), (StatusCode::OK, "chat"));
        assert!(["sec-websocket-accept", "upgrade", "connection"].iter().all(|name| !answer.headers().contains_key(*name)));
        let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let mut got = [0; 7];
        io.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"welcome");
        // The connection has other streams. They go to another endpoint, for this one answers nothing else.
        waypoint.without("shop/v1", "socket");
        waypoint.backend("shop/v1", &v1);
        io.write_all(b"a frame").await.unwrap();
        assert_eq!(client.0.send_request(Request::get("http://cart/").body(body("")).unwrap()).await.unwrap().status(), StatusCode::OK);
        io.shutdown().await.unwrap();
        let mut rest = String::new();
        io.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye");
        let (head, received) = backend.await.unwrap();
        for part in ["get /chat?x=1 http/1.1\r\n", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13", "host: cart"] {
            assert!(head.contains(part), "{part}: {head}");
        }
        let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap();
        assert_eq!((key.len(), received), (24, b"a frame".to_vec()));
        let told = waypoint.told_connection().await;
        assert_eq!((told.endpoint.as_deref(), told.request_bytes, told.response_bytes), (Some("socket"), 7, 10));
    });
}

#[test]
fn a_websocket_of_http2_that_nobody_takes_is_answered() {
    for (answer, expected) in [
        (&b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"[..], StatusCode::FORBIDDEN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", StatusCode::BAD_GATEWAY),
    ] {
        run(async {
            let waypoint = waypoint(one_rule(to("shop/v1"))).await;
            let mut client = waypoint.http2().await;
            let _backend = socket(&waypoint, answer).await;
            assert_eq!(client.0.send_request(extended("websocket")).await.unwrap().status(), expected);
        });
    }
    run(async {
        let waypoint = waypoint(to_protocol(Protocol::Http2)).await;
        let mut client = waypoint.http2().await;
        waypoint.backend("shop/v1", &backend("v1").await);
        for protocol in ["websocket", "connect-udp"] {
            assert_eq!(client.0.send_request(extended(protocol)).await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
        }
        let plain = Request::connect("cart:80").body(body("")).unwrap();
        assert_eq!(client.0.send_request(plain).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    });
}

/// A server of HTTP/2 that takes extended CONNECTs as RFC 8441 has it and sends every word back, in capitals. Everything else it answers.
async fn socket_of_http2(waypoint: &Waypoint) -> Rc<RefCell<Vec<http::request::Parts>>> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    waypoint.endpoint("shop/v1", PORT, "socket", listener.local_addr().unwrap());
    let seen: Rc<RefCell<Vec<_>>> = Rc::default();
    let kept = Rc::clone(&seen);
    spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            let seen = Rc::clone(&kept);
            let service = service_fn(move |mut request: Request<Incoming>| {
                let upgrade = hyper::upgrade::on(&mut request);
                let (head, _) = request.into_parts();
                let connects = head.method == Method::CONNECT;
                let refuses = head.uri.path() == "/refused";
                seen.borrow_mut().push(head);
                if connects && !refuses {
                    spawn_local(async move {
                        let mut io = TokioIo::new(upgrade.await.unwrap());
                        let mut buffer = [0; 1024];
                        while let Some(count) = io.read(&mut buffer).await.ok().filter(|count| *count > 0) {
                            io.write_all(&buffer[..count].to_ascii_uppercase()).await.unwrap();
                        }
                        io.write_all(b"bye").await.unwrap();
                        io.shutdown().await.unwrap();
                    });
                }
                let status = if refuses { StatusCode::FORBIDDEN } else { StatusCode::OK };
                let answer = Response::builder().status(status).header("sec-websocket-protocol", "chat");
                std::future::ready(Ok::<_, hyper::Error>(answer.body(body("")).unwrap()))
            });
            let mut builder = hyper::server::conn::http2::Builder::new(Local);
            spawn_local(builder.enable_connect_protocol().serve_connection(TokioIo::new(io), service));
        }
    });
    seen
}

#[test]
fn websockets_of_http2_share_a_connection_to_a_backend_of_http2() {
    run(async {
        let waypoint = waypoint(to_protocol(Protocol::Http2)).await;
        let seen = socket_of_http2(&waypoint).await;
        let mut client = waypoint.http2().await;
        let mut open = Vec::new();
        for word in ["one", "two"] {
            let answer = client.0.send_request(extended("websocket")).await.unwrap();
            assert_eq!((answer.status(), answer.headers()["sec-websocket-protocol"].to_str().unwrap()), (StatusCode::OK, "chat"));
            let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
            io.write_all(word.as_bytes()).await.unwrap();
            let mut got = [0; 3];
            io.read_exact(&mut got).await.unwrap();
            assert_eq!(got.as_slice(), word.to_uppercase().as_bytes());
            open.push(io);
        }
        assert_eq!(client.get("/").await.status, 200, "other requests go beside them");
        for mut io in open {
            io.shutdown().await.unwrap();
            let mut rest = String::new();
            io.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "bye");
        }
        let asked = |head: &http::request::Parts| {
            let protocol = head.extensions.get::<hyper::ext::Protocol>().map(|protocol| protocol.as_str().to_owned());
            let named = ["sec-websocket-key", "upgrade", "connection"].iter().any(|name| head.headers.contains_key(*name));
            (head.method.clone(), head.uri.path_and_query().unwrap().to_string(), protocol, named)
        };
        let socket = (Method::CONNECT, "/chat?x=1".to_owned(), Some("websocket".to_owned()), false);
        let all: Vec<_> = seen.borrow().iter().map(asked).collect();
        assert_eq!(all, [socket.clone(), socket, (Method::GET, "/".to_owned(), None, false)]);
        until("both are told of", || waypoint.ledger().connections.borrow().len() == 2).await;
        let told = waypoint.ledger().connections.borrow();
        assert!(told.iter().all(|told| (told.endpoint.as_deref(), told.request_bytes, told.response_bytes) == (Some("socket"), 3, 6)));
    });
}

#[test]
fn a_websocket_that_a_backend_of_http2_refuses_is_answered_as_it_says() {
    run(async {
        let waypoint = waypoint(to_protocol(Protocol::Http2)).await;
        socket_of_http2(&waypoint).await;
        let mut client = waypoint.http2().await;
        let mut request = extended("websocket");
        *request.uri_mut() = "http://cart/refused".parse().unwrap();
        assert_eq!(client.0.send_request(request).await.unwrap().status(), StatusCode::FORBIDDEN);
    });
}

#[test]
fn an_upgrade_to_http2_is_answered_in_http1() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let request =
            get("/").header("connection", "Upgrade, HTTP2-Settings").header("upgrade", "h2c").header("http2-settings", "AAMAAABk");
        assert_eq!(waypoint.http1().await.send(request.body(body("")).unwrap()).await.status, 200);
        assert_eq!((v1.seen.borrow()[0].header("upgrade"), v1.seen.borrow()[0].header("http2-settings")), ("", ""));
    });
}

#[test]
fn bodies_of_any_size_pass_without_being_kept() {
    run(async {
        const PIECE: usize = 16 * 1024;
        const PIECES: usize = 2048;
        for protocol in [Protocol::Http, Protocol::Http2] {
            let waypoint = waypoint(to_protocol(protocol)).await;
            let v1 = backend("v1").await;
            waypoint.backend("shop/v1", &v1);
            let pieces = (0..PIECES).map(|_| Ok(Frame::data(Bytes::from_static(&[b'x'; PIECE]))));
            let upload = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)));
            let got = waypoint.http1().await.send(get("/").method("POST").body(upload).unwrap()).await;
            assert_eq!(got.body.len(), PIECE * PIECES);
            let told = waypoint.told().await;
            assert_eq!((told.request_bytes, told.response_bytes), ((PIECE * PIECES) as u64, (PIECE * PIECES) as u64));
        }
    });
}

#[test]
fn trailers_of_http1_reach_a_client_that_understands_them() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint("shop/v1", PORT, "raw", listener.local_addr().unwrap());
        spawn_local(async move {
            let (mut io, _) = listener.accept().await.unwrap();
            drop(io.read(&mut [0; 1000]).await);
            io.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n")
                .await
                .unwrap();
            drop(io.read(&mut [0; 1000]).await);
        });
        let request = Request::get("http://cart/").body(body("")).unwrap();
        let backends = vec![route::Backend { protocol: Protocol::Http.into(), ..weighted("shop/v1", 1) }];
        waypoint.replace(one_rule(route::HttpRule { backends, ..Default::default() }));
        let mut client = waypoint.http2().await;
        let got = Got::of(client.0.send_request(request).await.unwrap()).await.unwrap();
        assert_eq!((got.body.as_str(), got.trailers.unwrap()["x-sum"].to_str().unwrap()), ("abc", "6"));
    });
}

/// HTTP/1.1 as a client without a library writes it: only it sees what is left out.
#[test]
fn a_client_of_http1_that_asks_for_trailers_gets_those_that_were_announced_from_either_version() {
    const ASKS: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    const DOES_NOT: &[u8] = b"GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
    for protocol in [Protocol::Http, Protocol::Http2] {
        run(async {
            let waypoint = waypoint(to_protocol(protocol)).await;
            let v1 = backend_that("v1", |seen| async move {
                assert!(seen.headers.get("te").is_none_or(|te| te == "trailers"));
                let trailers = HeaderMap::from_iter([
                    (http::HeaderName::from_static("x-sum"), HeaderValue::from_static("6")),
                    (http::HeaderName::from_static("x-secret"), HeaderValue::from_static("7")),
                ]);
                let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::trailers(trailers))];
                let answer = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
                http::Response::builder().header("trailer", "x-sum").body(answer).unwrap()
            })
            .await;
            waypoint.backend("shop/v1", &v1);
            let answer = waypoint.raw(ASKS).await;
            assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"), "{answer}");
            let answer = waypoint.raw(DOES_NOT).await;
            assert!(answer.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{answer}");
        });
    }
}

#[test]
fn the_status_of_grpc_reaches_a_client_of_http1() {
    run(async {
        let waypoint = waypoint(to_protocol(Protocol::Grpc)).await;
        let v1 = backend_that("v1", |_| async move {
            let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("7"))]);
            let frames = [Ok(Frame::data(Bytes::from_static(b"abc"))), Ok(Frame::trailers(trailers))];
            let answer = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            http::Response::builder().header("content-type", "application/grpc").body(answer).unwrap()
        })
        .await;
        waypoint.backend("shop/v1", &v1);
        let asks = b"POST /s/m HTTP/1.1\r\nHost: cart\r\nContent-Type: application/grpc\r\nTE: trailers\r\nConnection: TE, close\r\nContent-Length: 0\r\n\r\n";
        let answer = waypoint.raw(asks).await;
        assert!(answer.ends_with("3\r\nabc\r\n0\r\ngrpc-status: 7\r\n\r\n"), "{answer}");
        assert_eq!(waypoint.told().await.grpc_status, Some(7));
    });
}

#[test]
fn an_old_client_gets_its_answer_and_the_end() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let answer = waypoint.raw(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        assert_eq!(v1.seen.borrow()[0].header("host"), "cart.shop.svc.cluster.local");
    });
}

#[test]
fn draining_ends_connections_after_their_requests() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let gate = Rc::new(tokio::sync::Notify::new());
        let wait = Rc::clone(&gate);
        let v1 = backend_that("v1", move |_| {
            let wait = Rc::clone(&wait);
            async move {
                wait.notified().await;
                Response::new(body("done"))
            }
        })
        .await;
        waypoint.backend("shop/v1", &v1);
        let (mut one, mut two, _idle) = (waypoint.http1().await, waypoint.http2().await, waypoint.http1().await);
        let requests = spawn_local(async move { tokio::join!(one.get("/"), two.get("/")) });
        until("both have arrived", || v1.seen.borrow().len() == 2).await;
        waypoint.context.drain();
        assert_eq!(waypoint.ended().await, End::Closed, "the idle one goes at once");
        gate.notify_one();
        gate.notify_one();
        gate.notify_waiters();
        let (one, two) = loop {
            gate.notify_waiters();
            if requests.is_finished() {
                break requests.await.unwrap();
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((one.body.as_str(), one.header("connection"), two.body.as_str()), ("done", "close", "done"));
        assert_eq!(waypoint.ended().await, End::Closed);
        assert_eq!(waypoint.ended().await, End::Closed);
    });
}

#[test]
fn a_client_that_goes_away_takes_its_request_along() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let v1 = backend_that("v1", |_| std::future::pending()).await;
        waypoint.backend("shop/v1", &v1);
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await.unwrap();
        until("it has arrived", || v1.seen.borrow().len() == 1).await;
        drop(io);
        let told = waypoint.told().await;
        assert_eq!((told.status, told.flags), (0, vec![Flag::ClientGone]));
        assert_eq!(waypoint.endpoints.held.get(), 0);
    });
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    run(async {
        for (first, length) in [("Content-Length: 10", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n")] {
            let waypoint = waypoint(one_rule(to("shop/v1"))).await;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            waypoint.endpoint("shop/v1", PORT, "raw", listener.local_addr().unwrap());
            spawn_local(async move {
                let (mut io, _) = listener.accept().await.unwrap();
                drop(io.read(&mut [0; 1000]).await);
                io.write_all(format!("HTTP/1.1 200 OK\r\n{first}\r\n\r\n{length}").as_bytes()).await.unwrap();
            });
            let mut client = waypoint.http1().await;
            let response = client.0.send_request(get("/").body(body("")).unwrap()).await.unwrap();
            assert!(Got::of(response).await.is_err(), "{first}");
            let told = waypoint.told().await;
            assert_eq!((told.status, told.response_bytes, told.flags), (200, 3, vec![Flag::ConnectionTermination]));
        }
    });
}
