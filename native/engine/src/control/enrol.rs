//! A pod's way in and out: its namespace arrives, its listeners are bound, it is served, it drains and is let go.
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use trackbed_contract::engine::{AddPod, Drift, DriftKind, PodGone, RemovePod, from_engine};
use trackbed_contract::tables::errors;
use trackbed_netns::{Handover, HandoverError, HandoverListener, Netns, Watch};

use super::bind::{self, Left};
use super::identities::Trouble;
use super::pods::{Entry, describe};
use super::{Control, Event, drift, pod_key, thread_of};
use crate::data::{self, Listeners, Order};
use crate::worker::shared::Pod;

/// After an error of the hand-over listener itself.
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);

impl Control {
    pub(super) async fn add(&mut self, spec: AddPod) {
        let uid: Arc<str> = spec.uid.as_str().into();
        if uid.is_empty() || uid.contains('/') {
            return tracing::error!(target: "pods", uid = spec.uid, "a pod's uid is neither empty nor has a slash");
        }
        let now = Instant::now();
        match self.pods.get(&uid).map(|entry| (entry.spec.netns_cookie, entry.has_stopped())) {
            Some((cookie, false)) if cookie == spec.netns_cookie => return self.change(&uid, spec).await,
            // Another namespace under the same uid is another pod.
            Some((cookie, _)) => self.close(&uid, cookie).await,
            None => {}
        }
        let mut entry = Entry::new(spec, now);
        match self.namespace(&entry.spec) {
            Ok(netns) => entry.netns = netns.map(Arc::new),
            Err(trouble) => entry.trouble = Some(trouble),
        }
        self.pods.insert(Arc::clone(&uid), entry);
        self.open(&uid, Left::new()).await;
        self.tell_changes();
    }

    /// Where the pod is. None while it is still to be handed over.
    fn namespace(&mut self, spec: &AddPod) -> Result<Option<Netns>, Trouble> {
        let wrong = |reason: &str| Err(Trouble { code: errors::SOURCE_INVALID.into(), reason: reason.to_owned() });
        match (spec.waypoint, self.is_waypoint()) {
            (false, false) => Ok(self.parked.take(&spec.uid, spec.netns_cookie)),
            (true, false) => wrong("AddPod.waypoint: this is a node's engine, which has no pod of its own"),
            (false, true) => wrong("AddPod without waypoint: this is a waypoint's engine, which takes no other pod in"),
            (true, true) if !self.pods.is_empty() => wrong("a second AddPod.waypoint: an engine has one pod of its own"),
            (true, true) => match Netns::own() {
                Ok(netns) => Ok(Some(netns)),
                Err(error) => Err(Trouble { code: error.code().into(), reason: error.to_string() }),
            },
        }
    }

