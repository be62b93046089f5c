//! A waypoint on a TCP listener, backends that say what they saw, and clients.
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use trackbed_contract::authorization::Access;
use trackbed_contract::{Identity, route, traffic};
use trackbed_l7::{
    BackendKey, Cause, Client, ConnectError, Context, Copied, Decided, Ejection, Endpoint, Flag, Kind, Member, NoEndpoint, Outcome, Report,
    RequestRecord, Served, StreamRecord, Table, Upstream, serve,
};

/// Far more than any of these takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(test: impl Future<Output = ()>) {
    run_for(PATIENCE, test);
}

pub(crate) fn run_for(patience: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(patience, test).await.expect("the test ends") });
}

/// Waits until it holds.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(PATIENCE / 2, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

pub(crate) type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

pub(crate) fn body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

// What the waypoint reaches backends through.

/// Uid and address.
type Known = (Arc<str>, SocketAddr);

#[derive(Default)]
pub(crate) struct Endpoints {
    of: RefCell<HashMap<BackendKey, Vec<Known>>>,
    pub(crate) connects: Cell<usize>,
    pub(crate) observed: RefCell<Vec<(String, Outcome)>>,
    /// Requests that hold an endpoint.
    pub(crate) held: Rc<Cell<isize>>,
}

pub(crate) struct Holding(Rc<Cell<isize>>);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pub(crate) struct Candidates {
    known: Vec<Known>,
    members: Vec<Member>,
}

#[derive(Clone)]
pub(crate) struct Plain(pub(crate) Rc<Endpoints>);

impl Upstream for Plain {
    type Io = TcpStream;
    type Detail = Holding;
    type Candidates = Candidates;

    fn candidates(&self, backend: &BackendKey) -> Result<Candidates, NoEndpoint> {
        let known = self.0.of.borrow().get(backend).cloned().ok_or(NoEndpoint::Unknown)?;
        let members = known.iter().map(|(uid, _)| Member { uid: Arc::clone(uid), weight: 1, rank: 0 }).collect();
        Ok(Candidates { known, members })
    }

    fn are_current(&self, backend: &BackendKey, candidates: &Candidates) -> bool {
        self.0.of.borrow().get(backend) == Some(&candidates.known)
    }

    fn members<'a>(&self, candidates: &'a Candidates) -> &'a [Member] {
        &candidates.members
    }

    fn endpoint(&self, candidates: &Candidates, index: usize) -> Option<Endpoint<Holding>> {
        let (uid, address) = &candidates.known[index];
        self.0.held.set(self.0.held.get() + 1);
        Some(Endpoint { uid: Arc::clone(uid), address: *address, detail: Holding(Rc::clone(&self.0.held)) })
    }

    async fn connect(&self, endpoint: &Endpoint<Holding>) -> Result<TcpStream, ConnectError> {
        self.0.connects.set(self.0.connects.get() + 1);
        let stream = TcpStream::connect(endpoint.address).await;
        stream.map_err(|error| ConnectError { code: "E_UPSTREAM_REFUSED", reason: error.to_string() })
    }

    fn observe(&self, endpoint: &Endpoint<Holding>, outcome: Outcome) {
        self.0.observed.borrow_mut().push((endpoint.uid.to_string(), outcome));
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) route: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u16>,
    pub(crate) flags: Vec<Flag>,
    pub(crate) limited_by: Option<String>,
    pub(crate) retries: u32,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
    pub(crate) server_name: Option<String>,
    /// Code, policy and rule; empty when no policy said anything.
    pub(crate) decided: String,
    /// The policy that would have refused it.
    pub(crate) audited: String,
}

fn decided(decided: Option<&Decided>) -> String {
    let Some(Decided { policy, code, .. }) = decided else { return String::new() };
    let name = policy.as_ref().map_or("", |policy| &*policy.name);
    let rule = policy.as_ref().and_then(|policy| policy.rule).map_or("-".to_owned(), |rule| rule.to_string());
    format!("{code} {name} {rule}")
}

