//! One condition of a policy, and whether it holds of a request.
use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;
use trackbed_contract::Identity;

use super::subject::{Host, Http, Paths, Subject};
use super::template::Template;
use super::token::{Token, texts};
use crate::policy::{Field, ServiceAccount, Text};

/// What a policy does with what it matches: of a field with several values, and of one that is not known, what is worse for the client counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Towards {
    /// ALLOW: every value must be one that it names.
    Admit,
    /// DENY and CUSTOM: one is enough.
    Restrict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Principals(Field<Text>),
    Namespaces(Field<Text>),
    ServiceAccounts(Field<ServiceAccount>),
    SourceIps(Field<IpNet>),
    RemoteIps(Field<IpNet>),
    DestinationIps(Field<IpNet>),
    DestinationPorts(Field<u16>),
    Hosts(Field<Text>),
    Methods(Field<Text>),
    Paths(Field<PathText>),
    RequestPrincipals(Field<Text>),
    Audiences(Field<Text>),
    Presenters(Field<Text>),
    Header(HeaderName, Field<Text>),
    Claim(Vec<String>, Field<Text>),
    ServerNames(Field<Text>),
}

/// A pattern in the readings of [`Paths`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathText {
    pub(crate) raw: PathPattern,
    pub(crate) others: Option<Box<[PathPattern; 3]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathPattern {
    Text(Text),
    Template(Template),
}

impl Condition {
    pub(crate) fn holds(&self, subject: &Subject<'_>, towards: Towards) -> bool {
        match self {
            Self::Principals(field) => field.holds(|text| text.matches(subject.source.map_or("", Identity::principal))),
            Self::Namespaces(field) => field.holds(|text| text.matches(subject.source.map_or("", Identity::namespace))),
            Self::ServiceAccounts(field) => field.holds(|account| subject.source.is_some_and(|source| account.matches(source))),
            Self::SourceIps(field) => within(field, subject.source_ip),
            Self::RemoteIps(field) => subject.remote_ip.map_or(towards == Towards::Restrict, |ip| within(field, ip)),
            Self::DestinationIps(field) => subject.destination_ip.map_or(towards == Towards::Restrict, |ip| within(field, ip)),
            Self::DestinationPorts(field) => field.holds(|port| *port == subject.destination_port),
            Self::ServerNames(field) => match (subject.server_name, &subject.http) {
                (Some(name), _) => field.holds(|text| text.matches(name)),
                (None, Some(_)) => field.holds(|text| text.matches("")),
                (None, None) => towards == Towards::Restrict,
            },
            Self::Hosts(_)
            | Self::Methods(_)
            | Self::Paths(_)
            | Self::RequestPrincipals(_)
            | Self::Audiences(_)
            | Self::Presenters(_)
            | Self::Header(..)
            | Self::Claim(..) => subject.http.as_ref().map_or(towards == Towards::Restrict, |http| self.holds_of(http, towards)),
        }
    }

    fn holds_of(&self, http: &Http<'_>, towards: Towards) -> bool {
        let claim = |path: &[&str], field| listed(field, http.token, path);
        match self {
            Self::Hosts(field) => field.holds(|text| is_host(text, http.host)),
            Self::Methods(field) => field.holds(|text| text.matches(http.method)),
            Self::Paths(field) => read(field, http.paths, towards),
            Self::RequestPrincipals(field) => field.holds(|text| text.matches(http.token.map_or("", |token| &token.principal))),
            Self::Audiences(field) => claim(&["aud"], field),
            Self::Presenters(field) => claim(&["azp"], field),
            Self::Claim(path, field) => listed(field, http.token, path),
            Self::Header(name, field) => header(field, http, name, towards),
            // Of connections too: `holds` has decided them.
            _ => false,
        }
    }

    /// As the wire calls it, for explanations.
    pub(crate) fn name(&self) -> String {
        let name = match self {
            Self::Principals(_) => "principals",
            Self::Namespaces(_) => "namespaces",
            Self::ServiceAccounts(_) => "service_accounts",
            Self::SourceIps(_) => "source_ips",
            Self::RemoteIps(_) => "remote_ips",
            Self::DestinationIps(_) => "destination_ips",
            Self::DestinationPorts(_) => "destination_ports",
            Self::Hosts(_) => "hosts",
            Self::Methods(_) => "methods",
            Self::Paths(_) => "paths",
            Self::RequestPrincipals(_) => "request_principals",
            Self::Audiences(_) => "audiences",
            Self::Presenters(_) => "presenters",
            Self::ServerNames(_) => "server_names",
            Self::Header(name, _) => return format!("headers[{name}]"),
            Self::Claim(path, _) => return format!("claims[{}]", path.join("][")),
        };
        name.to_owned()
    }
}

fn within(field: &Field<IpNet>, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    field.holds(|net| net.contains(&ip))
}

/// A name is about every port.
fn is_host(text: &Text, host: &Host<'_>) -> bool {
    text.matches(&host.whole) || text.matches(host.name())
}

fn read(field: &Field<PathText>, paths: &Paths<'_>, towards: Towards) -> bool {
    let holds = |number| field.holds(|text| text.reading(number).matches(paths.reading(number)));
    if paths.is_plain() && field.any.iter().chain(&field.none).all(|text| text.others.is_none()) {
        return holds(0);
    }
    let mut readings = 0..Paths::READINGS;
    match towards {
        Towards::Admit => readings.all(holds),
        Towards::Restrict => readings.any(holds),
    }
}

/// Each value by itself: a list with commas is one value, as it is for most servers.
fn header(field: &Field<Text>, http: &Http<'_>, name: &HeaderName, towards: Towards) -> bool {
    let mut values = http.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).peekable();
    if values.peek().is_none() {
        return field.any.is_empty();
    }
    // A header without a value is there.
    let holds = |value: std::borrow::Cow<'_, str>| field.holds(|text| matches!(text, Text::Presence) || text.matches(&value));
    match towards {
        Towards::Admit => values.all(holds),
        Towards::Restrict => values.any(holds),
    }
}

/// The issuer made the list: whoever is named in it is meant, among others.
fn listed<T: AsRef<str>>(field: &Field<Text>, token: Option<&Token>, path: &[T]) -> bool {
    let texts = texts(token.and_then(|token| token.claim(path)));
    let named = |one: &Text| texts.iter().any(|text| one.matches(text));
    (field.any.is_empty() || field.any.iter().any(named)) && !field.none.iter().any(named)
}

impl PathText {
    pub(crate) fn reading(&self, number: usize) -> &PathPattern {
        match (&self.others, number.checked_sub(1)) {
            (Some(others), Some(other)) => others.get(other).unwrap_or(&others[2]),
            _ => &self.raw,
        }
    }
}

impl PathPattern {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => template.matches(path),
        }
    }
}
