//! Names of the mesh as DNS answers them.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use mesh::{ip, of_service, of_workload, pod, service, serving, world};
use trackbed_contract::istio::workload as wire;
use trackbed_decide::World;

fn shop() -> World {
    let sick = wire::Workload { status: wire::WorkloadStatus::Unhealthy.into(), ..pod("db-2", "n2", &["10.0.0.7"]) };
    world(vec![
        of_service(&service("web", &["10.96.0.1", "fd96::1"], &[(80, 8080)])),
        of_service(&service("db", &[], &[(5432, 5432)])),
        of_workload(&serving(pod("db-1", "n1", &["fd00::6", "10.0.0.6"]), "db", &[(5432, 5432)])),
        of_workload(&serving(pod("db-0", "n2", &["10.0.0.5"]), "db", &[(5432, 5432)])),
        of_workload(&serving(sick, "db", &[(5432, 5432)])),
    ])
}

fn addresses(world: &World, name: &str) -> Option<Vec<String>> {
    world.lookup(name, "shop").map(|answer| answer.addresses.iter().map(ToString::to_string).collect())
}

fn list(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

#[test]
fn a_service_is_its_virtual_addresses_in_any_case_of_the_name() {
    assert_eq!(addresses(&shop(), "web.shop.svc.cluster.local"), Some(list(&["10.96.0.1", "fd96::1"])));
    assert_eq!(addresses(&shop(), "WEB.Shop.svc.cluster.LOCAL"), Some(list(&["10.96.0.1", "fd96::1"])));
}

#[test]
fn only_exact_names_are_the_meshs() {
    for name in ["web", "web.shop", "web.shop.svc.cluster.local.", "x.web.shop.svc.cluster.local", "shop.svc.cluster.local", "", "."] {
        assert_eq!(addresses(&shop(), name), None, "{name}");
    }
}

#[test]
fn a_headless_service_is_its_healthy_endpoints_and_each_of_them_by_name() {
    assert_eq!(addresses(&shop(), "db.shop.svc.cluster.local"), Some(list(&["10.0.0.5", "10.0.0.6", "fd00::6"])));
    assert_eq!(addresses(&shop(), "db-1.db.shop.svc.cluster.local"), Some(list(&["10.0.0.6", "fd00::6"])));
    assert_eq!(addresses(&shop(), "db-2.db.shop.svc.cluster.local"), Some(list(&[])), "known and not ready: no data");
    assert_eq!(addresses(&shop(), "db-3.db.shop.svc.cluster.local"), None);
}

#[test]
fn families_and_networks_that_a_service_has_not_are_left_out() {
    let mut one = wire::Service { ip_families: wire::IpFamilies::Ipv6Only.into(), ..service("six", &["10.96.0.2", "fd96::2"], &[]) };
    assert_eq!(addresses(&mesh::with(&shop(), vec![of_service(&one)]), "six.shop.svc.cluster.local"), Some(list(&["fd96::2"])));
    one.ip_families = 0;
    one.addresses[0].network = "far".to_owned();
    assert_eq!(addresses(&mesh::with(&shop(), vec![of_service(&one)]), "six.shop.svc.cluster.local"), Some(list(&["fd96::2"])));
    one.addresses = vec![mesh::vip("10.97.0.0/16")];
    assert_eq!(
        addresses(&mesh::with(&shop(), vec![of_service(&one)]), "six.shop.svc.cluster.local"),
        Some(list(&[])),
        "a block is no address"
    );
}

#[test]
fn of_two_services_of_one_name_the_clients_namespace_then_the_canonical_one_answers() {
    let external = |namespace: &str, address: &str, canonical| wire::Service {
        namespace: namespace.to_owned(),
        hostname: "db.example.com".to_owned(),
        canonical,
        ..service("ext", &[address], &[])
    };
    let world = mesh::with(
        &shop(),
        vec![
            of_service(&external("aaa", "10.98.0.1", false)),
            of_service(&external("pay", "10.98.0.2", false)),
            of_service(&external("zzz", "10.98.0.3", true)),
        ],
    );
    let of = |namespace| world.lookup("db.example.com", namespace).unwrap().addresses;
    assert_eq!(of("pay"), [ip("10.98.0.2")]);
    assert_eq!(of("shop"), [ip("10.98.0.3")]);
}

#[test]
fn a_service_for_its_own_namespace_has_no_name_elsewhere() {
    let hidden = wire::Service { visibility: wire::service::Visibility::Namespace.into(), ..service("vault", &["10.96.0.9"], &[]) };
    let world = mesh::with(&shop(), vec![of_service(&hidden)]);
    assert!(world.lookup("vault.shop.svc.cluster.local", "shop").is_some());
    assert!(world.lookup("vault.shop.svc.cluster.local", "pay").is_none());
}

#[test]
fn a_service_that_passes_through_has_no_name_of_the_mesh() {
    let passing = wire::Service {
        hostname: "db.example.com".to_owned(),
        load_balancing: Some(wire::LoadBalancing {
            mode: wire::load_balancing::Mode::Passthrough.into(),
            ..wire::LoadBalancing::default()
        }),
        ..service("db", &["192.0.2.7"], &[(5432, 5432)])
    };
    assert!(mesh::with(&shop(), vec![of_service(&passing)]).lookup("db.example.com", "shop").is_none());
}