fn audited(decided: Option<&Decided>) -> String {
    decided.and_then(|decided| decided.audit.as_ref()).map_or(String::new(), |refused| refused.policy.name.to_string())
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) requests: RefCell<Vec<Told>>,
    pub(crate) connections: RefCell<Vec<Told>>,
    pub(crate) copies: RefCell<Vec<Copied>>,
    pub(crate) ejections: RefCell<Vec<(String, Cause, Duration)>>,
}

pub(crate) struct Notes(pub(crate) Rc<Ledger>);

impl Report for Notes {
    fn request(&self, record: &RequestRecord<'_>) {
        self.0.requests.borrow_mut().push(Told {
            route: record.route.map(|route| route.name.to_string()),
            backend: record.backend.map(|backend| backend.service.to_string()),
            endpoint: record.endpoint.map(|(uid, _)| uid.to_string()),
            path: record.path.into(),
            status: record.status,
            grpc_status: record.grpc_status,
            flags: record.flags.to_vec(),
            limited_by: record.limited_by.map(Into::into),
            retries: record.retries,
            request_bytes: record.request_bytes,
            response_bytes: record.response_bytes,
            server_name: None,
            decided: decided(record.decided),
            audited: audited(record.decided),
        });
    }

    fn connection(&self, record: &StreamRecord<'_>) {
        self.0.connections.borrow_mut().push(Told {
            route: record.route.map(|route| route.name.to_string()),
            backend: record.backend.map(|backend| backend.service.to_string()),
            endpoint: record.endpoint.map(|(uid, _)| uid.to_string()),
            path: String::new(),
            status: 0,
            grpc_status: None,
            flags: record.flags.to_vec(),
            limited_by: None,
            retries: 0,
            request_bytes: record.received_bytes,
            response_bytes: record.sent_bytes,
            server_name: record.server_name.map(Into::into),
            decided: decided(record.decided),
            audited: audited(record.decided),
        });
    }

    fn ejected(&self, _: &BackendKey, ejection: &Ejection) {
        self.0.ejections.borrow_mut().push((ejection.uid.to_string(), ejection.cause, ejection.time));
    }

    fn copied(&self, _: &Served, _: &BackendKey, how: Copied) {
        self.0.copies.borrow_mut().push(how);
    }
}

// The waypoint.

pub(crate) struct Waypoint {
    pub(crate) address: SocketAddr,
    pub(crate) context: Rc<Context<Plain>>,
    pub(crate) endpoints: Rc<Endpoints>,
    ledger: Rc<Ledger>,
    pub(crate) table: RefCell<Table>,
    /// By service. In turn where nothing else is said: tests know then who is asked.
    backends: RefCell<BTreeMap<String, traffic::BackendSettings>>,
    ends: Rc<RefCell<Vec<trackbed_l7::End>>>,
    namespace: Rc<RefCell<String>>,
}

pub(crate) const SERVICE: &str = "shop/cart.shop.svc.cluster.local";
pub(crate) const PORT: u16 = 80;

