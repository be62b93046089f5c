//! Policies in force: what is admitted reaches a real backend, what is not never does.
use crate::support::{
    Backend, PORT, SERVICE, Waypoint, backend, backend_that, body, get, one_rule, port, run, to, until, waypoint, weighted,
};
use http::Request;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trackbed_contract::authorization::{Access, Action, Clause, Match, Named, Policy, Rule, Text, Texts, text::Kind};
use trackbed_contract::route::{self, Protocol, StreamRule, StreamRules, rule_set};
use trackbed_l7::Flag;

pub(crate) fn exact(text: &str) -> Text {
    Text { kind: Some(Kind::Exact(text.into())) }
}

pub(crate) fn prefix(text: &str) -> Text {
    Text { kind: Some(Kind::Prefix(text.into())) }
}

#[expect(clippy::unnecessary_wraps, reason = "as fields of messages have it")]
pub(crate) fn any(texts: &[Text]) -> Option<Texts> {
    Some(Texts { any: texts.to_vec(), none: vec![] })
}

pub(crate) fn policy(name: &str, action: Action, matches: &[Match]) -> Policy {
    let rules = matches.iter().map(|one| Rule { clauses: vec![Clause { matches: vec![one.clone()] }] }).collect();
    Policy { name: format!("shop/{name}"), action: action.into(), rules, ..Policy::default() }
}

pub(crate) fn access(policies: Vec<Policy>) -> Access {
    Access { service: SERVICE.into(), policies, ..Access::default() }
}

fn paths(texts: &[Text]) -> Match {
    Match { paths: any(texts), ..Match::default() }
}

fn header(name: &str, texts: Option<Texts>) -> Match {
    Match { headers: vec![Named { name: name.into(), values: texts }], ..Match::default() }
}

/// One that is guarded, its backend named v1.
pub(crate) async fn guarded(access: &Access) -> (Waypoint, Backend) {
    let waypoint = waypoint(one_rule(to("shop/v1"))).await;
    let v1 = backend("v1").await;
    waypoint.backend("shop/v1", &v1);
    waypoint.guard(one_rule(to("shop/v1")), Some(access));
    (waypoint, v1)
}

#[test]
fn who_is_denied_learns_the_policy_and_the_backend_hears_nothing() {
    run(async {
        let (waypoint, v1) = guarded(&access(vec![policy("no-admin", Action::Deny, &[paths(&[prefix("/admin")])])])).await;
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/cart").await.status, 200);
        let got = client.get("/admin/x").await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (403, "RBAC: access denied by shop/no-admin, rule 0"));
        let grpc = get("/admin/x").header("content-type", "application/grpc").body(body("")).unwrap();
        let got = waypoint.http2().await.send(grpc).await;
        assert_eq!((got.status.as_u16(), got.header("grpc-status")), (200, "7"));
        assert_eq!(got.header("grpc-message"), "RBAC: access denied by shop/no-admin, rule 0");
        assert_eq!(v1.seen.borrow().len(), 1);
        let told = waypoint.ledger().requests.borrow();
        let decided: Vec<_> = told.iter().map(|told| (told.status, told.flags.as_slice(), told.decided.as_str())).collect();
        let denied = "E_POLICY_DENIED shop/no-admin 0";
        assert_eq!(decided, [(200, &[][..], ""), (403, &[Flag::Denied][..], denied), (200, &[Flag::Denied][..], denied)]);
    });
}

#[test]
fn with_an_allow_everything_else_is_denied() {
    run(async {
        let allow = policy("readers", Action::Allow, &[Match { methods: any(&[exact("GET")]), ..paths(&[exact("/cart")]) }]);
        let (waypoint, v1) = guarded(&access(vec![allow])).await;
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/cart?id=1").await.status, 200);
        for (method, path) in [("GET", "/cart/x"), ("HEAD", "/cart"), ("POST", "/cart"), ("GET", "/")] {
            let request = Request::builder().method(method).uri(path).header("host", "cart").body(body("")).unwrap();
            assert_eq!(client.send(request).await.status, 403, "{method} {path}");
        }
        assert_eq!(v1.seen.borrow().len(), 1);
        assert_eq!(waypoint.ledger().requests.borrow()[1].decided, "E_POLICY_NO_ALLOW shop/readers -");
    });
}

