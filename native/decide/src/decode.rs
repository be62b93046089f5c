//! Wire messages into workloads and services. What cannot be understood whole is an error that names the place.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use trackbed_balance::{Mode, Scope};
use trackbed_contract::istio::workload as wire;
use trackbed_contract::tables::ports;
use trackbed_contract::{Identity, IdentityError, TrustDomain};

use crate::resource::{Protocol, Service, Waypoint, WaypointTarget, Workload};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decoded {
    Workload(Workload),
    Service(Service),
}

/// Why a resource is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub(crate) struct Unusable {
    place: String,
    problem: Problem,
    /// Addresses to which nothing may go in plaintext, because what stands there may have been promised mutual TLS.
    pub(crate) doubted: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("not a protobuf message of this type: {0}")]
    Malformed(String),
    #[error("holds neither workload nor service")]
    Unset,
    #[error("is {0:?} and was delivered as {1:?}")]
    OtherName(String, String),
    #[error("is empty")]
    Empty,
    #[error("an address has 4 or 16 bytes, this has {0}")]
    AddressLength(usize),
    #[error("{0} is an IPv4 address written as IPv6")]
    MappedAddress(IpAddr),
    #[error("the prefix length {1} does not fit {0}")]
    PrefixLength(IpAddr, u32),
    #[error("{0} is not a port")]
    Port(u32),
    #[error("has the unknown value {0}")]
    UnknownValue(i32),
    #[error("{0:?} is not an identity: {1}")]
    Identity(String, IdentityError),
}

type Placed<T> = Result<T, (String, Problem)>;

/// Decodes what was delivered as `name`. `network` is this node's.
pub(crate) fn decode(name: &str, body: &[u8], trust_domain: &TrustDomain, network: &str) -> Result<Decoded, Unusable> {
    let without_doubt = |(place, problem)| Unusable { place, problem, doubted: Vec::new() };
    let address = wire::Address::decode(body).map_err(|cause| without_doubt(at("body", Problem::Malformed(cause.to_string()))))?;
    let decoded = match &address.r#type {
        Some(wire::address::Type::Workload(wire)) => workload(name, wire, trust_domain).map(Decoded::Workload),
        Some(wire::address::Type::Service(wire)) => service(name, wire).map(Decoded::Service),
        None => return Err(without_doubt(at("type", Problem::Unset))),
    };
    decoded.map_err(|(place, problem)| Unusable { place, problem, doubted: doubted(&address, network) })
}

/// As many addresses of an unusable resource as can be read.
fn doubted(address: &wire::Address, network: &str) -> Vec<IpNet> {
    match &address.r#type {
        Some(wire::address::Type::Workload(wire)) if wire.network == network && wire.tunnel_protocol != 0 => {
            wire.addresses.iter().filter_map(|bytes| ip("", bytes).ok()).map(IpNet::from).collect()
        }
        Some(wire::address::Type::Service(wire)) => {
            let here = wire.addresses.iter().filter(|address| address.network == network);
            // Of blocks only hosts count: one broken document about 0.0.0.0/0 must not close the whole outside.
            here.filter_map(|address| net("", address).ok()).filter(|net| net.prefix_len() == net.max_prefix_len()).collect()
        }
        _ => Vec::new(),
    }
}

