//! What the engine tells about itself: flows and events to its director, Prometheus text to whoever asks, lines to its log.
mod access;
pub(crate) mod account;
pub(crate) mod audit;
mod collector;
pub(crate) mod edges;
pub(crate) mod flow;
mod histogram;
pub(crate) mod ledger;
pub(crate) mod limits;
pub(crate) mod observed;
mod otlp;
pub(crate) mod queue;
pub(crate) mod recording;
pub(crate) mod requests;
pub(crate) mod scrape;
pub(crate) mod series;
mod shown;
pub(crate) mod spans;
mod targets;
pub(crate) mod watch;

use std::sync::atomic::Ordering;

use trackbed_contract::engine::Counter;
use trackbed_contract::tables::metrics;

use crate::worker::shared::Shared;

/// The counters that `trackbed status` shows.
pub(crate) fn counters(shared: &Shared) -> Vec<Counter> {
    let counter = |name: &str, value| Counter { name: name.to_owned(), value };
    vec![
        counter(metrics::TRACKBED_CONNECTIONS, shared.pods.load().connections()),
        counter(metrics::TRACKBED_FLOWS_DROPPED_TOTAL, shared.reports.dropped_total()),
        counter(metrics::TRACKBED_ENGINE_RESTARTS_TOTAL, shared.counters.restarts.load(Ordering::Relaxed)),
        counter(metrics::TRACKBED_STATE_GENERATION, shared.counters.generation.load(Ordering::Relaxed)),
    ]
}
