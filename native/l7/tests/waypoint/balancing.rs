//! Which endpoint a request goes to: algorithms, hashes and sessions over real connections, outliers that leave and return.
use crate::support::*;
use http::{HeaderMap, Response, StatusCode};
use std::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use trackbed_contract::route::Protocol;
use trackbed_contract::traffic::{self, Algorithm};
use trackbed_l7::{Cause, Flag};

/// Backends "b0", "b1", ... of the service.
async fn several(count: usize) -> (Waypoint, Vec<Backend>) {
    let waypoint = waypoint(port(Protocol::Http, None)).await;
    let mut all = Vec::new();
    for index in 0..count {
        let backend = backend(&format!("b{index}")).await;
        waypoint.backend(SERVICE, &backend);
        all.push(backend);
    }
    (waypoint, all)
}

fn load_balancer(load_balancer: traffic::LoadBalancer) -> traffic::BackendPort {
    traffic::BackendPort { load_balancer: Some(load_balancer), ..Default::default() }
}

fn hashed(algorithm: Algorithm, kind: traffic::hash_key::Kind) -> traffic::BackendPort {
    let hash = vec![traffic::HashKey { kind: Some(kind) }];
    load_balancer(traffic::LoadBalancer { algorithm: algorithm.into(), hash, ..Default::default() })
}

async fn asked(client: &mut Http1, headers: &[(&str, &str)]) -> Got {
    let request = headers.iter().fold(get("/"), |request, (name, value)| request.header(*name, *value));
    client.send(request.body(body("")).unwrap()).await
}

#[test]
fn every_algorithm_asks_all_endpoints() {
    run(async {
        for algorithm in [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::LeastRequest, Algorithm::Random] {
            let (waypoint, all) = several(3).await;
            waypoint.balanced(SERVICE, algorithm);
            // Many at once: one after the other, the fastest might do it all.
            let mut clients = Vec::new();
            for _ in 0..8 {
                let mut client = waypoint.http1().await;
                clients.push(spawn_local(async move {
                    for _ in 0..15 {
                        assert_eq!(client.get("/").await.status, StatusCode::OK);
                    }
                }));
            }
            for client in clients {
                client.await.unwrap();
            }
            let seen: Vec<_> = all.iter().map(|backend| backend.seen.borrow().len()).collect();
            assert!(seen.iter().sum::<usize>() == 120 && seen.iter().all(|count| *count > 5), "{algorithm:?}: {seen:?}");
        }
    });
}

#[test]
fn a_header_leads_to_the_same_endpoint_on_every_connection_and_after_one_has_left_only_its_own_move() {
    run(async {
        for algorithm in [Algorithm::Maglev, Algorithm::RingHash] {
            let (waypoint, _all) = several(4).await;
            waypoint.backend_settings(SERVICE, hashed(algorithm, traffic::hash_key::Kind::Header("x-user".into())));
            let users: Vec<_> = (0..40).map(|user| format!("user-{user}")).collect();
            let mut before = Vec::new();
            for user in &users {
                let mut client = waypoint.http1().await;
                before.push(asked(&mut client, &[("x-user", user)]).await.header("x-backend").to_owned());
                let again = asked(&mut waypoint.http1().await, &[("x-user", user)]).await;
                assert_eq!(again.header("x-backend"), before[before.len() - 1], "{algorithm:?}");
            }
            assert_eq!(before.iter().collect::<HashSet<_>>().len(), 4, "{algorithm:?}: {before:?}");
            waypoint.without(SERVICE, "b2");
            let mut client = waypoint.http1().await;
            for (user, then) in users.iter().zip(before) {
                let now = asked(&mut client, &[("x-user", user)]).await.header("x-backend").to_owned();
                assert!(if then == "b2" { now != "b2" } else { now == then }, "{algorithm:?}: {user} from {then} to {now}");
            }
        }
    });
}

#[test]
fn a_cookie_that_the_waypoint_makes_leads_back_to_the_endpoint_that_it_was_made_at() {
    run(async {
        let (waypoint, _all) = several(4).await;
        let cookie = traffic::Cookie { name: "stick".into(), ttl_milliseconds: 60_000, ..Default::default() };
        waypoint.backend_settings(SERVICE, hashed(Algorithm::Maglev, traffic::hash_key::Kind::Cookie(cookie)));
        let mut seen = HashSet::new();
        for _ in 0..20 {
            let mut client = waypoint.http1().await;
            let first = client.get("/").await;
            let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
            assert!(cookie.starts_with("stick="), "{cookie}");
            for _ in 0..3 {
                let next = asked(&mut client, &[("cookie", &cookie)]).await;
                assert_eq!((next.header("x-backend"), next.header("set-cookie")), (first.header("x-backend"), ""));
            }
            seen.insert(first.header("x-backend").to_owned());
        }
        assert!(seen.len() > 1, "{seen:?}");
    });
}

