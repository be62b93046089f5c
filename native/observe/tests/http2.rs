//! HTTP/2 connections: each stream is told once, with its status and gRPC's, however the bytes are cut.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
mod talk;

use loona_hpack::Encoder;
use talk::{Talk, told, told_by};
use trackbed_observe::{Depth, GaveUp, Protocol, Side};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// One end, with its table of headers.
struct End(Encoder<'static>);

impl End {
    fn new() -> Self {
        Self(Encoder::new())
    }

    fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.0.encode(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
    }

    fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
        frame(HEADERS, END_HEADERS | flags, stream, &self.block(fields))
    }

    fn ask(&mut self, stream: u32, content_type: &str) -> Vec<u8> {
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/shop.Cart/Add"), ("content-type", content_type), ("x", "y")];
        self.headers(stream, 0, &fields)
    }
}

fn begun() -> Talk {
    Talk::new().client([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).server(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]))
}

#[derive(Debug, PartialEq, Eq)]
struct Told(Protocol, Option<u16>, Option<u16>);

fn all(talk: &Talk) -> Vec<Told> {
    let exchanges = |piece| {
        let seen = told(talk, Depth::Requests, piece);
        assert_eq!(seen.gave_up, None, "in pieces of {piece}");
        seen.exchanges.iter().map(|one| Told(one.protocol, one.status, one.grpc_status)).collect::<Vec<_>>()
    };
    let whole = exchanges(usize::MAX);
    for piece in [1, 2, 8, 9, 10, 100] {
        assert_eq!(exchanges(piece), whole, "in pieces of {piece}");
    }
    whole
}

#[test]
fn each_stream_is_told_with_its_status_and_that_of_grpc() {
    let (mut client, mut server) = (End::new(), End::new());
    let talk = begun()
        .client(client.ask(1, "application/grpc"))
        .client(client.ask(3, "application/grpc+proto"))
        .client([client.ask(5, "application/json"), frame(DATA, END_STREAM, 5, b"{}")].concat())
        .server(server.headers(3, 0, &[(":status", "200"), ("content-type", "application/grpc")]))
        .server(frame(DATA, 0, 3, b"\0\0\0\0\x01x"))
        .server(server.headers(3, END_STREAM, &[("grpc-status", "7"), ("grpc-message", "no")]))
        .server(server.headers(5, 0, &[(":status", "103")]))
        .server(server.headers(5, 0, &[(":status", "404")]))
        .server([frame(DATA, 0, 5, b"not "), frame(DATA, END_STREAM, 5, b"there")].concat())
        .server(server.headers(1, END_STREAM, &[(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")]));
    let grpc = |status| Told(Protocol::Grpc, Some(200), Some(status));
    assert_eq!(all(&talk), [grpc(7), Told(Protocol::Http2, Some(404), None), grpc(14)]);
    for depth in [Depth::Protocol, Depth::Requests] {
        assert_eq!(told(&talk, depth, 11).protocol, Some(Protocol::Grpc));
    }
    assert!(told(&talk, Depth::Protocol, 11).over);
}

#[test]
fn a_server_may_speak_first_and_only_its_client_makes_it_certain() {
    let (mut client, mut server) = (End::new(), End::new());
    let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let talk = Talk::new()
        .server(&settings)
        .client([PREFACE, &frame(SETTINGS, 0, 0, &[]), &client.ask(1, "application/grpc")].concat())
        .server(server.headers(1, END_STREAM, &[(":status", "200"), ("grpc-status", "0")]));
    assert_eq!(all(&talk), [Told(Protocol::Grpc, Some(200), Some(0))]);
    assert_eq!(told(&talk, Depth::Protocol, 4).protocol, Some(Protocol::Grpc));
    let other = told(&Talk::new().server(&settings).client("HELO shop"), Depth::Requests, 4);
    assert_eq!((other.protocol, other.over), (None, true));
}

#[test]
fn what_is_reset_or_cut_is_told_as_far_as_it_was_answered() {
    let (mut client, mut server) = (End::new(), End::new());
    let talk = begun()
        .client(client.ask(1, "text/plain"))
        .client(client.ask(3, "text/plain"))
        .client(client.ask(5, "text/plain"))
        .client(client.ask(7, "application/grpc"))
        .client(frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]))
        .server(server.headers(3, 0, &[(":status", "200")]))
        .server(frame(RST_STREAM, 0, 3, &[0, 0, 0, 2]))
        .server(frame(DATA, END_STREAM, 1, b"late"));
    let plain = |status| Told(Protocol::Http2, status, None);
    assert_eq!(all(&talk), [plain(None), plain(Some(200)), plain(None), Told(Protocol::Grpc, None, None)]);
    assert_eq!(told(&talk, Depth::Requests, 20).protocol, Some(Protocol::Http2), "as the first request");
}

#[test]
fn blocks_in_parts_padding_and_pushes_keep_the_tables_right() {
    let (mut client, mut server) = (End::new(), End::new());
    let block = client.block(&[(":method", "GET"), ("content-type", "application/grpc"), ("cookie", "crumb")]);
    let (first, rest) = block.split_at(3);
    let (second, third) = rest.split_at(2);
    let padded = [&[3][..], &[0, 0, 0, 0, 9], &client.block(&[(":method", "GET"), ("cookie", "crumb")]), &[0; 3]].concat();
    let push = [&[0, 0, 0, 2][..], &server.block(&[(":method", "GET"), (":path", "/pushed")])].concat();
    let talk = begun()
        .client(
            [frame(HEADERS, END_STREAM, 1, first), frame(CONTINUATION, 0, 1, second), frame(CONTINUATION, END_HEADERS, 1, third)].concat(),
        )
        .client(frame(HEADERS, END_HEADERS | END_STREAM | 0x8 | 0x20, 3, &padded))
        .server(frame(PUSH_PROMISE, END_HEADERS, 1, &push))
        .server([server.headers(2, END_STREAM, &[(":status", "200"), (":path", "/pushed")])].concat())
        .server(server.headers(1, END_STREAM, &[(":status", "200"), ("grpc-status", "0"), ("pushed", "/pushed")]))
        .server(server.headers(3, END_STREAM, &[(":status", "500"), ("pushed", "/pushed")]));
    assert_eq!(all(&talk), [Told(Protocol::Grpc, Some(200), Some(0)), Told(Protocol::Http2, Some(500), None)]);
}

#[test]
fn what_breaks_the_rules_or_the_bounds_is_given_up() {
    let mut client = End::new();
    let mut many = begun();
    for stream in 0..257 {
        many = many.client(client.ask(2 * stream + 1, "text/plain"));
    }
    for (talk, why) in [
        (many, GaveUp::Bound),
        (begun().client(frame(HEADERS, END_HEADERS, 1, &[0xff; 9])), GaveUp::Malformed),
        (begun().client(frame(HEADERS, END_HEADERS | 0x8, 1, &[9, 0x82])), GaveUp::Malformed),
        (begun().client(frame(CONTINUATION, END_HEADERS, 1, &[0x82])), GaveUp::Malformed),
        (begun().client([frame(HEADERS, 0, 1, &[0x82]), frame(DATA, 0, 1, &[])].concat()), GaveUp::Malformed),
        (begun().client(frame(HEADERS, 0, 1, &vec![0; 20_000])), GaveUp::Bound),
        (begun().client([frame(HEADERS, 0, 1, &vec![0; 16_000]), frame(CONTINUATION, 0, 1, &[0; 1000])].concat()), GaveUp::Bound),
        // A table that is larger than we keep one.
        (begun().client(frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe2, 0x1f])), GaveUp::Malformed),
    ] {
        for piece in [1, 1000, usize::MAX] {
            assert_eq!(told(&talk, Depth::Requests, piece).gave_up, Some(why), "in pieces of {piece}");
        }
    }
}

