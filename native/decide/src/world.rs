//! The mesh as this node knows it: an immutable snapshot, changed only by making the next one, which shares what did not change.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_contract::engine;

use crate::resource::{Service, Workload};
use crate::settings::Settings;

/// Cheap to clone; readers keep the snapshot they started with.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    settings: Arc<Settings>,
    generation: u64,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), generation: 0 }
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Generation of the delta applied last, 0 for none.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The same mesh under other settings: identities follow the trust domain.
    #[must_use]
    pub fn with_settings(&self, settings: Settings) -> Self {
        unimplemented!("{settings:?}")
    }

    /// Applies a delta as one. What cannot be used is returned with its reason: a rejected policy from then on denies what it could apply
    /// to, of a rejected address the previous version stays in force.
    pub fn apply(&self, delta: &engine::StateDelta) -> (Self, Vec<engine::Rejected>) {
        unimplemented!("{delta:?}")
    }

    /// Every resource as it was accepted, for Hello. A rejected one is not held.
    pub fn held(&self) -> Vec<engine::HeldResource> {
        unimplemented!()
    }

    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        unimplemented!("{uid}")
    }

    /// Every workload that claims an address of this node's network, by uid; hostNetwork ones never.
    pub fn workloads_at(&self, address: IpAddr) -> &[Arc<Workload>] {
        unimplemented!("{address}")
    }

    /// By `namespace/hostname`.
    pub fn service(&self, key: &str) -> Option<&Arc<Service>> {
        unimplemented!("{key}")
    }

    /// The workloads behind a service, by uid.
    pub fn endpoints(&self, key: &str) -> &[Arc<Workload>] {
        unimplemented!("{key}")
    }

    /// Policies that the workload names and nobody knows: it is not ready, and refuses, while there are any.
    pub fn missing_policies(&self, workload: &Workload) -> Vec<Arc<str>> {
        unimplemented!("{workload:?}")
    }
}