fn persistent(kind: traffic::SessionType) -> traffic::BackendPort {
    let session = traffic::SessionPersistence { r#type: kind.into(), session_name: "x-session".into(), ..Default::default() };
    traffic::BackendPort { session_persistence: Some(session), ..Default::default() }
}

fn session(kind: traffic::SessionType, headers: &HeaderMap) -> Option<(String, String)> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    match kind {
        traffic::SessionType::Header => Some(("x-session".into(), text("x-session")?)),
        _ => Some(("cookie".into(), text("set-cookie")?.split(';').next()?.to_owned())),
    }
}

#[test]
fn a_session_outlives_restarts_and_ends_only_when_its_own_endpoint_has_gone() {
    run(async {
        for kind in [traffic::SessionType::Cookie, traffic::SessionType::Header] {
            let (waypoint, _all) = several(4).await;
            waypoint.backend_settings(SERVICE, persistent(kind));
            let mut client = waypoint.http1().await;
            let first = client.get("/").await;
            let (name, token) = session(kind, &first.headers).unwrap();
            let own = first.header("x-backend").to_owned();
            let stays = async |client: &mut Http1| {
                for _ in 0..10 {
                    let got = asked(client, &[(&name, &token)]).await;
                    assert_eq!(got.header("x-backend"), own, "{kind:?}");
                    assert!(session(kind, &got.headers).is_none(), "what the client has is not told again");
                }
            };
            stays(&mut client).await;
            // Another endpoint goes, and comes back elsewhere: a pod that was replaced.
            let other = if own == "b0" { "b1" } else { "b0" };
            waypoint.without(SERVICE, other);
            waypoint.endpoint(SERVICE, PORT, "b9", backend("b9").await.address);
            stays(&mut client).await;
            // Its own server begins anew, at the same pod: another address, the same uid.
            waypoint.without(SERVICE, &own);
            waypoint.endpoint(SERVICE, PORT, &own, backend(&own).await.address);
            stays(&mut client).await;
            // So does the waypoint.
            waypoint.forget_backends();
            stays(&mut client).await;
            waypoint.without(SERVICE, &own);
            let moved = asked(&mut client, &[(&name, &token)]).await;
            assert_ne!(moved.header("x-backend"), own);
            let (_, next) = session(kind, &moved.headers).expect("the session is another one now");
            let again = asked(&mut client, &[(&name, &next)]).await;
            assert_eq!(again.header("x-backend"), moved.header("x-backend"), "{kind:?}");
        }
    });
}

/// Answers with this status until it is told to answer well.
async fn ailing(name: &'static str, status: u16) -> (Backend, Rc<Cell<bool>>) {
    let well = Rc::new(Cell::new(false));
    let told = Rc::clone(&well);
    let backend = backend_that(name, move |_| {
        let status = if told.get() { 200 } else { status };
        std::future::ready(Response::builder().status(status).header("x-backend", name).body(body("")).unwrap())
    });
    (backend.await, well)
}

#[test]
fn an_endpoint_that_fails_in_a_row_leaves_and_returns() {
    run(async {
        let (waypoint, _all) = several(3).await;
        let (bad, well) = ailing("bad", 503).await;
        waypoint.backend(SERVICE, &bad);
        let health_check = Some(traffic::HealthCheck {
            consecutive_5xx_errors: 3,
            base_ejection_milliseconds: 500,
            max_ejection_percent: 50,
            ..Default::default()
        });
        let load_balancer = Some(traffic::LoadBalancer { algorithm: Algorithm::RoundRobin.into(), ..Default::default() });
        waypoint.backend_settings(SERVICE, traffic::BackendPort { health_check, load_balancer, ..Default::default() });
        let mut client = waypoint.http1().await;
        let mut failures = 0;
        while waypoint.ledger().ejections.borrow().is_empty() {
            failures += u32::from(client.get("/").await.status == 503);
        }
        assert_eq!(failures, 3);
        let ejected = Instant::now();
        let ejections = waypoint.ledger().ejections.borrow().clone();
        assert_eq!(ejections, [("bad".to_owned(), Cause::Consecutive5xx, Duration::from_millis(500))]);
        let before = bad.seen.borrow().len();
        for _ in 0..40 {
            let got = client.get("/").await;
            if ejected.elapsed() < Duration::from_millis(450) {
                assert_eq!(got.status, 200);
                assert_eq!(bad.seen.borrow().len(), before);
            }
        }
        well.set(true);
        let mut client = waypoint.http1().await;
        while bad.seen.borrow().len() < before + 10 {
            assert_eq!(client.get("/").await.status, 200);
            sleep(Duration::from_millis(1)).await;
        }
        assert!(ejected.elapsed() >= Duration::from_millis(500), "not before its time was over");
        assert_eq!(waypoint.ledger().ejections.borrow().len(), 1);
    });
}

