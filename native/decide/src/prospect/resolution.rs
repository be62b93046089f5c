//! Where a name or an address leads for a client: the service, and each of its endpoints with why it can be chosen or not.
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::{Client, MOST_WAYS};
use crate::endpoint::{Surveyed, Unusable, survey};
use crate::resource::{Protocol, Service, WaypointTarget};
use crate::world::World;

/// Endpoints of a service that are listed.
const MOST_ENDPOINTS: usize = 64;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resolution {
    /// The whole name, where one was asked for.
    pub hostname: Option<String>,
    pub addresses: Vec<IpAddr>,
    /// `namespace/hostname` of the service that is meant.
    pub service: Option<Arc<str>>,
    /// Waypoints that connections to the service pass: a service `namespace/hostname` or an address.
    pub waypoints: Vec<String>,
    pub endpoints: Vec<EndpointSeen>,
    /// Endpoints beyond those listed.
    pub more_endpoints: usize,
    #[serde(skip)]
    headless: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSeen {
    pub workload: Arc<str>,
    pub addresses: Vec<IpAddr>,
    /// Where it serves the port.
    pub port: Option<u16>,
    pub node: Arc<str>,
    pub in_mesh: bool,
    /// Lower is nearer, and only the nearest are chosen from; `None` = it cannot be chosen.
    pub rank: Option<usize>,
    pub unusable: Option<Unusable>,
}

impl Resolution {
    pub(super) fn of(world: &World, client: &Client, host: &str, port: u16) -> Option<Self> {
        let namespace = match client {
            Client::Workload(workload) => &*workload.namespace,
            Client::Address(_) => "",
        };
        let mut found = Self::named(world, host, namespace)?;
        if let ([ip], None) = (&found.addresses[..], &found.service) {
            // A service that is hidden from this client is what the decision itself will say.
            found.service = world.service_by_vip(*ip, namespace).ok().flatten().map(|service| Arc::clone(&service.key));
        }
        if let Some(service) = found.service.as_ref().and_then(|key| world.service(key)) {
            found.list(world, client, service, port);
        }
        Some(found)
    }

    /// A client takes the first address of a service, and any of a headless one.
    pub(super) fn dialled(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().take(if self.headless { MOST_WAYS } else { 1 })
    }

    fn named(world: &World, host: &str, namespace: &str) -> Option<Self> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some(Self::at(None, vec![ip.to_canonical()]));
        }
        let (host, domain) = (host.trim_end_matches('.'), &world.settings().cluster_domain);
        // As the search list of a pod completes it.
        let names =
            [format!("{host}.{namespace}.svc.{domain}"), format!("{host}.svc.{domain}"), format!("{host}.{domain}"), host.to_owned()];
        names.into_iter().find_map(|name| {
            let answer = world.lookup(&name, namespace)?;
            let (headless, service) = (answer.service.addresses.is_empty(), Some(Arc::clone(&answer.service.key)));
            Some(Self { service, headless, ..Self::at(Some(name), answer.addresses) })
        })
    }

    fn at(hostname: Option<String>, addresses: Vec<IpAddr>) -> Self {
        Self { hostname, addresses, service: None, waypoints: Vec::new(), endpoints: Vec::new(), more_endpoints: 0, headless: false }
    }

    fn list(&mut self, world: &World, client: &Client, service: &Service, port: u16) {
        let all = world.endpoints(&service.key);
        let near = match client {
            Client::Workload(workload) => Some(workload),
            // Nobody knows how near somebody outside the mesh is: any endpoint stands for him.
            Client::Address(_) => all.first(),
        };
        let surveyed = near.map(|near| survey(world, near, service, port, MOST_ENDPOINTS)).unwrap_or_default();
        self.more_endpoints = all.len() - surveyed.len();
        self.endpoints = surveyed.iter().map(EndpointSeen::of).collect();
        self.waypoints = service.waypoints().map(|waypoint| named(&waypoint.target)).collect();
    }
}

fn named(target: &WaypointTarget) -> String {
    match target {
        WaypointTarget::Service(key) => key.to_string(),
        WaypointTarget::Address(_, ip) => ip.to_string(),
    }
}

impl EndpointSeen {
    fn of(surveyed: &Surveyed) -> Self {
        let Surveyed { endpoint, usable } = surveyed;
        Self {
            workload: Arc::clone(&endpoint.uid),
            addresses: endpoint.addresses.clone(),
            port: usable.ok().map(|(port, _)| port),
            node: Arc::clone(&endpoint.node),
            in_mesh: endpoint.protocol != Protocol::Plain,
            rank: usable.ok().map(|(_, rank)| rank),
            unusable: usable.err(),
        }
    }
}
