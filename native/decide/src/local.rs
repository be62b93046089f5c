//! A pod of this node and the proof that a workload of the mesh is that pod.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_contract::{Identity, engine, tables::errors};

use crate::refusal::Refusal;
use crate::resource::Workload;
use crate::world::World;

/// What the director said about a pod, whose network namespace this engine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub addresses: Vec<IpAddr>,
}

/// The pod's workload, found by address and proven by namespace, name and service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub workload: Arc<Workload>,
}

impl Local {
    pub fn identity(&self) -> &Identity {
        &self.workload.identity
    }
}

impl LocalPod {
    /// An address that has not 4 or 16 bytes is an error of the director.
    pub fn from_wire(wire: &engine::AddPod) -> Result<Self, Refusal> {
        unimplemented!("{wire:?}")
    }
}

impl World {
    /// The workload of a local pod, or why it has none (`E_WORKLOAD_UNKNOWN`): a workload at the pod's address that is not this very pod
    /// gives it neither identity nor policy.
    pub fn local(&self, pod: &LocalPod) -> Result<Local, Refusal> {
        Err(Refusal::unavailable(errors::WORKLOAD_UNKNOWN, format!("{pod:?}")))
    }
}
