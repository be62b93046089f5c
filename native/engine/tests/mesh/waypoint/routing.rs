//! Requests through a waypoint: from an application in one pod to another's, over three engines.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prost::Message;
use trackbed_contract::authorization::{self, Access, Action, Clause, Match, Policy, Rule, Texts};
use trackbed_contract::engine::{Resource, ResourceType};
use trackbed_contract::istio::workload::TunnelProtocol;
use trackbed_contract::route::{
    Backend, HttpEntry, HttpMatch, HttpRule, HttpRules, Protocol, Routes, RuleId, RuleSet, Text, rule_set, text,
};
use trackbed_contract::traffic::{
    Algorithm, BackendPort, BackendSettings, CircuitBreaker, LoadBalancer, RateLimit, RequestScope, RequestSettings,
};

use super::http::{self, Client};
use super::lab::{self, Waypoint, behind, of_stopping_waypoint, of_waypoint, plain_service, routes, through_gate};
use crate::lab::{Fabric, Node, Pod, of_service, of_workload, resource};

pub(super) const CART: &str = "10.96.0.1";
pub(super) const PORT: u16 = 8080;

/// web on node one; cart and news, each behind its service, on node two; old, behind a service of its own, in no mesh.
pub(super) struct Shop {
    one: Node,
    two: Node,
    pub(super) web: Pod,
    cart: Pod,
    news: Pod,
    old: Pod,
    gates: Vec<Pod>,
    pub(super) fabric: Fabric,
}

impl Shop {
    pub(super) fn new(gates: &[&str]) -> Option<Self> {
        let fabric = Fabric::new()?;
        let [web, cart, news, old] = ["web", "cart", "news", "old"].map(|name| fabric.pod(name));
        let gates = gates.iter().map(|name| fabric.pod(name)).collect();
        let (one, two) = (fabric.node("one"), fabric.node("two"));
        let shop = Self { one, two, web, cart, news, old, gates, fabric };
        shop.tell(&[]);
        for pod in [&shop.cart, &shop.news, &shop.old] {
            http::serve(pod, PORT);
        }
        shop.one.enrol(&[&shop.web]);
        shop.two.enrol(&[&shop.cart, &shop.news]);
        Some(shop)
    }

    /// What there is in this mesh, with these routes.
    fn resources(&self, routes: &[Resource]) -> Vec<Resource> {
        let workload = |pod: &Pod, node: &str, protocol| behind(pod.workload(node, protocol), &pod.name, PORT);
        let mut all = vec![
            of_workload(&self.web.workload("one", TunnelProtocol::Hbone)),
            of_workload(&workload(&self.cart, "two", TunnelProtocol::Hbone)),
            of_workload(&workload(&self.news, "two", TunnelProtocol::Hbone)),
            of_workload(&workload(&self.old, "two", TunnelProtocol::None)),
            through_gate("gate", "10.96.0.9", 15008),
            through_gate("cart", CART, PORT),
            of_service(&plain_service("news", "10.96.0.2", PORT)),
            of_service(&plain_service("old", "10.96.0.3", PORT)),
        ];
        all.extend(self.gates.iter().map(of_waypoint));
        all.extend_from_slice(routes);
        all
    }

    /// Tells the nodes; a node knows no routes. Gates that are told to stop are there, and not to be sent anything new.
    fn tell(&self, stopping: &[&str]) {
        let mut all = self.resources(&[]);
        for pod in self.gates.iter().filter(|pod| stopping.contains(&&*pod.name)) {
            let stopping = of_stopping_waypoint(pod);
            all.retain(|resource| resource.name != stopping.name);
            all.push(stopping);
        }
        assert_eq!(self.one.director.state(all.clone()), []);
        assert_eq!(self.two.director.state(all), []);
    }

    fn waypoint<'p>(&'p self, gate: usize, routes: &[Resource]) -> Waypoint<'p> {
        self.waypoint_with(gate, routes, &[])
    }

    pub(super) fn waypoint_with<'p>(&'p self, gate: usize, routes: &[Resource], options: &[&str]) -> Waypoint<'p> {
        Waypoint::start_with(&self.fabric, &self.gates[gate], &self.resources(routes), options)
    }
}

