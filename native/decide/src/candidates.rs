//! Who could be asked for the requests to one backend, as a waypoint sees the mesh; which of them is the balancer's choice, request by request.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use trackbed_balance::{Load, Member, Mode};
use trackbed_contract::tables::errors;

use crate::endpoint::{none_of, survey};
use crate::local::LocalPod;
use crate::outbound::{Chooser, Outbound, Route};
use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::world::World;

/// Cheap to keep, and to ask whether it still holds.
#[derive(Debug, Clone)]
pub struct Candidates {
    source: Arc<Workload>,
    service: Arc<Service>,
    /// All endpoints, usable or not, as they were looked at.
    seen: Box<[Arc<Workload>]>,
    usable: Box<[(Arc<Workload>, u16)]>,
    members: Box<[Member]>,
}

/// Of a backend, which stands behind its own service: a waypoint that it may have has no part in it, for only the first service that a client
/// addresses is routed. Refused when there is nobody.
pub fn candidates(world: &World, pod: &LocalPod, service: &str, port: u16) -> Result<Candidates, Refusal> {
    let source = world.local(pod)?.workload;
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
    let surveyed = survey(world, &source, service, port, usize::MAX);
    let found = || surveyed.iter().filter_map(|one| one.usable.ok().map(|found| (&one.endpoint, found)));
    let usable: Box<[_]> = found().map(|(endpoint, (target, _))| (Arc::clone(endpoint), target)).collect();
    if usable.is_empty() {
        return Err(none_of(&surveyed, service, port));
    }
    let members = found().map(|(endpoint, (_, rank))| Member { uid: Arc::clone(&endpoint.uid), weight: endpoint.weight, rank }).collect();
    Ok(Candidates { source, service: Arc::clone(service), seen: world.endpoints(&service.key).into(), usable, members })
}

impl Candidates {
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether they are the same in this world.
    pub fn are_current(&self, world: &World, pod: &LocalPod) -> bool {
        let seen = world.endpoints(&self.service.key);
        world.local(pod).is_ok_and(|local| Arc::ptr_eq(&local.workload, &self.source))
            && world.service(&self.service.key).is_some_and(|service| Arc::ptr_eq(service, &self.service))
            && seen.len() == self.seen.len()
            && seen.iter().zip(&self.seen).all(|(now, then)| Arc::ptr_eq(now, then))
    }

    /// The way to one of the members: whom an address belongs to may have changed without them.
    pub fn reach(&self, world: &World, index: usize) -> Outbound {
        let (endpoint, target) = &self.usable[index];
        // Only the family of this address counts: that of the waypoint itself.
        let family = self.source.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        // Nothing is left to choose.
        let mut chooser = Chooser { rng: &mut fastrand::Rng::with_seed(0), load: &Load::default(), now: Instant::now(), exclude: &[] };
        let route = Route { world, source: Arc::clone(&self.source), destination: SocketAddr::new(family, *target), chooser: &mut chooser };
        route.reach(endpoint, *target, Some(&self.service)).unwrap_or_else(Outbound::Refuse)
    }
}
