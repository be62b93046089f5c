//! What reaches a pod: HBONE on 15008 and captured plaintext on 15006, under the pod's policy, shown to the application as from the client.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::net::TcpStream;
use trackbed_contract::Identity;
use trackbed_contract::engine::{Direction, Path};
use trackbed_contract::tables::{errors, ports};
use trackbed_decide::{Admitted, Authority, Refusal, inbound_plain, inbound_tunnel};
use trackbed_hbone::limits::Limits;
use trackbed_hbone::{Request, pump, serve};
use trackbed_netns::socket;

use super::hold::{Ready, hold, missing};
use super::live::{Facts, Registered};
use super::outbound::upstream_failed;
use super::station::Station;
use super::{Thread, dial_application};
use crate::report::account::Account;

impl Thread {
    /// One tunnel of a peer, until it ends.
    pub(super) async fn inbound_tunnel(self: Rc<Self>, station: Rc<Station>, socket: TcpStream, peer: SocketAddr) {
        let place = match station.door().enter(peer.ip(), Instant::now()) {
            Ok(place) => place,
            Err(bound) => {
                self.shared.counters.tunnels_refused.fetch_add(1, Ordering::Relaxed);
                if station.door().tells(Instant::now()) {
                    let code = errors::ENGINE_LIMIT;
                    tracing::warn!(target: "hbone", %peer, pod = %station.pod().local.uid, code, bound, "tunnels are refused");
                }
                return pump::reset(socket);
            }
        };
        let ready = match hold(&self.shared, || self.published(&station)).await {
            Ok(ready) => ready,
            Err(refusal) => {
                let mut account = Account::new(&self.ledger, Direction::Inbound, &station.pod());
                account.source(peer, None, None);
                account.path(Path::Tunnel);
                account.refused(&refusal);
                return pump::reset(socket);
            }
        };
        let gauge = &self.shared.counters.server_tunnels;
        gauge.fetch_add(1, Ordering::Relaxed);
        let (shutdown, certified) = (station.shutdown().clone(), Arc::clone(&ready.certified));
        drop(ready);
        place.tries();
        let handler = {
            let (thread, station) = (Rc::clone(&self), Rc::clone(&station));
            move |request| {
                place.asked();
                let (thread, station) = (Rc::clone(&thread), Rc::clone(&station));
                async move {
                    match station.context().cloned() {
                        Some(context) => thread.serve(station, context, request).await,
                        None => thread.connect(station, request).await,
                    }
                }
            }
        };
        if let Err(error) = serve(socket, peer, &certified, Limits::default(), shutdown, handler).await {
            tracing::debug!(target: "hbone", %peer, pod = %station.pod().local.uid, code = error.code(), %error, "tunnel ended");
        }
        gauge.fetch_sub(1, Ordering::Relaxed);
    }

