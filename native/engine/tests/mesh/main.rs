//! The engine as a process: driven by a test director, between pods that are real network namespaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up shall stop")]
mod director;
mod lab;

use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use lab::{Fabric, Node, Pod, of_policy, of_service, of_workload, run, signal};
use rustix::process::Signal;
use trackbed_contract::engine::{
    Direction, FlowPhase, MeshSettings, Path, Prove, RemovePod, Resource, StateDelta, ToEngine, Verdict, from_engine, to_engine,
};
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType};
use trackbed_contract::istio::workload::{NetworkAddress, Port, PortList, Service, TunnelProtocol};

/// Everything here answers within milliseconds; a busy machine gets this long.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;

/// web on node one, api on node two, both enrolled, with these resources beside their workloads.
struct Mesh {
    one: Node,
    two: Node,
    web: Pod,
    api: Pod,
    /// The links between them live as long as this.
    fabric: Fabric,
}

impl Mesh {
    fn new() -> Option<Self> {
        let fabric = Fabric::new()?;
        let (web, api) = (fabric.pod("web"), fabric.pod("api"));
        let (one, two) = (fabric.node("one"), fabric.node("two"));
        let mesh = Self { one, two, web, api, fabric };
        mesh.state(&[]);
        mesh.api.serve(PORT);
        mesh.one.enrol(&[&mesh.web]);
        mesh.two.enrol(&[&mesh.api]);
        Some(mesh)
    }

    fn state(&self, more: &[Resource]) {
        let mut resources = vec![
            of_workload(&self.web.workload("one", TunnelProtocol::Hbone)),
            of_workload(&self.api.workload("two", TunnelProtocol::Hbone)),
        ];
        resources.extend_from_slice(more);
        assert_eq!(self.one.director.state(resources.clone()), []);
        assert_eq!(self.two.director.state(resources), []);
    }
}

fn deny(name: &str, principal: &str) -> Resource {
    let text = StringMatch { match_type: Some(MatchType::Exact(principal.trim_start_matches("spiffe://").to_owned())) };
    let rule = Rule { clauses: vec![Clause { matches: vec![Match { principals: vec![text], ..Match::default() }] }] };
    of_policy(&Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: Scope::Namespace.into(),
        action: Action::Deny.into(),
        rules: vec![rule],
        ..Authorization::default()
    })
}

fn closed(direction: Direction) -> impl Fn(&trackbed_contract::engine::Flow) -> bool {
    move |flow| flow.direction == i32::from(direction) && flow.phase == i32::from(FlowPhase::Closed)
}

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
fn a_deny_policy_cuts_a_live_connection_with_a_reset_and_names_itself() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    client.echo("before").unwrap();
    mesh.state(&[deny("no-web", &mesh.web.identity())]);
    assert!(client.is_reset());
    let flow = mesh.two.director.flow("the cut", closed(Direction::Inbound));
    assert_eq!(
        (flow.verdict(), flow.policy.as_str(), flow.code.as_str(), flow.reset),
        (Verdict::Denied, "shop/no-web", "E_POLICY_DENIED", true)
    );
    assert!(mesh.web.is_turned_away(&mesh.api.v4, PORT), "and new ones are refused");
    mesh.one.director.flow("refusal", |flow| flow.code == "E_TUNNEL_PEER_REFUSED");
    mesh.state(&[]);
    let mut again = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    again.seen_as().unwrap();
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
fn a_killed_worker_is_replaced_while_new_connections_wait_and_none_is_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let mut live = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    live.seen_as().unwrap();
    let worker = mesh.one.engine.worker();
    let (mut slowest, mut served) = (Duration::ZERO, 0);
    signal(worker, Signal::KILL);
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let start = Instant::now();
        let mut client = mesh.web.connect(&mesh.api.v4, PORT).expect("never refused");
        match client.seen_as() {
            Ok(seen) => assert_eq!(seen, mesh.web.v4),
            // Accepted by the dying worker: gone with it, never in plain.
            Err(error) => assert!(served == 0, "{error} after {served} were served"),
        }
        served += 1;
        slowest = slowest.max(start.elapsed());
    }
    eprintln!("{served} connections served, the slowest in {slowest:?}");
    assert!(served > 5, "{served}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_ne!(mesh.one.engine.worker(), worker);
    assert!(live.is_reset(), "what the worker held is cut, not ended");
    let again = mesh.one.director.hears("a second Hello", |message| match message {
        from_engine::Message::Hello(hello) if !hello.pods.is_empty() => Some(hello.clone()),
        _ => None,
    });
    assert!(again.generation > 0 && again.resources.len() == 2, "it still held the state: {again:?}");
    assert!(again.pods[0].listening && again.pods[0].identity && again.pods[0].policy, "{again:?}");
    assert!(mesh.one.get("/metrics").contains("trackbed_engine_restarts_total 1\n"));
}

