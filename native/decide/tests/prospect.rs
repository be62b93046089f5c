//! What is told of a connection before anybody opens it: its ways, and what would become of each.
mod mesh;

use std::sync::Arc;

use mesh::{API, WEB, ip, of_policy, of_service, of_workload, plain, pod, policy, principal, service, serving, settings, with};
use trackbed_contract::Identity;
use trackbed_contract::istio::security::{Action, Address, Authorization, Clause, Match, Rule, Scope};
use trackbed_contract::istio::workload as wire;
use trackbed_decide::{Client, Prospect, Unusable, Verdict, World, admission, prospect};

const DB: &str = "10.0.0.3";
const WEB_PRINCIPAL: &str = "cluster.local/ns/shop/sa/web";

/// web on n1; api on n1, n2 and, unhealthy, on n2 behind one service.
fn shop(more: Vec<trackbed_contract::engine::Resource>) -> World {
    let api = |name: &str, node: &str, address: &str| serving(pod(name, node, &[address]), "api", &[(80, 8080)]);
    let sick = wire::Workload { status: wire::WorkloadStatus::Unhealthy.into(), ..api("api-2", "n2", "10.0.0.4") };
    let resources = [of_workload(&pod("web", "n1", &[WEB])), of_workload(&api("api-0", "n1", API)), of_workload(&api("api-1", "n2", DB))];
    let resources = resources.into_iter().chain([of_workload(&sick), of_service(&service("api", &["10.96.0.1"], &[(80, 8080)]))]);
    with(&World::new(settings()), resources.chain(more).collect())
}

fn workload(name: &str) -> String {
    format!("Kubernetes//Pod/shop/{name}")
}

fn web(world: &World) -> Client {
    Client::Workload(Arc::clone(world.workload(&workload("web")).expect("web")))
}

fn verdicts(prospect: &Prospect) -> Vec<(&'static str, Verdict)> {
    prospect.ways.iter().map(|way| (way.path, way.judgement.verdict)).collect()
}

#[test]
fn every_endpoint_that_can_be_chosen_is_a_way_and_of_the_others_it_is_told_why() {
    let world = shop(Vec::new());
    for host in ["api", "api.shop", "api.shop.svc.cluster.local", "10.96.0.1"] {
        let told = prospect(&world, &web(&world), host, 80);
        let mut ways = verdicts(&told);
        ways.sort_unstable_by_key(|way| way.0);
        assert_eq!(ways, [("relay", Verdict::Allowed), ("tunnel", Verdict::Allowed)], "{host}");
        let resolution = told.resolution.expect("it resolves");
        assert_eq!(resolution.service.as_deref(), Some("shop/api.shop.svc.cluster.local"), "{host}");
        let unusable: Vec<_> = resolution.endpoints.iter().filter_map(|one| one.unusable).collect();
        assert_eq!(unusable, [Unusable::Unhealthy], "{host}");
        assert_eq!(told.judgement.verdict, Verdict::Allowed);
    }
    let told = prospect(&world, &web(&world), "api", 81);
    assert_eq!((told.judgement.verdict, told.judgement.code), (Verdict::Failed, "E_SERVICE_NO_PORT"));
    assert!(prospect(&world, &web(&world), "www.example.com", 80).resolution.is_none());
}

#[test]
fn endpoints_that_differ_make_it_depend_and_a_policy_names_the_field_that_fails() {
    let only = policy("only-db", Action::Allow, vec![principal("cluster.local/ns/shop/sa/db")]);
    let only = Authorization { scope: Scope::WorkloadSelector.into(), ..only };
    let mut guarded = serving(pod("api-1", "n2", &[DB]), "api", &[(80, 8080)]);
    guarded.authorization_policies = vec!["shop/only-db".to_owned()];
    let world = shop(vec![of_policy(&only), of_workload(&guarded)]);
    let told = prospect(&world, &web(&world), "api", 80);
    assert_eq!(told.judgement.verdict, Verdict::Depends, "{}", told.judgement.reason);
    let denied = told.ways.iter().find(|way| way.judgement.verdict == Verdict::Denied).expect("one endpoint denies");
    assert_eq!((denied.judgement.code, denied.path), ("E_POLICY_NO_ALLOW", "tunnel"));
    let miss = &denied.considered[0].rules[0].misses[0];
    assert_eq!((&*miss.field, &*miss.wants), ("clauses[0].matches[0].principals", "cluster.local/ns/shop/sa/db"));
    assert_eq!(miss.has, WEB_PRINCIPAL);
}

#[test]
fn who_is_outside_the_mesh_comes_in_plaintext_and_policy_decides_it_so() {
    let world = shop(Vec::new());
    let outsider = Client::Address(ip("192.0.2.9"));
    assert_eq!(verdicts(&prospect(&world, &outsider, "10.96.0.1", 80)), [("plain", Verdict::Allowed); 2]);
    let world = shop(vec![of_policy(&policy("named", Action::Allow, vec![principal(WEB_PRINCIPAL)]))]);
    let told = prospect(&world, &outsider, "10.96.0.1", 80);
    assert_eq!(verdicts(&told), [("plain", Verdict::Denied); 2]);
    assert_eq!(told.ways[0].considered[0].rules[0].misses[0].has, "none: plaintext");
    let beside = shop(vec![of_workload(&plain(pod("legacy", "n2", &["10.0.0.9"])))]);
    assert_eq!(verdicts(&prospect(&beside, &web(&beside), "10.0.0.9", 80)), [("plain", Verdict::Allowed)]);
}

#[test]
fn a_dry_run_policy_refuses_nothing_and_is_told_of() {
    let dry = Authorization { dry_run: true, ..policy("dry", Action::Allow, vec![principal("cluster.local/ns/shop/sa/db")]) };
    let world = shop(vec![of_policy(&dry)]);
    let told = prospect(&world, &web(&world), "api", 80);
    assert_eq!(told.judgement.verdict, Verdict::Allowed);
    let audit = told.ways[0].judgement.audit.as_ref().expect("an audit");
    assert_eq!((audit.code, &*audit.policy.name), ("E_POLICY_NO_ALLOW", "shop/dry"));
}

#[test]
fn a_client_whose_address_is_not_known_is_decided_only_where_the_address_does_not_matter() {
    let from = |address: &str, length| Rule {
        clauses: vec![Clause {
            matches: vec![Match { source_ips: vec![Address { address: mesh::bytes(address), length }], ..Match::default() }],
        }],
    };
    let source = Identity::parse(&format!("spiffe://{WEB_PRINCIPAL}")).expect("identity");
    let absent = Identity::parse("spiffe://cluster.local/ns/shop/sa/absent").expect("identity");
    let judge = |rules, source: &Identity| {
        let world = shop(vec![of_policy(&policy("p", Action::Allow, rules))]);
        admission(&world, world.workload(&workload("api-0")).expect("api"), Some(source), None, 8080).verdict
    };
    assert_eq!(judge(vec![principal(WEB_PRINCIPAL)], &source), Verdict::Allowed);
    assert_eq!(judge(vec![principal(WEB_PRINCIPAL)], &absent), Verdict::Denied);
    // Every pod of the identity has an address that is let in, or none.
    assert_eq!(judge(vec![from("10.0.0.0", 24)], &source), Verdict::Allowed);
    assert_eq!(judge(vec![from("192.0.2.0", 24)], &source), Verdict::Denied);
    assert_eq!(judge(vec![from("10.0.0.0", 24)], &absent), Verdict::Depends);
}
