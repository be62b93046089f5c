//! `trackbed-netns`: lets a process without system calls of its own (the daemon) hand over and ask about network namespaces.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};

use lexopt::prelude::{Long, Short, Value, ValueExt};
use serde_json::{Value as Json, json};
use trackbed_netns::{Netns, handover};

const HELP: &str = "trackbed-netns: hand over or ask about a network namespace, which is inherited as descriptor 3

usage:
  trackbed-netns send --socket PATH --uid UID 3< /proc/PID/ns/net   give it to the engine for the pod UID
  trackbed-netns cookie                       3< /proc/PID/ns/net   print its SO_NETNS_COOKIE
  trackbed-netns addresses                    3< /proc/PID/ns/net   print the addresses it holds

Prints one line of JSON. Exit status: 0 done, 1 refused or failed (the line says why), 64 wrong usage.";

/// The caller opens the namespace and starts us with it at this number.
const NAMESPACE: i32 = 3;
/// The engine answers within 1 s or refuses; the margin is for a node that starts with all its pods at once.
const LIMIT: Duration = Duration::from_secs(5);
const USAGE: u8 = 64;

enum Command {
    Send { socket: PathBuf, uid: String },
    Cookie,
    Addresses,
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
    };
    println!("{answer}");
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(arguments);
    let (mut verb, mut socket, mut uid) = (None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Long("socket") => socket = Some(PathBuf::from(parser.value()?)),
            Long("uid") => uid = Some(parser.value()?.string()?),
            Value(word) if verb.is_none() => verb = Some(word.string()?),
            other => return Err(other.unexpected()),
        }
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

fn ask(question: impl FnOnce(&Netns) -> Result<Json, trackbed_netns::NetnsError>) -> (bool, Json) {
    match Netns::inherited(NAMESPACE).and_then(|netns| question(&netns)) {
        Ok(answer) => (true, answer),
        Err(error) => (false, json!({ "code": error.code(), "reason": error.to_string() })),
    }
}

fn addresses(netns: &Netns) -> Result<Json, trackbed_netns::NetnsError> {
    let held = netns.addresses()?.into_iter().map(
        |held| json!({ "address": held.address.to_string(), "prefix": held.prefix, "interface": held.interface, "usable": held.usable }),
    );
    Ok(json!({ "netns_cookie": netns.cookie().to_string(), "addresses": held.collect::<Vec<_>>() }))
}
