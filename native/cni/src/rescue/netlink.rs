//! The three deletions in the kernel's own words, for a node that may have neither nft nor ip.
use std::{io, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink as protocols, recv, send, socket_with},
};

use crate::tables::marks;

/// include/uapi/linux/netlink.h, nfnetlink.h, nf_tables.h, rtnetlink.h and fib_rules.h.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTABLES: u16 = 10;
const DELETE_TABLE: u16 = (NFTABLES << 8) | 2;
const TABLE_NAME: u16 = 1;
const INET: u8 = 1;
const DELETE_ROUTE: u16 = 25;
const DELETE_RULE: u16 = 33;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const ROUTE_TABLE: u16 = 15;
const LOCAL: u8 = 2;
const SCOPE_ANY: u8 = 255;

const SEQUENCE: u32 = 1;
/// A rule may stand there more than once; more often than this is somebody else's doing.
const REPEATS: usize = 16;

#[derive(Debug, Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Family::V4 => 2,
            Family::V6 => 10,
        }
    }
}

/// True when the table was there. It goes with everything in it, in one transaction.
pub(super) fn delete_table(name: &str) -> io::Result<bool> {
    // A kernel without nf_tables holds no table of ours.
    let socket = match socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocols::NETFILTER)) {
        Err(Errno::PROTONOSUPPORT) => return Ok(false),
        socket => socket?,
    };
    let mut terminated = name.as_bytes().to_vec();
    terminated.push(0);
    let batch = |kind| message(kind, REQUEST, &netfilter(0, NFTABLES), &[]);
    let delete = message(DELETE_TABLE, REQUEST | ACK, &netfilter(INET, 0), &attribute(TABLE_NAME, &terminated));
    ask(&socket, &[batch(BATCH_BEGIN), delete, batch(BATCH_END)].concat())
}

/// True when such a rule was there.
pub(super) fn delete_rules(family: Family, mark: u32) -> io::Result<bool> {
    let header = [family.number(), 0, 0, 0, table(), 0, 0, 0, 0, 0, 0, 0];
    let attributes =
        [(RULE_PRIORITY, marks::RULE_PREFERENCE), (RULE_TABLE, marks::ROUTE_TABLE), (RULE_MARK, mark), (RULE_MASK, marks::MASK)];
    let attributes: Vec<u8> = attributes.iter().flat_map(|(kind, value)| attribute(*kind, &value.to_ne_bytes())).collect();
    repeat(&message(DELETE_RULE, REQUEST | ACK, &header, &attributes))
}

/// True when our routing table held the route to loopback.
pub(super) fn delete_routes(family: Family) -> io::Result<bool> {
    let header = [family.number(), 0, 0, 0, table(), 0, SCOPE_ANY, LOCAL, 0, 0, 0, 0];
    let request = message(DELETE_ROUTE, REQUEST | ACK, &header, &attribute(ROUTE_TABLE, &marks::ROUTE_TABLE.to_ne_bytes()));
    repeat(&request)
}

/// The short form of the table's number, where it has one; the attribute counts.
fn table() -> u8 {
    u8::try_from(marks::ROUTE_TABLE).unwrap_or(0)
}

fn repeat(request: &[u8]) -> io::Result<bool> {
    // A kernel without the family has none of its rules.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    for done in 0..REPEATS {
        match ask(&socket, request) {
            Ok(true) => {}
            Ok(false) => return Ok(done > 0),
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => return Ok(done > 0),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("the kernel deleted it {REPEATS} times and it is still there")))
}

/// What the kernel says of something that is not there: which of them depends on whether anything else is in its place.
const ABSENT: [Errno; 2] = [Errno::NOENT, Errno::SRCH];

/// Sends and waits for the acknowledgement: false when it was not there.
fn ask(socket: &OwnedFd, request: &[u8]) -> io::Result<bool> {
    send(socket, request, SendFlags::empty())?;
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    loop {
        let ((answer, _), _) = recv(socket, &mut buffer, RecvFlags::empty())?;
        let half = |at: usize| answer.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
        let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
        if half(4) != Some(ERROR) {
            continue;
        }
        return match word(16) {
            Some(0) => Ok(true),
            Some(code) if ABSENT.contains(&Errno::from_raw_os_error(-code)) => Ok(false),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::ErrorKind::InvalidData.into()),
        };
    }
}

/// struct nfgenmsg { u8 family, version; be16 resource }
fn netfilter(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(kind: u16, flags: u16, header: &[u8], attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + header.len() + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&SEQUENCE.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(header);
    bytes.extend_from_slice(attributes);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
