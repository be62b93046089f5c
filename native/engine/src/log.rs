//! Log lines that never make a data thread wait: a bounded queue and one thread that writes.
mod line;

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::cli::LogFormat;

/// 1 s of access lines at 4,000 closes/s; when a slow reader of standard error lets it fill, new lines are dropped and counted.
const QUEUE_LINES: usize = 4096;

/// While lines gather nobody is woken for them; a person sees no difference.
const GATHER: Duration = Duration::from_millis(50);
/// Some two hundred lines: what gathers in that time at 4,000 a second.
const KEPT_BYTES: usize = 128 << 10;

/// Lines that were dropped because the queue was full.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Changes the filter of a running process.
#[derive(Debug, Clone)]
pub(crate) struct LogLevel(reload::Handle<Targets, Registry>);

impl LogLevel {
    pub(crate) fn set(&self, filter: &str) -> Result<(), String> {
        let parsed = parse(filter)?;
        self.0.reload(parsed).map_err(|error| error.to_string())
    }
}

/// Lines dropped since the process started.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

pub(crate) fn start(filter: &str, format: LogFormat) -> io::Result<LogLevel> {
    let (lines, queue) = sync_channel(QUEUE_LINES);
    std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&queue))?;
    let parsed = parse(filter).map_err(io::Error::other)?;
    let (layer, handle) = reload::Layer::new(parsed);
    let lines = line::Writer::new(Lines(lines), format);
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(io::Error::other)?;
    Ok(LogLevel(handle))
}

pub(crate) fn parse(filter: &str) -> Result<Targets, String> {
    filter.parse().map_err(|error| format!("log filter {filter:?}: {error}; write a level, or levels by target: info,access=off"))
}

/// The first line at once, those that follow together: a thread woken for each line, and a write of each, cost a quarter of a small
/// connection.
fn write_lines(queue: &Receiver<Vec<u8>>) {
    let mut text = Vec::new();
    while let Ok(line) = queue.recv() {
        text.extend_from_slice(&line);
        let more = queue.try_iter().take(QUEUE_LINES).map(|line| text.extend_from_slice(&line)).count();
        if io::stderr().lock().write_all(&text).is_err() {
            DROPPED.fetch_add(1 + more as u64, Ordering::Relaxed);
        }
        text.clear();
        // One burst does not keep its memory.
        text.shrink_to(KEPT_BYTES);
        std::thread::sleep(GATHER);
    }
}

#[derive(Debug, Clone)]
struct Lines(SyncSender<Vec<u8>>);

impl Lines {
    fn push(&self, line: Vec<u8>) {
        if self.0.try_send(line).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}
