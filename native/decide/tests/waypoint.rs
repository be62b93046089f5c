//! What a waypoint serves whom, and where it sends a request, case by case.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use mesh::{
    WEB, code, identity, ip, local, of_policy, of_service, of_workload, plain, pod, policy, principal, service, serving, vip, with, without,
};
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType};
use trackbed_contract::istio::workload as wire;
use trackbed_contract::{Identity, engine};
use trackbed_decide::{LocalPod, Outbound, Refusal, Served, Settings, World, candidates, inbound_waypoint, recheck_waypoint};

const GATE: &str = "10.0.0.9";
const CART: &str = "shop/cart.shop.svc.cluster.local";

fn settings() -> Settings {
    Settings::of_waypoint(&engine::MeshSettings {
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
        encrypt_same_node: true,
        ..engine::MeshSettings::default()
    })
    .unwrap()
}

fn named(name: &str) -> wire::GatewayAddress {
    wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Hostname(wire::NamespacedHostname {
            namespace: "shop".into(),
            hostname: format!("{name}.shop.svc.cluster.local"),
        })),
        hbone_mtls_port: 15008,
    }
}

/// cart has the waypoint gate; news has another one; both pods of cart are in the mesh, that of legacy is not.
fn shop() -> World {
    let gate = wire::Workload { native_tunnel: true, ..serving(pod("gate", "n7", &[GATE]), "gate", &[(15008, 15008)]) };
    with(
        &World::new(settings()),
        vec![
            of_workload(&gate),
            of_workload(&serving(pod("cart-1", "n1", &["10.0.0.1"]), "cart", &[(80, 8080), (81, 15001)])),
            of_workload(&serving(pod("cart-2", "n7", &["10.0.0.2"]), "cart", &[(80, 8080), (81, 15001)])),
            of_workload(&plain(serving(pod("old", "n1", &["10.0.0.5"]), "legacy", &[(80, 80)]))),
            of_service(&service("gate", &["10.96.0.9"], &[(15008, 15008)])),
            of_service(&wire::Service {
                waypoint: Some(named("gate")),
                ..service("cart", &["10.96.0.1"], &[(80, 0), (81, 0), (15006, 0)])
            }),
            of_service(&wire::Service { waypoint: Some(named("other")), ..service("news", &["10.96.0.2"], &[(80, 0)]) }),
            of_service(&service("legacy", &["10.96.0.5"], &[(80, 0)])),
        ],
    )
}

fn gate() -> LocalPod {
    local("gate", &[GATE])
}

fn ask(world: &World, authority: &str) -> Result<Served, Refusal> {
    inbound_waypoint(world, &gate(), &identity("web"), ip(WEB), authority, |name| name == CART)
}

/// One of the candidates, by chance.
fn request(world: &World, service: &str, port: u16) -> Outbound {
    match candidates(world, &gate(), service, port) {
        Ok(candidates) => candidates.reach(world, fastrand::usize(..candidates.members().len())),
        Err(refusal) => Outbound::Refuse(refusal),
    }
}

#[test]
fn a_service_is_served_by_its_address_and_by_its_name() {
    for authority in ["10.96.0.1:80", "cart.shop.svc.cluster.local:80"] {
        let served = ask(&shop(), authority).unwrap();
        assert_eq!((&*served.service().unwrap().key, served.port, &*served.waypoint.name), (CART, 80, "gate"), "{authority}");
        assert_eq!(recheck_waypoint(&shop(), &gate(), &served), Ok(()));
    }
}

#[test]
fn everything_else_is_refused_with_the_status_that_says_why() {
    for (authority, status, code) in [
        ("10.96.0.2:80", 400, "E_DESTINATION_REFUSED"),
        ("10.96.0.5:80", 400, "E_DESTINATION_REFUSED"),
        ("10.96.0.9:15008", 400, "E_DESTINATION_REFUSED"),
        ("10.0.0.1:8080", 400, "E_DESTINATION_REFUSED"),
        ("10.0.0.9:8080", 400, "E_DESTINATION_REFUSED"),
        ("127.0.0.1:80", 400, "E_DESTINATION_REFUSED"),
        ("192.0.2.1:80", 400, "E_DESTINATION_REFUSED"),
        ("", 400, "E_DESTINATION_REFUSED"),
        ("10.96.0.1", 400, "E_DESTINATION_REFUSED"),
        ("news.shop.svc.cluster.local:80", 503, "E_DESTINATION_REFUSED"),
        ("nobody.example:80", 503, "E_DESTINATION_REFUSED"),
        ("10.96.0.1:82", 503, "E_SERVICE_NO_PORT"),
        ("10.96.0.1:15006", 503, "E_DESTINATION_OWN_PORT"),
    ] {
        let refusal = ask(&shop(), authority).expect_err(authority);
        assert_eq!((refusal.status.code(), refusal.code), (status, code), "{authority:?}");
    }
}

