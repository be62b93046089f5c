//! What may reach the application of a local pod, case by case.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use mesh::{
    API, WEB, at, identity, ip, local, of_policy, of_service, of_workload, pod, policy, principal, service, serving, with, without, world,
};
use trackbed_contract::Identity;
use trackbed_contract::istio::security::{Action, Rule, Scope};
use trackbed_contract::istio::workload as wire;
use trackbed_decide::{Admitted, LocalPod, Refusal, World, inbound_plain, inbound_tunnel, recheck_inbound, relay_inbound};

const WEB_PRINCIPAL: &str = "cluster.local/ns/shop/sa/web";

/// api is local, behind a service with port 80 → 8080; web is another pod of this node; other serves its own service.
fn shop() -> World {
    world(vec![
        of_workload(&pod("web", "n1", &[WEB])),
        of_workload(&serving(pod("api", "n1", &[API, "fd00::2"]), "api", &[(80, 8080), (81, 0)])),
        of_workload(&serving(pod("other", "n1", &["10.0.0.3"]), "other", &[(80, 80)])),
        of_service(&service("api", &["10.96.0.1", "fd96::1"], &[(80, 8080), (81, 0), (82, 15008), (83, 7)])),
        of_service(&service("other", &["10.96.0.3"], &[(80, 80)])),
    ])
}

fn api() -> LocalPod {
    local("api", &[API, "fd00::2"])
}

fn ask(world: &World, authority: &str) -> Result<Admitted, Refusal> {
    inbound_tunnel(world, &api(), &identity("web"), ip(WEB), authority)
}

fn refused(world: &World, authority: &str) -> (u16, &'static str) {
    let refusal = ask(world, authority).expect_err(authority);
    (refusal.status.code(), refusal.code)
}

#[test]
fn the_three_forms_of_authority_reach_the_application() {
    for (authority, target) in [
        ("10.0.0.2:8080", "10.0.0.2:8080"),
        ("[fd00::2]:8080", "[fd00::2]:8080"),
        ("10.96.0.1:80", "10.0.0.2:8080"),
        ("[fd96::1]:80", "10.0.0.2:8080"),
        ("api.shop.svc.cluster.local:80", "10.0.0.2:8080"),
    ] {
        let admitted = ask(&shop(), authority).unwrap();
        assert_eq!(admitted.target, at(target), "{authority}");
        assert_eq!(admitted.source, Some(identity("web")));
        assert_eq!(admitted.service.is_some(), !authority.contains("8080"), "{authority}");
    }
    let over_v6 = inbound_tunnel(&shop(), &api(), &identity("web"), ip("fd00::1"), "api.shop.svc.cluster.local:80").unwrap();
    assert_eq!(over_v6.target, at("[fd00::2]:8080"), "a peer of IPv6 is shown to the application as such");
}

#[test]
fn an_authority_that_names_anything_else_is_refused() {
    let destination = "E_DESTINATION_REFUSED";
    for (authority, status, code) in [
        ("10.0.0.1:80", 400, destination),
        ("10.0.0.3:80", 400, destination),
        ("10.96.0.3:80", 400, destination),
        ("127.0.0.1:8080", 400, destination),
        ("[::1]:8080", 400, destination),
        ("0.0.0.0:8080", 400, destination),
        ("[::]:8080", 400, destination),
        ("[::ffff:10.0.0.2]:8080", 400, destination),
        ("169.254.169.254:80", 400, destination),
        ("224.0.0.1:80", 400, destination),
        ("8.8.8.8:53", 400, destination),
        ("10.0.0.2:0", 400, destination),
        ("10.0.0.2", 400, destination),
        ("", 400, destination),
        ("api.shop.svc.cluster.local.:80", 400, destination),
        ("api.shop.svc.cluster.local\0:80", 400, destination),
        ("other.shop.svc.cluster.local:80", 503, destination),
        ("unknown.example:80", 503, destination),
        ("localhost:8080", 503, destination),
        ("api.shop.svc.cluster.local:81", 503, "E_SERVICE_NO_PORT"),
        ("api.shop.svc.cluster.local:84", 503, "E_SERVICE_NO_PORT"),
        ("10.96.0.1:8080", 503, "E_SERVICE_NO_PORT"),
        ("10.0.0.2:15001", 503, "E_DESTINATION_OWN_PORT"),
        ("10.0.0.2:15006", 503, "E_DESTINATION_OWN_PORT"),
        ("10.0.0.2:15008", 503, "E_DESTINATION_OWN_PORT"),
        ("[fd00::2]:15053", 503, "E_DESTINATION_OWN_PORT"),
        ("api.shop.svc.cluster.local:82", 503, "E_DESTINATION_OWN_PORT"),
    ] {
        assert_eq!(refused(&shop(), authority), (status, code), "{authority:?}");
    }
    let oversized = format!("{}:80", "a".repeat(1 << 20));
    assert_eq!(refused(&shop(), &oversized), (400, destination));
}

