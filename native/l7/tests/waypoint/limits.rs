//! Rate limits, load shedding, circuit breakers, faults and sizes: what is admitted, what the others are told, and that nothing is left behind.
use crate::support::*;
use http::{Response, StatusCode};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::sleep;
use trackbed_contract::route::Protocol;
use trackbed_contract::traffic;
use trackbed_l7::Flag;

fn limit(requests: u32, burst: u32) -> traffic::RateLimit {
    traffic::RateLimit { name: "shop/limit/0".into(), requests, interval_milliseconds: 3_600_000, burst, ..Default::default() }
}

fn limited(limit: traffic::RateLimit) -> traffic::RequestScope {
    traffic::RequestScope { rate_limits: vec![limit], ..Default::default() }
}

async fn plain() -> (Waypoint, Backend) {
    let (waypoint, backend) = (waypoint(port(Protocol::Http, None)).await, backend("a").await);
    waypoint.backend(SERVICE, &backend);
    (waypoint, backend)
}

#[test]
fn what_is_beyond_a_rate_limit_is_answered_429_and_never_reaches_the_backend() {
    run(async {
        let (waypoint, backend) = plain().await;
        waypoint.request_settings(limited(limit(3600, 5)));
        let mut client = waypoint.http1().await;
        let mut counts = (0, 0);
        for _ in 0..20 {
            let got = client.get("/").await;
            if got.status == StatusCode::OK {
                counts.0 += 1;
            } else {
                assert_eq!(got.status, StatusCode::TOO_MANY_REQUESTS);
                assert_eq!(got.header("retry-after"), "1");
                counts.1 += 1;
            }
        }
        // One more a second, on a machine that may be slow.
        assert!((5..=8).contains(&counts.0) && counts.0 + counts.1 == 20, "{counts:?}");
        assert_eq!(backend.seen.borrow().len(), counts.0);
        let told = waypoint.ledger().requests.borrow();
        let refused: Vec<_> = told.iter().filter(|told| told.flags == [Flag::RateLimited]).collect();
        assert!(refused.len() == counts.1 && refused.iter().all(|told| told.limited_by.as_deref() == Some("shop/limit/0")));
    });
}

#[test]
fn a_grpc_client_is_told_that_the_resource_is_exhausted_and_when_to_ask_again() {
    run(async {
        let (waypoint, _backend) = plain().await;
        waypoint.request_settings(limited(limit(1, 1)));
        let mut client = waypoint.http2().await;
        client.get("/").await;
        let got = client.send(get("/a.B/c").method("POST").header("content-type", "application/grpc").body(body("")).unwrap()).await;
        assert_eq!((got.status, got.header("grpc-status")), (StatusCode::OK, "8"));
        let pushback: u64 = got.header("grpc-retry-pushback-ms").parse().unwrap();
        assert!((3_500_000..=3_600_000).contains(&pushback), "{pushback}");
    });
}

#[test]
fn each_value_of_a_header_has_its_own_and_a_selector_says_whom_it_is_for() {
    run(async {
        let (waypoint, _backend) = plain().await;
        let keys = vec![traffic::RateLimitKey { kind: Some(traffic::rate_limit_key::Kind::Header("x-user".into())) }];
        let selector = Some(traffic::Selector { matches: vec![prefix("/api")], ..Default::default() });
        waypoint.request_settings(limited(traffic::RateLimit { keys, selector, ..limit(3, 3) }));
        let mut client = waypoint.http1().await;
        let mut admitted = Vec::new();
        for (path, user) in [("/api", "a"), ("/api", "b"), ("/api", ""), ("/other", "a")] {
            let mut count = 0;
            for _ in 0..8 {
                let got = client.send(get(path).header("x-user", user).body(body("")).unwrap()).await;
                count += u32::from(got.status == StatusCode::OK);
            }
            admitted.push(count);
        }
        assert_eq!(admitted, [3, 3, 3, 8]);
    });
}

#[test]
fn a_limit_outlives_a_change_of_the_resource_and_of_routes() {
    run(async {
        let (waypoint, _backend) = plain().await;
        waypoint.request_settings(limited(limit(5, 5)));
        let mut client = waypoint.http1().await;
        let mut admitted = 0;
        for round in 0..10 {
            admitted += u32::from(client.get("/").await.status == StatusCode::OK);
            let body = Some(traffic::RequestLimits { max_body_bytes: 100 + round, ..Default::default() });
            waypoint.request_settings(traffic::RequestScope { limits: body, ..limited(limit(5, 5)) });
        }
        assert_eq!(admitted, 5);
    });
}

