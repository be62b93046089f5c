//! The HTTP half of a waypoint on two data threads that share a table, between plain sockets: what is measured is what limits and balancing decide, and tunnels
//! have no part in that.
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::spawn_local;
use trackbed_contract::Identity;
use trackbed_contract::route::HttpRule;
use trackbed_contract::traffic::{BackendPort, BackendSettings, RequestScope, RequestSettings};
use trackbed_l7::{
    BackendKey, Client, ConnectError, Context, Ejection, Endpoint, Kind, Member, NoEndpoint, Report, RequestRecord, Served, StreamRecord,
    Table, Upstream,
};

use super::servers::Server;
use crate::upstream::connect;
use crate::{Failure, PORT, SERVICE, routes, sockets};

const DATA_THREADS: usize = 2;

#[derive(Debug)]
pub(super) struct Waypoint {
    /// One for each identity.
    pub(super) addresses: Vec<SocketAddr>,
    table: Table,
    told: watch::Sender<Arc<Table>>,
    endpoints: Arc<Endpoints>,
    pub(super) ejections: Arc<Mutex<Vec<(Instant, Ejection)>>>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

type Known = Arc<[(Arc<str>, SocketAddr)]>;

#[derive(Debug, Default)]
struct Endpoints(Mutex<Known>);

impl Waypoint {
    /// Clients have these service accounts, by the address that they come to.
    pub(super) fn start(accounts: &[&str], rule: HttpRule) -> Result<Self, Failure> {
        let mut listeners: Vec<Vec<(std::net::TcpListener, Identity)>> = (0..DATA_THREADS).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for account in accounts {
            let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            for of_thread in &mut listeners {
                let listener = sockets::listen(address)?;
                address = listener.local_addr()?;
                of_thread.push((listener, Identity::parse(&format!("spiffe://cluster.local/ns/bench/sa/{account}"))?));
            }
            addresses.push(address);
        }
        let (endpoints, ejections) = (Arc::<Endpoints>::default(), Arc::<Mutex<Vec<_>>>::default());
        let (told, hears) = watch::channel(Arc::new(Table::default()));
        let threads = listeners.into_iter().map(|of_thread| {
            let (endpoints, ejections, hears) = (Arc::clone(&endpoints), Arc::clone(&ejections), hears.clone());
            thread::spawn(move || serve(of_thread, endpoints, ejections, hears).map_err(|error| error.to_string()))
        });
        let threads = threads.collect();
        let mut waypoint = Self { addresses, table: Table::default(), told, endpoints, ejections, threads };
        waypoint.apply(Kind::Routes, &routes(rule, false).encode_to_vec())?;
        Ok(waypoint)
    }

    pub(super) fn apply(&mut self, kind: Kind, body: &[u8]) -> Result<(), Failure> {
        let (table, rejected) = self.table.apply([(kind, SERVICE, body)], []);
        if let Some(one) = rejected.first() {
            return Err(one.reason.clone().into());
        }
        self.table = table.clone();
        self.told.send_replace(Arc::new(table));
        Ok(())
    }

    pub(super) fn scope(&mut self, scope: RequestScope) -> Result<(), Failure> {
        self.apply(Kind::RequestSettings, &RequestSettings { service: SERVICE.into(), scopes: vec![scope] }.encode_to_vec())
    }

    pub(super) fn backend(&mut self, port: BackendPort) -> Result<(), Failure> {
        self.apply(Kind::BackendSettings, &BackendSettings { service: SERVICE.into(), ports: vec![port] }.encode_to_vec())
    }

    /// From now on. The number of each is its uid.
    pub(super) fn endpoints<'a>(&self, servers: impl IntoIterator<Item = (u16, &'a Server)>) {
        self.addresses_of(servers.into_iter().map(|(number, server)| (number, server.address)));
    }

    pub(super) fn addresses_of(&self, addresses: impl IntoIterator<Item = (u16, SocketAddr)>) {
        let known = addresses.into_iter().map(|(number, address)| (number.to_string().into(), address)).collect();
        *self.endpoints.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Of this endpoint, since `start`.
    pub(super) fn ejected(&self, number: u16, start: Instant) -> Vec<(Duration, Ejection)> {
        let all = self.ejections.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.iter().filter(|(_, ejection)| *ejection.uid == *number.to_string());
        of.map(|(at, ejection)| (at.saturating_duration_since(start), ejection.clone())).collect()
    }
}

impl Drop for Waypoint {
    fn drop(&mut self) {
        // Its threads end when nobody can tell them of tables any more.
        drop(std::mem::replace(&mut self.told, watch::channel(Arc::default()).0));
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("trackbed-l7: a data thread: {error}");
            }
        }
    }
}

fn serve(
    listeners: Vec<(std::net::TcpListener, Identity)>,
    endpoints: Arc<Endpoints>,
    ejections: Arc<Mutex<Vec<(Instant, Ejection)>>>,
    mut hears: watch::Receiver<Arc<Table>>,
) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let context = Context::new(Reach(endpoints), Box::new(Ledger(ejections)));
        context.replace(hears.borrow_and_update().clone());
        for (listener, identity) in listeners {
            let (listener, context) = (tokio::net::TcpListener::from_std(listener)?, Rc::clone(&context));
            spawn_local(async move {
                while let Ok((stream, address)) = listener.accept().await {
                    // One that is gone already is no client.
                    let _ = stream.set_nodelay(true);
                    let client = Client { identity: Some(identity.clone()), address, addressed: None };
                    let served = Served { service: SERVICE.into(), port: PORT };
                    spawn_local(trackbed_l7::serve(stream, client, served, Rc::clone(&context)));
                }
            });
        }
        while hears.changed().await.is_ok() {
            context.replace(hears.borrow_and_update().clone());
        }
        Ok(())
    })
}

#[derive(Debug)]
struct Reach(Arc<Endpoints>);

#[derive(Debug)]
struct Candidates {
    known: Known,
    members: Vec<Member>,
}

impl Upstream for Reach {
    type Io = TcpStream;
    type Detail = ();
    type Candidates = Candidates;

    fn candidates(&self, _: &BackendKey) -> Result<Candidates, NoEndpoint> {
        let known = Arc::clone(&self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        let members = known.iter().map(|(uid, _)| Member { uid: Arc::clone(uid), weight: 1, rank: 0 }).collect();
        Ok(Candidates { known, members })
    }

    fn are_current(&self, _: &BackendKey, candidates: &Candidates) -> bool {
        Arc::ptr_eq(&candidates.known, &self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn members<'a>(&self, candidates: &'a Candidates) -> &'a [Member] {
        &candidates.members
    }

    fn endpoint(&self, candidates: &Candidates, index: usize) -> Option<Endpoint<()>> {
        let (uid, address) = candidates.known.get(index)?;
        Some(Endpoint { uid: Arc::clone(uid), address: *address, detail: () })
    }

    async fn connect(&self, endpoint: &Endpoint<()>) -> Result<TcpStream, ConnectError> {
        connect(endpoint.address).await
    }
}

#[derive(Debug)]
struct Ledger(Arc<Mutex<Vec<(Instant, Ejection)>>>);

impl Report for Ledger {
    fn request(&self, _: &RequestRecord<'_>) {}
    fn connection(&self, _: &StreamRecord<'_>) {}
    fn ejected(&self, _: &BackendKey, ejection: &Ejection) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), ejection.clone()));
    }
}
