//! A small mesh in wire messages, for the tests of decisions.
#![allow(dead_code, unreachable_pub)] // each test file uses its own part

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use trackbed_balance::Load;
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType};
use trackbed_contract::istio::workload as wire;
use trackbed_contract::{Identity, engine};
use trackbed_decide::{Chooser, LocalPod, Outbound, Settings, World, outbound};

pub const WEB: &str = "10.0.0.1";
pub const API: &str = "10.0.0.2";

pub fn settings() -> Settings {
    let wire = engine::MeshSettings {
        node: "n1".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        ..engine::MeshSettings::default()
    };
    Settings::from_wire(&wire).expect("settings")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("address and port")
}

pub fn bytes(text: &str) -> Vec<u8> {
    match ip(text) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A pod of namespace shop, enrolled, whose service account has its name.
pub fn pod(name: &str, node: &str, addresses: &[&str]) -> wire::Workload {
    wire::Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        service_account: name.to_owned(),
        node: node.to_owned(),
        addresses: addresses.iter().map(|address| bytes(address)).collect(),
        tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
        ..wire::Workload::default()
    }
}

pub fn plain(workload: wire::Workload) -> wire::Workload {
    wire::Workload { tunnel_protocol: wire::TunnelProtocol::None.into(), ..workload }
}

/// The workload serves `service` (of namespace shop) on these ports.
pub fn serving(mut workload: wire::Workload, service: &str, ports: &[(u32, u32)]) -> wire::Workload {
    workload.services.insert(format!("shop/{service}.shop.svc.cluster.local"), wire::PortList { ports: port_list(ports) });
    workload
}

pub fn service(name: &str, addresses: &[&str], ports: &[(u32, u32)]) -> wire::Service {
    wire::Service {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        hostname: format!("{name}.shop.svc.cluster.local"),
        addresses: addresses.iter().map(|address| vip(address)).collect(),
        ports: port_list(ports),
        ..wire::Service::default()
    }
}

pub fn vip(text: &str) -> wire::NetworkAddress {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length.parse().expect("length"))));
    wire::NetworkAddress { network: String::new(), address: bytes(address), length }
}

fn port_list(ports: &[(u32, u32)]) -> Vec<wire::Port> {
    ports
        .iter()
        .map(|(service_port, target_port)| wire::Port { service_port: *service_port, target_port: *target_port, app_protocol: 0 })
        .collect()
}

pub fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace.into(),
        action: action.into(),
        rules,
        dry_run: false,
        extensions: Vec::new(),
    }
}

pub fn principal(principal: &str) -> Rule {
    let text = StringMatch { match_type: Some(MatchType::Exact(principal.to_owned())) };
    Rule { clauses: vec![Clause { matches: vec![Match { principals: vec![text], ..Match::default() }] }] }
}

pub fn of_workload(workload: &wire::Workload) -> engine::Resource {
    resource(&workload.uid, wire::address::Type::Workload(workload.clone()))
}

pub fn of_service(service: &wire::Service) -> engine::Resource {
    resource(&format!("{}/{}", service.namespace, service.hostname), wire::address::Type::Service(service.clone()))
}

fn resource(name: &str, address: wire::address::Type) -> engine::Resource {
    let body = wire::Address { r#type: Some(address) }.encode_to_vec();
    engine::Resource { r#type: engine::ResourceType::Address.into(), name: name.to_owned(), version: version(&body), body }
}

pub fn of_policy(policy: &Authorization) -> engine::Resource {
    let body = policy.encode_to_vec();
    let name = format!("{}/{}", policy.namespace, policy.name);
    engine::Resource { r#type: engine::ResourceType::Authorization.into(), name, version: version(&body), body }
}

/// Equal bodies have equal versions.
fn version(body: &[u8]) -> String {
    body.iter().fold(0u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)).to_string()
}

pub fn removal(resource: &engine::Resource) -> engine::ResourceKey {
    engine::ResourceKey { r#type: resource.r#type, name: resource.name.clone() }
}

pub fn apply(world: &World, upsert: Vec<engine::Resource>, remove: &[engine::Resource]) -> (World, Vec<engine::Rejected>) {
    let remove = remove.iter().map(removal).collect();
    world.apply(&engine::StateDelta { generation: world.generation() + 1, reset: false, upsert, remove })
}

/// Applies what must be accepted.
pub fn with(world: &World, upsert: Vec<engine::Resource>) -> World {
    let (world, rejected) = apply(world, upsert, &[]);
    assert!(rejected.is_empty(), "{rejected:?}");
    world
}

pub fn without(world: &World, remove: &[engine::Resource]) -> World {
    apply(world, Vec::new(), remove).0
}

pub fn world(resources: Vec<engine::Resource>) -> World {
    with(&World::new(settings()), resources)
}

/// The local side of [`pod`].
pub fn local(name: &str, addresses: &[&str]) -> LocalPod {
    LocalPod {
        uid: format!("uid-of-{name}").into(),
        name: name.into(),
        namespace: "shop".into(),
        service_account: name.into(),
        addresses: addresses.iter().map(|address| ip(address)).collect(),
    }
}

pub fn identity(name: &str) -> Identity {
    Identity::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).expect("identity")
}

pub fn decide(world: &World, pod: &LocalPod, destination: &str) -> Outbound {
    decide_without(world, pod, destination, &[])
}

pub fn decide_without(world: &World, pod: &LocalPod, destination: &str, exclude: &[Arc<str>]) -> Outbound {
    let mut rng = fastrand::Rng::with_seed(7);
    outbound(world, pod, at(destination), &mut Chooser { rng: &mut rng, load: &Load::default(), now: Instant::now(), exclude })
}

pub fn code(outbound: &Outbound) -> &'static str {
    match outbound {
        Outbound::Relay(_) => "relay",
        Outbound::Tunnel(_) => "tunnel",
        Outbound::Plain(_) => "plain",
        Outbound::Refuse(refusal) => refusal.code,
    }
}
