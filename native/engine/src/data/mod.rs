//! A data thread: a single-threaded runtime with the pods assigned to it, their connections and their tunnels. Nothing in it is shared.
mod door;
mod hold;
mod inbound;
mod introduction;
mod live;
mod names;
mod outbound;
mod proof;
mod relay;
mod station;
mod waypoint;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use trackbed_balance::Load;
use trackbed_contract::tables::{bounds, errors};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{Connector, Pool, Target};
use trackbed_netns::socket::{self, Peer};

use crate::report::ledger::Ledger;
use crate::report::recording::Active;
use crate::worker::shared::{Pod, Shared};
use introduction::Introductions;
use live::Live;
use proof::Proofs;
use relay::Reachable;
pub(crate) use station::Listeners;
use station::Station;

/// Orders on their way to a data thread; the control thread waits when it is full, a data thread never does.
const ORDERS: usize = 256;
/// Metrics of live connections, gauges and certificates are looked at this often.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Order {
    /// Serve this pod's listeners.
    Add {
        pod: Arc<Pod>,
        listeners: Listeners,
    },
    /// The pod wants to be captured in more ways.
    Listen {
        uid: Arc<str>,
        listeners: Listeners,
    },
    /// What the director says about the pod has changed; its namespace has not.
    Update(Arc<Pod>),
    /// Cut what is left of the pod's connections, here and into it from other pods, and close everything of its namespace.
    Close {
        uid: Arc<str>,
        cookie: u64,
        cut: oneshot::Sender<u32>,
    },
    /// The world or the identities have changed: decide live connections again.
    Recheck(oneshot::Sender<()>),
    /// These addresses belong to other workloads now, or to none; these workloads are reached in another way, or not any more.
    Evict {
        addresses: Vec<IpAddr>,
        workloads: Vec<Arc<str>>,
    },
    Prove {
        uid: Arc<str>,
        result: oneshot::Sender<Result<(), String>>,
    },
    /// Count what is over and was not counted yet.
    Tell(oneshot::Sender<()>),
    /// A waypoint will stop soon: its clients are told to go with their next answer.
    Leave,
    /// Accept nothing more; what is open goes on.
    StopAccepting,
    /// Cut everything.
    CutAll(oneshot::Sender<u32>),
}

pub(crate) type Handle = mpsc::Sender<Order>;

/// Everything that tasks of one data thread use together.
#[derive(Debug)]
pub(crate) struct Thread {
    shared: Arc<Shared>,
    stations: RefCell<HashMap<Arc<str>, Rc<Station>>>,
    live: Live,
    ledger: Rc<Ledger>,
    introductions: Introductions,
    load: RefCell<Load>,
    pool: Pool<FromPod>,
    proofs: Proofs,
    reachable: Reachable,
}

/// Starts a data thread. One that ends by a panic takes the worker with it: a half engine would refuse some pods for ever.
pub(crate) fn spawn(index: usize, shared: Arc<Shared>) -> io::Result<Handle> {
    let (orders, queue) = mpsc::channel(ORDERS);
    std::thread::Builder::new().name(format!("data-{index}")).spawn(move || {
        let run = std::panic::AssertUnwindSafe(|| run(shared, queue));
        match std::panic::catch_unwind(run) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                eprintln!("trackbed-engine: data thread {index} cannot start: {error}");
                std::process::abort();
            }
            Err(_panic) => std::process::abort(),
        }
    })?;
    Ok(orders)
}

fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Order>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(async move {
        let connector = FromPod(Arc::clone(&shared));
        let thread = Rc::new(Thread {
            ledger: Rc::new(Ledger::new(Arc::clone(&shared))),
            shared,
            stations: RefCell::default(),
            live: Live::default(),
            introductions: Introductions::default(),
            load: RefCell::default(),
            pool: Pool::new(connector, Limits::default()),
            proofs: Proofs::default(),
            reachable: Reachable::default(),
        });
        let mut recordings = thread.shared.recordings.subscribe();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tunnels = 0;
        loop {
            tokio::select! {
                order = queue.recv() => match order {
                    Some(order) => thread.obey(order),
                    None => return,
                },
                Ok(()) = recordings.changed() => thread.record(recordings.borrow_and_update().clone()),
                _ = ticks.tick() => thread.tick(&mut tunnels),
            }
        }
    });
    Ok(())
}

