//! Notices that somebody changed the rules, routes, links or addresses of a pod's namespace.
//!
//! iptables-legacy and sysctl changes make no notice: the director sweeps for those.

use std::{
    collections::VecDeque,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};
use tokio::io::unix::AsyncFd;
use trackbed_contract::engine::DriftKind;

use crate::{
    namespace::{Netns, NetnsError},
    netlink, sys,
};

/// NFNLGRP_NFTABLES = 7.
const RULE_GROUPS: u32 = 1 << (7 - 1);
/// RTNLGRP: LINK 1, IPV4_IFADDR 5, IPV4_ROUTE 7, IPV4_RULE 8, IPV6_IFADDR 9, IPV6_ROUTE 11, IPV6_RULE 19.
const ROUTE_GROUPS: u32 = group(1) | group(5) | group(7) | group(8) | group(9) | group(11) | group(19);
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN: the last message of each transaction, with the process that made it.
const NEW_GENERATION: u16 = (10 << 8) | 15;
const NFGENMSG_BYTES: usize = 4;
const GENERATION_PID: u16 = 2;
const GENERATION_PROCESS: u16 = 3;
/// TASK_COMM_LEN: the kernel never tells more of a process name, so neither do we.
const PROCESS_BYTES: usize = 16;
/// Differing notices kept from one datagram; a caller that is further behind gets Overflow, which means "re-read everything" anyway.
const PENDING: usize = 64;
/// /proc/self/ns/pid of the initial process namespace (PROC_PID_INIT_INO).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// The nftables ruleset changed.
    Rules,
    /// A routing rule, route, link or address changed.
    Routing,
    /// Notices were lost: re-read everything.
    Overflow,
}

impl From<NoticeKind> for DriftKind {
    fn from(kind: NoticeKind) -> Self {
        match kind {
            NoticeKind::Rules => DriftKind::Rules,
            NoticeKind::Routing => DriftKind::Routing,
            NoticeKind::Overflow => DriftKind::Overflow,
        }
    }
}

/// One change. Merging several into one report is the caller's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    /// Process that made the change, 0 when unknown. Best effort: a process of another pid namespace counts by its own number.
    pub pid: u32,
    /// Its name, empty when unknown. For routing it is only known while the process still runs.
    pub process: String,
}

/// The subscriptions of one namespace. Holding them keeps the namespace alive.
#[derive(Debug)]
pub struct Watch {
    rules: AsyncFd<OwnedFd>,
    routing: AsyncFd<OwnedFd>,
    /// Device and inode of the namespace: a name from /proc counts only for a process that is inside.
    namespace: Identity,
    pending: VecDeque<Notice>,
}

impl Watch {
    /// Subscribes. Needs a tokio runtime. Changes made after this returns are noticed.
    pub fn new(netns: &Netns) -> Result<Self, NetnsError> {
        let inside = |source| NetnsError::Inside { step: "subscribe to changes", source };
        let (rules, routing) = netns.enter(|| (netlink::netfilter_socket(), netlink::route_socket()))?;
        let (rules, routing) = (rules.map_err(inside)?, routing.map_err(inside)?);
        netlink::join(&rules, RULE_GROUPS).map_err(inside)?;
        netlink::join(&routing, ROUTE_GROUPS).map_err(inside)?;
        let stat = rustix::fs::fstat(netns.as_fd()).map_err(|error| inside(error.into()))?;
        Ok(Self {
            rules: sys::register(rules).map_err(inside)?,
            routing: sys::register(routing).map_err(inside)?,
            namespace: (stat.st_dev, stat.st_ino),
            pending: VecDeque::new(),
        })
    }

