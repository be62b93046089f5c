//! Where connections of a local pod go, case by case.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

mod mesh;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mesh::{
    API, WEB, at, code, decide, decide_without, identity, ip, local, of_service, of_workload, plain, pod, service, serving, vip, with,
    without, world,
};
use trackbed_balance::Load;
use trackbed_contract::istio::workload as wire;
use trackbed_decide::{Chooser, Outbound, Plain, Relay, Tunnel, World, outbound, recheck_outbound};

fn tunnel(decided: Outbound) -> Tunnel {
    match decided {
        Outbound::Tunnel(tunnel) => tunnel,
        other => panic!("not a tunnel: {other:?}"),
    }
}

/// web on n1, api on n2 behind a service with port 80 → 8080 and, for a named port, 81 → by endpoint.
fn shop() -> World {
    world(vec![
        of_workload(&pod("web", "n1", &[WEB, "fd00::1"])),
        of_workload(&serving(pod("api", "n2", &[API, "fd00::2"]), "api", &[(80, 8080), (81, 9091)])),
        of_service(&service("api", &["10.96.0.1", "fd96::1"], &[(80, 8080), (81, 0), (82, 0)])),
    ])
}

fn web() -> trackbed_decide::LocalPod {
    local("web", &[WEB, "fd00::1"])
}

#[test]
fn a_service_address_becomes_a_tunnel_to_the_endpoints_target_port() {
    let decided = tunnel(decide(&shop(), &web(), "10.96.0.1:80"));
    assert_eq!(decided.dial, at("10.0.0.2:15008"));
    assert_eq!(decided.authority, "10.0.0.2:8080");
    assert_eq!(decided.accept, [identity("api")]);
    assert_eq!(&*decided.endpoint.name, "api");
    assert_eq!(&*decided.source.name, "web");
    assert_eq!(&*decided.service.unwrap().key, "shop/api.shop.svc.cluster.local");
}

#[test]
fn an_ipv6_client_reaches_the_endpoint_by_ipv6() {
    let decided = tunnel(decide(&shop(), &web(), "[fd96::1]:80"));
    assert_eq!(decided.dial, at("[fd00::2]:15008"));
    assert_eq!(decided.authority, "[fd00::2]:8080");
}

#[test]
fn an_ipv4_mapped_destination_is_its_ipv4_address() {
    assert_eq!(tunnel(decide(&shop(), &web(), "[::ffff:10.96.0.1]:80")).dial, at("10.0.0.2:15008"));
}

#[test]
fn a_port_by_name_is_the_endpoints_and_without_one_there_is_no_endpoint() {
    assert_eq!(tunnel(decide(&shop(), &web(), "10.96.0.1:81")).authority, "10.0.0.2:9091");
    assert_eq!(code(&decide(&shop(), &web(), "10.96.0.1:82")), "E_SERVICE_NO_ENDPOINT");
}

#[test]
fn a_port_that_the_service_has_not_is_refused() {
    assert_eq!(code(&decide(&shop(), &web(), "10.96.0.1:8080")), "E_SERVICE_NO_PORT");
}

#[test]
fn a_pod_address_becomes_a_tunnel_to_that_pod_and_port() {
    let decided = tunnel(decide(&shop(), &web(), "10.0.0.2:1234"));
    assert_eq!((decided.dial, decided.authority.as_str()), (at("10.0.0.2:15008"), "10.0.0.2:1234"));
    assert_eq!(decided.service, None);
}

#[test]
fn an_unknown_address_passes_in_plaintext() {
    let Outbound::Plain(Plain { address, endpoint: None, service: None, .. }) = decide(&shop(), &web(), "192.0.2.1:443") else {
        panic!("not plain")
    };
    assert_eq!(address, at("192.0.2.1:443"));
}

#[test]
fn a_pod_outside_the_mesh_is_reached_in_plaintext_and_known() {
    let world = with(&shop(), vec![of_workload(&plain(pod("old", "n2", &["10.0.0.9"])))]);
    let Outbound::Plain(Plain { endpoint: Some(endpoint), .. }) = decide(&world, &web(), "10.0.0.9:80") else { panic!("not plain") };
    assert_eq!(&*endpoint.name, "old");
}

