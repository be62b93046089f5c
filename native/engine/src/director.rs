//! The two streams to the director: opened, kept, and opened again with a jittered back-off.
//!
//! Losing them changes nothing in the data path; whoever holds the other ends of the channels learns of it and goes on.
mod line;
mod recorder;

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::poll_fn;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use trackbed_contract::engine::director_client::DirectorClient;
use trackbed_contract::engine::{FromEngine, ReportBatch, ToEngine, from_engine, to_engine};
use trackbed_contract::tables::{bounds, errors};

use crate::contract::{Breach, Conversation};
use crate::worker::shared::Shared;
pub(crate) use line::Line;
use recorder::Recordings;

const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// Messages on their way to the director. When it is full the director has stopped reading; the stream is given up then, and the next
/// Hello says everything again.
const OUTBOX: usize = 4096;
/// Messages of the director that the control loop has not taken yet; a full inbox stops reading (back-pressure), which the director notices.
const INBOX: usize = 64;
/// Flows are merged for this long, so that a burst of connections is one message.
const BATCH_INTERVAL: Duration = Duration::from_millis(100);
const COUNTERS_INTERVAL: Duration = Duration::from_secs(5);
/// Nobody looks more often; what is counted here goes to days of history.
const EDGES_INTERVAL: Duration = Duration::from_secs(2);
/// Edges of one batch: some 64 KiB on the wire, as for flows.
const BATCH_EDGES: usize = 256;
const BATCHES_IN_FLIGHT: usize = 4;
/// Batches of one interval: with 128 records each, room for the flows of 5,000 connections a second.
const BATCHES_A_TURN: usize = 8;

/// What the control loop hears.
#[derive(Debug)]
pub(crate) enum FromDirector {
    /// A stream is open and waits for Hello.
    Attached(Outbox),
    /// One that keeps to the contract.
    Message(to_engine::Message),
    Detached(String),
}

/// Where the control loop puts its messages while a stream is open.
#[derive(Debug, Clone)]
pub(crate) struct Outbox(mpsc::Sender<FromEngine>);

impl Outbox {
    /// False when the stream is gone or stuck: everything is said again with the next Hello.
    pub(crate) fn send(&self, message: from_engine::Message) -> bool {
        self.0.try_send(FromEngine { message: Some(message) }).is_ok()
    }
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    Closed,
    Failed(String),
    /// We closed it. A back-off that has grown is kept: the next stream of this director is likely to end the same way.
    Broken(Breach),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Closed => f.write_str("the director closed the stream"),
            End::Failed(reason) => f.write_str(reason),
            End::Broken(breach) => breach.fmt(f),
        }
    }
}

