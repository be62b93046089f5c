//! The two questions to a TCP socket that tokio and socket2 do not ask: its state, and what it has not delivered yet.
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd};

/// `TCP_CLOSE` of the kernel's `tcp_states.h`, part of its stable interface.
const TCP_CLOSE: u8 = 7;

/// State CLOSE: after a reset, or after an orderly end both ways.
#[allow(unsafe_code)]
pub(crate) fn is_closed(socket: &impl AsFd) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd();
    // SAFETY: `info` is valid for writes of `length` bytes and `length` says so, the kernel writes at most that much; `descriptor` is
    // borrowed and so stays open for the call.
    let result =
        unsafe { libc::getsockopt(descriptor.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `tcp_info` holds integers only: zeroed bytes, in part overwritten by the kernel, are a valid value.
    Ok(unsafe { info.assume_init() }.tcpi_state == TCP_CLOSE)
}

/// Bytes written that the other side's kernel has not acknowledged.
#[allow(unsafe_code)]
pub(crate) fn undelivered(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let descriptor = socket.as_fd();
    // SAFETY: TIOCOUTQ (SIOCOUTQ) writes one int to `bytes`, which outlives the call; `descriptor` is borrowed and so stays open.
    let result = unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result != 0 { Err(io::Error::last_os_error()) } else { usize::try_from(bytes).map_err(io::Error::other) }
}
