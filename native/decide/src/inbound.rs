//! Whether a connection to a local pod may reach its application: by tunnel, in plaintext, or relayed from a pod of the same node.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trackbed_contract::Identity;
use trackbed_policy::{Considered, PolicyRef};

use crate::local::LocalPod;
use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::world::World;

/// An admitted connection: the facts it was decided on, kept to decide again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The local workload.
    pub workload: Arc<Workload>,
    /// Where the application listens: connect there, from `source_ip` unless it is the target's own address.
    pub target: SocketAddr,
    /// `None` = plaintext.
    pub source: Option<Identity>,
    pub source_ip: IpAddr,
    /// The service that the peer named in `:authority`.
    pub service: Option<Arc<Service>>,
    /// The ALLOW policy that admitted it; `None` when none applies.
    pub policy: Option<PolicyRef>,
    /// Dry-run policies that match, and what they would have done.
    pub dry_run: Vec<Considered>,
}

/// A CONNECT that a peer with a proven identity sent to the pod's port 15008. `refusal.status` is the answer otherwise.
pub fn inbound_tunnel(world: &World, pod: &LocalPod, peer: &Identity, peer_ip: IpAddr, authority: &str) -> Result<Admitted, Refusal> {
    unimplemented!("{world:?} {pod:?} {peer} {peer_ip} {authority}")
}

/// A connection captured on port 15006: no identity.
pub fn inbound_plain(world: &World, pod: &LocalPod, source: IpAddr, original_destination: SocketAddr) -> Result<Admitted, Refusal> {
    unimplemented!("{world:?} {pod:?} {source} {original_destination}")
}

/// The destination's half of the same-node path: everything that [`inbound_tunnel`] checks, with the identity of the source's namespace.
pub fn relay_inbound(world: &World, pod: &LocalPod, source: &Identity, source_ip: IpAddr, target: SocketAddr) -> Result<Admitted, Refusal> {
    unimplemented!("{world:?} {pod:?} {source} {source_ip} {target}")
}

/// Decides a live connection again, by the same function and the stored facts.
pub fn recheck_inbound(world: &World, pod: &LocalPod, live: &Admitted) -> Result<Admitted, Refusal> {
    unimplemented!("{world:?} {pod:?} {live:?}")
}