/// Keeps a stream open for the life of the process.
pub(crate) fn attach(line: Line, shared: Arc<Shared>) -> mpsc::Receiver<FromDirector> {
    let (inbox, messages) = mpsc::channel(INBOX);
    tokio::spawn(async move {
        let (mut delay, mut told) = (FIRST_DELAY, None);
        while !inbox.is_closed() {
            let mut heard = false;
            let end = one_stream(&line, &inbox, &shared, &mut heard).await;
            match &end {
                End::Broken(breach) => tell(breach, &mut told, &shared),
                End::Closed | End::Failed(_) if heard => (delay, told) = (FIRST_DELAY, None),
                End::Closed | End::Failed(_) => {}
            }
            let _ = inbox.send(FromDirector::Detached(end.to_string())).await;
            tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    });
    messages
}

/// An operator learns of another version once, not at every attempt.
fn tell(breach: &Breach, told: &mut Option<u32>, shared: &Shared) {
    match *breach {
        Breach::Version { theirs } if *told == Some(theirs) => {}
        Breach::Version { theirs } => {
            *told = Some(theirs);
            shared.reports.event("error", errors::CONTRACT_VERSION, "", breach.to_string());
        }
        Breach::Malformed(_) => tracing::error!(target: "director", %breach, "the stream is closed"),
    }
}

/// `heard` becomes true with the first message that may be obeyed.
async fn one_stream(line: &Line, inbox: &mpsc::Sender<FromDirector>, shared: &Arc<Shared>, heard: &mut bool) -> End {
    let channel = match line.connect().await {
        Ok(channel) => channel,
        Err(reason) => return End::Failed(reason),
    };
    let limit = bounds::GRPC_MESSAGE_BYTES as usize;
    let mut client = DirectorClient::new(channel).max_decoding_message_size(limit).max_encoding_message_size(limit);
    let (sender, mut outbox) = mpsc::channel(OUTBOX);
    let ends = || End::Failed("the worker ends".to_owned());
    // The director sees Hello only if it is queued before the call is answered: the control loop gets the outbox first.
    if inbox.send(FromDirector::Attached(Outbox(sender))).await.is_err() {
        return ends();
    }
    let call = match line.call(poll_fn(move |context| outbox.poll_recv(context))) {
        Ok(call) => call,
        Err(reason) => return End::Failed(reason),
    };
    let mut stream = match client.attach(call).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return End::Failed(status_text(&status)),
    };
    let _reporting = AbortOnDrop(tokio::spawn(report(client.clone(), line.clone(), Arc::clone(shared))));
    let mut conversation = Conversation::default();
    let mut recordings = Recordings::default();
    loop {
        let message = match stream.message().await {
            Ok(Some(ToEngine { message })) => conversation.accept(message),
            Ok(None) => return End::Closed,
            Err(status) => return End::Failed(status_text(&status)),
        };
        match message {
            Ok(to_engine::Message::Record(order)) => {
                recordings.begin(client.clone(), line.clone(), Arc::clone(shared), order);
            }
            Ok(to_engine::Message::StopRecord(order)) => recordings.stop(order.id),
            Ok(message) => {
                *heard = true;
                if inbox.send(FromDirector::Message(message)).await.is_err() {
                    return ends();
                }
            }
            Err(breach) => return End::Broken(breach),
        }
    }
}

/// Telemetry of this stream's life. An error here ends reporting only until the next attach.
async fn report(mut client: DirectorClient<Channel>, line: Line, shared: Arc<Shared>) {
    let (sender, mut batches) = mpsc::channel::<ReportBatch>(BATCHES_IN_FLIGHT);
    let edges = sender.clone();
    let count = async {
        loop {
            tokio::time::sleep(EDGES_INTERVAL).await;
            // Taken when there is room: while nobody reads they are added to.
            let Ok(room) = edges.reserve().await else { return };
            drop(room);
            let mut all = shared.edges.take();
            while !all.is_empty() {
                let rest = all.split_off(all.len().min(BATCH_EDGES));
                if edges.send(ReportBatch { edges: all, ..ReportBatch::default() }).await.is_err() {
                    return;
                }
                all = rest;
            }
        }
    };
    let fill = async {
        loop {
            // Without flows the counters still go up now and then.
            let _ = tokio::time::timeout(COUNTERS_INTERVAL, shared.reports.filled()).await;
            tokio::time::sleep(BATCH_INTERVAL).await;
            let mut counters = Some(crate::report::counters(&shared));
            for _ in 0..BATCHES_A_TURN {
                // Room first, then the batch: what cannot be sent stays in the queue, where the oldest is dropped.
                let Ok(room) = sender.reserve().await else { return };
                let batch = shared.reports.batch();
                if batch.is_none() && counters.is_none() {
                    break;
                }
                room.send(ReportBatch { counters: counters.take().unwrap_or_default(), ..batch.unwrap_or_default() });
            }
        }
    };
    let call = match line.call(poll_fn(move |context| batches.poll_recv(context))) {
        Ok(call) => call,
        Err(reason) => return tracing::debug!(target: "director", reason, "nothing is reported on this stream"),
    };
    tokio::select! {
        () = fill => {}
        () = count => {}
        end = client.report(call) => if let Err(status) = end {
            tracing::debug!(target: "director", reason = status_text(&status), "report stream ended");
        }
    }
}

fn status_text(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
