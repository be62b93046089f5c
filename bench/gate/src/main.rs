//! Does the same work each time it is run, so that callgrind counts the same instructions; `bench/gate.ts` counts only within `measured`.
#![forbid(unsafe_code)]
#![allow(clippy::cast_possible_truncation)] // of lengths that are constants here

mod connect;
mod data;
mod decide;
mod policy;
mod record;
mod wire;

use std::hint::black_box;
use std::process::ExitCode;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let run = match std::env::args().nth(1).as_deref() {
        Some("record") => record::run(),
        Some("send") => data::sending(),
        Some("receive") => data::receiving(),
        Some("connect") => connect::streams(),
        Some("hpack") => connect::blocks(),
        Some("policy") => policy::run(),
        Some("decide") => decide::run(),
        _ => {
            eprintln!("usage: trackbed-gate record|send|receive|connect|hpack|policy|decide");
            return ExitCode::from(64);
        }
    };
    match run {
        Ok(operations) => {
            println!("{operations}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("trackbed-gate: {error}");
            ExitCode::FAILURE
        }
    }
}

/// callgrind counts while this function runs. A name of its own in the program, hence never inlined.
#[inline(never)]
pub(crate) fn measured(work: &mut dyn FnMut()) {
    black_box(work)();
}
