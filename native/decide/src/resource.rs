//! Workloads and services as decisions see them: addresses, names and identities already parsed.
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use trackbed_balance::{Mode, Place, Scope};
use trackbed_contract::{Identity, TrustDomain};

/// How a workload is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Plain,
    Hbone,
    /// The mutual TLS of sidecars, which this engine does not speak: refused, never plain.
    Sidecar,
}

// Flags of the wire message, independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub uid: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub identity: Identity,
    /// The wire named no trust domain: the identity follows the mesh's.
    pub(crate) trust_domain_is_the_meshs: bool,
    pub addresses: Vec<IpAddr>,
    pub network: Arc<str>,
    pub node: Arc<str>,
    pub protocol: Protocol,
    /// Shares its node's addresses: never looked up by them.
    pub host_network: bool,
    pub healthy: bool,
    /// Share of a service's connections, 1 unless set.
    pub weight: u32,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    /// Name of the Deployment, CronJob or Job behind it.
    pub workload_name: Arc<str>,
    /// What that name is of, in the words of `baggage`: deployment | cronjob | pod | job.
    pub kind: &'static str,
    pub cluster: Arc<str>,
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub subzone: Arc<str>,
    /// By `namespace/hostname`: service port → target port, 0 = ask the service.
    pub services: BTreeMap<Arc<str>, BTreeMap<u16, u16>>,
    /// Policies with a selector that picks it, `namespace/name`.
    pub policies: Vec<Arc<str>>,
    /// It terminates HBONE itself.
    pub native_tunnel: bool,
    /// It wants its inbound connections through a tunnel of its own, which this engine cannot give.
    pub application_tunnel: bool,
    pub waypoint: Option<Waypoint>,
}

// Flags of the wire message, independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `namespace/hostname`.
    pub key: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
    /// Virtual addresses by network; empty = headless.
    pub addresses: Vec<(Arc<str>, IpNet)>,
    /// Service port → target port, 0 = the endpoint says.
    pub ports: BTreeMap<u16, u16>,
    /// Accepted from endpoints beside their own identity.
    pub subject_alt_names: Vec<Identity>,
    pub waypoint: Option<Waypoint>,
    /// Several, by their share of the connections; `waypoint` alone where none has any.
    pub weighted_waypoints: Vec<(Waypoint, u32)>,
    pub mode: Mode,
    pub scopes: Vec<Scope>,
    /// Unhealthy endpoints are used too.
    pub allow_unhealthy: bool,
    /// Wins host name look-ups from other namespaces.
    pub canonical: bool,
    /// Only clients of its own namespace.
    pub namespace_only: bool,
    pub ipv4: bool,
    pub ipv6: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waypoint {
    pub target: WaypointTarget,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaypointTarget {
    /// `namespace/hostname`.
    Service(Arc<str>),
    Address(Arc<str>, IpAddr),
}

impl Service {
    /// Every waypoint that its connections may pass.
    pub fn waypoints(&self) -> impl Iterator<Item = &Waypoint> {
        self.waypoint.iter().chain(self.weighted_waypoints.iter().map(|(waypoint, _)| waypoint))
    }

    /// The waypoint of a new connection.
    pub(crate) fn pick_waypoint(&self, rng: &mut fastrand::Rng) -> Option<&Waypoint> {
        let total: u64 = self.weighted_waypoints.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut left = if total == 0 { 0 } else { rng.u64(..total) };
        let picked = self.weighted_waypoints.iter().find(|(_, weight)| {
            let here = left < u64::from(*weight);
            left = left.saturating_sub(u64::from(*weight));
            here
        });
        picked.map(|(waypoint, _)| waypoint).or(self.waypoint.as_ref())
    }
}

impl Workload {
    pub fn service_account(&self) -> &str {
        self.identity.service_account()
    }

    /// Its address to dial: of the wanted family if it has one.
    pub fn address_like(&self, wanted: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().find(|address| address.is_ipv4() == wanted.is_ipv4()).or_else(|| self.addresses.first()).copied()
    }

    /// The same workload in a mesh of another trust domain, unless it names its own.
    pub(crate) fn in_trust_domain(self: &Arc<Self>, trust_domain: &TrustDomain) -> Arc<Self> {
        if !self.trust_domain_is_the_meshs {
            return Arc::clone(self);
        }
        match Identity::new(trust_domain, self.identity.namespace(), self.identity.service_account()) {
            Ok(identity) if identity != self.identity => Arc::new(Self { identity, ..(**self).clone() }),
            _ => Arc::clone(self),
        }
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            region: &self.region,
            zone: &self.zone,
            subzone: &self.subzone,
            node: &self.node,
            cluster: &self.cluster,
            network: &self.network,
        }
    }

    /// The port it serves a service's port on: its own list first, then the service's; `None` = not at all.
    pub fn target_port(&self, service: &Service, port: u16) -> Option<u16> {
        let own = self.services.get(&service.key)?.get(&port).copied().filter(|target| *target != 0);
        own.or_else(|| service.ports.get(&port).copied().filter(|target| *target != 0))
    }

    pub(crate) fn socket(&self, wanted: IpAddr, port: u16) -> Option<SocketAddr> {
        self.address_like(wanted).map(|address| SocketAddr::new(address, port))
    }
}
