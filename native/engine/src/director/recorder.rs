//! One recording, from the director's order to its end: the call that carries it is its life.
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::Channel;
use trackbed_contract::engine::director_client::DirectorClient;
use trackbed_contract::engine::{Record, RecordedBatch, RecordingEnd};

use super::{Line, status_text};
use crate::worker::shared::Shared;

/// What is copied is merged for this long, so that a conversation of small messages is not a message each.
const BATCH_INTERVAL: Duration = Duration::from_millis(20);
/// A MiB each: enough to keep the stream busy while the next one is made.
const BATCHES_IN_FLIGHT: usize = 2;
/// For the director to take the last batch, after which the call is given up.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) async fn record(mut client: DirectorClient<Channel>, line: Line, shared: Arc<Shared>, order: Record) {
    let (sender, mut batches) = mpsc::channel(BATCHES_IN_FLIGHT);
    let call = match line.call(poll_fn(move |context| batches.poll_recv(context))) {
        Ok(call) => call,
        Err(reason) => return tracing::warn!(target: "recording", reason, "cannot begin"),
    };
    let id = order.id;
    tracing::info!(target: "recording", id, pods = ?order.pod_uids, bytes = order.limit_bytes, milliseconds = order.limit_milliseconds, "begins");
    let ended = tokio::select! {
        // The director has enough, or is gone.
        end = client.recorded(call) => end.map_or_else(|status| status_text(&status), |_| "by the director".to_owned()),
        end = fill(sender, &shared, &order) => end,
    };
    tracing::info!(target: "recording", id, ended, "over");
}

/// Sends until the end, and until the last batch is with the director.
async fn fill(sender: mpsc::Sender<RecordedBatch>, shared: &Shared, order: &Record) -> String {
    let (id, limit) = (order.id, Duration::from_millis(order.limit_milliseconds.into()));
    let end = match shared.recordings.begin(order) {
        Err(reason) => {
            let refused = RecordedBatch { id, end: RecordingEnd::Refused.into(), reason: reason.clone(), ..RecordedBatch::default() };
            let _ = sender.send(refused).await;
            reason
        }
        Ok(recording) => {
            recording.everywhere().await;
            let _ = sender.send(RecordedBatch { id, end: RecordingEnd::None.into(), ..RecordedBatch::default() }).await;
            let deadline = Instant::now() + limit;
            loop {
                // A recording that always has something to send is over at its time all the same.
                let _ = timeout_at(deadline, recording.filled()).await;
                if Instant::now() >= deadline {
                    recording.end(RecordingEnd::Time);
                }
                // Room first, then the batch: what cannot be sent stays in the queue, whose bound holds.
                let Ok(room) = sender.reserve().await else { break "the call ended".to_owned() };
                let batch = recording.batch();
                let end = batch.end();
                room.send(batch);
                if end != RecordingEnd::None {
                    break end.as_str_name().to_owned();
                }
                if recording.is_empty() {
                    sleep(BATCH_INTERVAL).await;
                }
            }
        }
    };
    drop(sender);
    sleep(FAREWELL).await;
    end
}
