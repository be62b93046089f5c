//! What goes up to the director as telemetry: bounded, the oldest dropped and counted, never waited for.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use trackbed_contract::engine::{Event, ReportBatch};
use trackbed_contract::tables::bounds;

use super::flow::Record;

const CAPACITY: usize = bounds::FLOW_QUEUE as usize;
/// Records of one batch: some 64 KiB on the wire. The stream keeps a buffer of the largest one that it ever sent, for its life.
const BATCH_RECORDS: usize = 128;

#[derive(Debug)]
enum Report {
    Flow(Record),
    /// Boxed: there are few of them, and a full queue is as large as its largest entry.
    Event(Box<Event>),
}

/// Shared by all threads of a worker. The lock is held for one push or one batch, never across a wait.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReportQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Report>,
    /// Since the last batch.
    dropped: u64,
    dropped_total: u64,
}

impl ReportQueue {
    pub(crate) fn record(&self, record: Record) {
        self.push(Report::Flow(record));
    }

    /// A record that is not told at all.
    pub(crate) fn omit(&self) {
        let mut waiting = self.lock();
        waiting.dropped += 1;
        waiting.dropped_total += 1;
    }

    pub(crate) fn event(&self, level: &str, code: &str, pod_uid: &str, message: String) {
        tracing::warn!(target: "event", level, code, pod = pod_uid, "{message}");
        let event = Event {
            time: crate::clock::unix_nanoseconds(),
            level: level.to_owned(),
            code: code.to_owned(),
            pod_uid: pod_uid.to_owned(),
            message,
        };
        self.push(Report::Event(Box::new(event)));
    }

    fn push(&self, record: Report) {
        let mut waiting = self.lock();
        if waiting.records.len() == CAPACITY {
            waiting.records.pop_front();
            waiting.dropped += 1;
            waiting.dropped_total += 1;
        }
        let first = waiting.records.is_empty();
        waiting.records.push_back(record);
        drop(waiting);
        // Whoever empties the queue looks again by itself: waking it costs more than a record.
        if first {
            self.0.filled.notify_one();
        }
    }

    /// Waits until there is something to send.
    pub(crate) async fn filled(&self) {
        while self.lock().records.is_empty() {
            self.0.filled.notified().await;
        }
    }

    /// The oldest records, `None` when there are none and none was dropped.
    pub(crate) fn batch(&self) -> Option<ReportBatch> {
        let mut waiting = self.lock();
        if waiting.records.is_empty() && waiting.dropped == 0 {
            return None;
        }
        let mut batch = ReportBatch { dropped: std::mem::take(&mut waiting.dropped), ..ReportBatch::default() };
        let count = waiting.records.len().min(BATCH_RECORDS);
        let taken: Vec<_> = waiting.records.drain(..count).collect();
        if waiting.records.is_empty() {
            waiting.records.shrink_to(BATCH_RECORDS);
        }
        // No data thread waits while texts are made.
        drop(waiting);
        for report in taken {
            match report {
                Report::Flow(record) => batch.flows.push(record.encode()),
                Report::Event(event) => batch.events.push(*event),
            }
        }
        Some(batch)
    }

    pub(crate) fn dropped_total(&self) -> u64 {
        self.lock().dropped_total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing in the critical sections can leave the queue half changed.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use trackbed_contract::engine::{Direction, Flow};

    use super::*;
    use crate::report::flow::Known;

    #[test]
    fn a_full_queue_drops_the_oldest_and_says_how_many() {
        let queue = ReportQueue::default();
        for id in 0..CAPACITY as u64 + 3 {
            queue.record(Record::Opened(Arc::new(Known::new(id, Direction::Outbound, "pod".into()))));
        }
        let batch = queue.batch().expect("a batch");
        let oldest = Flow::decode(&*batch.flows[0]).expect("a flow");
        assert_eq!((batch.dropped, oldest.id, batch.flows.len()), (3, 3, BATCH_RECORDS));
        assert_eq!(queue.batch().expect("a batch").dropped, 0, "told once");
    }
}
