//! System calls that no safe crate offers: signals as a descriptor, and giving memory back.
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

/// Gives the pages that hold nothing any more back to the kernel. The allocator of glibc does so by itself only at the end of its heaps,
/// which one live connection can hold up; the locks it takes are held for some 0.1 ms per MiB.
#[cfg(target_env = "gnu")]
pub(crate) fn give_memory_back() {
    // SAFETY: malloc_trim takes the allocator's own locks and touches nothing that is allocated.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_memory_back() {}
