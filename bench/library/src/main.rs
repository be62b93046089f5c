//! The library path: HBONE as one writes it with tokio, tokio-rustls and h2, without anything of ours. `client` takes connections and
//! carries them as CONNECT streams in pooled tunnels, `server` ends the tunnels. What Trackbed's own codec and record layer save is the
//! difference to this.
#![forbid(unsafe_code)]

mod client;
mod copy;
mod server;
mod sockets;
mod tls;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// As many as Trackbed's engine starts by itself, each with its own listening socket and tunnels.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (role, listen, next, directory) = match &words[..] {
        [role, listen, next, directory] if role == "client" || role == "server" => (role.clone(), listen, next, directory.clone()),
        _ => {
            eprintln!("usage: trackbed-library client|server LISTEN NEXT CERTIFICATES\n\nCERTIFICATES holds ca.pem, cert.pem and key.pem");
            return ExitCode::from(64);
        }
    };
    let (Ok(listen), Ok(next)) = (listen.parse::<SocketAddr>(), next.parse::<SocketAddr>()) else {
        eprintln!("trackbed-library: {listen:?} and {next:?} must be IP:PORT");
        return ExitCode::from(64);
    };
    let count = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_THREADS));
    let threads: Vec<_> = (0..count)
        .map(|_| {
            let (role, directory) = (role.clone(), directory.clone());
            thread::spawn(move || -> Result<(), Failure> {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let local = LocalSet::new();
                local.block_on(&runtime, async {
                    if role == "client" { client::run(listen, next, &directory).await } else { server::run(listen, next, &directory).await }
                })
            })
        })
        .collect();
    for thread in threads {
        match thread.join() {
            Ok(Err(error)) => eprintln!("trackbed-library: {error}"),
            _ => eprintln!("trackbed-library: a thread ended"),
        }
    }
    ExitCode::FAILURE
}
