//! Open loop: requests are due by a fixed schedule and timed from when they were due, so that a stall counts for every request it delayed
//! (no coordinated omission).
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Until;
use crate::bulk;
use crate::exchange::{Echo, Exchange, collect, joined, open};
use crate::figures::{Figures, Latencies, Start};
use crate::socket;

/// The bulk stream runs this much longer at either end, so that no request is without it.
const MARGIN: f64 = 0.1;

pub(crate) fn run<E: Exchange>(to: SocketAddr, rate: u32, connections: u32, seconds: f64) -> io::Result<Figures> {
    let gate = Arc::new(Barrier::new(connections as usize + 1));
    let interval = Duration::from_secs(1) / rate;
    let threads: Vec<_> = (0..connections)
        .map(|index| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || -> io::Result<Latencies> {
                let connection = E::warm(to, false);
                // The default of 50 µs would be as long as what is measured.
                rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
                gate.wait();
                let (mut connection, mut times) = (connection?, Latencies::new());
                let start = Instant::now();
                let (mut due, end) = (start + interval * index, start + Duration::from_secs_f64(seconds));
                while due < end {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    connection.exchange()?;
                    times.record_since(due);
                    due += interval * connections;
                }
                Ok(times)
            })
        })
        .collect();
    gate.wait();
    let start = Start::now();
    let times = collect(threads)?;
    Ok(start.figures(times.count() * E::BYTES, times.count(), &times))
}

/// The same beside one bulk stream of the same two pods: figures of the requests, and of the bulk.
pub(crate) fn beside_bulk(to: SocketAddr, rate: u32, connections: u32, seconds: f64) -> io::Result<(Figures, Figures)> {
    let stream = open(to, socket::BULK)?;
    let bulk = thread::spawn(move || -> io::Result<Figures> {
        let start = Start::now();
        let bytes = bulk::send(stream, Until::Seconds(seconds + 2.0 * MARGIN))?;
        Ok(start.figures(bytes, 1, &Latencies::new()))
    });
    thread::sleep(Duration::from_secs_f64(MARGIN));
    let requests = run::<Echo<1000>>(to, rate, connections, seconds)?;
    Ok((requests, joined(bulk)?))
}
