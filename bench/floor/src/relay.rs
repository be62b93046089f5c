//! One thread's loop over its pairs of sockets: each turn of an end is one recv and one send, so that nobody waits long for a neighbour.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::Socket;

use crate::sockets::{dial, listen};

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 256;
/// Not a pair's number.
const LISTENER: u64 = u64::MAX;

struct Loop {
    queue: OwnedFd,
    pairs: Vec<Option<Pair>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
}

/// Two sockets of one connection.
struct Pair {
    ends: [Socket; 2],
    /// Read from this end, not taken by the other yet: nothing more is read until it is.
    kept: [Vec<u8>; 2],
    /// This end said FIN, and the other was told.
    ended: [bool; 2],
    /// What each end is waited for.
    waits: [EventFlags; 2],
}

pub(crate) fn run(on: SocketAddr, next: SocketAddr) -> io::Result<()> {
    let listener = listen(on)?;
    let queue = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&queue, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut own = Loop { queue, pairs: Vec::new(), free: Vec::new(), buffer: vec![0; BUFFER] };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&own.queue, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        // A place is free only after this batch: another event in it may still name the pair that was there.
        let mut over = Vec::new();
        for event in &events {
            match event.data.u64() {
                LISTENER => own.accept(&listener, next),
                token => over.extend(own.turn(token, event.flags)),
            }
        }
        own.free.append(&mut over);
    }
}

impl Loop {
    fn accept(&mut self, listener: &Socket, next: SocketAddr) {
        // An error is another thread that was faster, or no descriptor left; the listener stays ready while somebody waits.
        while let Ok((near, _)) = listener.accept() {
            if let Err(error) = self.pair(near, next) {
                eprintln!("trackbed-floor: {error}");
            }
        }
    }

    fn pair(&mut self, near: Socket, next: SocketAddr) -> io::Result<()> {
        near.set_nonblocking(true)?;
        let ends = [near, dial(next)?];
        let index = self.free.pop().unwrap_or(self.pairs.len());
        for (end, socket) in (0..).zip(&ends) {
            epoll::add(&self.queue, socket, token(index, end), EventFlags::IN)?;
        }
        if index == self.pairs.len() {
            self.pairs.push(None);
        }
        self.pairs[index] = Some(Pair { ends, kept: [Vec::new(), Vec::new()], ended: [false; 2], waits: [EventFlags::IN; 2] });
        Ok(())
    }

    /// The number of the pair if this was its last turn.
    fn turn(&mut self, token: u64, ready: EventFlags) -> Option<usize> {
        #[allow(clippy::cast_possible_truncation)] // made from an index and one bit
        let (index, end) = ((token >> 1) as usize, (token & 1) as usize);
        let pair = self.pairs[index].as_mut()?;
        let done = pair.turn(end, ready, &mut self.buffer).and_then(|()| pair.wait(index, &self.queue));
        if done.is_ok() && pair.ended != [true; 2] {
            return None;
        }
        self.pairs[index] = None;
        Some(index)
    }
}

fn token(index: usize, end: u64) -> EventData {
    EventData::new_u64((index as u64) << 1 | end)
}

impl Pair {
    fn turn(&mut self, end: usize, ready: EventFlags, buffer: &mut [u8]) -> io::Result<()> {
        if ready.intersects(EventFlags::OUT) {
            self.drain(1 - end)?;
        }
        let readable = EventFlags::IN | EventFlags::HUP | EventFlags::ERR;
        if ready.intersects(readable) && self.kept[end].is_empty() && !self.ended[end] { self.forward(end, buffer) } else { Ok(()) }
    }

    fn forward(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        let count = match self.ends[from].read(buffer) {
            Ok(0) => {
                self.ended[from] = true;
                return self.ends[1 - from].shutdown(Shutdown::Write);
            }
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let taken = write(&mut self.ends[1 - from], &buffer[..count])?;
        self.kept[from].extend_from_slice(&buffer[taken..count]);
        Ok(())
    }

    /// Gives the other end what waits for it.
    fn drain(&mut self, from: usize) -> io::Result<()> {
        if !self.kept[from].is_empty() {
            let taken = write(&mut self.ends[1 - from], &self.kept[from])?;
            self.kept[from].drain(..taken);
        }
        Ok(())
    }

    /// Tells the kernel what each end is waited for, when that changed.
    fn wait(&mut self, index: usize, queue: &OwnedFd) -> io::Result<()> {
        for (end, number) in [(0, 0), (1, 1)] {
            let mut wanted = EventFlags::empty();
            wanted.set(EventFlags::IN, self.kept[end].is_empty() && !self.ended[end]);
            wanted.set(EventFlags::OUT, !self.kept[1 - end].is_empty());
            if wanted != self.waits[end] {
                epoll::modify(queue, &self.ends[end], token(index, number), wanted)?;
                self.waits[end] = wanted;
            }
        }
        Ok(())
    }
}

/// How much the socket took: nothing while it is full, or still connecting.
fn write(to: &mut Socket, bytes: &[u8]) -> io::Result<usize> {
    match to.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Ok(0),
        other => other,
    }
}
