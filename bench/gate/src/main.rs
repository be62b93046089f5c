//! Does the same work each time it is run, so that callgrind counts the same instructions; `bench/gate.ts` counts only within `measured`.
#![forbid(unsafe_code)]

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
        Some("policy") => policy::run(),
        Some("decide") => decide::run(),
        _ => {
            eprintln!("usage: trackbed-gate record|policy|decide");
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