#[test]
fn a_peer_of_another_trust_domain_is_refused_whatever_it_asks_for() {
    let stranger = Identity::parse("spiffe://elsewhere/ns/shop/sa/web").unwrap();
    let refusal = inbound_waypoint(&shop(), &gate(), &stranger, ip(WEB), "10.96.0.1:80", |_| true).unwrap_err();
    assert_eq!((refusal.status.code(), refusal.code), (401, "E_IDENTITY_MISMATCH"));
}

#[test]
fn a_service_that_names_this_waypoint_waits_for_its_routes() {
    let refusal = inbound_waypoint(&shop(), &gate(), &identity("web"), ip(WEB), "10.96.0.1:80", |_| false).unwrap_err();
    assert_eq!((refusal.status.code(), refusal.code, refusal.may_pass()), (503, "E_ROUTES_UNKNOWN", true));
    let second = with(
        &shop(),
        vec![of_service(&wire::Service {
            weighted_waypoints: vec![wire::WeightedWaypoint { destination: Some(named("gate")), weight: 1 }],
            ..service("cart", &["10.96.0.1"], &[(80, 0)])
        })],
    );
    let canary = inbound_waypoint(&second, &gate(), &identity("web"), ip(WEB), "10.96.0.1:80", |_| false).unwrap_err();
    assert_eq!((canary.code, canary.status), (refusal.code, refusal.status), "as one of several it waits too");
    let unnamed = inbound_waypoint(&shop(), &gate(), &identity("web"), ip(WEB), "10.96.0.5:80", |name| name.starts_with("shop/legacy."));
    assert_eq!(&*unnamed.unwrap().service().unwrap().name, "legacy", "routes are enough: they come from nobody but the director");
}

#[test]
fn of_one_name_in_several_namespaces_each_client_means_its_own() {
    let theirs = wire::Service { namespace: "news".into(), ..service("cart", &["10.96.0.7"], &[(80, 0)]) };
    let world = with(&shop(), vec![of_service(&theirs)]);
    let client = Identity::parse("spiffe://cluster.local/ns/news/sa/web").unwrap();
    let ask = |client: &Identity| inbound_waypoint(&world, &gate(), client, ip(WEB), "cart.shop.svc.cluster.local:80", |_| true).unwrap();
    assert_eq!(&*ask(&client).service().unwrap().key, "news/cart.shop.svc.cluster.local");
    assert_eq!(&*ask(&identity("web")).service().unwrap().key, CART);
}

#[test]
fn a_waypoint_without_its_own_workload_serves_nobody_and_reaches_nothing() {
    let world = without(&shop(), &[of_workload(&pod("gate", "n7", &[GATE]))]);
    assert_eq!(ask(&world, "10.96.0.1:80").unwrap_err().code, "E_WORKLOAD_UNKNOWN");
    assert_eq!(code(&request(&world, CART, 80)), "E_WORKLOAD_UNKNOWN");
}

#[test]
fn requests_spread_over_the_endpoints_by_tunnel_and_never_through_a_waypoint() {
    let world = shop();
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..200 {
        let Outbound::Tunnel(tunnel) = request(&world, CART, 80) else { panic!("no tunnel") };
        assert_eq!(tunnel.authority, format!("{}:8080", tunnel.endpoint.addresses[0]));
        assert_eq!(tunnel.dial.port(), 15008);
        assert_eq!(tunnel.accept, std::slice::from_ref(&tunnel.endpoint.identity));
        *seen.entry(tunnel.endpoint.name.to_string()).or_insert(0) += 1;
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 50), "{seen:?}");
    // Also one that has a waypoint of its own.
    let world = with(&world, vec![of_workload(&serving(pod("n", "n1", &["10.0.0.6"]), "news", &[(80, 80)]))]);
    let Outbound::Tunnel(tunnel) = request(&world, "shop/news.shop.svc.cluster.local", 80) else { panic!("no tunnel") };
    assert_eq!(&*tunnel.endpoint.name, "n");
}

