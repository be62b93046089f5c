//! What connections see when worker or keeper die or are stopped.
use std::io::Read;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use trackbed_contract::engine::{Path, from_engine};

use crate::lab::{self, Fabric, signal};
use crate::mesh::Mesh;
use crate::{PATIENCE, PORT};

#[test]
fn a_killed_worker_is_replaced_while_new_connections_wait_and_none_is_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let mut live = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    live.seen_as().unwrap();
    let worker = mesh.one.engine.worker();
    let mut served = 0;
    signal(worker, Signal::KILL);
    let start = Instant::now();
    // How soon is measured by test/faults.test.ts, which knows what a busy machine adds.
    while start.elapsed() < Duration::from_millis(500) || served <= 5 {
        assert!(start.elapsed() < PATIENCE, "{served} served");
        let mut client = mesh.web.connect(&mesh.api.v4, PORT).expect("never refused");
        match client.seen_as() {
            Ok(seen) => assert_eq!(seen, mesh.web.v4),
            // Accepted by the dying worker: gone with it, never in plain.
            Err(error) => assert!(served == 0, "{error} after {served} were served"),
        }
        served += 1;
    }
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
