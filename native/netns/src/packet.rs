//! Packets with descriptors between processes of this machine: SOCK_SEQPACKET and SCM_RIGHTS, bounded both ways.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// Descriptors in one packet. The kernel takes 253; 64 hold the listeners of 12 pods, and more go in further packets.
pub const MAX_FDS: usize = 64;
/// Room for one descriptor more than allowed, so that an extra one is seen and refused instead of being cut off by the kernel.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(65));

/// What one receive brought.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Sends one packet. WouldBlock when the socket is non-blocking and the peer's queue is full; nothing is sent then.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || bytes.is_empty() {
        // An empty packet reads like the end of the connection.
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a packet has 1 byte or more and at most 64 descriptors"));
    }
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for the descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one packet of at most `max_bytes` with at most `max_fds` descriptors; None at the end of the connection. A larger one is
/// `InvalidData` and everything that came with it is closed.
pub fn recv_with_fds(socket: impl AsFd, max_bytes: usize, max_fds: usize) -> io::Result<Option<Packet>> {
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    let mut bytes = vec![0; max_bytes];
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    // Collected before anything is judged: what is not collected is not closed.
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return refuse("a packet longer than its limit");
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > max_fds {
        return refuse("a packet with more descriptors than its limit");
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Packet { bytes, fds }))
}

/// One end of a packet connection on a tokio runtime.
#[derive(Debug)]
pub struct PacketSocket(AsyncFd<OwnedFd>);

impl PacketSocket {
    /// Takes a connected SOCK_SEQPACKET socket and makes it non-blocking. Needs a tokio runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self(sys::register(socket)?))
    }

    /// Cancel-safe: a cancelled send sent nothing.
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(result) = ready.try_io(|socket| send_with_fds(socket.get_ref(), bytes, fds)) {
                return result;
            }
        }
    }

    /// Cancel-safe. See `recv_with_fds`.
    pub async fn recv(&self, max_bytes: usize, max_fds: usize) -> io::Result<Option<Packet>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|socket| recv_with_fds(socket.get_ref(), max_bytes, max_fds)) {
                return result;
            }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

/// Two connected ends, blocking and close-on-exec: one for this process, one for a child (which gets it by inheritance).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}