#[test]
fn a_service_whose_policies_are_not_known_yet_is_not_served() {
    run(async {
        let (waypoint, v1) = guarded(&access(vec![])).await;
        let mut client = waypoint.http1().await;
        assert_eq!(client.get("/").await.status, 200);
        waypoint.guard(one_rule(to("shop/v1")), None);
        assert_eq!(client.get("/").await.status, 503);
        assert_eq!(waypoint.ledger().requests.borrow()[1].decided, "E_ACCESS_UNKNOWN  -");
        assert_eq!(v1.seen.borrow().len(), 1);
    });
}

#[test]
fn what_cannot_be_enforced_denies_with_its_name() {
    run(async {
        let invalid = Policy { name: "shop/odd".into(), invalid: "rules[0].when[0].key: is not known".into(), ..Policy::default() };
        let (waypoint, v1) = guarded(&access(vec![invalid.clone()])).await;
        let mut client = waypoint.http1().await;
        let got = client.get("/").await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (403, "RBAC: access denied by shop/odd, which cannot be enforced"));
        waypoint.guard(one_rule(to("shop/v1")), Some(&access(vec![Policy { dry_run: true, ..invalid }])));
        assert_eq!(client.get("/").await.status, 200);
        // A resource that is broken as a whole.
        let broken = access(vec![policy("x", Action::Allow, &[Match::default()])]);
        let rejected = waypoint.guard_with(one_rule(to("shop/v1")), Some(&broken.encode_to_vec()));
        assert!(rejected.contains("rules[0].clauses[0].matches[0]"), "{rejected}");
        let got = client.get("/").await;
        assert_eq!((got.status.as_u16(), got.body), (403, format!("RBAC: access denied by {SERVICE}, which cannot be enforced")));
        assert_eq!(v1.seen.borrow().len(), 1);
    });
}

#[test]
fn each_value_of_a_header_counts() {
    run(async {
        let admin = || any(&[exact("admin")]);
        let deny = policy("no-admins", Action::Deny, &[header("x-role", admin())]);
        let (waypoint, _v1) = guarded(&access(vec![deny])).await;
        let status = async |values: &[&str]| {
            let request = || values.iter().fold(get("/"), |request, value| request.header("x-role", *value)).body(body("")).unwrap();
            let status = waypoint.http1().await.send(request()).await.status.as_u16();
            assert_eq!(waypoint.http2().await.send(request()).await.status, status, "{values:?} in HTTP/2");
            status
        };
        for (values, expected) in
            [(&["admin"][..], 403), (&["user", "admin"], 403), (&["admin", "user"], 403), (&["user"], 200), (&[], 200)]
        {
            assert_eq!(status(values).await, expected, "DENY {values:?}");
        }
        let allow = policy("admins", Action::Allow, &[header("x-role", admin())]);
        waypoint.guard(one_rule(to("shop/v1")), Some(&access(vec![allow])));
        for (values, expected) in
            [(&["admin"][..], 200), (&["user", "admin"], 403), (&["admin", "user"], 403), (&["user"], 403), (&[], 403)]
        {
            assert_eq!(status(values).await, expected, "ALLOW {values:?}");
        }
        let others = Some(Texts { any: vec![], none: vec![exact("user")] });
        waypoint.guard(one_rule(to("shop/v1")), Some(&access(vec![policy("others", Action::Deny, &[header("x-role", others)])])));
        for (values, expected) in [(&["user"][..], 200), (&["user", "x"], 403), (&["x"], 403), (&[], 403)] {
            assert_eq!(status(values).await, expected, "DENY all but {values:?}");
        }
    });
}

