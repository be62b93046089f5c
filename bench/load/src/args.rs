//! Command line of the load generator.
use std::net::SocketAddr;

use lexopt::{Arg, Parser, ValueExt};

pub(crate) const HELP: &str = "\
usage: trackbed-load serve LISTEN
       trackbed-load bulk TO [--streams N] [--bytes N]
       trackbed-load round-trips TO [--connections N] [--seconds N]
       trackbed-load connects TO [--at-once N] [--seconds N]
       trackbed-load idle TO [--connections N]

serve        answers every mode; the first byte of a connection says which (b, e, i); SIGTERM ends it
bulk         sends --bytes over each of --streams connections (1; 1 GB) and waits for the count that arrived
round-trips  100-byte echoes in a closed loop on --connections (1) for --seconds (3)
connects     connect, 64-byte echo, close, by --at-once threads (1) for --seconds (3)
idle         opens --connections (1000), one echo each; each line on standard input asks for one more and prints how many live

Every socket of this program uses cubic and TCP_NODELAY.";

#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    Help,
    Serve {
        listen: SocketAddr,
    },
    Bulk {
        to: SocketAddr,
        streams: usize,
        bytes: u64,
    },
    RoundTrips {
        to: SocketAddr,
        connections: usize,
        seconds: u64,
    },
    Connects {
        to: SocketAddr,
        at_once: usize,
        seconds: u64,
    },
    Idle {
        to: SocketAddr,
        connections: usize,
    },
}

pub(crate) fn parse() -> Result<Command, lexopt::Error> {
    let mut parser = Parser::from_env();
    let mut words: Vec<String> = Vec::new();
    let (mut streams, mut connections, mut at_once, mut seconds, mut bytes) =
        (1, None, 1, 3, 1_000_000_000);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Help),
            Arg::Long("streams") => streams = parser.value()?.parse()?,
            Arg::Long("connections") => connections = Some(parser.value()?.parse()?),
            Arg::Long("at-once") => at_once = parser.value()?.parse()?,
            Arg::Long("seconds") => seconds = parser.value()?.parse()?,
            Arg::Long("bytes") => bytes = parser.value()?.parse()?,
            Arg::Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let [mode, address] = words.as_slice() else {
        return Err("expected a mode and an address".into());
    };
    let to: SocketAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is not IP:PORT"))?;
    Ok(match mode.as_str() {
        "serve" => Command::Serve { listen: to },
        "bulk" => Command::Bulk { to, streams, bytes },
        "round-trips" => Command::RoundTrips {
            to,
            connections: connections.unwrap_or(1),
            seconds,
        },
        "connects" => Command::Connects {
            to,
            at_once,
            seconds,
        },
        "idle" => Command::Idle {
            to,
            connections: connections.unwrap_or(1000),
        },
        other => return Err(format!("unknown mode {other:?}").into()),
    })
}
