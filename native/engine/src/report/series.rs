//! Istio's TCP metrics: one series per pair of workloads, counted without a lock while a connection lives.
use std::collections::HashMap;
use std::collections::hash_map::Entry;
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

/// Counters of one label set. `sent` is what the server sent to the client, for both reporters (istio#32399).
#[derive(Debug, Default)]
pub(crate) struct Series {
    pub(crate) labels: Box<Labels>,
    pub(crate) opened: AtomicU64,
    pub(crate) closed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

type Value = fn(&Series) -> &AtomicU64;

#[derive(Debug, Default)]
pub(crate) struct AllSeries {
    series: Mutex<HashMap<Box<Labels>, Arc<Series>>>,
    /// Failures carry their response flag as one more label and have no live connection.
    failed: Mutex<HashMap<(Box<Labels>, &'static str), u64>>,
    /// Series that found no room.
    overflowed: AtomicU64,
}

impl AllSeries {
    /// The series of these labels; beyond the bound a nameless one that is not exported.
    pub(crate) fn of(&self, labels: Box<Labels>) -> Arc<Series> {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get(&labels) {
            return Arc::clone(known);
        }
        if series.len() >= MOST_SERIES {
            series.retain(|_, live| Arc::strong_count(live) > 1);
            if series.len() >= MOST_SERIES {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                return Arc::new(Series { labels, ..Series::default() });
            }
        }
        let new = Arc::new(Series { labels: labels.clone(), ..Series::default() });
        series.insert(labels, Arc::clone(&new));
        new
    }

    pub(crate) fn failure(&self, labels: Box<Labels>, flag: &'static str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let full = failed.len() >= MOST_SERIES;
        match failed.entry((labels, flag)) {
            Entry::Occupied(known) => *known.into_mut() += 1,
            Entry::Vacant(new) if !full => drop(new.insert(1)),
            Entry::Vacant(_) => drop(self.overflowed.fetch_add(1, Ordering::Relaxed)),
        }
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Prometheus text of everything counted so far.
    pub(crate) fn write(&self, text: &mut String) {
        let series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let counters: [(&str, &str, Value); 4] = [
            (metrics::ISTIO_TCP_CONNECTIONS_OPENED_TOTAL, "connections opened", |s| &s.opened),
            (metrics::ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL, "connections closed", |s| &s.closed),
            (metrics::ISTIO_TCP_SENT_BYTES_TOTAL, "payload bytes from server to client", |s| &s.sent),
            (metrics::ISTIO_TCP_RECEIVED_BYTES_TOTAL, "payload bytes from client to server", |s| &s.received),
        ];
        for (name, help, value) in counters {
            header(text, name, "counter", help);
            for (labels, counted) in series.iter() {
                sample(text, name, labels, "-", value(counted).load(Ordering::Relaxed));
            }
        }
        drop(series);
        header(text, metrics::ISTIO_TCP_CONNECTIONS_FAILED_TOTAL, "counter", "connections denied or failed");
        for ((labels, flag), count) in self.failed.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            sample(text, metrics::ISTIO_TCP_CONNECTIONS_FAILED_TOTAL, labels, flag, *count);
        }
    }
}

pub(crate) fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn sample(text: &mut String, name: &str, labels: &Labels, flag: &str, value: u64) {
    let _ = write!(text, "{name}{{request_protocol=\"tcp\",response_flags=\"{flag}\"");
    for (name, label) in NAMES.iter().zip(labels) {
        let _ = write!(text, ",{name}=\"{}\"", Escaped(if label.is_empty() { "unknown" } else { label }));
    }
    let _ = writeln!(text, "}} {value}");
}

struct Escaped<'a>(&'a str);

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
        all.of(labels).opened.fetch_add(2, Ordering::Relaxed);
        let mut text = String::new();
        all.write(&mut text);
        let line = text.lines().find(|line| line.starts_with("istio_tcp_connections_opened_total{")).expect("a sample");
        assert!(line.contains(r#"reporter="a\"b\\c\nd",source_workload="unknown""#), "{line}");
        assert!(line.ends_with("} 2"), "{line}");
    }

    #[test]
    fn a_million_label_sets_do_not_grow_the_table_beyond_its_bound() {
        let all = AllSeries::default();
        for i in 0..MOST_SERIES * 3 {
            let mut labels = Box::<Labels>::default();
            labels[1] = i.to_string();
            all.of(labels);
        }
        assert!(all.series.lock().expect("lock").len() <= MOST_SERIES);
    }
}