#[test]
fn candidates_hold_until_something_that_they_are_made_of_changes() {
    let world = shop();
    let found = candidates(&world, &gate(), CART, 80).unwrap();
    let uids: Vec<_> = found.members().iter().map(|member| &*member.uid).collect();
    assert_eq!(uids, ["Kubernetes//Pod/shop/cart-1", "Kubernetes//Pod/shop/cart-2"]);
    let other =
        with(&world, vec![of_workload(&pod("new", "n1", &["10.0.0.77"])), of_service(&service("news", &["10.96.0.3"], &[(80, 0)]))]);
    assert!(found.are_current(&world, &gate()) && found.are_current(&other, &gate()), "of another service");
    let more = with(&world, vec![of_workload(&serving(pod("cart-3", "n1", &["10.0.0.78"]), "cart", &[(80, 8080)]))]);
    assert!(!found.are_current(&more, &gate()));
    let moved = with(&world, vec![of_workload(&serving(pod("cart-2", "n1", &["10.0.0.79"]), "cart", &[(80, 8080)]))]);
    assert!(!found.are_current(&moved, &gate()));
    let changed = with(&world, vec![of_service(&service("cart", &["10.96.0.1"], &[(80, 0), (81, 0)]))]);
    assert!(!found.are_current(&changed, &gate()));
}

#[test]
fn only_a_workload_outside_of_the_mesh_is_reached_in_plaintext() {
    let world = shop();
    let Outbound::Plain(direct) = request(&world, "shop/legacy.shop.svc.cluster.local", 80) else { panic!("not plain") };
    assert_eq!(direct.address, mesh::at("10.0.0.5:80"));
    // Another workload claims the same address and was promised mutual TLS.
    let world = with(&world, vec![of_workload(&pod("new", "n1", &["10.0.0.5"]))]);
    assert_eq!(code(&request(&world, "shop/legacy.shop.svc.cluster.local", 80)), "E_WORKLOAD_UNKNOWN");
}

#[test]
fn what_cannot_be_a_backend_is_refused() {
    let through = wire::LoadBalancing { mode: wire::load_balancing::Mode::Passthrough.into(), ..wire::LoadBalancing::default() };
    let through =
        wire::Service { load_balancing: Some(through), addresses: vec![vip("10.96.0.8")], ..service("through", &[], &[(80, 80)]) };
    let world = with(&shop(), vec![of_service(&through), of_service(&service("empty", &["10.96.0.4"], &[(80, 80)]))]);
    for (service, port, expected) in [
        ("shop/nobody.shop.svc.cluster.local", 80, "E_SERVICE_NO_ENDPOINT"),
        ("shop/empty.shop.svc.cluster.local", 80, "E_SERVICE_NO_ENDPOINT"),
        ("shop/through.shop.svc.cluster.local", 80, "E_SERVICE_NO_ENDPOINT"),
        (CART, 82, "E_SERVICE_NO_PORT"),
        // Its target port is one of the mesh's own.
        (CART, 81, "E_SERVICE_NO_ENDPOINT"),
    ] {
        assert_eq!(code(&request(&world, service, port)), expected, "{service}:{port}");
    }
}

/// Of all pods in namespace shop.
fn deny(rules: Vec<Rule>) -> Authorization {
    policy("keep-out", Action::Deny, rules)
}

fn not_principal(principal: &str) -> Rule {
    let text = StringMatch { match_type: Some(MatchType::Exact(principal.to_owned())) };
    Rule { clauses: vec![Clause { matches: vec![Match { not_principals: vec![text], ..Match::default() }] }] }
}

const WEB_PRINCIPAL: &str = "cluster.local/ns/shop/sa/web";
const GATE_PRINCIPAL: &str = "cluster.local/ns/shop/sa/gate";

#[test]
fn a_deny_keeps_a_client_out_behind_the_waypoint_too_and_cuts_it() {
    let live = ask(&shop(), "10.96.0.1:80").unwrap();
    let world = with(&shop(), vec![of_policy(&deny(vec![principal(WEB_PRINCIPAL)]))]);
    for refusal in [ask(&world, "10.96.0.1:80").unwrap_err(), recheck_waypoint(&world, &gate(), &live).unwrap_err()] {
        assert_eq!((refusal.status.code(), refusal.code), (401, "E_POLICY_DENIED"));
        assert_eq!(refusal.policy.map(|policy| policy.name.to_string()).as_deref(), Some("shop/keep-out"));
    }
    let other = inbound_waypoint(&world, &gate(), &identity("batch"), ip("10.0.0.8"), "10.96.0.1:80", |_| true);
    assert!(other.is_ok(), "{other:?}");
    // Of a service whose pods are in no mesh nobody enforces anything.
    assert!(inbound_waypoint(&world, &gate(), &identity("web"), ip(WEB), "10.96.0.5:80", |_| true).is_ok());
}

#[test]
fn a_deny_for_some_of_the_endpoints_keeps_the_client_out_of_the_service() {
    let selected = Authorization { scope: Scope::WorkloadSelector.into(), ..deny(vec![principal(WEB_PRINCIPAL)]) };
    let named = wire::Workload {
        authorization_policies: vec!["shop/keep-out".into()],
        ..serving(pod("cart-2", "n7", &["10.0.0.2"]), "cart", &[(80, 8080), (81, 15001)])
    };
    let world = with(&shop(), vec![of_policy(&selected), of_workload(&named)]);
    assert_eq!(ask(&world, "10.96.0.1:80").unwrap_err().code, "E_POLICY_DENIED");
}

