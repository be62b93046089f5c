//! `trackbed-l7 cost`: what policies take of each request at saturation, each on against off, on one thread of one process: client, HTTP half and backend
//! talk through memory, so that only what the policies add differs.
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use trackbed_contract::Identity;
use trackbed_contract::authorization::text::Kind::Exact;
use trackbed_contract::authorization::{Access, Action, Clause, Match, Policy, Rule, Text, Texts, TokenHeader, TokenRule};
use trackbed_contract::traffic::load_shedding::Limit;
use trackbed_contract::traffic::rate_limit_key::Kind as Key;
use trackbed_contract::traffic::{
    AdaptiveConcurrency, Algorithm, BackendPort, BackendSettings, HashKey, LoadBalancer, LoadShedding, RateLimit, RateLimitKey,
    RequestScope, RequestSettings, Unit, hash_key,
};
use trackbed_l7::{BackendKey, Client, ConnectError, Context, Endpoint, Kind, Member, NoEndpoint, Served, Table, Upstream};

use crate::{Failure, Nobody, PORT, SERVICE, routes, rule};

const ROUNDS: usize = 9;
const REQUESTS: u32 = 20_000;
const RULES: usize = 100;
const ISSUER: &str = "https://issuer.example";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What is measured: what it is compared with, by index, and the microseconds that it may add to it.
struct Variant {
    name: &'static str,
    access: Option<Access>,
    token: bool,
    settings: Settings,
    base: usize,
    most: Option<f64>,
}

fn variants(token: &Token) -> [Variant; 11] {
    let rules = |count: usize| Access { service: SERVICE.into(), policies: (0..count).map(allow).collect(), ..Access::default() };
    let plain = |name| Variant { name, access: None, token: false, settings: Settings::None, base: 0, most: None };
    let guarded = |name, access| Variant { access: Some(access), ..plain(name) };
    let set = |name, settings, most| Variant { settings, most, ..plain(name) };
    let by_two = [Key::Identity(Unit {}), Key::Header("x-tenant".into())];
    [
        plain("nothing"),
        guarded("no policies, guarded", rules(0)),
        guarded("authorization, 1 rule", rules(1)),
        Variant { most: Some(1.0), ..guarded("authorization, 100 rules", rules(RULES)) },
        Variant { token: true, ..plain("the token goes along, nobody looks") },
        Variant {
            token: true,
            base: 4,
            most: Some(2.0),
            ..guarded("token, remembered", Access { tokens: vec![token.rule.clone()], ..rules(0) })
        },
        set("rate limit", limited(&[], false), Some(0.5)),
        set("rate limit by identity and header", limited(&by_two, false), Some(0.5)),
        set("rate limit, fair", limited(&[], true), Some(0.5)),
        set("load shedding, adaptive", shedding(), None),
        set("Maglev by a header", maglev(), None),
    ]
}

/// Each round goes through all variants, every other one backwards, and what one adds is told by its difference to its base in the same round: what else
/// the machine does falls on both. The median of those counts. Whether all that is wanted is met.
pub(crate) fn run() -> Result<bool, Failure> {
    let token = Token::new()?;
    let variants = variants(&token);
    let mut spent: Vec<Vec<f64>> = vec![Vec::new(); variants.len()];
    for index in 0..ROUNDS {
        let mut order: Vec<usize> = (0..variants.len()).collect();
        if index % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let Variant { access, token: with, settings, .. } = &variants[index];
            let header = if *with { token.header.as_str() } else { "" };
            spent[index].push(round(access.as_ref(), settings, header)?.as_secs_f64() * 1e6 / f64::from(REQUESTS));
        }
    }
    println!("{ROUNDS} rounds of {REQUESTS} requests each, CPU of client, HTTP half and backend together; medians");
    let mut missed = 0;
    for (index, Variant { name, base, most, .. }) in variants.iter().enumerate() {
        let added = median(spent[index].iter().zip(&spent[*base]).map(|(own, base)| own - base).collect());
        let wanted = most.map_or(String::new(), |most| {
            missed += u32::from(added > most);
            format!(", at most {most}: {}", if added > most { "NO" } else { "yes" })
        });
        println!("{name:36} {:7.2} us a request, {added:+6.2} us{wanted}", median(spent[index].clone()));
    }
    Ok(missed == 0)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// One connection; every request is asked when the one before is answered.
fn round(access: Option<&Access>, settings: &Settings, header: &str) -> Result<Duration, Failure> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let table = table(access, settings)?;
    runtime.block_on(async {
        let context = Context::new(Memory("next".into()), Box::new(Nobody));
        context.replace(table);
        let (mut io, other) = duplex(64 * 1024);
        let identity = Some(Identity::parse("spiffe://cluster.local/ns/shop/sa/web")?);
        let client = Client { identity, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), addressed: None };
        let served = Served { service: SERVICE.into(), port: PORT };
        spawn_local(trackbed_l7::serve(other, client, served, Rc::clone(&context)));
        let request = format!(
            "GET /items/{} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nX-Tenant: a\r\n{header}\r\n",
            RULES - 1
        );
        for _ in 0..REQUESTS / 10 {
            ask(&mut io, request.as_bytes()).await?;
        }
        let begun = cpu();
        for _ in 0..REQUESTS {
            ask(&mut io, request.as_bytes()).await?;
        }
        Ok(cpu().saturating_sub(begun))
    })
}

