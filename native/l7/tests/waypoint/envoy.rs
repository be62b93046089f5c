//! Envoy's own ext_authz beside ours: the same server is asked about the same requests, and what it says comes to the same at the backend and for the client.
use crate::external::{Decider, asking, denied, grpc, ok, option};
use crate::support::*;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use trackbed_contract::authorization::{CheckBody, Provider};
use trackbed_contract::ext_authz::attribute_context::HttpRequest;
use trackbed_contract::ext_authz::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValueOption, HttpStatus, OkHttpResponse, QueryParameter,
    Status,
};

/// Of a body that goes along.
const BODY_BYTES: u32 = 16;

struct Envoy {
    address: SocketAddr,
    directory: PathBuf,
    _running: Running,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn cluster(name: &str, address: SocketAddr, http2: bool) -> Value {
    let protocol = if http2 { json!({"http2_protocol_options": {}}) } else { json!({"http_protocol_options": {}}) };
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": protocol,
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(address)}}]}]},
    })
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// As Istio configures it: paths in their normal form before anybody looks, the client's address appended, and a question about every request.
fn config(listen: SocketAddr, decider: SocketAddr, backend: SocketAddr) -> Value {
    let ask = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "decider", "authority": "decider"}, "timeout": "5s"},
        "with_request_body": {"max_request_bytes": BODY_BYTES, "allow_partial_message": true},
    });
    let router = json!({"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "codec_type": "AUTO",
        "use_remote_address": true,
        "normalize_path": true,
        "http_filters": [{"name": "envoy.filters.http.ext_authz", "typed_config": ask}, {"name": "router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}]}]},
    });
    json!({"static_resources": {
        "listeners": [{"name": "in", "address": socket(listen), "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}]}],
        "clusters": [cluster("decider", decider, true), cluster("backend", backend, false)],
    }})
}

/// None where it was not fetched. An address of its own in 127.0.0.0/8, so that nobody else listens there.
async fn envoy(test: u8, decider: SocketAddr, backend: SocketAddr) -> Option<Envoy> {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.cache/envoy/envoy");
    if !program.exists() {
        skipped("Envoy is not there: make envoy");
        return None;
    }
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 64 | (a & 63), b, c), 18_100 + u16::from(test)));
    let directory = std::env::temp_dir().join(format!("trackbed-envoy-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("config.json");
    fs::write(&file, config(address, decider, backend).to_string()).unwrap();
    let log = fs::File::create(directory.join("log")).unwrap();
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning"]).stdin(Stdio::null()).stderr(log);
    let running = Running(command.spawn().unwrap());
    until("Envoy listens", || std::net::TcpStream::connect(address).is_ok()).await;
    Some(Envoy { address, directory, _running: running })
}

type Make = fn() -> Request<Body>;

fn request(method: &str, path: &str, headers: &[(&str, &[u8])], text: &'static str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "Cart.Shop:8080");
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(body(text)).unwrap()
}

/// Requests of all kinds, by what they are about.
const REQUESTS: [(&str, Make); 10] = [
    ("a query", || request("GET", "/private?q=1&r=%20x&q=2", &[], "")),
    ("headers that come twice", || request("GET", "/", &[("x-a", b"1"), ("x-a", b"2, 3"), ("cookie", b"a=1"), ("cookie", b"b=2")], "")),
    ("a body", || request("POST", "/", &[("content-type", b"text/plain")], "0123456789")),
    ("a body that is too long", || request("PUT", "/", &[], "0123456789abcdefghij")),
    ("a body of exactly as much as goes along", || request("PUT", "/", &[], "0123456789abcdef")),
    ("a body without a length", || {
        let pieces = ["01234", "56789"].map(|piece| Ok(Frame::data(Bytes::from(piece))));
        Request::post("/").header("host", "cart").body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(pieces)))).unwrap()
    }),
    ("a path in another form", || request("GET", "/a/../%62/./c%2Fd;v=1", &[], "")),
    ("no body asked for", || request("HEAD", "/", &[], "")),
    ("a call of gRPC", || request("POST", "/shop.Cart/Add", &[("content-type", b"application/grpc")], "\0\0\0\0\x02ab")),
    ("a value that is no text", || request("GET", "/", &[("x-bytes", b"a\xe9b"), ("x-empty", b"")], "")),
];

async fn send(address: SocketAddr, http2: bool, request: Request<Body>) -> Got {
    if http2 { Http2::to(address).await.send(request).await } else { Http1::to(address).await.send(request).await }
}