#[test]
fn when_a_worker_dies_the_applications_on_both_sides_see_a_reset() {
    const RAW: u16 = 9001;
    for side in ["the client's", "the server's"] {
        let Some(mesh) = Mesh::new() else { return };
        let listener = mesh.api.netns.enter(|| std::net::TcpListener::bind(("0.0.0.0", RAW))).unwrap().unwrap();
        let mut client = mesh.web.connect(&mesh.api.v4, RAW).unwrap();
        let mut server = lab::Client(listener.accept().unwrap().0);
        server.0.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut client.0, b"x").unwrap();
        server.0.read_exact(&mut [0]).unwrap();
        let node = if side == "the client's" { &mesh.one } else { &mesh.two };
        signal(node.engine.worker(), Signal::KILL);
        assert!(client.is_reset(), "{side} worker, client");
        assert!(server.is_reset(), "{side} worker, server");
    }
}

#[test]
fn a_connection_that_is_held_when_the_worker_dies_is_reset() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (fabric.pod("web"), fabric.pod("api"), fabric.node("one"));
    node.take(&web);
    node.director.pod_state(&web.uid(), |state| state.listening && state.identity);
    web.capture();
    let mut client = web.connect(&api.v4, PORT).unwrap();
    // A worker has it once the accept queue is empty; the queue itself would outlive the worker.
    let deadline = Instant::now() + PATIENCE;
    while !web.queue_is_empty() {
        assert!(Instant::now() < deadline, "never accepted");
    }
    signal(node.engine.worker(), Signal::KILL);
    assert!(client.is_reset());
}

#[test]
fn without_keeper_and_worker_connections_are_refused_and_never_pass_in_plain() {
    let Some(mut mesh) = Mesh::new() else { return };
    signal(mesh.one.engine.keeper(), Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    loop {
        match mesh.web.connect(&mesh.api.v4, PORT).map(|mut client| client.seen_as()) {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => break,
            // While the two die, a connection may still reach the tunnel, but never the other side by itself.
            Ok(Ok(seen)) => mesh.two.director.flow("by tunnel", |flow| flow.path() == Path::Tunnel && seen == mesh.web.v4),
            _ => continue,
        };
        assert!(Instant::now() < deadline, "still not refused");
    }
    mesh.one.engine.kill();
}

#[test]
fn a_pod_without_workload_is_held_and_then_refused() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api) = (fabric.pod("web"), fabric.pod("api"));
    let node = fabric.node_with(MeshSettings { node: "one".into(), hold_milliseconds: 300, ..MeshSettings::default() });
    api.serve(PORT);
    node.director.state(vec![of_workload(&api.workload("two", TunnelProtocol::None))]);
    node.take(&web);
    node.director.pod_state(&web.uid(), |state| state.listening && state.identity && !state.policy);
    web.capture();
    let start = Instant::now();
    assert!(web.is_turned_away(&api.v4, PORT));
    assert!(start.elapsed() >= Duration::from_millis(300), "held for {:?} only", start.elapsed());
    node.director.flow("refusal", |flow| flow.code == "E_WORKLOAD_UNKNOWN" && flow.verdict() == Verdict::Failed);
    // One that is held is served as soon as the workload is known.
    let client = web.connect(&api.v4, PORT);
    node.director
        .state(vec![of_workload(&api.workload("two", TunnelProtocol::None)), of_workload(&web.workload("one", TunnelProtocol::Hbone))]);
    assert_eq!(client.unwrap().seen_as().unwrap(), web.v4);
}

