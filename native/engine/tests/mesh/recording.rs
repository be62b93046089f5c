//! What a recording copies: every byte of both directions as the applications said it, where it was taken in, and where it ends.
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use prost::Message as _;
use trackbed_contract::engine::{
    Direction, Flow, Record, RecordPeer, Recorded, RecordedBatch, RecordedEnd, RecordingEnd, StopRecord, Verdict, recorded::What, to_engine,
};
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::lab::{self, Client, Fabric, Pod, of_workload};
use crate::mesh::{Mesh, deny};
use crate::{PATIENCE, PORT};

const MIB: usize = 1 << 20;

fn order(id: u64, pods: &[&Pod]) -> Record {
    let pod_uids = pods.iter().map(|pod| pod.uid()).collect();
    Record { id, pod_uids, limit_bytes: u64::MAX, limit_milliseconds: 60_000, ..Record::default() }
}

fn of(batches: &[RecordedBatch], id: u64) -> impl Iterator<Item = &Recorded> {
    batches.iter().filter(move |batch| batch.id == id).flat_map(|batch| &batch.recorded)
}

/// Connections of a recording that were opened, as their pod sees them.
fn openings(batches: &[RecordedBatch], id: u64) -> Vec<(u64, Flow, u64, u64)> {
    let opening = |one: &Recorded| match &one.what {
        Some(What::Opening(opening)) => {
            Some((one.connection, Flow::decode(&*opening.flow).expect("a flow"), opening.sent, opening.received))
        }
        _ => None,
    };
    of(batches, id).filter_map(opening).collect()
}

fn closing(batches: &[RecordedBatch], id: u64, connection: u64) -> Option<Flow> {
    of(batches, id).filter(|one| one.connection == connection).find_map(|one| match &one.what {
        Some(What::Closing(closing)) => Some(Flow::decode(&**closing).expect("a flow")),
        _ => None,
    })
}

/// What came from one end, from offset `start` on; a gap is a panic.
fn said(batches: &[RecordedBatch], id: u64, connection: u64, from: RecordedEnd, start: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for one in of(batches, id).filter(|one| one.connection == connection) {
        if let Some(What::Chunk(chunk)) = &one.what
            && chunk.from() == from
        {
            assert_eq!(chunk.offset, start + bytes.len() as u64, "a gap");
            assert_eq!(chunk.length as usize, chunk.payload.len());
            bytes.extend_from_slice(&chunk.payload);
        }
    }
    bytes
}

fn finished(batches: &[RecordedBatch], id: u64, connection: u64) -> Vec<(RecordedEnd, u64)> {
    let fin = |one: &Recorded| match &one.what {
        Some(What::Fin(fin)) => Some((fin.from(), fin.offset)),
        _ => None,
    };
    of(batches, id).filter(|one| one.connection == connection).filter_map(fin).collect()
}

/// Some megabytes to an application that sends them back, and both directions' FIN. Returns what the client heard.
fn exchange(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    let mut half = client.0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            half.write_all(bytes).unwrap();
            half.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        client.0.read_to_end(&mut heard).unwrap();
        heard
    })
}

fn random(seed: u64, count: usize) -> Vec<u8> {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(count).collect()
}

#[test]
fn both_nodes_of_a_tunnel_record_every_byte_as_the_applications_said_it() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.one.director.record(order(1, &[&mesh.web]));
    mesh.two.director.record(order(2, &[&mesh.api]));
    // In both directions no more than an engine holds for a director that is slow.
    let bytes = random(fastrand::u64(..), 3 * MIB);
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    let heard = exchange(&mut client, &bytes);
    drop(client);
    for (node, id, direction) in [(&mesh.one, 1, Direction::Outbound), (&mesh.two, 2, Direction::Inbound)] {
        node.director.recorded("the end", |batches| {
            let [(connection, flow, 0, 0)] = &openings(batches, id)[..] else { return None };
            let closing = closing(batches, id, *connection)?;
            assert_eq!((flow.direction(), closing.id, closing.reset), (direction, flow.id, false));
            assert_eq!(flow.source.as_ref().unwrap().identity, mesh.web.identity());
            assert!(said(batches, id, *connection, RecordedEnd::Client, 0) == bytes, "what the client said");
            assert!(said(batches, id, *connection, RecordedEnd::Server, 0) == heard, "what the server said");
            assert_eq!(
                finished(batches, id, *connection),
                [(RecordedEnd::Client, bytes.len() as u64), (RecordedEnd::Server, heard.len() as u64)]
            );
            Some(())
        });
    }
}

#[test]
fn a_relay_copies_while_it_is_recorded_for_each_of_its_pods() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (fabric.pod("web"), fabric.pod("api"), fabric.node("one"));
    node.director.state([&web, &api].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone))).to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api]);
    // One that is open already, with bytes that went unrecorded, in bulk: through the kernel's pipes.
    let early = random(fastrand::u64(..), 2 * MIB);
    let mut client = web.connect(&api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let before = web.v4.len() as u64 + 1;
    let mut half = client.0.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| half.write_all(&early).unwrap());
        client.0.read_exact(&mut vec![0; early.len()]).unwrap();
    });
    node.director.record(order(1, &[&web, &api]));
    // Twice two directions of it: no more than an engine holds for a director that is slow.
    let bytes = random(fastrand::u64(..), 3 * MIB / 2);
    let heard = exchange(&mut client, &bytes);
    drop(client);
    assert!(heard == bytes);
    node.director.recorded("both ends", |batches| {
        let all = openings(batches, 1);
        if all.len() < 2 || all.iter().any(|(connection, ..)| closing(batches, 1, *connection).is_none()) {
            return None;
        }
        for (connection, _, sent, received) in &all {
            assert_eq!((*sent, *received), (early.len() as u64, before + early.len() as u64));
            assert!(said(batches, 1, *connection, RecordedEnd::Client, *sent) == bytes);
            assert!(said(batches, 1, *connection, RecordedEnd::Server, *received) == bytes);
        }
        assert_eq!(all.iter().map(|(_, flow, ..)| flow.direction()).collect::<Vec<_>>(), [Direction::Outbound, Direction::Inbound]);
        Some(())
    });
}

