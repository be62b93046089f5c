//! Wire messages into compiled policies: a value that cannot be enforced exactly makes an error, it is never dropped.
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use trackbed_contract::istio::security as wire;
use trackbed_contract::istio::security::string_match::MatchType;

use crate::policy::{Action, Clause, Field, Match, Policy, Rejected, Scope, ServiceAccount, Text};

/// Why a policy is not usable: which one, the place in it, and the problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy {policy}: {place}: {problem}")]
pub struct PolicyError {
    /// `namespace/name` as far as it is known.
    pub policy: String,
    /// For example `rules[0].clauses[1].matches[0].source_ips[2]`.
    pub place: String,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("not a protobuf message of this type: {0}")]
    Malformed(String),
    #[error("{0} bytes hold fields that this version does not know")]
    UnknownField(usize),
    #[error("is empty")]
    Empty,
    #[error("contains a slash")]
    Slash,
    #[error("has the unknown value {0}")]
    UnknownValue(i32),
    #[error("is an extension, and none is known: {0}")]
    Extension(String),
    #[error("has no match type")]
    Unset,
    #[error("an address has 4 or 16 bytes, this has {0}")]
    AddressLength(usize),
    #[error("{0} is an IPv4 address written as IPv6")]
    MappedAddress(IpAddr),
    #[error("the prefix length {length} does not fit {address}")]
    PrefixLength { address: IpAddr, length: u32 },
    #[error("{0} is not a port (1 to 65535)")]
    Port(u32),
    #[error("is {0} and was delivered as {1}")]
    OtherName(String, String),
    #[error("{0:?} is not a name of its kind")]
    Name(String),
    #[error("{0}")]
    Template(&'static str),
    #[error("has {count} {what}, more than {most}")]
    TooMany { count: usize, most: usize, what: &'static str },
}

impl Policy {
    /// Compiles a policy strictly: everything in it can be enforced, or it is an error.
    pub fn from_wire(wire: &wire::Authorization) -> Result<Self, PolicyError> {
        compile(wire).map_err(|(place, problem)| PolicyError { policy: name_of(wire), place, problem })
    }

    /// Decodes and compiles what was delivered under `name`, or says what must be denied because it cannot be used.
    pub fn decode(name: &str, body: &[u8]) -> Result<Self, Rejected> {
        let at = |place: &str, problem| PolicyError { policy: name.to_owned(), place: place.to_owned(), problem };
        let wire =
            wire::Authorization::decode(body).map_err(|cause| reject(name, &at("body", Problem::Malformed(cause.to_string())), None))?;
        if name_of(&wire) != name {
            return Err(reject(name, &at("name", Problem::OtherName(name_of(&wire), name.to_owned())), None));
        }
        // Decoding drops unknown fields, and a restriction that we drop would open what it closes. Policies hold no maps, so every
        // canonical encoder writes the same number of bytes as ours.
        if wire.encoded_len() != body.len() {
            let unknown = Problem::UnknownField(body.len().abs_diff(wire.encoded_len()));
            return Err(Rejected { enforced: true, ..reject(name, &at("body", unknown), Some(&wire)) });
        }
        Self::from_wire(&wire).map_err(|error| reject(name, &error, Some(&wire)))
    }
}

fn name_of(wire: &wire::Authorization) -> String {
    format!("{}/{}", wire.namespace, wire.name)
}

/// Without a body that can be trusted the policy might apply to every workload.
fn reject(name: &str, error: &PolicyError, wire: Option<&wire::Authorization>) -> Rejected {
    Rejected {
        name: name.into(),
        scope: wire.and_then(|wire| scope(wire.scope).ok()),
        namespace: name.split_once('/').map_or(name, |(namespace, _)| namespace).into(),
        reason: error.to_string().into(),
        enforced: wire.is_none_or(|wire| !wire.dry_run),
    }
}

pub(crate) type Placed<T> = Result<T, (String, Problem)>;

fn compile(wire: &wire::Authorization) -> Placed<Policy> {
    object_name("name", &wire.name)?;
    object_name("namespace", &wire.namespace)?;
    extensions("", &wire.extensions)?;
    let action = match wire::Action::try_from(wire.action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Err(_) => return Err(("action".to_owned(), Problem::UnknownValue(wire.action))),
    };
    Ok(Policy {
        name: name_of(wire).into(),
        namespace: Arc::from(wire.namespace.as_str()),
        scope: scope(wire.scope).map_err(|problem| ("scope".to_owned(), problem))?,
        action,
        dry_run: wire.dry_run,
        rules: each("rules", &wire.rules, |place, rule| each(&format!("{place}.clauses"), &rule.clauses, clause))?,
    })
}

fn scope(value: i32) -> Result<Scope, Problem> {
    match wire::Scope::try_from(value) {
        Ok(wire::Scope::Global) => Ok(Scope::Global),
        Ok(wire::Scope::Namespace) => Ok(Scope::Namespace),
        Ok(wire::Scope::WorkloadSelector) => Ok(Scope::WorkloadSelector),
        Err(_) => Err(Problem::UnknownValue(value)),
    }
}

fn clause(place: &str, wire: &wire::Clause) -> Placed<Clause> {
    each(&format!("{place}.matches"), &wire.matches, one_match)
}

/// Destructured whole, so that a new field of the message does not compile until it is handled.
fn one_match(place: &str, wire: &wire::Match) -> Placed<Match> {
    let wire::Match {
        namespaces,
        not_namespaces,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        service_accounts,
        not_service_accounts,
        extensions: unknown,
    } = wire;
    extensions(&format!("{place}."), unknown)?;
    let at = |field: &str| format!("{place}.{field}");
    Ok(Match {
        namespaces: Field { any: each(&at("namespaces"), namespaces, text)?, none: each(&at("not_namespaces"), not_namespaces, text)? },
        principals: Field { any: each(&at("principals"), principals, text)?, none: each(&at("not_principals"), not_principals, text)? },
        source_ips: Field { any: each(&at("source_ips"), source_ips, net)?, none: each(&at("not_source_ips"), not_source_ips, net)? },
        destination_ips: Field {
            any: each(&at("destination_ips"), destination_ips, net)?,
            none: each(&at("not_destination_ips"), not_destination_ips, net)?,
        },
        destination_ports: Field {
            any: each(&at("destination_ports"), destination_ports, |place, value| port(place, *value))?,
            none: each(&at("not_destination_ports"), not_destination_ports, |place, value| port(place, *value))?,
        },
        service_accounts: Field {
            any: each(&at("service_accounts"), service_accounts, service_account)?,
            none: each(&at("not_service_accounts"), not_service_accounts, service_account)?,
        },
    })
}

fn text(place: &str, wire: &wire::StringMatch) -> Placed<Text> {
    let value = |text: &String| if text.is_empty() { Err((place.to_owned(), Problem::Empty)) } else { Ok(text.clone()) };
    match &wire.match_type {
        Some(MatchType::Exact(exact)) => Ok(Text::Exact(value(exact)?)),
        Some(MatchType::Prefix(prefix)) => Ok(Text::Prefix(value(prefix)?)),
        Some(MatchType::Suffix(suffix)) => Ok(Text::Suffix(value(suffix)?)),
        Some(MatchType::Presence(())) => Ok(Text::Presence),
        None => Err((place.to_owned(), Problem::Unset)),
    }
}

fn net(place: &str, wire: &wire::Address) -> Placed<IpNet> {
    net_of(place, &wire.address, wire.length)
}

pub(crate) fn net_of(place: &str, bytes: &[u8], length: u32) -> Placed<IpNet> {
    let fail = |problem| (place.to_owned(), problem);
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(v4)
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(v6)
    } else {
        return Err(fail(Problem::AddressLength(bytes.len())));
    };
    if address.to_canonical() != address {
        return Err(fail(Problem::MappedAddress(address)));
    }
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(address, length).ok())
        // 10.0.0.5/24 means 10.0.0.0/24, as for Istio.
        .map(|net| net.trunc())
        .ok_or_else(|| fail(Problem::PrefixLength { address, length }))
}

