//! Istio's metrics of requests, and a line in the access log for each: what a waypoint tells of what it answered.
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use trackbed_contract::Identity;
use trackbed_contract::engine::{self as wire, Direction, Flow, FlowPhase, Path, Verdict};
use trackbed_contract::tables::metrics;
use trackbed_decide::{Protocol, Service, Workload, World};
use trackbed_l7::{BackendKey, Client, Ejection, Flag, Report, RequestRecord, StreamRecord};

use super::access;
use super::edges::{Answer, Answered};
use super::flow::{self, End, Record};
use super::histogram::{self, Numbers};
use super::ledger;
use super::series::{Escaped, Labels, write_labels};
use super::spans;
use super::targets::{Target, Targets};
use crate::worker::shared::Shared;
use crate::{clock, log};

/// Bounds memory and scrape size: about 20 KiB of text each. Sets that no thread uses any more make room first.
const MOST_SETS: usize = 1024;
/// Sets that a thread remembers. When full all are forgotten, and those in use cost their texts once more.
const MOST_REMEMBERED: usize = MOST_SETS;
/// Requests of a thread that its director is told of in a second: enough to look on, and no load for a control that has many waypoints.
const TOLD_A_SECOND: u32 = 50;

/// The ends of a request, and what its answer was.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Names {
    ends: Box<Labels>,
    protocol: &'static str,
    status: u16,
    grpc_status: Option<u16>,
    flags: Cow<'static, str>,
}

#[derive(Debug, Default)]
pub(crate) struct AllRequests {
    sets: Mutex<HashMap<Names, Arc<Numbers>>>,
    overflowed: AtomicU64,
}

impl AllRequests {
    /// The counters of these labels; beyond the bound nameless ones that are not exported.
    fn of(&self, names: Names) -> Arc<Numbers> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MOST_SETS && !sets.contains_key(&names) {
            sets.retain(|_, numbers| Arc::strong_count(numbers) > 1);
            if sets.len() >= MOST_SETS {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                return Arc::default();
            }
        }
        Arc::clone(sets.entry(names).or_default())
    }

    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Prometheus text of everything counted so far; nothing at all on a node.
    pub(crate) fn write(&self, text: &mut String) {
        let sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            return;
        }
        let all: Vec<_> = sets.iter().map(|(names, numbers)| (names.to_string(), &**numbers)).collect();
        let total = (metrics::ISTIO_REQUESTS_TOTAL, "requests that a waypoint answered");
        let duration = (metrics::ISTIO_REQUEST_DURATION_MILLISECONDS, "time from a request's first byte to the last of its answer");
        histogram::write(text, total, duration, &all);
    }
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { protocol, status, flags, .. } = self;
        write!(f, "request_protocol=\"{protocol}\",response_code=\"{status}\",response_flags=\"{}\"", Escaped(flags))?;
        let grpc = self.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        write!(f, ",grpc_response_status=\"{grpc}\"")?;
        write_labels(f, &self.ends)
    }
}

/// One thread's reporter.
#[derive(Debug)]
pub(crate) struct Requests {
    shared: Arc<Shared>,
    known: RefCell<HashMap<Key, Arc<Numbers>>>,
    targets: RefCell<Targets>,
    /// Since when, and how many were told.
    told: Cell<(Option<Instant>, u32)>,
}

/// What the labels are made of. Workloads and services are told apart as objects, which are held and so stay apart.
#[derive(Debug)]
struct Key {
    ends: Ends,
    grpc: bool,
    status: u16,
    grpc_status: Option<u16>,
    flags: Vec<Flag>,
}

/// Who asked whom, as far as the mesh knows.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) source: Option<Arc<Workload>>,
    pub(super) identity: Option<Identity>,
    pub(super) destination: Option<Arc<Workload>>,
    pub(super) service: Option<Arc<Service>>,
}

