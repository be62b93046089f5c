//! Endpoints whose calls of gRPC fail: HTTP's status is 200 for all of them, and only trailers say what became of the call.
use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use std::sync::Arc;
use tokio::sync::Notify;
use trackbed_contract::route::Protocol;
use trackbed_contract::traffic::{self, Algorithm};
use trackbed_l7::Cause;

/// How a call ends.
#[derive(Debug, Clone, Copy)]
enum Ends {
    Trailers(u16),
    /// In the head of an answer without a body.
    TrailersOnly(u16),
    /// It breaks off within the body, when the client has its head.
    Breaks,
}

/// Tells of each client that has a head of an answer that is to break off.
type Heads = Arc<Notify>;

fn answered(ends: Ends, heads: &Heads) -> Response<Body> {
    let response = Response::builder().header("content-type", "application/grpc");
    let status = |code: u16| HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from(code))]);
    match ends {
        Ends::Trailers(code) => {
            let whole = Full::new(Bytes::from_static(b"\0\0\0\0\x01a")).with_trailers(std::future::ready(Some(Ok(status(code)))));
            response.body(whole.map_err(|never| match never {}).boxed()).unwrap()
        }
        Ends::TrailersOnly(code) => response.header("grpc-status", code).body(body("")).unwrap(),
        Ends::Breaks => {
            let heads = Arc::clone(heads);
            let frames = futures_util::stream::once(async move {
                heads.notified().await;
                Err::<Frame<Bytes>, _>("it breaks off".into())
            });
            response.header("x-ends", "breaks").body(BodyExt::boxed(StreamBody::new(frames))).unwrap()
        }
    }
}

/// Three in a row are one too many.
async fn with_one_that(ends: Ends, health_check: traffic::HealthCheck) -> (Waypoint, Heads) {
    let (waypoint, heads) = (waypoint(port(Protocol::Grpc, None)).await, Heads::default());
    for (name, ends) in [("a", Ends::Trailers(0)), ("b", Ends::Trailers(0)), ("bad", ends)] {
        let told = Arc::clone(&heads);
        let backend = backend_that(name, move |_| std::future::ready(answered(ends, &told))).await;
        waypoint.backend(SERVICE, &backend);
    }
    let load_balancer = Some(traffic::LoadBalancer { algorithm: Algorithm::RoundRobin.into(), ..Default::default() });
    let settings = traffic::BackendPort { health_check: Some(health_check), load_balancer, ..Default::default() };
    waypoint.backend_settings(SERVICE, settings);
    (waypoint, heads)
}

fn in_a_row() -> traffic::HealthCheck {
    traffic::HealthCheck { consecutive_5xx_errors: 3, ..Default::default() }
}

/// Calls until somebody is ejected, or so many. How they ended, in trailers or the head; None: they broke off.
async fn call(waypoint: &Waypoint, heads: &Heads, most: usize) -> Vec<Option<String>> {
    let mut client = waypoint.http2().await;
    let mut ends = Vec::new();
    for _ in 0..most {
        let request =
            http::Request::post("http://cart/pkg.Service/Method").header("content-type", "application/grpc").header("te", "trailers");
        client.0.ready().await.unwrap();
        let response = client.0.send_request(request.body(body("")).unwrap()).await.unwrap();
        if response.headers().contains_key("x-ends") {
            heads.notify_one();
        }
        let got = Got::of(response).await.ok();
        let status = |headers: &HeaderMap| headers.get("grpc-status").map(|code| code.to_str().unwrap().to_owned());
        ends.push(got.and_then(|got| got.trailers.as_ref().and_then(status).or(status(&got.headers))));
        if !waypoint.ledger().ejections.borrow().is_empty() {
            break;
        }
    }
    ends
}

#[test]
fn statuses_of_calls_that_stand_for_a_failing_server_eject_it_wherever_they_are_told() {
    run(async {
        // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS
        for code in [2, 4, 12, 13, 14, 15] {
            for ends in [Ends::Trailers(code), Ends::TrailersOnly(code)] {
                let (waypoint, heads) = with_one_that(ends, in_a_row()).await;
                let calls = call(&waypoint, &heads, 12).await;
                let ejected: Vec<_> = waypoint.ledger().ejections.borrow().iter().map(|(uid, cause, _)| (uid.clone(), *cause)).collect();
                assert_eq!(ejected, [("bad".to_owned(), Cause::Consecutive5xx)], "{ends:?}");
                let bad = calls.iter().filter(|call| **call == Some(code.to_string())).count();
                assert_eq!(bad, 3, "{ends:?}: it is asked no more often than it may fail: {calls:?}");
            }
        }
    });
}

#[test]
fn what_a_server_says_of_the_call_and_not_of_itself_is_a_good_answer() {
    run(async {
        // OK, CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED,
        // OUT_OF_RANGE, UNAUTHENTICATED
        for code in [0, 1, 3, 5, 6, 7, 8, 9, 10, 11, 16] {
            for ends in [Ends::Trailers(code), Ends::TrailersOnly(code)] {
                let (waypoint, heads) = with_one_that(ends, in_a_row()).await;
                call(&waypoint, &heads, 15).await;
                assert_eq!(*waypoint.ledger().ejections.borrow(), [], "{ends:?}");
            }
        }
    });
}

#[test]
fn a_call_that_breaks_off_before_its_status_is_a_failure_of_the_connection() {
    run(async {
        let health_check = traffic::HealthCheck { consecutive_local_origin_errors: 3, ..Default::default() };
        let (waypoint, heads) = with_one_that(Ends::Breaks, health_check).await;
        let calls = call(&waypoint, &heads, 12).await;
        let ejected: Vec<_> = waypoint.ledger().ejections.borrow().iter().map(|(uid, cause, _)| (uid.clone(), *cause)).collect();
        assert_eq!(ejected, [("bad".to_owned(), Cause::ConsecutiveLocal)]);
        assert_eq!(calls.iter().filter(|call| call.is_none()).count(), 3);
    });
}

#[test]
fn good_calls_between_failed_ones_keep_a_server_in() {
    run(async {
        let (waypoint, heads) = (waypoint(port(Protocol::Grpc, None)).await, Heads::default());
        let count = std::cell::Cell::new(0);
        let flaky = backend_that("flaky", move |_| {
            count.set(count.get() + 1);
            std::future::ready(answered(Ends::Trailers(if count.get() % 3 == 0 { 0 } else { 14 }), &Heads::default()))
        });
        waypoint.backend(SERVICE, &flaky.await);
        waypoint.backend_settings(SERVICE, traffic::BackendPort { health_check: Some(in_a_row()), ..Default::default() });
        call(&waypoint, &heads, 30).await;
        assert_eq!(*waypoint.ledger().ejections.borrow(), []);
    });
}
