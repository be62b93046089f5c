//! The proxy's sockets: cubic and no delay, like every other of the bench.
use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// One of several on the same port: the kernel spreads connections over them. Accepted sockets inherit its options.
pub(crate) fn listen(on: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(on), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_congestion(b"cubic")?;
    socket.set_tcp_nodelay(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&on.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

pub(crate) async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    SockRef::from(&socket).set_tcp_congestion(b"cubic")?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}