/// Field by field, by its name; what is not set is left out.
fn fields(asked: &CheckRequest) -> BTreeMap<String, String> {
    let attributes = asked.attributes.clone().unwrap();
    let http = attributes.request.clone().unwrap().http.unwrap();
    let mut all = BTreeMap::new();
    let mut set = |name: &str, value: String| {
        if !value.is_empty() {
            all.insert(name.to_owned(), value);
        }
    };
    for (name, peer) in [("source", attributes.source), ("destination", attributes.destination)] {
        let peer = peer.unwrap_or_default();
        set(
            &format!("{name}.address"),
            peer.address.and_then(|address| address.socket_address).map_or(String::new(), |socket| socket.address),
        );
        set(&format!("{name}.service"), peer.service);
        set(&format!("{name}.principal"), peer.principal);
        set(&format!("{name}.certificate"), peer.certificate);
        set(&format!("{name}.labels"), peer.labels.into_keys().collect());
    }
    set("request.time", attributes.request.unwrap().time.map_or(String::new(), |_| "set".to_owned()));
    set("context_extensions", attributes.context_extensions.into_keys().collect());
    let HttpRequest { id, method, headers, path, host, scheme, query, fragment, size, protocol, body, raw_body, .. } = http;
    let texts =
        [("id", id), ("method", method), ("path", path), ("host", host), ("scheme", scheme), ("query", query), ("fragment", fragment)];
    for (name, value) in texts.into_iter().chain([("size", size.to_string()), ("protocol", protocol), ("body", body)]) {
        set(&format!("http.{name}"), value);
    }
    set("http.raw_body", raw_body.escape_ascii().to_string());
    for (name, value) in headers {
        all.insert(format!("http.headers[{name}]"), value);
    }
    all
}

#[test]
fn what_is_asked_is_what_envoy_asks() {
    run(async {
        let (decider, address) = Decider::start().await;
        decider.answers(ok(OkHttpResponse::default()));
        let own = backend("v1").await;
        let Some(envoy) = envoy(0, address, own.address).await else { return };
        let with = Provider { body: Some(CheckBody { maximum_bytes: BODY_BYTES, partial: true, as_bytes: false }), ..grpc() };
        let waypoint = everything_asked(with, address, &own).await;
        let mut differences = BTreeMap::<String, Vec<String>>::new();
        for (about, make) in REQUESTS {
            for http2 in [false, true] {
                let asked = async |address: SocketAddr| {
                    decider.asked.lock().unwrap().clear();
                    let got = send(address, http2, make()).await;
                    assert_eq!(got.status, 200, "{about}: {}", got.body);
                    let asked = decider.asked.lock().unwrap();
                    assert_eq!(asked.len(), 1, "{about}");
                    fields(&asked[0])
                };
                let (theirs, ours) = (asked(envoy.address).await, asked(waypoint.address).await);
                for name in theirs.keys().chain(ours.keys()) {
                    let (their, our) = (theirs.get(name), ours.get(name));
                    if their != our {
                        let told = format!("{about} ({}): Envoy {their:?}, here {our:?}", if http2 { "HTTP/2" } else { "HTTP/1.1" });
                        let all = differences.entry(name.clone()).or_default();
                        if !all.contains(&told) {
                            all.push(told);
                        }
                    }
                }
            }
        }
        let names: Vec<&str> = differences.keys().map(String::as_str).collect();
        assert_eq!(names, DIFFERENCES, "{differences:#?}");
    });
}

/// Where ours is another, and meant to be: the client and its service are known by its tunnel and what it addressed, not by its connection here; ids, and
/// the context of a trace, are each one's own; of a client on the same machine Envoy says that it is the machine.
const DIFFERENCES: [&str; 9] = [
    "destination.address",
    "destination.service",
    "http.headers[traceparent]",
    "http.headers[x-envoy-external-address]",
    "http.headers[x-forwarded-for]",
    "http.headers[x-request-id]",
    "http.id",
    "source.principal",
    "source.service",
];

fn said(code: i32, text: &str, headers: Vec<HeaderValueOption>) -> Result<CheckResponse, tonic::Code> {
    denied(DeniedHttpResponse { status: (code > 0).then_some(HttpStatus { code }), headers, body: text.into() })
}

