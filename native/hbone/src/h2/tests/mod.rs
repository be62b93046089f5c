//! The codec against a hostile peer: each rule of RFC 9113 that we rely on, and every flood that we bound.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // in tests a failed unwrap is the message

use std::fmt::Write as _;
use std::time::{Duration, Instant};

mod frozen;

use super::frame::{Head, PREFACE, flag, kind, setting};
use super::*;

const BOUNDS: Bounds =
    Bounds { streams: 4, header_list: 16 << 10, frame: 1 << 20, window: 1 << 20, stream_window: 1 << 18, growth: 1 << 18 };

struct Peer {
    ours: Connection<()>,
    /// Frames of ours that the test has not looked at.
    wire: Vec<u8>,
    now: Instant,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(kind, flags, stream, payload, &mut bytes);
    bytes
}

fn settings(entries: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        entries.iter().flat_map(|(id, value)| [id.to_be_bytes().to_vec(), value.to_be_bytes().to_vec()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// Literal fields without any table.
fn block(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    hpack::Encoder::default().encode(fields.iter().copied(), &mut block);
    block
}

fn connect() -> Vec<u8> {
    block(&[(":method", b"CONNECT"), (":authority", b"10.0.0.1:80")])
}

fn ask(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &connect())
}

fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind::DATA, 0, stream, payload)
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn reset(stream: u32, reason: Reason) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &reason.0.to_be_bytes())
}

impl Peer {
    fn new(role: Role) -> Self {
        let now = Instant::now();
        let mut peer = Self { ours: Connection::new(role, BOUNDS, now), wire: Vec::new(), now };
        let mut hello = if role == Role::Server { PREFACE.to_vec() } else { Vec::new() };
        hello.extend(settings(&[]));
        if role == Role::Client {
            assert!(peer.ours.out.starts_with(PREFACE));
            peer.ours.out.drain(..PREFACE.len());
        }
        assert!(matches!(peer.send(&hello).unwrap()[..], [Event::Settings]));
        peer.frames();
        peer
    }

    /// A server with one stream that it has accepted.
    fn accepted() -> Self {
        let mut peer = Self::new(Role::Server);
        peer.send(&ask(1)).unwrap();
        peer.ours.answer(1, 200, &[], false);
        peer.frames();
        peer
    }

    /// A client that has asked for one stream, and got it.
    fn asked() -> Self {
        let mut peer = Self::new(Role::Client);
        assert_eq!(peer.ours.ask([(":method", &b"CONNECT"[..])], peer.now), Some(1));
        peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[(":status", b"200")]))).unwrap();
        peer.frames();
        peer
    }

    /// Frozen and thawed before it: no test may notice.
    fn send(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Fatal> {
        self.ours = frozen::thawed(&self.ours, self.now);
        let (mut at, mut events) = (0, Vec::new());
        while let Some(event) = self.ours.next(bytes, &mut at, self.now)? {
            events.push(event);
        }
        assert_eq!(at, bytes.len());
        Ok(events)
    }

    fn fatal(&mut self, bytes: &[u8]) -> Reason {
        self.send(bytes).expect_err("the connection must end").reason
    }

    /// What we have said since.
    fn frames(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        self.wire.append(&mut self.ours.out);
        let mut frames = Vec::new();
        while let Some((head, rest)) = self.wire.split_first_chunk() {
            let head = Head::parse(*head);
            frames.push((head.kind, head.stream, rest[..head.length as usize].to_vec()));
            self.wire.drain(..HEAD + head.length as usize);
        }
        frames
    }

    fn resets(&mut self) -> Vec<(u32, Reason)> {
        let number = |payload: &[u8]| Reason(u32::from_be_bytes(payload.try_into().unwrap()));
        self.frames().iter().filter(|(kind, ..)| *kind == kind::RST_STREAM).map(|(_, id, payload)| (*id, number(payload))).collect()
    }

    /// The stream ends, the connection goes on.
    fn breaks_stream(&mut self, bytes: &[u8], reason: Reason) {
        let events = self.send(bytes).unwrap();
        assert!(matches!(events[..], [Event::Reset { id: 1, reason: found }] if found == reason), "{events:?}");
        assert_eq!(self.resets(), [(1, reason)]);
        self.send(&frame(kind::PING, 0, 0, &[7; 8])).unwrap();
        assert_eq!(self.frames(), [(kind::PING, 0, vec![7; 8])]);
    }
}

