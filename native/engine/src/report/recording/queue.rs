//! What a recording has copied and its director has not taken yet: marks of connections are kept, bytes only as far as there is room.
use std::collections::{HashSet, VecDeque};
use std::io::IoSlice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use trackbed_contract::engine::{
    Recorded, RecordedBatch, RecordedChunk, RecordedEnd, RecordedFin, RecordedOpening, RecordingEnd, recorded::What,
};

/// Payload that waits for the director: half a second at the rate below, or a burst of so much without a loss.
pub(super) const WAITING_BYTES: usize = 8 << 20;
/// Copied in a second at most: twice as much cost the engine 15 % more for each byte that it carried at full rate (bench/recording.ts).
const BYTES_PER_SECOND: u64 = 16 << 20;
/// Connections that one recording follows, each with at most four marks in the queue.
const MOST_CONNECTIONS: usize = 16_384;
/// Payload and items of one batch, below the limit of a message with what is written around them.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ITEMS: usize = 1024;

/// Shared by the data threads and the one that sends. The lock is held for one copy or one batch, never across a wait.
#[derive(Debug)]
pub(super) struct Queue {
    limit: u64,
    snap: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Recorded>,
    /// Payload in them.
    bytes: usize,
    /// Connections that were opened and not closed.
    connections: HashSet<u64>,
    copied: u64,
    /// Bytes that may be copied now, as of `at`.
    allowance: u64,
    at: i64,
    lost_bytes: u64,
    lost_connections: u64,
    end: Option<RecordingEnd>,
}

pub(super) struct Opening {
    pub(super) flow: Vec<u8>,
    pub(super) sent: u64,
    pub(super) received: u64,
}

impl Queue {
    /// `snap`: 0 = everything.
    pub(super) fn new(limit: u64, snap: u32) -> Self {
        let snap = if snap == 0 { usize::MAX } else { snap as usize };
        Self { limit, snap, waiting: Mutex::new(Waiting { allowance: WAITING_BYTES as u64, ..Waiting::default() }) }
    }