/// All requests whose path begins like this go to that service.
pub(super) fn to(service: &str, prefix: &str) -> (HttpEntry, HttpRule) {
    let path = Some(Text { kind: Some(text::Kind::PathPrefix(prefix.to_owned())) });
    let id = RuleId { kind: "HTTPRoute".into(), namespace: "shop".into(), name: format!("to-{service}"), ..RuleId::default() };
    let key = format!("shop/{service}.shop.svc.cluster.local");
    let backend = Backend { service: key, port: PORT.into(), weight: 1, ..Backend::default() };
    (
        HttpEntry { r#match: Some(HttpMatch { path, ..HttpMatch::default() }), rule: 0 },
        HttpRule { id: Some(id), backends: vec![backend], ..HttpRule::default() },
    )
}

/// Routes of cart.
pub(super) fn cart(rules: Vec<(HttpEntry, HttpRule)>) -> Resource {
    let numbered = |(rule, (entry, _)): (u32, &(HttpEntry, HttpRule))| HttpEntry { rule, ..entry.clone() };
    let entries = (0..).zip(&rules).map(numbered).collect();
    let rules = rules.into_iter().map(|(_, rule)| rule).collect();
    let set = RuleSet { kind: Some(rule_set::Kind::Http(HttpRules { entries, rules })) };
    routes("cart", PORT, Protocol::Http, Some(set))
}

#[test]
fn a_request_goes_to_the_service_that_its_route_names_and_without_a_route_to_its_own() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let waypoint = shop.waypoint(0, &[routes("cart", PORT, Protocol::Http, None)]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    assert!(client.get("/a?b=c").body.starts_with("cart|GET /a?b=c HTTP/1.1|0|00-"));
    // The next request of the same connection finds other routes.
    let table = cart(vec![to("news", "/news"), to("old", "/old"), to("cart", "/")]);
    assert_eq!(waypoint.director.state(shop.resources(std::slice::from_ref(&table))), []);
    for (path, expected) in [("/news/today", "news"), ("/old", "old"), ("/", "cart")] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.by()), (200, expected), "{path}");
    }
    assert_eq!(waypoint.director.state(shop.resources(&[cart(vec![to("news", "/news")])])), []);
    assert_eq!((client.get("/news").by(), client.get("/else").status), ("news", 404));
    let told = waypoint.director.flow("the request", |flow| flow.request.as_ref().is_some_and(|request| request.path == "/news/today"));
    let request = told.request.unwrap();
    assert_eq!((request.status, &*request.route, &*request.flags), (200, "HTTPRoute/shop/to-news/0", "-"));
    assert_eq!((&*told.service, &*request.backend), ("shop/cart.shop.svc.cluster.local", "shop/news.shop.svc.cluster.local"));
    assert_eq!(told.destination.unwrap().pod, "news");
    let metrics = waypoint.metrics();
    let count = |labels: &[&str]| -> Option<u64> {
        let mut lines = metrics.lines().filter(|line| line.starts_with("istio_requests_total{"));
        lines.find(|line| labels.iter().all(|label| line.contains(label)))?.rsplit_once(' ')?.1.parse().ok()
    };
    let source = "source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"";
    assert_eq!(count(&[source, "destination_workload=\"news\"", "response_code=\"200\"", "reporter=\"waypoint\""]), Some(2), "{metrics}");
    assert_eq!(
        count(&[source, "response_code=\"404\"", "response_flags=\"NR\"", "destination_service_name=\"cart\""]),
        Some(1),
        "{metrics}"
    );
}

