//! Pipes that join two sockets inside the kernel: a fifth of the cost of copying. A pipe belongs to the worker, and to a connection only
//! while bytes are in it.
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::scratch::TURN;
use crate::socket::Socket;

/// Empty pipes a worker keeps: one is enough while no sink is slow.
const SPARE: usize = 16;
/// What a pipe may hold, in whole pages.
const SIZE: usize = 256 << 10;

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
        let _ = fcntl_setpipe_size(&entry, SIZE);
        Ok(Self { exit, entry, filled: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Call it on an empty pipe only: then "would block" can only mean the socket. 0 is the end of input.
    pub(crate) fn fill(&mut self, from: &mut Socket) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let result = splice(from.stream(), None, &self.entry, None, TURN, flags);
        self.filled = from.spliced_from(result.map_err(Into::into))?;
        Ok(self.filled)
    }

    /// Takes everything out that is in it.
    pub(crate) fn empty(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.filled];
        let mut at = 0;
        while at < bytes.len() {
            match rustix::io::read(&self.exit, &mut bytes[at..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => at += count,
            }
        }
        self.filled = 0;
        self.give_back();
        Ok(bytes)
    }

    /// 0 when the socket takes nothing now.
    pub(crate) fn drain(&mut self, to: &mut Socket) -> io::Result<usize> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let result = splice(&self.exit, None, to.stream(), None, self.filled, flags);
        let moved = to.spliced_to(result.map_err(Into::into), self.filled)?;
        self.filled -= moved;
        Ok(moved)
    }
}