    /// One CONNECT.
    async fn connect(self: Rc<Self>, station: Rc<Station>, mut request: Request) {
        let pod = station.pod();
        let (identity, from) = (request.peer.identity.clone(), request.peer_address);
        let mut account = Account::new(&self.ledger, Direction::Inbound, &pod);
        account.path(Path::Tunnel);
        account.peer(&request.peer);
        account.source(from, None, Some(&identity));
        let admitted = hold(&self.shared, || self.published(&station)).await.and_then(|ready| {
            // The port that was asked for, so that a refusal too says what was refused.
            let port = Authority::parse(&request.authority).map_or(ports::HBONE, |authority| authority.port);
            name_ends(&mut account, &ready, from, Some(&identity), port);
            let world = ready.world().ok_or_else(no_world)?;
            let admitted = inbound_tunnel(world, &self.published(&station).local, &identity, from.ip(), &request.authority)?;
            let registered = self.admit(&station, &mut account, &admitted);
            Ok((admitted, registered))
        });
        let (admitted, registered) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                request.refuse(refusal.status.code());
                return account.refused(&refusal);
            }
        };
        let started = Instant::now();
        let dialled = tokio::select! {
            biased;
            server = registered.unless_cut(dial_application(&pod, admitted.source_ip, admitted.target)) => {
                server.and_then(|server| server.map_err(|error| upstream_failed(admitted.target, &error).refusal))
            }
            // Nobody waits for this application any more; it would hold a socket and one of the tunnel's handlers until its deadline.
            () = request.withdrawn() => Err(missing(errors::TUNNEL_LOST, "the client took its request back".into())),
        };
        let server = match dialled {
            Ok(server) => server,
            Err(refusal) => {
                request.refuse(refusal.status.code());
                return account.refused(&refusal);
            }
        };
        account.timing(started.elapsed(), std::time::Duration::ZERO);
        match request.accept(Some(&self.introductions.of(&admitted.workload))) {
            Ok(client) => {
                registered.opened(account, None);
                registered.carry(|meter| pump::inbound(client, server, meter), None);
            }
            Err(error) => {
                // The client went away while we connected for it.
                pump::reset(server);
                account.refused(&missing(error.code(), error.to_string()));
            }
        }
    }

    /// One captured plaintext connection.
    pub(super) async fn inbound_plain(self: Rc<Self>, station: Rc<Station>, client: TcpStream, from: SocketAddr) {
        pump::guard(&client);
        let pod = station.pod();
        let mut account = Account::new(&self.ledger, Direction::Inbound, &pod);
        account.path(Path::Plain);
        account.source(from, None, None);
        let decided = self.decide_plain(&station, &client, from, &mut account).await;
        let (admitted, registered) = match decided {
            Ok(decided) => decided,
            Err(refusal) => {
                account.refused(&refusal);
                return pump::reset(client);
            }
        };
        let started = Instant::now();
        let server = registered.unless_cut(dial_application(&pod, admitted.source_ip, admitted.target)).await;
        match server.and_then(|server| server.map_err(|error| upstream_failed(admitted.target, &error).refusal)) {
            Ok(server) => {
                account.timing(started.elapsed(), std::time::Duration::ZERO);
                registered.opened(account, None);
                registered.carry(|meter| pump::relay(client, server, meter), None);
            }
            Err(refusal) => {
                account.refused(&refusal);
                pump::reset(client);
            }
        }
    }

    async fn decide_plain(
        self: &Rc<Self>,
        station: &Station,
        client: &TcpStream,
        from: SocketAddr,
        account: &mut Account,
    ) -> Result<(Admitted, Registered), Refusal> {
        let destination = socket::original_destination(client, from)
            .map_err(|error| missing(errors::DESTINATION_REFUSED, format!("it was not redirected: {error}")))?;
        account.destination(destination, None, None);
        let ready = hold(&self.shared, || self.published(station)).await?;
        name_ends(account, &ready, from, None, destination.port());
        account.destination(destination, Some(&ready.local.workload), None);
        let world = ready.world().ok_or_else(no_world)?;
        let admitted = inbound_plain(world, &self.published(station).local, from.ip(), destination)?;
        let registered = self.admit(station, account, &admitted);
        Ok((admitted, registered))
    }

    /// Puts the connection into the table, with no await after the decision.
    fn admit(self: &Rc<Self>, station: &Station, account: &mut Account, admitted: &Admitted) -> Registered {
        account.destination(admitted.target, Some(&admitted.workload), admitted.source.as_ref().map(|_| &admitted.workload.identity));
        account.service(admitted.service.as_ref());
        account.policy(admitted.policy.as_ref());
        account.audit(admitted.audit.as_deref());
        self.register(&self.published(station), Facts::Inbound(Box::new(admitted.clone())))
    }
}

/// The client's workload only labels; its identity is what was proven. Of several at one address only one of that identity may be named.
pub(super) fn name_ends(account: &mut Account, ready: &Ready, from: SocketAddr, identity: Option<&Identity>, port: u16) {
    let source = ready.world().map(|world| world.workloads_at(from.ip())).unwrap_or_default();
    let source = source.iter().find(|workload| identity.is_none_or(|identity| workload.identity == *identity));
    account.source(from, source, identity);
    let pod = SocketAddr::new(ready.local.workload.address_like(from.ip()).unwrap_or(from.ip()), port);
    account.destination(pod, Some(&ready.local.workload), identity.map(|_| ready.local.identity()));
}

pub(super) fn no_world() -> Refusal {
    missing(errors::WORKLOAD_UNKNOWN, "the director has said nothing yet".into())
}