#[test]
fn a_route_to_another_service_of_the_waypoint_is_no_way_around_its_policies() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let news = "shop/news.shop.svc.cluster.local";
    let guarded = |namespace: &str| {
        let from =
            Texts { any: vec![authorization::Text { kind: Some(authorization::text::Kind::Exact(namespace.to_owned())) }], none: vec![] };
        let clause = Clause { matches: vec![Match { namespaces: Some(from), ..Match::default() }] };
        let policy = Policy {
            name: "shop/readers".into(),
            action: Action::Allow.into(),
            rules: vec![Rule { clauses: vec![clause] }],
            ..Policy::default()
        };
        let access = Access { service: news.into(), policies: vec![policy], ..Access::default() };
        let routes = Routes { service: news.into(), guarded: true, ..Routes::default() };
        shop.resources(&[
            resource(ResourceType::Access, news, access.encode_to_vec()),
            resource(ResourceType::Routes, news, routes.encode_to_vec()),
            cart(vec![to("news", "/news"), to("cart", "/")]),
        ])
    };
    let waypoint = Waypoint::start(&shop.fabric, &shop.gates[0], &guarded("bank"));
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    assert_eq!((client.get("/news").status, client.get("/").by()), (403, "cart"));
    let told = waypoint.director.flow("the refusal", |flow| flow.request.as_ref().is_some_and(|request| request.status == 403));
    assert_eq!((&*told.policy, &*told.code), ("shop/readers", "E_POLICY_NO_ALLOW"));
    assert_eq!((&*told.service, &*told.request.unwrap().backend), ("shop/cart.shop.svc.cluster.local", news));
    assert_eq!(waypoint.director.state(guarded("shop")), []);
    assert_eq!(client.get("/news").by(), "news");
}

#[test]
fn a_body_of_megabytes_passes_all_engines_unchanged_in_length() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let _waypoint = shop.waypoint(0, &[routes("cart", PORT, Protocol::Http, None)]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    let body = "x".repeat(5 << 20);
    let answer = client.ask(&format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())).unwrap().unwrap();
    assert!(answer.body.starts_with(&format!("cart|POST / HTTP/1.1|{}|", 5 << 20)), "{}", answer.body);
}

#[test]
fn the_wire_to_a_workload_of_the_mesh_has_nothing_to_read() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let _waypoint = shop.waypoint(0, &[cart(vec![to("old", "/old"), to("cart", "/")])]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    // Both backends have answered once: whom the waypoint is connected with now is how it reached them.
    assert_eq!((client.get("/").by(), client.get("/old").by()), ("cart", "old"));
    let open = crate::net::output(&shop.gates[0].netns, "ss -Htn state established");
    let with = |pod: &Pod, port: u16| open.contains(&format!("{}:{port}", pod.v4)) || open.contains(&format!("[{}]:{port}", pod.v6));
    assert!(with(&shop.cart, 15008) && !with(&shop.cart, PORT), "{open}");
    assert!(with(&shop.old, PORT), "{open}");
}

#[test]
fn a_service_whose_only_endpoint_is_gone_is_answered_with_an_error_and_comes_back() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let waypoint = shop.waypoint(0, &[routes("cart", PORT, Protocol::Http, None)]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    assert_eq!(client.get("/").by(), "cart");
    let all = shop.resources(&[routes("cart", PORT, Protocol::Http, None)]);
    let without: Vec<_> = all.iter().filter(|one| one.name != "Kubernetes//Pod/shop/cart").cloned().collect();
    assert_eq!(waypoint.director.state(without), []);
    assert_eq!(client.get("/").status, 503);
    assert_eq!(waypoint.director.state(all), []);
    assert_eq!(client.get("/").by(), "cart");
}

/// Six clients ask all the time while one of two waypoints is told to stop, and after it has gone.
#[test]
fn a_waypoint_that_stops_loses_no_request() {
    let Some(shop) = Shop::new(&["gate", "gate-2"]) else { return };
    let table = [routes("cart", PORT, Protocol::Http, None)];
    let (mut first, second) = (shop.waypoint(0, &table), shop.waypoint(1, &table));
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (over, answered) = (Arc::new(over), Arc::new(answered));
    let lost = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (shop, over, answered) = (&shop, Arc::clone(&over), Arc::clone(&answered));
                scope.spawn(move || {
                    let mut lost = Vec::new();
                    let mut client: Option<Client> = None;
                    while !over.load(Ordering::Relaxed) {
                        let mut open = match client.take() {
                            Some(open) => open,
                            None => match Client::new(&shop.web, CART, PORT) {
                                Ok(open) => open,
                                Err(error) => {
                                    lost.push(error.to_string());
                                    continue;
                                }
                            },
                        };
                        let path = if number % 2 == 0 { "/slow" } else { "/fast" };
                        match open.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")) {
                            Ok(Some(answer)) if answer.status == 200 => {
                                answered.fetch_add(1, Ordering::Relaxed);
                                client = (!answer.last).then_some(open);
                            }
                            other => lost.push(format!("{other:?}")),
                        }
                    }
                    lost
                })
            })
            .collect();
        let more = |count: usize| {
            let before = answered.load(Ordering::Relaxed);
            lab::eventually("more answers", || answered.load(Ordering::Relaxed) >= before + count);
        };
        more(100);
        first.terminate();
        first.becomes(503);
        // As control does with a pod that is being deleted.
        shop.tell(&["gate"]);
        assert!(first.ends().success());
        more(100);
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(lost, Vec::<String>::new(), "{} were answered", answered.load(Ordering::Relaxed));
    let log = std::fs::read_to_string(first.run.join("engine.log")).unwrap();
    assert!(log.contains("request complete"), "the first one had its share");
    assert_eq!(second.readiness(), 200);
}

