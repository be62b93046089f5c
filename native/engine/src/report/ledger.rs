//! The series of one data thread, found by what a connection was decided on: label texts are made once per pair of workloads.
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use trackbed_contract::Identity;
use trackbed_contract::engine::{Direction, Path};
use trackbed_decide::{Service, Workload};

use super::flow::{End, Known};
use super::histogram::Numbers;
use super::observed::Answer;
use super::recording::Active;
use super::series::{Labels, NAMES, Series};
use crate::worker::shared::Shared;

/// Pairs a thread remembers. Workloads are replaced when they change, so old pairs gather: when full all are forgotten, and those in use
/// cost their texts once more.
const MOST_PAIRS: usize = 4096;

#[derive(Debug)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
    series: RefCell<HashMap<Pair, Arc<Series>>>,
    observed: RefCell<HashMap<(Pair, Answer), Arc<Numbers>>>,
    /// As this thread last heard.
    recordings: RefCell<Active>,
}

/// What the labels of a series are made of. Workloads and services are told apart as objects, not by their contents.
#[derive(Debug)]
struct Pair {
    outbound: bool,
    tunnel: bool,
    source: (Option<Arc<Workload>>, Option<Identity>),
    destination: (Option<Arc<Workload>>, Option<Identity>),
    service: Option<Arc<Service>>,
}

impl Ledger {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, series: RefCell::default(), observed: RefCell::default(), recordings: RefCell::default() }
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(crate) fn recordings(&self) -> Active {
        Arc::clone(&self.recordings.borrow())
    }

    pub(crate) fn set_recordings(&self, active: Active) {
        *self.recordings.borrow_mut() = active;
    }

    /// The series that this connection counts in.
    pub(super) fn series(&self, known: &Known) -> Arc<Series> {
        let pair = Pair::of(known);
        let mut all = self.series.borrow_mut();
        if let Some(series) = all.get(&pair) {
            return Arc::clone(series);
        }
        if all.len() >= MOST_PAIRS {
            all.clear();
        }
        let series = self.shared.series.of(labels_of(known));
        all.insert(pair, Arc::clone(&series));
        series
    }

    /// What requests of this connection that were answered so count in.
    pub(super) fn observed(&self, known: &Known, answer: Answer) -> Arc<Numbers> {
        let key = (Pair::of(known), answer);
        let mut all = self.observed.borrow_mut();
        if let Some(numbers) = all.get(&key) {
            return Arc::clone(numbers);
        }
        if all.len() >= MOST_PAIRS {
            all.clear();
        }
        let numbers = self.shared.observed.of(labels_of(known), answer);
        all.insert(key, Arc::clone(&numbers));
        numbers
    }
}

impl Pair {
    fn of(known: &Known) -> Self {
        let end = |end: &End| (end.workload.clone(), end.proven.clone());
        Self {
            outbound: known.direction == Direction::Outbound,
            tunnel: known.path == Path::Tunnel,
            source: end(&known.source),
            destination: end(&known.destination),
            service: known.service.clone(),
        }
    }

    fn objects(&self) -> [usize; 3] {
        [address(self.source.0.as_ref()), address(self.destination.0.as_ref()), address(self.service.as_ref())]
    }
}

pub(super) fn address<T>(object: Option<&Arc<T>>) -> usize {
    object.map_or(0, |object| Arc::as_ptr(object).addr())
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.objects() == other.objects()
            && (self.outbound, self.tunnel) == (other.outbound, other.tunnel)
            && (&self.source.1, &self.destination.1) == (&other.source.1, &other.destination.1)
    }
}

impl Eq for Pair {}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.objects().hash(state);
        self.outbound.hash(state);
    }
}

fn labels_of(known: &Known) -> Box<Labels> {
    let reporter = if known.direction == Direction::Outbound { "source" } else { "destination" };
    labels(reporter, &known.source, &known.destination, known.service.as_deref(), known.path == Path::Tunnel)
}

/// `mutual`: the connection was in mutual TLS.
pub(super) fn labels(reporter: &str, source: &End, destination: &End, service: Option<&Service>, mutual: bool) -> Box<Labels> {
    let mut labels = Box::<Labels>::default();
    let mut label = |name: &str, value: &str| {
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            value.clone_into(&mut labels[index]);
        }
    };
    label("reporter", reporter);
    for (side, end) in [("source", source), ("destination", destination)] {
        let mut of = |name: &str, value: &str| label(&format!("{side}_{name}"), value);
        of("principal", end.identity());
        let Some(workload) = &end.workload else { continue };
        of("workload", &workload.workload_name);
        of("canonical_service", &workload.canonical_name);
        of("canonical_revision", &workload.canonical_revision);
        of("workload_namespace", &workload.namespace);
        of("app", &workload.canonical_name);
        of("version", &workload.canonical_revision);
        of("cluster", &workload.cluster);
    }
    if let Some(service) = service {
        label("destination_service", &service.hostname);
        label("destination_service_namespace", &service.namespace);
        label("destination_service_name", &service.name);
    }
    label("connection_security_policy", if mutual { "mutual_tls" } else { "unknown" });
    labels
}