const RULE: Reason = Reason::PROTOCOL_ERROR;
const SIZE: Reason = Reason::FRAME_SIZE_ERROR;
const CALM: Reason = Reason::ENHANCE_YOUR_CALM;

#[test]
fn every_cut_of_the_input_gives_the_same_events() {
    let mut input = [PREFACE, &settings(&[(setting::INITIAL_WINDOW_SIZE, 70_000), (99, 1)]), &ask(1)].concat();
    let parts = connect();
    input.extend(frame(kind::HEADERS, 0, 3, &parts[..3]));
    input.extend(frame(kind::CONTINUATION, 0, 3, &[]));
    input.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 3, &parts[3..]));
    input.extend(frame(kind::DATA, flag::PADDED, 1, b"\x03hello\0\0\0"));
    input.extend(frame(42, 0xff, 9, b"unknown"));
    input.extend(frame(kind::DATA, flag::END_STREAM, 3, b"bye"));
    input.extend(frame(kind::GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0with text"));
    let story = |sizes: &mut dyn FnMut() -> usize| {
        let mut ours: Connection<()> = Connection::new(Role::Server, BOUNDS, Instant::now());
        let (mut start, mut story) = (0, String::new());
        while start < input.len() {
            let piece = &input[start..(start + sizes()).min(input.len())];
            let mut at = 0;
            while let Some(event) = ours.next(piece, &mut at, Instant::now()).unwrap() {
                match event {
                    // Payload may come in any number of pieces.
                    Event::Data { id, range } => {
                        story.extend(piece[range].iter().flat_map(|byte| [char::from(b'0' + id as u8), char::from(*byte)]));
                    }
                    other => write!(story, "{other:?}").unwrap(),
                }
            }
            start += piece.len();
            ours = frozen::thawed(&ours, Instant::now());
        }
        (story, ours.out)
    };
    let whole = story(&mut || usize::MAX / 2);
    assert!(whole.0.contains("1h1e1l1l1o") && whole.0.contains("3b3y3eEnd { id: 3 }") && whole.0.contains("GoAway"), "{}", whole.0);
    assert_eq!(whole, story(&mut || 1));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..200 {
        assert_eq!(whole, story(&mut || random.usize(1..40)));
    }
}

#[test]
fn random_frames_never_panic_and_never_leave_more_streams_than_allowed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..3000 {
        let mut peer = if round % 2 == 0 { Peer::accepted() } else { Peer::asked() };
        for _ in 0..30 {
            let payload: Vec<u8> = (0..random.usize(0..20)).map(|_| random.u8(..)).collect();
            let payload = if random.u8(..) < 60 { connect() } else { payload };
            let bytes = frame(random.u8(0..11), random.u8(..), random.u32(0..12), &payload);
            peer.now += Duration::from_millis(random.u64(0..100));
            if peer.send(&bytes).is_err() {
                break;
            }
            assert!(peer.ours.live() <= 5 && peer.ours.streams().count() <= 9);
            if random.bool() {
                peer.ours.release(random.u32(0..12));
            }
        }
    }
}

#[test]
fn the_preface_and_settings_come_first() {
    let bare = || Peer { ours: Connection::new(Role::Server, BOUNDS, Instant::now()), wire: Vec::new(), now: Instant::now() };
    assert_eq!(bare().fatal(b"GET / HTTP/1.1\r\n"), RULE);
    assert_eq!(bare().fatal(&[PREFACE, &ask(1)].concat()), RULE);
    assert_eq!(bare().fatal(&[PREFACE, &frame(kind::SETTINGS, flag::ACK, 0, &[])].concat()), RULE);
    let mut client = Peer { ours: Connection::new(Role::Client, BOUNDS, Instant::now()), wire: Vec::new(), now: Instant::now() };
    assert_eq!(client.fatal(&frame(kind::PING, 0, 0, &[0; 8])), RULE);
}

