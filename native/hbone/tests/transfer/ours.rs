//! application | outbound pump = tunnel over loopback = inbound pump | application
use std::rc::Rc;

use futures_util::future::join_all;
use tokio::task::spawn_local;
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{ConnectRequest, Meter, Outcome, Request, Shutdown, Tunnel, pump, serve};

use crate::ends;
use crate::plan::{Plan, Progress, Side};
use crate::support::{Authority, CLIENT, SERVER, identity, pair};

/// Each plan is asked for by a port of its own.
pub(crate) fn request(plan: &Plan) -> ConnectRequest {
    ConnectRequest { authority: format!("10.0.0.1:{}", plan.index + 1), ..ConnectRequest::default() }
}

pub(crate) fn planned<'a>(plans: &'a [Plan], authority: &str) -> &'a Plan {
    let (_, port) = authority.rsplit_once(':').unwrap();
    &plans[port.parse::<usize>().unwrap() - 1]
}

/// Our server's application for one stream.
pub(crate) async fn accept(request: Request, plans: Rc<Vec<Plan>>, progress: Rc<Progress>) {
    let plan = planned(&plans, &request.authority);
    let stream = request.accept(None).unwrap();
    let (socket, application) = pair().await;
    let meter = Meter::new();
    let (outcome, ()) = tokio::join!(pump::inbound(stream, socket, &meter), ends::socket(application, plan, Side::Server, &progress));
    judge(plan, &outcome);
    progress.served();
}

/// Our client's application for one stream.
pub(crate) async fn ask(tunnel: &Tunnel, plan: &Plan, progress: &Progress) {
    let stream = tunnel.open(&request(plan)).await.unwrap();
    let (application, socket) = pair().await;
    let meter = Meter::new();
    let (outcome, ()) = tokio::join!(pump::outbound(socket, stream, &meter), ends::socket(application, plan, Side::Client, progress));
    judge(plan, &outcome);
}

pub(crate) fn judge(plan: &Plan, outcome: &Outcome) {
    assert_eq!(outcome.reset, plan.reset.is_some(), "{plan:?}: {outcome:?}");
    if plan.reset.is_none() {
        assert_eq!((outcome.sent, outcome.received, outcome.code), (plan.up as u64, plan.down as u64, ""), "{plan:?}");
    }
}

pub(crate) async fn mix(plans: Vec<Plan>, progress: Rc<Progress>) -> u64 {
    let plans = Rc::new(plans);
    let authority = Authority::new();
    let (ours, theirs) = (authority.certify(CLIENT), authority.certify(SERVER));
    let (near, far) = pair().await;
    let handler = {
        let (plans, progress) = (Rc::clone(&plans), Rc::clone(&progress));
        move |request: Request| accept(request, Rc::clone(&plans), Rc::clone(&progress))
    };
    let peer = far.peer_addr().unwrap();
    let server = spawn_local(async move { serve(far, peer, &theirs, Limits::default(), Shutdown::new(), handler).await });
    let tunnel = Tunnel::connect(near, &ours, &[identity(SERVER)], Limits::default()).await.unwrap();
    join_all(plans.iter().map(|plan| ask(&tunnel, plan, &progress))).await;
    drop(tunnel);
    server.await.unwrap().unwrap();
    progress.all()
}
