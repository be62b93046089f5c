//! A mesh in wire messages: pods of one namespace behind services, and policies over them.
use prost::Message;
use trackbed_contract::engine::{self, ResourceType};
use trackbed_contract::istio::security::string_match::MatchType;
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch};
use trackbed_contract::istio::workload::{self as istio, address};

pub(crate) const SERVICES: u8 = 20;
pub(crate) const PODS: u8 = 10;
pub(crate) const PORT: u16 = 80;

pub(crate) fn resources() -> Vec<engine::Resource> {
    let mut all: Vec<_> = (0..SERVICES).map(service).collect();
    all.extend((0..SERVICES).flat_map(|service| (0..PODS).map(move |pod| workload(service, pod))));
    all.extend((0..4).map(|number| {
        let policy = allow(&format!("allow-{number}"), &[number * 2, number * 2 + 1]);
        named(ResourceType::Authorization, format!("shop/{}", policy.name), policy.encode_to_vec())
    }));
    all
}

/// Pods of the first node, n1, are the even ones.
fn workload(service: u8, pod: u8) -> engine::Resource {
    let name = format!("s{service}-{pod}");
    let uid = format!("Kubernetes//Pod/shop/{name}");
    let ports = istio::PortList { ports: vec![istio::Port { service_port: PORT.into(), target_port: 8080, app_protocol: 0 }] };
    let message = istio::Workload {
        uid: uid.clone(),
        name,
        namespace: "shop".to_owned(),
        service_account: format!("s{service}"),
        node: if pod.is_multiple_of(2) { "n1" } else { "n2" }.to_owned(),
        addresses: vec![vec![10, 1, service, pod]],
        tunnel_protocol: istio::TunnelProtocol::Hbone.into(),
        services: [(format!("shop/{}", host(service)), ports)].into(),
        ..istio::Workload::default()
    };
    named(ResourceType::Address, uid, istio::Address { r#type: Some(address::Type::Workload(message)) }.encode_to_vec())
}

fn service(number: u8) -> engine::Resource {
    let message = istio::Service {
        name: format!("s{number}"),
        namespace: "shop".to_owned(),
        hostname: host(number),
        addresses: vec![istio::NetworkAddress { network: String::new(), address: vec![10, 2, 0, number], length: None }],
        ports: vec![istio::Port { service_port: PORT.into(), target_port: 8080, app_protocol: 0 }],
        ..istio::Service::default()
    };
    let body = istio::Address { r#type: Some(address::Type::Service(message)) }.encode_to_vec();
    named(ResourceType::Address, format!("shop/{}", host(number)), body)
}

fn host(service: u8) -> String {
    format!("s{service}.shop.svc.cluster.local")
}

pub(crate) fn principal(service: u8) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/s{service}")
}

/// Admits the named services' pods, one rule each.
pub(crate) fn allow(name: &str, services: &[u8]) -> Authorization {
    let rule = |service: &u8| {
        // A policy writes the identity without its scheme.
        let text = principal(*service).replace("spiffe://", "");
        let principals = vec![StringMatch { match_type: Some(MatchType::Exact(text)) }];
        let ports = Match { destination_ports: vec![8080], ..Match::default() };
        Rule { clauses: vec![Clause { matches: vec![Match { principals, ..Match::default() }] }, Clause { matches: vec![ports] }] }
    };
    Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: Scope::Namespace.into(),
        action: Action::Allow.into(),
        rules: services.iter().map(rule).collect(),
        dry_run: false,
        extensions: Vec::new(),
    }
}

fn named(kind: ResourceType, name: String, body: Vec<u8>) -> engine::Resource {
    engine::Resource { r#type: kind.into(), name, version: "1".to_owned(), body }
}
