//! System calls that no safe crate offers: signals as a descriptor.
#![allow(unsafe_code)]
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Blocks SIGTERM, SIGINT and SIGCHLD for this thread and every thread made after it, and returns a descriptor that becomes readable when
/// one of them arrives. Children are not affected: the standard library empties the signal mask before exec.
pub(crate) fn signal_descriptor() -> io::Result<OwnedFd> {
    // SAFETY: `set` is written whole by sigemptyset before any other use; all pointers are to this live local; the returned descriptor is
    // fresh and owned by nobody else.
    unsafe {
        let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        let status = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
        if status != 0 {
            return Err(io::Error::from_raw_os_error(status));
        }
        let descriptor = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if descriptor < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(descriptor)) }
    }
}

/// Reads one signal number from `signal_descriptor`, `None` when none is waiting.
pub(crate) fn next_signal(descriptor: &OwnedFd) -> io::Result<Option<i32>> {
    // signalfd_siginfo is 128 bytes and begins with the signal number (signalfd(2)).
    let mut information = [0u8; 128];
    match rustix::io::read(descriptor, &mut information) {
        Ok(128) => {
            let [a, b, c, d, ..] = information;
            Ok(Some(i32::from_ne_bytes([a, b, c, d])))
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
