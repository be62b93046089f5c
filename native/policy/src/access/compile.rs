//! Wire messages into compiled policies of a waypoint: what cannot be enforced exactly makes an error, it is never dropped.
use http::HeaderName;
use trackbed_contract::authorization as wire;
use trackbed_contract::authorization::text::Kind;

use super::condition::{Condition, PathPattern, PathText};
use super::policies::{Action, Clause, Match, Policy, Rule};
use super::subject::Paths;
use super::template::Template;
use crate::parse::{Placed, Problem, each, net_of, port};
use crate::path;
use crate::policy::{Field, ServiceAccount, Text};

/// Rules of one service together: each costs memory and time.
const MOST_RULES: usize = 4096;

pub(super) fn policies(wire: &[wire::Policy]) -> Placed<Vec<Policy>> {
    let rules: usize = wire.iter().map(|policy| policy.rules.len()).sum();
    if rules > MOST_RULES {
        return Err(("policies".to_owned(), Problem::TooMany { count: rules, most: MOST_RULES, what: "rules" }));
    }
    each("policies", wire, policy)
}

fn policy(place: &str, wire: &wire::Policy) -> Placed<Policy> {
    let wire::Policy { name, action, dry_run, rules, provider, invalid } = wire;
    let at = |field: &str| format!("{place}.{field}");
    if name.split_once('/').is_none_or(|(namespace, name)| namespace.is_empty() || name.is_empty()) {
        return Err((at("name"), Problem::Name(name.clone())));
    }
    let invalid = (!invalid.is_empty()).then(|| invalid.as_str().into());
    let action = match wire::Action::try_from(*action) {
        Ok(wire::Action::Allow) => Action::Allow,
        Ok(wire::Action::Deny) => Action::Deny,
        Ok(wire::Action::Custom) => Action::Custom(provider.as_str().into()),
        // Control may not even have known that.
        Ok(wire::Action::Unspecified) if invalid.is_some() => Action::Deny,
        Ok(wire::Action::Unspecified) | Err(_) => return Err((at("action"), Problem::UnknownValue(*action))),
    };
    let compiled = each(&at("rules"), rules, rule)?;
    Ok(Policy { name: name.as_str().into(), action, dry_run: *dry_run, rules: compiled, invalid })
}

fn rule(place: &str, wire: &wire::Rule) -> Placed<Rule> {
    each(&format!("{place}.clauses"), &wire.clauses, clause)
}

fn clause(place: &str, wire: &wire::Clause) -> Placed<Clause> {
    let place = format!("{place}.matches");
    if wire.matches.is_empty() {
        return Err((place, Problem::Empty));
    }
    each(&place, &wire.matches, one_match)
}

/// Destructured whole, so that a new field of the message does not compile until it is handled.
fn one_match(place: &str, wire: &wire::Match) -> Placed<Match> {
    let wire::Match {
        principals,
        namespaces,
        service_accounts,
        source_ips,
        remote_ips,
        destination_ips,
        destination_ports,
        hosts,
        methods,
        paths,
        request_principals,
        audiences,
        presenters,
        headers,
        claims,
        server_names,
    } = wire;
    let at = |field: &str| format!("{place}.{field}");
    let mut conditions = Vec::new();
    // In the order in which they are looked at: what is quick, and what tells most clients apart, comes first.
    if let Some(wire) = methods {
        conditions.push(Condition::Methods(texts(&at("methods"), wire)?));
    }
    if let Some(wire::Ports { any, none }) = destination_ports {
        let ports = |field: &str, ports: &[u32]| each(&at(field), ports, |place, value| port(place, *value));
        let field = Field { any: ports("destination_ports.any", any)?, none: ports("destination_ports.none", none)? };
        conditions.push(Condition::DestinationPorts(some(&at("destination_ports"), field)?));
    }
    for (name, wire, condition) in [
        ("namespaces", namespaces, Condition::Namespaces as fn(Field<Text>) -> Condition),
        ("principals", principals, Condition::Principals),
        ("request_principals", request_principals, Condition::RequestPrincipals),
        ("server_names", server_names, Condition::ServerNames),
        ("presenters", presenters, Condition::Presenters),
        ("audiences", audiences, Condition::Audiences),
    ] {
        if let Some(wire) = wire {
            conditions.push(condition(texts(&at(name), wire)?));
        }
    }
    if let Some(wire) = service_accounts {
        conditions.push(Condition::ServiceAccounts(accounts(&at("service_accounts"), wire)?));
    }
    if let Some(wire) = hosts {
        let lower = |place: &str, wire: &wire::Text| text(place, wire).map(lower);
        conditions.push(Condition::Hosts(both(&at("hosts"), &wire.any, &wire.none, lower)?));
    }
    if let Some(wire) = paths {
        conditions.push(Condition::Paths(both(&at("paths"), &wire.any, &wire.none, path_text)?));
    }
    for (name, wire, condition) in [
        ("source_ips", source_ips, Condition::SourceIps as fn(_) -> Condition),
        ("remote_ips", remote_ips, Condition::RemoteIps),
        ("destination_ips", destination_ips, Condition::DestinationIps),
    ] {
        if let Some(wire) = wire {
            let block = |place: &str, wire: &wire::Block| net_of(place, &wire.address, wire.length);
            conditions.push(condition(both(&at(name), &wire.any, &wire.none, block)?));
        }
    }
    for (index, wire) in headers.iter().enumerate() {
        let place = at(&format!("headers[{index}]"));
        let name = header_name(&format!("{place}.name"), &wire.name)?;
        conditions.push(Condition::Header(name, texts(&format!("{place}.values"), set(&place, wire.values.as_ref())?)?));
    }
    for (index, wire) in claims.iter().enumerate() {
        let place = at(&format!("claims[{index}]"));
        if wire.path.is_empty() || wire.path.iter().any(String::is_empty) {
            return Err((format!("{place}.path"), Problem::Empty));
        }
        conditions.push(Condition::Claim(wire.path.clone(), texts(&format!("{place}.values"), set(&place, wire.values.as_ref())?)?));
    }
    if conditions.is_empty() { Err((place.to_owned(), Problem::Empty)) } else { Ok(conditions) }
}