    /// The same pod with other fields, or one that was leaving and stays: its open connections do not notice.
    pub(super) async fn change(&mut self, uid: &Arc<str>, spec: AddPod) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.named = true;
        entry.stay();
        if entry.spec == spec {
            return;
        }
        let bound = std::mem::replace(&mut entry.spec, spec);
        if let Some(pod) = entry.pod.as_ref().filter(|pod| !pod.waypoint) {
            match bind::bind(&entry.spec, Some(&bound), &pod.netns, Left::new(), &self.safe) {
                Ok(listeners) => {
                    let order = Order::Listen { uid: Arc::clone(uid), listeners };
                    let _ = self.threads[thread_of(uid, self.threads.len())].send(order).await;
                }
                Err(error) => entry.trouble = Some(Trouble { code: errors::CAPTURE_LISTEN_FAILED.into(), reason: error.to_string() }),
            }
            self.safe.put_blob(&format!("{}spec", pod_key(uid)), [&entry.spec.encode_to_vec()[..]]);
        }
        self.describe_again(uid).await;
        self.tell_changes();
    }

    pub(super) async fn arrived(&mut self, handover: Handover) {
        let Handover { uid, netns } = handover;
        match self.pods.get_mut(uid.as_str()) {
            Some(entry) if entry.pod.is_none() && entry.netns.is_none() && entry.spec.netns_cookie == netns.cookie() => {
                entry.netns = Some(Arc::new(netns));
                let uid: Arc<str> = uid.as_str().into();
                self.open(&uid, Left::new()).await;
                self.tell_changes();
            }
            // Already held: the descriptor is one too many.
            Some(entry) if entry.pod.is_some() && entry.spec.netns_cookie == netns.cookie() => {}
            _ => self.parked.park(uid, netns, Instant::now()),
        }
    }

    /// Binds a pod's listeners, once its namespace is there. What goes wrong is told as trouble and tried again.
    pub(super) async fn open(&mut self, uid: &Arc<str>, left: Left) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(netns) = entry.netns.clone().filter(|_| entry.pod.is_none() && entry.leaving.is_none()) else { return };
        let Some(world) = self.state.world() else { return };
        let (pod, trouble) = match describe(&entry.spec, &netns, Arc::default(), world) {
            Ok(described) => described,
            Err(trouble) => return entry.trouble = Some(trouble),
        };
        let opened = if pod.waypoint {
            bind::bind_waypoint(&pod.local.addresses, &netns).map(|listeners| (listeners, None)).map_err(|error| error.to_string())
        } else {
            let listeners = bind::bind(&entry.spec, None, &netns, left, &self.safe).map_err(|error| error.to_string());
            listeners.and_then(|listeners| Ok((listeners, Some(Watch::new(&netns).map_err(|error| error.to_string())?))))
        };
        let (listeners, watch) = match opened {
            Ok(opened) => opened,
            Err(reason) => return entry.trouble = Some(Trouble { code: errors::CAPTURE_LISTEN_FAILED.into(), reason }),
        };
        let pod = Arc::new(pod);
        let events = &self.events;
        let watching = watch.map(|watch| tokio::spawn(drift::watch(Arc::clone(uid), pod.cookie, watch, events.clone())).abort_handle());
        (entry.trouble, entry.watch, entry.netns) = (trouble, watching, None);
        entry.pod = Some(Arc::clone(&pod));
        self.safe.put(&format!("{}netns", pod_key(uid)), netns.as_fd());
        self.safe.put_blob(&format!("{}spec", pod_key(uid)), [&entry.spec.encode_to_vec()[..]]);
        self.identities.add(&pod.identity, uid, Instant::now());
        self.shared.pods.store(Arc::new(self.shared.pods.load().with(Arc::clone(&pod))));
        self.shared.ring();
        tracing::info!(target: "pods", %uid, name = %pod.local.name, namespace = %pod.local.namespace, cookie = pod.cookie, "pod taken in");
        self.give(&pod, listeners, |listeners| Order::Add { pod: Arc::clone(&pod), listeners }).await;
        self.ask_for_certificates();
    }

    /// Looks at spec, settings and namespace again; an open pod follows without losing anything.
    pub(super) async fn describe_again(&mut self, uid: &Arc<str>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let (Some(pod), Some(world)) = (entry.pod.clone(), self.state.world()) else { return self.open(uid, Left::new()).await };
        match describe(&entry.spec, &pod.netns, Arc::clone(&pod.open), world) {
            Ok((next, trouble)) => {
                entry.trouble = trouble;
                let is_same = next.local == pod.local && next.identity == pod.identity && next.observe == pod.observe;
                if is_same && next.dns_search == pod.dns_search {
                    return;
                }
                let added: Vec<IpAddr> =
                    next.local.addresses.iter().filter(|address| !pod.local.addresses.contains(address)).copied().collect();
                let added = if next.waypoint { bind::bind_waypoint(&added, &pod.netns) } else { Ok(Listeners::default()) };
                let added = match added {
                    Ok(listeners) => listeners,
                    Err(error) => {
                        let reason = error.to_string();
                        return entry.trouble = Some(Trouble { code: errors::CAPTURE_LISTEN_FAILED.into(), reason });
                    }
                };
                let next = Arc::new(next);
                entry.pod = Some(Arc::clone(&next));
                if next.identity != pod.identity {
                    self.identities.add(&next.identity, uid, Instant::now());
                    self.leave_identity(&pod.identity, uid);
                }
                self.shared.pods.store(Arc::new(self.shared.pods.load().with(Arc::clone(&next))));
                self.shared.ring();
                for thread in self.threads_of(&next) {
                    let _ = thread.send(Order::Update(Arc::clone(&next))).await;
                }
                if next.waypoint {
                    self.give(&next, added, |listeners| Order::Listen { uid: Arc::clone(uid), listeners }).await;
                }
                self.ask_for_certificates();
            }
            Err(trouble) => entry.trouble = Some(trouble),
        }
    }

    /// A captured pod's connections are one thread's; a waypoint's requests are everybody's.
    fn threads_of(&self, pod: &Pod) -> &[data::Handle] {
        let own = thread_of(&pod.local.uid, self.threads.len());
        if pod.waypoint { &self.threads } else { &self.threads[own..=own] }
    }

    /// Has a pod's threads accept from these listeners: whichever of them is free takes a connection.
    async fn give(&self, pod: &Pod, listeners: Listeners, order: impl Fn(Listeners) -> Order) {
        let Some((last, others)) = self.threads_of(pod).split_last() else { return };
        for thread in others {
            match listeners.try_clone() {
                Ok(copy) => drop(thread.send(order(copy)).await),
                Err(error) => tracing::error!(target: "pods", uid = %pod.local.uid, %error, "a thread goes without the pod's listeners"),
            }
        }
        let _ = last.send(order(listeners)).await;
    }

    pub(super) async fn remove(&mut self, order: &RemovePod) {
        let Some(entry) = self.pods.get_mut(order.uid.as_str()) else {
            // Asked for by a director that knows more than we hold: it is gone already.
            return self.tell(from_engine::Message::PodGone(PodGone { uid: order.uid.clone(), ..PodGone::default() }));
        };
        entry.stay();
        let (uid, cookie): (Arc<str>, u64) = (order.uid.as_str().into(), entry.spec.netns_cookie);
        match &entry.pod {
            Some(pod) if order.drain_milliseconds > 0 => {
                let (open, events) = (Arc::clone(&pod.open), self.events.clone());
                let limit = Duration::from_millis(order.drain_milliseconds.into());
                let draining = tokio::spawn(async move {
                    // Both ends of the wait are the same to the pod: what is left is cut.
                    let _ = tokio::time::timeout(limit, open.idle()).await;
                    let _ = events.send(Event::Drained { uid, cookie }).await;
                });
                entry.leaving = Some(draining.abort_handle());
                if pod.waypoint {
                    for thread in &self.threads {
                        let _ = thread.send(Order::StopAccepting).await;
                    }
                }
            }
            _ => self.close(&uid, cookie).await,
        }
    }

    /// Pods that are leaving were named by the RemovePod that began it.
    pub(super) async fn in_sync(&mut self) {
        self.synced = true;
        let forgotten: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, entry)| !entry.named && entry.leaving.is_none())
            .map(|(uid, entry)| (Arc::clone(uid), entry.spec.netns_cookie))
            .collect();
        for (uid, cookie) in forgotten {
            self.close(&uid, cookie).await;
        }
    }

    /// Closes everything of a pod's namespace and says so.
    pub(super) async fn close(&mut self, uid: &Arc<str>, cookie: u64) {
        if self.pods.get(uid).is_none_or(|entry| entry.spec.netns_cookie != cookie) {
            return;
        }
        let Some(entry) = self.pods.remove(uid) else { return };
        let mut cut = 0;
        self.safe.drop_prefix(&pod_key(uid));
        if let Some(pod) = &entry.pod {
            self.shared.pods.store(Arc::new(self.shared.pods.load().without(uid)));
            self.shared.ring();
            // Other threads may relay into the pod.
            for thread in &self.threads {
                let (sender, receiver) = oneshot::channel();
                let order = Order::Close { uid: Arc::clone(uid), cookie, cut: sender };
                if thread.send(order).await.is_ok() {
                    cut += receiver.await.unwrap_or_default();
                }
            }
            self.leave_identity(&pod.identity, uid);
            tracing::info!(target: "pods", %uid, cut, "pod let go");
        }
        self.tell(from_engine::Message::PodGone(PodGone { uid: uid.to_string(), netns_cookie: cookie, cut }));
    }

    pub(super) async fn drifted(&mut self, uid: &Arc<str>, cookie: u64, drifts: Vec<Drift>) {
        if self.pods.get(uid).is_none_or(|entry| entry.spec.netns_cookie != cookie || entry.leaving.is_some()) {
            return;
        }
        self.shared.counters.drift.fetch_add(drifts.len() as u64, Ordering::Relaxed);
        let addresses = drifts.iter().any(|drift| drift.kind != i32::from(DriftKind::Rules));
        for drift in drifts {
            self.tell(from_engine::Message::Drift(drift));
        }
        if addresses {
            // An address may have come (duplicate address detection takes a second) or gone.
            self.describe_again(uid).await;
            self.tell_changes();
        }
    }

    pub(super) async fn prove(&mut self, request_id: u64, uid: String) {
        let (sender, receiver) = oneshot::channel();
        let order = Order::Prove { uid: uid.as_str().into(), result: sender };
        let _ = self.threads[thread_of(&uid, self.threads.len())].send(order).await;
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = receiver.await.unwrap_or_else(|_| Err("the engine is stopping".to_owned()));
            let _ = events.send(Event::Proof { request_id, uid, result }).await;
        });
    }
}

/// Hand-overs until the worker ends.
pub(super) async fn take_handovers(listener: HandoverListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.next().await {
            Ok(handover) => {
                if events.send(Event::Handover(handover)).await.is_err() {
                    return;
                }
            }
            Err(error @ HandoverError::Refused { .. }) => {
                tracing::warn!(target: "pods", code = error.code(), %error, "refused");
            }
            Err(error) => {
                tracing::error!(target: "pods", %error, "hand-overs pause");
                tokio::time::sleep(HANDOVER_PAUSE).await;
            }
        }
    }
}