#[test]
fn a_source_address_that_the_engine_learns_late_is_waited_for_and_one_it_never_learns_is_refused() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api) = (fabric.pod("web"), fabric.pod("api"));
    let node = fabric.node_with(MeshSettings { node: "one".into(), hold_milliseconds: 1000, ..MeshSettings::default() });
    node.director
        .state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_workload(&api.workload("", TunnelProtocol::None))]);
    api.serve(PORT);
    let all = web.spec();
    let mut spec = all.clone();
    spec.addresses.truncate(1);
    node.hand_over(&web);
    node.director.add(spec);
    node.director.ready(&web.uid());
    web.capture();
    let start = Instant::now();
    assert!(web.is_turned_away(&api.v6, PORT));
    assert!(start.elapsed() >= Duration::from_secs(1), "held for {:?} only", start.elapsed());
    let flow = node.director.flow("refusal", |flow| flow.code == "E_WORKLOAD_UNKNOWN");
    assert!(flow.reason.contains(&web.v6), "{}", flow.reason);
    assert_eq!(web.connect(&api.v4, PORT).unwrap().seen_as().unwrap(), web.v4, "the other address is not held up");
    // Named while the connection waits.
    let client = web.connect(&api.v6, PORT);
    node.director.add(all);
    assert_eq!(client.unwrap().seen_as().unwrap(), web.v6);
    // Named all along, and found in the namespace while the connection waits.
    let late = "fd77::bbbb";
    let mut spec = web.spec();
    spec.addresses.push(lab::bytes(late));
    node.director.add(spec);
    node.director.pod_state(&web.uid(), |state| state.reason.contains(late));
    run(&web.netns, &format!("ip addr add {late}/64 dev eth0 nodad"));
    assert_eq!(web.connect_from(late, &api.v6, PORT).unwrap().seen_as().unwrap(), late);
}

#[test]
fn only_the_namespace_with_the_cookie_asked_for_becomes_the_pod() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, node) = (fabric.pod("web"), fabric.node("one"));
    node.hand_over(&web);
    let mut spec = web.spec();
    spec.netns_cookie += 1;
    node.director.add(spec);
    let state = node.director.pod_state(&web.uid(), |state| !state.code.is_empty());
    assert_eq!((state.code.as_str(), state.listening), ("E_CAPTURE_NETNS_GONE", false));
    assert!(state.reason.contains(&web.netns.cookie().to_string()), "{}", state.reason);
    // The right one takes its place.
    node.director.add(web.spec());
    node.director.pod_state(&web.uid(), |state| state.listening);
}

#[test]
fn capture_is_proven_only_while_the_rules_are_there_and_changes_of_them_are_noticed() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, node) = (fabric.pod("web"), fabric.node("one"));
    node.director.state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone))]);
    node.take(&web);
    node.director.ready(&web.uid());
    let prove = |request_id| {
        node.director.send(to_engine::Message::Prove(Prove { request_id, uid: web.uid() }));
        node.director.hears("ProofResult", |message| match message {
            from_engine::Message::ProofResult(result) if result.request_id == request_id => Some(result.code.clone()),
            _ => None,
        })
    };
    assert_eq!(prove(1), "E_CAPTURE_PROOF_FAILED");
    let drifts = || node.director.count(|message| matches!(message, from_engine::Message::Drift(_)));
    let before = drifts();
    web.capture();
    assert_eq!(prove(2), "");
    node.director.hears("Drift", |message| match message {
        from_engine::Message::Drift(drift) if drift.uid == web.uid() && drift.process == "nft" => Some(()),
        _ => None,
    });
    // Four routing commands and one replacement of about 120 messages.
    assert!(drifts() - before <= 12, "{} notices", drifts() - before);
    web.nft("table inet trackbed {}\ndelete table inet trackbed\n");
    assert_eq!(prove(3), "E_CAPTURE_PROOF_FAILED");
}