/// One that serves port 80 of `SERVICE`, as `port` says.
pub(crate) async fn waypoint(port: route::Port) -> Waypoint {
    let endpoints = Rc::new(Endpoints::default());
    let ledger = Rc::new(Ledger::default());
    let context = Context::new(Plain(Rc::clone(&endpoints)), Box::new(Notes(Rc::clone(&ledger))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ends, namespace) = (Rc::<RefCell<Vec<_>>>::default(), Rc::new(RefCell::new("shop".to_owned())));
    let waypoint =
        Waypoint { address, context, endpoints, ledger, table: RefCell::default(), backends: RefCell::default(), ends, namespace };
    waypoint.replace(port);
    let (context, ends, namespace) = (Rc::clone(&waypoint.context), Rc::clone(&waypoint.ends), Rc::clone(&waypoint.namespace));
    spawn_local(async move {
        while let Ok((io, address)) = listener.accept().await {
            let identity = format!("spiffe://cluster.local/ns/{}/sa/default", namespace.borrow());
            let client = Client { identity: Some(Identity::parse(&identity).unwrap()), address, addressed: None };
            let served = Served { service: SERVICE.into(), port: PORT };
            let (context, ends) = (Rc::clone(&context), Rc::clone(&ends));
            spawn_local(async move {
                let end = serve(io, client, served, context).await;
                ends.borrow_mut().push(end);
            });
        }
    });
    waypoint
}

impl Waypoint {
    pub(crate) fn replace(&self, port: route::Port) {
        let routes = route::Routes { service: SERVICE.into(), ports: vec![port], guarded: false };
        *self.table.borrow_mut() = Table::default();
        self.apply(Kind::Routes, SERVICE, &routes.encode_to_vec());
        self.balance();
    }

    fn balance(&self) {
        for (service, settings) in &*self.backends.borrow() {
            self.apply(Kind::BackendSettings, service, &settings.encode_to_vec());
        }
    }

    /// Beside what is in force.
    pub(crate) fn apply(&self, kind: Kind, name: &str, body: &[u8]) {
        let (table, rejected) = self.table.borrow().apply([(kind, name, body)], []);
        assert_eq!(rejected, []);
        self.table.replace(table.clone());
        self.context.replace(Arc::new(table));
    }

    pub(crate) fn backend_settings(&self, service: &str, port: traffic::BackendPort) {
        let settings = traffic::BackendSettings { service: service.into(), ports: vec![port] };
        self.backends.borrow_mut().insert(service.into(), settings);
        self.balance();
    }

    pub(crate) fn balanced(&self, service: &str, algorithm: traffic::Algorithm) {
        let load_balancer = Some(traffic::LoadBalancer { algorithm: algorithm.into(), ..Default::default() });
        self.backend_settings(service, traffic::BackendPort { load_balancer, ..Default::default() });
    }

    /// Why they were.
    pub(crate) fn rejected_request_settings(&self, scope: traffic::RequestScope) -> String {
        let settings = traffic::RequestSettings { service: SERVICE.into(), scopes: vec![scope] }.encode_to_vec();
        let (table, rejected) = self.table.borrow().apply([(Kind::RequestSettings, SERVICE, settings.as_slice())], []);
        self.table.replace(table.clone());
        self.context.replace(Arc::new(table));
        rejected.into_iter().map(|rejected| rejected.reason).collect()
    }

    /// For every request.
    pub(crate) fn request_settings(&self, scope: traffic::RequestScope) {
        let settings = traffic::RequestSettings { service: SERVICE.into(), scopes: vec![scope] };
        self.apply(Kind::RequestSettings, SERVICE, &settings.encode_to_vec());
    }

    /// The same, and what guards it; None: it is not known yet.
    pub(crate) fn guard(&self, port: route::Port, access: Option<&Access>) {
        assert_eq!(self.guard_with(port, access.map(Message::encode_to_vec).as_deref()), "");
    }

    /// Why it was rejected, or nothing.
    pub(crate) fn guard_with(&self, port: route::Port, access: Option<&[u8]>) -> String {
        let routes = route::Routes { service: SERVICE.into(), ports: vec![port], guarded: true }.encode_to_vec();
        let access = access.map(|access| (Kind::Access, SERVICE, access));
        let (table, rejected) =
            Table::default().apply([Some((Kind::Routes, SERVICE, routes.as_slice())), access].into_iter().flatten(), []);
        self.table.replace(table.clone());
        self.context.replace(Arc::new(table));
        self.balance();
        rejected.into_iter().map(|rejected| rejected.reason).collect()
    }

    /// Of clients that come from now on.
    pub(crate) fn client_namespace(&self, namespace: &str) {
        *self.namespace.borrow_mut() = namespace.into();
    }

    pub(crate) fn endpoint(&self, service: &str, port: u16, uid: &str, address: SocketAddr) {
        if !self.backends.borrow().contains_key(service) {
            self.balanced(service, traffic::Algorithm::RoundRobin);
        }
        let key = BackendKey { service: service.into(), port };
        self.endpoints.of.borrow_mut().entry(key).or_default().push((uid.into(), address));
    }

    pub(crate) fn without(&self, service: &str, uid: &str) {
        let key = BackendKey { service: service.into(), port: PORT };
        self.endpoints.of.borrow_mut().get_mut(&key).unwrap().retain(|(known, _)| **known != *uid);
        self.context.retire(uid);
    }

    /// Everything that was seen of endpoints is forgotten, as by a waypoint that begins anew.
    pub(crate) fn forget_backends(&self) {
        let known = std::mem::take(&mut *self.endpoints.of.borrow_mut());
        let table = self.table.borrow().apply([], known.keys().map(|key| (Kind::BackendSettings, &*key.service))).0;
        self.table.replace(table.clone());
        self.context.replace(Arc::new(table));
        *self.endpoints.of.borrow_mut() = known;
        self.balance();
    }

    /// The only one, named as its service.
    pub(crate) fn backend(&self, service: &str, backend: &Backend) {
        self.endpoint(service, PORT, &backend.name, backend.address);
    }

    pub(crate) async fn ended(&self) -> trackbed_l7::End {
        until("a connection has ended", || !self.ends.borrow().is_empty()).await;
        self.ends.borrow_mut().remove(0)
    }

    /// With everything in it that is over.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.context.tell();
        &self.ledger
    }

    /// The only record there is.
    pub(crate) async fn told(&self) -> Told {
        until("a request was told of", || !self.ledger.requests.borrow().is_empty()).await;
        assert_eq!(self.ledger.requests.borrow().len(), 1);
        self.ledger.requests.borrow_mut().remove(0)
    }

    pub(crate) async fn told_connection(&self) -> Told {
        until("a connection was told of", || !self.ledger.connections.borrow().is_empty()).await;
        assert_eq!(self.ledger.connections.borrow().len(), 1);
        self.ledger.connections.borrow_mut().remove(0)
    }

    pub(crate) async fn http1(&self) -> Http1 {
        Http1::to(self.address).await
    }

    pub(crate) async fn http2(&self) -> Http2 {
        Http2::to(self.address).await
    }

    /// Everything that comes back for these bytes, until the waypoint closes. The client's side stays open.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut io = TcpStream::connect(self.address).await.unwrap();
        // It may be refused before all is written.
        let _ = io.write_all(bytes).await;
        let mut all = Vec::new();
        let whole = tokio::time::timeout(PATIENCE / 3, io.read_to_end(&mut all)).await;
        assert!(whole.is_ok(), "{:?} leaves the connection open", String::from_utf8_lossy(bytes));
        String::from_utf8_lossy(&all).into_owned()
    }
}

