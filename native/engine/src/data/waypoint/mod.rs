//! A waypoint's clients: each CONNECT is a connection to a service, whose requests are routed one by one.
mod backends;
mod carrier;

use std::rc::{Rc, Weak};
use std::sync::Arc;

use trackbed_contract::engine::{Direction, Path};
use trackbed_contract::tables::{errors, ports};
use trackbed_decide::{Authority, Host, inbound_waypoint};
use trackbed_hbone::{ClosedBy, Duplex, Meter, Outcome, Request};
use trackbed_l7::{Client, End, Served};

use super::Thread;
use super::hold::{hold, missing};
use super::inbound::{name_ends, no_world};
use super::live::Facts;
use super::station::Station;
use crate::report::account::Account;
use crate::report::requests::Requests;
use backends::Backends;

pub(super) type Context = trackbed_l7::Context<Backends>;

/// What serves the clients of this pod on this thread.
pub(super) fn context(thread: &Rc<Thread>, station: &Weak<Station>) -> Rc<Context> {
    let backends = Backends::new(Rc::clone(thread), Weak::clone(station));
    let context = Context::new(backends, Box::new(Requests::new(Arc::clone(&thread.shared))));
    context.replace(Arc::clone(thread.shared.routes.load().table()));
    context
}

impl Thread {
    /// One CONNECT. Its answer is 200 as soon as the client may speak to the service: what becomes of its requests is told to it in HTTP.
    pub(super) async fn serve(self: Rc<Self>, station: Rc<Station>, context: Rc<Context>, request: Request) {
        let pod = station.pod();
        let (identity, from) = (request.peer.identity.clone(), request.peer_address);
        let mut account = Account::new(&self.ledger, Direction::Inbound, &pod);
        account.path(Path::Tunnel);
        account.peer(&request.peer);
        account.source(from, None, Some(&identity));
        let decided = hold(&self.shared, || self.published(&station)).await.and_then(|ready| {
            // The port that was asked for, so that a refusal too says what was refused.
            let port = Authority::parse(&request.authority).map_or(ports::HBONE, |authority| authority.port);
            name_ends(&mut account, &ready, from, Some(&identity), port);
            let world = ready.world().ok_or_else(no_world)?;
            let routes = self.shared.routes.load();
            let pod = self.published(&station);
            let served = inbound_waypoint(world, &pod.local, &identity, from.ip(), &request.authority, |service| routes.has(service))?;
            account.service(served.service());
            // No await between the decision and this.
            let registered = self.register(&pod, Facts::Waypoint(Box::new(served.clone())));
            let addressed = match Authority::parse(&request.authority).map(|authority| authority.host) {
                Ok(Host::Ip(ip)) => Some(ip),
                _ => None,
            };
            Ok((served, registered, addressed))
        });
        let (served, registered, addressed) = match decided {
            Ok(decided) => decided,
            Err(refusal) => {
                request.refuse(refusal.status.code());
                return account.refused(&refusal);
            }
        };
        match request.accept(Some(&self.introductions.of(&served.waypoint))) {
            Ok(stream) => {
                registered.opened(account, None);
                let client = Client { identity: Some(identity), address: from, addressed };
                let served = Served { service: served.key(), port: served.port };
                registered.carry(|meter| work(stream.into_duplex(), client, served, context, Rc::clone(meter)), None);
            }
            // The client went away meanwhile.
            Err(error) => account.refused(&missing(error.code(), error.to_string())),
        }
    }
}

/// Serves the connection to its end, or until it is cut.
async fn work(stream: Duplex, client: Client, served: Served, context: Rc<Context>, meter: Rc<Meter>) -> Outcome {
    let serving = trackbed_l7::serve(stream.counted_by(&meter), client, served, context);
    let end = tokio::select! {
        biased;
        () = meter.until_cut() => None,
        end = serving => Some(end),
    };
    let (closed_by, reset, code) = match end {
        None => (ClosedBy::Engine, true, ""),
        Some(End::Closed) => (ClosedBy::Client, false, ""),
        Some(End::Client) => (ClosedBy::Client, true, ""),
        Some(End::Refused) => (ClosedBy::Engine, true, errors::DESTINATION_REFUSED),
        Some(End::Upstream) => (ClosedBy::Server, true, errors::UPSTREAM_REFUSED),
    };
    Outcome { sent: meter.sent(), received: meter.received(), closed_by, reset, first_byte: None, frozen: false, code }
}
