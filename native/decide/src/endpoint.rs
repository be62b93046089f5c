//! Which endpoint of a service: what can be used at all, then the balancer's choice, and for a refusal why there was none.
use std::fmt;
use std::sync::Arc;

use trackbed_balance::{Endpoint, pick, rank};
use trackbed_contract::tables::errors;

use crate::outbound::Chooser;
use crate::refusal::Refusal;
use crate::resource::{Protocol, Service, Workload};
use crate::settings::is_own_port;
use crate::world::World;

/// What the endpoint is needed for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// The service's port.
    Port(u16),
    /// Any port: only its tunnel is used.
    Tunnel,
}

#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) endpoint: Arc<Workload>,
    /// Target port, 0 when only the tunnel was wanted.
    pub(crate) port: u16,
}

/// Endpoints that could not be used, by the first reason that holds.
#[derive(Debug, Default)]
struct Unused {
    failed: usize,
    elsewhere: usize,
    unhealthy: usize,
    without_port: usize,
    far: usize,
}

pub(crate) fn choose(
    world: &World,
    client: &Workload,
    service: &Service,
    wanted: Wanted,
    chooser: &mut Chooser<'_>,
) -> Result<Choice, Refusal> {
    let mut unused = Unused::default();
    let mut usable = Vec::new();
    let mut endpoints = Vec::new();
    for workload in world.endpoints(&service.key) {
        let reason = if chooser.exclude.contains(&workload.uid) {
            &mut unused.failed
        } else if workload.network != world.settings().network || workload.addresses.is_empty() {
            &mut unused.elsewhere
        } else if !workload.healthy && !service.allow_unhealthy {
            &mut unused.unhealthy
        } else if let Some(port) = serves(workload, service, wanted) {
            if let Some(rank) = rank(service.mode, &service.scopes, client.place(), workload.place()) {
                let (open, ejected) = (chooser.load.open(&workload.uid), chooser.load.ejected(&workload.uid, chooser.now));
                endpoints.push(Endpoint { weight: workload.weight, rank, open, ejected });
                usable.push((workload, port));
                continue;
            }
            &mut unused.far
        } else {
            &mut unused.without_port
        };
        *reason += 1;
    }
    match pick(&endpoints, chooser.rng).map(|index| usable[index]) {
        Some((endpoint, port)) => Ok(Choice { endpoint: Arc::clone(endpoint), port }),
        None => Err(Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("service {} for {wanted}: {unused}", service.key))),
    }
}

fn serves(workload: &Workload, service: &Service, wanted: Wanted) -> Option<u16> {
    match wanted {
        Wanted::Port(port) => workload.target_port(service, port).filter(|target| !is_own_port(*target)),
        Wanted::Tunnel => (workload.protocol == Protocol::Hbone).then_some(0),
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Tunnel => f.write_str("its tunnel"),
        }
    }
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { failed, elsewhere, unhealthy, without_port, far } = self;
        write!(
            f,
            "no endpoint is left: {unhealthy} unhealthy, {failed} already failed, {without_port} do not serve it, \
             {elsewhere} without an address on this network, {far} outside its locality"
        )
    }
}
