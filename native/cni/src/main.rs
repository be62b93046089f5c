//! `trackbed-cni`: parse → ask → answer. A runtime starts it with CNI_COMMAND in the environment; people start it as `trackbed-cni rescue`.

use std::{
    io::{Read, Write},
    process::ExitCode,
};

mod answer;
mod ask;
mod call;
mod config;
mod decision;
mod rescue;
/// The tables alone: the rest of the contract crate brings gRPC along, which a static plugin has no use for.
#[path = "../../contract/src/tables.rs"]
#[allow(dead_code, unreachable_pub, reason = "generated for every program")]
mod tables;
mod verb;

/// A configuration with the results of all plugins before us; a runtime that writes more is broken.
const STDIN_BYTES: u64 = 4 * 1024 * 1024;

fn main() -> ExitCode {
    match std::env::var_os("CNI_COMMAND") {
        Some(command) => plugin(&command.to_string_lossy()),
        None => rescue::main(std::env::args_os().skip(1)),
    }
}

fn plugin(command: &str) -> ExitCode {
    let mut input = Vec::new();
    // VERSION needs no input; what is missing is told by the parser.
    let read = std::io::stdin().take(STDIN_BYTES).read_to_end(&mut input);
    let answer = match read {
        Ok(_) => verb::run(command, &input, |name| std::env::var(name).ok()),
        Err(error) => answer::Answer::from_failure(config::version_of(&input), &answer::Failure::io(format!("cannot read stdin: {error}"))),
    };
    // A runtime that closed its end learns of the outcome by the exit status.
    let _ = std::io::stdout().write_all(answer.text.as_bytes());
    if answer.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