#[derive(Clone)]
pub(crate) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

// Clients.

pub(crate) struct Http1(pub(crate) hyper::client::conn::http1::SendRequest<Body>);
pub(crate) struct Http2(pub(crate) hyper::client::conn::http2::SendRequest<Body>);

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) async fn of(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
        Ok(Self { status: head.status, headers: head.headers, trailers, body })
    }
}

pub(crate) fn get(path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("host", "cart")
}

impl Http1 {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        spawn_local(async move { drop(connection.with_upgrades().await) });
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Got {
        self.0.ready().await.unwrap();
        Got::of(self.0.send_request(request).await.unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Got {
        self.send(get(path).body(body("")).unwrap()).await
    }
}

impl Http2 {
    pub(crate) async fn to(address: SocketAddr) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http2::handshake(Local, TokioIo::new(io)).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        Self(sender)
    }

    pub(crate) async fn send(&mut self, mut request: Request<Body>) -> Got {
        request.headers_mut().remove("host");
        let uri = format!("http://cart{}", request.uri());
        *request.uri_mut() = uri.parse().unwrap();
        self.0.ready().await.unwrap();
        Got::of(self.0.send_request(request).await.unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Got {
        self.send(get(path).body(body("")).unwrap()).await
    }
}

// Backends.

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) version: http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<RefCell<Vec<Seen>>>,
    pub(crate) connections: Rc<Cell<usize>>,
}

/// Answers 200 with its name in x-backend, and the body it got.
pub(crate) async fn backend(name: &str) -> Backend {
    let named = name.to_owned();
    backend_that(name, move |seen| {
        let response = Response::builder().header("x-backend", &named).body(body(seen.body)).unwrap();
        std::future::ready(response)
    })
    .await
}

/// Speaks both versions; `answer` gets what was received, the whole body included.
pub(crate) async fn backend_that<F: Future<Output = Response<Body>> + 'static>(
    name: &str,
    answer: impl Fn(Seen) -> F + 'static,
) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, connections) = (Rc::<RefCell<Vec<Seen>>>::default(), Rc::<Cell<usize>>::default());
    let backend = Backend { name: name.to_owned(), address, seen: Rc::clone(&seen), connections: Rc::clone(&connections) };
    let answer = Rc::new(answer);
    spawn_local(async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.set(connections.get() + 1);
            let (seen, answer) = (Rc::clone(&seen), Rc::clone(&answer));
            let service = service_fn(move |request: Request<Incoming>| {
                let (seen, answer) = (Rc::clone(&seen), Rc::clone(&answer));
                async move {
                    let (head, incoming) = request.into_parts();
                    let Ok(collected) = incoming.collect().await else { return Err("the body broke off") };
                    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
                    let this = Seen { method: head.method, uri: head.uri.to_string(), version: head.version, headers: head.headers, body };
                    seen.borrow_mut().push(this.clone());
                    Ok(answer(this).await)
                }
            });
            spawn_local(async move {
                let mut first = [0; 3];
                let _ = io.peek(&mut first).await;
                if &first == b"PRI" {
                    drop(hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(io), service).await);
                } else {
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service).await);
                }
            });
        }
    });
    backend
}

