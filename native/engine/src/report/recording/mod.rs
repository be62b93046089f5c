//! Recordings: copies of what connections carry, on their way to a director that asked for them. Bounded, lossy, and nothing while none is on.
mod copier;
mod filter;
mod queue;

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore, watch};
use trackbed_contract::engine::{Record as Order, RecordedBatch, RecordingEnd};
use trackbed_hbone::{Meter, Tap};

use super::flow::{Known, Record};
use crate::clock;
use filter::Filter;
use queue::Queue;

/// Each may take `queue::WAITING_BYTES` of memory. People look at a few pods at a time.
const MOST: usize = 8;

/// Those that are on.
pub(crate) type Active = Arc<[Arc<Recording>]>;

/// One that is on, or was.
#[derive(Debug)]
pub(crate) struct Recording {
    id: u64,
    filter: Filter,
    queue: Queue,
    filled: Notify,
    /// One permit for each data thread that records for it.
    taken_in: Semaphore,
}

/// What all threads of a worker know of recordings; data threads hear of every change.
#[derive(Debug)]
pub(crate) struct Recordings(watch::Sender<Active>);

/// Ends the recording when it is dropped.
#[derive(Debug)]
pub(crate) struct Begun<'a> {
    all: &'a Recordings,
    recording: Arc<Recording>,
}

impl Default for Recordings {
    fn default() -> Self {
        Self(watch::Sender::new(Active::from([])))
    }
}

impl Recordings {
    pub(crate) fn subscribe(&self) -> watch::Receiver<Active> {
        self.0.subscribe()
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    /// The error is a sentence for the director.
    pub(crate) fn begin(&self, order: &Order) -> Result<Begun<'_>, String> {
        let filter = Filter::new(order)?;
        if order.limit_bytes == 0 || order.limit_milliseconds == 0 {
            return Err("a recording needs a limit of bytes and one of time".to_owned());
        }
        let recording = Arc::new(Recording {
            id: order.id,
            filter,
            queue: Queue::new(order.limit_bytes, order.snap_bytes),
            filled: Notify::new(),
            taken_in: Semaphore::new(0),
        });
        let added = self.0.send_if_modified(|active| {
            let room = active.len() < MOST;
            if room {
                *active = active.iter().chain([&recording]).cloned().collect();
            }
            room
        });
        if added { Ok(Begun { all: self, recording }) } else { Err(format!("this engine has {MOST} recordings already")) }
    }

    /// Once every data thread records for it.
    async fn everywhere(&self, recording: &Recording) {
        let threads = u32::try_from(self.0.receiver_count()).unwrap_or(u32::MAX);
        // It is never closed.
        let _ = recording.taken_in.acquire_many(threads).await;
    }
}

impl Begun<'_> {
    pub(crate) async fn everywhere(&self) {
        self.all.everywhere(&self.recording).await;
    }
}

impl Deref for Begun<'_> {
    type Target = Recording;

    fn deref(&self) -> &Recording {
        &self.recording
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.recording.queue.end(RecordingEnd::Time);
        self.all.0.send_modify(|active| *active = active.iter().filter(|one| !Arc::ptr_eq(one, &self.recording)).cloned().collect());
    }
}

impl Recording {
    /// A data thread has told its connections.
    pub(crate) fn take_in(&self) {
        self.taken_in.add_permits(1);
    }

    /// Whether this connection is one of it, now that bytes may move.
    fn opens(&self, known: &Arc<Known>, meter: &Meter) -> bool {
        let takes = self.filter.takes(known)
            && self.queue.open(known.id, clock::unix_nanoseconds(), || queue::Opening {
                flow: Record::Opened(Arc::clone(known)).encode(),
                sent: meter.sent(),
                received: meter.received(),
            });
        self.tell(takes)
    }

    /// The connection has ended; `closing` encodes its record.
    pub(crate) fn closed(&self, known: &Known, closing: impl FnOnce() -> Vec<u8>) {
        self.tell(self.queue.close(known.id, clock::unix_nanoseconds(), closing));
    }

    /// The connection never opened.
    pub(crate) fn refused(&self, known: &Known, closing: impl FnOnce() -> Vec<u8>) {
        self.tell(self.filter.takes(known) && self.queue.refuse(known.id, clock::unix_nanoseconds(), closing));
    }

    fn tell(&self, something: bool) -> bool {
        if something {
            self.filled.notify_one();
        }
        something
    }

    pub(crate) async fn filled(&self) {
        while self.queue.is_empty() {
            self.filled.notified().await;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn end(&self, why: RecordingEnd) {
        self.queue.end(why);
        self.filled.notify_one();
    }

    /// What waits, up to about a MiB. One with an end is the last.
    pub(crate) fn batch(&self) -> RecordedBatch {
        RecordedBatch { id: self.id, ..self.queue.batch() }
    }
}

/// What copies a connection's bytes into those of the active recordings that want them; None when none does.
pub(crate) fn tap<'a>(active: &Active, connections: impl Iterator<Item = &'a Arc<Known>>, meter: &Meter) -> Option<std::rc::Rc<dyn Tap>> {
    let targets: Vec<_> =
        connections.flat_map(|known| active.iter().filter(|one| one.opens(known, meter)).map(|one| (Arc::clone(one), known.id))).collect();
    (!targets.is_empty()).then(|| std::rc::Rc::new(copier::Copier::new(targets)) as std::rc::Rc<dyn Tap>)
}
