//! Netlink as bytes: framing of messages and attributes, and the one dump this crate asks for. No decisions.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink as protocols, netlink::SocketAddrNetlink, recv,
    send, socket_with,
};

use crate::namespace::InterfaceAddress;

/// The kernel fills at most this much into one netlink datagram (NLMSG_GOODSIZE, and 32 KiB for dumps).
pub(crate) const DATAGRAM_BYTES: usize = 32 * 1024;
/// A dump is 1-2 datagrams for a pod; a namespace with more addresses than this many datagrams hold is not a pod's.
const DUMP_DATAGRAMS: usize = 256;

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const FLAGS_DUMP: u16 = 0x301;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const IFADDR_BYTES: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const TENTATIVE: u32 = 0x40;
const OPTIMISTIC: u32 = 0x04;
const DUPLICATE: u32 = 0x08;

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    /// Port of the socket whose request caused it; 0 when the kernel acted by itself.
    pub(crate) sender: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that is malformed.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(bytes, 0)?).ok()?;
        let message = Message { kind: half(bytes, 4)?, sender: word(bytes, 12)?, payload: bytes.get(HEADER_BYTES..length)? };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes after a message's fixed part.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A socket to the routing subsystem of the calling thread's namespace.
pub(crate) fn route_socket() -> io::Result<OwnedFd> {
    netlink_socket(None)
}

/// A socket to the netfilter subsystem of the calling thread's namespace.
pub(crate) fn netfilter_socket() -> io::Result<OwnedFd> {
    netlink_socket(Some(protocols::NETFILTER))
}

fn netlink_socket(protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    // Protocol 0, the default, is ROUTE.
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?)
}

/// Joins multicast groups given as a mask (bit n - 1 is group n).
pub(crate) fn join(socket: &OwnedFd, groups: u32) -> io::Result<()> {
    Ok(bind(socket, &SocketAddrNetlink::new(0, groups))?)
}

/// All addresses of the namespace of a `route_socket`. The kernel answers a dump within the calls, so nothing waits.
pub(crate) fn addresses(socket: &OwnedFd) -> io::Result<Vec<InterfaceAddress>> {
    let mut request = Vec::with_capacity(HEADER_BYTES + IFADDR_BYTES);
    request.extend_from_slice(&24_u32.to_ne_bytes());
    request.extend_from_slice(&GET_ADDRESS.to_ne_bytes());
    request.extend_from_slice(&FLAGS_DUMP.to_ne_bytes());
    request.resize(HEADER_BYTES + IFADDR_BYTES, 0);
    send(socket.as_fd(), &request, SendFlags::empty())?;

    let mut found = Vec::new();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    for _ in 0..DUMP_DATAGRAMS {
        let (length, _) = recv(socket.as_fd(), buffer.as_mut_slice(), RecvFlags::empty())?;
        for message in messages(buffer.get(..length).unwrap_or_default()) {
            match message.kind {
                NEW_ADDRESS => found.extend(address(message.payload)),
                DONE => return Ok(found),
                ERROR => {
                    let errno = word(message.payload, 0).map_or(libc::EPROTO, |code| code.cast_signed().saturating_neg());
                    return Err(io::Error::from_raw_os_error(errno));
                }
                _ => {}
            }
        }
    }
    Err(io::Error::other("the namespace has more addresses than a pod can have"))
}

/// struct ifaddrmsg { u8 family, prefixlen, flags, scope; u32 index } and attributes.
fn address(payload: &[u8]) -> Option<InterfaceAddress> {
    let (prefix, short_flags, interface) = (*payload.get(1)?, *payload.get(2)?, word(payload, 4)?);
    let mut flags = u32::from(short_flags);
    let (mut local, mut any) = (None, None);
    for (kind, value) in attributes(payload.get(IFADDR_BYTES..)?) {
        match kind {
            // On a point-to-point interface ADDRESS is the peer's and LOCAL is ours.
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => any = ip(value),
            IFA_FLAGS => flags = word(value, 0)?,
            _ => {}
        }
    }
    let refused = flags & DUPLICATE != 0 || (flags & TENTATIVE != 0 && flags & OPTIMISTIC == 0);
    Some(InterfaceAddress { address: local.or(any)?, prefix, interface, usable: !refused })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_end_and_a_cut_message_is_not_given() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..20_000 {
            let length = random.usize(0..80);
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            // Small lengths, so that parsing gets somewhere.
            for at in [1, 2, 3, 17, 21] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 0;
                }
            }
            for message in messages(&bytes) {
                assert!(attributes(message.payload).map(|(_, value)| value.len()).sum::<usize>() <= bytes.len());
                let _ = address(message.payload);
            }
        }
        let whole = [24, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let first = messages(&whole).next().expect("whole");
        assert_eq!((first.kind, first.sender, first.payload.len()), (20, 7, 8));
        assert!(messages(&whole[..23]).next().is_none());
    }
}
