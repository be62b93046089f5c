//! One echo: what is sent has to come back unchanged. And the threads that do many.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::figures::Latencies;
use crate::socket;

pub(crate) fn open(to: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = socket::connect(to)?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

pub(crate) fn exchange<const N: usize>(stream: &mut TcpStream) -> io::Result<()> {
    let sent = [0x5a_u8; N];
    let mut got = [0_u8; N];
    stream.write_all(&sent)?;
    stream.read_exact(&mut got)?;
    if sent == got { Ok(()) } else { Err(io::Error::other("the echo differs from what was sent")) }
}

/// A connection that answered once: set up on all proxies of its way.
pub(crate) fn warm(to: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = open(to, mode)?;
    exchange::<100>(&mut stream)?;
    Ok(stream)
}

pub(crate) fn joined<T>(thread: thread::JoinHandle<io::Result<T>>) -> io::Result<T> {
    thread.join().map_err(|_| io::Error::other("a load thread panicked"))?
}

/// The latencies of all threads together.
pub(crate) fn collect(threads: Vec<thread::JoinHandle<io::Result<Latencies>>>) -> io::Result<Latencies> {
    let mut all = Latencies::new();
    for thread in threads {
        all.add(&joined(thread)?);
    }
    Ok(all)
}
