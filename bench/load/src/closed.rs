//! Closed loops: the next exchange, or the next connection, begins when the last one ended.
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Until;
use crate::cpu::{self, Cpu};
use crate::exchange::{Exchange, collect, echo, open};
use crate::figures::{Figures, Latencies, Start};
use crate::socket;

const FIRST_MESSAGE: usize = 64;

/// One connection alone is kept on two CPUs, one at either end: where the scheduler joins them on one, an exchange takes a third of the time,
/// and which it does changes from run to run.
pub(crate) fn round_trips<E: Exchange>(to: SocketAddr, connections: usize, seconds: f64) -> io::Result<Figures> {
    let gate = Arc::new(Barrier::new(connections + 1));
    let alone = connections == 1;
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || -> io::Result<Latencies> {
                let connection = E::warm(to, alone);
                gate.wait();
                if alone {
                    cpu::pin(Cpu::First)?;
                }
                let (mut connection, end, mut times) = (connection?, Instant::now() + Duration::from_secs_f64(seconds), Latencies::new());
                loop {
                    let start = Instant::now();
                    if start >= end {
                        return Ok(times);
                    }
                    connection.exchange()?;
                    times.record_since(start);
                }
            })
        })
        .collect();
    gate.wait();
    let start = Start::now();
    let times = collect(threads)?;
    Ok(start.figures(times.count() * E::BYTES, times.count(), &times))
}

pub(crate) fn connects(to: SocketAddr, at_once: usize, until: Until) -> io::Result<Figures> {
    let start = Start::now();
    let left = Arc::new(AtomicU64::new(if let Until::Count(count) = until { count } else { u64::MAX }));
    let end = if let Until::Seconds(seconds) = until { Some(start.instant() + Duration::from_secs_f64(seconds)) } else { None };
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let left = Arc::clone(&left);
            thread::spawn(move || -> io::Result<Latencies> {
                let mut times = Latencies::new();
                let take = || left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
                while end.is_none_or(|end| Instant::now() < end) && take() {
                    let start = Instant::now();
                    echo::<FIRST_MESSAGE>(&mut open(to, socket::ECHO)?)?;
                    times.record_since(start);
                }
                Ok(times)
            })
        })
        .collect();
    let times = collect(threads)?;
    Ok(start.figures(times.count() * 2 * FIRST_MESSAGE as u64, times.count(), &times))
}
