//! A compiled policy and how it matches a connection.
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::Serialize;
use trackbed_contract::Identity;

/// What a connection is to a policy. Addresses may be IPv4-mapped: they are compared in their canonical form.
#[derive(Debug, Clone, Copy)]
pub struct Connection<'a> {
    /// Proven by certificate or by network namespace; `None` = plaintext.
    pub source: Option<&'a Identity>,
    pub source_ip: IpAddr,
    pub destination_ip: IpAddr,
    /// The port the application listens on, not the service's.
    pub destination_port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Scope {
    Global,
    Namespace,
    WorkloadSelector,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    Allow,
    Deny,
}

/// An immutable policy, made by [`Policy::from_wire`] or [`Policy::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) scope: Scope,
    pub(crate) action: Action,
    pub(crate) dry_run: bool,
    pub(crate) rules: Vec<Vec<Clause>>,
}

/// A policy that could not be compiled. It denies what it could apply to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// `namespace/name` under which it was delivered.
    pub name: Arc<str>,
    /// `None` = not even that could be read: it could apply to every workload.
    pub scope: Option<Scope>,
    pub namespace: Arc<str>,
    pub reason: Arc<str>,
    /// False for a dry-run policy: it would never have been enforced, so it denies nothing.
    pub enforced: bool,
}

/// Any match matches; none at all = true.
pub(crate) type Clause = Vec<Match>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Match {
    pub(crate) namespaces: Field<Text>,
    pub(crate) principals: Field<Text>,
    pub(crate) source_ips: Field<IpNet>,
    pub(crate) destination_ips: Field<IpNet>,
    pub(crate) destination_ports: Field<u16>,
    pub(crate) service_accounts: Field<ServiceAccount>,
}

/// Values of one kind: any of `any` (when there are some) and none of `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field<T> {
    pub(crate) any: Vec<T>,
    pub(crate) none: Vec<T>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Text {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Presence,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Policy {
    /// `namespace/name`.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    pub fn scope(&self) -> Scope {
        self.scope
    }

    pub fn action(&self) -> Action {
        self.action
    }

    /// Only reported, never enforced, and no ALLOW policy either.
    pub fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Index of the first rule that matches. A policy without rules matches nothing.
    pub fn matches(&self, connection: &Connection<'_>) -> Option<usize> {
        self.rules.iter().position(|clauses| clauses.iter().all(|clause| clause.is_empty() || clause.iter().any(|m| m.matches(connection))))
    }
}

/// Who passes a connection on in a client's stead: what a rule says of everybody but it, it does not say of its clients.
#[derive(Debug, Clone, Copy)]
pub struct Intermediary<'a> {
    pub identity: &'a Identity,
    pub ip: IpAddr,
}

impl Policy {
    /// As `matches` for the client's own connection to the destination, without the rules that leave the intermediary out by name.
    pub(crate) fn matches_through(&self, client: &Connection<'_>, through: &Intermediary<'_>) -> Option<usize> {
        let matches = |m: &Match| m.matches(client) && !m.leaves_out(through);
        self.rules.iter().position(|clauses| clauses.iter().all(|clause| clause.is_empty() || clause.iter().any(matches)))
    }
}

impl Match {
    /// One of the sources that it is not about.
    fn leaves_out(&self, source: &Intermediary<'_>) -> bool {
        let (identity, ip) = (source.identity, source.ip.to_canonical());
        self.namespaces.none.iter().any(|text| text.matches(identity.namespace()))
            || self.principals.none.iter().any(|text| text.matches(identity.principal()))
            || self.source_ips.none.iter().any(|net| net.contains(&ip))
            || self.service_accounts.none.iter().any(|account| account.matches(identity))
    }

    // With two callers it is inlined into neither, and every decision takes 40 % more instructions.
    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn matches(&self, connection: &Connection<'_>) -> bool {
        // A plaintext peer has the empty namespace and principal: `not_principals: presence` is "has no identity".
        let namespace = connection.source.map_or("", Identity::namespace);
        let principal = connection.source.map_or("", Identity::principal);
        let source_ip = connection.source_ip.to_canonical();
        let destination_ip = connection.destination_ip.to_canonical();
        !self.is_empty()
            && self.namespaces.holds(|text| text.matches(namespace))
            && self.principals.holds(|text| text.matches(principal))
            && self.source_ips.holds(|net| net.contains(&source_ip))
            && self.destination_ips.holds(|net| net.contains(&destination_ip))
            && self.destination_ports.holds(|port| *port == connection.destination_port)
            && self.service_accounts.holds(|account| connection.source.is_some_and(|source| account.matches(source)))
    }

    /// A match with no field set never matches.
    pub(crate) fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
            && self.principals.is_empty()
            && self.source_ips.is_empty()
            && self.destination_ips.is_empty()
            && self.destination_ports.is_empty()
            && self.service_accounts.is_empty()
    }
}

impl<T> Default for Field<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<T> Field<T> {
    pub(crate) fn holds(&self, matches: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&matches)) && !self.none.iter().any(&matches)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
}

impl Text {
    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Exact(exact) => value == exact,
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Suffix(suffix) => value.ends_with(suffix),
            Self::Presence => !value.is_empty(),
        }
    }
}

impl ServiceAccount {
    /// In any trust domain.
    pub(crate) fn matches(&self, source: &Identity) -> bool {
        source.namespace() == self.namespace && source.service_account() == self.name
    }
}
