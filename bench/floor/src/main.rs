//! The floor: what two hops through user space cost at least, with no TLS, no multiplexing, no policy and no record of anything.
//!
//! One thread per CPU, each with its own listening socket and epoll instance. A direction is one recv into the thread's buffer and one send
//! out of it; only what the socket does not take is kept.
#![forbid(unsafe_code)]

mod relay;
mod sockets;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;

/// As many as Trackbed's engine starts by itself.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    let addresses: Vec<SocketAddr> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [listen, next] = addresses[..] else {
        eprintln!("usage: trackbed-floor LISTEN NEXT");
        return ExitCode::from(64);
    };
    let count = thread::available_parallelism().map_or(1, |cpus| cpus.get().min(MOST_THREADS));
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(move || relay::run(listen, next))).collect();
    for thread in threads {
        match thread.join() {
            Ok(Err(error)) => eprintln!("trackbed-floor: {error}"),
            _ => eprintln!("trackbed-floor: a thread ended"),
        }
    }
    ExitCode::FAILURE
}
