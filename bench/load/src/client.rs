//! The client's four modes.
use std::io::{self, BufRead, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{cpu, socket};

const BULK_BUFFER: usize = 256 * 1024;
/// One latency bucket resolves 0.1 % up to a minute.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// A held connection that does not answer for this long counts as dead.
const SILENCE: Duration = Duration::from_secs(5);

/// Figures of one run. p50, p99 and max in microseconds, 0 for bulk, which has no round trips.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    seconds: f64,
    cpu_seconds: f64,
    bytes: u64,
    operations: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

pub(crate) fn bulk(to: SocketAddr, streams: usize, bytes: u64) -> io::Result<Figures> {
    let gate = Arc::new(Barrier::new(streams + 1));
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || -> io::Result<u64> {
                let stream = open(to, socket::BULK);
                gate.wait();
                send(stream?, bytes)
            })
        })
        .collect();
    gate.wait();
    let (start, cpu) = (Instant::now(), cpu::seconds());
    let mut arrived = 0;
    for thread in threads {
        arrived += joined(thread)?;
    }
    if arrived != bytes * streams as u64 {
        return Err(io::Error::other(format!(
            "{arrived} of {} bytes arrived",
            bytes * streams as u64
        )));
    }
    Ok(Figures::new(
        start,
        cpu,
        arrived,
        streams as u64,
        &histogram(),
    ))
}

fn send(mut stream: TcpStream, bytes: u64) -> io::Result<u64> {
    let buffer = vec![0x5a_u8; BULK_BUFFER];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(BULK_BUFFER as u64);
        #[allow(clippy::cast_possible_truncation)] // at most BULK_BUFFER
        stream.write_all(&buffer[..n as usize])?;
        left -= n;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let count = answer.split_whitespace().next().unwrap_or_default();
    count
        .parse()
        .map_err(|_| io::Error::other(format!("the sink answered {answer:?}")))
}

pub(crate) fn round_trips(to: SocketAddr, connections: usize, seconds: u64) -> io::Result<Figures> {
    let gate = Arc::new(Barrier::new(connections + 1));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || -> io::Result<Histogram<u64>> {
                let mut stream = open(to, socket::ECHO)
                    .and_then(|mut stream| exchange::<100>(&mut stream).map(|()| stream));
                gate.wait();
                let end = Instant::now() + Duration::from_secs(seconds);
                let mut times = histogram();
                let stream = stream
                    .as_mut()
                    .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
                loop {
                    let start = Instant::now();
                    if start >= end {
                        return Ok(times);
                    }
                    exchange::<100>(stream)?;
                    times.saturating_record(nanos(start));
                }
            })
        })
        .collect();
    gate.wait();
    collect(threads, 200)
}

pub(crate) fn connects(to: SocketAddr, at_once: usize, seconds: u64) -> io::Result<Figures> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            thread::spawn(move || -> io::Result<Histogram<u64>> {
                let mut times = histogram();
                while Instant::now() < end {
                    let start = Instant::now();
                    exchange::<64>(&mut open(to, socket::ECHO)?)?;
                    times.saturating_record(nanos(start));
                }
                Ok(times)
            })
        })
        .collect();
    collect(threads, 128)
}

/// Opens and holds connections and prints how many are open; each line on standard input asks for one echo on every one of them, and the
/// answer says how many still live. Ends with standard input.
pub(crate) fn idle(to: SocketAddr, connections: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = open(to, socket::ECHO)?;
        stream.set_read_timeout(Some(SILENCE))?;
        exchange::<100>(&mut stream)?;
        held.push(stream);
    }
    println!("{{\"open\":{}}}", held.len());
    for line in io::stdin().lock().lines() {
        line?;
        // A dead connection stays dead: what failed once is dropped and never counted again.
        held.retain_mut(|stream| exchange::<100>(stream).is_ok());
        println!("{{\"alive\":{}}}", held.len());
    }
    Ok(())
}

fn open(to: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = socket::connect(to)?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

fn exchange<const N: usize>(stream: &mut TcpStream) -> io::Result<()> {
    let sent = [0x5a_u8; N];
    let mut got = [0_u8; N];
    stream.write_all(&sent)?;
    stream.read_exact(&mut got)?;
    if sent == got {
        Ok(())
    } else {
        Err(io::Error::other("the echo differs from what was sent"))
    }
}

fn collect(
    threads: Vec<thread::JoinHandle<io::Result<Histogram<u64>>>>,
    bytes_each: u64,
) -> io::Result<Figures> {
    let (start, cpu) = (Instant::now(), cpu::seconds());
    let mut all = histogram();
    for thread in threads {
        all.add(joined(thread)?)
            .map_err(|error| io::Error::other(error.to_string()))?;
    }
    Ok(Figures::new(
        start,
        cpu,
        all.len() * bytes_each,
        all.len(),
        &all,
    ))
}

fn joined<T>(thread: thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread
        .join()
        .map_err(|_| io::Error::other("a load thread panicked"))?
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_NANOS, 3).expect("constant bounds are valid")
}

fn nanos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(LONGEST_NANOS)
}

impl Figures {
    #[allow(clippy::cast_precision_loss)] // nanoseconds of a bench run fit a float
    fn new(start: Instant, cpu: f64, bytes: u64, operations: u64, times: &Histogram<u64>) -> Self {
        let micros = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: cpu::seconds() - cpu,
            bytes,
            operations,
            p50: micros(0.5),
            p99: micros(0.99),
            max: times.max() as f64 / 1000.0,
        }
    }
}
