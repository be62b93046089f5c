//! A connection as two ends talk over it, given to an observer in pieces.
#![allow(dead_code)] // each test file uses its part
use std::time::Instant;

use trackbed_observe::{Depth, Exchange, GaveUp, Observer, Protocol, Side};

#[derive(Debug, Clone, Default)]
pub(crate) struct Talk(Vec<(Side, Option<Vec<u8>>)>);

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) gave_up: Option<GaveUp>,
    pub(crate) over: bool,
}

impl Talk {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn client(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Side::Client, bytes.as_ref())
    }

    pub(crate) fn server(self, bytes: impl AsRef<[u8]>) -> Self {
        self.says(Side::Server, bytes.as_ref())
    }

    fn says(mut self, side: Side, bytes: &[u8]) -> Self {
        self.0.push((side, Some(bytes.to_vec())));
        self
    }

    pub(crate) fn finished(mut self, side: Side) -> Self {
        self.0.push((side, None));
        self
    }
}

impl Seen {
    pub(crate) fn statuses(&self) -> Vec<Option<u16>> {
        self.exchanges.iter().map(|exchange| exchange.status).collect()
    }
}

/// Each thing that is said in pieces of that size.
pub(crate) fn told(talk: &Talk, depth: Depth, piece: usize) -> Seen {
    told_by(talk, depth, || piece)
}

pub(crate) fn told_by(talk: &Talk, depth: Depth, mut piece: impl FnMut() -> usize) -> Seen {
    let (mut observer, now, mut exchanges) = (Observer::new(depth), Instant::now(), Vec::new());
    let mut offsets = [0_u64; 2];
    for (side, said) in &talk.0 {
        let Some(bytes) = said else {
            observer.finished(*side, now, &mut |exchange| exchanges.push(exchange));
            continue;
        };
        let offset = &mut offsets[usize::from(*side == Side::Server)];
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(piece().min(rest.len()));
            observer.feed(*side, *offset, part, now, &mut |exchange| exchanges.push(exchange));
            *offset += part.len() as u64;
            rest = behind;
        }
    }
    let over = observer.is_over();
    observer.end(now, &mut |exchange| exchanges.push(exchange));
    Seen { exchanges, protocol: observer.protocol(), gave_up: observer.gave_up(), over }
}
