//! Everything that this waypoint knows of what it serves: one immutable table, replaced as a whole and shared by all workers.
use crate::RouteName;
use crate::access::{Access, OF_PODS};
use crate::service::Service;
use crate::traffic::{BackendSettings, LimitSeen, Scope, Traffic, Unusable};
use prost::Message;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use trackbed_contract::route;

/// Empty at first: nothing is served then, everything is refused.
#[derive(Debug, Clone, Default)]
pub struct Table {
    services: HashMap<Arc<str>, Arc<Service>>,
    accesses: HashMap<Arc<str>, Arc<Access>>,
    traffic: Traffic,
}

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// proto/route.proto
    Routes,
    /// proto/authorization.proto
    Access,
    /// proto/traffic.proto
    BackendSettings,
    RequestSettings,
}

/// Who decides about the requests for a service, beside its routes.
#[derive(Debug, Clone)]
pub(crate) enum Guard {
    Nobody,
    By(Arc<Access>),
    /// Somebody who is not known here yet.
    Unknown,
}

/// A resource that is not as its proto says. Of access, everything is denied then; of the rest, what was in force before still is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub kind: Kind,
    pub name: String,
    pub reason: String,
}

impl Table {
    /// The table after one delta. `upserts`: name of the resource and its body. Removals come first.
    #[must_use]
    pub fn apply<'a>(
        &self,
        upserts: impl IntoIterator<Item = (Kind, &'a str, &'a [u8])>,
        removes: impl IntoIterator<Item = (Kind, &'a str)>,
    ) -> (Self, Vec<Rejected>) {
        let mut next = self.clone();
        for (kind, name) in removes {
            match kind {
                Kind::Routes => drop(next.services.remove(name)),
                Kind::Access => drop(next.accesses.remove(name)),
                Kind::BackendSettings => next.traffic.remove_backend(name),
                Kind::RequestSettings => next.traffic.remove_requests(name),
            }
        }
        let mut rejected = Vec::new();
        for (kind, name, body) in upserts {
            if let Err(reason) = next.upsert(kind, name, body) {
                rejected.push(Rejected { kind, name: name.into(), reason });
            }
        }
        next.traffic.forget_unused();
        (next, rejected)
    }

    fn upsert(&mut self, kind: Kind, name: &str, body: &[u8]) -> Result<(), String> {
        match kind {
            Kind::Routes => drop(self.services.insert(name.into(), Arc::new(parse(name, body)?))),
            Kind::Access => {
                let access = Access::decode(name, body);
                let (access, rejected) = match access {
                    Ok(access) => (access, Ok(())),
                    Err(reason) => (Access::unusable(name, &reason), Err(reason)),
                };
                self.accesses.insert(name.into(), Arc::new(access));
                return rejected;
            }
            Kind::BackendSettings => self.traffic.upsert_backend(name, body, Instant::now())?,
            Kind::RequestSettings => self.traffic.upsert_requests(name, body, Instant::now())?,
        }
        Ok(())
    }

    /// Without what stands in place of access and settings that were rejected.
    #[must_use]
    pub fn without_unusable(&self) -> Self {
        let mut next = self.clone();
        next.accesses.retain(|_, access| access.usable);
        next.traffic.forget_unusable();
        next
    }

    /// Whether there are routes of it.
    pub fn has(&self, service: &str) -> bool {
        self.services.contains_key(service)
    }

    /// Services that there are routes of.
    pub fn len(&self) -> usize {
        self.services.len()
    }

    pub fn is_empty(&self) -> bool {
        self.services.is_empty()
    }

    /// The next table shares what did not change.
    pub(crate) fn guards_alike(&self, other: &Self) -> bool {
        let same = |(name, access): (&Arc<str>, &Arc<Access>)| other.accesses.get(name).is_some_and(|other| Arc::ptr_eq(access, other));
        self.accesses.len() == other.accesses.len() && self.accesses.iter().all(same)
    }

    /// Of a service, or of a pod that was addressed by its own address.
    pub(crate) fn guard(&self, name: &str) -> Guard {
        let is_service = name.contains('/');
        match self.accesses.get(if is_service { name } else { OF_PODS }) {
            Some(access) => Guard::By(Arc::clone(access)),
            None if is_service && self.services.get(name).is_some_and(|service| !service.guarded) => Guard::Nobody,
            None => Guard::Unknown,
        }
    }

