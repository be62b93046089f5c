//! A route is no way around the policies of the service that it leads to.
use crate::access::{access, any, exact, policy, prefix as prefix_text};
use crate::external::{Decider, asking, denied, grpc, ok};
use crate::support::{
    Backend, PORT, SERVICE, Waypoint, backend, backend_that, body, get, http, http_port, one_rule, port, prefix, run, to, until, waypoint,
    weighted,
};
use crate::tokens::Issuer;
use prost::Message;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trackbed_contract::authorization::{Access, Action, Block, Blocks, Match, Named, Policy, Ports, TokenRule};
use trackbed_contract::ext_authz::{DeniedHttpResponse, OkHttpResponse};
use trackbed_contract::route::{self, Protocol, StreamRule, StreamRules, filter, path_change, rule_set};
use trackbed_l7::{Copied, Flag, Kind};

/// Beside what is in force.
fn guarded(waypoint: &Waypoint, service: &str, access: Access) {
    let routes = route::Routes { service: service.into(), ports: vec![], guarded: true };
    waypoint.apply(Kind::Access, service, &Access { service: service.into(), ..access }.encode_to_vec());
    waypoint.apply(Kind::Routes, service, &routes.encode_to_vec());
}

/// Everything that is addressed to the cart goes to v1, whose policies these are. Nobody guards the cart.
async fn routed(port: route::Port, policies: Vec<Policy>) -> (Waypoint, Backend) {
    let waypoint = waypoint(port).await;
    let v1 = backend("v1").await;
    waypoint.backend("shop/v1", &v1);
    guarded(&waypoint, "shop/v1", access(policies));
    (waypoint, v1)
}

fn paths(text: &str) -> Match {
    Match { paths: any(&[prefix_text(text)]), ..Match::default() }
}

fn deny(name: &str, text: &str) -> Policy {
    policy(name, Action::Deny, &[paths(text)])
}

fn rewritten(path: &str) -> route::Filter {
    let path = Some(route::PathChange { kind: Some(path_change::Kind::Prefix(path.into())) });
    route::Filter { kind: Some(filter::Kind::Rewrite(route::Rewrite { hostname: "v1.shop".into(), path })) }
}

/// As a route of that namespace.
fn of(namespace: &str, rule: route::HttpRule) -> route::HttpRule {
    let id = route::RuleId { kind: "HTTPRoute".into(), namespace: namespace.into(), name: "theirs".into(), ..Default::default() };
    route::HttpRule { id: Some(id), ..rule }
}

/// What is below /x goes on as if it were below that path.
fn moved(path: &str, rule: route::HttpRule) -> Vec<(Vec<route::HttpMatch>, route::HttpRule)> {
    vec![(vec![prefix("/x")], route::HttpRule { filters: vec![rewritten(path)], ..rule })]
}

#[test]
fn what_the_backends_policies_deny_does_not_get_there_by_a_route() {
    run(async {
        let (waypoint, v1) = routed(one_rule(to("shop/v1")), vec![deny("no-admin", "/admin")]).await;
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/cart").await.status, 200);
        let got = client.get("/admin").await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (403, "RBAC: access denied by shop/no-admin, rule 0"));
        let call = get("/admin").header("content-type", "application/grpc").body(body("")).unwrap();
        assert_eq!(waypoint.http2().await.send(call).await.header("grpc-status"), "7");
        assert_eq!(v1.seen.borrow().len(), 1);
        let told = waypoint.ledger().requests.borrow();
        assert_eq!((told[1].flags.as_slice(), told[1].decided.as_str()), (&[Flag::Denied][..], "E_POLICY_DENIED shop/no-admin 0"));
        assert_eq!((told[1].route.as_deref(), told[1].backend.as_deref()), (Some("route-0"), Some("shop/v1")));
    });
}

