//! Joins two sockets inside the kernel: a fifth of the cost of copying. The pipe between them belongs to the worker, and to a connection
//! only while bytes are in it.
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::ends::TURN;

/// Empty pipes a worker keeps: one is enough while no sink is slow.
const SPARE: usize = 16;

thread_local! {
    static SPARES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub(crate) struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    filled: usize,
}

impl Pipe {
    /// None when there are no descriptors left: the caller copies then.
    pub(crate) fn lend() -> Option<Self> {
        SPARES.with_borrow_mut(Vec::pop).or_else(|| Self::new().inspect_err(|error| tracing::debug!(%error, "no pipe")).ok())
    }

    /// A pipe with bytes in it is closed, not kept: they belong to one connection.
    pub(crate) fn give_back(self) {
        SPARES.with_borrow_mut(|spares| {
            if self.filled == 0 && spares.len() < SPARE {
                spares.push(self);
            }
        });
    }

    fn new() -> io::Result<Self> {
        let (exit, entry) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Larger pipes are limited per user; a small one works as well, with more calls.
        let _ = fcntl_setpipe_size(&entry, TURN);
        Ok(Self { exit, entry, filled: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Call it on an empty pipe only: then "would block" can only mean the socket. 0 is the end of input.
    pub(crate) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        self.filled = from.try_io(Interest::READABLE, || Ok(splice(from, None, &self.entry, None, TURN, flags)?))?;
        Ok(self.filled)
    }

    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let moved = to.try_io(Interest::WRITABLE, || Ok(splice(&self.exit, None, to, None, self.filled, flags)?))?;
        self.filled -= moved;
        Ok(moved)
    }
}
