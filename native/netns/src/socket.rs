//! Every kind of TCP and UDP socket the engine makes inside a pod's namespace, each with its options in one place.
//!
//! All are non-blocking and ready for tokio's `from_std`. Only their making happens inside the namespace (see `Netns::enter`).
//! IPv6 sockets are IPv6 only, so an IPv4 address is never seen IPv4-mapped.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use trackbed_contract::tables::marks;

use crate::{
    namespace::{Netns, NetnsError},
    sys,
};

/// Accept queue asked for; the kernel cuts it to net.core.somaxconn, 4096 by default. It has to hold what arrives while a worker restarts.
pub const BACKLOG: i32 = 4096;
/// A peer that died silently is found after 30 s + 3 probes 10 s apart = 60 s when the connection is idle ...
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub const KEEPALIVE_PROBES: u32 = 3;
/// ... and after the same 60 s when bytes wait for its acknowledgement.
pub const USER_TIMEOUT: Duration = Duration::from_mins(1);
/// A node's default (bbr) paces, and costs 20-40 % CPU over veth and loopback; the sysctl cannot be set inside a pod's namespace.
const CONGESTION_CONTROL: &[u8] = b"cubic";
const LOOPBACK: &[u8] = b"lo";

/// A socket of a pod's namespace could not be made; `source` keeps the errno (ECONNREFUSED, EADDRNOTAVAIL, EMFILE ...).
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} for {address}: {source}")]
pub struct SocketError {
    pub step: &'static str,
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Who is at the other end of a TCP connection: what can happen to them unseen decides its options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The pod's own application, over `lo`. The kernel tells when it dies, and it may stop reading for as long as it likes.
    Application,
    /// Anybody across the network. May stop reading too, so only silence of an idle connection ends it.
    Network,
    /// Another engine, which always reads: bytes that are not acknowledged mean that it is gone.
    Engine,
}

/// A TCP listener. Not marked: accepted sockets inherit a mark, and a marked answer to the app over `lo` would give the app's own
/// connection the connection mark of spoofed ones. They inherit no-delay, keepalive and congestion control too, which so cost nothing per
/// connection.
pub fn listen_tcp(netns: &Netns, address: SocketAddr, peer: Peer) -> Result<TcpListener, SocketError> {
    let socket = make(netns, address, Type::STREAM)?;
    steps(
        address,
        &[
            ("set SO_REUSEADDR", &|| socket.set_reuse_address(true)),
            ("set TCP options", &|| tune(&socket, peer)),
            ("bind the listener", &|| socket.bind(&address.into())),
            ("listen", &|| socket.listen(BACKLOG)),
        ],
    )?;
    Ok(socket.into())
}

/// The one DNS socket of a family: takes queries to any server (TPROXY), tells which (`datagram::receive`) and answers in that server's
/// name (`datagram::send_as`). Marked, so that the rules turn the port of its answers into 53.
pub fn listen_dns_udp(netns: &Netns, address: SocketAddr) -> Result<UdpSocket, SocketError> {
    let socket = make(netns, address, Type::DGRAM)?;
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR),
    };
    steps(
        address,
        &[
            ("set SO_REUSEADDR", &|| socket.set_reuse_address(true)),
            ("set IP_TRANSPARENT", &|| set_transparent(&socket, address)),
            ("set SO_MARK", &|| socket.set_mark(marks::ENGINE)),
            ("ask for original destinations", &|| sys::set_int(socket.as_fd(), level, option, 1)),
            ("bind the DNS socket", &|| socket.bind(&address.into())),
        ],
    )?;
    Ok(socket.into())
}

/// A TCP connection of the engine's own to anywhere: never captured. The handshake is under way; await it with `established`.
pub fn connect_marked(netns: &Netns, destination: SocketAddr, peer: Peer) -> Result<TcpStream, SocketError> {
    start(marked(netns, destination, peer)?, destination)
}

