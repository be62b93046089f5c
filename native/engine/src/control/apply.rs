//! The mesh state becomes true: published to the data threads, checked against what is live, acknowledged.
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use trackbed_contract::engine::{Applied, ResourceType, StateDelta, Welcome};
use trackbed_decide::{Workload, World};

use super::{Control, Event};
use crate::data::Order;

/// What was applied, and the data threads that still have to agree.
pub(super) type Waiting = (Applied, Vec<oneshot::Receiver<()>>);

impl Control {
    pub(super) async fn welcome(&mut self, welcome: Welcome) {
        // Its version was checked before it came here.
        let Some(settings) = welcome.settings else { return tracing::error!(target: "director", "Welcome without settings") };
        if self.state.settings() == Some(&settings) {
            return;
        }
        if let Err(error) = self.state.set_settings(settings, &self.safe) {
            return tracing::error!(target: "director", %error, "the settings stay as they were");
        }
        self.publish_world();
        // Identities follow the trust domain.
        for uid in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.describe_again(&uid).await;
        }
        self.recheck(None).await;
        self.tell_changes();
    }

    pub(super) async fn apply(&mut self, delta: StateDelta) {
        let before = self.state.world().cloned();
        let Some(rejected) = self.state.apply(&delta, &self.safe) else {
            return tracing::error!(target: "director", "state before Welcome");
        };
        for rejected in &rejected {
            tracing::warn!(target: "state", name = rejected.name, code = rejected.code, reason = rejected.reason, "rejected");
        }
        self.publish_world();
        self.evict(before.as_ref(), &delta).await;
        self.recheck(Some(Applied { generation: delta.generation, rejected })).await;
        self.tell_changes();
    }

    /// Tunnels to addresses that have changed hands must not serve the next owner, and what was sent in plaintext may not be any more.
    pub(super) async fn evict(&self, before: Option<&World>, delta: &StateDelta) {
        let (Some(before), Some(after)) = (before, self.state.world()) else { return };
        let mut names: Vec<String> = delta.upsert.iter().map(|resource| resource.name.clone()).collect();
        names.extend(delta.remove.iter().map(|key| key.name.clone()));
        if delta.reset {
            let held = before.held().into_iter().filter(|held| held.r#type == i32::from(ResourceType::Address));
            names.extend(held.map(|held| held.name));
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for old in names.iter().filter_map(|name| before.workload(name)) {
            let new = after.workload(&old.uid).filter(|new| new.identity == old.identity);
            addresses.extend(old.addresses.iter().filter(|address| !new.is_some_and(|new| new.addresses.contains(address))));
        }
        let stays = |old: &Workload| {
            after.workload(&old.uid).is_some_and(|new| {
                new.identity == old.identity && new.protocol == old.protocol && old.addresses.iter().all(|ip| new.addresses.contains(ip))
            })
        };
        // Connections to workloads are kept for the next request by waypoints alone.
        let old = names.iter().filter_map(|name| before.workload(name)).filter(|old| self.is_waypoint() && !stays(old));
        let workloads: Vec<Arc<str>> = old.map(|old| Arc::clone(&old.uid)).collect();
        if !addresses.is_empty() || !workloads.is_empty() {
            for thread in &self.threads {
                let _ = thread.send(Order::Evict { addresses: addresses.clone(), workloads: workloads.clone() }).await;
            }
        }
    }

    pub(super) fn publish_world(&self) {
        if let Some(routes) = self.state.routes() {
            self.shared.routes.store(Arc::clone(routes));
        }
        self.shared.world.store(Arc::new(self.state.world().cloned()));
        self.shared.edges.wanted(!self.state.settings().is_some_and(|settings| settings.uncounted));
        self.shared.ring();
    }

    pub(super) fn publish_identities(&self) {
        self.shared.identities.store(Arc::new(self.identities.published()));
        self.shared.ring();
    }

    /// Has live connections decided again; what was applied is acknowledged once every thread has done so.
    pub(super) async fn recheck(&self, applied: Option<Applied>) {
        let mut done = Vec::new();
        for thread in &self.threads {
            let (sender, receiver) = oneshot::channel();
            if thread.send(Order::Recheck(sender)).await.is_ok() {
                done.push(receiver);
            }
        }
        if let Some(applied) = applied {
            let _ = self.acknowledge.send((applied, done)).await;
        }
    }
}

/// Applied is said in the order of the deltas, each once every data thread has decided its connections again.
pub(super) async fn acknowledge_in_order(mut waiting: mpsc::Receiver<Waiting>, events: mpsc::Sender<Event>) {
    while let Some((applied, done)) = waiting.recv().await {
        for thread in done {
            // A data thread that is gone has taken the process with it.
            let _ = thread.await;
        }
        if events.send(Event::Applied(applied)).await.is_err() {
            return;
        }
    }
}