#[test]
fn an_address_that_changes_hands_is_neither_kept_nor_trusted() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    // Another workload is said to have the address now, while the old pod still answers there.
    let mut other = mesh.api.workload("two", TunnelProtocol::Hbone);
    (other.uid, other.name, other.service_account) = ("Kubernetes//Pod/shop/other".into(), "other".into(), "other".into());
    mesh.one.director.state(vec![of_workload(&mesh.web.workload("one", TunnelProtocol::Hbone)), of_workload(&other)]);
    assert!(client.is_reset());
    assert!(mesh.web.is_turned_away(&mesh.api.v4, PORT));
    mesh.one.director.flow("refusal", |flow| flow.code == "E_IDENTITY_MISMATCH");
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

#[test]
fn a_director_that_comes_back_finds_everything_held_and_cuts_nothing() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    for node in [&mesh.one, &mesh.two] {
        node.director.disconnect();
        node.director.hellos(1);
    }
    mesh.state(&[]);
    client.echo("all the same").unwrap();
    // One that does not name a pod any more lets it go.
    mesh.one.director.forget(&mesh.web.uid());
    mesh.one.director.disconnect();
    assert_eq!(mesh.one.director.gone(&mesh.web.uid()), 1);
    assert!(client.is_reset());
}

#[test]
fn a_director_of_another_contract_version_is_not_obeyed_and_everything_held_goes_on() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let director = &mesh.one.director;
    // What this director would have forgotten: the pod, by an InSync that does not name it.
    director.speaks(2);
    director.forget(&mesh.web.uid());
    director.disconnect();
    let start = Instant::now();
    director.hellos(5);
    // 50, 100, 200 and 400 ms, each at least halved by the jitter.
    assert!(start.elapsed() > Duration::from_millis(350), "no back-off: 5 attempts in {:?}", start.elapsed());
    client.echo("all the same").unwrap();
    mesh.web.connect(&mesh.api.v4, PORT).unwrap().seen_as().unwrap();
    assert_eq!(director.count(|message| matches!(message, from_engine::Message::PodGone(_))), 0);
    director.speaks(1);
    let event = director.event("E_CONTRACT_VERSION");
    assert!(event.level == "error" && event.message.contains("version 2") && event.message.contains("engine 1"), "{event:?}");
    assert_eq!(director.gone(&mesh.web.uid()), 1, "this one is obeyed");
    assert_eq!(director.count_events("E_CONTRACT_VERSION"), 1, "told once, not at every attempt");
}

#[test]
fn a_message_that_breaks_the_contract_ends_the_stream_and_nothing_of_it_is_applied() {
    let Some(mesh) = Mesh::new() else { return };
    let director = &mesh.one.director;
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let unknown = |kind| Resource { r#type: kind, name: "x".into(), version: "1".into(), body: Vec::new() };
    let delta = |kind| StateDelta { generation: 1000, reset: true, upsert: vec![unknown(kind)], remove: Vec::new() };
    let broken = [None, Some(to_engine::Message::State(delta(0))), Some(to_engine::Message::State(delta(77)))];
    for (attempt, message) in broken.into_iter().enumerate() {
        director.send_any(ToEngine { message });
        director.hellos(attempt + 1);
    }
    assert_eq!(director.count(|message| matches!(message, from_engine::Message::Applied(applied) if applied.generation >= 1000)), 0);
    client.echo("all the same").unwrap();
}

#[test]
fn a_stopped_engine_lets_connections_end_and_refuses_new_ones() {
    let Some(mut mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    signal(mesh.one.engine.keeper(), Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while mesh.web.connect(&mesh.api.v4, PORT).map(|mut client| client.seen_as()).err().map(|error| error.kind())
        != Some(std::io::ErrorKind::ConnectionRefused)
    {
        assert!(Instant::now() < deadline, "still accepted");
    }
    client.echo("in the grace time").unwrap();
    client.0.shutdown(Shutdown::Write).unwrap();
    assert!(!client.is_reset());
    assert!(mesh.one.engine.0.wait().unwrap().success());
}

#[test]
fn names_of_the_mesh_are_answered_and_others_by_the_server_that_was_asked() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, dns, node) = (fabric.pod("web"), fabric.pod("dns"), fabric.node("one"));
    let service = Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop.svc.cluster.local".into(),
        addresses: vec![NetworkAddress { network: String::new(), address: lab::bytes("10.96.0.10"), length: None }],
        ports: vec![Port { service_port: 80, target_port: 80, app_protocol: 0 }],
        ..Service::default()
    };
    node.director.state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_service(&service)]);
    node.enrol(&[&web]);
    // The server that the pod asks answers everything with one byte more than it was asked: recognisable.
    let server = dns.netns.enter(|| std::net::UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            let _ = server.send_to(&buffer[..count], from);
        }
    });
    let ask = |name: &str| {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = web.netns.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((dns.v4.as_str(), 53)).unwrap();
        socket.send(&query).unwrap();
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).unwrap();
        (answer[..count].to_vec(), query.len())
    };
    let (answer, _) = ask("api.shop.svc.cluster.local");
    assert!(answer.windows(4).any(|window| window == [10, 96, 0, 10]), "{answer:?}");
    let (answer, asked) = ask("example.org");
    assert_eq!((answer.len(), &answer[6..8]), (asked, &[0, 0][..]), "as the server answered");
    let deadline = Instant::now() + PATIENCE;
    while !node.get("/metrics").contains("trackbed_dns_requests_total{outcome=\"answered\"} 1\n") {
        assert!(Instant::now() < deadline, "{}", node.get("/metrics"));
    }
}