#[test]
fn loopback_is_refused_even_when_pod_and_workload_claim_it() {
    let world = with(&shop(), vec![of_workload(&pod("api", "n1", &[API, "127.0.0.1", "::1", "0.0.0.0"]))]);
    let pod = local("api", &[API, "127.0.0.1", "::1", "0.0.0.0"]);
    for authority in ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80"] {
        let refusal = inbound_tunnel(&world, &pod, &identity("web"), ip(WEB), authority).unwrap_err();
        assert_eq!(refusal.status.code(), 400, "{authority}");
        assert!(inbound_plain(&world, &pod, ip(WEB), at(authority)).is_err());
    }
}

#[test]
fn an_address_must_be_both_the_pods_and_its_workloads() {
    let only_workload = local("api", &[API]);
    assert_eq!(inbound_tunnel(&shop(), &only_workload, &identity("web"), ip(WEB), "[fd00::2]:80").unwrap_err().status.code(), 400);
    let only_pod = local("api", &[API, "10.0.0.99"]);
    assert_eq!(inbound_tunnel(&shop(), &only_pod, &identity("web"), ip(WEB), "10.0.0.99:80").unwrap_err().status.code(), 400);
}

#[test]
fn a_local_pod_without_its_own_workload_admits_nobody() {
    let stranger = local("api-2", &[API]);
    let refusal = inbound_tunnel(&shop(), &stranger, &identity("web"), ip(WEB), "10.0.0.2:80").unwrap_err();
    assert_eq!((refusal.status.code(), refusal.code), (503, "E_WORKLOAD_UNKNOWN"));
    assert_eq!(inbound_plain(&shop(), &stranger, ip(WEB), at("10.0.0.2:80")).unwrap_err().code, "E_WORKLOAD_UNKNOWN");
    assert_eq!(relay_inbound(&shop(), &stranger, &identity("web"), ip(WEB), at("10.0.0.2:80")).unwrap_err().code, "E_WORKLOAD_UNKNOWN");
}

#[test]
fn a_peer_of_another_trust_domain_is_refused() {
    let peer = Identity::parse("spiffe://other.example/ns/shop/sa/web").unwrap();
    let refusal = inbound_tunnel(&shop(), &api(), &peer, ip(WEB), "10.0.0.2:80").unwrap_err();
    assert_eq!((refusal.status.code(), refusal.code), (401, "E_IDENTITY_MISMATCH"));
}

