//! A connection that is frozen and thawed between any two bytes says and hears what it would have without; anything else is refused whole.
use std::time::Duration;

use fastrand::Rng;
use prost::Message;

use super::*;

/// Through its bytes and back, and the same again.
pub(super) fn thawed(connection: &Connection<()>, now: Instant) -> Connection<()> {
    let bytes = connection.freeze(now).encode_to_vec();
    let frozen = FrozenConnection::decode(bytes.as_slice()).unwrap();
    let later = now + Duration::from_millis(7);
    let thawed = Connection::<()>::thaw(frozen, later).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(thawed.freeze(later).encode_to_vec(), bytes);
    Connection::thaw(FrozenConnection::decode(bytes.as_slice()).unwrap(), now).unwrap()
}

/// Two ends of ours, with what is on its way between them.
struct Talk {
    ends: [Connection<()>; 2],
    wires: [Vec<u8>; 2],
    heard: Vec<String>,
}

impl Talk {
    fn new(now: Instant) -> Self {
        let ends = [Role::Client, Role::Server].map(|role| Connection::new(role, BOUNDS, now));
        Self { ends, wires: Default::default(), heard: Vec::new() }
    }

    /// One thing that an end does or hears, drawn from `random`.
    fn step(&mut self, random: &mut Rng, now: Instant) {
        let at = random.usize(..2);
        let end = &mut self.ends[at];
        let ids: Vec<_> = end.streams().map(|(id, _)| id).collect();
        let id = random.choice(&ids).copied().unwrap_or(1);
        match random.u8(..16) {
            0 if at == 0 => _ = end.ask([(":method", &b"CONNECT"[..]), (":authority", b"10.0.0.1:80"), ("x", &[b'v'; 40])], now),
            0 => end.answer(id, 200, &[], false),
            1..=4 => {
                let most = end.room(id);
                if most > 0 && (at == 0 || end.stream(id).unwrap().answered) {
                    let length = random.usize(1..=most.min(70_000));
                    let head = end.data(id, length as u32);
                    end.out.extend(head);
                    end.out.extend(vec![at as u8; length]);
                }
            }
            5 => end.end(id),
            6 if random.u8(..4) == 0 => end.release(id),
            7 => end.ping(),
            8 if random.u8(..20) == 0 => end.announce_leave(),
            _ => {}
        }
        self.wires[at].append(&mut end.out);
        let most = self.wires[at].len().min(if random.bool() { 12 } else { 100_000 });
        let piece: Vec<u8> = self.wires[at].drain(..random.usize(..=most)).collect();
        let (other, mut place) = (&mut self.ends[1 - at], 0);
        loop {
            match other.next(&piece, &mut place, now) {
                Ok(Some(event)) => {
                    if let Event::Data { id, range } = &event {
                        other.read(*id, range.len(), true, now);
                    }
                    if let Event::Asked { id, .. } = &event {
                        other.answer(*id, 200, &[("x", b"y")], false);
                    }
                    self.heard.push(format!("{at} {event:?}"));
                }
                Ok(None) => break,
                Err(fatal) => panic!("two of ours blame each other: {fatal}"),
            }
        }
    }
}

#[test]
fn a_talk_is_the_same_whether_its_ends_were_frozen_or_not() {
    let mut heard = 0;
    for _ in 0..40 {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let start = Instant::now();
        let (mut random, mut again, mut when) = (Rng::with_seed(seed), Rng::with_seed(seed), Rng::with_seed(!seed));
        let (mut plain, mut frozen) = (Talk::new(start), Talk::new(start));
        for step in 0..300 {
            let now = start + Duration::from_millis(3 * step);
            plain.step(&mut random, now);
            for end in &mut frozen.ends {
                if when.bool() {
                    *end = thawed(end, now);
                }
            }
            frozen.step(&mut again, now);
            assert!(frozen.wires == plain.wires && frozen.heard == plain.heard, "after {step} steps");
        }
        heard += plain.heard.len();
    }
    assert!(heard > 40 * 30, "they talked");
}

/// Connections at many places, as their bytes.
fn some() -> Vec<(Vec<u8>, Instant)> {
    let start = Instant::now();
    let mut random = Rng::with_seed(5);
    let mut talk = Talk::new(start);
    let mut all = Vec::new();
    for step in 0..60 {
        let now = start + Duration::from_millis(step);
        talk.step(&mut random, now);
        all.extend(talk.ends.iter().map(|end| (end.freeze(now).encode_to_vec(), now)));
    }
    all
}

#[test]
fn values_that_no_connection_has_are_refused_or_work_without_a_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let (mut taken, mut refused) = (0, 0);
    for (bytes, now) in some() {
        for _ in 0..100 {
            let mut bytes = bytes.clone();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let Ok(frozen) = FrozenConnection::decode(bytes.as_slice()) else { continue };
            let Ok(mut connection) = Connection::<()>::thaw(frozen.clone(), now) else {
                refused += 1;
                continue;
            };
            taken += 1;
            assert_eq!(connection.freeze(now).encode_to_vec(), frozen.encode_to_vec());
            work(&mut connection, &mut random, now);
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}

/// Everything that is done with a connection, whatever state it is in.
fn work(connection: &mut Connection<()>, random: &mut Rng, now: Instant) {
    let ids: Vec<_> = connection.streams().map(|(id, _)| id).collect();
    for id in ids {
        connection.answer(id, 200, &[], random.bool());
        let room = connection.room(id).min(1000);
        connection.data(id, room as u32);
        connection.read(id, 1000, true, now);
        connection.end(id);
        if random.bool() {
            connection.release(id);
        }
    }
    connection.ask([(":method", &b"CONNECT"[..])], now);
    connection.ping();
    connection.announce_leave();
    let frames = [
        settings(&[(setting::INITIAL_WINDOW_SIZE, random.u32(..))]),
        update(0, random.u32(..)),
        ask(random.u32(..) | 1),
        data(1, b"x"),
        frame(kind::PING, flag::ACK, 0, &PING_OF_OURS),
    ];
    for bytes in std::iter::once((0..30).map(|_| random.u8(..)).collect()).chain(frames) {
        let mut at = 0;
        while let Ok(Some(_)) = connection.next(&bytes, &mut at, now) {}
    }
}

const PING_OF_OURS: [u8; 8] = *b"trackbed";

#[test]
fn what_is_cut_short_or_arbitrary_is_no_panic() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = Rng::with_seed(seed);
    let thaw = |bytes: &[u8], now| FrozenConnection::decode(bytes).ok().and_then(|frozen| Connection::<()>::thaw(frozen, now).ok());
    for (bytes, now) in some() {
        thaw(&bytes[..random.usize(..bytes.len())], now);
    }
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.usize(..80)).map(|_| random.u8(..)).collect();
        assert!(thaw(&bytes, Instant::now()).is_none());
    }
}
