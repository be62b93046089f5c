//! The calls that the safe libraries do not offer; the only unsafe code of this crate.
#![allow(unsafe_code)]

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use socket2::{MaybeUninitSlice, MsgHdrMut, SockAddr, SockRef};
use tokio::io::unix::AsyncFd;

/// Kernel's include/uapi/asm-generic/socket.h; libc does not have it on all targets.
const SO_NETNS_COOKIE: libc::c_int = 71;
/// `_IO(0xb7, 3)` of include/uapi/linux/nsfs.h.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// Sets a socket option whose value is an int.
pub(crate) fn set_int(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes from the address of `value`, which is an int of that size and lives until the call returns.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The cookie of the namespace that the socket was made in.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes to `cookie`, which has that size, and the written length to `size`; both outlive the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size) };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Packets that a packet socket had no room for since this was asked last.
pub(crate) fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // struct tpacket_stats of include/uapi/linux/if_packet.h: packets, drops.
    let mut statistics = [0_u32; 2];
    let mut size = libc::socklen_t::try_from(size_of_val(&statistics)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes to `statistics`, which has that size, and the written length to `size`; both outlive the
    // call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, statistics.as_mut_ptr().cast(), &raw mut size)
    };
    if result == 0 { Ok(statistics[1]) } else { Err(io::Error::last_os_error()) }
}

/// The user that connected. Asked for by ourselves, because a peer in another process-id namespace has process 0, which the safe libraries
/// cannot express: on a node daemon and engine are two pods.
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut size = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes to `peer`, which has that size, and the written length to `size`; both outlive the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut size) };
    if result == 0 { Ok(peer.uid) } else { Err(io::Error::last_os_error()) }
}

/// The CLONE_NEW* value of a namespace descriptor; ENOTTY for anything else.
pub(crate) fn namespace_type(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    // SAFETY: this request takes no argument and touches no memory of ours. A file that is not of nsfs may know the same number as a
    // request of its own, so the caller has checked the filesystem first.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// What one recvmsg brought.
pub(crate) struct Received {
    pub(crate) length: usize,
    pub(crate) control: usize,
    pub(crate) whole: bool,
    pub(crate) from: Option<SocketAddr>,
}

/// recvmsg with room for control messages.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], control: &mut [u8]) -> io::Result<Received> {
    let mut from = SockAddr::from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 0)));
    // SAFETY: both slices stay borrowed for the call, and only the kernel writes through them, which writes initialised bytes; so they are
    // as initialised afterwards as before.
    let (buffer, control) = unsafe {
        (
            &mut *(std::ptr::from_mut::<[u8]>(buffer) as *mut [MaybeUninit<u8>]),
            &mut *(std::ptr::from_mut::<[u8]>(control) as *mut [MaybeUninit<u8>]),
        )
    };
    let mut buffers = [MaybeUninitSlice::new(buffer)];
    let mut message = MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut buffers).with_control(control);
    let length = SockRef::from(&socket).recvmsg(&mut message, 0)?;
    let flags = message.flags();
    let control = message.control_len();
    let whole = !flags.is_truncated();
    Ok(Received { length, control, whole, from: from.as_socket() })
}

/// A duplicate of a descriptor that this process was started with. The original stays open and untouched.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the number is only duplicated, in the next line, which fails with EBADF when nothing is open there; nobody's descriptor is
    // closed, read or changed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}

/// Moves the calling thread into a network namespace of its own.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: NEWNET changes only which namespace later sockets of this thread belong to; it does not unshare memory or descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// A descriptor in the runtime's readiness set. The caller made it non-blocking.
pub(crate) fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `AsyncFd` owns the descriptor and hands out only shared references, so it is closed no sooner than it is deregistered,
    // and its number is the same at every call.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