#[test]
fn all_three_paths_are_held_to_the_same_policy() {
    let world = with(&shop(), vec![of_policy(&policy("web-only", Action::Allow, vec![principal(WEB_PRINCIPAL)]))]);
    let target = at("10.0.0.2:8080");
    let admitted = ask(&world, "10.0.0.2:8080").unwrap();
    assert_eq!(admitted.policy.as_ref().map(|policy| (&*policy.name, policy.rule)), Some(("shop/web-only", Some(0))));
    assert_eq!(relay_inbound(&world, &api(), &identity("web"), ip(WEB), target).unwrap(), admitted);
    for refusal in [
        inbound_tunnel(&world, &api(), &identity("other"), ip(WEB), "10.0.0.2:8080").unwrap_err(),
        relay_inbound(&world, &api(), &identity("other"), ip(WEB), target).unwrap_err(),
        inbound_plain(&world, &api(), ip(WEB), target).unwrap_err(),
    ] {
        assert_eq!((refusal.status.code(), refusal.code), (401, "E_POLICY_NO_ALLOW"));
        assert_eq!(&*refusal.policy.unwrap().name, "shop/web-only");
    }
}

#[test]
fn policy_sees_the_resolved_port_not_the_services() {
    let deny = |port| {
        let one = trackbed_contract::istio::security::Match { destination_ports: vec![port], ..Default::default() };
        let clause = trackbed_contract::istio::security::Clause { matches: vec![one] };
        policy("port", Action::Deny, vec![Rule { clauses: vec![clause] }])
    };
    assert!(ask(&with(&shop(), vec![of_policy(&deny(80))]), "10.96.0.1:80").is_ok());
    assert_eq!(refused(&with(&shop(), vec![of_policy(&deny(8080))]), "10.96.0.1:80"), (401, "E_POLICY_DENIED"));
}

#[test]
fn a_plaintext_client_is_admitted_when_nothing_forbids_it() {
    let admitted = inbound_plain(&shop(), &api(), ip("192.0.2.1"), at("10.0.0.2:8080")).unwrap();
    assert_eq!((admitted.source, admitted.source_ip), (None, ip("192.0.2.1")));
    for (destination, code) in [
        ("10.0.0.3:80", "E_DESTINATION_REFUSED"),
        ("127.0.0.1:80", "E_DESTINATION_REFUSED"),
        ("10.0.0.2:0", "E_DESTINATION_REFUSED"),
        ("10.0.0.2:15008", "E_DESTINATION_OWN_PORT"),
    ] {
        assert_eq!(inbound_plain(&shop(), &api(), ip("192.0.2.1"), at(destination)).unwrap_err().code, code, "{destination}");
    }
    assert!(inbound_plain(&shop(), &api(), ip("::ffff:192.0.2.1"), at("[::ffff:10.0.0.2]:80")).is_ok_and(|one| one.source_ip.is_ipv4()));
}

#[test]
fn a_live_connection_is_cut_by_policy_and_by_workload_change() {
    let world = shop();
    let live = ask(&world, "10.96.0.1:80").unwrap();
    let cut = |world: &World| recheck_inbound(world, &api(), &live).err();
    assert_eq!(cut(&world), None);

    let denied = cut(&with(&world, vec![of_policy(&policy("no-web", Action::Deny, vec![principal(WEB_PRINCIPAL)]))])).unwrap();
    assert_eq!((denied.code, &*denied.policy.unwrap().name), ("E_POLICY_DENIED", "shop/no-web"));

    let mut bound = serving(pod("api", "n1", &[API, "fd00::2"]), "api", &[(80, 8080)]);
    bound.authorization_policies = vec!["shop/sel".to_owned()];
    let unknown = with(&world, vec![of_workload(&bound)]);
    assert_eq!(cut(&unknown).unwrap().code, "E_POLICY_UNKNOWN", "a policy newly bound to the pod acts before it is known");
    assert_eq!(unknown.missing_policies(unknown.workload(&bound.uid).unwrap()), ["shop/sel".into()]);
    let mut selected = policy("sel", Action::Allow, vec![principal(WEB_PRINCIPAL)]);
    selected.scope = Scope::WorkloadSelector.into();
    assert_eq!(cut(&with(&unknown, vec![of_policy(&selected)])), None);

    assert_eq!(cut(&without(&world, &[of_workload(&bound)])).unwrap().code, "E_WORKLOAD_UNKNOWN");
    let other = wire::Workload { uid: "Kubernetes//Pod/shop/api-again".to_owned(), ..pod("api", "n1", &[API, "fd00::2"]) };
    let replaced = with(&without(&world, &[of_workload(&bound)]), vec![of_workload(&other)]);
    assert_eq!(cut(&replaced).unwrap().code, "E_WORKLOAD_UNKNOWN", "the same name and address, but another workload");

    let left = wire::Workload { tunnel_protocol: 0, ..bound.clone() };
    let left = wire::Workload { authorization_policies: Vec::new(), ..left };
    assert_eq!(cut(&with(&world, vec![of_workload(&left)])), None, "leaving the mesh cuts nothing");
    assert_eq!(cut(&without(&world, &[of_service(&service("api", &[], &[]))])), None, "nor does the service's end");
}

