//! What a waypoint's HTTP half costs by itself, and how well it keeps what it is told: the engine's own crate, between plain sockets, with the least of routes. The mesh around it
//! (tunnels, certificates, decisions) is not here; the difference to a waypoint is what that costs.
#![forbid(unsafe_code)]

mod cost;
mod limits;
mod sockets;
mod upstream;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use prost::Message;
use tokio::runtime::{Builder, LocalOptions};
use trackbed_contract::route::rule_set::Kind;
use trackbed_contract::route::{Backend, HttpEntry, HttpMatch, HttpRule, HttpRules, Port, Protocol, Routes, RuleId, RuleSet};
use trackbed_l7::{Client, Context, Report, RequestRecord, Served, StreamRecord, Table};

use upstream::Next;

/// As many as Trackbed's engine starts by itself.
const MOST_THREADS: usize = 4;
const SERVICE: &str = "bench/bench.bench.svc.cluster.local";
const PORT: u16 = 80;

const USAGE: &str = "\
usage: trackbed-l7 LISTEN NEXT
       trackbed-l7 cost
       trackbed-l7 limits [--help]

LISTEN NEXT  both are IP:PORT; every request goes to NEXT
cost         what policies and limits take of each request, against what is wanted
limits       whether limits and balancing keep what they promise, by the clock and at real backends";

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((word, [])) if word == "cost" => Some(cost::run()),
        Some((word, rest)) if word == "limits" => Some(limits::run(rest)),
        _ => None,
    };
    match done {
        Some(Ok(true)) => return ExitCode::SUCCESS,
        Some(Ok(false)) => return ExitCode::FAILURE,
        Some(Err(error)) => {
            eprintln!("trackbed-l7: {error}");
            return ExitCode::FAILURE;
        }
        None => {}
    }
    let addresses: Option<Vec<SocketAddr>> = words.iter().map(|word| word.parse().ok()).collect();
    let Some([listen, next]) = addresses.as_deref() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    let table = match table() {
        Ok(table) => Arc::new(table),
        Err(reason) => {
            eprintln!("trackbed-l7: its own route was rejected: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let count = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_THREADS));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (listen, next, table) = (*listen, *next, Arc::clone(&table));
            thread::spawn(move || serve(listen, next, table))
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(Err(error)) => eprintln!("trackbed-l7: {error}"),
            _ => eprintln!("trackbed-l7: a thread ended"),
        }
    }
    ExitCode::FAILURE
}

fn serve(listen: SocketAddr, next: SocketAddr, table: Arc<Table>) -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let context = Context::new(Next(next, "next".into()), Box::new(Nobody));
        context.replace(table);
        let listener = tokio::net::TcpListener::from_std(sockets::listen(listen)?)?;
        let served = Served { service: SERVICE.into(), port: PORT };
        loop {
            let (stream, address) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let client = Client { identity: None, address, addressed: None };
            tokio::task::spawn_local(trackbed_l7::serve(stream, client, served.clone(), Rc::clone(&context)));
        }
    })
}

fn table() -> Result<Table, String> {
    let body = routes(rule(), false).encode_to_vec();
    let (table, rejected) = Table::default().apply([(trackbed_l7::Kind::Routes, SERVICE, &body[..])], []);
    rejected.first().map_or(Ok(table), |one| Err(one.reason.clone()))
}

/// The least of rules.
fn rule() -> HttpRule {
    HttpRule {
        id: Some(RuleId { kind: "HTTPRoute".into(), namespace: "bench".into(), name: "all".into(), ..RuleId::default() }),
        backends: vec![Backend { service: SERVICE.into(), port: PORT.into(), weight: 1, ..Backend::default() }],
        ..HttpRule::default()
    }
}

/// One route that everything matches, to one backend.
fn routes(rule: HttpRule, guarded: bool) -> Routes {
    let rules = HttpRules { entries: vec![HttpEntry { r#match: Some(HttpMatch::default()), rule: 0 }], rules: vec![rule] };
    let port = Port {
        port: PORT.into(),
        protocol: Protocol::Http.into(),
        producer: Some(RuleSet { kind: Some(Kind::Http(rules)) }),
        ..Port::default()
    };
    Routes { service: SERVICE.into(), ports: vec![port], guarded }
}

/// nginx and HAProxy write no log here either.
#[derive(Debug)]
struct Nobody;

impl Report for Nobody {
    fn request(&self, _: &RequestRecord<'_>) {}
    fn connection(&self, _: &StreamRecord<'_>) {}
}