    /// Of a service that a route sends to. One that this waypoint does not serve, or that nobody guards, has none here: what it asks for is asked on
    /// the nodes of its pods. An Access comes before the routes that could lead to its service (proto/authorization.proto).
    pub(crate) fn guard_of_backend(&self, name: &str) -> Guard {
        match self.accesses.get(name) {
            Some(access) => Guard::By(Arc::clone(access)),
            None if self.services.get(name).is_some_and(|service| service.guarded) => Guard::Unknown,
            None => Guard::Nobody,
        }
    }

    /// What is counted, and how it stands.
    pub fn limits(&self) -> impl Iterator<Item = LimitSeen<'_>> {
        self.traffic.limits()
    }

    /// None: nothing is said of its requests.
    pub(crate) fn scope(&self, service: &str, port: u16, route: Option<&RouteName>) -> Result<Option<&Arc<Scope>>, Unusable> {
        self.traffic.scope(service, port, route)
    }

    /// None: the usual ones.
    pub(crate) fn backend(&self, service: &str, port: u16) -> Option<&Arc<BackendSettings>> {
        self.traffic.backend(service, port)
    }

    /// None: nothing was ever said of it that could be used, so it is refused.
    pub(crate) fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }
}

fn parse(name: &str, body: &[u8]) -> Result<Service, String> {
    let routes = route::Routes::decode(body).map_err(|cause| cause.to_string())?;
    if routes.service != name {
        return Err(format!("the resource is named {name} and speaks of {:?}", routes.service));
    }
    Service::parse(&routes).map_err(|invalid| invalid.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use crate::RouteName;
    use crate::service::Rules;
    use route::{Backend, HttpEntry, HttpMatch, HttpRule, HttpRules, Port, RuleId, RuleSet, rule_set};
    use serde::Deserialize;
    use trackbed_policy::path;

    /// Shared with the compiler, src/waypoint/vectors.test.ts.
    const VECTORS: &str = include_str!("../../../proto/vectors/routes.json");

    #[derive(Deserialize)]
    struct Vectors {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        name: String,
        table: String,
        requests: Vec<Request>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Request {
        from: String,
        port: u16,
        path: Option<String>,
        method: Option<String>,
        #[serde(default)]
        headers: Vec<(String, String)>,
        server_name: Option<String>,
        expected: String,
    }

    fn found(service: &Service, request: &Request) -> String {
        let name = |name: Option<&RouteName>| {
            name.map_or("unnamed".to_owned(), |name| format!("{} {}/{} {}", name.kind, name.namespace, name.name, name.index))
        };
        let found = match service.port(request.port).rules(Some(&request.from)) {
            None => return "own".into(),
            Some(Rules::Tls(rules) | Rules::Tcp(rules)) => rules.find(request.server_name.as_deref()).map(|rule| name(rule.name.as_ref())),
            Some(Rules::Http(rules)) => {
                let builder =
                    http::Request::builder().method(request.method.as_deref().unwrap_or("GET")).uri(request.path.as_deref().unwrap_or("/"));
                let headers = request.headers.iter();
                let parts = headers.fold(builder, |builder, (name, value)| builder.header(name, value)).body(()).unwrap().into_parts().0;
                let normal = path::normal(parts.uri.path()).unwrap();
                rules.find(&parts, &normal.merged).map(|(rule, _)| name(rule.name.as_ref()))
            }
        };
        found.unwrap_or("refused".into())
    }

    #[test]
    fn every_request_of_the_vectors_meets_its_rule() {
        let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
        assert!(vectors.cases.len() > 20);
        for case in vectors.cases {
            let digits: Vec<u8> = case.table.bytes().collect();
            let bytes: Vec<u8> = digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
            let name = route::Routes::decode(bytes.as_slice()).unwrap().service;
            let (table, rejected) = Table::default().apply([(Kind::Routes, name.as_str(), bytes.as_slice())], []);
            assert_eq!(rejected, [], "{}", case.name);
            for request in &case.requests {
                let path = request.path.as_deref().unwrap_or_default();
                assert_eq!(
                    found(table.service(&name).unwrap(), request),
                    request.expected,
                    "{}: {} {}{path}",
                    case.name,
                    request.from,
                    request.port
                );
            }
        }
    }

    fn rule(rule: HttpRule) -> HttpRules {
        let id = Some(RuleId { kind: "HTTPRoute".into(), ..RuleId::default() });
        HttpRules { entries: vec![HttpEntry { r#match: Some(HttpMatch::default()), rule: 0 }], rules: vec![HttpRule { id, ..rule }] }
    }

    fn routes(rules: HttpRules) -> route::Routes {
        let producer = Some(RuleSet { kind: Some(rule_set::Kind::Http(rules)) });
        route::Routes { service: "shop/cart".into(), ports: vec![Port { port: 80, producer, ..Port::default() }], guarded: false }
    }

    fn reason(routes: &route::Routes) -> String {
        let (table, rejected) = Table::default().apply([(Kind::Routes, "shop/cart", routes.encode_to_vec().as_slice())], []);
        assert!(table.is_empty());
        rejected.into_iter().map(|rejected| rejected.reason).collect()
    }

    #[test]
    fn what_is_not_as_the_contract_says_is_rejected_with_its_place() {
        let backend = |backend: Backend| {
            routes(rule(HttpRule { backends: vec![Backend { service: "shop/v1".into(), port: 80, ..backend }], ..HttpRule::default() }))
        };
        let mut without_rule = rule(HttpRule::default());
        without_rule.entries[0].rule = 1;
        let mut without_match = rule(HttpRule::default());
        without_match.entries[0].r#match = None;
        let port = |port: Port| route::Routes { service: "shop/cart".into(), ports: vec![port], guarded: false };
        let retry = Some(route::Retry { codes: vec![503, 200], ..route::Retry::default() });
        for (routes, expected) in [
            (
                route::Routes { service: "shop/other".into(), ports: vec![], guarded: false },
                "the resource is named shop/cart and speaks of \"shop/other\"",
            ),
            (port(Port { port: 0, ..Port::default() }), "ports[0].port: 0 is not a port"),
            (port(Port { port: 65536, ..Port::default() }), "ports[0].port: 65536 is not a port"),
            (port(Port { port: 80, protocol: 99, ..Port::default() }), "ports[0].protocol: is not known"),
            (port(Port { port: 80, producer: Some(RuleSet { kind: None }), ..Port::default() }), "ports[0].producer.kind: is not set"),
            (
                route::Routes { service: "shop/cart".into(), ports: vec![Port { port: 80, ..Port::default() }; 2], guarded: false },
                "ports: port 80 is there twice",
            ),
            (routes(without_rule), "ports[0].producer.http.entries[0].rule: there is no rule 1"),
            (routes(without_match), "ports[0].producer.http.entries[0].match: is not set"),
            (routes(HttpRules { rules: vec![HttpRule::default()], entries: vec![] }), "ports[0].producer.http.rules[0].id: is not set"),
            (
                backend(Backend { refuse_status: 200, ..Backend::default() }),
                "ports[0].producer.http.rules[0].backends[0].refuse_status: is not an error",
            ),
            (backend(Backend { protocol: 99, ..Backend::default() }), "ports[0].producer.http.rules[0].backends[0].protocol: is not known"),
            (
                backend(Backend { filters: vec![route::Filter { kind: None }], ..Backend::default() }),
                "ports[0].producer.http.rules[0].backends[0].filters[0].kind: is not set",
            ),
            (
                routes(rule(HttpRule { retry, ..HttpRule::default() })),
                "ports[0].producer.http.rules[0].retry.codes[1]: 200 is not the status of an error",
            ),
            (
                routes(rule(HttpRule { backends: vec![Backend { port: 80, ..Backend::default() }], ..HttpRule::default() })),
                "ports[0].producer.http.rules[0].backends[0].service: \"\" is not namespace/hostname",
            ),
        ] {
            assert_eq!(reason(&routes), expected);
        }
    }

    #[test]
    fn a_rejected_resource_leaves_what_was_in_force_and_the_others() {
        let good = |name: &str| route::Routes { service: name.into(), ports: vec![], guarded: false }.encode_to_vec();
        let routes = |name: &'static str, body: &'static [u8]| (Kind::Routes, name, body);
        let (cart, till, new) = (good("shop/cart").leak(), good("shop/till").leak(), good("shop/new").leak());
        let (first, _) = Table::default().apply([routes("shop/cart", cart), routes("shop/till", till)], []);
        let (second, rejected) = first.apply([routes("shop/cart", b"\xff"), routes("shop/new", new)], [(Kind::Routes, "shop/till")]);
        assert_eq!(rejected.len(), 1);
        assert!(Arc::ptr_eq(first.service("shop/cart").unwrap(), second.service("shop/cart").unwrap()));
        assert!(second.service("shop/new").is_some() && second.service("shop/till").is_none());
        assert_eq!((first.len(), second.len()), (2, 2), "the table before is what it was");
    }
}
