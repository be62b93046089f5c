//! Who talked to whom, counted: each distinct edge once until the director is told, bounded, and exact beyond the bound too.
use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message as _;
use trackbed_contract::Identity;
use trackbed_contract::engine::{Direction, Edge, EdgeAbout, EdgeEnd, EdgeRequest, Path, Verdict};
use trackbed_contract::tables::bounds;
use trackbed_decide::Workload;
use trackbed_observe::Protocol;
use trackbed_policy::PolicyRef;

use super::flow::{Closing, End, Known};
use super::targets::Target;
use crate::clock;

/// Edges that are told apart between two reports.
const MOST_EDGES: usize = bounds::EDGES as usize;
/// Edges that stand for what found no room among those, one for each destination; what finds no room here either is counted in one.
const MOST_OTHERS: usize = MOST_EDGES / 4;
const FIRST_BUCKET_MICROSECONDS: u64 = bounds::LATENCY_FIRST_MICROSECONDS as u64;
const BUCKETS: usize = bounds::LATENCY_BUCKETS as usize;

/// Shared by all threads of a worker. The lock is held for one addition, never across a wait; the texts are made by whoever takes the edges.
#[derive(Debug, Default)]
pub(crate) struct AllEdges {
    counts: Mutex<HashMap<About, Counts>>,
    /// Nobody keeps them.
    idle: AtomicBool,
}

/// What an edge is told apart by. Workloads count by what made them: the pods of a Deployment are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct About {
    direction: Direction,
    path: Path,
    verdict: Verdict,
    policy: Option<Policy>,
    code: &'static str,
    source: Side,
    destination: Side,
    service: Option<Arc<str>>,
    port: u16,
    request: Option<Answer>,
    other: bool,
}

/// The part of a waypoint's request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Answer {
    pub(super) method: &'static str,
    pub(super) status: u16,
    pub(super) route: String,
    pub(super) flags: Cow<'static, str>,
    /// Of the service.
    pub(super) port: u16,
    /// None: more are seen of the service than are told apart.
    pub(super) target: Option<Arc<Target>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Policy {
    name: Arc<str>,
    rule: Option<usize>,
}

#[derive(Debug, Clone, Default)]
struct Side {
    workload: Option<Arc<Workload>>,
    proven: Option<Identity>,
}

#[derive(Debug, Default)]
struct Counts {
    count: u64,
    ended: u64,
    sent: u64,
    received: u64,
    latency: [u64; BUCKETS],
    /// One bit for each.
    protocols: u16,
}

/// A request that a waypoint answered.
#[derive(Debug)]
pub(super) struct Answered<'a> {
    pub(super) source: (Option<&'a Arc<Workload>>, Option<&'a Identity>),
    pub(super) destination: (Option<&'a Arc<Workload>>, Option<&'a Identity>),
    pub(super) service: &'a Arc<str>,
    pub(super) port: u16,
    pub(super) verdict: Verdict,
    pub(super) policy: Option<&'a PolicyRef>,
    pub(super) code: &'static str,
    pub(super) about: Answer,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duration: Duration,
}

impl AllEdges {
    /// Whether somebody keeps what is counted; what was counted until now is still told.
    pub(crate) fn wanted(&self, wanted: bool) {
        self.idle.store(!wanted, Ordering::Relaxed);
    }

    /// Bytes can move.
    pub(super) fn opened(&self, known: &Known) {
        self.add(|| About::of(known, Verdict::Allowed, "", known.policy.as_ref()), |counts| counts.count += 1);
    }

    /// They did, and it goes on.
    pub(super) fn moved(&self, known: &Known, sent: u64, received: u64) {
        self.add(|| About::of(known, Verdict::Allowed, "", known.policy.as_ref()), |counts| counts.moved(sent, received));
    }

    /// The end of a connection that was opened; `sent` and `received` since it was counted last.
    pub(super) fn closed(&self, known: &Known, closing: &Closing, sent: u64, received: u64) {
        self.add(
            || About::of(known, closing.verdict, closing.code, closing.policy(known)),
            |counts| {
                counts.ended += 1;
                counts.moved(sent, received);
                counts.took(closing.first_byte);
                counts.spoke(closing.protocol);
            },
        );
    }

    /// The end of one that never was.
    pub(super) fn refused(&self, known: &Known, closing: &Closing) {
        self.add(
            || About::of(known, closing.verdict, closing.code, closing.policy(known)),
            |counts| {
                counts.count += 1;
                counts.ended += 1;
            },
        );
    }

