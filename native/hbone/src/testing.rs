//! The HTTP/2 codec with the bounds that tunnels have, without sockets and TLS: for fuzz targets and instruction counts, behind a feature
//! that no program of ours turns on.
use std::ops::Range;
use std::time::Instant;

use crate::h2::{Connection, Decoder, Event, Fatal, HEAD, Reason, Role};
use crate::limits;
use crate::link::bounds;

/// What a client's codec allows a server, and the other way round.
pub use crate::limits::{CLIENT_HEADER_LIST, CONNECTION_WINDOW, SERVER_HEADER_LIST, SERVER_STREAMS, STREAM_WINDOW};

/// One end of a connection.
#[derive(Debug)]
pub struct Codec(Connection<()>);

/// What the peer did, in plain values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    Settings,
    Asked { id: u32, authority: String, headers: usize },
    Answered { id: u32, status: u16 },
    Data { id: u32, range: Range<usize> },
    End { id: u32 },
    Reset { id: u32, reason: u32 },
    Room { id: Option<u32> },
    GoAway { last: u32, reason: u32 },
    Pong,
}

impl Codec {
    pub fn client(now: Instant) -> Self {
        Self(Connection::new(Role::Client, bounds(Role::Client, 0), now))
    }

    pub fn server(now: Instant) -> Self {
        Self(Connection::new(Role::Server, bounds(Role::Server, limits::SERVER_STREAMS), now))
    }

    /// Reads on in `input`, up to the next event; an error is the code of the GOAWAY that ends the connection, and why.
    pub fn next(&mut self, input: &[u8], at: &mut usize, now: Instant) -> Result<Option<Seen>, (u32, &'static str)> {
        match self.0.next(input, at, now) {
            Ok(event) => Ok(event.map(seen)),
            Err(Fatal { reason, what }) => {
                self.0.leave(reason);
                Err((reason.0, what))
            }
        }
    }

    pub fn ask(&mut self, authority: &str, now: Instant) -> Option<u32> {
        self.0.ask([(":method", &b"CONNECT"[..]), (":authority", authority.as_bytes())], now)
    }

    pub fn answer(&mut self, id: u32, status: u16, end: bool) {
        self.0.answer(id, status, &[], end);
    }

    pub fn room(&self, id: u32) -> usize {
        self.0.room(id)
    }

    pub fn data(&mut self, id: u32, length: u32) -> [u8; HEAD] {
        self.0.data(id, length)
    }

    pub fn end(&mut self, id: u32) {
        self.0.end(id);
    }

    pub fn read(&mut self, id: u32, bytes: usize, keeps_up: bool, now: Instant) {
        self.0.read(id, bytes, keeps_up, now);
    }

    pub fn reset(&mut self, id: u32) {
        self.0.reset(id, Reason::CANCEL);
    }

    pub fn release(&mut self, id: u32) {
        self.0.release(id);
    }

    pub fn ping(&mut self) {
        self.0.ping();
    }

    /// Announces that we leave.
    pub fn announce_leave(&mut self) {
        self.0.announce_leave();
    }

    /// Takes nothing new from now on.
    pub fn leave(&mut self) {
        self.0.leave(Reason::NO_ERROR);
    }

    /// Forgets the streams that the peer said it would not look at.
    pub fn abandon_beyond(&mut self, last: u32) -> Vec<u32> {
        self.0.abandon_beyond(last)
    }

    /// Streams that are not over.
    pub fn live(&self) -> usize {
        self.0.live()
    }

    /// Streams that are kept, over or not.
    pub fn kept(&mut self) -> usize {
        self.0.streams().count()
    }

    /// Frames on their way out.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.0.out
    }
}

fn seen(event: Event) -> Seen {
    match event {
        Event::Settings => Seen::Settings,
        Event::Asked { id, asked } => Seen::Asked { id, authority: asked.authority.unwrap_or_default(), headers: asked.headers.len() },
        Event::Answered { id, answered } => Seen::Answered { id, status: answered.status },
        Event::Data { id, range } => Seen::Data { id, range },
        Event::End { id } => Seen::End { id },
        Event::Reset { id, reason } => Seen::Reset { id, reason: reason.0 },
        Event::Room { id } => Seen::Room { id },
        Event::GoAway { last, reason } => Seen::GoAway { last, reason: reason.0 },
        Event::Pong => Seen::Pong,
    }
}

/// Reads header blocks one after the other, with one table.
#[derive(Debug)]
pub struct Hpack(Decoder);

impl Default for Hpack {
    fn default() -> Self {
        Self(Decoder::new())
    }
}

impl Hpack {
    /// Gives name and value of each field; an error says what is wrong with the block.
    pub fn decode(&mut self, block: &[u8], field: impl FnMut(&[u8], &[u8])) -> Result<(), &'static str> {
        self.0.decode(block, field).map_err(|broken| broken.0)
    }

    /// Bytes that the table counts, as the standard counts them.
    pub fn size(&self) -> usize {
        self.0.size()
    }
}