/// What a server may say, and has a meaning in both.
fn answers() -> Vec<Result<CheckResponse, tonic::Code>> {
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let how = |key: &str, value: &str, how: HeaderAppendAction| HeaderValueOption { append_action: how.into(), ..option(key, value, None) };
    let parameter = |key: &str, value: &str| QueryParameter { key: key.into(), value: value.into() };
    let admits = |headers: Vec<HeaderValueOption>| ok(OkHttpResponse { headers, ..OkHttpResponse::default() });
    let tells =
        |response_headers_to_add: Vec<HeaderValueOption>| ok(OkHttpResponse { response_headers_to_add, ..OkHttpResponse::default() });
    vec![
        ok(OkHttpResponse::default()),
        Ok(CheckResponse { status: Some(Status::default()), http_response: None }),
        admits(vec![option("x-user", "ann", None), option("x-new", "n", None)]),
        admits(vec![option("x-user", "ann", Some(true)), option("x-user", "bob", Some(true))]),
        admits(vec![option("x-user", "ann", Some(false)), option("x-user", "bob", Some(false))]),
        ok(OkHttpResponse { headers_to_remove: vec!["x-user".into(), "x-none".into()], ..OkHttpResponse::default() }),
        ok(OkHttpResponse {
            query_parameters_to_set: vec![parameter("user", "ann")],
            query_parameters_to_remove: vec!["drop".into()],
            ..OkHttpResponse::default()
        }),
        tells(vec![option("x-checked", "yes", None), option("x-backend", "other", Some(true))]),
        tells(vec![how("x-backend", "a", AddIfAbsent), how("x-checked", "b", AddIfAbsent)]),
        tells(vec![how("x-backend", "a", OverwriteIfExists), how("x-checked", "b", OverwriteIfExists)]),
        tells(vec![how("x-backend", "a", OverwriteIfExistsOrAdd), how("x-checked", "b", AppendIfExistsOrAdd)]),
        said(0, "", vec![]),
        said(401, "who are you", vec![option("www-authenticate", "Basic", None), option("content-type", "text/html", None)]),
        said(302, "", vec![option("location", "https://login", None), option("set-cookie", "a=1", None)]),
        said(503, "later", vec![]),
        Ok(CheckResponse { status: Some(Status { code: 16, ..Status::default() }), http_response: None }),
        Err(tonic::Code::Unavailable),
        Err(tonic::Code::PermissionDenied),
    ]
}

/// What the backend saw, if it did, and what the client got; without what each proxy says of itself. Several values are one with commas, as HTTP has it.
async fn outcome(address: SocketAddr, own: &Backend, grpc: bool) -> BTreeMap<String, String> {
    const OF_PROXIES: [&str; 7] = ["date", "server", "host", "x-forwarded-for", "x-forwarded-proto", "x-request-id", "traceparent"];
    const OF_CONNECTIONS: [&str; 5] = ["content-length", "connection", "transfer-encoding", "trailer", "te"];
    let kind: &[u8] = if grpc { b"application/grpc" } else { b"text/plain" };
    let headers = [("content-type", kind), ("x-user", b"root"), ("x-other", b"o")];
    own.seen.borrow_mut().clear();
    let got = send(address, grpc, request("POST", "/private?drop=1&keep=2&user=root", &headers, "abc")).await;
    let mut all = BTreeMap::from([("status".to_owned(), got.status.to_string()), ("body".to_owned(), got.body.clone())]);
    let mut put = |whose: &str, headers: &http::HeaderMap| {
        let told = |name: &str| !name.starts_with("x-envoy-") && !OF_PROXIES.contains(&name) && !OF_CONNECTIONS.contains(&name);
        for name in headers.keys().filter(|name| told(name.as_str())) {
            let values: Vec<_> =
                headers.get_all(name).iter().map(|value| value.to_str().unwrap().trim_end_matches("; charset=utf-8")).collect();
            all.insert(format!("{whose}[{name}]"), values.join(","));
        }
    };
    put("answer", &got.headers);
    if let Some(seen) = own.seen.borrow().first() {
        put("backend", &seen.headers);
        let uri: http::Uri = seen.uri.parse().unwrap();
        all.insert("asked".to_owned(), format!("{} {} {}", seen.method, uri.path_and_query().unwrap(), seen.body));
    }
    all
}

#[test]
fn what_the_server_says_comes_to_the_same_as_behind_envoy() {
    run(async {
        let (decider, address) = Decider::start().await;
        let own = backend("v1").await;
        let Some(envoy) = envoy(1, address, own.address).await else { return };
        let waypoint = everything_asked(grpc(), address, &own).await;
        let mut differences = Vec::new();
        for answer in answers() {
            decider.answers(answer.clone());
            for grpc in [false, true] {
                let (theirs, ours) = (outcome(envoy.address, &own, grpc).await, outcome(waypoint.address, &own, grpc).await);
                let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
                // Envoy does not say which policy it was that nobody could be asked for.
                let own_words = |name: &str| answer.is_err() && ["body", "answer[content-type]", "answer[grpc-message]"].contains(&name);
                for name in names.into_iter().filter(|name| theirs.get(*name) != ours.get(*name) && !own_words(name)) {
                    differences.push(format!("{answer:?} grpc {grpc}: {name}: Envoy {:?}, here {:?}", theirs.get(name), ours.get(name)));
                }
            }
        }
        assert!(differences.is_empty(), "{differences:#?}");
    });
}

/// A waypoint that asks about everything.
async fn everything_asked(provider: Provider, decider: SocketAddr, own: &Backend) -> Waypoint {
    let waypoint = waypoint(one_rule(to("shop/v1"))).await;
    waypoint.backend("shop/v1", own);
    waypoint.endpoint("auth/decider", PORT, "decider", decider);
    let mut access = asking(provider);
    access.policies[0].rules[0].clauses.clear();
    waypoint.guard(one_rule(to("shop/v1")), Some(&access));
    waypoint
}
