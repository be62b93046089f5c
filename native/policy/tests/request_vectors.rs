//! proto/vectors/requests.json: what control compiles of the documents is decided as they say.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value};
use trackbed_contract::Identity;
use trackbed_contract::authorization::Access;
use trackbed_policy::{Decision, Host, Http, Paths, Policies, Refused, Subject, Token};

const VECTORS: &str = include_str!("../../../proto/vectors/requests.json");

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    access: String,
    requests: Vec<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Request {
    #[serde(default = "client")]
    source: String,
    #[serde(default = "near")]
    source_ip: IpAddr,
    remote_ip: Option<IpAddr>,
    #[serde(default = "http_port")]
    port: u16,
    #[serde(default = "web")]
    host: String,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    claims: Option<Map<String, Value>>,
    expected: String,
}

fn client() -> String {
    "shop/client".to_owned()
}
fn near() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}
fn http_port() -> u16 {
    80
}
fn web() -> String {
    "web.shop".to_owned()
}
fn get() -> String {
    "GET".to_owned()
}
fn root() -> String {
    "/".to_owned()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn decided(policies: &Policies, request: &Request) -> String {
    let (namespace, account) = request.source.split_once('/').unwrap();
    let source = Identity::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/{account}")).unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let token = request.claims.clone().map(|claims| Token::of(claims, &[]));
    // As it comes to the policies of a waypoint, and goes to its backend.
    let path = trackbed_policy::path::normal(&request.path).unwrap().path;
    let http =
        Http { host: &Host::of(&request.host), method: &request.method, paths: &Paths::of(path), headers: &headers, token: token.as_ref() };
    let subject = Subject {
        source: Some(&source),
        source_ip: request.source_ip,
        remote_ip: Some(request.remote_ip.unwrap_or(request.source_ip)),
        destination_ip: None,
        destination_port: request.port,
        server_name: None,
        http: Some(http),
    };
    match policies.evaluate(&subject).decision {
        Decision::Allowed { .. } => "allowed".to_owned(),
        Decision::Denied(Refused { policy, .. }) => {
            policy.rule.map_or_else(|| format!("denied {}", policy.name), |rule| format!("denied {} {rule}", policy.name))
        }
    }
}

#[test]
fn requests_are_decided_as_the_documents_say() {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.cases.len() >= 10);
    for Case { name, access, requests } in &vectors.cases {
        let access = Access::decode(bytes(access).as_slice()).unwrap();
        let policies = Policies::from_wire(&access.policies).unwrap();
        for request in requests {
            let what = format!("{name}: {} {} of {}", request.method, request.path, request.source);
            assert_eq!(decided(&policies, request), request.expected, "{what}");
        }
    }
}
