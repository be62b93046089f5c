//! Tries beside the first, times that are over, and the budget of both.
use crate::support::*;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use trackbed_contract::route::{self, Protocol};
use trackbed_l7::{Flag, Outcome};

#[test]
fn what_no_endpoint_heard_is_tried_elsewhere_without_a_rule() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        let alive = backend("alive").await;
        waypoint.endpoint(SERVICE, PORT, "dead", nobody().await);
        waypoint.backend(SERVICE, &alive);
        let mut client = waypoint.http1().await;
        for _ in 0..4 {
            let got = client.send(get("/").method("POST").body(body("once")).unwrap()).await;
            assert_eq!((got.header("x-backend"), got.body.as_str()), ("alive", "once"));
        }
        assert_eq!(alive.seen.borrow().len(), 4);
        assert!(waypoint.endpoints.observed.borrow().contains(&("dead".into(), Outcome::Unreachable)));
        assert!(waypoint.ledger().requests.borrow().iter().any(|told| told.retries == 1 && told.flags.is_empty()));
    });
}

#[test]
fn a_backend_that_nobody_reaches_is_unavailable() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        waypoint.endpoint(SERVICE, PORT, "dead", nobody().await);
        assert_eq!(waypoint.http1().await.get("/").await.status, 503);
        let told = waypoint.told().await;
        assert_eq!((told.retries, told.flags), (2, vec![Flag::ConnectFailure]));
        assert_eq!(waypoint.endpoints.connects.get(), 3);
    });
}

fn retrying(codes: &[u32], attempts: u32, on_connection_error: bool) -> route::HttpRule {
    let retry = Some(route::Retry { codes: codes.to_vec(), attempts, backoff_milliseconds: 1, on_connection_error });
    route::HttpRule { retry, ..to("shop/v1") }
}

/// Answers 503 so often, then 200.
async fn failing(times: usize) -> Backend {
    let left = Rc::new(Cell::new(times));
    backend_that("failing", move |seen| {
        let fails = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        let status = if fails { 503 } else { 200 };
        std::future::ready(Response::builder().status(status).body(body(seen.body)).unwrap())
    })
    .await
}

/// Takes connections, reads a head from each and hangs up.
async fn hanging_up() -> (SocketAddr, Rc<Cell<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Rc::<Cell<usize>>::default();
    let counting = Rc::clone(&count);
    spawn_local(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            drop(io.read(&mut [0; 1000]).await);
            counting.set(counting.get() + 1);
        }
    });
    (address, count)
}

#[test]
fn statuses_of_the_rule_are_tried_again_with_the_same_body() {
    run(async {
        for http2 in [false, true] {
            let waypoint = waypoint(one_rule(retrying(&[503], 3, false))).await;
            let v1 = failing(2).await;
            waypoint.backend("shop/v1", &v1);
            let request = get("/").method("POST").body(body("the whole body")).unwrap();
            let got = if http2 { waypoint.http2().await.send(request).await } else { waypoint.http1().await.send(request).await };
            assert_eq!((got.status.as_u16(), got.body.as_str()), (200, "the whole body"));
            assert!(v1.seen.borrow().len() == 3 && v1.seen.borrow().iter().all(|seen| seen.body == "the whole body"));
            let told = waypoint.told().await;
            assert_eq!((told.retries, told.flags, told.request_bytes), (2, vec![], 14));
        }
    });
}

#[test]
fn the_last_answer_is_told_when_all_tries_failed() {
    run(async {
        let waypoint = waypoint(one_rule(retrying(&[503], 2, false))).await;
        let v1 = failing(100).await;
        waypoint.backend("shop/v1", &v1);
        assert_eq!(waypoint.http1().await.get("/").await.status, 503);
        assert_eq!(v1.seen.borrow().len(), 3);
        let told = waypoint.told().await;
        assert_eq!((told.status, told.retries, told.flags), (503, 2, vec![Flag::RetriesExceeded]));
    });
}

#[test]
fn a_retry_prefers_an_endpoint_that_was_not_tried() {
    run(async {
        let waypoint = waypoint(one_rule(retrying(&[503], 1, false))).await;
        let (bad, good) = (failing(1000).await, backend("good").await);
        waypoint.endpoint("shop/v1", PORT, "bad", bad.address);
        waypoint.backend("shop/v1", &good);
        let mut client = waypoint.http1().await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert!(!bad.seen.borrow().is_empty());
    });
}

#[test]
fn a_connection_lost_before_the_answer_is_tried_again_if_the_rule_says_so() {
    run(async {
        for (on_connection_error, tries, flags) in
            [(true, 3, vec![Flag::RetriesExceeded, Flag::ConnectionTermination]), (false, 1, vec![Flag::ConnectionTermination])]
        {
            let waypoint = waypoint(one_rule(retrying(&[], 2, on_connection_error))).await;
            let (address, count) = hanging_up().await;
            waypoint.endpoint("shop/v1", PORT, "hanging-up", address);
            let request = get("/").method("POST").body(body("x")).unwrap();
            assert_eq!(waypoint.http1().await.send(request).await.status, 503);
            assert_eq!(count.get(), tries);
            assert_eq!(waypoint.told().await.flags, flags);
        }
    });
}

