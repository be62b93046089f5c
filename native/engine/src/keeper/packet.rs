//! One packet between keeper and worker: a verb, a key, at most one descriptor.
//!
//! The socket is a SOCK_SEQPACKET pair, so packets are whole and in order. Keys are paths such as `pod/<uid>/netns`; what a descriptor holds
//! is the worker's affair.
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Longest key: a prefix, a pod uid (253 in Kubernetes' widest object name) or an identity, and a part name.
pub(crate) const KEY_BYTES: usize = 1024;

#[derive(Debug)]
pub(crate) enum Packet {
    /// Hold this descriptor under this key; it takes the place of an earlier one.
    Put(String, OwnedFd),
    /// Its descriptor did not arrive: this process has reached its descriptor limit.
    Lost(String),
    /// Let go of every key that starts with this text.
    Drop(String),
    /// Keeper to worker: nothing more is held for you.
    End,
    /// Keeper to worker: finish what is open within the grace period and end.
    Stop,
}

pub(crate) fn put(socket: impl AsFd, key: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    send(socket, b'P', key, Some(descriptor))
}

pub(crate) fn drop_prefix(socket: impl AsFd, prefix: &str) -> io::Result<()> {
    send(socket, b'D', prefix, None)
}

pub(crate) fn end(socket: impl AsFd) -> io::Result<()> {
    send(socket, b'E', "", None)
}

pub(crate) fn stop(socket: impl AsFd) -> io::Result<()> {
    send(socket, b'S', "", None)
}

fn send(socket: impl AsFd, verb: u8, key: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    if key.len() > KEY_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("key of {} bytes, at most {KEY_BYTES}", key.len())));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("no room for one descriptor"));
    }
    let parts = [IoSlice::new(std::slice::from_ref(&verb)), IoSlice::new(key.as_bytes())];
    rustix::io::retry_on_intr(|| sendmsg(&socket, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for the next packet. `None` = the other side has closed.
pub(crate) fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Packet>> {
    let mut bytes = [0u8; 1 + KEY_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = rustix::io::retry_on_intr(|| {
        recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)
    })?;
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let Some((verb, key)) = bytes[..message.bytes].split_first() else { return Ok(None) };
    let key = String::from_utf8(key.to_vec()).map_err(|_| malformed("key is not UTF-8"))?;
    match (verb, descriptor) {
        (b'P', Some(descriptor)) => Ok(Some(Packet::Put(key, descriptor))),
        (b'P', None) => Ok(Some(Packet::Lost(key))),
        (b'D', None) => Ok(Some(Packet::Drop(key))),
        (b'E', None) => Ok(Some(Packet::End)),
        (b'S', None) => Ok(Some(Packet::Stop)),
        _ => Err(malformed("unknown verb")),
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