/// How requests go to the endpoints of a service of the shop, on every port.
fn settings(service: &str, port: BackendPort) -> Resource {
    let name = format!("shop/{service}.shop.svc.cluster.local");
    resource(ResourceType::BackendSettings, &name, BackendSettings { service: name.clone(), ports: vec![port] }.encode_to_vec())
}

/// Each request is balanced for itself, also those of one connection. In turn, for the usual algorithm leaves alone who was slow once.
#[test]
fn the_requests_of_one_connection_spread_over_the_endpoints() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let twin = shop.fabric.pod("twin");
    http::serve(&twin, PORT);
    let mut all = shop.resources(&[routes("cart", PORT, Protocol::Http, None)]);
    all.push(of_workload(&behind(twin.workload("two", TunnelProtocol::None), "cart", PORT)));
    let load_balancer = Some(LoadBalancer { algorithm: Algorithm::RoundRobin.into(), ..LoadBalancer::default() });
    all.push(settings("cart", BackendPort { load_balancer, ..BackendPort::default() }));
    let _waypoint = Waypoint::start(&shop.fabric, &shop.gates[0], &all);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    let mut seen = BTreeMap::new();
    for _ in 0..100 {
        *seen.entry(client.get("/").by().to_owned()).or_insert(0) += 1;
    }
    assert!(seen.len() == 2 && seen.values().all(|count| *count > 25), "{seen:?}");
}

#[test]
fn what_control_says_of_limits_and_of_endpoints_holds_for_requests_and_is_told() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let limited = |requests| {
        let limit = RateLimit { name: "shop/limit/0".into(), requests, interval_milliseconds: 3_600_000, ..RateLimit::default() };
        let scope = RequestScope { rate_limits: vec![limit], ..RequestScope::default() };
        let name = "shop/cart.shop.svc.cluster.local";
        let settings = RequestSettings { service: name.into(), scopes: vec![scope] };
        resource(ResourceType::RequestSettings, name, settings.encode_to_vec())
    };
    let backend = |service: &str, circuit_breaker| settings(service, BackendPort { circuit_breaker, ..BackendPort::default() });
    let one = Some(CircuitBreaker { max_parallel_requests: 1, ..CircuitBreaker::default() });
    let table = routes("cart", PORT, Protocol::Http, None);
    let waypoint = shop.waypoint(0, &[table.clone(), limited(3), backend("cart", one)]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    let statuses: Vec<_> = (0..5).map(|_| client.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    lab::eventually("the refusals are counted", || {
        waypoint.metrics().contains("trackbed_requests_limited_total{limit=\"shop/limit/0\",response_flags=\"RL\"} 2\n")
    });
    let mut broken = limited(3);
    broken.body = b"\xff".to_vec();
    broken.version = "broken".into();
    let rejected = waypoint.director.state(shop.resources(&[table.clone(), broken, backend("cart", one)]));
    let [told] = &rejected[..] else { panic!("{rejected:?}") };
    assert_eq!((told.r#type, &*told.code), (ResourceType::RequestSettings.into(), "E_SOURCE_INVALID"));
    assert_eq!(client.get("/").status, 429, "the ones before are in force");
    // Gone, the limit is too; what is under way at the backend is still held to its own.
    assert_eq!(waypoint.director.state(shop.resources(&[table, backend("cart", one)])), []);
    let mut others: Vec<_> = (0..4).map(|_| Client::new(&shop.web, CART, PORT).unwrap()).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = others.iter_mut().map(|client| scope.spawn(|| client.get("/slow").status)).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(together.contains(&200) && together.contains(&503), "{together:?}");
}