impl Requests {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: RefCell::default(), targets: RefCell::default(), told: Cell::default() }
    }

    /// `service` is the one that was asked in the end: the backend, or what was addressed when there was none.
    fn ends(&self, client: &Client, service: &str, endpoint: Option<(&Arc<str>, SocketAddr)>) -> Ends {
        let snapshot = self.shared.world.load();
        let world: Option<&World> = snapshot.as_ref().as_ref();
        // Of several workloads at one address only one of the proven identity may be named.
        let is_it = |workload: &&Arc<Workload>| client.identity.as_ref().is_none_or(|identity| workload.identity == *identity);
        let source = world.and_then(|world| world.workloads_at(client.address.ip()).iter().find(is_it)).cloned();
        let destination = endpoint.and_then(|(uid, _)| world?.workload(uid)).cloned();
        Ends { source, identity: client.identity.clone(), destination, service: world.and_then(|world| world.service(service)).cloned() }
    }

    /// To the director, for `trackbed flows`.
    fn tell(&self, record: &RequestRecord<'_>, ends: &Ends) {
        let now = Instant::now();
        let told = match self.told.get() {
            (Some(since), told) if now.duration_since(since) < Duration::from_secs(1) => (Some(since), told + 1),
            _ => (Some(now), 1),
        };
        self.told.set(told);
        if told.1 > TOLD_A_SECOND {
            return self.shared.reports.omit();
        }
        self.shared.reports.record(Record::Request(Box::new(flow(record, ends, &self.shared))));
    }

    fn numbers(&self, key: Key, client: SocketAddr, endpoint: Option<SocketAddr>) -> Arc<Numbers> {
        let mut known = self.known.borrow_mut();
        if let Some(numbers) = known.get(&key) {
            return Arc::clone(numbers);
        }
        if known.len() >= MOST_REMEMBERED {
            known.clear();
        }
        let Ends { source, identity, destination, service } = &key.ends;
        let proven = key.ends.proven();
        let names = Names {
            ends: ledger::labels(
                "waypoint",
                &End::new(client, source.as_ref(), identity.as_ref()),
                &End::new(endpoint.unwrap_or(client), destination.as_ref(), proven),
                service.as_deref(),
                identity.is_some(),
            ),
            protocol: if key.grpc { "grpc" } else { "http" },
            status: key.status,
            grpc_status: key.grpc_status,
            flags: flags(&key.flags),
        };
        let numbers = self.shared.requests.of(names);
        known.insert(key, Arc::clone(&numbers));
        numbers
    }
}

impl Report for Requests {
    fn request(&self, record: &RequestRecord<'_>) {
        let service = record.backend.map_or(&record.served.service, |backend| &backend.service);
        let ends = self.ends(record.client, service, record.endpoint);
        log::as_of(record.ended, || access::request(record, &ends));
        if let Some(audit) = record.decided.and_then(|decided| decided.audit.as_ref()) {
            self.shared.audits.would_deny(&audit.policy.name);
        }
        if let Some(limit) = record.limited_by {
            self.shared.limits.refused(limit, record.flags.first().map_or("", |flag| flag.as_str()));
        }
        self.tell(record, &ends);
        if let Some(spans) = &self.shared.spans
            && let Some(span) = spans::of(record, &ends)
        {
            spans.push(span);
        }
        let target = self.targets.borrow_mut().of(&record.served.service, record.authority, path(record), Instant::now());
        self.shared.edges.answered(answered(record, &ends, target));
        let (grpc, status, grpc_status) = (record.grpc, record.status, record.grpc_status);
        let key = Key { ends, grpc, status, grpc_status, flags: record.flags.to_vec() };
        self.numbers(key, record.client.address, record.endpoint.map(|(_, address)| address)).add(record.duration);
    }

    fn traces(&self, asked: Option<bool>) -> bool {
        self.shared.spans.as_ref().is_some_and(|spans| spans.wants(asked))
    }

    fn ejected(&self, backend: &BackendKey, ejection: &Ejection) {
        self.shared.limits.ejected(backend, ejection);
    }

    /// Its bytes are in the account of the connection.
    fn connection(&self, record: &StreamRecord<'_>) {
        let service = record.backend.map_or(&record.served.service, |backend| &backend.service);
        access::stream(record, &self.ends(record.client, service, record.endpoint));
        if let Some(audit) = record.decided.and_then(|decided| decided.audit.as_ref()) {
            self.shared.audits.would_deny(&audit.policy.name);
        }
    }
}

/// As an edge counts it, by the service that was addressed.
fn answered<'a>(record: &'a RequestRecord<'_>, ends: &'a Ends, target: Option<Arc<Target>>) -> Answered<'a> {
    Answered {
        source: (ends.source.as_ref(), ends.identity.as_ref()),
        destination: (ends.destination.as_ref(), ends.proven()),
        service: &record.served.service,
        port: record.endpoint.map(|(_, address)| address.port()).unwrap_or_default(),
        verdict: verdict(record),
        policy: record.decided.and_then(|decided| decided.policy.as_ref()),
        code: record.decided.map_or("", |decided| decided.code),
        about: Answer {
            method: method(record.method.as_str()),
            status: record.status,
            route: access::route(record.route).to_owned(),
            flags: flags(record.flags),
            port: record.served.port,
            target,
        },
        sent: record.request_bytes,
        received: record.response_bytes,
        duration: record.duration,
    }
}

/// Clients may send any word as a method; only those that are known tell edges apart.
fn method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("OTHER")
}

