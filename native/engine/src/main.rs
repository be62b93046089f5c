//! The process that moves the bytes of a node's pods, a keeper and the worker that it starts from this same program; or those of a waypoint.
mod blob;
mod cli;
mod clock;
mod contract;
mod control;
mod data;
mod director;
mod eval;
mod keeper;
mod log;
mod report;
mod routes;
mod sys;
mod trust;
mod waypoint;
mod worker;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return error.exit(),
    };
    let result = match command {
        Command::Help => {
            print!("{}", cli::HELP);
            Ok(())
        }
        Command::Version => {
            println!("trackbed-engine {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        Command::Keeper(options) => keeper::build(options).and_then(keeper::Keeper::run),
        Command::Worker(options, descent) => worker::build(options, descent).and_then(worker::Worker::run),
        Command::Eval => eval::run().map_err(std::io::Error::other),
        Command::Waypoint(options) => waypoint::build(*options).and_then(waypoint::Waypoint::run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trackbed-engine: {error}");
            ExitCode::FAILURE
        }
    }
}
