//! Where a connection that a local pod opens goes: service, endpoint and path. Never in plaintext to a workload that has HBONE.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use trackbed_balance::{Load, Mode};
use trackbed_contract::Identity;
use trackbed_contract::tables::{errors, ports};

use crate::endpoint::{Choice, Wanted};
use crate::local::LocalPod;
use crate::pod::claimant;
use crate::refusal::Refusal;
use crate::resource::{Protocol, Service, Waypoint, WaypointTarget, Workload};
use crate::settings::is_own_port;
use crate::world::World;

/// What a choice among endpoints depends on beside the world.
#[derive(Debug)]
pub struct Chooser<'a> {
    pub rng: &'a mut fastrand::Rng,
    pub load: &'a Load,
    pub now: Instant,
    /// Uids of endpoints that already failed for this connection: for retries before the first byte.
    pub exclude: &'a [Arc<str>],
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outbound {
    /// Both pods are on this node, and policy of the mesh permits the direct path. If this engine does not hold the destination's pod, or
    /// its port 15008 does not answer over the pod network, use `tunnel`.
    Relay(Relay),
    Tunnel(Tunnel),
    Plain(Plain),
    Refuse(Refusal),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// The application of the destination's pod.
    pub address: SocketAddr,
    /// The same destination by tunnel: also names source, endpoint and service.
    pub tunnel: Tunnel,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    pub source: Arc<Workload>,
    /// The peer's HBONE listener.
    pub dial: SocketAddr,
    /// `:authority` of CONNECT.
    pub authority: String,
    /// Identities accepted from the peer's certificate, sorted; never empty.
    pub accept: Vec<Identity>,
    /// The workload dialled.
    pub endpoint: Arc<Workload>,
    /// The service that the client addressed.
    pub service: Option<Arc<Service>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plain {
    pub source: Arc<Workload>,
    pub address: SocketAddr,
    /// `None` = unknown to the mesh.
    pub endpoint: Option<Arc<Workload>>,
    pub service: Option<Arc<Service>>,
}

/// What a live connection stands on: kept as long as it lives, to decide it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    source: Arc<Workload>,
    /// Of the mesh, and where it was dialled.
    endpoint: Option<(Arc<Workload>, IpAddr)>,
}

impl Tunnel {
    pub fn standing(&self) -> Standing {
        Standing { source: Arc::clone(&self.source), endpoint: Some((Arc::clone(&self.endpoint), self.dial.ip())) }
    }
}

impl Standing {
    /// Of a connection that ends here.
    pub(crate) fn of_source(source: &Arc<Workload>) -> Self {
        Self { source: Arc::clone(source), endpoint: None }
    }
}

impl Plain {
    pub fn standing(&self) -> Standing {
        Standing::of_source(&self.source)
    }
}

/// Decides a connection from a local pod to its original destination. Call it again with the failed endpoint excluded to retry.
pub fn outbound(world: &World, pod: &LocalPod, destination: SocketAddr, chooser: &mut Chooser<'_>) -> Outbound {
    let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
    let decided = refuse_impossible(destination).and_then(|()| {
        let source = world.local(pod)?.workload;
        Route { world, source, destination, chooser }.decide()
    });
    decided.unwrap_or_else(Outbound::Refuse)
}

/// Whether a live connection may go on in a new world. Enrolment or another endpoint set does not cut it; a source or an endpoint that is
/// not the same workload any more does.
pub fn recheck_outbound(world: &World, pod: &LocalPod, live: &Standing) -> Result<(), Refusal> {
    let Standing { source, endpoint } = live;
    let now = world.local(pod)?.workload;
    if now.uid != source.uid || now.identity != source.identity {
        return Err(changed(source));
    }
    match endpoint {
        Some((endpoint, dialled)) => {
            let same = |now: &Arc<Workload>| now.identity == endpoint.identity && now.addresses.contains(dialled);
            if world.workload(&endpoint.uid).is_some_and(same) { Ok(()) } else { Err(changed(endpoint)) }
        }
        None => Ok(()),
    }
}

fn changed(workload: &Workload) -> Refusal {
    Refusal::unavailable(errors::WORKLOAD_UNKNOWN, format!("{} is gone, or is not what it was when the connection was made", workload.uid))
}

fn refuse_impossible(destination: SocketAddr) -> Result<(), Refusal> {
    let ip = destination.ip();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if is_own_port(destination.port()) {
        Err(Refusal::own_port(destination.port()))
    } else if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || broadcast || destination.port() == 0 {
        Err(Refusal::destination(format!("{destination} is no destination outside the pod")))
    } else {
        Ok(())
    }
}