/// The record of a request that is over.
fn flow(record: &RequestRecord<'_>, ends: &Ends, shared: &Shared) -> Flow {
    let duration = clock::microseconds(record.duration);
    let (policy, rule) = record.decided.and_then(|decided| decided.policy.as_ref()).map(flow::named).unwrap_or_default();
    let destination = record.endpoint.map(|(_, address)| End::new(address, ends.destination.as_ref(), ends.proven()).to_wire());
    Flow {
        id: shared.next_flow(),
        phase: FlowPhase::Closed.into(),
        direction: Direction::Inbound.into(),
        path: Path::Tunnel.into(),
        verdict: verdict(record).into(),
        policy,
        rule,
        code: record.decided.map(|decided| decided.code.to_owned()).unwrap_or_default(),
        reason: record.decided.map(|decided| decided.reason.clone()).unwrap_or_default(),
        audit: record.decided.and_then(|decided| decided.audit.as_ref()).map(flow::audit),
        start: clock::nanoseconds(record.ended) - i64::try_from(record.duration.as_nanos()).unwrap_or_default(),
        source: Some(End::new(record.client.address, ends.source.as_ref(), ends.identity.as_ref()).to_wire()),
        destination: Some(destination.unwrap_or_default()),
        service: if record.served.is_pod() { String::new() } else { record.served.service.to_string() },
        bytes_sent: record.request_bytes,
        bytes_received: record.response_bytes,
        first_byte_microseconds: record.first_byte.map(clock::microseconds).unwrap_or_default(),
        duration_microseconds: duration,
        pod_uid: shared.pods.load().first().map(|pod| pod.local.uid.to_string()).unwrap_or_default(),
        request: Some(wire::Request {
            method: record.method.to_string(),
            authority: record.authority.to_owned(),
            path: path(record).to_owned(),
            protocol: format!("{:?}", record.version),
            status: record.status.into(),
            grpc_status: record.grpc_status.map(Into::into),
            flags: flags(record.flags).into_owned(),
            route: access::route(record.route).to_owned(),
            backend: record.backend.map(|backend| backend.service.to_string()).unwrap_or_default(),
            retries: record.retries,
            request_id: record.request_id.to_owned(),
            traceparent: record.traceparent.to_owned(),
            port: record.served.port.into(),
        }),
        ..Flow::default()
    }
}

/// Without the query.
fn path<'a>(record: &RequestRecord<'a>) -> &'a str {
    record.path.split('?').next().unwrap_or_default()
}

fn verdict(record: &RequestRecord<'_>) -> Verdict {
    match record.decided {
        Some(decided) if !decided.code.is_empty() => Verdict::Denied,
        _ if record.status == 0 || !record.flags.is_empty() => Verdict::Failed,
        _ => Verdict::Allowed,
    }
}

/// As Envoy writes them.
pub(super) fn flags(flags: &[Flag]) -> Cow<'static, str> {
    match flags {
        [] => Cow::Borrowed("-"),
        [one] => Cow::Borrowed(one.as_str()),
        several => Cow::Owned(several.iter().map(|flag| flag.as_str()).collect::<Vec<_>>().join(",")),
    }
}

impl Ends {
    /// Of the destination: a tunnel to it proves who it is.
    fn proven(&self) -> Option<&Identity> {
        self.destination.as_ref().filter(|workload| workload.protocol == Protocol::Hbone).map(|workload| &workload.identity)
    }

    fn objects(&self) -> [usize; 3] {
        [ledger::address(self.source.as_ref()), ledger::address(self.destination.as_ref()), ledger::address(self.service.as_ref())]
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.ends.objects() == other.ends.objects()
            && self.ends.identity == other.ends.identity
            && (self.grpc, self.status, self.grpc_status) == (other.grpc, other.status, other.grpc_status)
            && self.flags == other.flags
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ends.objects().hash(state);
        self.status.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(status: u16) -> Names {
        Names { ends: Box::default(), protocol: "http", status, grpc_status: None, flags: flags(&[Flag::NoEndpoint, Flag::Timeout]) }
    }

    #[test]
    fn a_histogram_counts_each_request_in_every_bucket_that_it_is_below() {
        let all = AllRequests::default();
        let numbers = all.of(names(503));
        for milliseconds in [0, 5, 7, 4_000_000] {
            numbers.add(Duration::from_millis(milliseconds));
        }
        let mut text = String::new();
        all.write(&mut text);
        let value =
            |part: &str| text.lines().find(|line| line.contains(part)).and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value);
        for (bound, count) in [("0.5", "1"), ("1", "1"), ("5", "2"), ("10", "3"), ("3600000", "3"), ("+Inf", "4")] {
            assert_eq!(value(&format!(",le=\"{bound}\"}}")), Some(count), "{bound}\n{text}");
        }
        assert!(
            text.contains("_count{request_protocol=\"http\",response_code=\"503\",response_flags=\"UH,UT\",grpc_response_status=\"\""),
            "{text}"
        );
        assert_eq!(value("istio_requests_total{"), Some("4"));
        assert_eq!(value("milliseconds_sum{"), Some("4000012"));
        assert!(text.contains("source_workload=\"unknown\""), "{text}");
    }

    #[test]
    fn label_sets_without_number_do_not_grow_the_table_beyond_its_bound() {
        let all = AllRequests::default();
        let held: Vec<_> = (0..10).map(|status| all.of(names(status))).collect();
        for status in 0..u16::try_from(MOST_SETS * 3).expect("small") {
            all.of(names(status));
        }
        assert!(all.sets.lock().expect("lock").len() <= MOST_SETS);
        held[3].add(Duration::ZERO);
        assert_eq!(all.of(names(3)).count(), 1, "what is in use stays");
    }
}
