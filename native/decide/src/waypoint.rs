//! A waypoint's first decision: which service, or pod, a client of its asked for.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_policy::{Connection, Intermediary, keeps_out};

use crate::authority::{Authority, Host};
use crate::local::LocalPod;
use crate::outbound::{Standing, recheck_outbound, stands_for};
use crate::pod::behind;
use crate::refusal::Refusal;
use crate::resource::{Protocol, Service, Workload};
use crate::settings::is_own_port;
use crate::world::World;

/// What an admitted client may speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The waypoint itself.
    pub waypoint: Arc<Workload>,
    pub addressed: Addressed,
    pub port: u16,
    client: Identity,
    client_ip: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressed {
    Service(Arc<Service>),
    /// By this address of its own: no route is about it.
    Pod(Arc<Workload>, IpAddr),
}

/// A CONNECT that a peer with a proven identity sent to a waypoint: it asks for a service that has this waypoint, or for which there are routes
/// here, or for a pod that has this waypoint. `refusal.status` is the answer otherwise. Nothing is looked up by what the client's bytes will say.
pub fn inbound_waypoint(
    world: &World,
    pod: &LocalPod,
    peer: &Identity,
    peer_ip: IpAddr,
    authority: &str,
    has_routes: impl Fn(&str) -> bool,
) -> Result<Served, Refusal> {
    let asked = Authority::parse(authority).map_err(|cause| Refusal::destination(format!(":authority {authority:?}: {cause}")))?;
    let waypoint = world.local(pod)?.workload;
    if peer.trust_domain() != waypoint.identity.trust_domain() {
        return Err(Refusal::identity(format!("{peer} is of another trust domain than {}", waypoint.identity)));
    }
    let refused = || not_served(pod, &asked);
    // As the client's own node found it.
    let service = match &asked.host {
        Host::Ip(ip) => world.service_by_vip(ip.to_canonical(), peer.namespace())?,
        Host::Name(name) => world.service_by_name(name, peer.namespace()),
    };
    let (client, client_ip) = (peer.clone(), peer_ip.to_canonical());
    let served = |waypoint, addressed| {
        let served = Served { addressed, port: asked.port, waypoint, client, client_ip };
        served.admitted(world).map(|()| served)
    };
    if let (None, Host::Ip(ip)) = (service, &asked.host) {
        let found = behind(world, &waypoint, ip.to_canonical()).map_err(|_| refused())?;
        let addressed = Addressed::Pod(Arc::clone(found), ip.to_canonical());
        return if is_own_port(asked.port) { Err(Refusal::own_port(asked.port)) } else { served(waypoint, addressed) };
    }
    let service = service.ok_or_else(refused)?;
    let routed = has_routes(&service.key);
    if !routed && !service.waypoints().any(|named| stands_for(world, &waypoint, named)) {
        return Err(refused());
    }
    if !service.ports.contains_key(&asked.port) {
        return Err(Refusal::unavailable(errors::SERVICE_NO_PORT, format!("service {} has no port {}", service.key, asked.port)));
    }
    if is_own_port(asked.port) {
        return Err(Refusal::own_port(asked.port));
    }
    if !routed {
        return Err(Refusal::unavailable(errors::ROUTES_UNKNOWN, format!("the routes of {} are not known here yet", service.key)));
    }
    served(waypoint, Addressed::Service(Arc::clone(service)))
}

/// Whether a live connection may go on in a new world: while its waypoint is what it was, and the pod that it was made to, and nothing keeps
/// its client out. What becomes of its requests is decided for each of them.
pub fn recheck_waypoint(world: &World, pod: &LocalPod, live: &Served) -> Result<(), Refusal> {
    recheck_outbound(world, pod, &Standing::of_source(&live.waypoint))?;
    if let Addressed::Pod(then, ip) = &live.addressed {
        let now = behind(world, &live.waypoint, *ip)?;
        if (&now.uid, &now.identity) != (&then.uid, &then.identity) {
            return Err(Refusal::unavailable(errors::WORKLOAD_UNKNOWN, format!("{ip} was {}, and is {} now", then.uid, now.uid)));
        }
    }
    live.admitted(world)
}

impl Served {
    /// How requests name what they go to where no route says anything else: a service by its key, a pod by its address.
    pub fn key(&self) -> Arc<str> {
        match &self.addressed {
            Addressed::Service(service) => Arc::clone(&service.key),
            Addressed::Pod(_, ip) => ip.to_string().into(),
        }
    }

    pub fn service(&self) -> Option<&Arc<Service>> {
        match &self.addressed {
            Addressed::Service(service) => Some(service),
            Addressed::Pod(..) => None,
        }
    }

    /// Where its connections may end: workload, address and port.
    fn ends<'w>(&'w self, world: &'w World) -> impl Iterator<Item = (&'w Workload, IpAddr, u16)> {
        let (service, pod) = match &self.addressed {
            Addressed::Service(service) => (Some(service), None),
            Addressed::Pod(pod, ip) => (None, Some((&**pod, *ip, self.port))),
        };
        let endpoints = service.into_iter().flat_map(move |service| {
            let endpoints = world.endpoints(&service.key).iter();
            endpoints.filter_map(move |endpoint| Some((&**endpoint, endpoint.target_port(service, self.port)?)))
        });
        let of_service = endpoints.flat_map(|(endpoint, port)| endpoint.addresses.iter().map(move |ip| (endpoint, *ip, port)));
        of_service.chain(pod).filter(|(endpoint, ..)| endpoint.protocol == Protocol::Hbone)
    }

    /// The service's pods see the waypoint as the source of what it sends. Whom a DENY of theirs keeps out by name is therefore refused here;
    /// of one that denies it for some of them, for all.
    fn admitted(&self, world: &World) -> Result<(), Refusal> {
        let ip = self.waypoint.addresses.first().copied().unwrap_or(self.client_ip);
        let through = Intermediary { identity: &self.waypoint.identity, ip };
        for (endpoint, destination_ip, destination_port) in self.ends(world) {
            let client = Connection { source: Some(&self.client), source_ip: self.client_ip, destination_ip, destination_port };
            if let Some(refused) = keeps_out(world.candidates(endpoint), &client, &through) {
                return Err(refused.into());
            }
        }
        Ok(())
    }
}

/// The client's node asks for addresses; only those who made a name up themselves can do without the service for a while.
fn not_served(pod: &LocalPod, asked: &Authority) -> Refusal {
    let reason = |what: &str| format!("waypoint {}/{} serves nothing {what}", pod.namespace, pod.name);
    match &asked.host {
        Host::Ip(ip) => Refusal::destination(reason(&format!("at {ip}"))),
        Host::Name(name) => Refusal::unavailable(errors::DESTINATION_REFUSED, reason(&format!("named {name}"))),
    }
}