#[test]
fn no_spelling_of_a_path_gets_around_a_policy() {
    run(async {
        let deny = policy("no-admin", Action::Deny, &[paths(&[exact("/admin"), prefix("/admin/")])]);
        let (waypoint, _v1) = guarded(&access(vec![deny])).await;
        let mut client = waypoint.http1().await;
        for path in [
            "/admin",
            "/%61dmin",
            "//admin",
            "/x/../admin/y",
            "/admin/",
            "/admin%2Fy",
            "/admin;v=1",
            "/admin%3Bv/y",
            "/%2Fadmin",
            "/admin%5Cy",
        ] {
            assert_eq!(client.get(path).await.status, 403, "{path}");
        }
        for path in ["/", "/administrator", "/ADMIN", "/x/admin"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        let allow = policy("public", Action::Allow, &[paths(&[prefix("/public/")])]);
        waypoint.guard(one_rule(to("shop/v1")), Some(&access(vec![allow])));
        for path in ["/public/a", "/public/a%2Fb", "/public/a;b", "/public//a"] {
            assert_eq!(client.get(path).await.status, 200, "{path}");
        }
        for path in ["/public%2Fa", "//public/a", "/public;v/a", "/public/../a"] {
            assert_eq!(client.get(path).await.status, 403, "{path}");
        }
    });
}

#[test]
fn an_open_answer_is_cut_when_it_is_denied_now() {
    run(async {
        let (waypoint, _v1) = guarded(&access(vec![])).await;
        let silent = backend_that("slow", |_| std::future::pending()).await;
        waypoint.endpoint("shop/slow", PORT, "slow", silent.address);
        waypoint.guard(one_rule(to("shop/slow")), Some(&access(vec![])));
        let mut client = waypoint.http1().await;
        let asking = tokio::task::spawn_local(async move { client.get("/long").await });
        until("the backend has the request", || silent.seen.borrow().len() == 1).await;
        let other = policy("other", Action::Deny, &[paths(&[exact("/other")])]);
        waypoint.guard(one_rule(to("shop/slow")), Some(&access(vec![other.clone()])));
        let long = policy("long", Action::Deny, &[paths(&[exact("/long")])]);
        waypoint.guard(one_rule(to("shop/slow")), Some(&access(vec![other, long])));
        let got = asking.await.unwrap();
        assert_eq!((got.status.as_u16(), got.body.as_str()), (403, "RBAC: access denied by shop/long, rule 0"));
    });
}

/// Everything goes to v1.
fn tcp() -> route::Port {
    let id = Some(route::RuleId { kind: "TCPRoute".into(), ..Default::default() });
    let rules = vec![StreamRule { id, backends: vec![weighted("shop/v1", 1)], ..StreamRule::default() }];
    port(Protocol::Tcp, Some(route::RuleSet { kind: Some(rule_set::Kind::Tcp(StreamRules { rules })) }))
}

#[test]
fn bytes_without_http_are_held_to_what_can_be_known_of_them() {
    run(async {
        let from_bank = Match { namespaces: any(&[exact("bank")]), ..Match::default() };
        let (waypoint, v1) = guarded(&access(vec![])).await;
        let echo = async |policies: Vec<Policy>| {
            waypoint.guard(tcp(), Some(&access(policies)));
            let told = waypoint.ledger().connections.borrow().len();
            let mut io = tokio::net::TcpStream::connect(waypoint.address).await.unwrap();
            let _ = io.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
            let mut all = Vec::new();
            let _ = io.read_to_end(&mut all).await;
            drop(io);
            // It is not to be cut by the next policies.
            until("the connection has ended", || waypoint.ledger().connections.borrow().len() > told).await;
            !all.is_empty()
        };
        // One that began before anybody guarded the service.
        waypoint.replace(tcp());
        let mut early = tokio::net::TcpStream::connect(waypoint.address).await.unwrap();
        early.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(early.read(&mut [0; 64]).await.unwrap() > 0);
        waypoint.guard(tcp(), Some(&access(vec![policy("bank", Action::Allow, std::slice::from_ref(&from_bank))])));
        let mut rest = Vec::new();
        let _ = early.read_to_end(&mut rest).await;
        until("it is cut", || waypoint.ledger().connections.borrow().len() == 1).await;
        assert!(echo(vec![]).await);
        assert!(echo(vec![policy("bank", Action::Deny, std::slice::from_ref(&from_bank))]).await);
        assert!(!echo(vec![policy("bank", Action::Allow, &[from_bank])]).await, "the client is of namespace shop");
        assert!(!echo(vec![policy("paths", Action::Deny, &[paths(&[exact("/other")])])]).await, "a path is not known: it is denied");
        assert!(!echo(vec![policy("paths", Action::Allow, &[paths(&[exact("/")])])]).await, "nor is it allowed");
        assert_eq!(v1.seen.borrow().len(), 3);
        let told = waypoint.ledger().connections.borrow();
        assert_eq!(told.iter().filter(|told| told.flags == [Flag::Denied]).count(), 4);
    });
}
