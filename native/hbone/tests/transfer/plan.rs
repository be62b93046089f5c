//! What the streams of a mix do, drawn from a seed, and how far they are.
use std::cell::Cell;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::Notify;

/// A prime length: nothing that is lost, doubled or swapped lines up again.
const PERIOD: usize = 1_000_003;
static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(11);
    (0..PERIOD).map(|_| random.u8(..)).collect()
});
/// Each way of each stream has its own place in the pattern: a byte of another stream shows.
const APART: usize = 4999;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) index: usize,
    /// Bytes that the client sends, and the server.
    pub(crate) up: usize,
    pub(crate) down: usize,
    /// Who breaks the stream off, after so many bytes of its own.
    pub(crate) reset: Option<(Side, usize)>,
    /// Whose reader stands still until the others have half of what is theirs.
    pub(crate) stands: Option<Side>,
    pub(crate) seed: u64,
}

/// `total` bytes both ways in so many streams: some of one way only, a fifth broken off, a third with a reader that stands still.
pub(crate) fn mix(streams: usize, total: usize, random: &mut fastrand::Rng) -> Vec<Plan> {
    let share = total / streams;
    let mut plans: Vec<_> = (0..streams)
        .map(|index| {
            let up = match random.u8(..8) {
                0 => 0,
                1 => share,
                _ => random.usize(..=share),
            };
            let down = share - up;
            let side = if random.bool() { Side::Client } else { Side::Server };
            let own = if side == Side::Client { up } else { down };
            let reset = (streams > 1 && random.u8(..5) == 0).then(|| (side, random.usize(..=own)));
            let other = if random.bool() { Side::Client } else { Side::Server };
            Plan { index, up, down, reset, stands: (random.u8(..3) == 0).then_some(other), seed: random.u64(..) }
        })
        .collect();
    // Somebody goes on.
    plans[0].stands = None;
    plans[0].reset = None;
    plans
}

/// A slow machine in a debug build.
pub(crate) fn patience(total: usize) -> Duration {
    Duration::from_secs(60 + total as u64 / 2_000_000)
}

impl Plan {
    pub(crate) fn sends(&self, side: Side) -> usize {
        if side == Side::Client { self.up } else { self.down }
    }

    pub(crate) fn receives(&self, side: Side) -> usize {
        if side == Side::Client { self.down } else { self.up }
    }

    /// The bytes at `at` of what `side` sends, as many as lie together.
    pub(crate) fn pattern(&self, side: Side, at: usize, most: usize) -> &'static [u8] {
        let place = (at + APART * (2 * self.index + usize::from(side == Side::Client))) % PERIOD;
        &PATTERN[place..(place + most).min(PERIOD)]
    }

    /// That `bytes` are what the other side sent at `at`.
    pub(crate) fn check(&self, from: Side, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.pattern(from, at, bytes.len());
            let (now, later) = bytes.split_at(expected.len());
            assert!(now == expected, "stream {} from {from:?}: other bytes behind {at}", self.index);
            (at, bytes) = (at + now.len(), later);
        }
    }
}

/// What those who do not stand still have received.
pub(crate) struct Progress {
    received: Cell<usize>,
    wanted: usize,
    moved: Notify,
    all: Cell<u64>,
    /// Streams that our server has not ended yet.
    open: Cell<usize>,
}

impl Progress {
    pub(crate) fn new(plans: &[Plan]) -> Self {
        let ways = plans.iter().flat_map(|plan| [Side::Client, Side::Server].map(|side| (plan, side)));
        let wanted: usize = ways.filter(|(plan, side)| plan.stands != Some(*side)).map(|(plan, side)| plan.receives(side)).sum();
        Self { received: Cell::new(0), wanted: wanted / 2, moved: Notify::new(), all: Cell::new(0), open: Cell::new(plans.len()) }
    }

    /// `count` bytes of the way towards `side` came, or will not come any more (`gone`).
    pub(crate) fn note(&self, plan: &Plan, side: Side, count: usize, gone: usize) {
        self.all.set(self.all.get() + count as u64);
        if plan.stands != Some(side) {
            self.received.set(self.received.get() + count + gone);
            if self.received.get() >= self.wanted {
                self.moved.notify_waiters();
            }
        }
    }

    pub(crate) async fn halfway(&self) {
        while self.received.get() < self.wanted {
            self.moved.notified().await;
        }
    }

    pub(crate) fn served(&self) {
        self.open.set(self.open.get() - 1);
        self.moved.notify_waiters();
    }

    pub(crate) async fn all_served(&self) {
        while self.open.get() > 0 {
            self.moved.notified().await;
        }
    }

    pub(crate) fn all(&self) -> u64 {
        self.all.get()
    }
}