#[test]
fn a_thousand_streams_are_counted_alike_however_they_are_cut_and_mixed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut client, mut server, mut talk) = (End::new(), End::new(), begun());
    let (mut open, mut expected): (Vec<(u32, bool)>, [usize; 3]) = (Vec::new(), [0; 3]);
    for number in 0..1000 {
        let (id, grpc) = (2 * number + 1, random.bool());
        talk = talk.client(client.ask(id, if grpc { "application/grpc" } else { "a/b" }));
        open.push((id, grpc));
        while open.len() > random.usize(0..100) {
            let (id, grpc) = open.swap_remove(random.usize(..open.len()));
            if random.u8(..10) == 0 {
                expected[0] += 1;
                talk = talk.client(frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
                continue;
            }
            expected[if grpc { 1 } else { 2 }] += 1;
            talk = talk.server([server.headers(id, 0, &[(":status", "200")]), frame(DATA, 0, id, &vec![0; random.usize(..500)])].concat());
            talk =
                talk.server(if grpc { server.headers(id, END_STREAM, &[("grpc-status", "0")]) } else { frame(DATA, END_STREAM, id, &[]) });
        }
    }
    expected[0] += open.len();
    for most in [1, 30, 3000] {
        let all = told_by(&talk, Depth::Requests, || random.usize(1..=most));
        let of = |protocol| all.exchanges.iter().filter(|one| one.status.is_some() && one.protocol == protocol).count();
        let none = all.exchanges.iter().filter(|one| one.status.is_none()).count();
        assert_eq!((all.gave_up, [none, of(Protocol::Grpc), of(Protocol::Http2)]), (None, expected), "pieces of at most {most}");
    }
}

#[test]
fn nothing_panics_whatever_passes() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let starts: [&[u8]; 8] = [
        PREFACE,
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"*1\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"CONNECT a ",
        b"",
        b"\0\0\0\x17\0\x12",
    ];
    for _ in 0..3000 {
        let mut talk = Talk::new().client(random.choice(starts).unwrap());
        for _ in 0..random.usize(..20) {
            let bytes: Vec<u8> = match random.u8(..4) {
                0 => frame(
                    random.u8(..12),
                    random.u8(..),
                    random.u32(..9),
                    &(0..random.usize(..40)).map(|_| random.u8(..)).collect::<Vec<_>>(),
                ),
                1 => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n".to_vec(),
                2 => b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                _ => (0..random.usize(..60)).map(|_| random.u8(..)).collect(),
            };
            talk = if random.bool() { talk.client(bytes) } else { talk.server(bytes) };
            if random.u8(..20) == 0 {
                talk = talk.finished(if random.bool() { Side::Client } else { Side::Server });
            }
        }
        let whole = told(&talk, Depth::Requests, usize::MAX);
        let cut = told_by(&talk, Depth::Requests, || random.usize(1..10));
        assert_eq!((whole.statuses(), whole.protocol, whole.gave_up), (cut.statuses(), cut.protocol, cut.gave_up), "{talk:?}");
    }
}