#[test]
fn frames_of_a_wrong_size_or_place_end_the_connection() {
    let bad: [(Vec<u8>, Reason); 25] = [
        (Head { length: (1 << 20) + 1, kind: kind::DATA, flags: 0, stream: 1 }.bytes().to_vec(), SIZE),
        (frame(kind::DATA, 0, 0, b"x"), RULE),
        (frame(kind::DATA, flag::PADDED, 1, &[]), SIZE),
        (frame(kind::DATA, flag::PADDED, 1, &[2, 0]), RULE),
        (frame(kind::HEADERS, flag::END_HEADERS, 0, &connect()), RULE),
        (frame(kind::HEADERS, flag::END_HEADERS, 2, &connect()), RULE),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 3, &[9, 0]), RULE),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 3, &[]), SIZE),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 3, &[0; 4]), SIZE),
        (frame(kind::HEADERS, flag::END_HEADERS, 3, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Reason::COMPRESSION_ERROR),
        (frame(kind::PRIORITY, 0, 0, &[0; 5]), RULE),
        (frame(kind::RST_STREAM, 0, 1, &[0; 3]), SIZE),
        (reset(0, RULE), RULE),
        (reset(9, RULE), RULE),
        (frame(kind::SETTINGS, 0, 1, &[]), RULE),
        (frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), SIZE),
        (frame(kind::SETTINGS, 0, 0, &[0; 7]), SIZE),
        (frame(kind::PUSH_PROMISE, 0, 1, &[0; 8]), RULE),
        (frame(kind::PING, 0, 0, &[0; 7]), SIZE),
        (frame(kind::PING, 0, 1, &[0; 8]), RULE),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), SIZE),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0; 5]), SIZE),
        (update(9, 1), RULE),
        (update(0, 0), RULE),
        (frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[]), RULE),
    ];
    for (bytes, reason) in bad {
        assert_eq!(Peer::accepted().fatal(&bytes), reason, "{bytes:x?}");
    }
}

#[test]
fn a_broken_priority_of_a_stream_that_was_never_opened_ends_the_connection() {
    // It cannot be answered by RST_STREAM, which would close what the peer may still open.
    assert_eq!(Peer::accepted().fatal(&frame(kind::PRIORITY, 0, 3, &[0; 4])), SIZE);
    assert_eq!(Peer::accepted().fatal(&frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 3, 0])), RULE);
    Peer::accepted().breaks_stream(&frame(kind::PRIORITY, 0, 1, &[0; 4]), SIZE);
}

#[test]
fn settings_out_of_range_are_refused_and_the_rest_is_taken() {
    for (id, value, reason) in [
        (setting::ENABLE_PUSH, 2, RULE),
        (setting::INITIAL_WINDOW_SIZE, 1 << 31, Reason::FLOW_CONTROL_ERROR),
        (setting::MAX_FRAME_SIZE, 100, RULE),
        (setting::MAX_FRAME_SIZE, 1 << 24, RULE),
    ] {
        assert_eq!(Peer::accepted().fatal(&settings(&[(id, value)])), reason);
    }
    assert_eq!(Peer::asked().fatal(&settings(&[(setting::ENABLE_PUSH, 1)])), RULE, "a server cannot allow it");
    let mut peer = Peer::accepted();
    peer.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 10), (7777, 1)])).unwrap();
    assert_eq!(peer.ours.room(1), 10);
    peer.ours.data(1, 10);
    peer.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 4)])).unwrap();
    assert_eq!(peer.ours.room(1), 0);
    peer.send(&update(1, 7)).unwrap();
    assert_eq!(peer.ours.room(1), 1, "the window was six below zero");
    assert_eq!(peer.frames().iter().filter(|(kind, ..)| *kind == kind::SETTINGS).count(), 2, "each is acknowledged");
}

