//! Bounds: whoever takes too much is turned away and nobody else notices.
use std::io::Read;
use std::time::{Duration, Instant};

use trackbed_contract::engine::MeshSettings;
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::lab::{self, Fabric, of_workload};
use crate::mesh::Mesh;
use crate::{PATIENCE, PORT};

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