async fn ask(io: &mut DuplexStream, request: &[u8]) -> Result<(), Failure> {
    io.write_all(request).await?;
    let mut answer = [0; 1024];
    let mut read = 0;
    while !answer[..read].ends_with(b"ok") {
        let count = io.read(&mut answer[read..]).await?;
        if count == 0 {
            return Err("the connection ended".into());
        }
        read += count;
    }
    if black_box(&answer).starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err("a request was not admitted".into()) }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// Each admits a service account to a path; the last one the bench's own.
fn allow(number: usize) -> Policy {
    let any = |text: String| Some(Texts { any: vec![Text { kind: Some(Exact(text)) }], none: Vec::new() });
    let from = Match { principals: any("cluster.local/ns/shop/sa/web".into()), ..Match::default() };
    let to = Match { methods: any("GET".into()), paths: any(format!("/items/{}", RULES - 1 - number)), ..Match::default() };
    let clauses = vec![Clause { matches: vec![from] }, Clause { matches: vec![to] }];
    let name = format!("shop/items-{number}");
    Policy { name, action: Action::Allow.into(), rules: vec![Rule { clauses }], ..Policy::default() }
}

/// What is in force when it gets too much. Nothing of it refuses anything here.
enum Settings {
    None,
    Of(Kind, Vec<u8>),
}

fn scope(scope: RequestScope) -> Settings {
    Settings::Of(Kind::RequestSettings, RequestSettings { service: SERVICE.into(), scopes: vec![scope] }.encode_to_vec())
}

fn limited(keys: &[Key], fair: bool) -> Settings {
    let keys = keys.iter().map(|kind| RateLimitKey { kind: Some(kind.clone()) }).collect();
    let (requests, interval_milliseconds) = (1_000_000_000, 1000);
    let limit = RateLimit { name: "shop/limit/0".into(), requests, interval_milliseconds, keys, fair, ..RateLimit::default() };
    scope(RequestScope { rate_limits: vec![limit], ..RequestScope::default() })
}

fn shedding() -> Settings {
    let limit = Some(Limit::Adaptive(AdaptiveConcurrency::default()));
    scope(RequestScope {
        load_shedding: Some(LoadShedding { name: "shop/shed".into(), limit, priorities: Vec::new() }),
        ..RequestScope::default()
    })
}

fn maglev() -> Settings {
    let hash = vec![HashKey { kind: Some(hash_key::Kind::Header("x-tenant".into())) }];
    let load_balancer = Some(LoadBalancer { algorithm: Algorithm::Maglev.into(), hash, ..LoadBalancer::default() });
    let ports = vec![BackendPort { load_balancer, ..BackendPort::default() }];
    Settings::Of(Kind::BackendSettings, BackendSettings { service: SERVICE.into(), ports }.encode_to_vec())
}

fn table(access: Option<&Access>, settings: &Settings) -> Result<Arc<Table>, Failure> {
    let routes = routes(rule(), access.is_some()).encode_to_vec();
    let access = access.map(Message::encode_to_vec);
    let access = access.as_deref().map(|access| (Kind::Access, SERVICE, access));
    let settings = if let Settings::Of(kind, body) = settings { Some((*kind, SERVICE, &body[..])) } else { None };
    let all = [Some((Kind::Routes, SERVICE, &routes[..])), access, settings];
    let (table, rejected) = Table::default().apply(all.into_iter().flatten(), []);
    rejected.first().map_or(Ok(Arc::new(table)), |one| Err(one.reason.clone().into()))
}

struct Token {
    rule: TokenRule,
    header: String,
}

impl Token {
    fn new() -> Result<Self, Failure> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
        // As long as tokens of real issuers are.
        let more = "x".repeat(300);
        let claims = format!("{{\"iss\":\"{ISSUER}\",\"sub\":\"ann\",\"aud\":\"shop\",\"exp\":{expires},\"more\":\"{more}\"}}");
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode("{\"alg\":\"ES256\"}"), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(&SystemRandom::new(), input.as_bytes())?);
        let rule = TokenRule {
            policy: "shop/jwt".into(),
            issuer: ISSUER.into(),
            jwks: format!("{{\"keys\":[{{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"{x}\",\"y\":\"{y}\"}}]}}"),
            headers: vec![TokenHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
            forward: true,
            ..TokenRule::default()
        };
        Ok(Self { rule, header: format!("Authorization: Bearer {input}.{signature}\r\n") })
    }
}

/// A backend that answers at once, through memory.
#[derive(Debug)]
struct Memory(Arc<str>);

impl Upstream for Memory {
    type Io = DuplexStream;
    type Detail = ();
    type Candidates = [Member; 1];

    fn candidates(&self, _: &BackendKey) -> Result<[Member; 1], NoEndpoint> {
        Ok([Member { uid: Arc::clone(&self.0), weight: 1, rank: 0 }])
    }

    fn are_current(&self, _: &BackendKey, _: &[Member; 1]) -> bool {
        true
    }

    fn members<'a>(&self, candidates: &'a [Member; 1]) -> &'a [Member] {
        candidates
    }

    fn endpoint(&self, _: &[Member; 1], _: usize) -> Option<Endpoint<()>> {
        Some(Endpoint { uid: Arc::clone(&self.0), address: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), detail: () })
    }

    async fn connect(&self, _: &Endpoint<()>) -> Result<DuplexStream, ConnectError> {
        let (near, mut far) = duplex(64 * 1024);
        spawn_local(async move {
            let mut request = [0; 4096];
            let mut read = 0;
            while let Ok(count @ 1..) = far.read(&mut request[read..]).await {
                read += count;
                if request[..read].ends_with(b"\r\n\r\n") {
                    read = 0;
                    if far.write_all(ANSWER).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(near)
    }
}
