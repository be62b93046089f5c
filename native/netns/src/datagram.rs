//! Captured DNS queries: which server a datagram was sent to, and answers that come from that server's address.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
};

use socket2::{MsgHdr, SockAddr, SockRef};

use crate::sys;

/// cmsghdr { size_t length; int level; int type } on a 64-bit kernel.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
/// Room for the one control message asked for, a sockaddr_in6, and some margin.
const CONTROL_BYTES: usize = 128;

/// One query as it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    pub length: usize,
    /// False: it was longer than the buffer and the rest is lost.
    pub whole: bool,
    pub client: SocketAddr,
    /// Where the client sent it, before capture.
    pub server: SocketAddr,
}

/// Takes one datagram from a socket of `listen_dns_udp`. `InvalidData`: it came without its original destination and cannot be answered.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = [0; CONTROL_BYTES];
    let received = sys::receive(socket.as_fd(), buffer, &mut control)?;
    let server = control_messages(control.get(..received.control).unwrap_or_default()).find_map(original_destination);
    match (received.from, server) {
        (Some(client), Some(server)) => Ok(Datagram { length: received.length, whole: received.whole, client, server }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without its original destination")),
    }
}

/// Sends an answer from `server`'s address; the pod's rules turn the port 15053 into 53. No socket per answer, and it works while the pod
/// itself holds port 53.
pub fn send_as(socket: &impl AsFd, answer: &[u8], client: SocketAddr, server: SocketAddr) -> io::Result<()> {
    let control = match server {
        SocketAddr::V4(server) => {
            // in_pktinfo { int ifindex; in_addr spec_dst; in_addr addr }: spec_dst is the source of what is sent.
            let mut info = [0; 12];
            put(&mut info, 4, &server.ip().octets());
            control_message(libc::SOL_IP, libc::IP_PKTINFO, &info)
        }
        SocketAddr::V6(server) => {
            // in6_pktinfo { in6_addr addr; int ifindex }: the interface only matters for link-local addresses.
            let mut info = [0; 20];
            put(&mut info, 0, &server.ip().octets());
            put(&mut info, 16, &server.scope_id().to_ne_bytes());
            control_message(libc::SOL_IPV6, libc::IPV6_PKTINFO, &info)
        }
    };
    let to = SockAddr::from(client);
    let buffers = [io::IoSlice::new(answer)];
    let message = MsgHdr::new().with_addr(&to).with_buffers(&buffers).with_control(&control);
    SockRef::from(socket).sendmsg(&message, 0).map(|_| ())
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (slot, byte) in bytes.iter_mut().skip(at).zip(value) {
        *slot = *byte;
    }
}

fn control_message(level: i32, kind: i32, value: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(size_of::<usize>()));
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&level.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
    bytes
}

fn control_messages(mut bytes: &[u8]) -> impl Iterator<Item = (i32, i32, &[u8])> {
    const INT: usize = size_of::<usize>();
    std::iter::from_fn(move || {
        let length = usize::from_ne_bytes(bytes.get(..INT)?.try_into().ok()?);
        let level = i32::from_ne_bytes(bytes.get(INT..INT + 4)?.try_into().ok()?);
        let kind = i32::from_ne_bytes(bytes.get(INT + 4..INT + 8)?.try_into().ok()?);
        let value = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(INT)..).unwrap_or_default();
        Some((level, kind, value))
    })
}

/// The value is a sockaddr: family in our byte order, port and address in the network's.
fn original_destination((level, kind, value): (i32, i32, &[u8])) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(value.get(2..4)?.try_into().ok()?);
    let ip = match (level, kind) {
        (libc::SOL_IP, libc::IP_RECVORIGDSTADDR) => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(value.get(4..8)?).ok()?)),
        (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR) => {
            let ip = Ipv6Addr::from(<[u8; 16]>::try_from(value.get(8..24)?).ok()?);
            let scope = u32::from_ne_bytes(value.get(24..28)?.try_into().ok()?);
            return Some(std::net::SocketAddrV6::new(ip, port, 0, scope).into());
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}
