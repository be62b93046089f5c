//! What is in force for the requests to one service before they are sent on: of each request, the first scope that is for it.
use super::about::About;
use super::affinity::Persistence;
use super::fault::Fault;
use super::rate_limit::{Exceeded, Limiter, Limiters, RateLimit};
use super::shedding::{Gate, Gates, Pass, Shedding};
use crate::RouteName;
use crate::invalid::{At, Invalid, Parsed};
use crate::service::service_name;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use trackbed_contract::traffic;

#[derive(Debug)]
pub(super) struct Scopes(Box<[(Target, Arc<Scope>)]>);

#[derive(Debug)]
struct Target {
    /// None: every one.
    port: Option<u16>,
    route: Option<Route>,
}

#[derive(Debug)]
struct Route {
    kind: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
    rule: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Scope {
    limits: Box<[RateLimit]>,
    shedding: Option<Shedding>,
    pub(crate) fault: Option<Fault>,
    pub(crate) most_body_bytes: Option<u64>,
    pub(crate) most_requests_per_connection: Option<u32>,
    pub(crate) persistence: Option<Persistence>,
}

/// Limiters and gates of all services, so that those of one name are one.
#[derive(Debug, Default, Clone)]
pub(super) struct Counts {
    pub(super) limiters: Limiters,
    pub(super) gates: Gates,
}

/// Those that are named by some scope.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) limiters: HashSet<*const Limiter>,
    pub(super) gates: HashSet<*const Gate>,
}

impl Scopes {
    pub(super) fn name(&self, named: &mut Named) {
        for (_, scope) in &self.0 {
            named.limiters.extend(scope.limits.iter().map(|limit| Arc::as_ptr(limit.limiter())));
            named.gates.extend(scope.shedding.iter().map(|shedding| Arc::as_ptr(shedding.gate())));
        }
    }

    pub(super) fn parse(name: &str, from: &traffic::RequestSettings, counts: &mut Counts, now: Instant) -> Parsed<Self> {
        service_name(&from.service).at("service")?;
        if from.service != name {
            return Err(Invalid::because(format!("the resource is named {name}"))).at("service");
        }
        let mut scopes = Vec::new();
        for (index, scope) in from.scopes.iter().enumerate() {
            let parsed = Target::parse(scope).and_then(|target| Ok((target, Arc::new(Scope::parse(scope, counts, now)?))));
            scopes.push(parsed.at(&format!("scopes[{index}]"))?);
        }
        Ok(Self(scopes.into_boxed_slice()))
    }

    pub(super) fn of(&self, port: u16, route: Option<&RouteName>) -> Option<&Arc<Scope>> {
        self.0.iter().find(|(target, _)| target.is(port, route)).map(|(_, scope)| scope)
    }
}

impl Target {
    fn parse(from: &traffic::RequestScope) -> Parsed<Self> {
        let port = u16::try_from(from.port).map_err(|_| Invalid::because(format!("{} is not a port", from.port))).at("port")?;
        let route = from.route.as_ref().map(|route| Route {
            kind: route.kind.as_str().into(),
            namespace: route.namespace.as_str().into(),
            name: route.name.as_str().into(),
            rule: route.rule,
        });
        Ok(Self { port: Some(port).filter(|port| *port != 0), route })
    }

    fn is(&self, port: u16, route: Option<&RouteName>) -> bool {
        self.port.is_none_or(|own| own == port)
            && self.route.as_ref().is_none_or(|own| {
                route.is_some_and(|route| {
                    own.name == route.name
                        && own.namespace == route.namespace
                        && own.kind == route.kind
                        && own.rule.is_none_or(|rule| rule == route.index)
                })
            })
    }
}

impl Scope {
    fn parse(from: &traffic::RequestScope, counts: &mut Counts, now: Instant) -> Parsed<Self> {
        let mut limits = Vec::new();
        for (index, limit) in from.rate_limits.iter().enumerate() {
            limits.push(RateLimit::parse(limit, &mut counts.limiters).at(&format!("rate_limits[{index}]"))?);
        }
        let shedding = from.load_shedding.as_ref().map(|shedding| Shedding::parse(shedding, &mut counts.gates, now));
        let requests = from.limits.unwrap_or_default();
        Ok(Self {
            limits: limits.into_boxed_slice(),
            shedding: shedding.transpose().at("load_shedding")?,
            fault: from.fault_injection.as_ref().map(Fault::parse).transpose().at("fault_injection")?,
            most_body_bytes: Some(requests.max_body_bytes).filter(|most| *most > 0),
            most_requests_per_connection: Some(requests.max_requests_per_connection).filter(|most| *most > 0),
            persistence: from.session_persistence.as_ref().map(Persistence::parse).transpose().at("session_persistence")?,
        })
    }

    /// A token of each limit that selects the request.
    pub(crate) fn take(&self, about: &About<'_>, now: Instant) -> Result<(), Exceeded> {
        self.limits.iter().try_for_each(|limit| limit.take(about, now))
    }

    /// None: nothing is shed here.
    pub(crate) fn admit(&self, about: &About<'_>, now: Instant) -> Result<Option<Pass>, Arc<Gate>> {
        self.shedding.as_ref().map(|shedding| shedding.admit(about, now)).transpose()
    }
}