impl Thread {
    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Add { pod, listeners } => {
                let uid = Arc::clone(&pod.local.uid);
                let station = Station::open(self, pod, listeners);
                self.stations.borrow_mut().insert(uid, station);
            }
            Order::Listen { uid, listeners } => {
                if let Some(station) = self.stations.borrow().get(&uid) {
                    station.listen(self, listeners);
                }
            }
            Order::Update(pod) => {
                let station = self.stations.borrow().get(&pod.local.uid).cloned();
                if let Some(station) = station.filter(|station| station.cookie() == pod.cookie) {
                    station.update(pod);
                }
            }
            Order::Close { uid, cookie, cut } => {
                let answer = self.close(&uid, cookie);
                let _ = cut.send(answer);
            }
            Order::Recheck(done) => {
                self.pool.renew(|identity| self.shared.certified(identity));
                let table = Arc::clone(self.shared.routes.load().table());
                self.contexts().for_each(|context| context.replace(Arc::clone(&table)));
                let thread = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    thread.live.recheck(&thread.shared).await;
                    let _ = done.send(());
                });
            }
            Order::Evict { addresses, workloads } => {
                for address in addresses {
                    self.pool.evict(address);
                    self.reachable.forget(address);
                }
                for context in self.contexts() {
                    for uid in &workloads {
                        context.retire(uid);
                    }
                }
            }
            Order::Prove { uid, result } => {
                let station = self.stations.borrow().get(&uid).cloned();
                let thread = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let proof = match station {
                        Some(station) => thread.prove(&station.pod()).await,
                        None => Err("the engine does not hold this pod".to_owned()),
                    };
                    let _ = result.send(proof);
                });
            }
            Order::Tell(done) => {
                self.contexts().for_each(|context| context.tell());
                let _ = done.send(());
            }
            Order::Leave => self.contexts().for_each(|context| context.leave()),
            Order::StopAccepting => self.stations.borrow().values().for_each(|station| station.stop_accepting()),
            Order::CutAll(cut) => {
                let count = self.live.cut_where(|_| true, errors::ENGINE_STOPPING, "the grace time is over");
                let _ = cut.send(count);
            }
        }
    }

    /// Of the waypoint, if this engine is one.
    fn contexts(&self) -> impl Iterator<Item = Rc<waypoint::Context>> {
        let contexts: Vec<_> = self.stations.borrow().values().filter_map(|station| station.context().cloned()).collect();
        contexts.into_iter()
    }

    /// Connections cut.
    fn close(&self, uid: &str, cookie: u64) -> u32 {
        let cut = self.live.cut_where(|pod| *pod.local.uid == *uid && pod.cookie == cookie, errors::POD_LEFT, "the drain time is over");
        self.pool.evict_pod(uid);
        let mut stations = self.stations.borrow_mut();
        if let Some(station) = stations.get(uid).filter(|station| station.cookie() == cookie) {
            station.close();
            stations.remove(uid);
        }
        cut
    }

    /// These are on from now on: connections that are open are told, and those to come find them in the ledger.
    fn record(self: &Rc<Self>, active: Active) {
        let before = self.ledger.recordings();
        self.ledger.set_recordings(Arc::clone(&active));
        let thread = Rc::clone(self);
        tokio::task::spawn_local(async move {
            thread.live.record(&thread.ledger).await;
            active.iter().filter(|one| !before.iter().any(|other| Arc::ptr_eq(one, other))).for_each(|one| one.take_in());
        });
    }

    fn tick(&self, tunnels: &mut usize) {
        self.live.tick(&self.shared);
        self.stations.borrow().values().for_each(|station| station.count_dns(&self.shared));
        let now = self.pool.tunnels();
        // The gauge is the sum over threads: add the difference.
        let gauge = &self.shared.counters.client_tunnels;
        gauge.fetch_add(now.wrapping_sub(*tunnels), std::sync::atomic::Ordering::Relaxed);
        *tunnels = now;
    }
}

/// Dials tunnels from inside the source pod's network namespace.
#[derive(Debug)]
struct FromPod(Arc<Shared>);

impl Connector for FromPod {
    type Io = TcpStream;

    async fn connect(&self, target: &Target) -> io::Result<TcpStream> {
        let pod = self.0.pods.load().get(&target.source_uid).cloned();
        let pod = pod.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the source pod has left the mesh"))?;
        dial(&pod, target.source_address, target.destination, Peer::Engine).await
    }
}

/// A connection of the engine's own, inside a pod's network namespace, from the address that the application used.
async fn dial(pod: &Pod, source: IpAddr, destination: SocketAddr, peer: Peer) -> io::Result<TcpStream> {
    let started = socket::connect_from(&pod.netns, source, destination, peer).map_err(cause)?;
    within_limit(socket::established(started)).await
}

/// A connection to the pod's own application, which sees the client's address.
async fn dial_application(pod: &Pod, source: IpAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let started = if source == target.ip() || source.is_ipv4() != target.is_ipv4() {
        socket::connect_own(&pod.netns, target)
    } else {
        socket::connect_spoofed(&pod.netns, source, target)
    };
    within_limit(socket::established(started.map_err(cause)?)).await
}

async fn within_limit(connecting: impl Future<Output = io::Result<TcpStream>>) -> io::Result<TcpStream> {
    const LIMIT: Duration = Duration::from_millis(bounds::CONNECT_MILLISECONDS as u64);
    tokio::time::timeout(LIMIT, connecting).await.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer within 10 s")))
}

/// Keeps the kind, which decides about retries, and names the step in the text.
fn cause(error: trackbed_netns::SocketError) -> io::Error {
    io::Error::new(error.source.kind(), error)
}
