//! Every packet of one TCP port that a network namespace sends and gets, for a while: a packet socket whose filter leaves the rest to the kernel.
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, eth, recv, socket_with, sockopt};
use socket2::{SockFilter, SockRef};

use crate::{Netns, NetnsError, sys};

/// Room for what comes while a packet is looked at; a burst of a few hundred of the largest.
const BUFFER_BYTES: usize = 16 << 20;
/// Beyond what the kernel joins into one (BIG TCP: 512 KiB less a page).
const PACKET_BYTES: usize = 512 << 10;
/// How late its end may be.
const WAIT: Duration = Duration::from_millis(20);

// Of classic BPF: include/uapi/linux/bpf_common.h.
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF: u16 = 0x28;
const LOAD_HALF_AT: u16 = 0x48;
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

#[derive(Debug)]
pub struct Sniffer {
    socket: OwnedFd,
    buffer: Vec<u8>,
    lost: u64,
}

impl Sniffer {
    /// Needs CAP_NET_RAW.
    pub fn open(netns: &Netns, port: u16) -> Result<Self, NetnsError> {
        // Without their link header: packets begin with that of IP, whatever they came by.
        let open = || socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(eth::ALL));
        let inside = |step| move |source: io::Error| NetnsError::Inside { step, source };
        let socket = netns.enter(open)?.map_err(io::Error::from).map_err(inside("make a packet socket (which needs CAP_NET_RAW)"))?;
        // What came before the filter was there is looked at like the rest: whoever reads it knows the port too.
        SockRef::from(&socket).attach_filter(&filter(port)).map_err(inside("set its filter"))?;
        SockRef::from(&socket).set_read_timeout(Some(WAIT)).map_err(inside("set its timeout"))?;
        // Without the privilege for so much it is as large as it may be.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES);
        Ok(Self { socket, buffer: vec![0; PACKET_BYTES], lost: 0 })
    }

    /// Gives every packet to `take`, from its IP header on, until then.
    pub fn run(&mut self, until: Instant, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        while Instant::now() < until {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) if length > PACKET_BYTES => self.lost += 1,
                Ok((_, length)) => take(&self.buffer[..length]),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::NETDOWN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.lost += u64::from(sys::packet_drops(self.socket.as_fd())?);
        Ok(())
    }

    /// Packets that were not looked at because there was no room for them.
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

/// TCP over IPv4 (not a later fragment) or IPv6 from or to the port.
fn filter(port: u16) -> [SockFilter; 20] {
    let port = u32::from(port);
    let all = u32::MAX;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(IF_EQUAL, 0, 10, 0x40),
        SockFilter::new(LOAD_BYTE, 0, 0, 9),
        SockFilter::new(IF_EQUAL, 0, 14, 6),
        SockFilter::new(LOAD_HALF, 0, 0, 6),
        SockFilter::new(AND, 0, 0, 0x1fff),
        SockFilter::new(IF_EQUAL, 0, 11, 0),
        SockFilter::new(LOAD_HEADER_LENGTH, 0, 0, 0),
        SockFilter::new(LOAD_HALF_AT, 0, 0, 0),
        SockFilter::new(IF_EQUAL, 7, 0, port),
        SockFilter::new(LOAD_HALF_AT, 0, 0, 2),
        SockFilter::new(IF_EQUAL, 5, 6, port),
        // Not IPv4: what was loaded is still its first byte.
        SockFilter::new(IF_EQUAL, 0, 5, 0x60),
        SockFilter::new(LOAD_HALF, 0, 0, 40),
        SockFilter::new(IF_EQUAL, 2, 0, port),
        SockFilter::new(LOAD_HALF, 0, 0, 42),
        SockFilter::new(IF_EQUAL, 0, 1, port),
        SockFilter::new(RETURN, 0, 0, all),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
