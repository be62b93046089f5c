//! The bench's sockets: all alike, so that only what lies between them differs.
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

/// The first byte of a connection chooses what the server does with the rest.
pub(crate) const BULK: u8 = b'b';
pub(crate) const ECHO: u8 = b'e';
/// The same on the last CPU; the client is on the first.
pub(crate) const ECHO_APART: u8 = b'a';

/// The first letter of a request, which nobody says beforehand.
pub(crate) const HTTP: u8 = b'G';

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A fresh namespace inherits the host's algorithm; on hosts with bbr that costs 20-40 % CPU on local hops and hides the differences.
    socket.set_tcp_congestion(b"cubic")?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket(to)?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

pub(crate) fn listen(on: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(on)?;
    socket.set_reuse_address(true)?;
    socket.bind(&on.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
