//! The relay's sockets: non-blocking, cubic, no delay.
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_congestion(b"cubic")?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// One of several on the same port: the kernel spreads connections over them. Accepted sockets inherit its options.
pub(crate) fn listen(on: SocketAddr) -> io::Result<Socket> {
    let socket = socket(on)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&on.into())?;
    socket.listen(4096)?;
    Ok(socket)
}

/// Begins to connect; readiness to write tells that it is done.
pub(crate) fn dial(to: SocketAddr) -> io::Result<Socket> {
    let socket = socket(to)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket),
    }
}