#[test]
fn windows_hold_both_ways_and_may_not_overflow() {
    let mut peer = Peer::accepted();
    peer.send(&data(1, &vec![0; 65_535])).unwrap();
    peer.breaks_stream(&data(1, b"x"), Reason::FLOW_CONTROL_ERROR);
    Peer::accepted().breaks_stream(&update(1, (1 << 31) - 1), Reason::FLOW_CONTROL_ERROR);
    Peer::accepted().breaks_stream(&update(1, 0), RULE);
    let mut peer = Peer::accepted();
    assert_eq!(peer.fatal(&update(0, (1 << 31) - 1)), Reason::FLOW_CONTROL_ERROR);
    let mut peer = Peer::accepted();
    peer.ours.data(1, 65_535);
    assert_eq!(peer.ours.room(1), 0);
    peer.send(&update(1, 100)).unwrap();
    assert_eq!(peer.ours.room(1), 0, "the connection's window holds");
    let events = peer.send(&update(0, 40)).unwrap();
    assert!(matches!(events[..], [Event::Room { id: None }]));
    assert_eq!(peer.ours.room(1), 40);
}

#[test]
fn the_connections_window_comes_back_whatever_becomes_of_its_data() {
    // Unread, padded, of streams that were reset and of streams that are over: none of it may hold the neighbours.
    let mut peer = Peer::accepted();
    peer.ours.reset(1, Reason::CANCEL);
    let mut padded = vec![200];
    padded.resize(201 + 1000, 0);
    for round in 0..200 {
        let id = 3 + 2 * round;
        peer.send(&ask(id)).unwrap();
        peer.send(&frame(kind::DATA, flag::PADDED, id, &padded)).unwrap();
        peer.send(&data(1, &[0; 16_384])).unwrap();
        peer.ours.release(id);
    }
    let grants = peer.frames().into_iter().filter(|(kind, id, _)| (*kind, *id) == (kind::WINDOW_UPDATE, 0));
    let granted: u32 = grants.map(|(.., payload)| u32::from_be_bytes(payload.try_into().unwrap())).sum();
    assert!(granted > 200 * 17_000 - BOUNDS.window, "{granted}");
}

#[test]
fn four_unread_streams_leave_a_fifth_its_window() {
    let mut peer = Peer::accepted();
    for id in [3, 5, 7] {
        peer.send(&ask(id)).unwrap();
    }
    for id in [1, 3, 5, 7] {
        peer.send(&data(id, &vec![0; 65_535])).unwrap();
        assert!(peer.frames().iter().all(|(kind, stream, _)| *kind != kind::WINDOW_UPDATE || *stream == 0), "nobody has read it");
    }
    peer.ours.release(7);
    peer.send(&ask(9)).unwrap();
    for _ in 0..100 {
        assert!(!peer.send(&data(9, &vec![0; 30_000])).unwrap().is_empty());
        peer.ours.read(9, 30_000, true, peer.now);
    }
}

#[test]
fn streams_are_refused_beyond_the_bound_and_the_connection_goes_on() {
    let mut peer = Peer::accepted();
    for id in [3, 5, 7] {
        assert_eq!(peer.send(&ask(id)).unwrap().len(), 1);
    }
    assert!(peer.send(&ask(9)).unwrap().is_empty());
    assert_eq!(peer.resets(), [(9, Reason::REFUSED_STREAM)]);
    assert!(peer.send(&data(9, b"on its way")).unwrap().is_empty(), "and what came for it is dropped");
    assert!(peer.resets().is_empty());
    peer.ours.release(3);
    assert_eq!(peer.send(&ask(11)).unwrap().len(), 1);
}

