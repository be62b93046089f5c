//! The recordings of one stream of the director: each from its order to its end, by a call that is its life.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::poll_fn;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use trackbed_contract::engine::director_client::DirectorClient;
use trackbed_contract::engine::{Record, RecordedBatch, RecordingEnd};

use super::{Line, status_text};
use crate::report::recording::Begun;
use crate::worker::shared::Shared;

/// What is copied is merged for this long, so that a conversation of small messages is not a message each.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);
/// A MiB each: enough to keep the stream busy while the next one is made.
const BATCHES_IN_FLIGHT: usize = 2;
/// For the director to take the last batch, after which the call is given up.
const FAREWELL: Duration = Duration::from_secs(5);

/// They end with the stream that they were ordered by.
#[derive(Debug, Default)]
pub(super) struct Recordings {
    running: JoinSet<u64>,
    stops: HashMap<u64, oneshot::Sender<()>>,
}

impl Recordings {
    pub(super) fn begin(&mut self, client: DirectorClient<Channel>, line: Line, shared: Arc<Shared>, order: Record) {
        while let Some(ended) = self.running.try_join_next() {
            // One that panicked keeps its place in the table until the stream ends: it is a few bytes.
            let _ = ended.map(|id| self.stops.remove(&id));
        }
        let (sender, stop) = oneshot::channel();
        self.stops.insert(order.id, sender);
        self.running.spawn(record(client, line, shared, order, stop));
    }

    /// Nothing of one that is over already.
    pub(super) fn stop(&mut self, id: u64) {
        if let Some(stop) = self.stops.remove(&id) {
            let _ = stop.send(());
        }
    }
}

async fn record(mut client: DirectorClient<Channel>, line: Line, shared: Arc<Shared>, order: Record, stop: oneshot::Receiver<()>) -> u64 {
    let (sender, mut batches) = mpsc::channel(BATCHES_IN_FLIGHT);
    let id = order.id;
    match line.call(poll_fn(move |context| batches.poll_recv(context))) {
        Err(reason) => tracing::warn!(target: "recording", id, reason, "cannot begin"),
        Ok(call) => {
            let (pods, bytes, milliseconds) = (&order.pod_uids, order.limit_bytes, order.limit_milliseconds);
            tracing::info!(target: "recording", id, ?pods, bytes, milliseconds, "begins");
            let ended = tokio::select! {
                // The director has enough, or is gone.
                end = client.recorded(call) => end.map_or_else(|status| status_text(&status), |_| "by the director".to_owned()),
                end = fill(sender, &shared, &order, stop) => end,
            };
            tracing::info!(target: "recording", id, ended, "over");
        }
    }
    id
}

/// Sends until the end, and until the last batch is with the director.
async fn fill(sender: mpsc::Sender<RecordedBatch>, shared: &Shared, order: &Record, stop: oneshot::Receiver<()>) -> String {
    let id = order.id;
    let end = match shared.recordings.begin(order) {
        Err(reason) => {
            let refused = RecordedBatch { id, end: RecordingEnd::Refused.into(), reason: reason.clone(), ..RecordedBatch::default() };
            let _ = sender.send(refused).await;
            reason
        }
        Ok(recording) => {
            recording.everywhere().await;
            let _ = sender.send(RecordedBatch { id, end: RecordingEnd::None.into(), ..RecordedBatch::default() }).await;
            send_all(&sender, &recording, Instant::now() + Duration::from_millis(order.limit_milliseconds.into()), stop).await
        }
    };
    drop(sender);
    sleep(FAREWELL).await;
    end
}

async fn send_all(
    sender: &mpsc::Sender<RecordedBatch>,
    recording: &Begun<'_>,
    deadline: Instant,
    mut stop: oneshot::Receiver<()>,
) -> String {
    let mut stopped = false;
    loop {
        tokio::select! {
            // Looked at first, as the deadline is below: a recording that always has something to send is over in time all the same.
            biased;
            _ = &mut stop, if !stopped => {
                stopped = true;
                recording.end(RecordingEnd::Stopped);
            }
            _ = timeout_at(deadline, recording.filled()) => {}
        }
        if Instant::now() >= deadline {
            recording.end(RecordingEnd::Time);
        }
        // Room first, then the batch: what cannot be sent stays in the queue, whose bound holds.
        let Ok(room) = sender.reserve().await else { return "the call ended".to_owned() };
        let batch = recording.batch();
        let end = batch.end();
        room.send(batch);
        if end != RecordingEnd::None {
            return end.as_str_name().to_owned();
        }
        if recording.is_empty() {
            sleep(BATCH_INTERVAL).await;
        }
    }
}
