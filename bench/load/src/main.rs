//! Load generator and sink of the bench. One JSON line with figures per run, so that the runner only adds up and divides.
mod args;
mod bulk;
mod closed;
mod cpu;
mod crowd;
mod exchange;
mod figures;
mod http;
mod idle;
mod namespace;
mod requests;
mod server;
mod socket;

use std::process::ExitCode;

use args::Command;
use exchange::Echo;
use http::Http;

fn main() -> ExitCode {
    match args::parse().map_err(LoadError::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(LoadError::Usage(error)) => {
            eprintln!("trackbed-load: {error}\n\n{}", args::HELP);
            ExitCode::from(64)
        }
        Err(error) => {
            eprintln!("trackbed-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), LoadError> {
    let figures = match command {
        Command::Help => {
            println!("{}", args::HELP);
            return Ok(());
        }
        Command::Serve { listen } => return server::serve(listen).map_err(LoadError::from),
        Command::Hosts { listen } => return crowd::serve(listen).map_err(LoadError::from),
        Command::Crowd => return crowd::hold().map_err(LoadError::from),
        Command::Idle { to, connections } => {
            return idle::hold(to, connections).map_err(LoadError::from);
        }
        Command::Bulk { to, streams, until } => bulk::run(to, streams, until)?,
        Command::RoundTrips { to, connections, seconds } => closed::round_trips::<Echo<100>>(to, connections, seconds)?,
        Command::Http { to, rate: None, connections, seconds } => closed::round_trips::<Http>(to, connections as usize, seconds)?,
        Command::Http { to, rate: Some(rate), connections, seconds } => requests::run::<Http>(to, rate, connections, seconds)?,
        Command::Connects { to, at_once, until } => closed::connects(to, at_once, until)?,
        Command::Requests { to, rate, connections, seconds, beside_bulk: false } => {
            requests::run::<Echo<1000>>(to, rate, connections, seconds)?
        }
        Command::Requests { to, rate, connections, seconds, beside_bulk: true } => {
            let (mut requests, bulk) = requests::beside_bulk(to, rate, connections, seconds)?;
            requests.beside = Some(Box::new(bulk));
            requests
        }
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Usage(#[from] lexopt::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("figures: {0}")]
    Json(#[from] serde_json::Error),
}
