//! Which way connections go: tunnel, relay or plain, and what both ends see of it.
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use trackbed_contract::engine::{Direction, FlowPhase, MeshSettings, Path, Verdict};
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType};
use trackbed_contract::istio::workload::{NetworkAddress, Port, PortList, Service, TunnelProtocol};

use crate::lab::{self, Fabric, of_policy, of_service, of_workload};
use crate::mesh::{Mesh, closed, deny};
use crate::net::run;
use crate::{PATIENCE, PORT};

#[test]
fn a_connection_between_nodes_travels_in_a_tunnel_and_the_application_sees_the_clients_address() {
    let Some(mesh) = Mesh::new() else { return };
    for (to, from) in [(&mesh.api.v4, &mesh.web.v4), (&mesh.api.v6, &mesh.web.v6)] {
        let mut client = mesh.web.connect(to, PORT).unwrap();
        assert_eq!(client.seen_as().unwrap(), *from);
        client.echo("hello").unwrap();
        client.0.shutdown(Shutdown::Write).unwrap();
        assert!(!client.is_reset(), "a half close is answered by the server's own");
        let out = mesh
            .one
            .director
            .flow("outbound", |flow| closed(Direction::Outbound)(flow) && flow.source.as_ref().unwrap().address == lab::bytes(from));
        assert_eq!((out.path(), out.verdict(), out.code.as_str()), (Path::Tunnel, Verdict::Allowed, ""));
        assert_eq!((out.bytes_sent, out.bytes_received), (5, from.len() as u64 + 1 + 5));
        assert_eq!(out.source.as_ref().unwrap().identity, mesh.web.identity());
        assert_eq!(out.destination.as_ref().unwrap().identity, mesh.api.identity());
        assert_eq!((out.tls_version.as_str(), out.tls_group.as_str()), ("TLSv1.3", "X25519MLKEM768"));
        let into = mesh
            .two
            .director
            .flow("inbound", |flow| closed(Direction::Inbound)(flow) && flow.source.as_ref().unwrap().address == lab::bytes(from));
        assert_eq!((into.path(), into.verdict(), into.source.unwrap().identity), (Path::Tunnel, Verdict::Allowed, mesh.web.identity()));
        assert_eq!((into.bytes_sent, into.bytes_received), (5, from.len() as u64 + 1 + 5));
    }
    let metrics = mesh.two.get("/metrics");
    let line = metrics.lines().find(|line| line.starts_with("istio_tcp_received_bytes_total{")).expect("a sample");
    assert!(
        line.contains("connection_security_policy=\"mutual_tls\"")
            && line.contains(&format!("source_principal=\"{}\"", mesh.web.identity())),
        "{line}"
    );
    assert!(line.ends_with(" 10"), "5 bytes of each of two clients: {line}");
    assert_eq!(mesh.two.get("/healthz"), "ok\n");
}

#[test]
fn pods_of_one_node_are_joined_without_tls_under_both_sides_policy() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (fabric.pod("web"), fabric.pod("api"), fabric.node("one"));
    let workloads = [&web, &api].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone)));
    node.director.state(workloads.to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api]);
    let mut client = web.connect(&api.v4, PORT).unwrap();
    assert_eq!(client.seen_as().unwrap(), web.v4);
    client.echo("hello").unwrap();
    for direction in [Direction::Outbound, Direction::Inbound] {
        let flow = node.director.flow("opened", |flow| flow.direction() == direction && flow.phase() == FlowPhase::Opened);
        assert_eq!(
            (flow.path(), flow.source.unwrap().identity, flow.destination.unwrap().identity),
            (Path::Relay, web.identity(), api.identity())
        );
    }
    node.director.state([&workloads[..], &[deny("no-web", &web.identity())]].concat());
    assert!(client.is_reset());
    let flow = node.director.flow("the cut", closed(Direction::Inbound));
    assert_eq!((flow.verdict(), flow.policy.as_str()), (Verdict::Denied, "shop/no-web"));
    assert!(web.is_turned_away(&api.v4, PORT));
    // The node's network closes 15008: the relay may not bypass that.
    node.director.state(workloads.to_vec());
    web.connect(&api.v4, PORT).unwrap().seen_as().unwrap();
    api.nft("table inet np {\nchain in {\ntype filter hook input priority 0;\ntcp dport 15008 reject with tcp reset\n}\n}\n");
    let deadline = Instant::now() + PATIENCE;
    while web.connect(&api.v4, PORT).and_then(|mut client| client.seen_as()).is_ok() {
        assert!(Instant::now() < deadline, "the relay still passes");
        std::thread::sleep(Duration::from_millis(100));
    }
    node.director.flow("the refusal", |flow| flow.code == "E_TUNNEL_UNREACHABLE" && flow.path() == Path::Tunnel);
}

