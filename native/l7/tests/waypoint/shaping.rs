//! What rules and their backends change about requests and answers.
use crate::support::*;
use http::Response;
use trackbed_contract::route::{self, filter::Kind, path_change};

fn filter(kind: Kind) -> route::Filter {
    route::Filter { kind: Some(kind) }
}

fn set(name: &str, value: &str) -> route::HeaderChange {
    let set = vec![route::Header { name: name.into(), value: value.into() }];
    route::HeaderChange { set, ..Default::default() }
}

fn rule(filters: Vec<Kind>) -> route::HttpRule {
    route::HttpRule { filters: filters.into_iter().map(filter).collect(), ..to("shop/v1") }
}

fn change(kind: path_change::Kind) -> route::PathChange {
    route::PathChange { kind: Some(kind) }
}

#[test]
fn headers_change_by_the_rule_and_then_by_the_backend() {
    run(async {
        let mut rule = rule(vec![
            Kind::RequestHeaders(set("x-rule", "rule")),
            Kind::RequestHeaders(set("x-both", "rule")),
            Kind::ResponseHeaders(set("x-answer", "rule")),
            Kind::ResponseHeaders(route::HeaderChange { remove: vec!["x-secret".into()], ..Default::default() }),
        ]);
        let theirs = vec![Kind::RequestHeaders(set("x-both", "backend")), Kind::ResponseHeaders(set("x-answer", "backend"))];
        rule.backends[0].filters = theirs.into_iter().map(filter).collect();
        let waypoint = waypoint(one_rule(rule)).await;
        let v1 = backend_that("v1", |_| async { Response::builder().header("x-secret", "1").body(body("")).unwrap() }).await;
        waypoint.backend("shop/v1", &v1);
        let got = waypoint.http1().await.get("/").await;
        let seen = v1.seen.borrow();
        assert_eq!((seen[0].header("x-rule"), seen[0].header("x-both")), ("rule", "backend"));
        assert_eq!((got.header("x-answer"), got.header("x-secret")), ("backend", ""));
    });
}

#[test]
fn path_and_host_are_rewritten_for_both_versions() {
    run(async {
        for (kind, sent, expected) in [
            (path_change::Kind::Prefix("/new/".into()), "/old/a%2fb?q=1", "/new/a%2Fb?q=1"),
            (path_change::Kind::Prefix(String::new()), "/old?q", "/?q"),
            (path_change::Kind::Full("/all".into()), "/old/x?q=1", "/all?q=1"),
        ] {
            let rewrite = route::Rewrite { hostname: "other.example".into(), path: Some(change(kind)) };
            let waypoint = waypoint(http_port(vec![(vec![prefix("/old")], rule(vec![Kind::Rewrite(rewrite)]))])).await;
            let v1 = backend("v1").await;
            waypoint.backend("shop/v1", &v1);
            waypoint.http1().await.get(sent).await;
            waypoint.http2().await.get(sent).await;
            let seen = v1.seen.borrow();
            assert_eq!((seen[0].uri.as_str(), seen[0].header("host")), (expected, "other.example"));
            assert_eq!(seen[1].uri, format!("http://other.example{expected}"));
        }
    });
}

#[test]
fn a_redirect_goes_nowhere_and_keeps_the_query() {
    run(async {
        let redirect = route::Redirect {
            scheme: "https".into(),
            hostname: "shop.example".into(),
            path: Some(change(path_change::Kind::Prefix("/b".into()))),
            port: 8443,
            status: 308,
        };
        let filters = vec![Kind::ResponseHeaders(set("x-answer", "rule")), Kind::Redirect(redirect)];
        let waypoint = waypoint(http_port(vec![
            (vec![prefix("/a")], route::HttpRule { backends: vec![], ..rule(filters) }),
            (
                vec![prefix("/")],
                route::HttpRule { backends: vec![], ..rule(vec![Kind::Redirect(route::Redirect { status: 302, ..Default::default() })]) },
            ),
        ]))
        .await;
        let mut client = waypoint.http1().await;
        let got = client.get("/a/x?q=1").await;
        assert_eq!(
            (got.status.as_u16(), got.header("location"), got.header("x-answer")),
            (308, "https://shop.example:8443/b/x?q=1", "rule")
        );
        let request = http::Request::get("/c").header("host", "cart:80").body(body("")).unwrap();
        assert_eq!(client.send(request).await.header("location"), "http://cart/c");
        let flags: Vec<_> =
            waypoint.ledger().requests.borrow().iter().map(|told| (told.status, told.flags.clone(), told.backend.clone())).collect();
        assert_eq!(flags, [(308, vec![], None), (302, vec![], None)]);
    });
}

