//! Which backend a request goes to.
use crate::support::*;
use std::collections::HashMap;
use trackbed_contract::route::{self, Protocol};
use trackbed_l7::{End, Flag};

#[test]
fn without_a_route_requests_go_to_the_service_itself() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        let backend = backend("cart").await;
        waypoint.backend(SERVICE, &backend);
        let got = waypoint.http1().await.get("/a?b=c").await;
        assert_eq!((got.status.as_u16(), got.header("x-backend")), (200, "cart"));
        assert_eq!(backend.seen.borrow()[0].uri, "/a?b=c");
        assert_eq!(backend.seen.borrow()[0].header("host"), "cart");
        let told = waypoint.told().await;
        assert_eq!((told.route, told.backend.as_deref(), told.status, told.flags), (None, Some(SERVICE), 200, vec![]));
    });
}

#[test]
fn the_first_entry_that_matches_wins_and_nothing_else_is_let_through() {
    run(async {
        let waypoint =
            waypoint(http_port(vec![(vec![prefix("/v2")], to("shop/v2")), (vec![prefix("/v1"), prefix("/old")], to("shop/v1"))])).await;
        let (v1, v2) = (backend("v1").await, backend("v2").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/v2", &v2);
        let mut client = waypoint.http1().await;
        for (path, expected) in [("/v1", "v1"), ("/v2/x", "v2"), ("/old", "v1"), ("/%761/../v2", "v2")] {
            assert_eq!(client.get(path).await.header("x-backend"), expected, "{path}");
        }
        waypoint.ledger().requests.borrow_mut().clear();
        let got = client.get("/v3").await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (404, "no rule of the routes matches"));
        let told = waypoint.told().await;
        assert_eq!((told.route, told.status, told.flags), (None, 404, vec![Flag::NoRoute]));
    });
}

#[test]
fn consumers_have_their_own_routes_instead_of_the_producers() {
    run(async {
        let consumer = http(vec![(vec![prefix("/")], to("shop/v2"))]);
        let mut of_port = one_rule(to("shop/v1"));
        of_port.consumers = HashMap::from([("office".to_owned(), consumer)]);
        let waypoint = waypoint(of_port).await;
        let (v1, v2) = (backend("v1").await, backend("v2").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/v2", &v2);
        assert_eq!(waypoint.http1().await.get("/").await.header("x-backend"), "v1");
        waypoint.client_namespace("office");
        assert_eq!(waypoint.http1().await.get("/").await.header("x-backend"), "v2");
        waypoint.client_namespace("elsewhere");
        assert_eq!(waypoint.http1().await.get("/").await.header("x-backend"), "v1");
    });
}

#[test]
fn five_hundred_requests_on_one_connection_spread_by_weight() {
    run(async {
        let rule = route::HttpRule { backends: vec![weighted("shop/v1", 70), weighted("shop/v2", 30)], ..Default::default() };
        let waypoint = waypoint(one_rule(rule)).await;
        let (v1, v2) = (backend("v1").await, backend("v2").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/v2", &v2);
        let mut client = waypoint.http1().await;
        for _ in 0..500 {
            client.get("/").await;
        }
        let first = v1.seen.borrow().len();
        assert!((345..=355).contains(&first), "{first} of 500");
        assert_eq!(v2.seen.borrow().len(), 500 - first);
    });
}

#[test]
fn requests_on_one_connection_spread_over_endpoints_and_reuse_connections() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        let all = [backend("a").await, backend("b").await, backend("c").await];
        for backend in &all {
            waypoint.backend(SERVICE, backend);
        }
        let mut client = waypoint.http1().await;
        for _ in 0..30 {
            client.get("/").await;
        }
        let mut http2 = waypoint.http2().await;
        for _ in 0..30 {
            http2.get("/").await;
        }
        for backend in &all {
            assert_eq!(backend.seen.borrow().len(), 20, "{}", backend.name);
            assert_eq!(backend.connections.get(), 2, "{}: one of each version", backend.name);
        }
        until("no request holds an endpoint", || waypoint.endpoints.held.get() == 0).await;
    });
}

#[test]
fn backends_without_weight_or_use_answer_what_the_route_says() {
    run(async {
        let unusable = route::Backend { refuse_status: 500, service: String::new(), port: 0, weight: 1, ..Default::default() };
        let waypoint = waypoint(http_port(vec![
            (vec![prefix("/zero")], route::HttpRule { backends: vec![weighted("shop/v1", 0)], ..Default::default() }),
            (vec![prefix("/none")], route::HttpRule::default()),
            (vec![prefix("/bad")], route::HttpRule { backends: vec![unusable], ..Default::default() }),
            (vec![prefix("/empty")], to("shop/empty")),
            (vec![prefix("/unknown")], to("shop/unknown")),
        ]))
        .await;
        let v1 = backend("v1").await;
        waypoint.backend("shop/v1", &v1);
        waypoint.endpoint("shop/empty", 81, "other-port", v1.address);
        let mut client = waypoint.http1().await;
        for (path, status, flag) in [
            ("/zero", 500, Flag::NoBackend),
            ("/none", 500, Flag::NoBackend),
            ("/bad", 500, Flag::NoBackend),
            ("/empty", 503, Flag::NoEndpoint),
            ("/unknown", 503, Flag::NoEndpoint),
        ] {
            assert_eq!(client.get(path).await.status.as_u16(), status, "{path}");
            assert_eq!(waypoint.told().await.flags, [flag], "{path}");
        }
        assert!(v1.seen.borrow().is_empty());
    });
}

#[test]
fn a_new_table_is_in_force_for_the_next_request_of_an_open_connection() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let (v1, v2) = (backend("v1").await, backend("v2").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/v2", &v2);
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/").await.header("x-backend"), "v1");
        waypoint.replace(one_rule(to("shop/v2")));
        assert_eq!(client.get("/").await.header("x-backend"), "v2");
    });
}

#[test]
fn a_service_that_nothing_is_known_of_is_refused() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        waypoint.context.replace(std::sync::Arc::default());
        assert_eq!(waypoint.raw(b"GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await, "");
        assert_eq!(waypoint.ended().await, End::Refused);
        assert_eq!(waypoint.told_connection().await.flags, [Flag::NoRoute]);
    });
}
