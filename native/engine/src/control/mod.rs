//! The control thread: takes what the director says, makes it true in the data threads, and tells the facts back.
mod bind;
mod drift;
mod identities;
mod pods;
mod state;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use trackbed_contract::Identity;
use trackbed_contract::engine::{
    AddPod, Applied, CertificateReply, Drift, DriftKind, Hello, PodGone, ProofResult, RemovePod, ResourceType, StateDelta, Welcome,
    from_engine, to_engine,
};
use trackbed_contract::tables::{errors, product};
use trackbed_decide::World;
use trackbed_netns::{Handover, HandoverListener, Netns, Watch};

use crate::blob;
use crate::data::{self, Order};
use crate::director::{FromDirector, Outbox};
use crate::log::LogLevel;
use crate::worker::heritage::{Heritage, Safe};
use crate::worker::shared::Shared;
use bind::Left;
use identities::{Identities, Outcome, Trouble};
use pods::{Entry, HANDOVER_WAIT, Parked, describe};
use state::State;

/// Events of tasks on their way to the control loop; a task waits when it is full.
const EVENTS: usize = 256;
/// Deadlines of hand-overs and certificates are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// Connection counts and address troubles are told at most this often.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// A worker that is told to stop lets connections go on for this long.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// After an error of the hand-over listener itself.
const HANDOVER_PAUSE: Duration = Duration::from_millis(100);
/// Acknowledgements that wait for the data threads.
const ACKNOWLEDGEMENTS: usize = 1024;

#[derive(Debug)]
enum Event {
    Handover(Handover),
    Drift {
        uid: Arc<str>,
        cookie: u64,
        drifts: Vec<Drift>,
    },
    /// The last connection of a leaving pod has ended, or its deadline has passed.
    Drained {
        uid: Arc<str>,
        cookie: u64,
    },
    Proof {
        request_id: u64,
        uid: String,
        result: Result<(), String>,
    },
    Applied(Applied),
}

#[derive(Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    threads: Vec<data::Handle>,
    safe: Safe,
    log: LogLevel,
    outbox: Option<Outbox>,
    state: State,
    identities: Identities,
    pods: HashMap<Arc<str>, Entry>,
    parked: Parked,
    instance: String,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    acknowledge: mpsc::Sender<(Applied, Vec<oneshot::Receiver<()>>)>,
}

impl Control {
    /// Must be called on the control thread's runtime.
    pub(crate) async fn new(shared: Arc<Shared>, threads: Vec<data::Handle>, safe: Safe, log: LogLevel, heritage: &mut Heritage) -> Self {
        let (events, queue) = mpsc::channel(EVENTS);
        let (acknowledge, acknowledgements) = mpsc::channel(ACKNOWLEDGEMENTS);
        tokio::spawn(acknowledge_in_order(acknowledgements, events.clone()));
        let state = State::inherit(heritage, &safe);
        let instance = format!("{:016x}", fastrand::u64(..));
        let identities = Identities::default();
        let (outbox, pods, parked) = (None, HashMap::new(), Parked::default());
        let mut control =
            Self { shared, threads, safe, log, outbox, state, identities, pods, parked, instance, events, queue, acknowledge };
        control.inherit(heritage).await;
        control
    }

    /// Goes on where an earlier worker ended: identities first, so that the pods' listeners can serve at once.
    async fn inherit(&mut self, heritage: &mut Heritage) {
        let now = Instant::now();
        for (key, memory) in heritage.take_below("identity/") {
            let uri = key.trim_end_matches('/');
            let inherited = Identity::parse(uri).map_err(|error| error.to_string()).and_then(|identity| {
                let parts = blob::open(&memory).map_err(|error| error.to_string())?;
                let [key, reply] = &parts[..] else { return Err("not a key and a reply".to_owned()) };
                self.identities.inherit(&identity, key, reply, now).map(drop).map_err(|error| error.to_string())
            });
            if let Err(error) = inherited {
                tracing::warn!(target: "identity", uri, error, "the kept certificate is not used");
                self.safe.drop_prefix(&identity_key(uri));
            }
        }
        self.publish_identities();
        self.publish_world();
        let mut left: HashMap<String, Left> = HashMap::new();
        for (key, descriptor) in heritage.take_below("pod/") {
            // A uid has no slash; the parts below it may.
            if let Some((uid, part)) = key.split_once('/') {
                left.entry(uid.to_owned()).or_default().push((part.to_owned(), descriptor));
            }
        }
        for (uid, parts) in left {
            if let Err(reason) = self.inherit_pod(parts).await {
                tracing::warn!(target: "pods", uid, reason, "the kept pod is not used; the director sends it again");
                self.safe.drop_prefix(&pod_key(&uid));
            }
        }
        for identity in self.identities.without_pods() {
            self.forget_identity(&identity);
        }
    }

