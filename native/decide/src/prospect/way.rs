//! One way of a connection: by which path to whom, and what that engine decides. Ways are found by asking the deciding function again and
//! again, each time without the endpoints that it named before.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use trackbed_balance::Load;
use trackbed_contract::tables::errors;

use super::{MOST_WAYS, Resolution};
use crate::authority::{Authority, Host};
use crate::candidates::{Candidates, candidates};
use crate::explain::{Judged, Judgement, Verdict, explain_inbound};
use crate::inbound::{inbound_plain, inbound_tunnel, relay_inbound};
use crate::local::LocalPod;
use crate::outbound::{Chooser, Outbound, Tunnel};
use crate::refusal::Refusal;
use crate::resource::{Protocol, Workload};
use crate::waypoint::inbound_waypoint;
use crate::world::World;

/// Of several waypoints each connection takes one at random: asked this often, each is met although one has a share of a few percent.
const MOST_TRIES: usize = 128;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// `relay`, `tunnel`, `waypoint` or `plain`.
    pub path: &'static str,
    /// Uid of the workload that is dialled; `None` = the mesh knows nobody there.
    pub endpoint: Option<Arc<str>>,
    pub node: Option<Arc<str>>,
    /// Where the application is, or what the waypoint is asked for.
    pub address: String,
    /// The HBONE port that is dialled.
    pub dial: Option<SocketAddr>,
    /// Identities of which the peer must have one.
    pub accept: Vec<String>,
    #[serde(flatten)]
    pub judgement: Judgement,
    /// Every policy that applies at its end.
    pub considered: Vec<Judged>,
    /// What the waypoint is asked for: `namespace/hostname` and port.
    pub serves: Option<(Arc<str>, u16)>,
    /// The address that the client shows.
    #[serde(skip)]
    pub from: Option<IpAddr>,
    /// From a waypoint on, to the endpoints of the service itself: routes may lead elsewhere.
    pub behind: Vec<Way>,
}

/// What the deciding function answers, each answer once.
pub(super) struct Found<T> {
    pub(super) ways: Vec<T>,
    pub(super) more: bool,
    /// Its last word.
    pub(super) refusal: Option<Refusal>,
}

impl<T> Found<T> {
    pub(super) fn map<U>(self, one: impl Fn(T) -> U) -> Found<U> {
        Found { ways: self.ways.into_iter().map(one).collect(), more: self.more, refusal: self.refusal }
    }
}

pub(super) fn every(most: usize, mut ask: impl FnMut(&mut Chooser<'_>) -> Outbound) -> Found<Outbound> {
    let (load, mut rng) = (Load::default(), fastrand::Rng::with_seed(1));
    let mut exclude: Vec<Arc<str>> = Vec::new();
    let mut found = Found { ways: Vec::new(), more: false, refusal: None };
    for _ in 0..MOST_TRIES {
        let mut chooser = Chooser { rng: &mut rng, load: &load, now: Instant::now(), exclude: &exclude };
        let outcome = ask(&mut chooser);
        let endpoint = match &outcome {
            Outbound::Relay(relay) => Some(&relay.tunnel.endpoint),
            Outbound::Tunnel(tunnel) => Some(&tunnel.endpoint),
            Outbound::Plain(plain) => plain.endpoint.as_ref(),
            Outbound::Refuse(refusal) => {
                found.refusal = Some(refusal.clone());
                if found.ways.is_empty() {
                    break;
                }
                // Another waypoint may still have endpoints.
                continue;
            }
        };
        if found.ways.len() == most {
            found.more = true;
            break;
        }
        let endpoint = endpoint.map(|endpoint| Arc::clone(&endpoint.uid));
        found.ways.push(outcome);
        match endpoint {
            Some(uid) if !exclude.contains(&uid) => exclude.push(uid),
            // It is the address that counts: there is no other way.
            _ => break,
        }
    }
    found
}

/// From a waypoint on, to each that it could ask.
fn behind(world: &World, candidates: Result<Candidates, Refusal>) -> Found<Outbound> {
    let mut found = Found { ways: Vec::new(), more: false, refusal: None };
    match candidates {
        Err(refusal) => found.refusal = Some(refusal),
        Ok(candidates) => {
            for index in 0..candidates.members().len() {
                match candidates.reach(world, index) {
                    Outbound::Refuse(refusal) => found.refusal = Some(refusal),
                    _ if found.ways.len() == MOST_WAYS => {
                        found.more = true;
                        break;
                    }
                    way => found.ways.push(way),
                }
            }
        }
    }
    found
}

/// From outside the mesh: to whom the cluster's own forwarding may bring it.
pub(super) fn plain(world: &World, resolution: &Resolution, from: Option<IpAddr>, destination: SocketAddr, most: usize) -> Found<Way> {
    let from = from.unwrap_or(destination.ip());
    let served = resolution.endpoints.iter().filter_map(|seen| Some((world.workload(&seen.workload)?, seen.port?)));
    let mut ends: Vec<_> = served.filter_map(|(endpoint, port)| Some((endpoint, endpoint.socket(destination.ip(), port)?))).collect();
    if resolution.service.is_none() {
        ends.extend(world.workloads_at(destination.ip()).iter().map(|endpoint| (endpoint, destination)));
    }
    let more = ends.len() > most;
    let ways: Vec<_> = ends.into_iter().take(most).map(|(endpoint, address)| Way::from_outside(world, from, endpoint, address)).collect();
    let nobody = || Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("the mesh knows nobody at {destination}"));
    let refusal = ways.is_empty().then(nobody);
    Found { ways, more, refusal }
}

