//! Log lines that never make a data thread wait: a bounded queue and one thread that writes.
mod line;

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::cli::LogFormat;

/// 1 s of access lines at 4,000 requests/s; when a slow reader of standard error lets it fill, new lines are dropped and counted.
const QUEUE_BYTES: usize = 4 << 20;

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

thread_local! {
    static AS_OF: Cell<Option<SystemTime>> = const { Cell::new(None) };
}

/// Lines of `say` are of this time: they tell what happened a moment ago.
pub(crate) fn as_of(time: SystemTime, say: impl FnOnce()) {
    AS_OF.set(Some(time));
    say();
    AS_OF.set(None);
}

/// When what a line tells happened.
fn time() -> SystemTime {
    AS_OF.get().unwrap_or_else(SystemTime::now)
}

pub(crate) fn start(filter: &str, format: LogFormat) -> io::Result<LogLevel> {
    let lines = Lines::default();
    let written = lines.clone();
    std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&written))?;
    let parsed = parse(filter).map_err(io::Error::other)?;
    let (layer, handle) = reload::Layer::new(parsed);
    let lines = line::Writer::new(lines, format);
    tracing_subscriber::registry().with(layer).with(lines).try_init().map_err(io::Error::other)?;
    Ok(LogLevel(handle))
}

pub(crate) fn parse(filter: &str) -> Result<Targets, String> {
    filter.parse().map_err(|error| format!("log filter {filter:?}: {error}; write a level, or levels by target: info,access=off"))
}

/// The first line at once, those that follow together: a thread woken for each line, and a write of each, cost a quarter of a small
/// connection.
fn write_lines(lines: &Lines) {
    let mut text = Vec::new();
    loop {
        let count = lines.wait(&mut text);
        if io::stderr().lock().write_all(&text).is_err() {
            DROPPED.fetch_add(count, Ordering::Relaxed);
        }
        text.clear();
        // One burst does not keep its memory.
        text.shrink_to(KEPT_BYTES);
        std::thread::sleep(GATHER);
    }
}

/// Lines that wait for their writer, one behind the other.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<(Mutex<Waiting>, Condvar)>);

#[derive(Debug, Default)]
struct Waiting {
    text: Vec<u8>,
    count: u64,
}

impl Lines {
    fn push(&self, line: &str) {
        let mut waiting = self.lock();
        if waiting.text.len() + line.len() > QUEUE_BYTES {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line.as_bytes());
        waiting.count += 1;
        let first = waiting.count == 1;
        drop(waiting);
        if first {
            self.0.1.notify_one();
        }
    }

    /// All that there are, once there are some, in exchange for memory for the next. Returns how many.
    fn wait(&self, text: &mut Vec<u8>) -> u64 {
        let nothing = |waiting: &mut Waiting| waiting.count == 0;
        let mut waiting = self.0.1.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(text, &mut waiting.text);
        std::mem::take(&mut waiting.count)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing in the critical sections can leave it half changed.
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_leave_in_their_order_and_what_finds_no_room_is_counted() {
        let (lines, before) = (Lines::default(), dropped());
        let long = "x".repeat(QUEUE_BYTES - 2);
        for line in ["a", "b", "c", &long, "d"] {
            lines.push(line);
        }
        let mut text = Vec::from(*b"memory");
        text.clear();
        assert_eq!((lines.wait(&mut text), text.as_slice()), (4, &b"abcd"[..]));
        assert_eq!(dropped() - before, 1);
        text.clear();
        lines.push(&long);
        assert_eq!((lines.wait(&mut text), text.len()), (1, long.len()), "there is room again");
    }
}
