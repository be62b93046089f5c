//! Requests that passed through connections of observed pods, counted by who asked whom and how it was answered.
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use trackbed_contract::tables::metrics;
use trackbed_observe::{Exchange, GaveUp, Protocol};

use super::histogram::{self, Numbers};
use super::series::{Labels, header, write_labels};

/// Bounds memory and scrape size: about 20 KiB of text each. Sets that no thread uses any more make room first.
const MOST_SETS: usize = 1024;
/// The last status that gRPC knows; another one is as UNKNOWN.
const GRPC_LAST: u16 = 16;
const GRPC_UNKNOWN: u16 = 2;

/// What of an answer requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    protocol: Protocol,
    /// The first digit of its status; None when none came.
    class: Option<u8>,
    grpc_status: Option<u16>,
    /// Of one connection in ten.
    sampled: bool,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Names {
    ends: Box<Labels>,
    answer: Answer,
}

/// Shared by all threads of a worker. The lock is held when a thread meets an answer of a new kind, and when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct AllObserved {
    sets: Mutex<HashMap<Names, Arc<Numbers>>>,
    overflowed: AtomicU64,
    /// Connections with requests that were followed to their ends, and then by `GaveUp`.
    connections: [AtomicU64; 1 + GaveUp::ALL.len()],
}

impl Answer {
    pub(super) fn of(exchange: &Exchange, sampled: bool) -> Self {
        let class = exchange.status.and_then(|status| u8::try_from(status / 100).ok());
        let grpc_status = exchange.grpc_status.map(|status| if status > GRPC_LAST { GRPC_UNKNOWN } else { status });
        Self { protocol: exchange.protocol, class, grpc_status, sampled }
    }
}

impl AllObserved {
    /// The counters of these labels; beyond the bound nameless ones that are not exported.
    pub(super) fn of(&self, ends: Box<Labels>, answer: Answer) -> Arc<Numbers> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let names = Names { ends, answer };
        if sets.len() >= MOST_SETS && !sets.contains_key(&names) {
            sets.retain(|_, numbers| Arc::strong_count(numbers) > 1);
            if sets.len() >= MOST_SETS {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                return Arc::default();
            }
        }
        Arc::clone(sets.entry(names).or_default())
    }

    /// A connection with requests is over, or they are not followed any more.
    pub(super) fn followed(&self, gave_up: Option<GaveUp>) {
        let index = gave_up.and_then(|why| GaveUp::ALL.iter().position(|one| *one == why)).map_or(0, |index| index + 1);
        self.connections[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Prometheus text of everything counted so far; nothing at all where nothing was observed.
    pub(crate) fn write(&self, text: &mut String) {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = || self.connections.iter().map(|count| count.load(Ordering::Relaxed));
        if sets.is_empty() && connections().all(|count| count == 0) {
            return;
        }
        let all: Vec<_> = sets.iter().map(|(names, numbers)| (names.to_string(), &**numbers)).collect();
        let total = (metrics::TRACKBED_OBSERVED_REQUESTS_TOTAL, "requests seen passing through connections of observed pods");
        let help = "time from a request's first byte to the last of its answer, as they passed";
        histogram::write(text, total, (metrics::TRACKBED_OBSERVED_REQUEST_DURATION_MILLISECONDS, help), &all);
        let name = metrics::TRACKBED_OBSERVED_CONNECTIONS_TOTAL;
        header(text, name, "counter", "connections whose requests were observed, by how that ended");
        let outcomes = std::iter::once("whole").chain(GaveUp::ALL.iter().map(|why| why.as_str()));
        for (outcome, count) in outcomes.zip(connections()) {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name}{{outcome=\"{outcome}\"}} {count}");
        }
    }
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Answer { protocol, class, grpc_status, sampled } = self.answer;
        let class = class.map_or(Cow::Borrowed("none"), |class| format!("{class}xx").into());
        let grpc = grpc_status.map(|status| status.to_string()).unwrap_or_default();
        let observe = if sampled { "sampled" } else { "full" };
        write!(f, "request_protocol=\"{}\",response_class=\"{class}\",grpc_response_status=\"{grpc}\"", protocol.as_str())?;
        write!(f, ",observe=\"{observe}\"")?;
        write_labels(f, &self.ends)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn requests_are_told_apart_by_class_and_by_the_status_of_grpc_and_the_table_is_bounded() {
        let all = AllObserved::default();
        let add = |status, grpc_status: Option<u16>| {
            let protocol = if grpc_status.is_none() { Protocol::Http1 } else { Protocol::Grpc };
            let exchange = Exchange { protocol, status, grpc_status, duration: Duration::from_millis(3) };
            all.of(Box::default(), Answer::of(&exchange, false)).add(exchange.duration);
        };
        for (status, grpc) in [(Some(200), None), (Some(299), None), (None, None), (Some(200), Some(7)), (Some(200), Some(900))] {
            add(status, grpc);
        }
        all.followed(Some(GaveUp::Bound));
        let mut text = String::new();
        all.write(&mut text);
        for expected in [
            "request_protocol=\"http/1.1\",response_class=\"2xx\",grpc_response_status=\"\",observe=\"full\",reporter=\"unknown\"",
            "response_class=\"none\"",
            "request_protocol=\"grpc\",response_class=\"2xx\",grpc_response_status=\"7\"",
            "grpc_response_status=\"2\"",
            "trackbed_observed_connections_total{outcome=\"bound\"} 1",
            "trackbed_observed_connections_total{outcome=\"whole\"} 0",
        ] {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        let count = |line: &str| line.starts_with("trackbed_observed_requests_total{").then(|| line.ends_with(" 2"));
        assert_eq!(text.lines().filter_map(count).filter(|two| *two).count(), 1, "both 2xx are one\n{text}");
        for name in 0..MOST_SETS * 2 {
            let mut labels = Box::<Labels>::default();
            labels[1] = name.to_string();
            all.of(labels, Answer { protocol: Protocol::Http1, class: None, grpc_status: None, sampled: true });
        }
        assert!(all.sets.lock().expect("lock").len() <= MOST_SETS);
    }
}