#[test]
fn paths_are_matched_and_sent_on_in_their_normal_form() {
    run(async {
        let waypoint = waypoint(http_port(vec![(vec![prefix("/admin")], to("shop/admin")), (vec![prefix("/")], to("shop/v1"))])).await;
        let (v1, admin) = (backend("v1").await, backend("admin").await);
        waypoint.backend("shop/v1", &v1);
        waypoint.backend("shop/admin", &admin);
        let mut client = waypoint.http1().await;
        for (sent, at, arrives) in [
            ("/%61dmin", "admin", "/admin"),
            ("/x/../admin?a=%2e%2e", "admin", "/admin?a=%2e%2e"),
            ("//admin", "admin", "//admin"),
            ("/x/%2e%2e/admin/", "admin", "/admin/"),
            ("/a%2fdmin", "v1", "/a%2Fdmin"),
            ("/admin%2fx", "v1", "/admin%2Fx"),
        ] {
            let got = client.get(sent).await;
            assert_eq!(got.header("x-backend"), at, "{sent}");
            let from = if at == "admin" { &admin } else { &v1 };
            assert_eq!(from.seen.borrow_mut().pop().unwrap().uri, arrives, "{sent}");
        }
        for refused in ["/a/..%2fadmin", "/..;/admin", "/a%00", "/%zz", "/../admin", "/a//../admin"] {
            assert_eq!(client.get(refused).await.status, 400, "{refused}");
        }
        assert!(v1.seen.borrow().is_empty() && admin.seen.borrow().is_empty());
    });
}

#[test]
fn a_preflight_is_answered_here_and_the_request_itself_there() {
    run(async {
        let cors = route::Cors {
            allow_origins: vec!["https://shop.example".into()],
            allow_methods: vec!["GET".into(), "PUT".into()],
            max_age_seconds: 5,
            ..Default::default()
        };
        let waypoint = waypoint(one_rule(rule(vec![Kind::Cors(cors)]))).await;
        let v1 =
            backend_that("v1", |_| async { Response::builder().header("access-control-allow-origin", "*").body(body("here")).unwrap() })
                .await;
        waypoint.backend("shop/v1", &v1);
        let mut client = waypoint.http1().await;
        let preflight = |origin: &str| {
            get("/").method("OPTIONS").header("origin", origin).header("access-control-request-method", "PUT").body(body("")).unwrap()
        };
        let got = client.send(preflight("https://shop.example")).await;
        assert_eq!(
            (got.status.as_u16(), got.header("access-control-allow-methods"), got.header("access-control-max-age")),
            (200, "GET, PUT", "5")
        );
        assert_eq!(client.send(preflight("https://evil.example")).await.header("access-control-allow-origin"), "");
        assert!(v1.seen.borrow().is_empty());
        let got = client.send(get("/").header("origin", "https://shop.example").body(body("")).unwrap()).await;
        assert_eq!(
            (got.body.as_str(), got.header("access-control-allow-origin"), got.header("vary")),
            ("here", "https://shop.example", "Origin")
        );
        // OPTIONS without a question is a request as any other.
        assert_eq!(client.send(get("/").method("OPTIONS").body(body("")).unwrap()).await.body, "here");
    });
}
