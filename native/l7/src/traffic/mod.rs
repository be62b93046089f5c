//! What happens when it gets too much: limits, shedding, faults, and how requests are spread over a backend's endpoints. Settings are parsed once
//! and shared by all threads with what they count; docs/traffic.md says what each does.
mod about;
mod adaptive;
mod affinity;
mod backend_settings;
mod breaker;
mod bucket;
mod clock;
mod fair;
mod fault;
mod keyed;
mod rate_limit;
mod scope;
mod selector;
mod shedding;

use crate::RouteName;
use crate::invalid::Invalid;
use backend_settings::BackendPorts;
use prost::Message;
use scope::{Counts, Named, Scopes};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use trackbed_contract::traffic;

pub(crate) use about::About;
pub(crate) use backend_settings::BackendSettings;
pub(crate) use breaker::{Breaker, Counted, Open, Wanted};
pub(crate) use fault::Abort;
pub(crate) use scope::Scope;
pub(crate) use shedding::Pass;

/// Of every service that something is said of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    backends: HashMap<Arc<str>, Arc<BackendPorts>>,
    /// None: what was said could not be used, and nothing could before: requests are refused.
    requests: HashMap<Arc<str>, Option<Arc<Scopes>>>,
    counts: Counts,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSeen<'a> {
    /// Requests whose keys there was no room for, and that shared a bucket.
    Rate { name: &'a str, keys_shared: u64 },
    /// Requests that may be under way now.
    Parallel { name: &'a str, limit: u32 },
}

/// Nothing is known of what should be done with requests to a service.
#[derive(Debug)]
pub(crate) struct Unusable;

impl Traffic {
    pub(crate) fn upsert_backend(&mut self, name: &str, body: &[u8], now: Instant) -> Result<(), String> {
        let from = traffic::BackendSettings::decode(body).map_err(|cause| cause.to_string())?;
        let before = self.backends.get(name).map(|ports| &**ports);
        let ports = BackendPorts::parse(name, &from, before, now).map_err(|invalid: Invalid| invalid.to_string())?;
        self.backends.insert(name.into(), Arc::new(ports));
        Ok(())
    }

    pub(crate) fn remove_backend(&mut self, name: &str) {
        self.backends.remove(name);
    }

    pub(crate) fn upsert_requests(&mut self, name: &str, body: &[u8], now: Instant) -> Result<(), String> {
        let parsed = traffic::RequestSettings::decode(body)
            .map_err(|cause| cause.to_string())
            .and_then(|from| Scopes::parse(name, &from, &mut self.counts, now).map_err(|invalid| invalid.to_string()));
        match parsed {
            Ok(scopes) => {
                self.requests.insert(name.into(), Some(Arc::new(scopes)));
                Ok(())
            }
            Err(reason) => {
                self.requests.entry(name.into()).or_default();
                Err(reason)
            }
        }
    }

    pub(crate) fn remove_requests(&mut self, name: &str) {
        self.requests.remove(name);
    }

    /// After a delta: what nobody names any more is not counted any more.
    pub(crate) fn forget_unused(&mut self) {
        let mut named = Named::default();
        self.requests.values().flatten().for_each(|scopes| scopes.name(&mut named));
        self.counts.limiters.retain(|_, limiter| named.limiters.contains(&Arc::as_ptr(limiter)));
        self.counts.gates.retain(|_, gate| named.gates.contains(&Arc::as_ptr(gate)));
    }

    /// What could never be used.
    pub(crate) fn forget_unusable(&mut self) {
        self.requests.retain(|_, scopes| scopes.is_some());
    }

    pub(crate) fn backend(&self, service: &str, port: u16) -> Option<&Arc<BackendSettings>> {
        self.backends.get(service)?.of(port)
    }

    pub(crate) fn scope(&self, service: &str, port: u16, route: Option<&RouteName>) -> Result<Option<&Arc<Scope>>, Unusable> {
        match self.requests.get(service) {
            None => Ok(None),
            Some(None) => Err(Unusable),
            Some(Some(scopes)) => Ok(scopes.of(port, route)),
        }
    }

    pub(crate) fn limits(&self) -> impl Iterator<Item = LimitSeen<'_>> {
        let rates =
            self.counts.limiters.values().map(|limiter| LimitSeen::Rate { name: limiter.name(), keys_shared: limiter.keys_shared() });
        let gates = self.counts.gates.values().map(|gate| LimitSeen::Parallel { name: gate.name(), limit: gate.limit() });
        rates.chain(gates)
    }
}