#[test]
fn they_see_the_request_as_it_goes_on() {
    run(async {
        let header = |name: &str, value: &str| Named { name: name.into(), values: any(&[exact(value)]) };
        let whole = Match {
            hosts: any(&[exact("v1.shop")]),
            methods: any(&[exact("GET")]),
            destination_ports: Some(Ports { any: vec![PORT.into()], none: vec![] }),
            headers: vec![header("x-way", "route")],
            ..paths("/api/")
        };
        let set = vec![route::Header { name: "x-way".into(), value: "route".into() }];
        let change = route::Filter { kind: Some(filter::Kind::RequestHeaders(route::HeaderChange { set, ..Default::default() })) };
        let mut rules = moved("/api", to("shop/v1"));
        rules[0].1.filters.push(change);
        let (waypoint, v1) = routed(http_port(rules), vec![policy("api", Action::Allow, &[whole])]).await;
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/x/items").await.status, 200);
        assert_eq!(v1.seen.borrow()[0].uri, "/api/items");
        assert_eq!(client.send(get("/x/items").method("PUT").body(body("")).unwrap()).await.status, 403);
        // What it was before is of no use, and no spelling is.
        let (waypoint, v1) = routed(http_port(moved("/", to("shop/v1"))), vec![deny("no-admin", "/admin")]).await;
        let mut client = waypoint.http1().await;
        for (path, expected) in [("/x/admin", 403), ("/x/%61dmin", 403), ("/x//admin", 403), ("/x/admin%2Fy", 403), ("/x/y", 200)] {
            assert_eq!(client.get(path).await.status, expected, "{path}");
        }
        let (waypoint, _v1) = routed(http_port(moved("/%61dmin", to("shop/v1"))), vec![deny("no-admin", "/admin")]).await;
        assert_eq!(waypoint.http1().await.get("/x").await.status, 403, "nor one that the route's author chose");
        assert_eq!(v1.seen.borrow().len(), 1);
    });
}

#[test]
fn an_address_that_the_client_did_not_ask_for_is_not_taken_for_the_backends() {
    run(async {
        let everywhere =
            Some(Blocks { any: vec![Block { address: vec![0; 4], length: 0 }, Block { address: vec![0; 16], length: 0 }], none: vec![] });
        let one = Match { destination_ips: everywhere, ..Match::default() };
        for action in [Action::Allow, Action::Deny] {
            let (waypoint, _v1) = routed(one_rule(to("shop/v1")), vec![policy("where", action, std::slice::from_ref(&one))]).await;
            assert_eq!(waypoint.http1().await.get("/").await.status, 403, "{action:?}");
        }
    });
}

#[test]
fn without_its_policies_nothing_goes_to_a_service_that_has_some() {
    run(async {
        let (waypoint, v1) = routed(one_rule(to("shop/v1")), vec![]).await;
        assert_eq!(waypoint.http1().await.get("/").await.status, 200);
        waypoint.replace(one_rule(to("shop/v1")));
        let routes = route::Routes { service: "shop/v1".into(), ports: vec![], guarded: true };
        waypoint.apply(Kind::Routes, "shop/v1", &routes.encode_to_vec());
        assert_eq!(waypoint.http1().await.get("/").await.status, 503);
        let invalid = Policy { name: "shop/odd".into(), invalid: "rules[0]: is not known".into(), ..Policy::default() };
        guarded(&waypoint, "shop/v1", access(vec![invalid]));
        assert_eq!(waypoint.http1().await.get("/").await.status, 403);
        assert_eq!(v1.seen.borrow().len(), 1);
        let told = waypoint.ledger().requests.borrow();
        assert_eq!(
            told.iter().map(|told| told.decided.as_str()).collect::<Vec<_>>(),
            ["", "E_ACCESS_UNKNOWN  -", "E_POLICY_INVALID shop/odd -"]
        );
    });
}

#[test]
fn of_several_backends_only_the_one_that_is_guarded_is_closed() {
    run(async {
        let rule = route::HttpRule { backends: vec![weighted("shop/v1", 1), weighted("shop/v2", 1)], ..Default::default() };
        let (waypoint, v1) = routed(one_rule(rule), vec![deny("closed", "/")]).await;
        let v2 = backend("v2").await;
        waypoint.backend("shop/v2", &v2);
        let mut client = waypoint.http1().await;
        for _ in 0..20 {
            client.get("/").await;
        }
        assert!(v1.seen.borrow().is_empty() && (9..=11).contains(&v2.seen.borrow().len()), "shares fall evenly");
        assert!(
            waypoint.ledger().requests.borrow().iter().all(|told| (told.status == 403) == (told.backend.as_deref() == Some("shop/v1")))
        );
    });
}

