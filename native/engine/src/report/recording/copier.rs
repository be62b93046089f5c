//! What a recorded connection carries, copied into the queues of its recordings.
use std::cell::Cell;
use std::io::IoSlice;
use std::sync::Arc;

use trackbed_contract::engine::RecordedEnd;
use trackbed_hbone::{Side, Tap};

use super::Recording;
use crate::clock;

/// Each with the number that the connection has there: a relay between two pods is one for each of them.
#[derive(Debug)]
pub(super) struct Copier {
    targets: Vec<(Arc<Recording>, u64)>,
    finished: [Cell<bool>; 2],
}

impl Copier {
    pub(super) fn new(targets: Vec<(Arc<Recording>, u64)>) -> Self {
        Self { targets, finished: Default::default() }
    }
}

impl Tap for Copier {
    fn moved(&self, from: Side, offset: u64, pieces: &[IoSlice<'_>], count: usize) -> bool {
        let now = clock::unix_nanoseconds();
        for (recording, id) in &self.targets {
            recording.tell(recording.queue.copy(*id, now, end(from), offset, pieces, count));
        }
        true
    }

    fn finished(&self, from: Side, offset: u64) {
        if self.finished[usize::from(from == Side::Server)].replace(true) {
            return;
        }
        let now = clock::unix_nanoseconds();
        for (recording, id) in &self.targets {
            recording.tell(recording.queue.finish(*id, now, end(from), offset));
        }
    }
}

fn end(side: Side) -> RecordedEnd {
    match side {
        Side::Client => RecordedEnd::Client,
        Side::Server => RecordedEnd::Server,
    }
}
