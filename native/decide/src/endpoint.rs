//! Which endpoint of a service: what can be used at all, then the balancer's choice, and for a refusal why there was none.
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use trackbed_balance::{Endpoint, Load, Mode, pick, rank};
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

/// Endpoints looked at for one choice among many equals. Two would do for the choice; the rest leaves room for unusable ones, and looking
/// at all of 10,000 would take milliseconds for each connection.
const SAMPLE: usize = 64;

pub(crate) fn choose(
    world: &World,
    client: &Workload,
    service: &Service,
    wanted: Wanted,
    chooser: &mut Chooser<'_>,
) -> Result<Choice, Refusal> {
    let all = world.endpoints(&service.key);
    let search = Search { world, client, service, wanted };
    // Ranks are not sampled: the only near endpoint would hide among the far ones.
    if all.len() > SAMPLE && service.mode == Mode::Any {
        let sample: Vec<_> = (0..SAMPLE).map(|_| &all[chooser.rng.usize(..all.len())]).collect();
        if let Ok(choice) = search.among(sample, chooser) {
            return Ok(choice);
        }
    }
    search.among(all, chooser).map_err(|unused| unused.refusal(service, wanted))
}

/// Why an endpoint cannot be used for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Unusable {
    /// It failed for this very connection.
    Failed,
    /// It has no address on this network.
    Elsewhere,
    Unhealthy,
    /// It does not serve the port.
    WithoutPort,
    /// Outside the locality that its service is kept to.
    Far,
}

/// An endpoint as a choice sees it.
#[derive(Debug, Clone)]
pub(crate) struct Surveyed {
    pub(crate) endpoint: Arc<Workload>,
    /// Its target port and its rank: the lowest rank that there is is chosen from.
    pub(crate) usable: Result<(u16, usize), Unusable>,
}

/// Every endpoint of a service, at most `most`, as a client's choice sees them now.
pub(crate) fn survey(world: &World, client: &Workload, service: &Service, port: u16, most: usize) -> Vec<Surveyed> {
    let search = Search { world, client, service, wanted: Wanted::Port(port) };
    let (load, now) = (Load::default(), Instant::now());
    let endpoints = world.endpoints(&service.key).iter().take(most);
    let chooser = Chooser { rng: &mut fastrand::Rng::with_seed(0), load: &load, now, exclude: &[] };
    let one = |endpoint: &Arc<Workload>| Surveyed {
        endpoint: Arc::clone(endpoint),
        usable: search.usable(endpoint, &chooser).map(|(Endpoint { rank, .. }, port)| (port, rank)),
    };
    endpoints.map(one).collect()
}

/// Why none of them could be asked.
pub(crate) fn none_of(surveyed: &[Surveyed], service: &Service, port: u16) -> Refusal {
    let mut unused = Unused::default();
    surveyed.iter().filter_map(|one| one.usable.err()).for_each(|reason| unused.add(reason));
    unused.refusal(service, Wanted::Port(port))
}

struct Search<'a> {
    world: &'a World,
    client: &'a Workload,
    service: &'a Service,
    wanted: Wanted,
}

impl Search<'_> {
    fn among<'e>(&self, candidates: impl IntoIterator<Item = &'e Arc<Workload>>, chooser: &mut Chooser<'_>) -> Result<Choice, Unused> {
        let mut unused = Unused::default();
        let mut usable = Vec::new();
        let mut endpoints = Vec::new();
        for workload in candidates {
            match self.usable(workload, chooser) {
                Ok((endpoint, port)) => {
                    endpoints.push(endpoint);
                    usable.push((workload, port));
                }
                Err(reason) => unused.add(reason),
            }
        }
        match pick(&endpoints, chooser.rng).map(|index| usable[index]) {
            Some((endpoint, port)) => Ok(Choice { endpoint: Arc::clone(endpoint), port }),
            None => Err(unused),
        }
    }

    /// What the balancer needs to know of an endpoint, and its target port.
    fn usable(&self, workload: &Workload, chooser: &Chooser<'_>) -> Result<(Endpoint, u16), Unusable> {
        if chooser.exclude.contains(&workload.uid) {
            return Err(Unusable::Failed);
        }
        if workload.network != self.world.settings().network || workload.addresses.is_empty() {
            return Err(Unusable::Elsewhere);
        }
        if !workload.healthy && !self.service.allow_unhealthy {
            return Err(Unusable::Unhealthy);
        }
        let Some(port) = serves(workload, self.service, self.wanted) else {
            return Err(Unusable::WithoutPort);
        };
        let Some(rank) = rank(self.service.mode, &self.service.scopes, self.client.place(), workload.place()) else {
            return Err(Unusable::Far);
        };
        let (open, ejected) = (chooser.load.open(&workload.uid), chooser.load.ejected(&workload.uid, chooser.now));
        Ok((Endpoint { weight: workload.weight, rank, open, ejected }, port))
    }
}

impl Unused {
    fn refusal(&self, service: &Service, wanted: Wanted) -> Refusal {
        Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("service {} for {wanted}: {self}", service.key))
    }

    fn add(&mut self, reason: Unusable) {
        let count = match reason {
            Unusable::Failed => &mut self.failed,
            Unusable::Elsewhere => &mut self.elsewhere,
            Unusable::Unhealthy => &mut self.unhealthy,
            Unusable::WithoutPort => &mut self.without_port,
            Unusable::Far => &mut self.far,
        };
        *count += 1;
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