#[test]
fn a_policy_of_both_services_sees_a_request_once_if_the_route_is_the_backends_own() {
    run(async {
        // As one of the Gateway: both have it, and the backend one more.
        let readers = || policy("readers", Action::Allow, &[paths("/x/public")]);
        let more = || policy("more", Action::Allow, &[paths("/also")]);
        let both = |rules: Vec<(Vec<route::HttpMatch>, route::HttpRule)>| async {
            let (waypoint, v1) = routed(http_port(vec![]), vec![]).await;
            waypoint.guard(http_port(rules), Some(&access(vec![readers()])));
            guarded(&waypoint, "shop/v1", access(vec![readers(), more(), deny("no-secrets", "/public/secret")]));
            (waypoint, v1)
        };
        let (waypoint, v1) = both(moved("/", to("shop/v1"))).await;
        let mut client = waypoint.http1().await;
        for (path, expected) in [("/x/public", 200), ("/x/private", 403), ("/x/public/secret", 403)] {
            assert_eq!(client.get(path).await.status, expected, "{path}");
        }
        assert_eq!(v1.seen.borrow()[0].uri, "/public");
        assert_eq!(waypoint.ledger().requests.borrow()[2].decided, "E_POLICY_DENIED shop/no-secrets 0");
        // Somebody else's route does not choose what the policy sees.
        let (waypoint, v1) = both(moved("/", of("till", to("shop/v1")))).await;
        assert_eq!(waypoint.http1().await.get("/x/public").await.status, 403);
        assert!(v1.seen.borrow().is_empty());
        let (waypoint, _v1) = both(moved("/also", of("till", to("shop/v1")))).await;
        assert_eq!(waypoint.http1().await.get("/x/public").await.status, 200);
    });
}

#[test]
fn a_clients_own_route_does_not_make_a_path_that_is_denied_of_one_that_is_not() {
    run(async {
        let consumer = |rule: route::HttpRule| {
            let mut port = port(Protocol::Http, Some(http(moved("/", to(SERVICE)))));
            port.consumers.insert("bank".into(), http(moved("/", of("bank", rule))));
            port
        };
        let waypoint = waypoint(consumer(to(SERVICE))).await;
        let cart = backend("cart").await;
        waypoint.backend(SERVICE, &cart);
        waypoint.guard(consumer(to(SERVICE)), Some(&access(vec![deny("no-admin", "/admin")])));
        assert_eq!(waypoint.http1().await.get("/x/admin").await.status, 200, "what the service's own route does is its owner's will");
        waypoint.client_namespace("bank");
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/x/admin").await.status, 403);
        assert_eq!(client.get("/x/cart").await.status, 200);
        assert_eq!(cart.seen.borrow().len(), 2);
    });
}

#[test]
fn a_token_that_was_taken_out_on_the_way_is_still_known() {
    run(async {
        let (issuer, other) = (Issuer::new(), Issuer::new());
        let of_ann = || {
            policy("ann", Action::Allow, &[Match { request_principals: any(&[exact("https://issuer.example/ann")]), ..Match::default() }])
        };
        let (waypoint, v1) = routed(one_rule(to("shop/v1")), vec![]).await;
        let told = || TokenRule { payload_header: "x-payload".into(), ..issuer.rule() };
        let with = |cart: Option<TokenRule>, v1: TokenRule| {
            waypoint.replace(one_rule(to("shop/v1")));
            if let Some(rule) = cart {
                waypoint.guard(one_rule(to("shop/v1")), Some(&Access { tokens: vec![rule], ..access(vec![]) }));
            }
            guarded(&waypoint, "shop/v1", Access { tokens: vec![v1], ..access(vec![of_ann()]) });
        };
        let ask = async |token: &str| {
            let request = get("/").header("authorization", format!("Bearer {token}")).header("x-payload", "mine").body(body("")).unwrap();
            waypoint.http1().await.send(request).await.status.as_u16()
        };
        let (ann, bob) = (issuer.token(&json!({})), issuer.token(&json!({"sub": "bob"})));
        with(Some(told()), told());
        assert_eq!(ask(&ann).await, 200);
        let seen = v1.seen.borrow()[0].clone();
        assert_eq!((seen.header("authorization"), seen.header("x-payload")), ("", ann.split('.').nth(1).unwrap()));
        assert_eq!(ask(&bob).await, 403);
        // The cart's rules are of another policy, or of other audiences: what they say of a token is nothing to v1.
        for rule in [TokenRule { policy: "shop/other".into(), ..told() }, TokenRule { audiences: vec!["shop".into()], ..told() }] {
            with(Some(rule), told());
            assert_eq!(ask(&issuer.token(&json!({"aud": "shop"}))).await, 403);
        }
        // It goes on, or nobody looked at it before: v1 looks itself.
        with(Some(TokenRule { forward: true, ..told() }), told());
        assert_eq!((ask(&ann).await, ask(&bob).await), (200, 403));
        with(None, told());
        assert_eq!((ask(&ann).await, ask(&bob).await, ask(&other.token(&json!({}))).await), (200, 403, 401));
        assert_eq!(waypoint.http1().await.get("/").await.status, 403, "who has none is nobody");
        assert_eq!(v1.seen.borrow().len(), 3);
    });
}