#[test]
fn a_pod_that_leaves_is_drained_and_nothing_of_its_namespace_stays_open() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let leave = || {
        mesh.one.director.forget(&mesh.web.uid());
        mesh.one.director.send(to_engine::Message::RemovePod(RemovePod { uid: mesh.web.uid(), drain_milliseconds: 60_000 }));
    };
    leave();
    client.echo("still there").unwrap();
    // Out and in again: the connection does not notice, and neither do new ones.
    mesh.one.director.add(mesh.web.spec());
    let mut more = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    more.seen_as().unwrap();
    client.echo("and there").unwrap();
    drop(more);
    client.echo("now it goes").unwrap();
    leave();
    client.0.shutdown(Shutdown::Write).unwrap();
    assert!(!client.is_reset());
    assert_eq!(mesh.one.director.gone(&mesh.web.uid()), 0);
    assert_eq!(mesh.web.connect(&mesh.api.v4, PORT).map(drop).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let inode = std::fs::read_link("/proc/self/ns/net").unwrap();
    for pid in [mesh.one.engine.keeper(), mesh.one.engine.worker()] {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let namespaces: Vec<_> = open.filter(|link| link.to_string_lossy().starts_with("net:") && *link != inode).collect();
        assert!(namespaces.is_empty(), "{pid} still holds {namespaces:?}");
    }
    // Without a drain time what is open is cut.
    let mut client = mesh.api.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let outsider = &mesh.web;
    run(&outsider.netns, "nft flush ruleset");
    let mut client = outsider.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    mesh.two.director.forget(&mesh.api.uid());
    mesh.two.director.send(to_engine::Message::RemovePod(RemovePod { uid: mesh.api.uid(), drain_milliseconds: 0 }));
    assert_eq!(mesh.two.director.gone(&mesh.api.uid()), 1);
    assert!(client.is_reset());
}

#[test]
fn a_certificate_is_renewed_at_half_life_and_its_end_cuts_and_refuses() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (
        fabric.pod("web"),
        fabric.pod("api"),
        fabric.node_with(MeshSettings { node: "one".into(), hold_milliseconds: 200, ..MeshSettings::default() }),
    );
    node.director.certificate_life(Some(Duration::from_secs(3)));
    node.director.state([&web, &api].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone))).to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api]);
    let mut client = web.connect(&api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let requests = || node.director.count(|message| matches!(message, from_engine::Message::CertificateRequest(_)));
    let deadline = Instant::now() + PATIENCE;
    while requests() < 6 {
        assert!(Instant::now() < deadline, "{} requests", requests());
        std::thread::sleep(Duration::from_millis(20));
    }
    client.echo("alive through two renewals").unwrap();
    node.director.certificate_life(None);
    assert!(client.is_reset());
    let flow = node.director.flow("the end", closed(Direction::Outbound));
    assert_eq!(flow.code, "E_IDENTITY_MISSING");
    assert!(web.is_turned_away(&api.v4, PORT));
    node.director.pod_state(&web.uid(), |state| !state.identity && state.code == "E_IDENTITY_REFUSED");
    node.director.certificate_life(Some(Duration::from_hours(1)));
    node.director.ready(&web.uid());
    node.director.ready(&api.uid());
    web.connect(&api.v4, PORT).unwrap().seen_as().unwrap();
}