/// The same from one of the pod's own addresses: a pod may have several of a family, and its peers know them apart. An address of the
/// other family leaves the choice to the kernel.
pub fn connect_from(netns: &Netns, source: IpAddr, destination: SocketAddr, peer: Peer) -> Result<TcpStream, SocketError> {
    let socket = marked(netns, destination, peer)?;
    if source.is_ipv4() == destination.is_ipv4() {
        let own = SocketAddr::new(source, 0);
        steps(destination, &[("choose the port late", &|| bind_without_port(&socket)), ("bind the source", &|| socket.bind(&own.into()))])?;
    }
    start(socket, destination)
}

fn marked(netns: &Netns, destination: SocketAddr, peer: Peer) -> Result<Socket, SocketError> {
    let socket = make(netns, destination, Type::STREAM)?;
    let mark = || if netns.is_own() { Ok(()) } else { socket.set_mark(marks::ENGINE) };
    steps(destination, &[("set SO_MARK", &mark), ("set TCP options", &|| tune(&socket, peer))])?;
    Ok(socket)
}

/// A TCP connection to the pod's own application that shows the client's address as its source. The destination must be an address that
/// the namespace holds. The port is the kernel's choice, at connect: the client's own port would collide with the conntrack entry of a
/// captured plaintext connection.
///
/// Bound to `lo`, over which the application is reached anyway: only there are TIME_WAIT ports of spoofed sources used again (a range of
/// 4000 ports is otherwise full after 4000 connections a minute from one client). Two exceptions, both tried: a pod that calls itself
/// (IPv4 drops its own source as martian when the route was forced to `lo`), and IPv6 in a namespace without a rule
/// `fwmark 0x539/0xfff oif lo lookup 100`, where the bound socket has no route.
pub fn connect_spoofed(netns: &Netns, source: IpAddr, destination: SocketAddr) -> Result<TcpStream, SocketError> {
    let socket = make(netns, destination, Type::STREAM)?;
    let client = SocketAddr::new(source, 0);
    let device = (source != destination.ip()).then_some(LOOPBACK);
    steps(
        destination,
        &[
            ("set SO_MARK", &|| socket.set_mark(marks::ENGINE)),
            ("set TCP options", &|| tune(&socket, Peer::Application)),
            ("set IP_TRANSPARENT", &|| set_transparent(&socket, destination)),
            ("set IP_BIND_ADDRESS_NO_PORT", &|| bind_without_port(&socket)),
            ("bind to lo", &|| device.map_or(Ok(()), |lo| socket.bind_device(Some(lo)))),
            ("bind the client's address", &|| socket.bind(&client.into())),
        ],
    )?;
    match begin(&socket, destination) {
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) && destination.is_ipv6() => {
            steps(destination, &[("unbind from lo", &|| socket.bind_device(None))])?;
            start(socket, destination)
        }
        Err(source) => Err(SocketError { step: "connect", address: destination, source }),
        Ok(()) => Ok(socket.into()),
    }
}

/// A marked connection to the namespace's own application that shows the namespace's own address. Nothing ties it to `lo`, and unlike a
/// spoofed one it would get its answers from anywhere: an address that the namespace has lost meanwhile is refused, not dialled.
pub fn connect_own(netns: &Netns, destination: SocketAddr) -> Result<TcpStream, SocketError> {
    let fail = |source| SocketError { step: "find the address in the namespace", address: destination, source };
    if netns.holds(destination.ip()).map_err(|error| fail(enter_cause(error)))? {
        connect_marked(netns, destination, Peer::Application)
    } else {
        Err(fail(io::ErrorKind::AddrNotAvailable.into()))
    }
}

/// A TCP connection as the application itself would open it: captured when capture works. Only for the capture proof.
pub fn connect_unmarked(netns: &Netns, destination: SocketAddr) -> Result<TcpStream, SocketError> {
    start(make(netns, destination, Type::STREAM)?, destination)
}