#[test]
fn external_authorization_of_the_backend_is_asked_about_what_goes_on() {
    run(async {
        let (decider, address) = Decider::start().await;
        decider.answers(ok(OkHttpResponse::default()));
        let (waypoint, v1) = routed(http_port(moved("/private", to("shop/v1"))), vec![]).await;
        waypoint.endpoint("auth/decider", PORT, "decider", address);
        guarded(&waypoint, "shop/v1", asking(grpc()));
        let request = get("/x/y").method("POST").body(body("0123456789")).unwrap();
        let got = waypoint.http1().await.send(request).await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (200, "0123456789"));
        assert_eq!(decider.last().path, "/private/y");
        let destination = decider.asked.lock().unwrap()[0].attributes.clone().unwrap().destination.unwrap();
        assert_eq!((destination.service.as_str(), destination.address), ("shop/v1", None));
        decider.answers(denied(DeniedHttpResponse::default()));
        assert_eq!(waypoint.http1().await.get("/x/y").await.status, 403);
        assert_eq!(waypoint.ledger().requests.borrow()[1].decided, "E_POLICY_EXTERNAL shop/ask 0");
        // One that holds for both services asks once, of a route of their own; of somebody else's it asks about both.
        decider.answers(ok(OkHttpResponse::default()));
        for (namespace, expected) in [("shop", &["/private/x"][..]), ("till", &["/private/x", "/private/y/x"])] {
            let rule = route::HttpRule { filters: vec![rewritten("/private/y")], ..of(namespace, to("shop/v1")) };
            waypoint.guard(http_port(vec![(vec![prefix("/private")], rule)]), Some(&asking(grpc())));
            guarded(&waypoint, "shop/v1", asking(grpc()));
            decider.asked.lock().unwrap().clear();
            assert_eq!(waypoint.http1().await.get("/private/x").await.status, 200);
            let asked: Vec<String> = decider
                .asked
                .lock()
                .unwrap()
                .iter()
                .map(|asked| asked.attributes.clone().unwrap().request.unwrap().http.unwrap().path)
                .collect();
            assert_eq!(asked, expected, "{namespace}");
        }
        assert_eq!(v1.seen.borrow().len(), 3);
    });
}