#[test]
fn a_connection_that_the_backend_closed_while_it_was_idle_is_no_error() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        waypoint.endpoint("shop/v1", PORT, "once", listener.local_addr().unwrap());
        // One answer on each connection, and the end the moment the next request comes.
        spawn_local(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                spawn_local(async move {
                    let mut heard = [0; 1000];
                    drop(io.read(&mut heard).await);
                    drop(io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await);
                    drop(io.read(&mut heard).await);
                });
            }
        });
        let mut client = waypoint.http1().await;
        for _ in 0..20 {
            assert_eq!(client.get("/").await.body, "ok");
        }
        assert!(waypoint.ledger().requests.borrow().iter().all(|told| told.flags.is_empty()));
        // What may have had an effect is not sent twice.
        let got = client.send(get("/").method("POST").body(body("")).unwrap()).await;
        assert_eq!(got.status, 503);
    });
}

#[test]
fn a_body_that_is_too_large_to_keep_is_sent_once() {
    run(async {
        let waypoint = waypoint(one_rule(retrying(&[503], 5, true))).await;
        let v1 = failing(1).await;
        waypoint.backend("shop/v1", &v1);
        let got = waypoint.http1().await.send(get("/").method("POST").body(body("x".repeat(70_000))).unwrap()).await;
        assert_eq!((got.status.as_u16(), v1.seen.borrow().len()), (503, 1));
    });
}

#[test]
fn the_budget_ends_a_storm_of_retries() {
    run(async {
        let waypoint = waypoint(one_rule(retrying(&[503], 10, false))).await;
        let v1 = failing(usize::MAX).await;
        waypoint.backend("shop/v1", &v1);
        let client = waypoint.http2().await;
        let requests = (0..100).map(|_| {
            let mut client = Http2(client.0.clone());
            async move { client.get("/").await.status }
        });
        assert!(futures_util::future::join_all(requests).await.iter().all(|status| *status == 503));
        // A hundred requests, and their fifth, and a hundred that are free in ten seconds; slow machines may see a second window.
        let seen = v1.seen.borrow().len();
        assert!((200..=330).contains(&seen), "{seen} instead of 1100");
    });
}

#[test]
fn a_request_is_over_when_its_time_is() {
    run(async {
        let silent = || backend_that("silent", |_| std::future::pending());
        for (request, backend, codes, tries) in [(60, 0, &[][..], 1), (0, 60, &[], 1), (5000, 20, &[504], 3), (60, 20_000, &[504], 1)] {
            let mut rule = retrying(codes, 2, false);
            (rule.request_timeout_milliseconds, rule.backend_timeout_milliseconds) = (request, backend);
            let waypoint = waypoint(one_rule(rule)).await;
            let v1 = silent().await;
            waypoint.backend("shop/v1", &v1);
            let begun = Instant::now();
            let got = waypoint.http1().await.get("/").await;
            assert_eq!(got.status, 504);
            assert!(
                begun.elapsed() >= Duration::from_millis(20 * tries) && begun.elapsed() < Duration::from_secs(4),
                "{:?}",
                begun.elapsed()
            );
            assert_eq!(v1.seen.borrow().len() as u64, tries, "{request} {backend}");
            assert!(waypoint.told().await.flags.contains(&Flag::Timeout));
            until("the endpoint is let go", || waypoint.endpoints.held.get() == 0).await;
        }
    });
}

#[test]
fn an_answer_that_takes_too_long_breaks_off() {
    run(async {
        let rule = route::HttpRule { request_timeout_milliseconds: 100, ..to("shop/v1") };
        let waypoint = waypoint(one_rule(rule)).await;
        let v1 = backend_that("slow", |_| async {
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
            Response::new(BodyExt::boxed(StreamBody::new(first.chain(futures_util::stream::pending()))))
        })
        .await;
        waypoint.backend("shop/v1", &v1);
        let mut client = waypoint.http1().await;
        let response = client.0.send_request(get("/").body(body("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(Got::of(response).await.is_err());
        assert_eq!(waypoint.told().await.flags, [Flag::Timeout]);
    });
}

#[test]
fn a_grpc_client_is_told_that_its_deadline_is_over() {
    run(async {
        let mut of_port = one_rule(route::HttpRule { request_timeout_milliseconds: 20, ..to("shop/v1") });
        of_port.protocol = Protocol::Grpc.into();
        let waypoint = waypoint(of_port).await;
        let v1 = backend_that("silent", |_| std::future::pending()).await;
        waypoint.backend("shop/v1", &v1);
        let got = waypoint.http2().await.get("/a/b").await;
        assert_eq!((got.status.as_u16(), got.header("grpc-status")), (200, "4"));
    });
}

#[test]
fn a_client_whose_body_breaks_off_is_not_the_backends_fault() {
    run(async {
        let waypoint = waypoint(one_rule(retrying(&[503], 3, true))).await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        let mut io = TcpStream::connect(waypoint.address).await.unwrap();
        io.write_all(b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
        until("the backend was reached", || v1.connections.get() == 1).await;
        drop(io);
        let told = waypoint.told().await;
        assert_eq!((told.flags, told.retries), (vec![Flag::ClientGone], 0));
    });
}
