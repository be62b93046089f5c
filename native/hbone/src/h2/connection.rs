//! A connection and its streams: who may send what, and the frames of ours that say so.
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use trackbed_contract::tables::wire;

use super::flow::{FIRST_WINDOW, Inflow, Intake, Outflow};
use super::frame::{self, DEFAULT_FRAME, HEAD, Head, PREFACE, Reason, flag, kind, setting};
use super::guard::{self, Guard};
use super::hpack::{Decoder, Encoder};
use super::receive::{Event, Reading};

/// Streams of ours that were reset while the peer could still send into them: what is on its way is ignored. Older ones are forgotten.
pub(super) const RESETS: usize = 1024;
/// What our PINGs say; answers to anything else are not ours.
pub(super) const PING: [u8; 8] = *b"trackbed";
/// The largest id (RFC 9113, 5.1.1).
pub(super) const LAST_ID: u32 = u32::MAX >> 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What we allow the peer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Streams at a time, on a server.
    pub(crate) streams: u32,
    /// A decoded list of headers.
    pub(crate) header_list: u32,
    /// A DATA frame.
    pub(crate) frame: u32,
    /// The whole connection's window.
    pub(crate) window: u32,
    /// What the window of one stream may grow to, and what all of them may grow by together.
    pub(crate) stream_window: u32,
    pub(crate) growth: u32,
}

/// What the peer allows us.
#[derive(Debug)]
pub(super) struct Allowed {
    pub(super) streams: Option<u32>,
    pub(super) window: u32,
    pub(super) early_data: bool,
}

/// How far our own GOAWAY is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// Streams that are on their way are still taken.
    Announced,
    /// Nothing new is taken.
    Left,
}

/// One stream, with whatever `U` the user of the codec keeps about it.
#[derive(Debug)]
pub(crate) struct Stream<U> {
    pub(super) outflow: Outflow,
    pub(super) inflow: Inflow,
    pub(super) sending: bool,
    pub(super) receiving: bool,
    /// The headers of the server have passed.
    pub(super) answered: bool,
    pub(crate) user: U,
}

#[derive(Debug)]
pub(crate) struct Connection<U> {
    pub(super) role: Role,
    pub(super) bounds: Bounds,
    pub(super) allowed: Allowed,
    pub(super) reading: Reading,
    pub(super) queued: Option<Event>,
    pub(super) settled: bool,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) guard: Guard,
    pub(super) outflow: Outflow,
    pub(super) intake: Intake,
    /// What the windows of streams may still grow by.
    pub(super) spare: u32,
    pub(super) streams: BTreeMap<u32, Box<Stream<U>>>,
    /// Streams that are not over.
    pub(super) live: usize,
    /// The highest id that the peer has used, on a server.
    pub(super) seen: u32,
    pub(super) next_id: u32,
    pub(super) resets: VecDeque<u32>,
    /// How many of them the peer has heard of once it answers our PING.
    pub(super) resets_told: usize,
    /// The peer takes no stream beyond this one.
    pub(super) going_away: Option<u32>,
    pub(super) leaving: Leaving,
    /// The last stream that our GOAWAY named: a later one names none beyond it.
    pub(super) last_taken: u32,
    /// Frames on their way out, in order.
    pub(crate) out: Vec<u8>,
}

impl<U: Default> Connection<U> {
    pub(crate) fn new(role: Role, bounds: Bounds, now: Instant) -> Self {
        let mut connection = Self {
            role,
            bounds,
            allowed: Allowed { streams: None, window: FIRST_WINDOW, early_data: false },
            reading: if role == Role::Server { Reading::Preface(0) } else { Reading::head() },
            queued: None,
            settled: false,
            decoder: Decoder::new(),
            encoder: Encoder::default(),
            guard: Guard::new(now),
            outflow: Outflow::new(FIRST_WINDOW),
            intake: Intake::new(bounds.window),
            spare: bounds.growth,
            streams: BTreeMap::new(),
            live: 0,
            seen: 0,
            next_id: 1,
            resets: VecDeque::new(),
            resets_told: 0,
            going_away: None,
            leaving: Leaving::No,
            last_taken: LAST_ID,
            out: Vec::new(),
        };
        connection.introduce();
        connection
    }

