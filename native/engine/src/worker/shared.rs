//! What all threads of a worker read: immutable snapshots, swapped whole, and a bell that rings at each swap.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, watch};
use trackbed_contract::Identity;
use trackbed_contract::engine::Observe;
use trackbed_decide::{LocalPod, World};
use trackbed_netns::Netns;
use trackbed_tls::Certified;

use crate::report::audit::Audits;
use crate::report::edges::AllEdges;
use crate::report::limits::Limits;
use crate::report::observed::AllObserved;
use crate::report::queue::ReportQueue;
use crate::report::recording::Recordings;
use crate::report::requests::AllRequests;
use crate::report::series::AllSeries;
use crate::report::spans::Spans;
use crate::routes::Routes;

#[derive(Debug)]
pub(crate) struct Shared {
    /// `None` until the first Welcome: nothing can be decided, so every connection is held and then refused.
    pub(crate) world: ArcSwap<Option<World>>,
    pub(crate) identities: ArcSwap<HashMap<Identity, Arc<Certified>>>,
    pub(crate) pods: ArcSwap<LocalPods>,
    /// Of a waypoint.
    pub(crate) routes: ArcSwap<Routes>,
    /// Rings after each swap of those above. Whoever waits for one of them waits here.
    pub(crate) bell: watch::Sender<()>,
    pub(crate) reports: ReportQueue,
    pub(crate) edges: AllEdges,
    pub(crate) recordings: Recordings,
    pub(crate) series: AllSeries,
    pub(crate) requests: AllRequests,
    pub(crate) observed: AllObserved,
    pub(crate) audits: Audits,
    pub(crate) limits: Limits,
    /// Of a waypoint that has a collector for them.
    pub(crate) spans: Option<Spans>,
    /// Why a waypoint is not to be sent requests, empty when it is.
    pub(crate) unready: ArcSwap<String>,
    pub(crate) counters: Counters,
    /// How many this process may have.
    pub(crate) descriptors: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) next_flow: AtomicU64,
    /// Generation in force in every data thread.
    pub(crate) generation: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) accept_pauses: AtomicU64,
    /// Connections of pods that crowd the others.
    pub(crate) shed: AtomicU64,
    /// Peers' tunnels turned away at a pod's door.
    pub(crate) tunnels_refused: AtomicU64,
    pub(crate) client_tunnels: AtomicUsize,
    pub(crate) server_tunnels: AtomicUsize,
    pub(crate) drift: AtomicU64,
    pub(crate) dns_answered: AtomicU64,
    pub(crate) dns_forwarded: AtomicU64,
    pub(crate) dns_refused: AtomicU64,
    pub(crate) dns_failed: AtomicU64,
}

/// A pod whose namespace this engine holds. Replaced whole when the director changes it; what lives longer is behind an `Arc` of its own.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) local: LocalPod,
    pub(crate) cookie: u64,
    pub(crate) identity: Identity,
    pub(crate) dns_search: Vec<String>,
    /// It serves what has it as its waypoint, and has no application.
    pub(crate) waypoint: bool,
    pub(crate) observe: Observe,
    pub(crate) netns: Arc<Netns>,
    pub(crate) open: Arc<Open>,
}

/// Captured connections of a pod that are open, over all threads.
#[derive(Debug, Default)]
pub(crate) struct Open {
    count: AtomicU32,
    /// Of them, those that the pod's own capture took: of a relay between two pods the first one's.
    taken: AtomicU32,
    idle: Notify,
}

impl Open {
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed).into()
    }

    /// One more, until the guard is dropped.
    pub(crate) fn one(self: &Arc<Self>, taken: bool) -> OpenOne {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.taken.fetch_add(taken.into(), Ordering::Relaxed);
        OpenOne { open: Arc::clone(self), taken }
    }

    /// Waits until the last has ended.
    pub(crate) async fn idle(&self) {
        while self.count() > 0 {
            let notified = self.idle.notified();
            if self.count() == 0 {
                return;
            }
            notified.await;
        }
    }
}

#[derive(Debug)]
pub(crate) struct OpenOne {
    open: Arc<Open>,
    taken: bool,
}

impl Drop for OpenOne {
    fn drop(&mut self) {
        self.open.taken.fetch_sub(self.taken.into(), Ordering::Relaxed);
        if self.open.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.open.idle.notify_one();
        }
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct LocalPods(HashMap<Arc<str>, Arc<Pod>>);

impl LocalPods {
    pub(crate) fn get(&self, uid: &str) -> Option<&Arc<Pod>> {
        self.0.get(uid)
    }

    /// Of a waypoint: itself.
    pub(crate) fn first(&self) -> Option<&Arc<Pod>> {
        self.0.values().next()
    }

    /// The pod that a workload of the mesh is, when it is one of this engine's.
    pub(crate) fn of_workload(&self, namespace: &str, name: &str, address: IpAddr) -> Option<&Arc<Pod>> {
        self.0.values().find(|pod| *pod.local.name == *name && *pod.local.namespace == *namespace && pod.local.addresses.contains(&address))
    }

    pub(crate) fn with(&self, pod: Arc<Pod>) -> Self {
        let mut next = self.clone();
        next.0.insert(Arc::clone(&pod.local.uid), pod);
        next
    }

    pub(crate) fn without(&self, uid: &str) -> Self {
        let mut next = self.clone();
        next.0.remove(uid);
        next
    }

    /// Connections that a pod's capture took, on average.
    pub(crate) fn average_taken(&self) -> u64 {
        self.0.values().map(|pod| pod.open.taken()).sum::<u64>() / (self.0.len() as u64).max(1)
    }

    pub(crate) fn connections(&self) -> u64 {
        self.0.values().map(|pod| u64::from(pod.open.count())).sum()
    }
}

impl Shared {
    pub(crate) fn new(restarts: u64) -> Self {
        let counters = Counters { restarts: AtomicU64::new(restarts), ..Counters::default() };
        Self {
            world: ArcSwap::from_pointee(None),
            identities: ArcSwap::default(),
            pods: ArcSwap::default(),
            routes: ArcSwap::default(),
            bell: watch::Sender::new(()),
            reports: ReportQueue::default(),
            edges: AllEdges::default(),
            recordings: Recordings::default(),
            series: AllSeries::default(),
            requests: AllRequests::default(),
            observed: AllObserved::default(),
            audits: Audits::default(),
            limits: Limits::default(),
            spans: None,
            unready: ArcSwap::from_pointee("starting".to_owned()),
            counters,
            descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        }
    }

    /// The certificate of an identity, when it is valid now.
    pub(crate) fn certified(&self, identity: &Identity) -> Option<Arc<Certified>> {
        self.identities.load().get(identity).filter(|certified| certified.check(SystemTime::now()).is_ok()).cloned()
    }

    pub(crate) fn next_flow(&self) -> u64 {
        self.counters.next_flow.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn ring(&self) {
        self.bell.send_replace(());
    }
}
