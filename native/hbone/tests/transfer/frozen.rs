//! The same between two of ours, while both ends of the tunnel are frozen and thawed again and again, with everything that is in them.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;
use trackbed_hbone::frozen::{FreezeError, Frozen, Thawed};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{Meter, Outcome, Request, Shutdown, Tunnel, TunnelError, TunnelStream, pump, serve, server};

use crate::plan::{Plan, Progress, Side};
use crate::support::{Authority, CLIENT, SERVER, identity, pair};
use crate::{ends, ours};

/// Bytes between two freezes, at most.
const APART: u64 = 1 << 19;

/// Streams of one end that wait for whoever had them before.
#[derive(Default)]
struct Successors {
    streams: RefCell<HashMap<u32, Thawed>>,
    came: Notify,
}

impl Successors {
    fn put(&self, streams: Vec<Thawed>) {
        // One that nobody has taken yet was frozen again: the newer one is it.
        self.streams.borrow_mut().extend(streams.into_iter().map(|stream| (stream.id(), stream)));
        self.came.notify_waiters();
    }

    async fn take(&self, id: u32) -> Thawed {
        loop {
            let came = self.came.notified();
            if let Some(stream) = self.streams.borrow_mut().remove(&id) {
                return stream;
            }
            came.await;
        }
    }

    /// The outcome of the last pump of a stream, whoever began.
    async fn to_the_end(&self, id: u32, first: impl Future<Output = Outcome>) -> Outcome {
        let mut outcome = first.await;
        while outcome.frozen {
            let Thawed::Carried(carried) = self.take(id).await else { panic!("stream {id} had its socket") };
            outcome = carried.run().await;
        }
        outcome
    }
}

/// Our client's application for one stream, in whatever tunnel there is.
async fn ask(current: &RefCell<Tunnel>, successors: &Successors, plan: &Plan, progress: &Progress) {
    let (application, socket) = pair().await;
    let stream = open(current, successors, plan).await;
    let (id, meter) = (stream.id(), Meter::new());
    let pump = successors.to_the_end(id, pump::outbound(socket, stream, &meter));
    let (outcome, ()) = tokio::join!(pump, ends::socket(application, plan, Side::Client, progress));
    ours::judge(plan, &outcome);
}

/// A server that is frozen before it answered refuses: then it is asked again.
async fn open(current: &RefCell<Tunnel>, successors: &Successors, plan: &Plan) -> TunnelStream {
    loop {
        let tunnel = current.borrow().clone();
        let mut opened = tunnel.open(&ours::request(plan)).await;
        while let Err(TunnelError::Frozen(id)) = opened {
            opened = match successors.take(id).await {
                Thawed::Asking(asking) => asking.answered().await,
                Thawed::Open(stream) => Ok(stream),
                Thawed::Carried(_) => panic!("stream {id} has no socket yet"),
            };
        }
        match opened {
            Ok(stream) => return stream,
            Err(TunnelError::NotTaken(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn accept(request: Request, plans: Rc<Vec<Plan>>, successors: Rc<Successors>, progress: Rc<Progress>) {
    let plan = ours::planned(&plans, &request.authority);
    let (socket, application) = pair().await;
    // Frozen meanwhile: it comes again.
    let Ok(stream) = request.accept(None) else { return };
    let (id, meter) = (stream.id(), Meter::new());
    let pump = successors.to_the_end(id, pump::inbound(stream, socket, &meter));
    let (outcome, ()) = tokio::join!(pump, ends::socket(application, plan, Side::Server, &progress));
    ours::judge(plan, &outcome);
    progress.served();
}

/// What is frozen is bytes and descriptors: nothing else goes over to the next life.
fn carry_over(frozen: Frozen) -> Frozen {
    Frozen { state: frozen.state.to_vec().into(), descriptors: frozen.descriptors }
}

pub(crate) async fn mix(plans: Vec<Plan>, progress: Rc<Progress>) -> u64 {
    let plans = Rc::new(plans);
    let mut random = fastrand::Rng::with_seed(plans[0].seed);
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
    let (near, far) = pair().await;
    let (clients, servers) = (Rc::new(Successors::default()), Rc::new(Successors::default()));
    let handler = {
        let (plans, progress, servers) = (Rc::clone(&plans), Rc::clone(&progress), Rc::clone(&servers));
        move |request: Request| accept(request, Rc::clone(&plans), Rc::clone(&servers), Rc::clone(&progress))
    };
    let (peer, shutdown) = (far.peer_addr().unwrap(), Shutdown::new());
    let server = {
        let (shutdown, handler) = (shutdown.clone(), handler.clone());
        spawn_local(async move { serve(far, peer, &theirs, Limits::default(), shutdown, handler).await })
    };
    let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
    let current = Rc::new(RefCell::new(tunnel));
    let (frozen, over) = (Cell::new(0), Cell::new(false));
    let applications = async {
        join_all(plans.iter().map(|plan| ask(&current, &clients, plan, &progress))).await;
        progress.all_served().await;
        over.set(true);
    };
    let servers_of_late = RefCell::new(vec![server]);
    let freezer = async {
        let mut next = 0;
        while !over.get() {
            if progress.all() < next {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            next = progress.all() + random.u64(..APART);
            if random.bool() {
                let state = current.borrow().freeze().unwrap();
                let (tunnel, streams) = Tunnel::thaw(carry_over(state), Limits::default()).unwrap();
                clients.put(streams);
                current.replace(tunnel);
            } else {
                for state in shutdown.freeze() {
                    let state = match state {
                        Ok(state) => state,
                        Err(FreezeError::Ending) => continue, // of a life before, whose task has not run yet
                        Err(error) => panic!("{error}"),
                    };
                    let (resumed, streams) = server::thaw(carry_over(state), Limits::default()).unwrap();
                    servers.put(streams);
                    let serving = resumed.serve(Limits::default(), shutdown.clone(), handler.clone());
                    servers_of_late.borrow_mut().push(spawn_local(serving));
                }
            }
            frozen.set(frozen.get() + 1);
            // Everybody hears of it before the next time.
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(applications, freezer);
    drop(current);
    for server in servers_of_late.into_inner() {
        server.await.unwrap().unwrap();
    }
    println!("frozen and thawed {} times", frozen.get());
    assert!(frozen.get() > 5, "{} times is nothing", frozen.get());
    progress.all()
}