#[test]
fn a_copy_goes_only_where_its_policies_admit_it() {
    run(async {
        let copied = |rule: route::HttpRule| {
            let mirror = route::Mirror { backend: Some(weighted("shop/mirror", 1)), numerator: 1, denominator: 1 };
            one_rule(route::HttpRule { filters: vec![route::Filter { kind: Some(filter::Kind::Mirror(mirror)) }], ..rule })
        };
        let (waypoint, v1) = routed(copied(to("shop/v1")), vec![]).await;
        let mirror = backend("mirror").await;
        waypoint.backend("shop/mirror", &mirror);
        let mut client = waypoint.http1().await;
        let asks = Policy { provider: "decider".into(), ..policy("ask", Action::Custom, &[paths("/ask")]) };
        guarded(&waypoint, "shop/mirror", Access { providers: vec![grpc()], ..access(vec![deny("no-admin", "/admin"), asks]) });
        for path in ["/", "/admin", "/ask"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        until("each copy was told of", || waypoint.ledger().copies.borrow().len() == 3).await;
        assert_eq!(waypoint.ledger().copies.borrow().iter().filter(|copied| **copied == Copied::Denied).count(), 2);
        assert_eq!((v1.seen.borrow().len(), mirror.seen.borrow().len()), (3, 1));
        guarded(&waypoint, "shop/v1", access(vec![deny("closed", "/")]));
        assert_eq!(client.get("/").await.status, 403);
        assert_eq!(waypoint.ledger().copies.borrow().len(), 3, "what is denied has no effect");
    });
}

#[test]
fn an_answer_is_cut_when_the_backends_policies_deny_it_now() {
    run(async {
        let silent = backend_that("slow", |_| std::future::pending()).await;
        for of_cart in [None, Some(access(vec![]))] {
            let (waypoint, _v1) = routed(one_rule(to("shop/slow")), vec![]).await;
            waypoint.endpoint("shop/slow", PORT, "slow", silent.address);
            if let Some(access) = &of_cart {
                waypoint.guard(one_rule(to("shop/slow")), Some(access));
            }
            guarded(&waypoint, "shop/slow", access(vec![]));
            let before = silent.seen.borrow().len();
            let mut client = waypoint.http1().await;
            let asking = tokio::task::spawn_local(async move { client.get("/long").await });
            until("the backend has the request", || silent.seen.borrow().len() > before).await;
            guarded(&waypoint, "shop/slow", access(vec![deny("other", "/other")]));
            guarded(&waypoint, "shop/slow", access(vec![deny("long", "/long")]));
            assert_eq!(asking.await.unwrap().body, "RBAC: access denied by shop/long, rule 0");
        }
    });
}

#[test]
fn what_is_only_tried_is_told_and_not_done() {
    run(async {
        let tried = Policy { dry_run: true, ..deny("tried", "/") };
        let (waypoint, v1) = routed(one_rule(to("shop/v1")), vec![tried.clone(), policy("all", Action::Allow, &[paths("/")])]).await;
        assert_eq!(waypoint.http1().await.get("/").await.status, 200);
        assert_eq!(waypoint.told().await.audited, "shop/tried");
        // Both services say something: who admitted it first, and who would not have.
        waypoint.guard(one_rule(to("shop/v1")), Some(&access(vec![policy("cart", Action::Allow, &[paths("/")])])));
        guarded(&waypoint, "shop/v1", access(vec![tried]));
        assert_eq!(waypoint.http1().await.get("/").await.status, 200);
        let told = waypoint.told().await;
        assert_eq!((told.decided.as_str(), told.audited.as_str()), (" shop/cart 0", "shop/tried"));
        assert_eq!(v1.seen.borrow().len(), 2);
    });
}

#[test]
fn connections_without_http_are_held_to_what_can_be_known_of_them() {
    run(async {
        let tcp = || {
            let id = Some(route::RuleId { kind: "TCPRoute".into(), namespace: "shop".into(), ..Default::default() });
            let rules = vec![StreamRule { id, backends: vec![weighted("shop/v1", 1)], ..StreamRule::default() }];
            port(Protocol::Tcp, Some(route::RuleSet { kind: Some(rule_set::Kind::Tcp(StreamRules { rules })) }))
        };
        let from = |namespace: &str| Match { namespaces: any(&[exact(namespace)]), ..Match::default() };
        let (waypoint, v1) = routed(tcp(), vec![]).await;
        let echo = async |policies: Vec<Policy>| {
            guarded(&waypoint, "shop/v1", access(policies));
            let told = waypoint.ledger().connections.borrow().len();
            let mut io = TcpStream::connect(waypoint.address).await.unwrap();
            let _ = io.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
            let mut all = Vec::new();
            let _ = io.read_to_end(&mut all).await;
            drop(io);
            until("the connection has ended", || waypoint.ledger().connections.borrow().len() > told).await;
            !all.is_empty()
        };
        assert!(echo(vec![]).await);
        assert!(echo(vec![policy("shop", Action::Allow, &[from("shop")])]).await);
        assert!(!echo(vec![policy("bank", Action::Allow, &[from("bank")])]).await);
        assert!(!echo(vec![policy("shop", Action::Deny, &[from("shop")])]).await);
        assert!(!echo(vec![deny("paths", "/other")]).await, "a path is not known: it is denied");
        let asks = Policy { provider: "decider".into(), ..policy("ask", Action::Custom, &[from("shop")]) };
        guarded(&waypoint, "shop/v1", Access { providers: vec![grpc()], ..access(vec![asks]) });
        assert_eq!(waypoint.raw(b"GET / HTTP/1.0\r\n\r\n").await, "", "nobody can be asked about bytes");
        assert_eq!(v1.seen.borrow().len(), 2);
        // One that began before is cut.
        waypoint.replace(tcp());
        let told = waypoint.ledger().connections.borrow().len();
        let mut early = TcpStream::connect(waypoint.address).await.unwrap();
        early.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(early.read(&mut [0; 64]).await.unwrap() > 0);
        guarded(&waypoint, "shop/v1", access(vec![policy("bank", Action::Allow, &[from("bank")])]));
        let _ = early.read_to_end(&mut Vec::new()).await;
        until("it is cut", || waypoint.ledger().connections.borrow().len() > told).await;
        let connections = waypoint.ledger().connections.borrow();
        assert_eq!(connections.last().unwrap().decided, "E_POLICY_NO_ALLOW shop/bank -");
        assert_eq!(connections.iter().filter(|told| told.flags == [Flag::Denied]).count(), 5);
    });
}