#[test]
fn settings_that_cannot_be_used_refuse_unless_there_were_others_before() {
    run(async {
        let (waypoint, _backend) = plain().await;
        let broken = traffic::RateLimit { interval_milliseconds: 0, ..limit(5, 5) };
        waypoint.request_settings(limited(limit(5, 5)));
        let reason = waypoint.rejected_request_settings(limited(broken.clone()));
        assert_eq!(reason, "scopes[0].rate_limits[0].interval_milliseconds: is 0");
        assert_eq!(waypoint.http1().await.get("/").await.status, StatusCode::OK);
        let (waypoint, _backend) = plain().await;
        waypoint.rejected_request_settings(limited(broken));
        assert_eq!(waypoint.http1().await.get("/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    });
}

/// Answers as soon as it is told to.
async fn held() -> (Backend, Rc<Cell<bool>>) {
    let go = Rc::new(Cell::new(false));
    let told = Rc::clone(&go);
    let backend = backend_that("a", move |_| {
        let told = Rc::clone(&told);
        async move {
            while !told.get() {
                sleep(Duration::from_millis(1)).await;
            }
            Response::new(body("done"))
        }
    });
    (backend.await, go)
}

/// Statuses of so many requests, each on a connection of its own, that were sent before the backend answers one.
async fn at_once(waypoint: &Waypoint, backend: &Backend, go: &Cell<bool>, count: usize, reach: usize, header: &str) -> Vec<u16> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let (mut client, header) = (waypoint.http1().await, header.to_owned());
        clients.push(spawn_local(async move {
            client.send(get("/").header("x-priority", header).body(body("")).unwrap()).await.status.as_u16()
        }));
    }
    until("those that may have reached the backend", || backend.seen.borrow().len() >= reach).await;
    until("the others are refused", || waypoint.ledger().requests.borrow().len() >= count - reach).await;
    go.set(true);
    let mut statuses = Vec::new();
    for client in clients {
        statuses.push(client.await.unwrap());
    }
    statuses.sort_unstable();
    statuses
}

#[test]
fn what_is_beyond_the_requests_under_way_is_shed_and_what_matters_less_before() {
    run(async {
        for (header, admitted) in [("high", 10), ("low", 5)] {
            let (waypoint, (backend, go)) = (waypoint(port(Protocol::Http, None)).await, held().await);
            waypoint.backend(SERVICE, &backend);
            let low = trackbed_contract::route::NamedText {
                name: "x-priority".into(),
                value: Some(trackbed_contract::route::Text { kind: Some(trackbed_contract::route::text::Kind::Exact("low".into())) }),
            };
            let matches = vec![trackbed_contract::route::HttpMatch { headers: vec![low], ..Default::default() }];
            let selector = Some(traffic::Selector { matches, ..Default::default() });
            let shedding = traffic::LoadShedding {
                name: "shop/shed".into(),
                limit: Some(traffic::load_shedding::Limit::MaxParallelRequests(10)),
                priorities: vec![traffic::Priority { selector, limit_percent: 50 }],
            };
            waypoint.request_settings(traffic::RequestScope { load_shedding: Some(shedding), ..Default::default() });
            let statuses = at_once(&waypoint, &backend, &go, 15, admitted, header).await;
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), admitted, "{header}");
            assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 15 - admitted, "{header}");
            {
                let told = waypoint.ledger().requests.borrow();
                let shed: Vec<_> = told.iter().filter(|told| told.flags == [Flag::Overloaded]).collect();
                assert!(shed.len() == 15 - admitted && shed.iter().all(|told| told.limited_by.as_deref() == Some("shop/shed")));
            }
            // Nothing is left of them.
            let statuses = at_once(&waypoint, &backend, &go, 5, 5, header).await;
            assert_eq!(statuses, [200; 5], "{header}");
        }
    });
}

#[test]
fn a_circuit_breaker_refuses_what_is_beyond_the_parallel_requests() {
    run(async {
        let (waypoint, (backend, go)) = (waypoint(port(Protocol::Http, None)).await, held().await);
        waypoint.backend(SERVICE, &backend);
        let circuit_breaker = Some(traffic::CircuitBreaker { max_parallel_requests: 4, ..Default::default() });
        waypoint.backend_settings(SERVICE, traffic::BackendPort { circuit_breaker, ..Default::default() });
        let statuses = at_once(&waypoint, &backend, &go, 10, 4, "").await;
        assert_eq!((statuses.iter().filter(|status| **status == 200).count(), statuses.len()), (4, 10));
        assert_eq!(waypoint.ledger().requests.borrow().iter().filter(|told| told.flags == [Flag::Overflow]).count(), 6);
    });
}

#[test]
fn requests_wait_for_one_of_the_connections_and_no_more_of_them_than_may() {
    run(async {
        let (waypoint, (backend, go)) = (waypoint(port(Protocol::Http, None)).await, held().await);
        waypoint.backend(SERVICE, &backend);
        let circuit_breaker = Some(traffic::CircuitBreaker { max_connections: 2, max_pending_requests: 3, ..Default::default() });
        waypoint.backend_settings(SERVICE, traffic::BackendPort { circuit_breaker, ..Default::default() });
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = waypoint.http1().await;
            clients.push(spawn_local(async move { client.get("/").await.status.as_u16() }));
        }
        until("two connections are in use", || backend.seen.borrow().len() == 2).await;
        until("five are refused", || waypoint.ledger().requests.borrow().len() == 5).await;
        go.set(true);
        let mut admitted = 0;
        for client in clients {
            admitted += u32::from(client.await.unwrap() == 200);
        }
        assert_eq!(admitted, 5, "two that had a connection, and three that waited for one");
        // Never more than two at a time: a third one is made only when one of them has gone.
        assert!(backend.seen.borrow().len() == 5);
        assert_eq!(waypoint.ledger().requests.borrow().iter().filter(|told| told.flags == [Flag::Overflow]).count(), 5);
    });
}