pub(crate) fn port(place: &str, port: u32) -> Placed<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| (place.to_owned(), Problem::Port(port)))
}

fn service_account(place: &str, wire: &wire::ServiceAccountMatch) -> Placed<ServiceAccount> {
    object_name(&format!("{place}.namespace"), &wire.namespace)?;
    object_name(&format!("{place}.service_account"), &wire.service_account)?;
    Ok(ServiceAccount { namespace: wire.namespace.clone(), name: wire.service_account.clone() })
}

fn object_name(place: &str, name: &str) -> Placed<()> {
    match name {
        "" => Err((place.to_owned(), Problem::Empty)),
        name if name.contains('/') => Err((place.to_owned(), Problem::Slash)),
        _ => Ok(()),
    }
}

fn extensions(prefix: &str, extensions: &[trackbed_contract::istio::workload::Extension]) -> Placed<()> {
    match extensions.first() {
        None => Ok(()),
        Some(first) => Err((format!("{prefix}extensions[0]"), Problem::Extension(first.name.clone()))),
    }
}

pub(crate) fn each<W, T>(place: &str, values: &[W], one: impl Fn(&str, &W) -> Placed<T>) -> Placed<Vec<T>> {
    values.iter().enumerate().map(|(index, value)| one(&format!("{place}[{index}]"), value)).collect()
}