#[test]
fn pods_of_one_node_use_tunnels_where_the_mesh_asks_for_it() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api) = (fabric.pod("web"), fabric.pod("api"));
    let node = fabric.node_with(MeshSettings { node: "one".into(), encrypt_same_node: true, ..MeshSettings::default() });
    node.director.state([&web, &api].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone))).to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api]);
    for _ in 0..3 {
        assert_eq!(web.connect(&api.v6, PORT).unwrap().seen_as().unwrap(), web.v6);
    }
    for direction in [Direction::Outbound, Direction::Inbound] {
        assert_eq!(node.director.flow("closed", closed(direction)).path(), Path::Tunnel);
    }
    let tunnels = || node.get("/metrics").contains("trackbed_tunnels{role=\"client\"} 1\ntrackbed_tunnels{role=\"server\"} 1\n");
    let deadline = Instant::now() + PATIENCE;
    while !tunnels() {
        assert!(Instant::now() < deadline, "{}", node.get("/metrics"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_service_address_reaches_an_endpoint_and_another_one_when_the_first_refuses() {
    let Some(mesh) = Mesh::new() else { return };
    let vip = "10.96.0.10";
    let service = Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop.svc.cluster.local".into(),
        addresses: vec![NetworkAddress { network: String::new(), address: lab::bytes(vip), length: None }],
        ports: vec![Port { service_port: 80, target_port: u32::from(PORT), app_protocol: 0 }],
        ..Service::default()
    };
    let mut api = mesh.api.workload("two", TunnelProtocol::Hbone);
    api.services.insert("shop/api.shop.svc.cluster.local".into(), PortList { ports: service.ports.clone() });
    // An endpoint at an address that nobody has.
    let mut dead = api.clone();
    (dead.uid, dead.name, dead.addresses) = ("Kubernetes//Pod/shop/dead".into(), "dead".into(), vec![lab::bytes("10.77.0.1")]);
    let web = of_workload(&mesh.web.workload("one", TunnelProtocol::Hbone));
    let resources = vec![web, of_workload(&api), of_workload(&dead), of_service(&service)];
    assert_eq!(mesh.one.director.state(resources.clone()), []);
    assert_eq!(mesh.two.director.state(resources), []);
    for _ in 0..8 {
        let mut client = mesh.web.connect(vip, 80).unwrap();
        assert_eq!(client.seen_as().unwrap(), mesh.web.v4);
    }
    let flow = mesh.one.director.flow("to the service", closed(Direction::Outbound));
    assert_eq!(flow.service, "shop/api.shop.svc.cluster.local");
    // An endpoint whose application does not listen: what the client has said is said to the other one again, once.
    let idle = mesh.fabric.pod("idle");
    let mut absent = idle.workload("two", TunnelProtocol::Hbone);
    absent.services.clone_from(&api.services);
    let web = of_workload(&mesh.web.workload("one", TunnelProtocol::Hbone));
    let resources = vec![web, of_workload(&api), of_workload(&absent), of_service(&service)];
    assert_eq!((mesh.one.director.state(resources.clone()), mesh.two.director.state(resources)), (vec![], vec![]));
    mesh.two.enrol(&[&idle]);
    for text in ["hello".to_owned(), "x".repeat(60_000), "again".to_owned(), String::new()].iter().cycle().take(16) {
        let mut client = mesh.web.connect(vip, 80).unwrap();
        client.0.write_all(text.as_bytes()).unwrap();
        client.0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.seen_as().unwrap(), mesh.web.v4);
        let mut back = String::new();
        client.0.read_to_string(&mut back).unwrap();
        assert_eq!((back.len(), back == *text), (text.len(), true));
    }
    mesh.two.director.flow("the refusal", |flow| flow.code == "E_UPSTREAM_REFUSED");
}

#[test]
fn plaintext_from_outside_the_mesh_is_shown_as_from_its_sender_unless_policy_asks_for_identity() {
    let Some(fabric) = Fabric::new() else { return };
    let (outsider, api, node) = (fabric.pod("outsider"), fabric.pod("api"), fabric.node("one"));
    let workloads = [of_workload(&outsider.workload("", TunnelProtocol::None)), of_workload(&api.workload("one", TunnelProtocol::Hbone))];
    node.director.state(workloads.to_vec());
    api.serve(PORT);
    node.enrol(&[&api]);
    let mut client = outsider.connect(&api.v4, PORT).unwrap();
    assert_eq!(client.seen_as().unwrap(), outsider.v4);
    let flow = node.director.flow("inbound", |flow| flow.direction() == Direction::Inbound);
    assert_eq!((flow.path(), flow.source.unwrap().identity.as_str()), (Path::Plain, ""));
    // STRICT, as control compiles it.
    let presence = StringMatch { match_type: Some(MatchType::Presence(())) };
    let strict = of_policy(&Authorization {
        name: "strict".into(),
        namespace: "shop".into(),
        scope: Scope::Namespace.into(),
        action: Action::Deny.into(),
        rules: vec![Rule { clauses: vec![Clause { matches: vec![Match { not_principals: vec![presence], ..Match::default() }] }] }],
        ..Authorization::default()
    });
    node.director.state([&workloads[..], &[strict]].concat());
    assert!(client.is_reset());
    assert!(outsider.is_turned_away(&api.v4, PORT));
    // The pod itself reaches what is outside the mesh in plain.
    outsider.serve(9000);
    assert_eq!(api.connect(&outsider.v4, 9000).unwrap().seen_as().unwrap(), api.v4);
    let flow = node.director.flow("outbound", |flow| flow.direction() == Direction::Outbound);
    assert_eq!(flow.path(), Path::Plain);
}

#[test]
fn a_pod_without_ipv6_is_served() {
    let Some(fabric) = Fabric::new() else { return };
    let (mut web, api, node) = (fabric.pod("web"), fabric.pod("api"), fabric.node("one"));
    run(&web.netns, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    web.v6 = web.v4.clone();
    node.director
        .state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_workload(&api.workload("", TunnelProtocol::None))]);
    api.serve(PORT);
    node.enrol(&[&web]);
    assert_eq!(web.connect(&api.v4, PORT).unwrap().seen_as().unwrap(), web.v4);
}