    /// The next change. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Notice> {
        loop {
            if let Some(notice) = self.pending.pop_front() {
                return Ok(notice);
            }
            let (mut guard, parse): (_, Parse) = tokio::select! {
                guard = self.rules.readable() => (guard?, rule_notices),
                guard = self.routing.readable() => (guard?, routing_notices),
            };
            match guard.try_io(|socket| read(socket.get_ref(), |bytes| parse(bytes, self.namespace))) {
                Ok(notices) => notices?.into_iter().for_each(|notice| queue(&mut self.pending, notice)),
                Err(_would_block) => {}
            }
        }
    }
}

/// Device and inode of a namespace, as stat tells them.
type Identity = (u64, u64);
type Parse = fn(&[u8], Identity) -> Vec<Notice>;

const fn group(number: u32) -> u32 {
    1 << (number - 1)
}

/// One datagram as notices. What the kernel could not deliver, or we could not take whole, is an overflow.
fn read(socket: &OwnedFd, parse: impl FnOnce(&[u8]) -> Vec<Notice>) -> io::Result<Vec<Notice>> {
    let overflow = || vec![Notice { kind: NoticeKind::Overflow, pid: 0, process: String::new() }];
    let mut buffer = vec![0; netlink::DATAGRAM_BYTES];
    match recv(socket.as_fd(), buffer.as_mut_slice(), RecvFlags::TRUNC) {
        Ok((_, length)) if length > buffer.len() => Ok(overflow()),
        Ok((_, length)) => Ok(parse(buffer.get(..length).unwrap_or_default())),
        Err(Errno::NOBUFS) => Ok(overflow()),
        Err(error) => Err(error.into()),
    }
}

fn queue(pending: &mut VecDeque<Notice>, notice: Notice) {
    if pending.contains(&notice) {
        return;
    }
    if pending.len() < PENDING {
        pending.push_back(notice);
    } else {
        pending.clear();
        pending.push_back(Notice { kind: NoticeKind::Overflow, pid: 0, process: String::new() });
    }
}

/// One notice per nftables transaction.
fn rule_notices(bytes: &[u8], _namespace: Identity) -> Vec<Notice> {
    let generations = netlink::messages(bytes).filter(|message| message.kind == NEW_GENERATION);
    generations
        .map(|message| {
            let mut notice = Notice { kind: NoticeKind::Rules, pid: message.sender, process: String::new() };
            for (kind, value) in netlink::attributes(message.payload.get(NFGENMSG_BYTES..).unwrap_or_default()) {
                match kind {
                    // The kernel counts it in the initial pid namespace; elsewhere the sender's port is the better guess.
                    GENERATION_PID if sees_all_processes() => {
                        notice.pid = value.try_into().map_or(0, u32::from_be_bytes);
                    }
                    GENERATION_PROCESS => notice.process = name(value),
                    _ => {}
                }
            }
            notice
        })
        .collect()
}

fn routing_notices(bytes: &[u8], namespace: Identity) -> Vec<Notice> {
    netlink::messages(bytes)
        .map(|message| {
            let (pid, process) = changer(message.sender, namespace);
            Notice { kind: NoticeKind::Routing, pid, process }
        })
        .collect()
}

/// A netlink port is its process's number, unless the process has several such sockets or lives in another pid namespace.
fn changer(port: u32, namespace: Identity) -> (u32, String) {
    if port == 0 || i32::try_from(port).is_err() {
        return (0, String::new());
    }
    match fs::metadata(format!("/proc/{port}/ns/net")) {
        Ok(inside) if (inside.dev(), inside.ino()) == namespace => {
            (port, fs::read(format!("/proc/{port}/comm")).map_or_else(|_| String::new(), |comm| name(&comm)))
        }
        // Somebody else has that number.
        Ok(_) => (0, String::new()),
        // Already gone.
        Err(_) => (port, String::new()),
    }
}

fn sees_all_processes() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL_PID_NAMESPACE)
}

/// A process name as the kernel tells it, without the end mark and anything a terminal would act on.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0 || *byte == b'\n').unwrap_or(bytes.len());
    let visible = bytes.get(..end.min(PROCESS_BYTES)).unwrap_or_default();
    String::from_utf8_lossy(visible).chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}
