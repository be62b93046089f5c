//! One question and its answer over an open connection, as each kind of load asks it. And the threads that ask many.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use crate::figures::Latencies;
use crate::socket;

/// A connection on which one exchange after another is timed.
pub(crate) trait Exchange: Sized + Send + 'static {
    /// Payload of one exchange, both ways.
    const BYTES: u64;

    /// A connection that answered once: set up on all proxies of its way. `apart`: its server keeps to the last CPU, where it can.
    fn warm(to: SocketAddr, apart: bool) -> io::Result<Self>;

    fn exchange(&mut self) -> io::Result<()>;
}

/// N bytes that have to come back unchanged.
#[derive(Debug)]
pub(crate) struct Echo<const N: usize>(TcpStream);

impl<const N: usize> Exchange for Echo<N> {
    const BYTES: u64 = 2 * N as u64;

    fn warm(to: SocketAddr, apart: bool) -> io::Result<Self> {
        let mut stream = open(to, if apart { socket::ECHO_APART } else { socket::ECHO })?;
        echo::<100>(&mut stream)?;
        Ok(Self(stream))
    }

    fn exchange(&mut self) -> io::Result<()> {
        echo::<N>(&mut self.0)
    }
}

pub(crate) fn open(to: SocketAddr, mode: u8) -> io::Result<TcpStream> {
    let mut stream = socket::connect(to)?;
    stream.write_all(&[mode])?;
    Ok(stream)
}

pub(crate) fn echo<const N: usize>(stream: &mut TcpStream) -> io::Result<()> {
    let sent = [0x5a_u8; N];
    let mut got = [0_u8; N];
    stream.write_all(&sent)?;
    stream.read_exact(&mut got)?;
    if sent == got { Ok(()) } else { Err(io::Error::other("the echo differs from what was sent")) }
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
