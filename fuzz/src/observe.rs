//! What passes through a connection: however it is cut, the same is told of it, each request once, and nothing breaks whoever looks.
use std::time::Instant;

use trackbed_observe::{Depth, Exchange, GaveUp, Observer, Protocol, Side};

use crate::script::{Script, cut};

/// Steps of a script: who says the piece that follows, or says nothing more.
const FINISHED: u8 = 0x80;

#[derive(Debug, PartialEq, Eq)]
struct Told {
    exchanges: Vec<(Protocol, Option<u16>, Option<u16>)>,
    protocol: Option<Protocol>,
    name: Option<String>,
    gave_up: Option<GaveUp>,
}

pub fn observe(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(length) = script.byte() else { return };
    let mut talk = Vec::new();
    while let Some(step) = script.byte() {
        let side = if step & 1 == 0 { Side::Client } else { Side::Server };
        talk.push((side, if step & FINISHED == 0 { script.piece() } else { None }));
    }
    for depth in [Depth::Requests, Depth::Protocol] {
        let whole = told(&talk, depth, &[]);
        assert_eq!(told(&talk, depth, &[0]), whole, "byte by byte");
        assert_eq!(told(&talk, depth, &[length, length / 2]), whole, "in pieces of {length} and half of it");
        assert!(depth == Depth::Requests || whole.exchanges.is_empty(), "nobody asked for requests");
    }
}

fn told(talk: &[(Side, Option<&[u8]>)], depth: Depth, sizes: &[u8]) -> Told {
    let (mut observer, now, mut exchanges) = (Observer::new(depth), Instant::now(), Vec::new());
    let mut tell = |one: Exchange| exchanges.push((one.protocol, one.status, one.grpc_status));
    let mut offsets = [0, 0];
    for (side, piece) in talk {
        let Some(piece) = piece else {
            observer.finished(*side, now, &mut tell);
            continue;
        };
        let offset = &mut offsets[usize::from(*side == Side::Server)];
        for part in cut(piece, sizes) {
            observer.feed(*side, *offset, part, now, &mut tell);
            *offset += part.len() as u64;
        }
    }
    observer.end(now, &mut tell);
    let name = observer.server_name().map(str::to_owned);
    Told { exchanges, protocol: observer.protocol(), name, gave_up: observer.gave_up() }
}
