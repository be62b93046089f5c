//! Bulk: as many bytes as the way takes, on one or more connections; the sink says how many arrived.
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Until;
use crate::exchange::{joined, open};
use crate::figures::{Figures, Latencies, Start};
use crate::socket;

const BUFFER: usize = 256 * 1024;

pub(crate) fn run(to: SocketAddr, streams: usize, until: Until) -> io::Result<Figures> {
    let gate = Arc::new(Barrier::new(streams + 1));
    let threads: Vec<_> = (0..streams)
        .map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || -> io::Result<u64> {
                let stream = open(to, socket::BULK);
                gate.wait();
                send(stream?, until)
            })
        })
        .collect();
    gate.wait();
    let start = Start::now();
    let mut arrived = 0;
    for thread in threads {
        arrived += joined(thread)?;
    }
    Ok(start.figures(arrived, streams as u64, &Latencies::new()))
}

/// Sends until the end, then closes its half and reads the count; another count than what was sent is an error.
pub(crate) fn send(mut stream: TcpStream, until: Until) -> io::Result<u64> {
    let buffer = vec![0x5a_u8; BUFFER];
    let (most, end) = match until {
        Until::Count(bytes) => (bytes, None),
        Until::Seconds(seconds) => (u64::MAX, Some(Instant::now() + Duration::from_secs_f64(seconds))),
    };
    let mut sent = 0;
    while sent < most && end.is_none_or(|end| Instant::now() < end) {
        let n = (most - sent).min(BUFFER as u64);
        #[allow(clippy::cast_possible_truncation)] // at most BUFFER
        stream.write_all(&buffer[..n as usize])?;
        sent += n;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.trim().parse() {
        Ok(arrived) if arrived == sent => Ok(arrived),
        Ok(arrived) => Err(io::Error::other(format!("{arrived} of {sent} bytes arrived"))),
        Err(_) => Err(io::Error::other(format!("the sink answered {answer:?}"))),
    }
}
