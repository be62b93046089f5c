//! What a tunnel keeps about one of its streams: the application's socket while a pump runs, and what has not reached it yet.
use std::io::IoSlice;
use std::ops::Range;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::backlog::Backlog;
use crate::h2::{Answered, Reason};
use crate::meter::{ClosedBy, Meter, Side};
use crate::socket::Socket;

/// Payload of one stream within `BULK_TIME` that makes it a bulk stream: 0.5 Gbit/s.
const BULK: usize = 64 << 20;
const BULK_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Leg {
    pub(crate) port: Option<Port>,
    pub(crate) backlog: Backlog,
    /// The peer sends nothing more.
    pub(crate) fin: bool,
    /// The stream ended otherwise, perhaps after the peer's FIN.
    pub(crate) gone: Option<Gone>,
    /// The server's answer, until the client takes it.
    pub(crate) answer: Option<Box<Answered>>,
    /// Since when it waits for the tunnel, in turns, and whether it stands in the queue.
    pub(crate) ticket: Option<u64>,
    pub(crate) queued: bool,
    /// Of a client's words that stay in its socket, how many the peer was told before its answer.
    pub(crate) early: usize,
    /// Whoever reads and writes it is in this process and cannot be frozen.
    pub(crate) served: bool,
    waker: Option<Waker>,
    pub(crate) bulk: Bulk,
}

/// A socket that is carried.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) socket: Socket,
    pub(crate) meter: Rc<Meter>,
    /// The side that the socket is.
    pub(crate) side: Side,
    /// It could not be written to any more.
    pub(crate) broken: bool,
    /// The last read filled a whole record: the next one takes as many as fit.
    pub(crate) streaming: bool,
    pub(crate) start: Instant,
    /// As its pump left them: here a freezer finds them.
    pub(crate) ends: Ends,
}

/// How far the ends of a carried stream are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(crate) struct Ends {
    /// FIN went from the socket into the stream.
    pub(crate) up_done: bool,
    /// FIN went from the stream to the socket.
    pub(crate) down_done: bool,
    pub(crate) socket_gone: bool,
    pub(crate) stream_gone: bool,
    /// The tunnel broke.
    pub(crate) lost: bool,
    pub(crate) closed_by: Option<ClosedBy>,
}

/// How a stream ends that does not end in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    Reset(Reason),
    /// The tunnel broke.
    Lost,
}

#[derive(Debug, Default)]
pub(crate) struct Bulk {
    pub(crate) bytes: usize,
    pub(crate) since: Option<Instant>,
}

impl Leg {
    /// Bytes that are counted before the time is looked at, and one turn more.
    pub(crate) const MOST_COUNTED: usize = 2 * BULK;

    pub(crate) fn attend(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Payload of the peer, at these places of `input`. Returns how much of it the socket took at once; the rest is kept.
    pub(crate) fn deliver(&mut self, input: &[u8], ranges: &[Range<usize>]) -> usize {
        let mut slices = [IoSlice::new(&[]); PIECES];
        for (slice, range) in slices.iter_mut().zip(ranges) {
            *slice = IoSlice::new(&input[range.clone()]);
        }
        let mut taken = 0;
        if let Some(port) = self.port.as_mut().filter(|port| self.backlog.is_empty() && !port.broken) {
            match port.socket.write(&slices[..ranges.len()]) {
                Ok(count) => {
                    taken = count;
                    port.meter.copy(port.side.other(), &slices[..ranges.len()], count);
                    port.meter.count(port.side.other(), count);
                }
                Err(_) => port.broken = true,
            }
        }
        let mut skip = taken;
        for range in ranges {
            let gone = skip.min(range.len());
            skip -= gone;
            self.backlog.push(&input[range.start + gone..range.end]);
        }
        if !self.backlog.is_empty() {
            self.wake();
        }
        taken
    }

    /// Counts payload either way; true when the stream moves so much that no other should be beside it.
    pub(crate) fn is_bulk_after(&mut self, bytes: usize, now: impl Fn() -> Instant) -> bool {
        // From its first byte: whoever comes while the first of it moves should find another tunnel too.
        let since = *self.bulk.since.get_or_insert_with(&now);
        self.bulk.bytes += bytes;
        if self.bulk.bytes < BULK {
            return false;
        }
        let now = now();
        self.bulk = Bulk { bytes: 0, since: Some(now) };
        now.duration_since(since) < BULK_TIME
    }
}

/// Pieces of payload that are written by one system call.
pub(crate) const PIECES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_bulk_once_it_has_moved_64_mib_within_a_second_also_its_first() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut leg = Leg::default();
        assert!(!leg.is_bulk_after(BULK / 2, || start));
        assert!(leg.is_bulk_after(BULK / 2, || after(999)));
        assert!(!leg.is_bulk_after(BULK, || after(1999)), "a second after the last");
        assert!(leg.is_bulk_after(BULK, || after(2998)));
    }

    #[test]
    fn a_stream_that_was_silent_for_long_is_bulk_after_twice_as_much() {
        let start = Instant::now();
        let later = start + Duration::from_mins(1);
        let mut leg = Leg::default();
        assert!(!leg.is_bulk_after(1, || start));
        assert!(!leg.is_bulk_after(BULK, || later));
        assert!(leg.is_bulk_after(BULK, || later));
    }
}