    fn introduce(&mut self) {
        let bounds = self.bounds;
        let own = match self.role {
            Role::Client => {
                self.out.extend_from_slice(PREFACE);
                [(setting::ENABLE_PUSH, 0), (setting::MAX_FRAME_SIZE, bounds.frame), (setting::MAX_HEADER_LIST_SIZE, bounds.header_list)]
                    .to_vec()
            }
            Role::Server => [
                (setting::MAX_CONCURRENT_STREAMS, bounds.streams),
                (setting::MAX_FRAME_SIZE, bounds.frame),
                (setting::MAX_HEADER_LIST_SIZE, bounds.header_list),
                (wire::SETTINGS_EARLY_DATA, 1),
            ]
            .to_vec(),
        };
        let payload: Vec<u8> = own.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
        frame::write(kind::SETTINGS, 0, 0, &payload, &mut self.out);
        self.grant(0, bounds.window.saturating_sub(FIRST_WINDOW));
    }

    /// Asks for a stream. None when the peer takes no more of them.
    pub(crate) fn ask<'a>(&mut self, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, now: Instant) -> Option<u32> {
        let id = self.next_id;
        if self.going_away.is_some() || id > LAST_ID || self.allowed.streams.is_some_and(|most| self.live >= most as usize) {
            return None;
        }
        self.next_id += 2;
        self.insert(id, now);
        self.headers(id, fields, false);
        Some(id)
    }

    /// Answers a stream with a status, and ends our side of it unless it is to carry data.
    pub(crate) fn answer(&mut self, id: u32, status: u16, fields: &[(&str, &[u8])], end: bool) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sending && !stream.answered) else { return };
        stream.answered = true;
        let status = status.to_string();
        self.headers(id, std::iter::once((":status", status.as_bytes())).chain(fields.iter().copied()), end);
        if end {
            self.close(id, |stream| stream.sending = false);
            if self.streams.get(&id).is_some_and(|stream| stream.receiving) {
                // Nothing is wrong, but nobody reads what still comes (RFC 9113, 8.1).
                self.reset(id, Reason::NO_ERROR);
            }
        }
    }

    fn headers<'a>(&mut self, id: u32, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, end: bool) {
        let mut block = Vec::with_capacity(256);
        self.encoder.encode(fields, &mut block);
        let mut pieces = block.chunks(DEFAULT_FRAME as usize).peekable();
        let mut first = true;
        while let Some(piece) = pieces.next() {
            let kind = if first { kind::HEADERS } else { kind::CONTINUATION };
            let end_stream = if first && end { flag::END_STREAM } else { 0 };
            let end_headers = if pieces.peek().is_none() { flag::END_HEADERS } else { 0 };
            frame::write(kind, end_stream | end_headers, id, piece, &mut self.out);
            first = false;
        }
    }

    pub(super) fn insert(&mut self, id: u32, now: Instant) {
        let stream = Stream {
            outflow: Outflow::new(self.allowed.window),
            inflow: Inflow::new(now),
            sending: true,
            receiving: true,
            answered: false,
            user: U::default(),
        };
        self.streams.insert(id, Box::new(stream));
        self.live += 1;
    }

    /// How many bytes may be sent into a stream now.
    pub(crate) fn room(&self, id: u32) -> usize {
        self.streams.get(&id).filter(|stream| stream.sending).map_or(0, |stream| stream.outflow.room().min(self.outflow.room()))
    }

    /// The head of a DATA frame of at most `room` bytes that goes out at once, behind what is in `out`.
    pub(crate) fn data(&mut self, id: u32, length: u32) -> [u8; HEAD] {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.outflow.take(length);
        }
        self.outflow.take(length);
        self.guard.forgive(guard::PER_DATA);
        Head { length, kind: kind::DATA, flags: 0, stream: id }.bytes()
    }

    /// END_STREAM.
    pub(crate) fn end(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|stream| stream.sending) {
            frame::write(kind::DATA, flag::END_STREAM, id, &[], &mut self.out);
            self.close(id, |stream| stream.sending = false);
        }
    }

    /// The stream's reader has taken so many bytes; `keeps_up` when it left nothing behind.
    pub(crate) fn read(&mut self, id: u32, bytes: usize, keeps_up: bool, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.receiving) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Some(grant) = stream.inflow.read(bytes, keeps_up, self.bounds.stream_window, &mut self.spare, now) {
            self.grant(id, grant);
        }
    }

    pub(super) fn grant(&mut self, id: u32, bytes: u32) {
        frame::write(kind::WINDOW_UPDATE, 0, id, &bytes.to_be_bytes(), &mut self.out);
    }

    /// RST_STREAM, unless the stream is over already.
    pub(crate) fn reset(&mut self, id: u32, reason: Reason) {
        if self.streams.get(&id).is_some_and(|stream| stream.sending || stream.receiving) {
            self.close(id, |stream| (stream.sending, stream.receiving) = (false, false));
            self.refuse(id, reason);
        }
    }

    /// RST_STREAM for a stream that we do not keep.
    pub(super) fn refuse(&mut self, id: u32, reason: Reason) {
        frame::write(kind::RST_STREAM, 0, id, &reason.0.to_be_bytes(), &mut self.out);
        if self.resets.len() == RESETS {
            self.resets.pop_front();
            self.resets_told = self.resets_told.saturating_sub(1);
        }
        self.resets.push_back(id);
    }

    /// Changes what is open of a stream, and counts it off when nothing is left.
    pub(super) fn close(&mut self, id: u32, change: impl FnOnce(&mut Stream<U>)) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.sending || stream.receiving;
        change(stream);
        if before && !stream.sending && !stream.receiving {
            self.live -= 1;
            self.spare += stream.inflow.growth();
        }
    }

    /// The streams that a client's peer says it has not looked at are over.
    pub(crate) fn abandon_beyond(&mut self, last: u32) -> Vec<u32> {
        if self.role == Role::Server {
            return Vec::new();
        }
        self.close_from(last.saturating_add(1))
    }

    /// All streams are over, without a word to the peer.
    pub(crate) fn abandon(&mut self) {
        self.close_from(0);
    }

    fn close_from(&mut self, first: u32) -> Vec<u32> {
        let gone: Vec<_> = self.streams.range(first..).map(|(id, _)| *id).collect();
        for id in &gone {
            self.close(*id, |stream| (stream.sending, stream.receiving) = (false, false));
        }
        gone
    }

    /// Forgets a stream; one that is not over is reset.
    pub(crate) fn release(&mut self, id: u32) {
        self.reset(id, Reason::CANCEL);
        self.streams.remove(&id);
    }

    pub(crate) fn stream(&mut self, id: u32) -> Option<&mut Stream<U>> {
        self.streams.get_mut(&id).map(Box::as_mut)
    }

    pub(crate) fn streams(&mut self) -> impl Iterator<Item = (u32, &mut Stream<U>)> {
        self.streams.iter_mut().map(|(id, stream)| (*id, stream.as_mut()))
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Streams that a server was asked for and has not answered.
    pub(crate) fn unanswered(&self) -> Vec<u32> {
        let waiting = self.streams.iter().filter(|(_, stream)| self.role == Role::Server && !stream.answered);
        waiting.map(|(id, _)| *id).collect()
    }

    /// Streams that are not over.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    #[cfg(test)]
    pub(super) fn skip_ids_for_test(&mut self) {
        self.next_id = LAST_ID;
    }

    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Streams that the peer lets us have at a time, once it has said so.
    pub(crate) fn most_streams(&self) -> Option<u32> {
        self.allowed.streams
    }

    /// The peer holds what comes before its answer back until it has accepted: it may be sent at once.
    pub(crate) fn takes_early_data(&self) -> bool {
        self.allowed.early_data
    }

    /// The peer has introduced itself.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The peer takes no new streams.
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.is_some()
    }

    pub(crate) fn ping(&mut self) {
        self.resets_told = self.resets.len();
        frame::write(kind::PING, 0, 0, &PING, &mut self.out);
    }

    /// What the peer sent before it answered has arrived: nothing more comes for streams that were reset before we asked.
    pub(super) fn pong(&mut self) {
        self.resets.drain(..std::mem::take(&mut self.resets_told));
        if self.resets.is_empty() {
            self.resets = VecDeque::new();
        }
    }

    /// Announces that we leave. Streams that are on their way are still taken, until the peer has answered our PING: then `leave`.
    pub(crate) fn announce_leave(&mut self) {
        if self.leaving != Leaving::No {
            return; // a second GOAWAY must not name a later stream than the first
        }
        self.leaving = Leaving::Announced;
        self.goaway(LAST_ID, Reason::NO_ERROR);
        self.ping();
    }

    /// From now on nothing new is taken.
    pub(crate) fn leave(&mut self, reason: Reason) {
        self.leaving = Leaving::Left;
        self.goaway(self.seen, reason);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving == Leaving::Announced
    }

    pub(crate) fn is_left(&self) -> bool {
        self.leaving == Leaving::Left
    }

    fn goaway(&mut self, last: u32, reason: Reason) {
        self.last_taken = self.last_taken.min(last);
        let payload = [self.last_taken.to_be_bytes(), reason.0.to_be_bytes()].concat();
        frame::write(kind::GOAWAY, 0, 0, &payload, &mut self.out);
    }
}

impl<U> Stream<U> {
    /// The answer has come, or was given.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    pub(crate) fn is_over(&self) -> bool {
        !self.sending && !self.receiving
    }
}
