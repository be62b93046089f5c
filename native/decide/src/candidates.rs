//! Who could be asked for the requests to one backend, as a waypoint sees the mesh; which of them is the balancer's choice, request by request.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use trackbed_balance::{Load, Member, Mode};
use trackbed_contract::tables::errors;

use crate::endpoint::{none_of, survey};
use crate::local::LocalPod;
use crate::outbound::{Chooser, Outbound, Route};
use crate::pod::behind;
use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::world::World;

/// Cheap to keep, and to ask whether it still holds.
#[derive(Debug, Clone)]
pub struct Candidates {
    source: Arc<Workload>,
    of: Of,
    usable: Box<[(Arc<Workload>, u16)]>,
    members: Box<[Member]>,
}

#[derive(Debug, Clone)]
enum Of {
    Service {
        service: Arc<Service>,
        /// All endpoints, usable or not, as they were looked at.
        seen: Box<[Arc<Workload>]>,
    },
    /// The one at this address.
    Pod(IpAddr),
}

/// Of a backend, which stands behind its own service: a waypoint that it may have has no part in it, for only the first service that a client
/// addresses is routed. `service` is a pod's address where its client asked for that: then there is one. Refused when there is nobody.
pub fn candidates(world: &World, pod: &LocalPod, service: &str, port: u16) -> Result<Candidates, Refusal> {
    let source = world.local(pod)?.workload;
    if let Ok(ip) = service.parse() {
        return of_pod(world, source, ip, port);
    }
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
    let of = Of::Service { service: Arc::clone(service), seen: world.endpoints(&service.key).into() };
    Ok(Candidates { source, of, usable, members })
}

fn of_pod(world: &World, source: Arc<Workload>, ip: IpAddr, port: u16) -> Result<Candidates, Refusal> {
    let endpoint = Arc::clone(behind(world, &source, ip)?);
    let members = [Member { uid: Arc::clone(&endpoint.uid), weight: 1, rank: 0 }].into();
    Ok(Candidates { source, of: Of::Pod(ip), usable: [(endpoint, port)].into(), members })
}

impl Candidates {
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether they are the same in this world.
    pub fn are_current(&self, world: &World, pod: &LocalPod) -> bool {
        world.local(pod).is_ok_and(|local| Arc::ptr_eq(&local.workload, &self.source))
            && match &self.of {
                Of::Service { service, seen } => {
                    let now = world.endpoints(&service.key);
                    world.service(&service.key).is_some_and(|known| Arc::ptr_eq(known, service))
                        && now.len() == seen.len()
                        && now.iter().zip(seen).all(|(now, then)| Arc::ptr_eq(now, then))
                }
                Of::Pod(ip) => behind(world, &self.source, *ip).is_ok_and(|now| self.usable.iter().all(|(then, _)| Arc::ptr_eq(now, then))),
            }
    }

    /// The way to one of the members: whom an address belongs to may have changed without them.
    pub fn reach(&self, world: &World, index: usize) -> Outbound {
        let (endpoint, target) = &self.usable[index];
        let (ip, service) = match &self.of {
            // Only the family of this address counts: that of the waypoint itself.
            Of::Service { service, .. } => {
                (self.source.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), Some(service))
            }
            Of::Pod(ip) => (*ip, None),
        };
        // Nothing is left to choose.
        let mut chooser = Chooser { rng: &mut fastrand::Rng::with_seed(0), load: &Load::default(), now: Instant::now(), exclude: &[] };
        let route = Route { world, source: Arc::clone(&self.source), destination: SocketAddr::new(ip, *target), chooser: &mut chooser };
        route.reach(endpoint, *target, service).unwrap_or_else(Outbound::Refuse)
    }
}
