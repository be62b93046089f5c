//! How many and how long, in Istio's buckets: what requests are counted in, by all threads of a worker.
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::series::header;

/// Upper bounds in milliseconds, with their texts: Istio's, so that existing dashboards and alerts find what they ask for.
const BUCKETS: [(f64, &str); 19] = [
    (0.5, "0.5"),
    (1.0, "1"),
    (5.0, "5"),
    (10.0, "10"),
    (25.0, "25"),
    (50.0, "50"),
    (100.0, "100"),
    (250.0, "250"),
    (500.0, "500"),
    (1e3, "1000"),
    (2.5e3, "2500"),
    (5e3, "5000"),
    (1e4, "10000"),
    (3e4, "30000"),
    (6e4, "60000"),
    (3e5, "300000"),
    (6e5, "600000"),
    (1.8e6, "1800000"),
    (3.6e6, "3600000"),
];

/// What was counted of one label set, by all threads.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Each request in the one that it fits in; beyond the last it is in none.
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Numbers {
    pub(super) fn add(&self, duration: Duration) {
        let milliseconds = duration.as_secs_f64() * 1e3;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if let Some(index) = BUCKETS.iter().position(|(bound, _)| milliseconds <= *bound) {
            self.buckets[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Prometheus text of a counter and a histogram, each with its name and help, of sets by their labels.
pub(super) fn write(text: &mut String, total: (&str, &str), duration: (&str, &str), all: &[(String, &Numbers)]) {
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let (name, help) = total;
    header(text, name, "counter", help);
    for (labels, numbers) in all {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{name}{{{labels}}} {}", load(&numbers.count));
    }
    let (name, help) = duration;
    header(text, name, "histogram", help);
    for (labels, numbers) in all {
        let mut below = 0;
        for ((_, bound), number) in BUCKETS.iter().zip(&numbers.buckets) {
            below += load(number);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        // Read after the buckets: it is never less than they are.
        let count = load(&numbers.count);
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let sum = Duration::from_micros(load(&numbers.microseconds)).as_secs_f64() * 1e3;
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}
