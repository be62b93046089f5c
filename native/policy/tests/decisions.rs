//! Policies over requests: the vectors that the compiler shares, and the index against looking at every rule.
#![allow(clippy::unwrap_used)] // a test that cannot set up its case should panic

use std::net::IpAddr;

use http::HeaderMap;
use prost::Message;
use serde::Deserialize;
use serde_json::{Map, Value};
use trackbed_contract::Identity;
use trackbed_contract::authorization::text::Kind;
use trackbed_contract::authorization::{Access, Action, Clause, Match, Policy, Rule, Text, Texts};
use trackbed_policy::path::normal;
use trackbed_policy::{Decision, Effect, Evaluation, Host, Http, Paths, Policies, PolicyRef, Subject, Token, Unknown};

/// Shared with the compiler, src/compile/decision-vectors.test.ts.
const VECTORS: &str = include_str!("../../../proto/vectors/decisions.json");

#[derive(Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    access: String,
    requests: Vec<Asked>,
}

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(default = "shop")]
    namespace: String,
    #[serde(default = "web")]
    account: String,
    #[serde(default = "port")]
    port: u16,
    #[serde(default = "get")]
    method: String,
    #[serde(default = "root")]
    path: String,
    #[serde(default = "web")]
    host: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    claims: Option<Map<String, Value>>,
    source_ip: Option<IpAddr>,
    remote_ip: Option<IpAddr>,
    server_name: Option<String>,
    #[serde(default)]
    tcp: bool,
    #[serde(default)]
    expected: String,
}

fn shop() -> String {
    "shop".into()
}

fn web() -> String {
    "web".into()
}

fn port() -> u16 {
    80
}

fn get() -> String {
    "GET".into()
}

fn root() -> String {
    "/".into()
}

impl Asked {
    fn of<T>(&self, told: impl FnOnce(&Subject<'_>) -> T) -> T {
        let source = Identity::parse(&format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.account)).unwrap();
        let source_ip = self.source_ip.unwrap_or(IpAddr::from([10, 9, 0, 1]));
        let token = self.claims.as_ref().map(|claims| Token::of(claims.clone(), &[]));
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let normal = normal(&self.path).unwrap();
        let http = Http {
            host: &Host::of(&self.host),
            method: &self.method,
            paths: &Paths::of(normal.path),
            headers: &headers,
            token: token.as_ref(),
        };
        told(&Subject {
            source: Some(&source),
            source_ip,
            remote_ip: Some(self.remote_ip.unwrap_or(source_ip)),
            destination_ip: None,
            destination_port: self.port,
            server_name: self.server_name.as_deref(),
            http: (!self.tcp).then_some(http),
        })
    }
}

fn words(decision: &Decision) -> String {
    let by = |policy: &PolicyRef| format!("{} {}", policy.name, policy.rule.map_or("-".to_owned(), |rule| rule.to_string()));
    match decision {
        Decision::Allowed { by: None } => "allowed".to_owned(),
        Decision::Allowed { by: Some(policy) } => format!("allowed {}", by(policy)),
        Decision::Denied(refused) => format!("{} {}", refused.code, by(&refused.policy)),
    }
}

fn told(Evaluation { decision, audit, .. }: &Evaluation) -> String {
    let audit = audit.as_ref().map(|audit| format!("; would be {}", words(audit))).unwrap_or_default();
    words(decision) + &audit
}

#[test]
fn every_request_of_the_vectors_comes_to_what_they_say() {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.cases.len() > 20);
    for case in vectors.cases {
        let digits = case.access.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
        let access = Access::decode(digits.collect::<Vec<_>>().as_slice()).unwrap();
        let policies = Policies::from_wire(&access.policies).unwrap();
        for (number, asked) in case.requests.iter().enumerate() {
            let said = asked.of(|subject| told(&policies.evaluate(subject)));
            assert_eq!(said, asked.expected, "{}, request {number}", case.name);
            let (explained, evaluation) = asked.of(|subject| policies.explain(subject));
            assert_eq!(told(&evaluation), said);
            assert_eq!(explained.len(), access.policies.len());
        }
    }
}

const NAMES: [&str; 6] = ["a", "b", "c", "ab", "shop", "bank"];

fn text(random: &mut fastrand::Rng, before: &str, after: &str) -> Text {
    let name = NAMES[random.usize(..NAMES.len())];
    let kind = match random.u8(..8) {
        0 => Kind::Presence(true),
        1 => Kind::Suffix(format!("{name}{after}")),
        2 | 3 => Kind::Prefix(format!("{before}{name}")),
        _ => Kind::Exact(format!("{before}{name}{after}")),
    };
    Text { kind: Some(kind) }
}

fn texts(random: &mut fastrand::Rng, before: &str, after: &str) -> Option<Texts> {
    let mut texts = |count: usize| (0..count).map(|_| text(random, before, after)).collect::<Vec<_>>();
    let (any, none) = (texts(2), texts(1));
    match random.u8(..6) {
        0..3 => None,
        3 => Some(Texts { any: vec![], none }),
        4 => Some(Texts { any, none }),
        _ => Some(Texts { any, none: vec![] }),
    }
}

