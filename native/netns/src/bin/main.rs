//! `trackbed-netns`: lets a process without system calls of its own (the daemon) hand over and ask about network namespaces.

use std::{
    ffi::OsString,
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use lexopt::prelude::{Long, Short, Value, ValueExt};
use serde_json::{Value as Json, json};
use trackbed_netns::{
    Netns, NetnsError,
    frames::{Seen, Watcher},
    handover,
    sniff::Sniffer,
};

const HELP: &str = "trackbed-netns: hand over or ask about a network namespace, which is inherited as descriptor 3

usage:
  trackbed-netns send --socket PATH --uid UID 3< /proc/PID/ns/net   give it to the engine for the pod UID
  trackbed-netns cookie                       3< /proc/PID/ns/net   print its SO_NETNS_COOKIE
  trackbed-netns addresses                    3< /proc/PID/ns/net   print the addresses it holds
  trackbed-netns frames --port PORT --for MS [--between ADDRESS]...  3< /proc/PID/ns/net
                      print that it began, and after MS what TCP to and from PORT carried: TLS records, or bytes that are none

Prints one line of JSON. Exit status: 0 done, 1 refused or failed (the line says why), 64 wrong usage.";

/// The caller opens the namespace and starts us with it at this number.
const NAMESPACE: i32 = 3;
/// The engine answers within 1 s or refuses; the margin is for a node that starts with all its pods at once.
const LIMIT: Duration = Duration::from_secs(5);
/// Somebody waits for it.
const LONGEST_MS: u64 = 60_000;
const USAGE: u8 = 64;

enum Command {
    Send { socket: PathBuf, uid: String },
    Cookie,
    Addresses,
    Frames { port: u16, time: Duration, between: Vec<IpAddr> },
    Help,
}

fn main() -> ExitCode {
    let command = match parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("trackbed-netns: {error}; see trackbed-netns --help");
            return ExitCode::from(USAGE);
        }
    };
    let (done, answer) = match command {
        Command::Help => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Command::Send { socket, uid } => send(&socket, uid),
        Command::Cookie => ask(|netns| Ok(json!({ "netns_cookie": netns.cookie().to_string() }))),
        Command::Addresses => ask(addresses),
        Command::Frames { port, time, between } => ask(|netns| frames(netns, port, time, between)),
    };
    println!("{answer}");
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut verb, mut socket, mut uid) = (None, None, None);
    let (mut port, mut time, mut between) = (None, None, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
            Long("port") => port = Some(parser.value()?.parse()?),
            Long("for") => time = Some(parser.value()?.parse()?),
            Long("between") => between.push(parser.value()?.parse()?),
            Long("uid") => uid = Some(parser.value()?.string()?),
            Value(word) if verb.is_none() => verb = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if verb.as_deref() == Some("frames") {
        return match (port, time) {
            (Some(port), Some(time @ 1..=LONGEST_MS)) if socket.is_none() && uid.is_none() => {
                Ok(Command::Frames { port, time: Duration::from_millis(time), between })
            }
            _ => Err(format!("frames needs --port PORT and --for MS, from 1 to {LONGEST_MS}").into()),
        };
    }
    if port.is_some() || time.is_some() || !between.is_empty() {
        return Err("--port, --for and --between are of frames".into());
    }
    match (verb.as_deref(), socket, uid) {
        (Some("send"), Some(socket), Some(uid)) if !uid.is_empty() => Ok(Command::Send { socket, uid }),
        (Some("send"), ..) => Err("send needs --socket PATH and --uid UID".into()),
        (Some("cookie"), None, None) => Ok(Command::Cookie),
        (Some("addresses"), None, None) => Ok(Command::Addresses),
        (Some(verb @ ("cookie" | "addresses")), ..) => Err(format!("{verb} takes no options").into()),
        (Some(verb), ..) => Err(format!("unknown command {verb:?}").into()),
        (None, ..) => Err("no command".into()),
    }
}

fn send(socket: &std::path::Path, uid: String) -> (bool, Json) {
    let failed =
        |uid: String, code: &str, reason: String| (false, json!({ "uid": uid, "netns_cookie": "0", "code": code, "reason": reason }));
    let netns = match Netns::inherited(NAMESPACE) {
        Ok(netns) => netns,
        Err(error) => return failed(uid, error.code(), error.to_string()),
    };
    match handover::send(socket, &uid, &netns, LIMIT) {
        Ok(receipt) => (
            receipt.code.is_empty(),
            json!({
                "uid": receipt.uid,
                "netns_cookie": receipt.netns_cookie.to_string(),
                "code": receipt.code,
                "reason": receipt.reason,
            }),
        ),
        Err(error) => failed(uid, error.code(), error.to_string()),
    }
}

fn ask(question: impl FnOnce(&Netns) -> Result<Json, NetnsError>) -> (bool, Json) {
    match Netns::inherited(NAMESPACE).and_then(|netns| question(&netns)) {
        Ok(answer) => (true, answer),
        Err(error) => (false, json!({ "code": error.code(), "reason": error.to_string() })),
    }
}

fn frames(netns: &Netns, port: u16, time: Duration, between: Vec<IpAddr>) -> Result<Json, NetnsError> {
    let mut sniffer = Sniffer::open(netns, port)?;
    println!("{}", json!({ "began": true }));
    let mut watcher = Watcher::new(port, between);
    sniffer
        .run(Instant::now() + time, |packet| watcher.packet(packet))
        .map_err(|source| NetnsError::Inside { step: "read packets", source })?;
    let Seen { frames, streams, records, tls_bytes, other_bytes, unknown_bytes, repeated_bytes, missed_bytes, unwatched, examples } =
        watcher.finish();
    Ok(json!({
        "frames": frames,
        "streams": streams,
        "records": records,
        "tlsBytes": tls_bytes,
        "otherBytes": other_bytes,
        "unknownBytes": unknown_bytes,
        "repeatedBytes": repeated_bytes,
        "missedBytes": missed_bytes,
        "unwatched": unwatched + sniffer.lost(),
        "examples": examples,
    }))
}

fn addresses(netns: &Netns) -> Result<Json, NetnsError> {
    let held = netns.addresses()?.into_iter().map(
        |held| json!({ "address": held.address.to_string(), "prefix": held.prefix, "interface": held.interface, "usable": held.usable }),
    );
    Ok(json!({ "netns_cookie": netns.cookie().to_string(), "addresses": held.collect::<Vec<_>>() }))
}
