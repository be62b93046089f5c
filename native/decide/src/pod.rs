//! Pods that are asked for by their own addresses: whose an address is, and which waypoint it is behind.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_contract::tables::errors;

use crate::outbound::stands_for;
use crate::refusal::Refusal;
use crate::resource::{Protocol, Workload};
use crate::world::World;

/// Whose the address is. `None`: nobody's of the mesh, or one of several outside of it, which is the same. Refused where it may be this or that
/// workload of the mesh.
pub(crate) fn claimant(world: &World, ip: IpAddr) -> Result<Option<&Arc<Workload>>, Refusal> {
    let claimants = world.workloads_at(ip);
    let mut meshed = claimants.iter().filter(|workload| workload.protocol != Protocol::Plain);
    let Some(first) = meshed.clone().next() else {
        return Ok(if let [only] = claimants { Some(only) } else { None });
    };
    if meshed.clone().any(|other| other.identity != first.identity || other.protocol != first.protocol) {
        let reason = format!("{ip} belongs to {} and to other workloads; which one is not known", first.uid);
        return Err(Refusal::unavailable(errors::WORKLOAD_UNKNOWN, reason));
    }
    Ok(Some(meshed.find(|workload| workload.healthy).unwrap_or(first)))
}

/// The pod at this address, if it is reached through this waypoint.
pub(crate) fn behind<'w>(world: &'w World, waypoint: &Workload, ip: IpAddr) -> Result<&'w Arc<Workload>, Refusal> {
    let found = claimant(world, ip)?.filter(|pod| pod.waypoint.as_ref().is_some_and(|named| stands_for(world, waypoint, named)));
    found.ok_or_else(|| Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("no pod at {ip} is reached through {}", waypoint.uid)))
}