#[test]
fn what_is_no_proper_connect_is_answered_and_never_handed_on() {
    let method = (":method", &b"CONNECT"[..]);
    let authority = (":authority", &b"10.0.0.1:80"[..]);
    let bad: [&[(&str, &[u8])]; 18] = [
        &[method, authority, (":path", b"/")],
        &[method, authority, (":scheme", b"https")],
        &[method, authority, (":protocol", b"connect-tcp")],
        &[method],
        &[method, (":authority", b"")],
        &[method, (":authority", b"user@10.0.0.1:80")],
        &[method, (":authority", b"a b:80")],
        &[method, (":authority", b"nul\0:80")],
        &[method, (":authority", &[b'a'; 321])],
        &[(":method", b"GET"), authority, (":path", b"/"), (":scheme", b"https")],
        &[authority],
        &[method, method, authority],
        &[method, authority, authority],
        &[method, ("x", b"y"), authority],
        &[method, authority, (":status", b"200")],
        &[method, authority, ("Upper", b"case")],
        &[method, authority, ("transfer-encoding", b"chunked")],
        &[method, authority, ("te", b"gzip")],
    ];
    for fields in bad {
        let mut peer = Peer::new(Role::Server);
        assert!(peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block(fields))).unwrap().is_empty(), "{fields:?}");
        let frames = peer.frames();
        let (kind, id, answer) = &frames[0];
        let mut status = Vec::new();
        hpack::Decoder::new().decode(answer, |_, value| status.extend_from_slice(value)).unwrap();
        assert_eq!((*kind, *id, status.as_slice()), (kind::HEADERS, 1, &b"400"[..]), "{fields:?}");
        assert_eq!(peer.ours.streams().count(), 0);
        assert_eq!(peer.send(&ask(3)).unwrap().len(), 1, "the connection goes on");
    }
    let mut peer = Peer::new(Role::Server);
    let good = [method, authority, ("te", b"trailers"), ("x-unknown", b"y")];
    let events = peer.send(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &block(&good))).unwrap();
    assert!(matches!(&events[..], [Event::Asked { id: 1, asked }] if asked.authority.as_deref() == Some("10.0.0.1:80")));
}

#[test]
fn a_list_of_headers_is_taken_up_to_its_bound_and_refused_beyond_it() {
    // :method and :authority count 7 + 7 + 32 and 10 + 11 + 32; the filler 1 + 32.
    let list = |size: usize| {
        let filler = vec![b'v'; size - 99 - 33];
        block(&[(":method", b"CONNECT"), (":authority", b"10.0.0.1:80"), ("x", &filler)])
    };
    let most = BOUNDS.header_list as usize;
    let mut peer = Peer::new(Role::Server);
    assert_eq!(peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 1, &list(most))).unwrap().len(), 1);
    assert!(peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 3, &list(most + 1))).unwrap().is_empty());
    // A bomb: one entry of the table, said again and again by one byte each.
    let mut bomb = vec![0x3f, 0xe1, 0x1f, 0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    bomb.extend(vec![b'v'; 4000]);
    bomb.extend(vec![0xbe; 12_000]);
    assert!(peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 5, &bomb)).unwrap().is_empty());
    let answers = peer.frames().iter().filter(|(kind, ..)| *kind == kind::HEADERS).count();
    assert_eq!((answers, peer.ours.streams().count()), (2, 1), "431 for both");
}

#[test]
fn header_blocks_without_end_are_cut() {
    let mut peer = Peer::new(Role::Server);
    peer.send(&frame(kind::HEADERS, 0, 1, &connect())).unwrap();
    let reason = (0..100).find_map(|_| peer.send(&frame(kind::CONTINUATION, 0, 1, &[])).err()).unwrap().reason;
    assert_eq!(reason, CALM, "empty continuations");
    let mut peer = Peer::new(Role::Server);
    peer.send(&frame(kind::HEADERS, 0, 1, &vec![0; 9000])).unwrap();
    assert_eq!(peer.fatal(&frame(kind::CONTINUATION, 0, 1, &vec![0; 9000])), CALM, "more than a list can be");
    let mut peer = Peer::new(Role::Server);
    let head = Head { length: 17 << 10, kind: kind::HEADERS, flags: 0, stream: 1 }.bytes();
    assert_eq!(peer.fatal(&head), CALM, "refused before it is there");
    for other in [ask(1), frame(kind::PING, 0, 0, &[0; 8]), frame(kind::CONTINUATION, 0, 3, &[]), frame(77, 0, 0, &[])] {
        let mut peer = Peer::new(Role::Server);
        peer.send(&frame(kind::HEADERS, 0, 1, &connect())).unwrap();
        assert_eq!(peer.fatal(&other), RULE, "nothing may stand between");
    }
}

#[test]
fn every_flood_is_cut_and_costs_no_memory() {
    let floods: [Vec<u8>; 8] = [
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::PING, flag::ACK, 0, &[0; 8]),
        settings(&[]),
        frame(kind::DATA, 0, 1, &[]),
        frame(kind::PRIORITY, 0, 1, &[0; 5]),
        update(1, 1),
        update(0, 1),
        frame(99, 0, 0, b"?"),
    ];
    for flood in floods {
        let mut peer = Peer::accepted();
        let cut = (0..10_000).find_map(|_| peer.send(&flood).err());
        assert_eq!(cut.map(|fatal| fatal.reason), Some(CALM), "{flood:x?}");
        assert!(peer.ours.out.len() < 100_000);
    }
}