    /// True when the connection is recorded, be it since before.
    pub(super) fn open(&self, connection: u64, time: i64, opening: impl FnOnce() -> Opening) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() || waiting.connections.contains(&connection) {
            return waiting.end.is_none();
        }
        if waiting.connections.len() >= MOST_CONNECTIONS || waiting.items.len() >= 4 * MOST_CONNECTIONS {
            waiting.lost_connections += 1;
            return false;
        }
        waiting.connections.insert(connection);
        let Opening { flow, sent, received } = opening();
        waiting.push(connection, time, What::Opening(RecordedOpening { flow, sent, received }));
        true
    }

    pub(super) fn close(&self, connection: u64, time: i64, closing: impl FnOnce() -> Vec<u8>) -> bool {
        let mut waiting = self.lock();
        let known = waiting.connections.remove(&connection) && waiting.end.is_none();
        if known {
            waiting.push(connection, time, What::Closing(closing()));
        }
        known
    }

    /// One that was never open.
    pub(super) fn refuse(&self, connection: u64, time: i64, closing: impl FnOnce() -> Vec<u8>) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return false;
        }
        if waiting.items.len() >= 4 * MOST_CONNECTIONS {
            waiting.lost_connections += 1;
            return false;
        }
        waiting.push(connection, time, What::Closing(closing()));
        true
    }

    pub(super) fn finish(&self, connection: u64, time: i64, from: RecordedEnd, offset: u64) -> bool {
        let mut waiting = self.lock();
        let known = waiting.end.is_none() && waiting.connections.contains(&connection);
        if known {
            waiting.push(connection, time, What::Fin(RecordedFin { from: from.into(), offset }));
        }
        known
    }

    /// True when there is something new to send.
    pub(super) fn copy(&self, connection: u64, time: i64, from: RecordedEnd, offset: u64, pieces: &[IoSlice<'_>], count: usize) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() || !waiting.connections.contains(&connection) {
            return false;
        }
        let left = self.limit - waiting.copied;
        let wanted = count.min(self.snap).min(usize::try_from(left).unwrap_or(usize::MAX));
        if waiting.bytes + wanted > WAITING_BYTES || !waiting.may_copy(wanted as u64, time) {
            waiting.lost_bytes += count as u64;
            return false;
        }
        waiting.bytes += wanted;
        waiting.copied += wanted as u64;
        // What is beyond the limit is not told as moved either: the recording ends before it.
        let length = if wanted as u64 == left { wanted } else { count };
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        waiting.push(connection, time, What::Chunk(RecordedChunk { from: from.into(), offset, payload: gather(pieces, wanted), length }));
        if waiting.copied == self.limit {
            waiting.end = Some(RecordingEnd::Bytes);
        }
        true
    }

    /// The first reason is the one that counts.
    pub(super) fn end(&self, why: RecordingEnd) {
        self.lock().end.get_or_insert(why);
    }

    /// Nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        waiting.items.is_empty() && waiting.end.is_none()
    }

    pub(super) fn batch(&self) -> RecordedBatch {
        let mut waiting = self.lock();
        let mut bytes = 0;
        let mut recorded = Vec::new();
        while bytes < BATCH_BYTES && recorded.len() < BATCH_ITEMS {
            let Some(item) = waiting.items.pop_front() else { break };
            if let Some(What::Chunk(chunk)) = &item.what {
                bytes += chunk.payload.len();
            }
            recorded.push(item);
        }
        waiting.bytes -= bytes;
        let end = waiting.end.filter(|_| waiting.items.is_empty()).unwrap_or(RecordingEnd::None);
        RecordedBatch {
            recorded,
            lost_bytes: std::mem::take(&mut waiting.lost_bytes),
            lost_connections: std::mem::take(&mut waiting.lost_connections),
            end: end.into(),
            ..RecordedBatch::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in the critical sections can leave the queue half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(&mut self, connection: u64, time: i64, what: What) {
        self.items.push_back(Recorded { connection, time, what: Some(what) });
    }

    fn may_copy(&mut self, count: u64, now: i64) -> bool {
        let passed = u64::try_from(now.saturating_sub(self.at)).unwrap_or_default();
        let earned = u64::try_from(u128::from(passed) * u128::from(BYTES_PER_SECOND) / 1_000_000_000).unwrap_or(u64::MAX);
        if earned > 0 {
            self.allowance = self.allowance.saturating_add(earned).min(WAITING_BYTES as u64);
            self.at = now;
        }
        let may = count <= self.allowance;
        if may {
            self.allowance -= count;
        }
        may
    }
}

fn gather(pieces: &[IoSlice<'_>], count: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(count);
    for piece in pieces {
        let some = piece.len().min(count - payload.len());
        payload.extend_from_slice(&piece[..some]);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn opened(limit: u64, snap: u32) -> Queue {
        let queue = Queue::new(limit, snap);
        assert!(queue.open(1, 0, || Opening { flow: Vec::new(), sent: 0, received: 0 }));
        queue
    }

    fn chunks(batch: &RecordedBatch) -> Vec<(u64, Vec<u8>, u32)> {
        let chunk = |one: &Recorded| match &one.what {
            Some(What::Chunk(chunk)) => Some((chunk.offset, chunk.payload.clone(), chunk.length)),
            _ => None,
        };
        batch.recorded.iter().filter_map(chunk).collect()
    }

    #[test]
    fn bytes_are_copied_over_pieces_and_up_to_the_count() {
        let queue = opened(100, 0);
        assert!(queue.copy(1, 0, RecordedEnd::Client, 7, &[IoSlice::new(b"ab"), IoSlice::new(b"cdef")], 5));
        assert_eq!(chunks(&queue.batch()), [(7, b"abcde".to_vec(), 5)]);
        assert!(!queue.copy(2, 0, RecordedEnd::Client, 0, &[IoSlice::new(b"ab")], 2), "of a connection that is not recorded");
    }

    #[test]
    fn it_ends_exactly_at_its_limit_and_says_so_behind_the_last_byte() {
        let queue = opened(5, 0);
        assert!(queue.copy(1, 0, RecordedEnd::Client, 0, &[IoSlice::new(b"abc")], 3));
        assert!(queue.copy(1, 0, RecordedEnd::Server, 0, &[IoSlice::new(b"defg")], 4));
        assert!(!queue.copy(1, 0, RecordedEnd::Client, 3, &[IoSlice::new(b"h")], 1));
        assert!(!queue.close(1, 0, || unreachable!("it is over")));
        let batch = queue.batch();
        assert_eq!(chunks(&batch), [(0, b"abc".to_vec(), 3), (0, b"de".to_vec(), 2)]);
        assert_eq!((batch.end(), batch.lost_bytes), (RecordingEnd::Bytes, 0));
    }

    #[test]
    fn a_snapped_chunk_tells_its_length() {
        let queue = opened(100, 2);
        assert!(queue.copy(1, 0, RecordedEnd::Client, 0, &[IoSlice::new(b"abcdef")], 6));
        assert_eq!(chunks(&queue.batch()), [(0, b"ab".to_vec(), 6)]);
    }

    #[test]
    fn what_nobody_takes_is_lost_and_counted_and_marks_are_kept() {
        let queue = opened(u64::MAX, 0);
        let turn = vec![0; 256 << 10];
        let mut time = 0;
        for index in 0..40 {
            time += SECOND; // the rate is not what limits
            queue.copy(1, time, RecordedEnd::Client, index * turn.len() as u64, &[IoSlice::new(&turn)], turn.len());
        }
        assert!(queue.finish(1, time, RecordedEnd::Client, 0) && queue.close(1, time, Vec::new));
        let (mut got, mut lost, mut items) = (0, 0, 0);
        loop {
            let batch = queue.batch();
            if batch.recorded.is_empty() {
                break;
            }
            got += chunks(&batch).iter().map(|(_, payload, _)| payload.len()).sum::<usize>();
            lost += batch.lost_bytes;
            items += batch.recorded.len();
        }
        assert_eq!((got, lost), (WAITING_BYTES, (40 * turn.len() - WAITING_BYTES) as u64));
        assert_eq!(items, 1 + 32 + 2, "opening, chunks, FIN and closing");
    }

    #[test]
    fn no_more_is_copied_in_a_second_than_its_rate() {
        let queue = opened(u64::MAX, 0);
        let turn = vec![0; 64 << 10];
        let mut copied = 0;
        // A second of it, at twenty times the rate.
        for index in 0..5120 {
            if queue.copy(1, SECOND * index / 5120, RecordedEnd::Client, 0, &[IoSlice::new(&turn)], turn.len()) {
                copied += turn.len() as u64;
            }
            while !queue.is_empty() {
                queue.batch();
            }
        }
        let most = BYTES_PER_SECOND + WAITING_BYTES as u64;
        assert!((BYTES_PER_SECOND..=most).contains(&copied), "{copied}");
    }
}
