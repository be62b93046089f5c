//! A pod's way in and out: its namespace arrives, its listeners are bound, it is served, it drains and is let go.
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use trackbed_contract::engine::{AddPod, Drift, DriftKind, PodGone, RemovePod, from_engine};
use trackbed_contract::tables::errors;
use trackbed_netns::{Handover, HandoverError, HandoverListener, Watch};

use super::bind::{self, Left};
use super::identities::Trouble;
use super::pods::{Entry, describe};
use super::{Control, Event, drift, pod_key, thread_of};
use crate::data::Order;

/// After an error of the hand-over listener itself.
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);

impl Control {
    pub(super) async fn add(&mut self, spec: AddPod) {
        let uid: Arc<str> = spec.uid.as_str().into();
        if uid.is_empty() || uid.contains('/') {
            return tracing::error!(target: "pods", uid = spec.uid, "a pod's uid is neither empty nor has a slash");
        }
        let now = Instant::now();
        match self.pods.get(&uid).map(|entry| entry.spec.netns_cookie) {
            Some(cookie) if cookie == spec.netns_cookie => return self.change(&uid, spec).await,
            // Another namespace under the same uid is another pod.
            Some(cookie) => self.close(&uid, cookie).await,
            None => {}
        }
        let arrived = self.parked.take(&uid, spec.netns_cookie);
        let mut entry = Entry::new(spec, now);
        entry.netns = arrived.map(Arc::new);
        self.pods.insert(Arc::clone(&uid), entry);
        self.open(&uid, Left::new()).await;
        self.tell_changes();
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
        if let Some(pod) = &entry.pod {
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
        let opened = bind::bind(&entry.spec, None, &netns, left, &self.safe).map_err(|error| error.to_string());
        let opened = opened.and_then(|listeners| Ok((listeners, Watch::new(&netns).map_err(|error| error.to_string())?)));
        let (listeners, watch) = match opened {
            Ok(opened) => opened,
            Err(reason) => return entry.trouble = Some(Trouble { code: errors::CAPTURE_LISTEN_FAILED.into(), reason }),
        };
        let pod = Arc::new(pod);
        let watching = tokio::spawn(drift::watch(Arc::clone(uid), pod.cookie, watch, self.events.clone()));
        (entry.trouble, entry.watch, entry.netns) = (trouble, Some(watching.abort_handle()), None);
        entry.pod = Some(Arc::clone(&pod));
        self.safe.put(&format!("{}netns", pod_key(uid)), netns.as_fd());
        self.safe.put_blob(&format!("{}spec", pod_key(uid)), [&entry.spec.encode_to_vec()[..]]);
        self.identities.add(&pod.identity, uid, Instant::now());
        self.shared.pods.store(Arc::new(self.shared.pods.load().with(Arc::clone(&pod))));
        self.shared.ring();
        tracing::info!(target: "pods", %uid, name = %pod.local.name, namespace = %pod.local.namespace, cookie = pod.cookie, "pod taken in");
        let _ = self.threads[thread_of(uid, self.threads.len())].send(Order::Add { pod, listeners }).await;
        self.ask_for_certificates();
    }

    /// Looks at spec, settings and namespace again; an open pod follows without losing anything.
    pub(super) async fn describe_again(&mut self, uid: &Arc<str>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let (Some(pod), Some(world)) = (entry.pod.clone(), self.state.world()) else { return self.open(uid, Left::new()).await };
        match describe(&entry.spec, &pod.netns, Arc::clone(&pod.open), world) {
            Ok((next, trouble)) => {
                entry.trouble = trouble;
                if next.local == pod.local && next.identity == pod.identity && next.dns_search == pod.dns_search {
                    return;
                }
                let next = Arc::new(next);
                entry.pod = Some(Arc::clone(&next));
                if next.identity != pod.identity {
                    self.identities.add(&next.identity, uid, Instant::now());
                    self.leave_identity(&pod.identity, uid);
                }
                self.shared.pods.store(Arc::new(self.shared.pods.load().with(Arc::clone(&next))));
                self.shared.ring();
                let _ = self.threads[thread_of(uid, self.threads.len())].send(Order::Update(next)).await;
                self.ask_for_certificates();
            }
            Err(trouble) => entry.trouble = Some(trouble),
        }
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
            }
            _ => self.close(&uid, cookie).await,
        }
    }

    /// Pods that are leaving were named by the RemovePod that began it.
    pub(super) async fn in_sync(&mut self) {
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