#[test]
fn resets_by_the_client_and_those_that_it_provokes_are_counted() {
    let mut peer = Peer::new(Role::Server);
    let rapid = (0..5000).find_map(|at| {
        peer.send(&[ask(1 + 2 * at), reset(1 + 2 * at, Reason::CANCEL)].concat()).map(|_| peer.ours.release(1 + 2 * at)).err()
    });
    assert_eq!(rapid.unwrap().reason, CALM);
    let mut peer = Peer::new(Role::Server);
    let provoked =
        (0..5000).find_map(|at| peer.send(&[ask(1 + 2 * at), update(1 + 2 * at, 0)].concat()).map(|_| peer.ours.release(1 + 2 * at)).err());
    assert_eq!(provoked.unwrap().reason, CALM);
    let mut peer = Peer::new(Role::Server);
    let get = block(&[(":method", b"GET")]);
    let wrong = (0..5000).find_map(|at| peer.send(&frame(kind::HEADERS, flag::END_HEADERS, 1 + 2 * at, &get)).err());
    assert_eq!(wrong.unwrap().reason, CALM);
    // A client that ends a whole tunnel of accepted streams by resets does nothing wrong.
    let mut peer = Peer::new(Role::Server);
    for id in (0..20_000).map(|at| 1 + 2 * at) {
        peer.send(&ask(id)).unwrap();
        peer.ours.answer(id, 200, &[], false);
        peer.send(&reset(id, Reason::CANCEL)).unwrap();
        peer.ours.release(id);
        peer.ours.out.clear();
    }
}

#[test]
fn a_stream_ends_once_in_each_direction() {
    let mut peer = Peer::accepted();
    assert!(matches!(peer.send(&frame(kind::DATA, flag::END_STREAM, 1, &[])).unwrap()[..], [Event::End { id: 1 }]));
    peer.breaks_stream(&data(1, b"more"), Reason::STREAM_CLOSED);
    Peer::accepted().breaks_stream(&ask(1), RULE);
    let mut peer = Peer::accepted();
    peer.send(&frame(kind::DATA, flag::END_STREAM, 1, &[])).unwrap();
    peer.ours.end(1);
    assert_eq!(peer.ours.live(), 0);
    peer.ours.release(1);
    assert!(peer.send(&data(1, b"late")).unwrap().is_empty());
    assert_eq!(peer.resets(), [(1, Reason::STREAM_CLOSED)]);
}

#[test]
fn what_comes_for_a_stream_that_we_reset_is_dropped_without_a_word() {
    let mut peer = Peer::accepted();
    peer.ours.release(1);
    peer.frames();
    let late = [data(1, b"x"), update(1, 1), reset(1, Reason::CANCEL), ask(1)].concat();
    assert!(peer.send(&late).unwrap().is_empty());
    assert!(peer.resets().is_empty());
    // Until the peer has answered a PING that it got after the reset.
    peer.ours.ping();
    let ping = peer.frames().pop().unwrap();
    assert!(matches!(peer.send(&frame(kind::PING, flag::ACK, 0, &ping.2)).unwrap()[..], [Event::Pong]));
    peer.send(&data(1, b"x")).unwrap();
    assert_eq!(peer.resets(), [(1, Reason::STREAM_CLOSED)]);
}