#[test]
fn a_peer_that_stalls_its_handshakes_is_bounded_and_keeps_nobody_else_out() {
    const HBONE: u16 = 15008;
    const MORE_THAN_ALLOWED: usize = 80;
    let Some(mesh) = Mesh::new() else { return };
    let stranger = mesh.fabric.pod("stranger");
    let lives = |client: &mut lab::Client| {
        client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        client.0.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let connect = |_| stranger.connect(&mesh.api.v4, HBONE);
    let mut stalled: Vec<_> = (0..MORE_THAN_ALLOWED).map(connect).collect();
    // Its reset may come before connect has returned.
    let last = stalled.last_mut().unwrap().as_mut();
    assert!(last.map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, lab::Client::is_reset), "turned away at once");
    assert!(lives(stalled[0].as_mut().unwrap()), "the first one has its time for a handshake");
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    assert_eq!(client.seen_as().unwrap(), mesh.web.v4);
    let metrics = mesh.two.get("/metrics");
    let refused = metrics.lines().find(|line| line.starts_with("trackbed_tunnels_refused_total")).expect("a sample");
    assert_eq!(refused, "trackbed_tunnels_refused_total 16");
    drop(stalled);
    let deadline = Instant::now() + PATIENCE;
    while !stranger.connect(&mesh.api.v4, HBONE).is_ok_and(|mut client| lives(&mut client)) {
        assert!(Instant::now() < deadline, "places are given back");
    }
}

#[test]
fn pods_that_come_and_go_leave_no_descriptor_behind() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, node) = (fabric.pod("web"), fabric.node("one"));
    node.director.state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone))]);
    let cycle = |count: usize| {
        node.take(&web);
        node.director.pod_state(&web.uid(), |state| state.listening);
        node.director.forget(&web.uid());
        node.director.send(to_engine::Message::RemovePod(RemovePod { uid: web.uid(), drain_milliseconds: 0 }));
        node.director.many_gone(count);
    };
    cycle(1);
    let before = node.engine.descriptors();
    (2..=40).for_each(cycle);
    let deadline = Instant::now() + PATIENCE;
    while node.engine.descriptors() != before {
        assert!(Instant::now() < deadline, "before {before:?}, after {:?}", node.engine.descriptors());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pod_that_takes_every_descriptor_is_turned_away_and_others_are_served() {
    const LIMIT: u32 = 300;
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, other) = (fabric.pod("web"), fabric.pod("api"), fabric.pod("other"));
    let settings = MeshSettings { node: "one".into(), hold_milliseconds: 3000, ..MeshSettings::default() };
    let node = fabric.limited_node(settings, Some(LIMIT));
    node.director.state([&web, &api, &other].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone))).to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api, &other]);
    let worker = node.engine.worker();
    // Each waits for its end of a connection, so that what is open is counted.
    let open: Vec<_> =
        (0..LIMIT).map_while(|_| web.connect(&api.v4, PORT).and_then(|mut client| client.seen_as().map(|_| client)).ok()).collect();
    assert!(open.len() > 50, "{} connections", open.len());
    assert!(node.engine.descriptors()[1] < LIMIT as usize, "some are left");
    let shed = || !node.get("/metrics").contains("trackbed_connections_shed_total 0\n");
    assert!(shed(), "the pod was turned away for that reason");
    for _ in 0..5 {
        assert_eq!(other.connect(&api.v4, PORT).unwrap().seen_as().unwrap(), other.v4);
    }
    drop(open);
    let deadline = Instant::now() + PATIENCE;
    while web.connect(&api.v4, PORT).and_then(|mut client| client.seen_as()).is_err() {
        assert!(Instant::now() < deadline, "never served again");
    }
    assert!(node.get("/metrics").contains("trackbed_accept_pauses_total 0\n"), "the limit itself was never met");
    assert_eq!(node.engine.worker(), worker, "nobody died of it");
}
