//! What would become of a connection: where its name leads, every way it may take from there, and what the engine at each end says.
mod resolution;
mod way;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use trackbed_contract::tables::errors;

use crate::endpoint::Unusable;
use crate::explain::{Judgement, Verdict};
use crate::local::LocalPod;
use crate::outbound::outbound;
use crate::resource::{Protocol, Workload};
use crate::world::World;

pub use resolution::{EndpointSeen, Resolution};
pub use way::Way;

/// Ways that are told in full: a page is for people, and the endpoints of one service rarely differ.
const MOST_WAYS: usize = 16;

/// Who opens the connection.
#[derive(Debug, Clone)]
pub enum Client {
    Workload(Arc<Workload>),
    /// Nobody that the mesh knows.
    Address(IpAddr),
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Prospect {
    /// `None` = the name is not one of the mesh.
    pub resolution: Option<Resolution>,
    pub ways: Vec<Way>,
    /// There are more of them than are told.
    pub more_ways: bool,
    /// Of all ways together, or why there is none.
    #[serde(flatten)]
    pub judgement: Judgement,
}

/// `host` is an address, a whole name, or one that the client's search list completes.
pub fn prospect(world: &World, client: &Client, host: &str, port: u16) -> Prospect {
    let Some(resolution) = Resolution::of(world, client, host, port) else {
        let reason =
            format!("{host} is no name of the mesh for this client: it is asked of the client's own server, and goes where that says");
        let judgement = Judgement::new(Verdict::Depends, errors::DESTINATION_REFUSED, reason);
        return Prospect::failed(judgement);
    };
    let (mut ways, mut more_ways, mut refusal) = (Vec::new(), false, None);
    for destination in resolution.dialled().map(|ip| SocketAddr::new(ip, port)) {
        let room = MOST_WAYS.saturating_sub(ways.len());
        let found = match client {
            Client::Workload(source) if source.protocol == Protocol::Hbone => {
                let (here, pod) = (world.seen_from(&source.node), LocalPod::of(source));
                let outcomes = way::every(room, |chooser| outbound(&here, &pod, destination, chooser));
                let from = source.address_like(destination.ip()).unwrap_or(destination.ip());
                outcomes.map(|outcome| Way::of(world, source, from, &outcome))
            }
            Client::Workload(source) => way::plain(world, &resolution, source.address_like(destination.ip()), destination, room),
            Client::Address(ip) => way::plain(world, &resolution, Some(*ip), destination, room),
        };
        ways.extend(found.ways.into_iter().filter(|way| resolution.is_near(way.endpoint.as_deref())));
        more_ways |= found.more;
        refusal = refusal.or(found.refusal);
    }
    let judgement = match refusal.filter(|_| ways.is_empty()) {
        Some(refusal) => Judgement::of(Err(&refusal)),
        None => together(&ways),
    };
    Prospect { resolution: Some(resolution), ways, more_ways, judgement }
}

impl Prospect {
    /// Decides anew of all ways together: somebody said more of some of them.
    pub fn settle(&mut self) {
        if !self.ways.is_empty() {
            self.judgement = together(&self.ways);
        }
    }

    /// It does not come as far as a destination.
    pub fn failed(judgement: Judgement) -> Self {
        Self { resolution: None, ways: Vec::new(), more_ways: false, judgement }
    }
}

/// One verdict of several ways: theirs where they agree.
fn together(ways: &[Way]) -> Judgement {
    let Some(first) = ways.first() else {
        return Judgement::new(Verdict::Failed, errors::SERVICE_NO_ENDPOINT, "there is nobody to connect to".to_owned());
    };
    if ways.iter().all(|way| way.judgement.verdict == first.judgement.verdict) {
        return first.judgement.clone();
    }
    let admitted = ways.iter().filter(|way| way.judgement.verdict == Verdict::Allowed).count();
    Judgement::new(Verdict::Depends, "", format!("{admitted} of {} endpoints would admit it", ways.len()))
}

impl Resolution {
    /// Endpoints that are further away take part only when the nearest have failed.
    fn is_near(&self, uid: Option<&str>) -> bool {
        let rank = |one: &EndpointSeen| one.rank;
        let nearest = self.endpoints.iter().filter_map(rank).min();
        let own = self.endpoints.iter().find(|one| Some(&*one.workload) == uid);
        own.is_none_or(|own| own.rank == nearest || own.unusable == Some(Unusable::Failed))
    }
}
