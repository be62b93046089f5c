//! The control thread: takes what the director says, makes it true in the data threads, and tells the facts back.
mod apply;
mod bind;
mod certify;
mod drift;
mod enrol;
mod identities;
mod inherit;
mod pods;
mod readiness;
mod state;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::{mpsc, oneshot};
use trackbed_contract::engine::{Applied, Drift, Hello, ProofResult, from_engine, to_engine};
use trackbed_contract::tables::{errors, product};
use trackbed_decide::World;
use trackbed_netns::{Handover, HandoverListener};

use crate::data::{self, Order};
use crate::director::{FromDirector, Outbox};
use crate::log::LogLevel;
use crate::worker::heritage::{Heritage, Safe};
use crate::worker::shared::Shared;
use bind::Left;
use identities::{Identities, Trouble};
use pods::{Entry, HANDOVER_WAIT, Parked};
use state::State;

/// Events of tasks on their way to the control loop; a task waits when it is full.
const EVENTS: usize = 256;
/// Deadlines of hand-overs and certificates are looked at this often.
const TICK: Duration = Duration::from_millis(100);
/// Connection counts and address troubles are told at most this often.
const SLOW_TICK: Duration = Duration::from_secs(1);
/// A node's worker that is told to stop lets connections go on for this long.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// A waypoint that is told to stop still takes what it is sent for this long: it is not ready any more, and who sends requests hears of that.
const NOTICE: Duration = Duration::from_secs(2);
/// Beside the rest of Hello, names and versions of about 40k resources; the limit of a message is 4 MiB.
const HELLO_BYTES: usize = 3 << 20;
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
    /// The director has said at least once that nothing is missing.
    synced: bool,
    instance: String,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    acknowledge: mpsc::Sender<apply::Waiting>,
}

impl Control {
    /// Must be called on the control thread's runtime.
    pub(crate) async fn new(shared: Arc<Shared>, threads: Vec<data::Handle>, safe: Safe, log: LogLevel, heritage: &mut Heritage) -> Self {
        let state = State::inherit(heritage, &safe);
        let mut control = Self::with(shared, threads, safe, log, state);
        control.inherit(heritage).await;
        control
    }

    /// Of a waypoint: nobody left anything, and nobody goes on where it ends.
    pub(crate) fn of_waypoint(shared: Arc<Shared>, threads: Vec<data::Handle>, log: LogLevel) -> Self {
        Self::with(shared, threads, Safe::without_keeper(), log, State::of_waypoint())
    }

    fn with(shared: Arc<Shared>, threads: Vec<data::Handle>, safe: Safe, log: LogLevel, state: State) -> Self {
        let (events, queue) = mpsc::channel(EVENTS);
        let (acknowledge, acknowledgements) = mpsc::channel(ACKNOWLEDGEMENTS);
        tokio::spawn(apply::acknowledge_in_order(acknowledgements, events.clone()));
        let instance = format!("{:016x}", fastrand::u64(..));
        let identities = Identities::default();
        let (outbox, pods, parked, synced) = (None, HashMap::new(), Parked::default(), false);
        Self { shared, threads, safe, log, outbox, state, identities, pods, parked, synced, instance, events, queue, acknowledge }
    }

    fn is_waypoint(&self) -> bool {
        self.state.routes().is_some()
    }

    /// Hands over of pods' namespaces come to this listener. Without it no pod can be added.
    pub(crate) fn take_handovers(&self, netns: OwnedFd) -> std::io::Result<()> {
        let listener = HandoverListener::from_fd(netns)?;
        drop(tokio::spawn(enrol::take_handovers(listener, self.events.clone())));
        Ok(())
    }

    /// Runs until it is told to stop; what is open then has `grace` to end.
    pub(crate) async fn run(mut self, director: &mut mpsc::Receiver<FromDirector>, mut stop: oneshot::Receiver<()>, grace: Duration) {
        let mut tick = tokio::time::interval(TICK);
        let mut slow_tick = tokio::time::interval(SLOW_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        slow_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = &mut stop => return self.drain(grace).await,
                message = director.recv() => match message {
                    Some(message) => self.hear(message).await,
                    None => return,
                },
                Some(event) = self.queue.recv() => self.happen(event).await,
                _ = tick.tick() => self.deadlines(),
                _ = slow_tick.tick() => self.slow().await,
            }
            self.tell_readiness();
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
            FromDirector::Message(message) => self.obey(message).await,
        }
    }

    fn attached(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
        self.identities.reconnected(Instant::now());
        let now = Instant::now();
        let mut pods = Vec::new();
        for entry in self.pods.values_mut().filter(|entry| entry.leaving.is_none()) {
            entry.named = false;
            entry.told = entry.state(self.state.world(), &self.identities, now);
            pods.push(entry.told.clone());
        }
        let mut hello = Hello {
            contract_version: product::CONTRACT_VERSION,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.instance.clone(),
            boot_id: boot_id(),
            generation: self.state.world().map_or(0, World::generation),
            resources: self.state.held(),
            pods,
            records: true,
        };
        if hello.encoded_len() > HELLO_BYTES {
            // More names than one message holds: as if nothing were held, so that everything comes again.
            (hello.generation, hello.resources) = (0, Vec::new());
        }
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
            // The stream's own task does it (director/recorder.rs): a recording lives no longer than the stream.
            to_engine::Message::Record(_) | to_engine::Message::StopRecord(_) => {}
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
            // It may have been asked to stay while this was on its way.
            Event::Drained { uid, cookie } => {
                if self.pods.get(&uid).is_some_and(|entry| entry.leaving.is_some()) {
                    self.close(&uid, cookie).await;
                }
            }
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
        if self.is_waypoint() {
            // Nobody tells of changes of its own namespace: an address that was missing may be there now.
            let lacking: Vec<_> = self.pods.iter().filter(|(_, entry)| entry.trouble.is_some()).map(|(uid, _)| Arc::clone(uid)).collect();
            for uid in lacking {
                self.describe_again(&uid).await;
            }
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

    /// Closes the listeners, lets connections go on until the grace time is over, then cuts what is left and says how much that was.
    async fn drain(self, grace: Duration) {
        let deadline = Instant::now() + grace;
        if self.is_waypoint() {
            self.leave();
            for thread in &self.threads {
                let _ = thread.send(Order::Leave).await;
            }
            tokio::time::sleep(NOTICE.min(grace)).await;
        }
        for thread in &self.threads {
            let _ = thread.send(Order::StopAccepting).await;
        }
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
