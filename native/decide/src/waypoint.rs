//! A waypoint's two decisions: which service a client of its asked for, and which endpoint of a backend a request goes to.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use trackbed_balance::Mode;
use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_policy::{Connection, Intermediary, keeps_out};

use crate::authority::{Authority, Host};
use crate::endpoint::Wanted;
use crate::local::LocalPod;
use crate::outbound::{Chooser, Outbound, Route, Standing, recheck_outbound, stands_for};
use crate::refusal::Refusal;
use crate::resource::{Protocol, Service, Workload};
use crate::settings::is_own_port;
use crate::world::World;

/// What an admitted client may speak to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The waypoint itself.
    pub waypoint: Arc<Workload>,
    pub service: Arc<Service>,
    pub port: u16,
    client: Identity,
    client_ip: IpAddr,
}

/// A CONNECT that a peer with a proven identity sent to a waypoint: it asks for a service that has this waypoint, or for which there are routes
/// here. `refusal.status` is the answer otherwise. Nothing is looked up by what the client's bytes will say.
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
    let (client, client_ip) = (peer.clone(), peer_ip.to_canonical());
    let served = Served { service: Arc::clone(service), port: asked.port, waypoint, client, client_ip };
    served.admitted(world).map(|()| served)
}

/// Whether a live connection may go on in a new world: while its waypoint is what it was, and nothing keeps its client out. What becomes of
/// its requests is decided for each of them.
pub fn recheck_waypoint(world: &World, pod: &LocalPod, live: &Served) -> Result<(), Refusal> {
    recheck_outbound(world, pod, &Standing::of_source(&live.waypoint))?;
    live.admitted(world)
}

impl Served {
    /// The service's pods see the waypoint as the source of what it sends. Whom a DENY of theirs keeps out by name is therefore refused here;
    /// of one that denies it for some of them, for all.
    fn admitted(&self, world: &World) -> Result<(), Refusal> {
        let ip = self.waypoint.addresses.first().copied().unwrap_or(self.client_ip);
        let through = Intermediary { identity: &self.waypoint.identity, ip };
        for endpoint in world.endpoints(&self.service.key).iter().filter(|endpoint| endpoint.protocol == Protocol::Hbone) {
            let Some(destination_port) = endpoint.target_port(&self.service, self.port) else { continue };
            for destination_ip in &endpoint.addresses {
                let client =
                    Connection { source: Some(&self.client), source_ip: self.client_ip, destination_ip: *destination_ip, destination_port };
                if let Some(refused) = keeps_out(world.candidates(endpoint), &client, &through) {
                    return Err(refused.into());
                }
            }
        }
        Ok(())
    }
}

/// The endpoint for one request to a backend, which stands behind its service: a waypoint of the backend's own has no part in it, for only
/// the first service that a client addresses is routed. Call it again with the failed endpoint excluded to retry.
pub fn backend(world: &World, pod: &LocalPod, service: &str, port: u16, chooser: &mut Chooser<'_>) -> Outbound {
    let decided = world.local(pod).and_then(|local| {
        let service = world
            .service(service)
            .ok_or_else(|| Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("service {service} is not known here")))?;
        if !service.ports.contains_key(&port) {
            return Err(Refusal::unavailable(errors::SERVICE_NO_PORT, format!("service {} has no port {port}", service.key)));
        }
        if service.mode == Mode::Passthrough {
            let reason = format!("service {} passes through to the address that its client dialled, which a request has not", service.key);
            return Err(Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, reason));
        }
        // Only the family of this address counts: that of the waypoint itself.
        let family = local.workload.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let mut route = Route { world, source: local.workload, destination: SocketAddr::new(family, port), chooser };
        let choice = route.choose(service, Wanted::Port(port))?;
        route.reach(&choice.endpoint, choice.port, Some(service))
    });
    decided.unwrap_or_else(Outbound::Refuse)
}

/// The client's node asks for addresses; only those who made a name up themselves can do without the service for a while.
fn not_served(pod: &LocalPod, asked: &Authority) -> Refusal {
    let reason = |what: &str| format!("waypoint {}/{} serves nothing {what}", pod.namespace, pod.name);
    match &asked.host {
        Host::Ip(ip) => Refusal::destination(reason(&format!("at {ip}"))),
        Host::Name(name) => Refusal::unavailable(errors::DESTINATION_REFUSED, reason(&format!("named {name}"))),
    }
}