#[test]
fn a_try_after_an_ejection_goes_to_an_endpoint_that_is_not_ejected() {
    run(async {
        let rule = trackbed_contract::route::HttpRule {
            retry: Some(trackbed_contract::route::Retry {
                codes: vec![503],
                attempts: 1,
                backoff_milliseconds: 1,
                on_connection_error: true,
            }),
            ..to("shop/v1")
        };
        let waypoint = waypoint(one_rule(rule)).await;
        let (bad, _well) = ailing("bad", 503).await;
        let good = backend("good").await;
        waypoint.backend("shop/v1", &bad);
        waypoint.backend("shop/v1", &good);
        let health_check = Some(traffic::HealthCheck { consecutive_gateway_errors: 2, ..Default::default() });
        let load_balancer = Some(traffic::LoadBalancer { algorithm: Algorithm::RoundRobin.into(), ..Default::default() });
        waypoint.backend_settings("shop/v1", traffic::BackendPort { health_check, load_balancer, ..Default::default() });
        let mut client = waypoint.http1().await;
        for _ in 0..30 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert_eq!(bad.seen.borrow().len(), 2, "from then on it is not asked, for the base of 30 s");
    });
}

/// Requests that the slow one of four endpoints is asked by eight clients: it takes 50 ms for what the others do at once.
async fn slow_share(algorithm: Algorithm) -> usize {
    let (waypoint, _all) = several(3).await;
    let slow = backend_that("slow", |_| async {
        sleep(Duration::from_millis(50)).await;
        Response::new(body(""))
    })
    .await;
    waypoint.backend(SERVICE, &slow);
    waypoint.balanced(SERVICE, algorithm);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = waypoint.http1().await;
        clients.push(spawn_local(async move {
            for _ in 0..50 {
                client.get("/").await;
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    slow.seen.borrow().len()
}

#[test]
fn peak_ewma_leaves_a_slow_endpoint_alone_where_round_robin_gives_it_its_quarter() {
    run(async {
        let (ewma, in_turn) = (slow_share(Algorithm::PeakEwma).await, slow_share(Algorithm::RoundRobin).await);
        assert_eq!(in_turn, 100, "of 400: its p75 is that of the slow one");
        // The first requests find out; after that it is asked only when enough wait elsewhere.
        assert!(ewma < in_turn / 2, "{ewma} of 400");
    });
}

#[test]
fn a_connection_has_no_more_requests_than_it_may_and_is_replaced() {
    run(async {
        let (waypoint, all) = several(1).await;
        let connections = Some(traffic::Connections { max_requests_per_connection: 5, ..Default::default() });
        waypoint.backend_settings(SERVICE, traffic::BackendPort { connections, ..Default::default() });
        let (mut client, mut http2) = (waypoint.http1().await, waypoint.http2().await);
        for _ in 0..20 {
            client.get("/").await;
            http2.get("/").await;
        }
        assert_eq!(all[0].connections.get(), 8, "four of each version");
    });
}

#[test]
fn tries_beyond_the_first_are_held_to_their_own_limit() {
    run(async {
        let retry = trackbed_contract::route::Retry { codes: vec![503], attempts: 5, backoff_milliseconds: 50, on_connection_error: true };
        let waypoint = waypoint(one_rule(trackbed_contract::route::HttpRule { retry: Some(retry), ..to("shop/v1") })).await;
        let (bad, _well) = ailing("bad", 503).await;
        waypoint.backend("shop/v1", &bad);
        let circuit_breaker = Some(traffic::CircuitBreaker { max_parallel_retries: 1, ..Default::default() });
        waypoint.backend_settings("shop/v1", traffic::BackendPort { circuit_breaker, ..Default::default() });
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = waypoint.http1().await;
            clients.push(spawn_local(async move { client.get("/").await.status.as_u16() }));
        }
        for client in clients {
            assert_eq!(client.await.unwrap(), 503);
        }
        let told = waypoint.ledger().requests.borrow();
        assert!(told.iter().filter(|told| told.flags.contains(&Flag::Overflow)).count() >= 4, "{told:?}");
    });
}