fn texts(place: &str, wire: &wire::Texts) -> Placed<Field<Text>> {
    both(place, &wire.any, &wire.none, text)
}

fn both<W, T>(place: &str, any: &[W], none: &[W], one: impl Fn(&str, &W) -> Placed<T>) -> Placed<Field<T>> {
    let field = Field { any: each(&format!("{place}.any"), any, &one)?, none: each(&format!("{place}.none"), none, &one)? };
    some(place, field)
}

fn some<T>(place: &str, field: Field<T>) -> Placed<Field<T>> {
    if field.is_empty() { Err((place.to_owned(), Problem::Empty)) } else { Ok(field) }
}

fn set<'a, T>(place: &str, value: Option<&'a T>) -> Placed<&'a T> {
    value.ok_or_else(|| (format!("{place}.values"), Problem::Unset))
}

fn text(place: &str, wire: &wire::Text) -> Placed<Text> {
    let value = |text: &String| if text.is_empty() { Err((place.to_owned(), Problem::Empty)) } else { Ok(text.clone()) };
    match &wire.kind {
        // No value at all is a value that a client can send.
        Some(Kind::Exact(exact)) => Ok(Text::Exact(exact.clone())),
        Some(Kind::Prefix(prefix)) => Ok(Text::Prefix(value(prefix)?)),
        Some(Kind::Suffix(suffix)) => Ok(Text::Suffix(value(suffix)?)),
        Some(Kind::Presence(true)) => Ok(Text::Presence),
        Some(Kind::Template(_)) => Err((place.to_owned(), Problem::Template("is of paths only"))),
        Some(Kind::Presence(false)) | None => Err((place.to_owned(), Problem::Unset)),
    }
}

fn lower(text: Text) -> Text {
    match text {
        Text::Exact(text) => Text::Exact(text.to_lowercase()),
        Text::Prefix(text) => Text::Prefix(text.to_lowercase()),
        Text::Suffix(text) => Text::Suffix(text.to_lowercase()),
        Text::Presence => Text::Presence,
    }
}

type Make = fn(&str) -> Result<PathPattern, &'static str>;

/// In every reading that a path has.
fn path_text(place: &str, wire: &wire::Text) -> Placed<PathText> {
    let (written, make): (&str, Make) = match &wire.kind {
        Some(Kind::Exact(text)) => (text, |text| Ok(PathPattern::Text(Text::Exact(text.to_owned())))),
        Some(Kind::Prefix(text)) => (text, |text| Ok(PathPattern::Text(Text::Prefix(text.to_owned())))),
        Some(Kind::Suffix(text)) => (text, |text| Ok(PathPattern::Text(Text::Suffix(text.to_owned())))),
        Some(Kind::Template(text)) => (text, |text| Template::parse(text).map(PathPattern::Template)),
        Some(Kind::Presence(true)) => return Ok(PathText { raw: PathPattern::Text(Text::Presence), others: None }),
        Some(Kind::Presence(false)) | None => return Err((place.to_owned(), Problem::Unset)),
    };
    if written.is_empty() {
        return Err((place.to_owned(), Problem::Empty));
    }
    let make = |text: &str| make(text).map_err(|problem| (place.to_owned(), Problem::Template(problem)));
    // A pattern that no path can match stays as it is.
    let normal = path::decode(written).unwrap_or_else(|_| written.to_owned());
    let readings = Paths::of(normal.as_str());
    let others = match (readings.is_plain(), &wire.kind) {
        (true, _) => None,
        (false, kind) => {
            // The beginning or end of a segment without its parameters would be the beginning or end of many more.
            let last = if normal.contains(';') && !matches!(kind, Some(Kind::Exact(_))) { 2 } else { 3 };
            Some(Box::new([make(readings.reading(1))?, make(readings.reading(2))?, make(readings.reading(last))?]))
        }
    };
    Ok(PathText { raw: make(&normal)?, others })
}

fn accounts(place: &str, wire: &wire::ServiceAccounts) -> Placed<Field<ServiceAccount>> {
    let one = |place: &str, wire: &wire::ServiceAccount| {
        if wire.namespace.is_empty() || wire.name.is_empty() {
            return Err((place.to_owned(), Problem::Empty));
        }
        Ok(ServiceAccount { namespace: wire.namespace.clone(), name: wire.name.clone() })
    };
    both(place, &wire.any, &wire.none, one)
}

/// Strict: in lower case, so that it is the one that control meant.
fn header_name(place: &str, name: &str) -> Placed<HeaderName> {
    HeaderName::from_lowercase(name.as_bytes()).map_err(|_| (place.to_owned(), Problem::Name(name.to_owned())))
}