pub(crate) struct Route<'w, 'c, 'l> {
    pub(crate) world: &'w World,
    pub(crate) source: Arc<Workload>,
    pub(crate) destination: SocketAddr,
    pub(crate) chooser: &'c mut Chooser<'l>,
}

impl Route<'_, '_, '_> {
    fn decide(mut self) -> Result<Outbound, Refusal> {
        let world = self.world;
        match world.service_by_vip(self.destination.ip(), &self.source.namespace)? {
            Some(service) => self.by_service(service),
            None => self.by_address(None),
        }
    }

    fn by_service(&mut self, service: &Arc<Service>) -> Result<Outbound, Refusal> {
        // What one waypoint of the service sends goes to no other of them.
        if !service.waypoints().any(|waypoint| self.comes_from(waypoint))
            && let Some(waypoint) = service.pick_waypoint(self.chooser.rng)
        {
            return self.by_waypoint(waypoint, Some(service));
        }
        let port = self.destination.port();
        if !service.ports.contains_key(&port) {
            return Err(Refusal::unavailable(errors::SERVICE_NO_PORT, format!("service {} has no port {port}", service.key)));
        }
        if service.mode == Mode::Passthrough {
            return self.by_address(Some(service));
        }
        let Choice { endpoint, port } = self.choose(service, Wanted::Port(port))?;
        self.reach(&endpoint, port, Some(service))
    }

    /// By the original address: a pod's, or one that the mesh does not know.
    fn by_address(&mut self, service: Option<&Arc<Service>>) -> Result<Outbound, Refusal> {
        let known = claimant(self.world, self.destination.ip())?.cloned();
        let Some(endpoint) = known.as_ref().filter(|workload| workload.protocol != Protocol::Plain) else {
            // Passing the original address on would reach endpoints that were promised mutual TLS behind the mesh's back.
            if let Some(service) = service
                && self.world.endpoints(&service.key).iter().any(|endpoint| endpoint.protocol != Protocol::Plain)
            {
                let reason = format!("service {} passes through and has endpoints in the mesh: address one of them", service.key);
                return Err(Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, reason));
            }
            if let Some(only) = &known {
                if let Some(waypoint) = only.waypoint.as_ref().filter(|waypoint| !self.comes_from(waypoint)) {
                    return self.by_waypoint(waypoint, service);
                }
                self.not_excluded(only)?;
            }
            return self.plain(self.destination, known, service);
        };
        if let Some(waypoint) = endpoint.waypoint.as_ref().filter(|waypoint| !self.comes_from(waypoint)) {
            return self.by_waypoint(waypoint, service);
        }
        self.not_excluded(endpoint)?;
        self.reach(endpoint, self.destination.port(), service)
    }

    /// An address has one workload: when that failed, nothing else may take its place.
    pub(crate) fn not_excluded(&self, workload: &Workload) -> Result<(), Refusal> {
        if self.chooser.exclude.contains(&workload.uid) {
            let reason = format!("{} already failed and was addressed by its own IP", workload.uid);
            return Err(Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, reason));
        }
        Ok(())
    }

    pub(crate) fn reach(&self, endpoint: &Arc<Workload>, port: u16, service: Option<&Arc<Service>>) -> Result<Outbound, Refusal> {
        // A pod that is addressed by its IP is dialled at that one; an endpoint at the address of the family that the client used.
        let wanted = self.destination.ip();
        let ip = endpoint.addresses.iter().copied().find(|address| *address == wanted).or_else(|| endpoint.address_like(wanted));
        let ip = ip.ok_or_else(|| Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("{} has no address", endpoint.uid)))?;
        let address = SocketAddr::new(ip, port);
        match endpoint.protocol {
            Protocol::Plain => self.plain(address, Some(Arc::clone(endpoint)), service),
            Protocol::Sidecar => {
                Err(Refusal::unavailable(errors::SOURCE_UNSUPPORTED, format!("{} speaks a sidecar's mutual TLS", endpoint.uid)))
            }
            Protocol::Hbone => {
                let accepted = service.map(|service| service.subject_alt_names.as_slice()).unwrap_or_default();
                let tunnel = self.tunnel(endpoint, SocketAddr::new(ip, ports::HBONE), address, accepted, service);
                let settings = self.world.settings();
                let same_node = !settings.node.is_empty() && endpoint.node == settings.node;
                let relayed = same_node && !endpoint.native_tunnel && !settings.encrypt_same_node;
                Ok(if relayed { Outbound::Relay(Relay { address, tunnel }) } else { Outbound::Tunnel(tunnel) })
            }
        }
    }

    fn tunnel(
        &self,
        endpoint: &Arc<Workload>,
        dial: SocketAddr,
        authority: SocketAddr,
        also_accepted: &[Identity],
        service: Option<&Arc<Service>>,
    ) -> Tunnel {
        let mut accept: Vec<_> = also_accepted.iter().chain([&endpoint.identity]).cloned().collect();
        accept.sort_unstable();
        accept.dedup();
        Tunnel {
            source: Arc::clone(&self.source),
            dial,
            authority: authority.to_string(),
            accept,
            endpoint: Arc::clone(endpoint),
            service: service.cloned(),
        }
    }

    /// The only way into plaintext: nothing at this address may have been promised mutual TLS.
    fn plain(&self, address: SocketAddr, endpoint: Option<Arc<Workload>>, service: Option<&Arc<Service>>) -> Result<Outbound, Refusal> {
        let promised = self.world.workloads_at(address.ip()).iter().find(|workload| workload.protocol != Protocol::Plain);
        if let Some(name) = promised.map(|workload| &workload.uid).or_else(|| self.world.doubt_at(address.ip())) {
            let reason = format!("{} is claimed by {name}, which may be reached by mutual TLS only", address.ip());
            return Err(Refusal::unavailable(errors::WORKLOAD_UNKNOWN, reason));
        }
        if is_own_port(address.port()) {
            return Err(Refusal::own_port(address.port()));
        }
        Ok(Outbound::Plain(Plain { source: Arc::clone(&self.source), address, endpoint, service: service.cloned() }))
    }

    /// To the waypoint's HBONE port, with the original destination as authority. What happens behind it is the waypoint's decision.
    fn by_waypoint(&mut self, waypoint: &Waypoint, service: Option<&Arc<Service>>) -> Result<Outbound, Refusal> {
        let world = self.world;
        let behind = waypoint_service(world, waypoint);
        let endpoint = match (behind, &waypoint.target) {
            (Some(behind), _) => self.choose(behind, Wanted::Tunnel)?.endpoint,
            (None, WaypointTarget::Address(network, ip)) if *network == world.settings().network => {
                let meshed = world.workloads_at(*ip).iter().find(|workload| workload.protocol == Protocol::Hbone);
                Arc::clone(meshed.ok_or_else(|| no_waypoint(waypoint))?)
            }
            _ => return Err(no_waypoint(waypoint)),
        };
        let dial = endpoint.socket(self.destination.ip(), waypoint.port).ok_or_else(|| no_waypoint(waypoint))?;
        let accepted = behind.map(|behind| behind.subject_alt_names.as_slice()).unwrap_or_default();
        Ok(Outbound::Tunnel(self.tunnel(&endpoint, dial, self.destination, accepted, service)))
    }

    /// The waypoint's own connections to what it serves do not go through itself.
    fn comes_from(&self, waypoint: &Waypoint) -> bool {
        stands_for(self.world, &self.source, waypoint)
    }

    pub(crate) fn choose(&mut self, service: &Service, wanted: Wanted) -> Result<Choice, Refusal> {
        crate::endpoint::choose(self.world, &self.source, service, wanted, self.chooser)
    }
}

fn waypoint_service<'w>(world: &'w World, waypoint: &Waypoint) -> Option<&'w Arc<Service>> {
    match &waypoint.target {
        WaypointTarget::Service(key) => world.service(key),
        WaypointTarget::Address(network, ip) if *network == world.settings().network => world.services_at(*ip).first(),
        WaypointTarget::Address(..) => None,
    }
}

/// The workload is of this waypoint.
pub(crate) fn stands_for(world: &World, workload: &Workload, waypoint: &Waypoint) -> bool {
    match (waypoint_service(world, waypoint), &waypoint.target) {
        (Some(behind), _) => workload.services.contains_key(&behind.key),
        (None, WaypointTarget::Address(_, ip)) => workload.addresses.contains(ip),
        (None, WaypointTarget::Service(_)) => false,
    }
}

fn no_waypoint(waypoint: &Waypoint) -> Refusal {
    Refusal::unavailable(errors::SERVICE_NO_ENDPOINT, format!("the waypoint {:?} has no endpoint in the mesh", waypoint.target))
}
