//! Where a connection that a local pod opens goes: service, endpoint and path. Never in plaintext to a workload that has HBONE.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use trackbed_balance::Load;
use trackbed_contract::Identity;

use crate::local::LocalPod;
use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::world::World;

/// What a choice among endpoints depends on beside the world.
#[derive(Debug)]
pub struct Chooser<'a> {
    pub rng: &'a mut fastrand::Rng,
    pub load: &'a Load,
    pub now: Instant,
    /// Uids of endpoints that already failed for this connection: for retries before the first byte.
    pub exclude: &'a [Arc<str>],
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// Both pods are on this node, and policy of the mesh permits the direct path. If this engine does not hold the destination's pod, or
    /// its port 15008 does not answer over the pod network, use `tunnel`.
    Relay(Relay),
    Tunnel(Tunnel),
    Plain(Plain),
    Refuse(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The application of the destination's pod.
    pub address: SocketAddr,
    /// The same destination by tunnel: also names source, endpoint and service.
    pub tunnel: Tunnel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub source: Arc<Workload>,
    /// The peer's HBONE listener.
    pub dial: SocketAddr,
    /// `:authority` of CONNECT.
    pub authority: String,
    /// Identities accepted from the peer's certificate, sorted; never empty.
    pub accept: Vec<Identity>,
    /// The workload dialled.
    pub endpoint: Arc<Workload>,
    /// The service that the client addressed.
    pub service: Option<Arc<Service>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub source: Arc<Workload>,
    pub address: SocketAddr,
    /// `None` = unknown to the mesh.
    pub endpoint: Option<Arc<Workload>>,
    pub service: Option<Arc<Service>>,
}

/// Decides a connection from a local pod to its original destination. Call it again with the failed endpoint excluded to retry.
pub fn outbound(world: &World, pod: &LocalPod, destination: SocketAddr, chooser: &mut Chooser<'_>) -> Outbound {
    unimplemented!("{world:?} {pod:?} {destination} {chooser:?}")
}

/// Whether a live connection may go on in a new world. Enrolment or another endpoint set does not cut it; a source or an endpoint that is
/// not the same workload any more does.
pub fn recheck_outbound(world: &World, pod: &LocalPod, live: &Outbound) -> Result<(), Refusal> {
    unimplemented!("{world:?} {pod:?} {live:?}")
}