#[test]
fn own_ports_and_impossible_addresses_are_refused() {
    for port in [15001, 15006, 15008, 15053] {
        for host in ["10.0.0.2", "10.96.0.1", "192.0.2.1", "127.0.0.1", "[::1]"] {
            assert_eq!(code(&decide(&shop(), &web(), &format!("{host}:{port}"))), "E_DESTINATION_OWN_PORT");
        }
    }
    for host in ["127.0.0.1", "127.8.8.8", "[::1]", "0.0.0.0", "[::]", "224.0.0.1", "[ff02::1]", "255.255.255.255", "[::ffff:127.0.0.1]"] {
        assert_eq!(code(&decide(&shop(), &web(), &format!("{host}:80"))), "E_DESTINATION_REFUSED", "{host}");
    }
    assert_eq!(code(&decide(&shop(), &web(), "10.0.0.2:0")), "E_DESTINATION_REFUSED");
}

#[test]
fn a_target_port_that_is_our_own_is_no_endpoint() {
    let world = with(&shop(), vec![of_workload(&serving(pod("api", "n2", &[API]), "api", &[(80, 15008)]))]);
    assert_eq!(code(&decide(&world, &web(), "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT");
}

#[test]
fn a_pod_of_the_same_node_is_relayed_with_the_tunnel_beside() {
    let world = with(&shop(), vec![of_workload(&pod("near", "n1", &["10.0.0.3"]))]);
    let Outbound::Relay(Relay { address, tunnel }) = decide(&world, &web(), "10.0.0.3:80") else { panic!("not a relay") };
    assert_eq!(address, at("10.0.0.3:80"));
    assert_eq!((tunnel.dial, tunnel.authority.as_str()), (at("10.0.0.3:15008"), "10.0.0.3:80"));

    let settings = trackbed_decide::Settings { encrypt_same_node: true, ..mesh::settings() };
    assert_eq!(code(&decide(&world.with_settings(settings), &web(), "10.0.0.3:80")), "tunnel", "the operator's switch turns it off");
}

#[test]
fn a_source_whose_workload_is_not_this_pod_goes_nowhere() {
    let world = shop();
    for (what, pod) in [
        ("another address", local("web", &["10.0.0.77"])),
        ("another name", local("web2", &[WEB])),
        ("another account", trackbed_decide::LocalPod { service_account: "root".into(), ..web() }),
        ("another namespace", trackbed_decide::LocalPod { namespace: "pay".into(), ..web() }),
        ("another node", local("api", &[API])),
        ("no address", local("web", &[])),
    ] {
        let decided = decide(&world, &pod, "192.0.2.1:443");
        assert_eq!(code(&decided), "E_WORKLOAD_UNKNOWN", "{what}");
        assert!(matches!(decided, Outbound::Refuse(refusal) if refusal.may_pass()), "worth holding the connection");
    }
}

#[test]
fn a_failed_endpoint_is_not_chosen_again_and_the_refusal_counts_why() {
    let second = serving(pod("api-2", "n3", &["10.0.0.4"]), "api", &[(80, 8080)]);
    let world = with(&shop(), vec![of_workload(&second)]);
    let first: Arc<str> = "Kubernetes//Pod/shop/api".into();
    let other: Arc<str> = second.uid.as_str().into();
    assert_eq!(tunnel(decide_without(&world, &web(), "10.96.0.1:80", &[Arc::clone(&first)])).endpoint.uid, other);
    assert_eq!(tunnel(decide_without(&world, &web(), "10.96.0.1:80", &[Arc::clone(&other)])).endpoint.uid, first);
    let Outbound::Refuse(refusal) = decide_without(&world, &web(), "10.96.0.1:80", &[first.clone(), other]) else { panic!("chosen") };
    assert_eq!(refusal.code, "E_SERVICE_NO_ENDPOINT");
    assert!(refusal.reason.contains("2 already failed"), "{refusal}");
    assert_eq!(code(&decide_without(&world, &web(), "10.0.0.2:80", &[first])), "E_SERVICE_NO_ENDPOINT", "a pod's IP has no alternative");
}

#[test]
fn unhealthy_endpoints_and_other_networks_are_not_used() {
    let sick = wire::Workload { status: wire::WorkloadStatus::Unhealthy.into(), ..serving(pod("api", "n2", &[API]), "api", &[(80, 8080)]) };
    let world = with(&shop(), vec![of_workload(&sick)]);
    assert_eq!(code(&decide(&world, &web(), "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT");
    assert_eq!(code(&decide(&world, &web(), "10.0.0.2:8080")), "tunnel", "by its own address a client may try it");

    let mut all = service("api", &["10.96.0.1"], &[(80, 8080)]);
    let health_policy = wire::load_balancing::HealthPolicy::AllowAll.into();
    all.load_balancing = Some(wire::LoadBalancing { health_policy, ..wire::LoadBalancing::default() });
    assert_eq!(code(&decide(&with(&world, vec![of_service(&all)]), &web(), "10.96.0.1:80")), "tunnel");

    let far = wire::Workload { network: "far".to_owned(), ..serving(pod("api", "n2", &[API]), "api", &[(80, 8080)]) };
    let world = with(&shop(), vec![of_workload(&far)]);
    assert_eq!(code(&decide(&world, &web(), "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT");
    assert_eq!(code(&decide(&world, &web(), "10.0.0.2:80")), "plain", "the same address of another network is another place");
}

#[test]
fn hostnetwork_pods_are_never_found_by_address() {
    let host = wire::Workload { network_mode: wire::NetworkMode::HostNetwork.into(), ..plain(pod("agent", "n2", &["192.168.0.2"])) };
    let world = with(&shop(), vec![of_workload(&host)]);
    assert!(matches!(decide(&world, &web(), "192.168.0.2:80"), Outbound::Plain(Plain { endpoint: None, .. })));
}

#[test]
fn an_address_of_two_identities_is_refused_until_one_is_gone() {
    let old = of_workload(&pod("api", "n2", &[API]));
    let new = of_workload(&pod("pay", "n3", &[API]));
    let both = with(&shop(), vec![new.clone()]);
    assert_eq!(code(&decide(&both, &web(), "10.0.0.2:80")), "E_WORKLOAD_UNKNOWN");
    assert_eq!(tunnel(decide(&without(&both, &[old]), &web(), "10.0.0.2:80")).accept, [identity("pay")]);
    assert_eq!(tunnel(decide(&without(&both, &[new]), &web(), "10.0.0.2:80")).accept, [identity("api")]);
}

#[test]
fn a_completed_pod_at_the_address_of_a_live_one_opens_no_plaintext_path() {
    let done = serving(plain(pod("job", "n2", &[API])), "job", &[(80, 80)]);
    let world = with(&shop(), vec![of_workload(&done), of_service(&service("job", &["10.96.0.9"], &[(80, 80)]))]);
    assert_eq!(tunnel(decide(&world, &web(), "10.0.0.2:80")).accept, [identity("api")]);
    assert_eq!(code(&decide(&world, &web(), "10.96.0.9:80")), "E_WORKLOAD_UNKNOWN", "not even as the endpoint of its own service");
}

#[test]
fn a_sidecar_is_refused_not_spoken_to_in_plaintext() {
    let sidecar = wire::Workload { tunnel_protocol: wire::TunnelProtocol::LegacyIstioMtls.into(), ..pod("old", "n2", &["10.0.0.9"]) };
    assert_eq!(code(&decide(&with(&shop(), vec![of_workload(&sidecar)]), &web(), "10.0.0.9:80")), "E_SOURCE_UNSUPPORTED");
}

#[test]
fn an_unusable_resource_closes_its_addresses_instead_of_opening_them() {
    let bad = wire::Workload { trust_domain: "NOT A DOMAIN".to_owned(), ..pod("bad", "n2", &["10.0.0.9"]) };
    let (world, rejected) = mesh::apply(&shop(), vec![of_workload(&bad)], &[]);
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].reason.contains("workload.trust_domain"), "{rejected:?}");
    assert_eq!(code(&decide(&world, &web(), "10.0.0.9:80")), "E_WORKLOAD_UNKNOWN");
    assert_eq!(code(&decide(&without(&world, &[of_workload(&bad)]), &web(), "10.0.0.9:80")), "plain", "removed, the address is unknown");
}

#[test]
fn a_rejected_address_keeps_its_previous_version_in_force() {
    let bad = wire::Workload { addresses: vec![vec![1, 2, 3]], ..pod("api", "n2", &[]) };
    for reset in [false, true] {
        let delta = trackbed_contract::engine::StateDelta {
            generation: 9,
            reset,
            upsert: vec![of_workload(&bad), of_workload(&pod("web", "n1", &[WEB]))],
            remove: Vec::new(),
        };
        let (world, rejected) = shop().apply(&delta);
        assert_eq!(rejected.iter().map(|one| one.code.as_str()).collect::<Vec<_>>(), ["E_SOURCE_INVALID"]);
        assert_eq!(tunnel(decide(&world, &local("web", &[WEB]), "10.0.0.2:80")).accept, [identity("api")], "reset: {reset}");
    }
}

#[test]
fn a_block_of_addresses_is_found_by_its_longest_prefix_and_never_hides_a_pod() {
    let endpoint = |name: &str, address| serving(plain(pod(name, "n2", &[address])), name, &[(80, 80)]);
    let world = with(
        &shop(),
        vec![
            of_service(&service("wide", &["10.0.0.0/8"], &[(80, 80)])),
            of_service(&service("narrow", &["10.9.0.0/16"], &[(80, 80)])),
            of_workload(&endpoint("wide", "172.16.0.1")),
            of_workload(&endpoint("narrow", "172.16.0.2")),
        ],
    );
    let plain_to = |destination| match decide(&world, &web(), destination) {
        Outbound::Plain(plain) => plain.address,
        other => panic!("{destination}: {other:?}"),
    };
    assert_eq!(plain_to("10.9.1.1:80"), at("172.16.0.2:80"));
    assert_eq!(plain_to("10.8.1.1:80"), at("172.16.0.1:80"));
    assert_eq!(plain_to("11.8.1.1:80"), at("11.8.1.1:80"));
    assert_eq!(code(&decide(&world, &web(), "10.0.0.2:80")), "tunnel", "the pod's own address is more exact");
    let without = without(&world, &[of_service(&service("narrow", &["10.9.0.0/16"], &[]))]);
    assert!(matches!(decide(&without, &web(), "10.9.1.1:80"), Outbound::Plain(plain) if plain.address == at("172.16.0.1:80")));
}

#[test]
fn of_two_services_at_one_address_the_clients_namespace_wins() {
    let mut other = service("api", &["10.96.0.1"], &[(80, 1)]);
    other.namespace = "aaa".to_owned();
    let world = with(&shop(), vec![of_service(&other)]);
    assert_eq!(tunnel(decide(&world, &web(), "10.96.0.1:80")).authority, "10.0.0.2:8080");
}

#[test]
fn a_document_about_a_pods_address_reroutes_no_other_namespaces_clients() {
    let thief =
        wire::Workload { namespace: "evil".to_owned(), services: std::collections::HashMap::new(), ..pod("thief", "n3", &["10.0.0.66"]) };
    let mut thief = wire::Workload { uid: "Kubernetes//Pod/evil/thief".to_owned(), ..thief };
    let claim = wire::Service {
        namespace: "evil".to_owned(),
        hostname: "x.example".to_owned(),
        ..service("x", &[API, "10.0.0.0/24"], &[(80, 80)])
    };
    thief.services.insert("evil/x.example".to_owned(), wire::PortList { ports: claim.ports.clone() });
    let world = with(&shop(), vec![of_workload(&thief), of_service(&claim)]);
    assert_eq!(tunnel(decide(&world, &web(), "10.0.0.2:80")).accept, [identity("api")]);

    let own = service("own", &[API], &[(80, 1)]);
    let world = with(&shop(), vec![of_service(&own), of_workload(&serving(pod("sub", "n3", &["10.0.0.4"]), "own", &[(80, 1)]))]);
    assert_eq!(tunnel(decide(&world, &web(), "10.0.0.2:80")).authority, "10.0.0.4:1", "a namespace may route its own clients");
}

#[test]
fn a_broken_document_about_the_whole_internet_closes_nothing() {
    let mut broken = service("all", &["0.0.0.0/0", "192.0.2.9"], &[(80, 80)]);
    broken.ip_families = 9;
    let (world, rejected) = mesh::apply(&shop(), vec![of_service(&broken)], &[]);
    assert_eq!(rejected.len(), 1);
    assert_eq!(code(&decide(&world, &web(), "192.0.2.1:80")), "plain");
    assert_eq!(code(&decide(&world, &web(), "192.0.2.9:80")), "E_WORKLOAD_UNKNOWN", "its own address stays closed");
}

#[test]
fn a_service_for_its_own_namespace_is_refused_to_others_not_passed_on() {
    let hidden = wire::Service {
        namespace: "pay".to_owned(),
        visibility: wire::service::Visibility::Namespace.into(),
        ..service("vault", &["10.96.0.5"], &[(80, 80)])
    };
    assert_eq!(code(&decide(&with(&shop(), vec![of_service(&hidden)]), &web(), "10.96.0.5:80")), "E_DESTINATION_REFUSED");
}

#[test]
fn what_another_namespace_says_of_addresses_outside_means_nothing_to_this_one() {
    let entry = |namespace: &str, visibility: wire::service::Visibility, addresses: &[&str]| wire::Service {
        namespace: namespace.to_owned(),
        hostname: "api.example.com".to_owned(),
        visibility: visibility.into(),
        ..service("api", addresses, &[(80, 80)])
    };
    let others = entry("pay", wire::service::Visibility::Namespace, &["192.0.2.9", "198.51.100.0/24", "0.0.0.0/0"]);
    let world = with(&shop(), vec![of_service(&others)]);
    for address in ["192.0.2.9:80", "198.51.100.1:443", "203.0.113.1:80"] {
        assert_eq!(code(&decide(&world, &web(), address)), "plain", "{address}");
    }
    let everybodys = entry("root", wire::service::Visibility::Public, &["198.51.0.0/16"]);
    let world = with(&world, vec![of_service(&everybodys)]);
    assert_eq!(code(&decide(&world, &web(), "198.51.100.1:80")), "E_SERVICE_NO_ENDPOINT", "the shorter block is everybody's and counts");
    let own = entry("shop", wire::service::Visibility::Namespace, &["192.0.2.9"]);
    assert_eq!(
        code(&decide(&with(&world, vec![of_service(&own)]), &web(), "192.0.2.9:80")),
        "E_SERVICE_NO_ENDPOINT",
        "its own entry counts"
    );
}

#[test]
fn passthrough_goes_to_the_original_address_but_not_around_the_mesh() {
    let mode = wire::load_balancing::Mode::Passthrough.into();
    let load_balancing = Some(wire::LoadBalancing { mode, ..wire::LoadBalancing::default() });
    let outside = wire::Service { load_balancing: load_balancing.clone(), ..service("outside", &["192.0.2.0/24"], &[(443, 443)]) };
    let world = with(&shop(), vec![of_service(&outside)]);
    assert!(matches!(decide(&world, &web(), "192.0.2.7:443"), Outbound::Plain(plain) if plain.address == at("192.0.2.7:443")));
    assert_eq!(code(&decide(&world, &web(), "192.0.2.7:80")), "E_SERVICE_NO_PORT");

    let inside = wire::Service { load_balancing, ..service("api", &["10.96.0.1"], &[(80, 8080)]) };
    assert_eq!(code(&decide(&with(&shop(), vec![of_service(&inside)]), &web(), "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT");
}

#[test]
fn locality_modes_choose_the_near_endpoint_or_none() {
    let zoned = |name: &str, address, zone: &str| {
        let locality = Some(wire::Locality { region: "r".to_owned(), zone: zone.to_owned(), subzone: String::new() });
        serving(wire::Workload { locality, ..pod(name, "n2", &[address]) }, "api", &[(80, 8080)])
    };
    let mut client = zoned("web", WEB, "a");
    client.node = "n1".to_owned();
    client.services.clear();
    let base = with(&shop(), vec![of_workload(&client), of_workload(&zoned("api", API, "b"))]);
    let near = with(&base, vec![of_workload(&zoned("api-2", "10.0.0.4", "a"))]);
    let api = |mode: wire::load_balancing::Mode| wire::Service {
        load_balancing: Some(wire::LoadBalancing {
            mode: mode.into(),
            routing_preference: vec![wire::load_balancing::Scope::Region.into(), wire::load_balancing::Scope::Zone.into()],
            health_policy: 0,
        }),
        ..service("api", &["10.96.0.1"], &[(80, 8080)])
    };
    let strict = of_service(&api(wire::load_balancing::Mode::Strict));
    let failover = of_service(&api(wire::load_balancing::Mode::Failover));
    let web = local("web", &[WEB]);
    for mode in [&strict, &failover] {
        assert_eq!(tunnel(decide(&with(&near, vec![mode.clone()]), &web, "10.96.0.1:80")).dial.ip(), ip("10.0.0.4"));
    }
    assert_eq!(code(&decide(&with(&base, vec![strict]), &web, "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT");
    assert_eq!(tunnel(decide(&with(&base, vec![failover]), &web, "10.96.0.1:80")).dial.ip(), ip(API));
}

#[test]
fn open_streams_steer_the_choice_and_failures_eject() {
    let world = with(&shop(), vec![of_workload(&serving(pod("api-2", "n3", &["10.0.0.4"]), "api", &[(80, 8080)]))]);
    let (mut rng, mut load, now) = (fastrand::Rng::with_seed(3), Load::default(), Instant::now());
    let mut chosen = BTreeMap::<Arc<str>, u32>::new();
    for _ in 0..1000 {
        let mut chooser = Chooser { rng: &mut rng, load: &load, now, exclude: &[] };
        let uid = Arc::clone(&tunnel(outbound(&world, &web(), at("10.96.0.1:80"), &mut chooser)).endpoint.uid);
        load.opened(&uid);
        *chosen.entry(uid).or_default() += 1;
    }
    assert_eq!(chosen.values().copied().collect::<Vec<_>>(), [500, 500]);
    let first = Arc::clone(chosen.keys().next().unwrap());
    (0..10).for_each(|_| load.failed(&first, now));
    for _ in 0..100 {
        let mut chooser = Chooser { rng: &mut rng, load: &load, now, exclude: &[] };
        assert_ne!(tunnel(outbound(&world, &web(), at("10.96.0.1:80"), &mut chooser)).endpoint.uid, first);
    }
}

#[test]
fn of_hundreds_of_endpoints_each_gets_its_share_and_the_only_usable_one_is_found() {
    let endpoint = |index: u32, sick: bool| {
        let workload =
            serving(pod(&format!("api-{index}"), "n2", &[&format!("10.1.{}.{}", index / 200, index % 200 + 1)]), "api", &[(80, 8080)]);
        of_workload(&wire::Workload { status: i32::from(sick), ..workload })
    };
    let many = with(&without(&shop(), &[of_workload(&pod("api", "n2", &[]))]), (0..400).map(|index| endpoint(index, false)).collect());
    let (mut rng, mut load, now) = (fastrand::Rng::with_seed(5), Load::default(), Instant::now());
    let mut chosen = BTreeMap::<Arc<str>, u32>::new();
    for _ in 0..8000 {
        let mut chooser = Chooser { rng: &mut rng, load: &load, now, exclude: &[] };
        let uid = Arc::clone(&tunnel(outbound(&many, &web(), at("10.96.0.1:80"), &mut chooser)).endpoint.uid);
        load.opened(&uid);
        *chosen.entry(uid).or_default() += 1;
    }
    assert_eq!(chosen.len(), 400);
    assert!(chosen.values().all(|count| (14..=26).contains(count)), "{chosen:?}");

    let one = with(&many, (0..400).map(|index| endpoint(index, index != 333)).collect());
    assert_eq!(&*tunnel(decide(&one, &web(), "10.96.0.1:80")).endpoint.name, "api-333");
    let none = with(&one, vec![endpoint(333, true)]);
    let Outbound::Refuse(refusal) = decide(&none, &web(), "10.96.0.1:80") else { panic!("chosen") };
    assert!(refusal.reason.contains("400 unhealthy"), "{refusal}");
}

#[test]
fn subject_alt_names_of_the_service_are_accepted_too() {
    let mut api = service("api", &["10.96.0.1"], &[(80, 8080)]);
    api.subject_alt_names = vec!["spiffe://other.example/ns/x/sa/y".to_owned()];
    let accept = tunnel(decide(&with(&shop(), vec![of_service(&api)]), &web(), "10.96.0.1:80")).accept;
    assert_eq!(
        accept.iter().map(trackbed_contract::Identity::as_str).collect::<Vec<_>>(),
        ["spiffe://cluster.local/ns/shop/sa/api", "spiffe://other.example/ns/x/sa/y"]
    );
}

#[test]
fn a_waypoint_gets_the_original_destination_and_its_own_connections_do_not_loop() {
    let gateway = wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Hostname(wire::NamespacedHostname {
            namespace: "shop".to_owned(),
            hostname: "gate.shop.svc.cluster.local".to_owned(),
        })),
        hbone_mtls_port: 0,
    };
    let api = wire::Service { waypoint: Some(gateway.clone()), ..service("api", &["10.96.0.1"], &[(80, 8080)]) };
    let closed = with(&shop(), vec![of_service(&api)]);
    assert_eq!(code(&decide(&closed, &web(), "10.96.0.1:80")), "E_SERVICE_NO_ENDPOINT", "without its waypoint the service is closed");

    let gate = serving(pod("gate", "n1", &["10.0.0.8"]), "gate", &[(15008, 15008)]);
    let world = with(&closed, vec![of_workload(&gate), of_service(&service("gate", &["10.96.0.8"], &[(15008, 15008)]))]);
    let through = tunnel(decide(&world, &web(), "10.96.0.1:80"));
    assert_eq!((through.dial, through.authority.as_str()), (at("10.0.0.8:15008"), "10.96.0.1:80"));
    assert_eq!(through.accept, [identity("gate")]);
    let onward = tunnel(decide(&world, &local("gate", &["10.0.0.8"]), "10.96.0.1:80"));
    assert_eq!(onward.authority, "10.0.0.2:8080");
}

#[test]
fn of_two_waypoints_each_gets_its_share_of_the_connections_and_neither_sends_to_the_other() {
    let named = |name: &str| wire::GatewayAddress {
        destination: Some(wire::gateway_address::Destination::Hostname(wire::NamespacedHostname {
            namespace: "shop".to_owned(),
            hostname: format!("{name}.shop.svc.cluster.local"),
        })),
        hbone_mtls_port: 15008,
    };
    let weighted = |name: &str, weight: u32| wire::WeightedWaypoint { destination: Some(named(name)), weight };
    let gates = vec![
        of_workload(&serving(pod("gate", "n1", &["10.0.0.8"]), "gate", &[(15008, 15008)])),
        of_workload(&serving(pod("next", "n1", &["10.0.0.9"]), "next", &[(15008, 15008)])),
        of_service(&service("gate", &["10.96.0.8"], &[(15008, 15008)])),
        of_service(&service("next", &["10.96.0.9"], &[(15008, 15008)])),
    ];
    let shared = |weights: [u32; 2]| {
        let api = wire::Service {
            waypoint: Some(named("gate")),
            weighted_waypoints: vec![weighted("gate", weights[0]), weighted("next", weights[1])],
            ..service("api", &["10.96.0.1"], &[(80, 8080)])
        };
        let mut objects = gates.clone();
        objects.push(of_service(&api));
        with(&shop(), objects)
    };
    let (mut rng, load, now) = (fastrand::Rng::with_seed(3), Load::default(), Instant::now());
    let mut to_next = |weights: [u32; 2]| {
        let world = shared(weights);
        let mut count = 0;
        for _ in 0..1000 {
            let mut chooser = Chooser { rng: &mut rng, load: &load, now, exclude: &[] };
            count += u32::from(tunnel(outbound(&world, &web(), at("10.96.0.1:80"), &mut chooser)).dial == at("10.0.0.9:15008"));
        }
        count
    };
    assert!((150..=250).contains(&to_next([80, 20])));
    assert_eq!([to_next([100, 0]), to_next([0, 100]), to_next([0, 0])], [0, 1000, 0], "without any weight the first has all");
    for (name, address) in [("gate", "10.0.0.8"), ("next", "10.0.0.9")] {
        assert_eq!(tunnel(decide(&shared([50, 50]), &local(name, &[address]), "10.96.0.1:80")).authority, "10.0.0.2:8080");
    }
}

#[test]
fn live_connections_end_with_their_workloads_and_survive_enrolment() {
    let world = shop();
    let live = tunnel(decide(&world, &web(), "10.96.0.1:80")).standing();
    let cut = |world: &World| recheck_outbound(world, &web(), &live).err().map(|refusal| refusal.code);
    assert_eq!(cut(&world), None);
    let api = serving(pod("api", "n2", &[API, "fd00::2"]), "api", &[(80, 8080)]);
    assert_eq!(cut(&with(&world, vec![of_workload(&plain(api.clone()))])), None, "leaving the mesh cuts nothing");
    assert_eq!(cut(&without(&world, &[of_service(&service("api", &[], &[]))])), None, "nor does the service's end");
    assert_eq!(cut(&without(&world, &[of_workload(&api)])), Some("E_WORKLOAD_UNKNOWN"));
    let moved = wire::Workload { addresses: vec![mesh::bytes("10.0.0.5")], ..api.clone() };
    assert_eq!(cut(&with(&world, vec![of_workload(&moved)])), Some("E_WORKLOAD_UNKNOWN"));
    let other = wire::Workload { service_account: "other".to_owned(), ..api };
    assert_eq!(cut(&with(&world, vec![of_workload(&other)])), Some("E_WORKLOAD_UNKNOWN"));
    let not_web = wire::Workload { service_account: "other".to_owned(), ..pod("web", "n1", &[WEB]) };
    assert_eq!(cut(&with(&world, vec![of_workload(&not_web)])), Some("E_WORKLOAD_UNKNOWN"));

    let again = wire::Workload { uid: "Kubernetes//Pod/shop/web-again".to_owned(), ..pod("web", "n1", &[WEB]) };
    let replaced = with(&without(&world, &[of_workload(&pod("web", "n1", &[]))]), vec![of_workload(&again)]);
    assert_eq!(cut(&replaced), Some("E_WORKLOAD_UNKNOWN"), "the source is another workload of the same name");
    let settings =
        trackbed_decide::Settings { trust_domain: trackbed_contract::TrustDomain::parse("new.example").unwrap(), ..mesh::settings() };
    assert_eq!(cut(&world.with_settings(settings)), Some("E_WORKLOAD_UNKNOWN"), "the source has another identity");

    let Outbound::Plain(outside) = decide(&world, &web(), "10.0.0.9:80") else { panic!("not plain") };
    let enrolled = with(&world, vec![of_workload(&pod("late", "n2", &["10.0.0.9"]))]);
    assert!(recheck_outbound(&enrolled, &web(), &outside.standing()).is_ok(), "an established connection survives enrolment");
    assert_eq!(code(&decide(&enrolled, &web(), "10.0.0.9:80")), "tunnel");
}

#[test]
fn malformed_resources_are_rejected_with_the_place() {
    let mut zero_port = service("api", &["10.96.0.1"], &[(80, 8080)]);
    zero_port.ports[0].service_port = 0;
    let wide = wire::Service { addresses: vec![vip("10.0.0.0/33")], ..service("wide", &[], &[]) };
    let mapped = pod("mapped", "n2", &["::ffff:10.0.0.1"]);
    let mode = wire::Service {
        load_balancing: Some(wire::LoadBalancing { mode: 9, ..wire::LoadBalancing::default() }),
        ..service("mode", &[], &[])
    };
    let mut misnamed = of_workload(&pod("x", "n1", &[]));
    misnamed.name = "y".to_owned();
    let mut garbage = of_workload(&pod("g", "n1", &[]));
    garbage.body = vec![0xff; 9];
    for (resource, place) in [
        (of_service(&zero_port), "service.ports: 0 is not a port"),
        (of_service(&wide), "service.addresses[0]: the prefix length 33"),
        (of_service(&mode), "service.load_balancing.mode: has the unknown value 9"),
        (of_workload(&mapped), "workload.addresses[0]: ::ffff:10.0.0.1 is an IPv4 address written as IPv6"),
        (misnamed, "workload.uid: is \"Kubernetes//Pod/shop/x\" and was delivered as \"y\""),
        (garbage, "body: not a protobuf message"),
    ] {
        let (_, rejected) = mesh::apply(&shop(), vec![resource], &[]);
        assert!(rejected[0].reason.starts_with(place), "{rejected:?} does not say {place}");
    }
}