fn workload(name: &str, wire: &wire::Workload, trust_domain: &TrustDomain) -> Placed<Workload> {
    named("workload.uid", &wire.uid, name)?;
    filled("workload.name", &wire.name)?;
    let protocol = match wire::TunnelProtocol::try_from(wire.tunnel_protocol) {
        Ok(wire::TunnelProtocol::None) => Protocol::Plain,
        Ok(wire::TunnelProtocol::Hbone) => Protocol::Hbone,
        Ok(wire::TunnelProtocol::LegacyIstioMtls) => Protocol::Sidecar,
        Err(_) => return Err(at("workload.tunnel_protocol", Problem::UnknownValue(wire.tunnel_protocol))),
    };
    let host_network = match wire::NetworkMode::try_from(wire.network_mode) {
        Ok(wire::NetworkMode::Standard) => false,
        Ok(wire::NetworkMode::HostNetwork) => true,
        Err(_) => return Err(at("workload.network_mode", Problem::UnknownValue(wire.network_mode))),
    };
    let healthy = match wire::WorkloadStatus::try_from(wire.status) {
        Ok(wire::WorkloadStatus::Healthy) => true,
        Ok(wire::WorkloadStatus::Unhealthy) => false,
        Err(_) => return Err(at("workload.status", Problem::UnknownValue(wire.status))),
    };
    let locality = wire.locality.clone().unwrap_or_default();
    let mut policies: Vec<Arc<str>> = wire.authorization_policies.iter().map(|name| name.as_str().into()).collect();
    policies.sort_unstable();
    policies.dedup();
    Ok(Workload {
        uid: name.into(),
        name: wire.name.as_str().into(),
        namespace: wire.namespace.as_str().into(),
        identity: identity(wire, trust_domain)?,
        trust_domain_is_the_meshs: wire.trust_domain.is_empty(),
        addresses: each("workload.addresses", &wire.addresses, |place, bytes| ip(place, bytes))?,
        network: wire.network.as_str().into(),
        node: wire.node.as_str().into(),
        protocol,
        host_network,
        healthy,
        weight: wire.capacity.unwrap_or(1),
        canonical_name: wire.canonical_name.as_str().into(),
        canonical_revision: wire.canonical_revision.as_str().into(),
        workload_name: wire.workload_name.as_str().into(),
        // It only labels metrics: a kind of a later version is no reason to refuse the workload.
        kind: match wire::WorkloadType::try_from(wire.workload_type) {
            Ok(wire::WorkloadType::Deployment) => "deployment",
            Ok(wire::WorkloadType::Cronjob) => "cronjob",
            Ok(wire::WorkloadType::Job) => "job",
            Ok(wire::WorkloadType::Pod) | Err(_) => "pod",
        },
        cluster: wire.cluster_id.as_str().into(),
        region: locality.region.into(),
        zone: locality.zone.into(),
        subzone: locality.subzone.into(),
        services: wire
            .services
            .iter()
            .map(|(key, list)| Ok((Arc::from(key.as_str()), port_map(&format!("workload.services[{key:?}].ports"), &list.ports)?)))
            .collect::<Placed<_>>()?,
        policies,
        native_tunnel: wire.native_tunnel,
        application_tunnel: wire.application_tunnel.is_some(),
        waypoint: wire.waypoint.as_ref().map(|gateway| waypoint("workload.waypoint", gateway)).transpose()?,
    })
}

fn identity(wire: &wire::Workload, mesh: &TrustDomain) -> Placed<Identity> {
    let account = if wire.service_account.is_empty() { "default" } else { &wire.service_account };
    let trust_domain = if wire.trust_domain.is_empty() {
        mesh.clone()
    } else {
        TrustDomain::parse(&wire.trust_domain)
            .map_err(|cause| at("workload.trust_domain", Problem::Identity(wire.trust_domain.clone(), cause)))?
    };
    Identity::new(&trust_domain, &wire.namespace, account)
        .map_err(|cause| at("workload", Problem::Identity(format!("{}/{account}", wire.namespace), cause)))
}

fn service(name: &str, wire: &wire::Service) -> Placed<Service> {
    filled("service.namespace", &wire.namespace)?;
    filled("service.hostname", &wire.hostname)?;
    named("service", &format!("{}/{}", wire.namespace, wire.hostname), name)?;
    let balancing = wire.load_balancing.clone().unwrap_or_default();
    let (ipv4, ipv6) = match wire::IpFamilies::try_from(wire.ip_families) {
        Ok(wire::IpFamilies::Automatic | wire::IpFamilies::Dual) => (true, true),
        Ok(wire::IpFamilies::Ipv4Only) => (true, false),
        Ok(wire::IpFamilies::Ipv6Only) => (false, true),
        Err(_) => return Err(at("service.ip_families", Problem::UnknownValue(wire.ip_families))),
    };
    Ok(Service {
        key: name.into(),
        name: wire.name.as_str().into(),
        namespace: wire.namespace.as_str().into(),
        hostname: wire.hostname.to_ascii_lowercase().into(),
        addresses: each("service.addresses", &wire.addresses, |place, address| {
            Ok((Arc::from(address.network.as_str()), net(place, address)?))
        })?,
        ports: port_map("service.ports", &wire.ports)?,
        subject_alt_names: each("service.subject_alt_names", &wire.subject_alt_names, |place, uri| {
            Identity::parse(uri).map_err(|cause| at(place, Problem::Identity(uri.clone(), cause)))
        })?,
        waypoint: wire.waypoint.as_ref().map(|gateway| waypoint("service.waypoint", gateway)).transpose()?,
        weighted_waypoints: each("service.weighted_waypoints", &wire.weighted_waypoints, |place, weighted| {
            let gateway = weighted.destination.as_ref().ok_or_else(|| at(place, Problem::Unset))?;
            Ok((waypoint(place, gateway)?, weighted.weight))
        })?,
        mode: match wire::load_balancing::Mode::try_from(balancing.mode) {
            Ok(wire::load_balancing::Mode::UnspecifiedMode) => Mode::Any,
            Ok(wire::load_balancing::Mode::Strict) => Mode::Strict,
            Ok(wire::load_balancing::Mode::Failover) => Mode::Failover,
            Ok(wire::load_balancing::Mode::Passthrough) => Mode::Passthrough,
            Err(_) => return Err(at("service.load_balancing.mode", Problem::UnknownValue(balancing.mode))),
        },
        scopes: each("service.load_balancing.routing_preference", &balancing.routing_preference, |place, value| scope(place, *value))?,
        allow_unhealthy: match wire::load_balancing::HealthPolicy::try_from(balancing.health_policy) {
            Ok(wire::load_balancing::HealthPolicy::OnlyHealthy) => false,
            Ok(wire::load_balancing::HealthPolicy::AllowAll) => true,
            Err(_) => return Err(at("service.load_balancing.health_policy", Problem::UnknownValue(balancing.health_policy))),
        },
        canonical: wire.canonical,
        namespace_only: match wire::service::Visibility::try_from(wire.visibility) {
            Ok(wire::service::Visibility::Public) => false,
            Ok(wire::service::Visibility::Namespace) => true,
            Err(_) => return Err(at("service.visibility", Problem::UnknownValue(wire.visibility))),
        },
        ipv4,
        ipv6,
    })
}

