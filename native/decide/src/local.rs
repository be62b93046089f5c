//! A pod of this node and the proof that a workload of the mesh is that pod.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_contract::{Identity, engine, tables::errors};

use crate::decode::ip_from_bytes;
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
        let addresses = wire.addresses.iter().map(|bytes| ip_from_bytes(bytes)).collect::<Option<Vec<_>>>().ok_or_else(|| {
            let reason = format!("AddPod {}: an address has 4 bytes, or 16 that are no IPv4 address", wire.uid);
            Refusal::unavailable(errors::SOURCE_INVALID, reason)
        })?;
        Ok(Self {
            uid: wire.uid.as_str().into(),
            name: wire.name.as_str().into(),
            namespace: wire.namespace.as_str().into(),
            service_account: wire.service_account.as_str().into(),
            addresses,
        })
    }

    /// The pod that a workload describes: as its own node would say it.
    pub fn of(workload: &Workload) -> Self {
        Self {
            uid: Arc::clone(&workload.uid),
            name: Arc::clone(&workload.name),
            namespace: Arc::clone(&workload.namespace),
            service_account: workload.service_account().into(),
            addresses: workload.addresses.clone(),
        }
    }

    /// A workload describes this pod only if everything agrees; an engine that is no node's has one pod only. An empty service account is `default`, as in the wire's workload.
    fn is(&self, workload: &Workload, node: &str) -> bool {
        let account = if self.service_account.is_empty() { "default" } else { &self.service_account };
        workload.name == self.name
            && workload.namespace == self.namespace
            && workload.identity.service_account() == account
            && (node.is_empty() || *workload.node == *node)
    }
}

impl World {
    /// The workload of a local pod, or why it has none (`E_WORKLOAD_UNKNOWN`): a workload at the pod's address that is not this very pod
    /// gives it neither identity nor policy.
    pub fn local(&self, pod: &LocalPod) -> Result<Local, Refusal> {
        let mut mine = None;
        for workload in pod.addresses.iter().flat_map(|address| self.workloads_at(*address)) {
            if !pod.is(workload, &self.settings().node) {
                continue;
            }
            // The second address of a dual-stack pod finds the same workload again; another uid is a contradiction.
            if mine.replace(workload).is_some_and(|before: &Arc<Workload>| before.uid != workload.uid) {
                return Err(unknown(pod, "two workloads claim to be it"));
            }
        }
        match mine {
            Some(workload) => Ok(Local { workload: Arc::clone(workload) }),
            None => Err(unknown(pod, &self.others_at(pod))),
        }
    }

    fn others_at(&self, pod: &LocalPod) -> String {
        match pod.addresses.iter().flat_map(|address| self.workloads_at(*address)).next() {
            None => "no workload has its address".to_owned(),
            Some(other) => format!("its address belongs to {} ({}, node {})", other.uid, other.identity, other.node),
        }
    }
}

fn unknown(pod: &LocalPod, why: &str) -> Refusal {
    Refusal::unavailable(errors::WORKLOAD_UNKNOWN, format!("pod {}/{}: {why}", pod.namespace, pod.name))
}
