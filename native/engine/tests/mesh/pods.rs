//! Pods that come, wait, are captured, and leave.
use std::net::Shutdown;
use std::time::{Duration, Instant};

use trackbed_contract::engine::{MeshSettings, Prove, RemovePod, Verdict, from_engine, to_engine};
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::lab::{self, Fabric, of_workload};
use crate::mesh::Mesh;
use crate::net::run;
use crate::{PATIENCE, PORT};

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
fn a_pod_that_is_asked_for_twice_is_one_pod_and_one_whose_namespace_never_came_is_gone_at_once() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (fabric.pod("web"), fabric.pod("api"), fabric.node("one"));
    node.director
        .state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_workload(&api.workload("", TunnelProtocol::None))]);
    api.serve(PORT);
    let remove = || node.director.send(to_engine::Message::RemovePod(RemovePod { uid: web.uid(), drain_milliseconds: 0 }));
    // Asked for before its namespace is there, and taken back.
    node.director.add(web.spec());
    node.director.forget(&web.uid());
    remove();
    node.director.many_gone(1);
    // Twice in a row, the namespace twice as well, in between and after.
    node.director.add(web.spec());
    node.hand_over(&web);
    node.director.add(web.spec());
    node.hand_over(&web);
    node.director.ready(&web.uid());
    web.capture();
    assert_eq!(web.connect(&api.v4, PORT).unwrap().seen_as().unwrap(), web.v4);
    node.director.forget(&web.uid());
    remove();
    node.director.many_gone(2);
    assert_eq!(web.connect(&api.v4, PORT).map(drop).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
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

/// Waits until neither keeper nor worker has a namespace of a pod open: the keeper is told by the worker, and nobody waits for it.
fn holds_no_pod(node: &lab::Node) {
    let inode = std::fs::read_link("/proc/self/ns/net").unwrap();
    for pid in [node.engine.keeper(), node.engine.worker()] {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let open =
                std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
            let namespaces: Vec<_> = open.filter(|link| link.to_string_lossy().starts_with("net:") && *link != inode).collect();
            if namespaces.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "{pid} still holds {namespaces:?}");
        }
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
    holds_no_pod(&mesh.one);
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
    holds_no_pod(&node);
    let before = node.engine.descriptors();
    (2..=40).for_each(cycle);
    let deadline = Instant::now() + PATIENCE;
    while node.engine.descriptors() != before {
        assert!(Instant::now() < deadline, "before {before:?}, after {:?}", node.engine.descriptors());
        std::thread::sleep(Duration::from_millis(20));
    }
}