#[test]
fn a_client_takes_one_answer_and_no_data_before_it() {
    let answer = |status: &[u8]| frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[(":status", status)]));
    let pending = || {
        let mut peer = Peer::new(Role::Client);
        peer.ours.ask([(":method", &b"CONNECT"[..])], peer.now);
        peer.frames();
        peer
    };
    pending().breaks_stream(&data(1, b"early"), RULE);
    pending().breaks_stream(&answer(b"99"), RULE);
    pending().breaks_stream(&answer(b"2000"), RULE);
    pending().breaks_stream(&frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[(":status", b"200"), (":path", b"/")])), RULE);
    let mut peer = pending();
    assert!(peer.send(&answer(b"103")).unwrap().is_empty(), "an interim answer is none");
    assert!(matches!(&peer.send(&answer(b"200")).unwrap()[..], [Event::Answered { id: 1, answered }] if answered.status == 200));
    peer.breaks_stream(&answer(b"200"), RULE);
    assert_eq!(pending().fatal(&frame(kind::HEADERS, flag::END_HEADERS, 3, &block(&[(":status", b"200")]))), RULE, "nobody asked");
    assert_eq!(pending().fatal(&data(2, b"x")), RULE, "nothing is pushed");
}

#[test]
fn goaway_says_which_streams_were_not_looked_at() {
    let mut peer = Peer::asked();
    assert_eq!(peer.ours.ask([], peer.now), Some(3));
    let goaway = |last: u32| frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat());
    assert!(matches!(peer.send(&goaway(u32::MAX >> 1)).unwrap()[..], [Event::GoAway { .. }]));
    assert_eq!(peer.ours.ask([], peer.now), None, "no new ones");
    let events = peer.send(&goaway(1)).unwrap();
    assert!(matches!(events[..], [Event::GoAway { last: 1, .. }]));
    assert_eq!(peer.ours.abandon_beyond(1), [3]);
    assert_eq!(peer.ours.live(), 1);
    assert_eq!(peer.fatal(&goaway(3)), RULE, "it cannot take that back");
}

#[test]
fn a_server_that_leaves_takes_what_is_on_its_way_and_then_nothing() {
    let mut peer = Peer::accepted();
    peer.ours.announce_leave();
    assert_eq!(peer.send(&ask(3)).unwrap().len(), 1);
    peer.ours.leave(Reason::NO_ERROR);
    assert!(peer.send(&ask(5)).unwrap().is_empty());
    assert_eq!(peer.resets(), [(5, Reason::REFUSED_STREAM)]);
    assert_eq!(peer.ours.live(), 2);
}

#[test]
fn a_server_that_has_left_does_not_announce_it_again() {
    let mut peer = Peer::accepted();
    peer.ours.leave(Reason::NO_ERROR);
    peer.frames();
    peer.ours.announce_leave();
    assert!(peer.frames().is_empty(), "it would take the first GOAWAY back");
    assert!(peer.ours.is_left());
}

#[test]
fn a_server_that_left_and_then_breaks_off_names_no_stream_that_it_refused_meanwhile() {
    let mut peer = Peer::accepted();
    peer.ours.leave(Reason::NO_ERROR);
    peer.send(&ask(3)).unwrap();
    peer.ours.leave(Reason::PROTOCOL_ERROR);
    let last: Vec<_> = peer.frames().into_iter().filter(|(kind, ..)| *kind == kind::GOAWAY).map(|(.., payload)| payload[3]).collect();
    assert_eq!(last, [1, 1]);
}

#[test]
fn a_peers_bound_on_streams_holds_also_below_what_is_open() {
    let mut peer = Peer::asked();
    peer.send(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 2)])).unwrap();
    assert_eq!(peer.ours.ask([], peer.now), Some(3));
    assert_eq!(peer.ours.ask([], peer.now), None);
    peer.send(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)])).unwrap();
    assert_eq!(peer.ours.live(), 2, "what is open goes on");
    peer.ours.release(1);
    assert_eq!(peer.ours.ask([], peer.now), None);
}

#[test]
fn ids_end_and_are_never_used_again() {
    let mut peer = Peer::asked();
    peer.ours.skip_ids_for_test();
    assert_eq!(peer.ours.ask([], peer.now), Some((1 << 31) - 1));
    assert_eq!(peer.ours.ask([], peer.now), None);
}

#[test]
fn a_stream_that_was_reset_for_its_window_costs_the_others_nothing() {
    let mut peer = Peer::accepted();
    peer.send(&ask(3)).unwrap();
    peer.breaks_stream(&update(1, (1 << 31) - 1), Reason::FLOW_CONTROL_ERROR);
    peer.send(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 20)])).unwrap();
    assert_eq!(peer.ours.live(), 1);
}