#[test]
fn only_what_the_filter_wants_is_recorded_and_a_refused_connection_says_why() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.api.serve(PORT + 1);
    let address = lab::bytes(&mesh.api.v4);
    let peer = |address: Vec<u8>, pod: &str| RecordPeer { prefix_length: 32, address, pod: pod.into(), ..RecordPeer::default() };
    let web = &[&mesh.web][..];
    mesh.one.director.record(Record { ports: vec![PORT.into()], ..order(1, web) });
    mesh.one.director.record(Record { peers: vec![peer(Vec::new(), "nobody")], ..order(2, web) });
    mesh.one.director.record(Record { peers: vec![peer(address, "api")], snap_bytes: 2, ..order(3, web) });
    mesh.web.connect(&mesh.api.v4, PORT + 1).unwrap().echo_after_greeting("another port");
    mesh.web.connect(&mesh.api.v4, PORT).unwrap().echo_after_greeting("hello");
    mesh.state(&[deny("no-web", &mesh.web.identity())]);
    assert!(mesh.web.is_turned_away(&mesh.api.v4, PORT));
    mesh.one.director.recorded("everything", |batches| {
        let refused = of(batches, 1).find_map(|one| match &one.what {
            Some(What::Closing(closing)) => Some(Flow::decode(&**closing).unwrap()).filter(|flow| flow.verdict() != Verdict::Allowed),
            _ => None,
        })?;
        assert!(!refused.code.is_empty(), "{refused:?}");
        assert!(openings(batches, 1).iter().all(|(_, flow, ..)| flow.destination.as_ref().unwrap().port == u32::from(PORT)));
        assert_eq!((openings(batches, 1).len(), openings(batches, 2).len(), openings(batches, 3).len()), (1, 0, 2));
        let snapped = of(batches, 3).find_map(|one| match &one.what {
            Some(What::Chunk(chunk)) if chunk.length == 12 => Some(chunk.payload.clone()),
            _ => None,
        });
        assert_eq!(snapped.as_deref(), Some(&b"an"[..]));
        Some(())
    });
}

#[test]
fn a_recording_ends_at_its_limits_by_its_director_and_with_it_and_many_are_refused() {
    let Some(mesh) = Mesh::new() else { return };
    let web = &[&mesh.web][..];
    let end_of = |id: u64| {
        let end = |batches: &[RecordedBatch]| {
            batches.iter().rfind(|batch| batch.id == id).map(RecordedBatch::end).filter(|end| *end != RecordingEnd::None)
        };
        mesh.one.director.recorded("an end", end)
    };
    let active = || mesh.one.get("/metrics").lines().find_map(|line| line.strip_prefix("trackbed_recordings ")?.parse::<u32>().ok());
    let until_active = |wanted: u32| {
        let deadline = Instant::now() + PATIENCE;
        while active() != Some(wanted) {
            assert!(Instant::now() < deadline, "{:?} recordings are on, not {wanted}", active());
        }
    };
    mesh.one.director.record(Record { limit_bytes: 3, ..order(1, web) });
    mesh.one.director.record(Record { limit_milliseconds: 50, ..order(2, web) });
    mesh.one.director.record(order(3, web));
    mesh.one.director.enough_of(3);
    mesh.one.director.record(order(4, web));
    mesh.web.connect(&mesh.api.v4, PORT).unwrap().echo_after_greeting("hello");
    assert_eq!((end_of(1), end_of(2)), (RecordingEnd::Bytes, RecordingEnd::Time));
    mesh.one.director.send(to_engine::Message::StopRecord(StopRecord { id: 4 }));
    assert_eq!(end_of(4), RecordingEnd::Stopped);
    mesh.one.director.recorded("all of it", |batches| {
        let (connection, ..) = openings(batches, 4)[0];
        assert_eq!(said(batches, 4, connection, RecordedEnd::Client, 0), b"hello");
        Some(())
    });
    until_active(0);
    for id in 10..18 {
        mesh.one.director.record(order(id, web));
    }
    mesh.one.director.record(order(18, web));
    assert_eq!(end_of(18), RecordingEnd::Refused);
    mesh.one.director.record(Record { limit_bytes: 0, ..order(27, web) });
    assert_eq!(end_of(27), RecordingEnd::Refused);
    until_active(8);
    mesh.one.director.disconnect();
    until_active(0);
    mesh.web.connect(&mesh.api.v4, PORT).unwrap().echo_after_greeting("still carried");
}

impl Client {
    fn echo_after_greeting(mut self, text: &str) {
        self.seen_as().unwrap();
        self.echo(text).unwrap();
    }
}