#[test]
fn an_explanation_lists_every_policy_that_applies_once() {
    let mut bound = pod("api", "n1", &[API]);
    bound.authorization_policies = ["shop/ns", "shop/everywhere", "shop/sel", "shop/gone", "shop/sel"].map(str::to_owned).to_vec();
    let scoped = |name, scope: Scope| {
        let mut policy = policy(name, Action::Deny, Vec::new());
        policy.scope = scope.into();
        of_policy(&policy)
    };
    let policies = vec![
        scoped("ns", Scope::Namespace),
        scoped("everywhere", Scope::Global),
        scoped("sel", Scope::WorkloadSelector),
        scoped("unnamed", Scope::WorkloadSelector),
        of_workload(&bound),
    ];
    let world = world(policies);
    let workload = world.workload(&bound.uid).unwrap();
    let explanation = trackbed_decide::explain_inbound(&world, workload, Some(&identity("web")), ip(WEB), at("10.0.0.2:80"));
    let mut names: Vec<&str> = explanation.considered.iter().map(|one| &*one.considered.policy.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["shop/everywhere", "shop/gone", "shop/ns", "shop/sel"]);
}

#[test]
fn a_broken_policy_update_denies_until_it_is_corrected_or_removed() {
    let good = policy("p", Action::Allow, vec![Rule::default()]);
    let world = with(&shop(), vec![of_policy(&good)]);
    let mut broken = of_policy(&good);
    broken.body.extend([0x98, 0x06, 0x01]); // field 99
    let (closed, rejected) = mesh::apply(&world, vec![broken.clone()], &[]);
    assert_eq!((rejected[0].code.as_str(), rejected[0].name.as_str()), ("E_POLICY_INVALID", "shop/p"));
    assert_eq!(refused(&closed, "10.0.0.2:80"), (401, "E_POLICY_INVALID"));
    assert!(closed.held().iter().all(|held| held.name != "shop/p"), "a rejected resource is asked for again");
    assert!(ask(&with(&closed, vec![of_policy(&good)]), "10.0.0.2:80").is_ok());
    assert!(ask(&without(&closed, &[broken]), "10.0.0.2:80").is_ok());
}

#[test]
fn the_trust_domain_of_the_settings_renames_those_that_name_none() {
    let mut own = pod("own", "n2", &["10.0.0.5"]);
    own.trust_domain = "own.example".to_owned();
    let world = with(&shop(), vec![of_workload(&own)]);
    let settings =
        trackbed_decide::Settings { trust_domain: trackbed_contract::TrustDomain::parse("new.example").unwrap(), ..mesh::settings() };
    let renamed = world.with_settings(settings);
    let of = |name: &str| renamed.workload(&format!("Kubernetes//Pod/shop/{name}")).unwrap().identity.as_str().to_owned();
    assert_eq!(of("api"), "spiffe://new.example/ns/shop/sa/api");
    assert_eq!(of("own"), "spiffe://own.example/ns/shop/sa/own");
    assert_eq!(renamed.held().len(), world.held().len());
    assert_eq!(inbound_tunnel(&renamed, &api(), &identity("web"), ip(WEB), "10.0.0.2:80").unwrap_err().code, "E_IDENTITY_MISMATCH");
}