    async fn inherit_pod(&mut self, parts: Left) -> Result<(), String> {
        let (mut spec, mut netns, mut left) = (None, None, Left::new());
        for (part, descriptor) in parts {
            match part.as_str() {
                "spec" => {
                    let parts = blob::open(&descriptor).map_err(|error| error.to_string())?;
                    let bytes = parts.first().ok_or("no spec")?;
                    spec = Some(AddPod::decode(&bytes[..]).map_err(|error| error.to_string())?);
                }
                "netns" => netns = Some(Netns::from_fd(descriptor).map_err(|error| error.to_string())?),
                _ => left.extend(part.strip_prefix("listen/").map(|name| (name.to_owned(), descriptor))),
            }
        }
        let (spec, netns) = (spec.ok_or("no spec")?, netns.ok_or("no namespace")?);
        if netns.cookie() != spec.netns_cookie {
            return Err("the namespace is another one".to_owned());
        }
        let uid: Arc<str> = spec.uid.as_str().into();
        let mut entry = Entry::new(spec, Instant::now());
        (entry.named, entry.netns) = (false, Some(Arc::new(netns)));
        self.pods.insert(Arc::clone(&uid), entry);
        self.open(&uid, left).await;
        Ok(())
    }

    /// Runs until the keeper says stop.
    pub(crate) async fn run(mut self, director: &mut mpsc::Receiver<FromDirector>, netns: OwnedFd, mut stop: oneshot::Receiver<()>) {
        match HandoverListener::from_fd(netns) {
            Ok(listener) => drop(tokio::spawn(take_handovers(listener, self.events.clone()))),
            Err(error) => {
                // Without it no pod can be added: better a new worker than a deaf one.
                tracing::error!(target: "pods", %error, "the hand-over listener cannot be used");
                return;
            }
        }
        let mut tick = tokio::time::interval(TICK);
        let mut slow_tick = tokio::time::interval(SLOW_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        slow_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stop => return self.drain().await,
                message = director.recv() => match message {
                    Some(message) => self.hear(message).await,
                    None => return,
                },
                Some(event) = self.queue.recv() => self.happen(event).await,
                _ = tick.tick() => self.deadlines(),
                _ = slow_tick.tick() => self.slow().await,
            }
        }
    }

    async fn hear(&mut self, message: FromDirector) {
        match message {
            FromDirector::Attached(outbox) => self.attached(outbox),
            FromDirector::Detached(reason) => {
                if self.outbox.take().is_some() {
                    tracing::warn!(target: "director", reason, "detached; the last state stays in force");
                } else {
                    tracing::debug!(target: "director", reason, "cannot attach");
                }
            }
            FromDirector::Malformed => tracing::error!(target: "director", "a message without content: the stream is closed"),
            FromDirector::Message(message) => self.obey(message).await,
        }
    }

    fn attached(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
        self.identities.reconnected(Instant::now());
        let now = Instant::now();
        let mut pods = Vec::new();
        for entry in self.pods.values_mut().filter(|entry| !entry.leaving) {
            entry.named = false;
            entry.told = entry.state(self.state.world(), &self.identities, now);
            pods.push(entry.told.clone());
        }
        let hello = Hello {
            contract_version: product::CONTRACT_VERSION,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            boot_id: boot_id(),
            generation: self.state.world().map_or(0, World::generation),
            resources: self.state.world().map(World::held).unwrap_or_default(),
            pods,
        };
        self.tell(from_engine::Message::Hello(hello));
    }

    async fn obey(&mut self, message: to_engine::Message) {
        match message {
            to_engine::Message::Welcome(welcome) => self.welcome(welcome).await,
            to_engine::Message::State(delta) => self.apply(delta).await,
            to_engine::Message::AddPod(spec) => self.add(spec).await,
            to_engine::Message::RemovePod(order) => self.remove(&order).await,
            to_engine::Message::InSync(_) => self.in_sync().await,
            to_engine::Message::CertificateReply(reply) => self.certified(&reply).await,
            to_engine::Message::Prove(prove) => self.prove(prove.request_id, prove.uid).await,
            to_engine::Message::SetLogLevel(level) => match self.log.set(&level.filter) {
                Ok(()) => tracing::info!(filter = level.filter, "log filter changed"),
                Err(error) => tracing::error!(error, "the log filter stays as it was"),
            },
        }
    }

    async fn happen(&mut self, event: Event) {
        match event {
            Event::Handover(handover) => self.arrived(handover).await,
            Event::Drift { uid, cookie, drifts } => self.drifted(&uid, cookie, drifts).await,
            Event::Drained { uid, cookie } => self.close(&uid, cookie).await,
            Event::Proof { request_id, uid, result } => {
                let (code, reason) = result.err().map(|reason| (errors::CAPTURE_PROOF_FAILED, reason)).unwrap_or_default();
                self.tell(from_engine::Message::ProofResult(ProofResult { request_id, uid, code: code.to_owned(), reason }));
            }
            Event::Applied(applied) => {
                self.shared.counters.generation.store(applied.generation, Ordering::Relaxed);
                self.tell(from_engine::Message::Applied(applied));
            }
        }
    }

    /// False when nobody listens; the next Hello says it then.
    fn tell(&mut self, message: from_engine::Message) {
        if self.outbox.as_ref().is_some_and(|outbox| !outbox.send(message)) {
            self.outbox = None;
        }
    }

    // The mesh state.

    async fn welcome(&mut self, welcome: Welcome) {
        let Some(settings) = welcome.settings else { return tracing::error!(target: "director", "Welcome without settings") };
        if self.state.settings() == Some(&settings) {
            return;
        }
        if let Err(error) = self.state.set_settings(settings, &self.safe) {
            return tracing::error!(target: "director", %error, "the settings stay as they were");
        }
        self.publish_world();
        // Identities follow the trust domain.
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.describe_again(&uid).await;
        }
        self.recheck(None).await;
        self.tell_changes();
    }

    async fn apply(&mut self, delta: StateDelta) {
        let before = self.state.world().cloned();
        let Some(rejected) = self.state.apply(&delta, &self.safe) else {
            return tracing::error!(target: "director", "state before Welcome");
        };
        for rejected in &rejected {
            tracing::warn!(target: "state", name = rejected.name, code = rejected.code, reason = rejected.reason, "rejected");
        }
        self.publish_world();
        self.evict(before.as_ref(), &delta).await;
        self.recheck(Some(Applied { generation: delta.generation, rejected })).await;
        self.tell_changes();
    }

    /// Tunnels to addresses that have changed hands must not serve the next owner.
    async fn evict(&self, before: Option<&World>, delta: &StateDelta) {
        let (Some(before), Some(after)) = (before, self.state.world()) else { return };
        let mut names: Vec<String> = delta.upsert.iter().map(|resource| resource.name.clone()).collect();
        names.extend(delta.remove.iter().map(|key| key.name.clone()));
        if delta.reset {
            let held = before.held().into_iter().filter(|held| held.r#type == i32::from(ResourceType::Address));
            names.extend(held.map(|held| held.name));
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for old in names.iter().filter_map(|name| before.workload(name)) {
            let new = after.workload(&old.uid).filter(|new| new.identity == old.identity);
            addresses.extend(old.addresses.iter().filter(|address| !new.is_some_and(|new| new.addresses.contains(address))));
        }
        if !addresses.is_empty() {
            for thread in &self.threads {
                let _ = thread.send(Order::Evict(addresses.clone())).await;
            }
        }
    }

    fn publish_world(&self) {
        self.shared.world.store(Arc::new(self.state.world().cloned()));
        self.shared.ring();
    }

    fn publish_identities(&self) {
        self.shared.identities.store(Arc::new(self.identities.published()));
        self.shared.ring();
    }

    /// Has live connections decided again; what was applied is acknowledged once every thread has done so.
    async fn recheck(&self, applied: Option<Applied>) {
        let mut done = Vec::new();
        for thread in &self.threads {
            let (sender, receiver) = oneshot::channel();
            if thread.send(Order::Recheck(sender)).await.is_ok() {
                done.push(receiver);
            }
        }
        if let Some(applied) = applied {
            let _ = self.acknowledge.send((applied, done)).await;
        }
    }

    // Pods.

    async fn add(&mut self, spec: AddPod) {
        let uid: Arc<str> = spec.uid.as_str().into();
        if uid.is_empty() || uid.contains('/') {
            return tracing::error!(target: "pods", uid = spec.uid, "a pod's uid is neither empty nor has a slash");
        }
        let now = Instant::now();
        match self.pods.get(&uid).map(|entry| (entry.spec.netns_cookie, entry.leaving)) {
            Some((cookie, false)) if cookie == spec.netns_cookie => return self.change(&uid, spec).await,
            // Another namespace under the same uid is another pod, and one that was leaving starts anew.
            Some((cookie, _)) => self.close(&uid, cookie).await,
            None => {}
        }
        let arrived = self.parked.take(&uid, spec.netns_cookie);
        let mut entry = Entry::new(spec, now);
        entry.netns = arrived.map(Arc::new);
        self.pods.insert(Arc::clone(&uid), entry);
        self.open(&uid, Left::new()).await;
        self.tell_changes();
    }

    /// The same pod with other fields.
    async fn change(&mut self, uid: &Arc<str>, spec: AddPod) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        entry.named = true;
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

    async fn arrived(&mut self, handover: Handover) {
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
    async fn open(&mut self, uid: &Arc<str>, left: Left) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(netns) = entry.netns.clone().filter(|_| entry.pod.is_none() && !entry.leaving) else { return };
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
    async fn describe_again(&mut self, uid: &Arc<str>) {
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

    async fn remove(&mut self, order: &RemovePod) {
        let Some(entry) = self.pods.get_mut(order.uid.as_str()) else {
            // Asked for by a director that knows more than we hold: it is gone already.
            return self.tell(from_engine::Message::PodGone(PodGone { uid: order.uid.clone(), ..PodGone::default() }));
        };
        entry.leaving = true;
        let (uid, cookie): (Arc<str>, u64) = (order.uid.as_str().into(), entry.spec.netns_cookie);
        match &entry.pod {
            Some(pod) if order.drain_milliseconds > 0 => {
                let (open, events) = (Arc::clone(&pod.open), self.events.clone());
                let limit = Duration::from_millis(order.drain_milliseconds.into());
                tokio::spawn(async move {
                    // Both ends of the wait are the same to the pod: what is left is cut.
                    let _ = tokio::time::timeout(limit, open.idle()).await;
                    let _ = events.send(Event::Drained { uid, cookie }).await;
                });
            }
            _ => self.close(&uid, cookie).await,
        }
    }

    async fn in_sync(&mut self) {
        let forgotten: Vec<_> =
            self.pods.iter().filter(|(_, entry)| !entry.named).map(|(uid, entry)| (Arc::clone(uid), entry.spec.netns_cookie)).collect();
        for (uid, cookie) in forgotten {
            self.close(&uid, cookie).await;
        }
    }

    /// Closes everything of a pod's namespace and says so.
    async fn close(&mut self, uid: &Arc<str>, cookie: u64) {
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

    async fn drifted(&mut self, uid: &Arc<str>, cookie: u64, drifts: Vec<Drift>) {
        if self.pods.get(uid).is_none_or(|entry| entry.spec.netns_cookie != cookie || entry.leaving) {
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

    async fn prove(&mut self, request_id: u64, uid: String) {
        let (sender, receiver) = oneshot::channel();
        let order = Order::Prove { uid: uid.as_str().into(), result: sender };
        let _ = self.threads[thread_of(&uid, self.threads.len())].send(order).await;
        let events = self.events.clone();
        tokio::spawn(async move {
            let result = receiver.await.unwrap_or_else(|_| Err("the engine is stopping".to_owned()));
            let _ = events.send(Event::Proof { request_id, uid, result }).await;
        });
    }

    // Identities.

    fn ask_for_certificates(&mut self) {
        if self.outbox.is_none() {
            return;
        }
        for request in self.identities.due(Instant::now()) {
            self.tell(from_engine::Message::CertificateRequest(request));
        }
    }

    async fn certified(&mut self, reply: &CertificateReply) {
        match self.identities.reply(reply, Instant::now()) {
            Outcome::Certified { certified, key, reply } => {
                let uri = certified.identity().to_string();
                self.safe.put_blob(&identity_key(&uri), [&key[..], &reply[..]]);
                tracing::info!(target: "identity", identity = uri, serial = certified.serial(), "certificate accepted");
                self.publish_identities();
                self.recheck(None).await;
            }
            Outcome::Failed { identity, trouble } => {
                let message = format!("no certificate for {identity}: {}", trouble.reason);
                self.shared.reports.event("warn", &trouble.code, "", message);
            }
            Outcome::Stale => tracing::debug!(target: "identity", id = reply.request_id, "a reply that nobody waits for"),
        }
        self.tell_changes();
    }

    fn leave_identity(&mut self, identity: &Identity, uid: &str) {
        if self.identities.remove(identity, uid) {
            self.forget_identity(identity);
        }
    }

    fn forget_identity(&mut self, identity: &Identity) {
        self.identities.forget(identity);
        self.safe.drop_prefix(&identity_key(identity.as_str()));
        self.publish_identities();
    }

    // Time.

    fn deadlines(&mut self) {
        let now = Instant::now();
        self.parked.expire(now);
        for (uid, entry) in &mut self.pods {
            let waits = entry.pod.is_none() && entry.netns.is_none() && entry.trouble.is_none();
            if waits && now.duration_since(entry.since) > HANDOVER_WAIT {
                let reason = match self.parked.cookie(uid) {
                    Some(other) => format!("the namespace handed over has cookie {other}, asked for was {}", entry.spec.netns_cookie),
                    None => format!("no namespace was handed over within {} s", HANDOVER_WAIT.as_secs()),
                };
                entry.trouble = Some(Trouble { code: errors::CAPTURE_NETNS_GONE.into(), reason });
            }
        }
        self.ask_for_certificates();
        self.tell_facts();
    }

    async fn slow(&mut self) {
        let closed: Vec<_> = self.pods.iter().filter(|(_, entry)| entry.netns.is_some()).map(|(uid, _)| Arc::clone(uid)).collect();
        for uid in closed {
            self.open(&uid, Left::new()).await;
        }
        self.tell_changes();
    }

    /// Tells every pod's facts that differ from what was told.
    fn tell_changes(&mut self) {
        self.tell_states(|told, now| told != now);
    }

    /// The same, but a changed number of connections alone waits for the slow tick.
    fn tell_facts(&mut self) {
        self.tell_states(|told, now| {
            let with = trackbed_contract::engine::PodState { connections: told.connections, ..now.clone() };
            *told != with
        });
    }

    fn tell_states(&mut self, differ: impl Fn(&trackbed_contract::engine::PodState, &trackbed_contract::engine::PodState) -> bool) {
        let now = Instant::now();
        let mut changed = Vec::new();
        for entry in self.pods.values_mut() {
            let state = entry.state(self.state.world(), &self.identities, now);
            if differ(&entry.told, &state) {
                entry.told = state.clone();
                changed.push(state);
            }
        }
        for state in changed {
            self.tell(from_engine::Message::PodState(state));
        }
    }

    /// Closes the listeners, lets connections go on for the grace time, then cuts what is left and says how much that was.
    async fn drain(self) {
        for thread in &self.threads {
            let _ = thread.send(Order::StopAccepting).await;
        }
        let deadline = Instant::now() + STOP_GRACE;
        let live = || self.shared.pods.load().connections();
        while live() > 0 && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        let mut cut = 0;
        for thread in &self.threads {
            let (sender, receiver) = oneshot::channel();
            if thread.send(Order::CutAll(sender)).await.is_ok() {
                cut += receiver.await.unwrap_or_default();
            }
        }
        // The pumps see the cut at their next turn.
        let settled = Instant::now() + TICK;
        while live() > 0 && Instant::now() < settled {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tracing::info!(cut, "stopped");
    }
}

/// Hand-overs until the worker ends.
async fn take_handovers(listener: HandoverListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.next().await {
            Ok(handover) => {
                if events.send(Event::Handover(handover)).await.is_err() {
                    return;
                }
            }
            Err(error @ trackbed_netns::HandoverError::Refused { .. }) => {
                tracing::warn!(target: "pods", code = error.code(), %error, "refused");
            }
            Err(error) => {
                tracing::error!(target: "pods", %error, "hand-overs pause");
                tokio::time::sleep(HANDOVER_PAUSE).await;
            }
        }
    }
}

/// Applied is said in the order of the deltas, each once every data thread has decided its connections again.
async fn acknowledge_in_order(mut waiting: mpsc::Receiver<(Applied, Vec<oneshot::Receiver<()>>)>, events: mpsc::Sender<Event>) {
    while let Some((applied, done)) = waiting.recv().await {
        for thread in done {
            // A data thread that is gone has taken the process with it.
            let _ = thread.await;
        }
        if events.send(Event::Applied(applied)).await.is_err() {
            return;
        }
    }
}

/// The data thread of a pod. DefaultHasher::new has fixed keys: the same pod comes to the same thread after a restart.
fn thread_of(uid: &str, threads: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    uid.hash(&mut hasher);
    usize::try_from(hasher.finish() % threads as u64).unwrap_or_default()
}

fn pod_key(uid: &str) -> String {
    format!("pod/{uid}/")
}

/// With a slash at its end, so that no key is the beginning of another.
fn identity_key(uri: &str) -> String {
    format!("identity/{uri}/")
}

fn boot_id() -> String {
    // Without it no namespace is taken for another boot's, which is only a shorter memory.
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}
