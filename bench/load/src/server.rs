//! The sink: a thread per connection, which is enough for the bench's hundreds of busy and thousands of idle connections.
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::cpu::{self, Cpu};
use crate::http;
use crate::socket;

/// 256 KiB per read: the application must not be what limits a bulk run.
const BULK_BUFFER: usize = 256 * 1024;
/// Threads only parse small messages; 64 KiB of stack keeps 10,000 idle connections cheap.
const STACK: usize = 64 * 1024 + BULK_BUFFER;

pub(crate) fn serve(listen: SocketAddr) -> io::Result<()> {
    let listener = socket::listen(listen)?;
    println!("listening on {}", listener.local_addr()?);
    accept(&listener)
}

pub(crate) fn accept(listener: &TcpListener) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        thread::Builder::new().stack_size(STACK).spawn(move || {
            if let Err(error) = answer(stream)
                && error.kind() != io::ErrorKind::UnexpectedEof
            {
                eprintln!("connection: {error}");
            }
        })?;
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut mode = [0_u8];
    stream.read_exact(&mut mode)?;
    match mode[0] {
        socket::BULK => sink(stream),
        socket::ECHO => echo(stream),
        socket::ECHO_APART => {
            cpu::pin(Cpu::Last)?;
            echo(stream)
        }
        socket::HTTP => http::answer(stream, socket::HTTP),
        other => Err(io::Error::other(format!("unknown mode {other}"))),
    }
}

/// Reads to the end, then answers with how many bytes came.
fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0_u8; BULK_BUFFER];
    let mut total = 0_u64;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => total += n as u64,
        }
    }
    stream.write_all(format!("{total}\n").as_bytes())
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}
