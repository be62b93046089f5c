//! Command line of the load generator.
use std::net::SocketAddr;

use lexopt::{Arg, Parser, ValueExt};

pub(crate) const HELP: &str = "\
usage: trackbed-load serve LISTEN
       trackbed-load bulk TO [--streams N] [--seconds N | --bytes N]
       trackbed-load round-trips TO [--connections N] [--seconds N]
       trackbed-load requests TO [--rate N] [--connections N] [--seconds N] [--beside-bulk]
       trackbed-load http TO [--connections N] [--rate N] [--seconds N]
       trackbed-load connects TO [--at-once N] [--seconds N | --count N]
       trackbed-load idle TO [--connections N]
       trackbed-load hosts LISTEN
       trackbed-load crowd

serve        answers every mode; the first byte of a connection says which (b, e, a, or the G of a GET); SIGTERM ends it
bulk         sends for --seconds (3), or --bytes, over each of --streams connections (1) and waits for the count that arrived
round-trips  100-byte echoes in a closed loop on --connections (1) for --seconds (3); a single one keeps to two CPUs
requests     1 KB echoes at a fixed --rate (1000 a second) spread over --connections (16) for --seconds (3), timed from when each was due;
             --beside-bulk sends on one more connection as fast as it takes
http         GETs of 100 bytes over HTTP/1.1 with keep-alive on --connections (32) for --seconds (3): as many as go, or at a fixed --rate
connects     connect, 64-byte echo, close, by --at-once threads (1) for --seconds (3), or --count times in all
idle         opens --connections (1000), one echo each; each line on standard input asks for one more and prints how many live
hosts        serves in every network namespace that standard input names, one a line up to an empty one
crowd        each line of standard input, NETNS TO TO…, up to an empty one, is a pod that opens a connection to each; then as idle

Seconds may be fractions. Every socket of this program uses cubic and TCP_NODELAY.";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    Help,
    Serve { listen: SocketAddr },
    Bulk { to: SocketAddr, streams: usize, until: Until },
    RoundTrips { to: SocketAddr, connections: usize, seconds: f64 },
    Requests { to: SocketAddr, rate: u32, connections: u32, seconds: f64, beside_bulk: bool },
    Http { to: SocketAddr, rate: Option<u32>, connections: u32, seconds: f64 },
    Connects { to: SocketAddr, at_once: usize, until: Until },
    Idle { to: SocketAddr, connections: usize },
    Hosts { listen: SocketAddr },
    Crowd,
}

/// What ends a run.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Seconds(f64),
    /// Bytes of each stream, or connections of all threads.
    Count(u64),
}

pub(crate) fn parse() -> Result<Command, lexopt::Error> {
    let mut parser = Parser::from_env();
    let mut words: Vec<String> = Vec::new();
    let (mut streams, mut at_once, mut rate, mut seconds, mut beside_bulk) = (1, 1, None, 3.0, false);
    let (mut connections, mut count) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("streams") => streams = parser.value()?.parse()?,
            Arg::Long("connections") => connections = Some(parser.value()?.parse::<u32>()?),
            Arg::Long("at-once") => at_once = parser.value()?.parse()?,
            Arg::Long("rate") => rate = Some(parser.value()?.parse()?),
            Arg::Long("seconds") => seconds = parser.value()?.parse()?,
            Arg::Long("bytes" | "count") => count = Some(parser.value()?.parse()?),
            Arg::Long("beside-bulk") => beside_bulk = true,
            Arg::Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if words == ["crowd"] {
        return Ok(Command::Crowd);
    }
    let [mode, address] = words.as_slice() else {
        return Err("expected a mode and an address".into());
    };
    let to: SocketAddr = address.parse().map_err(|_| format!("{address:?} is not IP:PORT"))?;
    let until = count.map_or(Until::Seconds(seconds), Until::Count);
    Ok(match mode.as_str() {
        "serve" => Command::Serve { listen: to },
        "bulk" => Command::Bulk { to, streams, until },
        "round-trips" => Command::RoundTrips { to, connections: connections.unwrap_or(1) as usize, seconds },
        "requests" => Command::Requests { to, rate: rate.unwrap_or(1000), connections: connections.unwrap_or(16), seconds, beside_bulk },
        "http" => Command::Http { to, rate, connections: connections.unwrap_or(32), seconds },
        "connects" => Command::Connects { to, at_once, until },
        "hosts" => Command::Hosts { listen: to },
        "idle" => Command::Idle { to, connections: connections.unwrap_or(1000) as usize },
        other => return Err(format!("unknown mode {other:?}").into()),
    })
}