#[test]
fn faults_hit_their_share_of_the_requests_and_nothing_of_them_reaches_the_backend() {
    run(async {
        let (waypoint, backend) = plain().await;
        let share = Some(traffic::Share { numerator: 20, denominator: 100 });
        let abort = Some(traffic::Abort { status: Some(traffic::abort::Status::HttpStatus(418)), share });
        let delay = Some(traffic::Delay { fixed_delay_milliseconds: 1, share: Some(traffic::Share { numerator: 1, denominator: 2 }) });
        let fault_injection = Some(traffic::FaultInjection { delay, abort });
        waypoint.request_settings(traffic::RequestScope { fault_injection, ..Default::default() });
        let mut client = waypoint.http1().await;
        let mut aborted = 0_u32;
        for _ in 0..1000 {
            aborted += u32::from(client.get("/").await.status.as_u16() == 418);
        }
        // Four standard deviations.
        assert!((150..=250).contains(&aborted), "{aborted} of 1000");
        assert_eq!(backend.seen.borrow().len(), 1000 - aborted as usize);
        let told = waypoint.ledger().requests.borrow();
        assert_eq!(told.iter().filter(|told| told.flags.contains(&Flag::FaultInjected)).count(), aborted as usize);
        let delayed = told.iter().filter(|told| told.flags.contains(&Flag::Delayed)).count();
        assert!((430..=570).contains(&delayed), "{delayed} of 1000");
    });
}

#[test]
fn an_aborted_grpc_call_has_the_status_that_was_asked_for() {
    run(async {
        let (waypoint, _backend) = plain().await;
        let abort = Some(traffic::Abort { status: Some(traffic::abort::Status::GrpcStatus(10)), share: None });
        let fault_injection = Some(traffic::FaultInjection { delay: None, abort });
        waypoint.request_settings(traffic::RequestScope { fault_injection, ..Default::default() });
        let mut client = waypoint.http2().await;
        let got = client.send(get("/a.B/c").method("POST").header("content-type", "application/grpc").body(body("")).unwrap()).await;
        assert_eq!((got.status, got.header("grpc-status")), (StatusCode::OK, "10"));
        assert_eq!(client.get("/").await.status, StatusCode::CONFLICT);
    });
}

#[test]
fn a_body_that_is_too_large_is_refused_by_its_length_or_where_it_becomes_so() {
    run(async {
        let (waypoint, backend) = plain().await;
        let limits = Some(traffic::RequestLimits { max_body_bytes: 10, ..Default::default() });
        waypoint.request_settings(traffic::RequestScope { limits, ..Default::default() });
        let mut client = waypoint.http1().await;
        let send = |text: &'static str| get("/").method("POST").body(body(text)).unwrap();
        assert_eq!(client.send(send("0123456789")).await.status, StatusCode::OK);
        assert_eq!(waypoint.http1().await.send(send("0123456789a")).await.status, StatusCode::PAYLOAD_TOO_LARGE);
        let chunked = "POST / HTTP/1.1\r\nhost: cart\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n6\r\n012345\r\n6\r\n6789ab\r\n0\r\n\r\n";
        let answer = waypoint.raw(chunked.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(backend.seen.borrow().len(), 1);
        let told = waypoint.ledger().requests.borrow();
        assert_eq!(told.iter().filter(|told| told.flags == [Flag::TooLarge]).count(), 2);
    });
}

#[test]
fn a_connection_ends_in_good_order_after_as_many_requests_as_it_may_have() {
    run(async {
        let (waypoint, _backend) = plain().await;
        let limits = Some(traffic::RequestLimits { max_requests_per_connection: 3, ..Default::default() });
        waypoint.request_settings(traffic::RequestScope { limits, ..Default::default() });
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/").await.header("connection"), "");
        assert_eq!(client.get("/").await.header("connection"), "");
        assert_eq!(client.get("/").await.header("connection"), "close");
        let mut client = waypoint.http2().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status, StatusCode::OK);
        }
        until("the client was told to go", || client.0.is_closed()).await;
    });
}

#[test]
fn a_scope_is_for_its_route_alone() {
    run(async {
        let (waypoint, backend) =
            (waypoint(http_port(vec![(vec![prefix("/a")], to("shop/a")), (vec![prefix("/b")], to("shop/a"))])).await, backend("a").await);
        waypoint.backend("shop/a", &backend);
        let route = |name: &str| {
            Some(traffic::RouteTarget { kind: "HTTPRoute".into(), namespace: "shop".into(), name: name.into(), rule: Some(0) })
        };
        let scope = limited(traffic::RateLimit { requests: 0, ..limit(0, 0) });
        waypoint.request_settings(traffic::RequestScope { route: route("route-1"), ..scope });
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/a").await.status, StatusCode::OK);
        let got = client.get("/b").await;
        assert_eq!((got.status, got.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, ""), "it will never be admitted");
    });
}
