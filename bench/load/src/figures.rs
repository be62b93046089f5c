//! What a run comes to: counts, CPU and latencies, as one JSON line.
use std::time::Instant;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cpu;

/// A minute: the longest latency told apart, with three digits of each.
const LONGEST_NANOS: u64 = 60_000_000_000;
/// Of the histogram that is printed: one is 9 % wide, narrow enough to draw, and 200 of them span a microsecond to a minute.
const BUCKETS_PER_OCTAVE: f64 = 8.0;

/// Latencies of one thread or run, in nanoseconds.
pub(crate) struct Latencies(Histogram<u64>);

/// Figures of one run. p50, p99, p999 and max in microseconds, 0 for bulk, which has no round trips.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    seconds: f64,
    cpu_seconds: f64,
    bytes: u64,
    operations: u64,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    /// Lower edge in microseconds and count of each bucket that is not empty; the next edge is 2^(1/8) higher.
    histogram: Vec<(f64, u64)>,
    /// The bulk stream that ran beside the requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) beside: Option<Box<Figures>>,
}

/// The beginning of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    at: Instant,
    cpu: f64,
}

impl Start {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), cpu: cpu::seconds() }
    }

    pub(crate) fn instant(self) -> Instant {
        self.at
    }

    /// The run ends now.
    pub(crate) fn figures(self, bytes: u64, operations: u64, latencies: &Latencies) -> Figures {
        let seconds = self.at.elapsed().as_secs_f64();
        let (quantile, times) = (|quantile| micros(latencies.0.value_at_quantile(quantile)), &latencies.0);
        Figures {
            seconds,
            cpu_seconds: cpu::seconds() - self.cpu,
            bytes,
            operations,
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(times.max()),
            histogram: latencies.buckets(),
            beside: None,
        }
    }
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST_NANOS, 3).expect("constant bounds are valid"))
    }

    pub(crate) fn record_since(&mut self, start: Instant) {
        self.0.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS));
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    fn buckets(&self) -> Vec<(f64, u64)> {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for value in self.0.iter_recorded() {
            let octaves = (micros(value.value_iterated_to()).max(0.001)).log2();
            let edge = ((octaves * BUCKETS_PER_OCTAVE).floor() / BUCKETS_PER_OCTAVE).exp2();
            match buckets.last_mut() {
                Some((last, count)) if (*last - edge).abs() < edge * 1e-6 => {
                    *count += value.count_at_value();
                }
                _ => buckets.push((edge, value.count_at_value())),
            }
        }
        buckets
    }
}

#[allow(clippy::cast_precision_loss)] // nanoseconds of a bench run fit a float
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}