    pub(super) fn answered(&self, request: Answered<'_>) {
        let side =
            |(workload, proven): (Option<&Arc<Workload>>, Option<&Identity>)| Side { workload: workload.cloned(), proven: proven.cloned() };
        let about = About {
            direction: Direction::Inbound,
            path: Path::Tunnel,
            verdict: request.verdict,
            policy: Policy::of(request.policy),
            code: request.code,
            source: side(request.source),
            destination: side(request.destination),
            service: Some(Arc::clone(request.service)),
            port: request.port,
            request: Some(request.about),
            other: false,
        };
        self.add(
            || about,
            |counts| {
                counts.count += 1;
                counts.ended += 1;
                counts.moved(request.sent, request.received);
                counts.took(Some(request.duration));
            },
        );
    }

    fn add(&self, about: impl FnOnce() -> About, count: impl FnOnce(&mut Counts)) {
        if self.idle.load(Ordering::Relaxed) {
            return;
        }
        let about = about();
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let about = if all.len() < MOST_EDGES || all.contains_key(&about) { about } else { about.other() };
        let about = if all.len() < MOST_EDGES + MOST_OTHERS || all.contains_key(&about) { about } else { about.nameless() };
        count(all.entry(about).or_default());
    }

    /// What was counted since the last call.
    pub(crate) fn take(&self) -> Vec<Edge> {
        let taken = std::mem::take(&mut *self.counts.lock().unwrap_or_else(PoisonError::into_inner));
        // No data thread waits while texts are made.
        taken.into_iter().map(|(about, counts)| counts.to_wire(&about)).collect()
    }
}

impl Policy {
    fn of(policy: Option<&PolicyRef>) -> Option<Self> {
        policy.map(|policy| Self { name: Arc::clone(&policy.name), rule: policy.rule })
    }
}

impl About {
    fn of(known: &Known, verdict: Verdict, code: &'static str, policy: Option<&PolicyRef>) -> Self {
        let side = |end: &End| Side { workload: end.workload.clone(), proven: end.proven.clone() };
        Self {
            direction: known.direction,
            path: known.path,
            verdict,
            policy: Policy::of(policy),
            code,
            source: side(&known.source),
            destination: side(&known.destination),
            service: known.service.as_ref().map(|service| Arc::clone(&service.key)),
            port: known.destination.port(),
            request: None,
            other: false,
        }
    }

    /// All to the same destination that ended alike.
    fn other(self) -> Self {
        Self { policy: None, code: "", source: Side::default(), request: None, other: true, ..self }
    }

    fn nameless(self) -> Self {
        Self { path: Path::Unspecified, destination: Side::default(), service: None, port: 0, ..self.other() }
    }

    fn to_wire(&self) -> EdgeAbout {
        EdgeAbout {
            direction: self.direction.into(),
            path: self.path.into(),
            verdict: self.verdict.into(),
            policy: self.policy.as_ref().map(|policy| policy.name.to_string()).unwrap_or_default(),
            rule: self.policy.as_ref().and_then(|policy| policy.rule?.try_into().ok()).unwrap_or_default(),
            code: self.code.to_owned(),
            source: Some(self.source.to_wire()),
            destination: Some(self.destination.to_wire()),
            service: self.service.as_deref().unwrap_or_default().to_owned(),
            port: self.port.into(),
            request: self.request.as_ref().map(|request| EdgeRequest {
                method: request.method.to_owned(),
                status: request.status.into(),
                route: request.route.clone(),
                flags: request.flags.to_string(),
                port: request.port.into(),
                authority: request.target.as_ref().map(|target| target.authority.to_string()).unwrap_or_default(),
                path: request.target.as_ref().map(|target| target.path.to_string()).unwrap_or_default(),
            }),
            other: self.other,
        }
    }
}

impl Side {
    /// What made it, and where.
    fn names(&self) -> (&str, &str) {
        self.workload.as_deref().map_or(("", ""), |workload| (&workload.workload_name, &workload.namespace))
    }

    fn to_wire(&self) -> EdgeEnd {
        let (workload, namespace) = self.names();
        let identity = self.proven.as_ref().map_or("", Identity::as_str);
        EdgeEnd { workload: workload.to_owned(), namespace: namespace.to_owned(), identity: identity.to_owned() }
    }
}

impl PartialEq for Side {
    fn eq(&self, other: &Self) -> bool {
        self.names() == other.names() && self.proven == other.proven
    }
}