#[test]
fn what_denies_all_but_the_waypoint_or_admits_it_alone_lets_its_clients_through() {
    let only_gate = policy("only-gate", Action::Allow, vec![principal(GATE_PRINCIPAL)]);
    for policies in [
        vec![deny(vec![not_principal(GATE_PRINCIPAL)])],
        vec![only_gate],
        vec![Authorization { dry_run: true, ..deny(vec![principal(WEB_PRINCIPAL)]) }],
    ] {
        let world = with(&shop(), policies.iter().map(of_policy).collect());
        assert!(ask(&world, "10.96.0.1:80").is_ok(), "{policies:?}");
    }
    let world = with(&shop(), vec![of_policy(&deny(vec![not_principal("cluster.local/ns/shop/sa/batch")]))]);
    assert_eq!(ask(&world, "10.96.0.1:80").unwrap_err().code, "E_POLICY_DENIED", "it denies the waypoint as well");
}

/// A pod whose own address is behind the gate.
fn alone() -> wire::Workload {
    wire::Workload { waypoint: Some(named("gate")), ..pod("alone", "n1", &["10.0.0.30", "fd00::30"]) }
}

#[test]
fn a_pod_that_names_the_waypoint_is_served_by_its_own_address_whatever_routes_there_are() {
    let world = with(&shop(), vec![of_workload(&alone())]);
    for (authority, key) in [("10.0.0.30:8080", "10.0.0.30"), ("[fd00::30]:53", "fd00::30")] {
        let served = ask(&world, authority).unwrap();
        assert_eq!((&*served.key(), served.service()), (key, None));
        assert_eq!(recheck_waypoint(&world, &gate(), &served), Ok(()));
        let Outbound::Tunnel(tunnel) = request(&world, key, served.port) else { panic!("no tunnel") };
        assert_eq!((tunnel.authority.as_str(), &*tunnel.endpoint.name, tunnel.service), (authority, "alone", None));
    }
    assert_eq!(ask(&world, "10.0.0.30:15008").unwrap_err().code, "E_DESTINATION_OWN_PORT");
    let found = candidates(&world, &gate(), "10.0.0.30", 8080).unwrap();
    assert_eq!(found.members().iter().map(|member| &*member.uid).collect::<Vec<_>>(), ["Kubernetes//Pod/shop/alone"]);
    let changed = with(&world, vec![of_workload(&wire::Workload { canonical_name: "else".into(), ..alone() })]);
    assert!(found.are_current(&world, &gate()) && !found.are_current(&changed, &gate()));
    let elsewhere = with(&shop(), vec![of_workload(&wire::Workload { waypoint: Some(named("other")), ..alone() })]);
    assert_eq!(ask(&elsewhere, "10.0.0.30:8080").unwrap_err().code, "E_DESTINATION_REFUSED");
    assert_eq!(code(&request(&elsewhere, "10.0.0.30", 8080)), "E_SERVICE_NO_ENDPOINT", "not past its own waypoint");
}

#[test]
fn a_connection_to_a_pod_does_not_go_over_to_who_has_its_address_next() {
    let world = with(&shop(), vec![of_workload(&alone())]);
    let served = ask(&world, "10.0.0.30:8080").unwrap();
    let next = wire::Workload { uid: "Kubernetes//Pod/shop/next".into(), name: "next".into(), ..alone() };
    let gone = without(&world, &[of_workload(&alone())]);
    assert_eq!(recheck_waypoint(&gone, &gate(), &served).unwrap_err().code, "E_SERVICE_NO_ENDPOINT");
    let replaced = with(&gone, vec![of_workload(&next)]);
    assert_eq!(recheck_waypoint(&replaced, &gate(), &served).unwrap_err().code, "E_WORKLOAD_UNKNOWN");
    let contested = with(&world, vec![of_workload(&wire::Workload { service_account: "thief".into(), ..next })]);
    assert_eq!(code(&request(&contested, "10.0.0.30", 8080)), "E_WORKLOAD_UNKNOWN");
}

#[test]
fn a_deny_of_the_pod_keeps_its_client_out_behind_the_waypoint_too() {
    let world = with(&shop(), vec![of_workload(&alone())]);
    let live = ask(&world, "10.0.0.30:8080").unwrap();
    let world = with(&world, vec![of_policy(&deny(vec![principal(WEB_PRINCIPAL)]))]);
    assert_eq!(ask(&world, "10.0.0.30:8080").unwrap_err().code, "E_POLICY_DENIED");
    assert_eq!(recheck_waypoint(&world, &gate(), &live).unwrap_err().code, "E_POLICY_DENIED");
}