fn scope(place: &str, value: i32) -> Placed<Scope> {
    match wire::load_balancing::Scope::try_from(value) {
        Ok(wire::load_balancing::Scope::Region) => Ok(Scope::Region),
        Ok(wire::load_balancing::Scope::Zone) => Ok(Scope::Zone),
        Ok(wire::load_balancing::Scope::Subzone) => Ok(Scope::Subzone),
        Ok(wire::load_balancing::Scope::Node) => Ok(Scope::Node),
        Ok(wire::load_balancing::Scope::Cluster) => Ok(Scope::Cluster),
        Ok(wire::load_balancing::Scope::Network) => Ok(Scope::Network),
        Ok(wire::load_balancing::Scope::UnspecifiedScope) | Err(_) => Err(at(place, Problem::UnknownValue(value))),
    }
}

fn waypoint(place: &str, wire: &wire::GatewayAddress) -> Placed<Waypoint> {
    let target = match &wire.destination {
        Some(wire::gateway_address::Destination::Hostname(name)) => {
            WaypointTarget::Service(format!("{}/{}", name.namespace, name.hostname).into())
        }
        Some(wire::gateway_address::Destination::Address(address)) => {
            WaypointTarget::Address(address.network.as_str().into(), ip(&format!("{place}.address"), &address.address)?)
        }
        None => return Err(at(place, Problem::Unset)),
    };
    let port = match wire.hbone_mtls_port {
        0 => ports::HBONE,
        port => narrow(place, port)?,
    };
    Ok(Waypoint { target, port })
}

/// The first of two entries for one service port stands: it is the TCP one, UDP ports come after it.
fn port_map(place: &str, wire: &[wire::Port]) -> Placed<BTreeMap<u16, u16>> {
    let mut ports = BTreeMap::new();
    for port in wire {
        let service_port = narrow(place, port.service_port)?;
        if service_port == 0 {
            return Err(at(place, Problem::Port(0)));
        }
        ports.entry(service_port).or_insert(narrow(place, port.target_port)?);
    }
    Ok(ports)
}

fn narrow(place: &str, port: u32) -> Placed<u16> {
    u16::try_from(port).map_err(|_| at(place, Problem::Port(port)))
}

pub(crate) fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let address = <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()?;
    (address.to_canonical() == address).then_some(address)
}

fn ip(place: &str, bytes: &[u8]) -> Placed<IpAddr> {
    ip_from_bytes(bytes).ok_or_else(|| match <[u8; 16]>::try_from(bytes) {
        Ok(mapped) => at(place, Problem::MappedAddress(IpAddr::from(mapped))),
        Err(_) => at(place, Problem::AddressLength(bytes.len())),
    })
}

fn net(place: &str, wire: &wire::NetworkAddress) -> Placed<IpNet> {
    let address = ip(place, &wire.address)?;
    let Some(length) = wire.length else { return Ok(IpNet::from(address)) };
    let fits = u8::try_from(length).ok().and_then(|length| IpNet::new(address, length).ok());
    fits.map(|net| net.trunc()).ok_or_else(|| at(place, Problem::PrefixLength(address, length)))
}

fn named(place: &str, own: &str, delivered: &str) -> Placed<()> {
    filled(place, own)?;
    if own == delivered { Ok(()) } else { Err(at(place, Problem::OtherName(own.to_owned(), delivered.to_owned()))) }
}

fn filled(place: &str, text: &str) -> Placed<()> {
    if text.is_empty() { Err(at(place, Problem::Empty)) } else { Ok(()) }
}

fn at(place: &str, problem: Problem) -> (String, Problem) {
    (place.to_owned(), problem)
}

fn each<W, T>(place: &str, values: &[W], one: impl Fn(&str, &W) -> Placed<T>) -> Placed<Vec<T>> {
    values.iter().enumerate().map(|(index, value)| one(&format!("{place}[{index}]"), value)).collect()
}