/// Nobody listens there.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// Where a feature of the machine is missing; in `make test`'s total.
pub(crate) fn skipped(reason: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    // Past libtest, which keeps what passing tests say.
    std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// A program that ends with its test.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// Routes.

pub(crate) fn http(rules: Vec<(Vec<route::HttpMatch>, route::HttpRule)>) -> route::RuleSet {
    let mut all = route::HttpRules::default();
    for (index, (matches, mut rule)) in rules.into_iter().enumerate() {
        rule.id.get_or_insert_with(|| route::RuleId {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: format!("route-{index}"),
            ..Default::default()
        });
        let entry = |entry| route::HttpEntry { r#match: Some(entry), rule: u32::try_from(index).unwrap() };
        all.entries.extend(matches.into_iter().map(entry));
        all.rules.push(rule);
    }
    route::RuleSet { kind: Some(route::rule_set::Kind::Http(all)) }
}

pub(crate) fn port(protocol: route::Protocol, producer: Option<route::RuleSet>) -> route::Port {
    route::Port { port: PORT.into(), protocol: protocol.into(), producer, ..Default::default() }
}

pub(crate) fn http_port(rules: Vec<(Vec<route::HttpMatch>, route::HttpRule)>) -> route::Port {
    port(route::Protocol::Http, Some(http(rules)))
}

/// One rule for everything.
pub(crate) fn one_rule(rule: route::HttpRule) -> route::Port {
    http_port(vec![(vec![route::HttpMatch::default()], rule)])
}

pub(crate) fn to(service: &str) -> route::HttpRule {
    route::HttpRule { backends: vec![weighted(service, 1)], ..Default::default() }
}

pub(crate) fn weighted(service: &str, weight: u32) -> route::Backend {
    route::Backend { service: service.into(), port: PORT.into(), weight, ..Default::default() }
}

pub(crate) fn prefix(path: &str) -> route::HttpMatch {
    let path = Some(route::Text { kind: Some(route::text::Kind::PathPrefix(path.into())) });
    route::HttpMatch { path, ..Default::default() }
}
