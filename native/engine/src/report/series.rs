//! Istio's TCP metrics: one series per pair of workloads and data thread, counted without a lock and summed when somebody asks.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use trackbed_contract::tables::metrics;

/// Bounds memory and scrape size (about 1 KiB of text each); series without a live connection make room first.
const MOST_SERIES: usize = 8192;

/// Label values in the order of `NAMES`; an empty one is written as `unknown`.
pub(crate) type Labels = [String; NAMES.len()];

/// wire.md's order is Istio's: dashboards match by name, so only the names matter.
pub(crate) const NAMES: [&str; 21] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "connection_security_policy",
];

/// Istio's `response_flags` of connections that were denied or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Denied,
    Handshake,
    Identity,
    Connect,
}

const FLAGS: [&str; 4] = ["DENY", "TLS_FAILURE", "IDENTITY_ERROR", "CONNECT"];

impl Failure {
    pub(super) const fn text(self) -> &'static str {
        FLAGS[self as usize]
    }
}

/// Written by one thread only, so that counting needs no locked instruction; anybody may read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.get() + more, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one data thread counted of one label set. `sent` is what the server sent to the client, for both reporters (istio#32399).
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
    failed: [Counter; FLAGS.len()],
}

impl Series {
    pub(crate) fn failed(&self, why: Failure) -> &Counter {
        &self.failed[why as usize]
    }
}

/// The sum over threads: opened, closed, sent, received, then failed by flag.
type Totals = [u64; VALUES + FLAGS.len()];

const VALUES: usize = 4;

/// Each thread's counters of one label set, and what is left of those that no thread has any more.
#[derive(Debug, Default)]
struct Shares {
    live: Vec<Arc<Series>>,
    past: Totals,
}

impl Shares {
    /// Nobody else has these any more: they cannot change.
    fn settle(&mut self) {
        let past = &mut self.past;
        self.live.retain(|series| {
            let held = Arc::strong_count(series) > 1;
            if !held {
                add(past, series);
            }
            held
        });
    }

    fn totals(&self) -> Totals {
        let mut totals = self.past;
        self.live.iter().for_each(|series| add(&mut totals, series));
        totals
    }
}

fn add(totals: &mut Totals, series: &Series) {
    let counters = [&series.opened, &series.closed, &series.sent, &series.received].into_iter().chain(&series.failed);
    totals.iter_mut().zip(counters).for_each(|(total, counter)| *total += counter.get());
}

#[derive(Debug, Default)]
pub(crate) struct AllSeries {
    sets: Mutex<HashMap<Box<Labels>, Shares>>,
    /// Series that found no room.
    overflowed: AtomicU64,
}

impl AllSeries {
    /// Counters of these labels for the calling thread alone; beyond the bound nameless ones that are not exported.
    pub(crate) fn of(&self, labels: Box<Labels>) -> Arc<Series> {
        let series = Arc::new(Series::default());
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MOST_SERIES && !sets.contains_key(&labels) {
            sets.retain(|_, shares| {
                shares.settle();
                !shares.live.is_empty()
            });
            if sets.len() >= MOST_SERIES {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                return series;
            }
        }
        let shares = sets.entry(labels).or_default();
        shares.settle();
        shares.live.push(Arc::clone(&series));
        series
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Prometheus text of everything counted so far.
    pub(crate) fn write(&self, text: &mut String) {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        let sums: Vec<_> = sets.iter().map(|(labels, shares)| (labels, shares.totals())).collect();
        let names: [(&str, &str); VALUES] = [
            (metrics::ISTIO_TCP_CONNECTIONS_OPENED_TOTAL, "connections opened"),
            (metrics::ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL, "connections closed"),
            (metrics::ISTIO_TCP_SENT_BYTES_TOTAL, "payload bytes from server to client"),
            (metrics::ISTIO_TCP_RECEIVED_BYTES_TOTAL, "payload bytes from client to server"),
        ];
        for (index, (name, help)) in names.into_iter().enumerate() {
            header(text, name, "counter", help);
            // A set that has only failed connections has nothing to say here.
            for (labels, totals) in sums.iter().filter(|(_, totals)| totals[0] > 0) {
                sample(text, name, labels, "-", totals[index]);
            }
        }
        header(text, metrics::ISTIO_TCP_CONNECTIONS_FAILED_TOTAL, "counter", "connections denied or failed");
        for (labels, totals) in &sums {
            for (flag, count) in FLAGS.into_iter().zip(&totals[VALUES..]).filter(|(_, count)| **count > 0) {
                sample(text, metrics::ISTIO_TCP_CONNECTIONS_FAILED_TOTAL, labels, flag, *count);
            }
        }
    }
}

pub(crate) fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &Labels, flag: &str, value: u64) {
    let _ = write!(text, "{name}{{request_protocol=\"tcp\",response_flags=\"{flag}\"");
    let _ = write_labels(text, labels);
    let _ = writeln!(text, "}} {value}");
}

/// Each behind a comma.
pub(super) fn write_labels(text: &mut impl Write, labels: &Labels) -> std::fmt::Result {
    for (name, label) in NAMES.iter().zip(labels) {
        write!(text, ",{name}=\"{}\"", Escaped(if label.is_empty() { "unknown" } else { label }))?;
    }
    Ok(())
}

pub(super) struct Escaped<'a>(pub(super) &'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_missing_ones_are_unknown() {
        let all = AllSeries::default();
        let mut labels = Box::<Labels>::default();
        labels[0] = "a\"b\\c\nd".into();
        all.of(labels.clone()).opened.add(2);
        // Another thread's.
        all.of(labels).opened.add(1);
        let mut text = String::new();
        all.write(&mut text);
        let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{")).expect("a sample");
        assert!(line.contains(r#"reporter="a\"b\\c\nd",source_workload="unknown""#), "{line}");
        assert!(line.ends_with("} 3"), "{line}");
    }

    #[test]
    fn a_million_label_sets_do_not_grow_the_table_beyond_its_bound() {
        let all = AllSeries::default();
        for i in 0..MOST_SERIES * 3 {
            let mut labels = Box::<Labels>::default();
            labels[1] = i.to_string();
            all.of(labels);
        }
        assert!(all.sets.lock().expect("lock").len() <= MOST_SERIES);
    }

    #[test]
    fn what_a_thread_counted_outlives_its_series() {
        let all = AllSeries::default();
        for _ in 0..1000 {
            let series = all.of(Box::default());
            series.opened.add(1);
            series.failed(Failure::Denied).add(2);
        }
        let sets = all.sets.lock().expect("lock");
        let shares = sets.values().next().expect("one set");
        assert!(shares.live.len() <= 1, "{} are kept", shares.live.len());
        assert_eq!((shares.totals()[0], shares.totals()[VALUES]), (1000, 2000));
    }
}