impl Way {
    pub(super) fn of(world: &World, source: &Arc<Workload>, from: IpAddr, outcome: &Outbound) -> Self {
        match outcome {
            Outbound::Relay(relay) => {
                let endpoint = &relay.tunnel.endpoint;
                let there = world.seen_from(&endpoint.node);
                let outcome = relay_inbound(&there, &LocalPod::of(endpoint), &source.identity, from, relay.address);
                let considered = explain_inbound(world, endpoint, Some(&source.identity), from, relay.address).considered;
                let judgement = Judgement::of(outcome.as_ref());
                Self { judgement, considered, ..Self::by_tunnel("relay", &relay.tunnel, relay.address.to_string()) }
            }
            Outbound::Tunnel(tunnel) => match Authority::parse(&tunnel.authority) {
                Ok(Authority { host: Host::Ip(ip), port }) if tunnel.endpoint.addresses.contains(&ip) => {
                    Self::tunnel(world, source, from, tunnel, SocketAddr::new(ip, port))
                }
                _ => Self::waypoint(world, source, from, tunnel),
            },
            Outbound::Plain(plain) => Self {
                endpoint: plain.endpoint.as_ref().map(|endpoint| Arc::clone(&endpoint.uid)),
                node: plain.endpoint.as_ref().map(|endpoint| Arc::clone(&endpoint.node)),
                ..Self::unpoliced(plain.address)
            },
            Outbound::Refuse(refusal) => Self { judgement: Judgement::of(Err(refusal)), ..Self::unpoliced(SocketAddr::new(from, 0)) },
        }
    }

    fn tunnel(world: &World, source: &Arc<Workload>, from: IpAddr, tunnel: &Tunnel, target: SocketAddr) -> Self {
        let endpoint = &tunnel.endpoint;
        let there = world.seen_from(&endpoint.node);
        let outcome = inbound_tunnel(&there, &LocalPod::of(endpoint), &source.identity, from, &tunnel.authority);
        let considered = explain_inbound(world, endpoint, Some(&source.identity), from, target).considered;
        Self { judgement: Judgement::of(outcome.as_ref()), considered, ..Self::by_tunnel("tunnel", tunnel, target.to_string()) }
    }

    fn waypoint(world: &World, source: &Arc<Workload>, from: IpAddr, tunnel: &Tunnel) -> Self {
        // An engine that is no node's, and has routes of all that it serves.
        let there = world.seen_from("");
        let pod = LocalPod::of(&tunnel.endpoint);
        let way = Self::by_tunnel("waypoint", tunnel, tunnel.authority.clone());
        let served = match inbound_waypoint(&there, &pod, &source.identity, from, &tunnel.authority, |_| true) {
            Ok(served) => served,
            Err(refusal) => return Self { judgement: Judgement::of(Err(&refusal)), ..way },
        };
        let found = behind(&there, candidates(&there, &pod, &served.key(), served.port));
        let own = tunnel.endpoint.address_like(from).unwrap_or(from);
        let found = found.map(|outcome| Self::of(world, &tunnel.endpoint, own, &outcome));
        let judgement = match found.refusal.filter(|_| found.ways.is_empty()) {
            Some(refusal) => Judgement::of(Err(&refusal)),
            None => super::together(&found.ways),
        };
        Self { judgement, serves: Some((served.key(), served.port)), from: Some(from), behind: found.ways, ..way }
    }

    fn from_outside(world: &World, from: IpAddr, endpoint: &Arc<Workload>, address: SocketAddr) -> Self {
        let way = Self { endpoint: Some(Arc::clone(&endpoint.uid)), node: Some(Arc::clone(&endpoint.node)), ..Self::unpoliced(address) };
        if endpoint.protocol == Protocol::Plain {
            return way;
        }
        let outcome = inbound_plain(&world.seen_from(&endpoint.node), &LocalPod::of(endpoint), from, address);
        let considered = explain_inbound(world, endpoint, None, from, address).considered;
        Self { judgement: Judgement::of(outcome.as_ref()), considered, ..way }
    }

    fn by_tunnel(path: &'static str, tunnel: &Tunnel, address: String) -> Self {
        Self {
            path,
            endpoint: Some(Arc::clone(&tunnel.endpoint.uid)),
            node: Some(Arc::clone(&tunnel.endpoint.node)),
            address,
            dial: Some(tunnel.dial),
            accept: tunnel.accept.iter().map(ToString::to_string).collect(),
            judgement: Judgement::new(Verdict::Allowed, "", String::new()),
            considered: Vec::new(),
            serves: None,
            from: None,
            behind: Vec::new(),
        }
    }

    /// Nobody of the mesh is at its end: no policy of the mesh applies.
    fn unpoliced(address: SocketAddr) -> Self {
        Self {
            path: "plain",
            endpoint: None,
            node: None,
            address: address.to_string(),
            dial: None,
            accept: Vec::new(),
            judgement: Judgement::new(Verdict::Allowed, "", String::new()),
            considered: Vec::new(),
            serves: None,
            from: None,
            behind: Vec::new(),
        }
    }
}