impl Eq for Side {}

impl Hash for Side {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The proven identity is nearly always that of the workload: it tells hardly any two apart.
        self.names().hash(state);
    }
}

impl Counts {
    fn moved(&mut self, sent: u64, received: u64) {
        self.sent += sent;
        self.received += received;
    }

    fn took(&mut self, time: Option<Duration>) {
        if let Some(time) = time {
            self.latency[bucket(clock::microseconds(time))] += 1;
        }
    }

    fn spoke(&mut self, protocol: Option<Protocol>) {
        self.protocols |= protocol.map_or(0, |protocol| 1 << protocol as u16);
    }

    fn to_wire(&self, about: &About) -> Edge {
        let spoken = Protocol::ALL.into_iter().filter(|protocol| self.protocols & (1 << *protocol as u16) != 0);
        let used = self.latency.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        Edge {
            about: about.to_wire().encode_to_vec(),
            count: self.count,
            ended: self.ended,
            bytes_sent: self.sent,
            bytes_received: self.received,
            latency: self.latency[..used].to_vec(),
            protocols: spoken.map(|protocol| protocol.as_str().to_owned()).collect(),
        }
    }
}

/// The first whose upper end, 32 * 2^i microseconds, is not below.
fn bucket(microseconds: u64) -> usize {
    let ends = microseconds.div_ceil(FIRST_BUCKET_MICROSECONDS).max(1).next_power_of_two().ilog2();
    usize::try_from(ends).unwrap_or(BUCKETS).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn known(port: u16) -> Known {
        let mut known = Known::new(1, Direction::Inbound, "pod".into());
        known.destination = End::new(SocketAddr::from(([10, 0, 0, 1], port)), None, None);
        known
    }

    fn told(edge: &Edge) -> EdgeAbout {
        EdgeAbout::decode(&*edge.about).expect("an edge")
    }

    #[test]
    fn a_time_is_in_the_bucket_that_the_contract_says() {
        for (microseconds, expected) in [(0, 0), (32, 0), (33, 1), (64, 1), (65, 2), (32 << 22, 22), ((32 << 22) + 1, 23), (u64::MAX, 23)] {
            assert_eq!(bucket(microseconds), expected, "{microseconds}");
        }
    }

    #[test]
    fn what_is_alike_is_one_edge_and_is_told_once() {
        let edges = AllEdges::default();
        edges.opened(&known(80));
        edges.opened(&known(80));
        edges.moved(&known(80), 3, 4);
        edges.opened(&known(81));
        let mut all = edges.take();
        all.sort_by_key(|edge| told(edge).port);
        assert_eq!((all.len(), all[0].count, all[0].bytes_sent, all[0].bytes_received, all[1].count), (2, 2, 3, 4, 1));
        assert_eq!(edges.take(), []);
    }

    #[test]
    fn what_nobody_keeps_is_not_counted_until_somebody_does() {
        let edges = AllEdges::default();
        edges.opened(&known(80));
        edges.wanted(false);
        edges.opened(&known(80));
        assert_eq!(edges.take().iter().map(|edge| edge.count).sum::<u64>(), 1, "what was counted before is told");
        edges.wanted(true);
        edges.opened(&known(80));
        assert_eq!(edges.take().len(), 1);
    }

    #[test]
    fn a_million_distinct_edges_are_all_counted_in_a_bounded_table() {
        let edges = AllEdges::default();
        let mut offered: u64 = 0;
        // Sources and policies without number to a few destinations, and destinations without number.
        for name in 0..1_000_000_u32 {
            let mut known = known(if name % 2 == 0 { 80 } else { u16::try_from(name % 65_536).expect("a port") });
            let policy = PolicyRef { name: format!("shop/{name}").into(), rule: None };
            known.policy = Some(policy);
            edges.opened(&known);
            offered += 1;
        }
        let all = edges.take();
        assert!(all.len() <= MOST_EDGES + MOST_OTHERS + 1, "{} edges", all.len());
        assert_eq!(all.iter().map(|edge| edge.count).sum::<u64>(), offered);
        let others: Vec<_> = all.iter().map(|edge| (told(edge), edge.count)).filter(|(about, _)| about.other).collect();
        assert!(others.iter().any(|(about, count)| about.port == 80 && *count > 400_000), "one destination keeps its name");
        assert_eq!(others.iter().filter(|(about, _)| about.port == 0).count(), 1, "and the rest has none");
    }
}
