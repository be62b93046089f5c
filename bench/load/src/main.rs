//! Load generator and sink of the bench. One JSON line with figures per run, so that the runner only adds up and divides.
mod args;
mod client;
mod cpu;
mod server;
mod socket;

use std::process::ExitCode;

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

fn run(command: args::Command) -> Result<(), LoadError> {
    let figures = match command {
        args::Command::Help => {
            println!("{}", args::HELP);
            return Ok(());
        }
        args::Command::Serve { listen } => return server::serve(listen).map_err(LoadError::from),
        args::Command::Bulk { to, streams, bytes } => client::bulk(to, streams, bytes)?,
        args::Command::RoundTrips {
            to,
            connections,
            seconds,
        } => client::round_trips(to, connections, seconds)?,
        args::Command::Connects {
            to,
            at_once,
            seconds,
        } => client::connects(to, at_once, seconds)?,
        args::Command::Idle { to, connections } => {
            return client::idle(to, connections).map_err(LoadError::from);
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