/// A UDP socket of the engine's own that talks to one server only: never captured, other senders are dropped by the kernel.
pub fn connect_udp_marked(netns: &Netns, destination: SocketAddr) -> Result<UdpSocket, SocketError> {
    let socket = make(netns, destination, Type::DGRAM)?;
    steps(destination, &[("set SO_MARK", &|| socket.set_mark(marks::ENGINE)), ("connect", &|| socket.connect(&destination.into()))])?;
    Ok(socket.into())
}

/// Waits until a connection of this module is open. Bound it with a timeout; dropping it closes the socket. Needs a tokio runtime.
pub async fn established(stream: TcpStream) -> io::Result<tokio::net::TcpStream> {
    // Over `lo` the whole handshake ran inside `connect`: a socket that has a peer needs no wait for the next turn of the loop.
    let open = stream.peer_addr().is_ok();
    let stream = tokio::net::TcpStream::from_std(stream)?;
    if open {
        return Ok(stream);
    }
    stream.writable().await?;
    match stream.take_error()? {
        None => Ok(stream),
        Some(error) => Err(error),
    }
}

/// Where a redirected connection was going (SO_ORIGINAL_DST). A connection made straight to a listener shows the listener itself or fails
/// with ENOENT: refuse destinations that are our own ports, or the engine calls itself.
///
/// `client` is the address it was accepted from.
pub fn original_destination(socket: &impl AsFd, client: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(socket);
    let original = match client.ip().to_canonical() {
        IpAddr::V4(_) => socket.original_dst_v4(),
        IpAddr::V6(_) => socket.original_dst_v6(),
    }?;
    original.as_socket().map(canonical).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The same address, never IPv4-mapped.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Closes with RST. Not after our own shutdown of the sending side: the peer would read an orderly end.
pub fn reset(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// The options of every TCP connection. No buffer sizes: the kernel's own adapt.
fn tune(socket: &Socket, peer: Peer) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if peer != Peer::Application {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if peer == Peer::Engine {
        // It would also end a connection whose peer is alive but has not read for so long (tcp_probe_timer of the kernel).
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    }
    match socket.set_tcp_congestion(CONGESTION_CONTROL) {
        // A kernel without cubic keeps its default, which is correct, only slower; so does one where an unprivileged process may not choose it.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}

fn make(netns: &Netns, address: SocketAddr, kind: Type) -> Result<Socket, SocketError> {
    let fail = |step, source| SocketError { step, address, source };
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    // Close-on-exec and non-blocking come with the same call.
    let made = netns.enter(|| Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol)));
    let socket = match made {
        Ok(made) => made.map_err(|source| fail("make a socket", source))?,
        Err(error) => return Err(fail("enter the pod's network namespace", enter_cause(error))),
    };
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(|source| fail("set IPV6_V6ONLY", source))?;
    }
    Ok(socket)
}

fn enter_cause(error: NetnsError) -> io::Error {
    match error {
        NetnsError::Enter { source, .. } | NetnsError::Inside { source, .. } => source,
        NetnsError::NotANamespace => io::Error::other(error),
    }
}

/// The port is chosen at connect, where one that is in use towards others may be taken again. Level IP for both families.
fn bind_without_port(socket: &Socket) -> io::Result<()> {
    sys::set_int(socket.as_fd(), libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

fn set_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true),
        SocketAddr::V6(_) => socket.set_ip_transparent_v6(true),
    }
}

type Step<'a> = (&'static str, &'a dyn Fn() -> io::Result<()>);

/// Runs the steps in order; the first that fails is named in the error.
fn steps(address: SocketAddr, steps: &[Step<'_>]) -> Result<(), SocketError> {
    steps.iter().try_for_each(|(step, run)| run().map_err(|source| SocketError { step, address, source }))
}

fn start(socket: Socket, destination: SocketAddr) -> Result<TcpStream, SocketError> {
    begin(&socket, destination).map_err(|source| SocketError { step: "connect", address: destination, source })?;
    Ok(socket.into())
}

/// A connect that is under way is a success here.
fn begin(socket: &Socket, destination: SocketAddr) -> io::Result<()> {
    match socket.connect(&destination.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other,
    }
}