fn random_match(random: &mut fastrand::Rng) -> Match {
    let mut one = Match {
        methods: texts(random, "", ""),
        paths: texts(random, "/", ""),
        namespaces: texts(random, "", ""),
        principals: texts(random, "cluster.local/ns/", "/sa/a"),
        request_principals: texts(random, "https://id/", ""),
        hosts: texts(random, "", ".example"),
        ..Match::default()
    };
    if one == Match::default() {
        one.namespaces = Some(Texts { any: vec![text(random, "", "")], none: vec![] });
    }
    one
}

/// What the policies say one by one, put together in the order that the contract names.
fn one_by_one(policies: &Policies, asked: &Asked) -> String {
    let (told, _) = asked.of(|subject| policies.explain(subject));
    let find = |effect: Effect| told.iter().find(|one| !one.considered.dry_run && one.considered.effect == effect);
    let by = |policy: &PolicyRef| format!("{} {}", policy.name, policy.rule.map_or("-".to_owned(), |rule| rule.to_string()));
    if let Some(denies) = find(Effect::Denies) {
        return format!("E_POLICY_DENIED {}", by(&denies.considered.policy));
    }
    if let Some(allows) = find(Effect::Allows) {
        return format!("allowed {}", by(&allows.considered.policy));
    }
    match find(Effect::AllowsOthers) {
        Some(others) => format!("E_POLICY_NO_ALLOW {}", by(&others.considered.policy)),
        None => "allowed".to_owned(),
    }
}

fn random_policies(random: &mut fastrand::Rng) -> Policies {
    let policies: Vec<Policy> = (0..random.usize(1..20))
        .map(|number| {
            let mut clause = || Clause { matches: vec![random_match(random), random_match(random)] };
            let rules = vec![Rule { clauses: vec![clause(), clause()] }, Rule { clauses: vec![clause()] }];
            let action = if random.bool() { Action::Allow } else { Action::Deny };
            Policy { name: format!("shop/p{number}"), action: action.into(), rules, dry_run: random.u8(..8) == 0, ..Policy::default() }
        })
        .collect();
    Policies::from_wire(&policies).unwrap()
}

fn random_request(random: &mut fastrand::Rng) -> Asked {
    let mut name = || NAMES[random.usize(..NAMES.len())].to_owned();
    let claims = serde_json::json!({"iss": "https://id", "sub": name()});
    Asked {
        namespace: name(),
        account: "a".into(),
        port: 80,
        method: name(),
        path: format!("/{}", [name(), format!("{}//{}", name(), name()), format!("{}%2F{}", name(), name())][random.usize(..3)]),
        host: "A.example:80".into(),
        headers: vec![],
        claims: if random.bool() { claims.as_object().cloned() } else { None },
        source_ip: None,
        remote_ip: None,
        server_name: None,
        tcp: random.u8(..10) == 0,
        expected: String::new(),
    }
}

#[test]
fn what_is_looked_up_leaves_out_no_rule_that_matches() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut counts = [0; 3];
    for _ in 0..150 {
        let policies = random_policies(&mut random);
        for _ in 0..40 {
            let asked = random_request(&mut random);
            let said = asked.of(|subject| words(&policies.evaluate(subject).decision));
            assert_eq!(said, one_by_one(&policies, &asked), "seed {seed}");
            counts[if said.starts_with("E_POLICY_DENIED") { 0 } else { usize::from(said.starts_with("allowed")) + 1 }] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
}

#[test]
fn what_is_decided_without_all_fields_is_decided_so_with_them() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut decided, mut open) = ([0, 0], 0);
    for _ in 0..250 {
        let policies = random_policies(&mut random);
        for _ in 0..40 {
            let asked = Asked { tcp: false, ..random_request(&mut random) };
            let mut is = || random.u8(..3) == 0;
            let unknown = Unknown { host: is(), method: is(), path: is(), token: is(), ..Unknown::default() };
            asked.of(|subject| {
                let real = policies.evaluate(subject);
                let known = policies.bounds(subject, Unknown::default());
                assert_eq!((&known.best, &known.worst), (&real, &real), "seed {seed}");
                assert!(known.fields.is_empty());
                let bounds = policies.bounds(subject, unknown);
                let (best, worst) = (bounds.best.decision.admits(), bounds.worst.decision.admits());
                let admitted = real.decision.admits();
                assert!(worst <= admitted && admitted <= best, "seed {seed}: {bounds:?} and {real:?}");
                if best != worst {
                    open += 1;
                    assert!(!bounds.fields.is_empty(), "seed {seed}");
                } else if unknown != Unknown::default() {
                    decided[usize::from(admitted)] += 1;
                }
            });
        }
    }
    assert!(open > 500 && decided.iter().all(|count| *count > 500), "{open} {decided:?}");
}
