//! The stream to the director: what survives its end, and how breaches of the contract are answered.
use std::time::{Duration, Instant};

use trackbed_contract::engine::{Resource, StateDelta, ToEngine, from_engine, to_engine};

use crate::PORT;
use crate::mesh::Mesh;

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
