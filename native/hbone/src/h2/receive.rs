//! Frames of the peer, each checked against its rules (RFC 9113, 6) before anything is done for it.
use std::ops::Range;
use std::time::Instant;

use trackbed_contract::tables::wire;

use super::Fatal;
use super::connection::{Connection, PING, Role};
use super::fields::{Answered, Asked};
use super::flow::LARGEST_WINDOW;
use super::frame::{self, DEFAULT_FRAME, HEAD, Head, LARGEST_FRAME, PREFACE, Reason, flag, kind, setting};
use super::guard;
use super::hpack::Broken;

/// Parts of one header block: a list at our bound takes four.
pub(super) const MOST_PARTS: u32 = 8;
/// No peer has this many settings.
const SETTINGS_BYTES: u32 = 64 * SETTING;
const SETTING: u32 = 6;
/// GOAWAY may bring text for people.
const GOAWAY_BYTES: u32 = DEFAULT_FRAME;
/// A stream that cannot be taken now. Honest peers cause it too, before they know our bounds.
const REFUSED: u32 = 4;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The peer has introduced itself, or changed what it allows: there may be room.
    Settings,
    /// A client asks for a stream.
    Asked {
        id: u32,
        asked: Box<Asked>,
    },
    /// The server has answered. Only 200 carries data.
    Answered {
        id: u32,
        answered: Box<Answered>,
    },
    /// Payload, at this place of the input.
    Data {
        id: u32,
        range: Range<usize>,
    },
    /// The peer sends nothing more into this stream.
    End {
        id: u32,
    },
    /// A stream is over, by the peer or because it broke the rules.
    Reset {
        id: u32,
        reason: Reason,
    },
    /// More may be sent into this stream, or into all.
    Room {
        id: Option<u32>,
    },
    /// The peer takes no new streams; those beyond `last` it has not looked at.
    GoAway {
        last: u32,
        reason: Reason,
    },
    Pong,
}

/// Where in a frame the input ended.
#[derive(Debug)]
pub(super) enum Reading {
    Preface(usize),
    Head {
        bytes: [u8; HEAD],
        have: usize,
    },
    Data(Data),
    Skip(usize),
    Body {
        head: Head,
        bytes: Vec<u8>,
        block: Option<Box<Block>>,
    },
    /// Between the parts of a header block.
    Between {
        bytes: [u8; HEAD],
        have: usize,
        block: Box<Block>,
    },
}

#[derive(Debug)]
pub(super) struct Data {
    /// None when it is dropped.
    pub(super) id: Option<u32>,
    pub(super) left: usize,
    pub(super) padding: usize,
    /// The length of the padding is still to be read.
    pub(super) padded: bool,
    pub(super) end: bool,
}

/// A header block that comes in parts.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) id: u32,
    pub(super) end_stream: bool,
    pub(super) parts: u32,
    pub(super) bytes: Vec<u8>,
}

impl Reading {
    pub(super) fn head() -> Self {
        Self::Head { bytes: [0; HEAD], have: 0 }
    }
}

type Result<T> = std::result::Result<T, Fatal>;

fn fatal<T>(reason: Reason, what: &'static str) -> Result<T> {
    Err(Fatal { reason, what })
}

fn protocol<T>(what: &'static str) -> Result<T> {
    fatal(Reason::PROTOCOL_ERROR, what)
}

impl From<Broken> for Fatal {
    fn from(Broken(what): Broken) -> Self {
        Self { reason: Reason::COMPRESSION_ERROR, what }
    }
}

/// Moves up to `want` bytes into `to` behind the first `have`.
fn fill(to: &mut [u8], have: &mut usize, input: &[u8], at: &mut usize) {
    let count = (to.len() - *have).min(input.len() - *at);
    to[*have..*have + count].copy_from_slice(&input[*at..*at + count]);
    *have += count;
    *at += count;
}

impl<U: Default> Connection<U> {
    /// Reads on in `input` from `at`, up to the next event. None when the input is used up.
    #[inline] // into the loop over a record's frames, in whatever unit the compiler puts that
    pub(crate) fn next(&mut self, input: &[u8], at: &mut usize, now: Instant) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.queued.take() {
                return Ok(Some(event));
            }
            match &mut self.reading {
                Reading::Preface(seen) => {
                    let count = (PREFACE.len() - *seen).min(input.len() - *at);
                    if PREFACE[*seen..*seen + count] != input[*at..*at + count] {
                        return protocol("something else than the preface");
                    }
                    (*seen, *at) = (*seen + count, *at + count);
                    if *seen < PREFACE.len() {
                        return Ok(None);
                    }
                    self.reading = Reading::head();
                }
                Reading::Head { bytes, have } => {
                    fill(bytes, have, input, at);
                    if *have < HEAD {
                        return Ok(None);
                    }
                    let head = Head::parse(*bytes);
                    self.reading = self.begin(head, now)?;
                }
                Reading::Between { bytes, have, block } => {
                    fill(bytes, have, input, at);
                    if *have < HEAD {
                        return Ok(None);
                    }
                    let head = Head::parse(*bytes);
                    if head.kind != kind::CONTINUATION || head.stream != block.id {
                        return protocol("another frame within a header block");
                    }
                    let Reading::Between { block, .. } = std::mem::replace(&mut self.reading, Reading::head()) else { continue };
                    self.check_block(block.bytes.len(), head.length, block.parts)?;
                    self.reading = Reading::Body { head, bytes: Vec::new(), block: Some(block) };
                }
                Reading::Skip(left) => {
                    let count = (*left).min(input.len() - *at);
                    (*left, *at) = (*left - count, *at + count);
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.reading = Reading::head();
                }
                Reading::Data(data) => {
                    if *at == input.len() && (data.padded || data.left + data.padding > 0) {
                        return Ok(None);
                    }
                    if let Some(event) = self.data_piece(input, at, now)? {
                        return Ok(Some(event));
                    }
                }
                Reading::Body { head, bytes, .. } => {
                    let want = head.length as usize - bytes.len();
                    if input.len() - *at < want {
                        bytes.extend_from_slice(&input[*at..]);
                        *at = input.len();
                        return Ok(None);
                    }
                    let payload = &input[*at..*at + want];
                    *at += want;
                    let Reading::Body { head, mut bytes, block } = std::mem::replace(&mut self.reading, Reading::head()) else { continue };
                    if bytes.is_empty() {
                        self.frame(head, payload, block, now)?;
                    } else {
                        bytes.extend_from_slice(payload);
                        self.frame(head, &bytes, block, now)?;
                    }
                }
            }
        }
    }

    /// What a frame's head alone allows: its size, its stream, and how the rest is read.
    fn begin(&mut self, head: Head, now: Instant) -> Result<Reading> {
        let Head { length, kind, stream, .. } = head;
        if length > self.bounds.frame {
            return fatal(Reason::FRAME_SIZE_ERROR, "a frame that is too large");
        }
        if !self.settled && (kind != kind::SETTINGS || head.has(flag::ACK)) {
            return protocol("another frame before SETTINGS");
        }
        let on_stream = matches!(kind, kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION);
        if on_stream && stream == 0 {
            return protocol("a frame of a stream on none");
        }
        if matches!(kind, kind::SETTINGS | kind::PING | kind::GOAWAY) && stream != 0 {
            return protocol("a frame of the connection on a stream");
        }
        let size = |fits: bool| if fits { Ok(()) } else { fatal(Reason::FRAME_SIZE_ERROR, "a frame of a wrong size") };
        match kind {
            kind::DATA => return self.begin_data(head, now).map(Reading::Data),
            kind::HEADERS => {
                self.check_block(0, length, 0)?;
                if self.role == Role::Server && stream.is_multiple_of(2) {
                    return protocol("a client's stream with an even number");
                }
            }
            kind::PRIORITY if length != 5 => {
                self.provoked(stream, Reason::FRAME_SIZE_ERROR, now)?;
                return Ok(Reading::Skip(length as usize));
            }
            kind::RST_STREAM | kind::WINDOW_UPDATE => size(length == 4)?,
            kind::SETTINGS if head.has(flag::ACK) => size(length == 0)?,
            kind::SETTINGS => size(length.is_multiple_of(SETTING) && length <= SETTINGS_BYTES)?,
            kind::PING => size(length == 8)?,
            kind::GOAWAY => size((8..=GOAWAY_BYTES).contains(&length))?,
            kind::PUSH_PROMISE => return protocol("a push"),
            kind::CONTINUATION => return protocol("a continuation of nothing"),
            kind::PRIORITY => {}
            _ => {
                self.quiet(now)?;
                return Ok(Reading::Skip(length as usize));
            }
        }
        Ok(Reading::Body { head, bytes: Vec::new(), block: None })
    }

    /// Whether a header block may grow by so much.
    fn check_block(&self, have: usize, more: u32, parts: u32) -> Result<()> {
        if have + more as usize > self.bounds.header_list as usize || parts >= MOST_PARTS {
            return fatal(Reason::ENHANCE_YOUR_CALM, "a header block without end");
        }
        Ok(())
    }

    fn begin_data(&mut self, head: Head, now: Instant) -> Result<Data> {
        let Head { length, stream: id, .. } = head;
        if !self.intake.took(length) {
            return fatal(Reason::FLOW_CONTROL_ERROR, "more data than the connection's window");
        }
        if let Some(grant) = self.intake.grant() {
            self.grant(0, grant);
        }
        let end = head.has(flag::END_STREAM);
        if length > 0 {
            self.guard.forgive(guard::QUIET);
        } else if !end {
            self.quiet(now)?;
        }
        let padded = head.has(flag::PADDED);
        if padded && length == 0 {
            return fatal(Reason::FRAME_SIZE_ERROR, "padding in an empty frame");
        }
        let client = self.role == Role::Client;
        let kept = match self.streams.get_mut(&id) {
            Some(stream) if stream.receiving && client && !stream.answered => Err(Reason::PROTOCOL_ERROR),
            Some(stream) if stream.receiving => {
                if stream.inflow.took(length) {
                    Ok(Some(id))
                } else {
                    Err(Reason::FLOW_CONTROL_ERROR)
                }
            }
            Some(stream) if stream.sending => Err(Reason::STREAM_CLOSED),
            _ => self.closed(id).map(|known| if known { Ok(None) } else { Err(Reason::STREAM_CLOSED) })?,
        };
        let id = match kept {
            Ok(id) => id,
            Err(reason) => {
                self.provoked(id, reason, now)?;
                None
            }
        };
        Ok(Data { id, left: length as usize, padding: 0, padded, end })
    }

    /// A stream that is not open: true when we reset it, and the peer may not have heard of it yet.
    fn closed(&self, id: u32) -> Result<bool> {
        if self.is_idle(id) {
            return protocol("a frame on a stream that was never opened");
        }
        Ok(self.resets.contains(&id))
    }

    pub(super) fn is_idle(&self, id: u32) -> bool {
        match self.role {
            Role::Server => id > self.seen || id.is_multiple_of(2),
            Role::Client => id >= self.next_id() || id.is_multiple_of(2),
        }
    }

    fn data_piece(&mut self, input: &[u8], at: &mut usize, now: Instant) -> Result<Option<Event>> {
        let Reading::Data(data) = &mut self.reading else { return Ok(None) };
        if data.padded {
            let padding = usize::from(input[*at]);
            *at += 1;
            if padding >= data.left {
                return protocol("more padding than frame");
            }
            (data.padded, data.left, data.padding) = (false, data.left - 1 - padding, padding);
            // Nobody reads padding, so the window is given back here.
            if let Some(id) = data.id {
                self.read(id, padding + 1, false, now);
            }
            return Ok(None);
        }
        let id = data.id.filter(|id| self.streams.get(id).is_some_and(|stream| stream.receiving));
        let available = input.len() - *at;
        if data.left > 0 {
            let count = data.left.min(available);
            let range = *at..*at + count;
            (data.left, *at) = (data.left - count, range.end);
            return Ok(id.map(|id| Event::Data { id, range }));
        }
        let count = data.padding.min(available);
        (data.padding, *at) = (data.padding - count, *at + count);
        if data.padding == 0 {
            let ended = id.filter(|_| data.end);
            self.reading = Reading::head();
            return Ok(ended.map(|id| self.ended(id)));
        }
        Ok(None)
    }

    fn ended(&mut self, id: u32) -> Event {
        self.close(id, |stream| stream.receiving = false);
        Event::End { id }
    }

    /// A whole frame that is not DATA.
    fn frame(&mut self, head: Head, payload: &[u8], block: Option<Box<Block>>, now: Instant) -> Result<()> {
        let id = head.stream;
        match head.kind {
            kind::HEADERS => self.headers_frame(head, payload, now),
            kind::CONTINUATION => {
                let Some(mut block) = block else { return protocol("a continuation of nothing") };
                block.bytes.extend_from_slice(payload);
                block.parts += 1;
                self.block(head, block, now)
            }
            kind::PRIORITY => {
                self.quiet(now)?;
                if number(payload) & (u32::MAX >> 1) == id { self.provoked(id, Reason::PROTOCOL_ERROR, now) } else { Ok(()) }
            }
            kind::RST_STREAM => self.reset_frame(id, Reason(number(payload)), now),
            kind::SETTINGS => self.settings(head, payload, now),
            kind::PING => {
                let opaque: [u8; 8] = std::array::from_fn(|at| payload[at]);
                self.quiet(now)?;
                if head.has(flag::ACK) {
                    if opaque == PING {
                        self.pong();
                        self.queued = Some(Event::Pong);
                    }
                    return Ok(());
                }
                frame::write(kind::PING, flag::ACK, 0, &opaque, &mut self.out);
                Ok(())
            }
            kind::GOAWAY => {
                self.quiet(now)?;
                let (last, reason) = (number(payload) & (u32::MAX >> 1), Reason(number(&payload[4..])));
                if self.going_away.is_some_and(|before| last > before) {
                    return protocol("a GOAWAY that takes back the one before");
                }
                self.going_away = Some(last);
                self.queued = Some(Event::GoAway { last, reason });
                Ok(())
            }
            _ => self.window_update(id, number(payload) & (u32::MAX >> 1), now),
        }
    }

    fn headers_frame(&mut self, head: Head, mut payload: &[u8], now: Instant) -> Result<()> {
        let id = head.stream;
        if head.has(flag::PADDED) {
            let Some((padding, rest)) = payload.split_first() else { return fatal(Reason::FRAME_SIZE_ERROR, "padding in an empty frame") };
            let Some(length) = rest.len().checked_sub(usize::from(*padding)) else { return protocol("more padding than frame") };
            payload = &rest[..length];
        }
        let mut depends_on_itself = false;
        if head.has(flag::PRIORITY) {
            let Some((priority, rest)) = payload.split_first_chunk::<5>() else {
                return fatal(Reason::FRAME_SIZE_ERROR, "a priority that is cut off");
            };
            depends_on_itself = number(priority) & (u32::MAX >> 1) == id;
            payload = rest;
        }
        let end_stream = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            self.block_whole(id, end_stream, payload, now)?;
        } else {
            self.reading = Reading::Between {
                bytes: [0; HEAD],
                have: 0,
                block: Box::new(Block { id, end_stream, parts: 1, bytes: payload.to_vec() }),
            };
        }
        if depends_on_itself && self.streams.contains_key(&id) {
            // Nobody has heard of it yet.
            self.queued = None;
            self.reset(id, Reason::PROTOCOL_ERROR);
            self.streams.remove(&id);
            return self.charge(guard::PROVOKED, now);
        }
        Ok(())
    }

    fn block(&mut self, head: Head, block: Box<Block>, now: Instant) -> Result<()> {
        if head.has(flag::END_HEADERS) {
            return self.block_whole(block.id, block.end_stream, &block.bytes, now);
        }
        self.reading = Reading::Between { bytes: [0; HEAD], have: 0, block };
        Ok(())
    }

    fn block_whole(&mut self, id: u32, end_stream: bool, block: &[u8], now: Instant) -> Result<()> {
        match self.role {
            Role::Server => self.asked(id, end_stream, block, now),
            Role::Client => self.answered(id, end_stream, block, now),
        }
    }

    fn asked(&mut self, id: u32, end_stream: bool, block: &[u8], now: Instant) -> Result<()> {
        // Decoded whatever becomes of the stream: the table must not miss it.
        let asked = Asked::read(block, &mut self.decoder, self.bounds.header_list as usize)?;
        if id <= self.seen {
            let open = self.streams.get(&id).is_some_and(|stream| stream.receiving);
            if !open && self.resets.contains(&id) {
                return Ok(());
            }
            // CONNECT has no trailers (RFC 9113, 8.5).
            return self.provoked(id, if open { Reason::PROTOCOL_ERROR } else { Reason::STREAM_CLOSED }, now);
        }
        self.seen = id;
        let most = self.bounds.streams as usize;
        // Streams that are over but not delivered yet count too, though less.
        if self.is_left() || self.live >= most || self.streams.len() >= 2 * most {
            self.refuse(id, Reason::REFUSED_STREAM);
            return self.charge(REFUSED, now);
        }
        self.insert(id, now);
        if asked.authority.is_none() {
            self.answer(id, asked.status, &[], true);
            self.streams.remove(&id);
            return self.charge(guard::PROVOKED, now);
        }
        if end_stream {
            self.close(id, |stream| stream.receiving = false);
        }
        self.queued = Some(Event::Asked { id, asked: Box::new(asked) });
        Ok(())
    }

    fn answered(&mut self, id: u32, end_stream: bool, block: &[u8], now: Instant) -> Result<()> {
        let answered = Answered::read(block, &mut self.decoder, self.bounds.header_list as usize)?;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.receiving) else {
            return if self.closed(id)? { Ok(()) } else { self.provoked(id, Reason::STREAM_CLOSED, now) };
        };
        let Some(answered) = answered.filter(|_| !stream.answered) else { return self.provoked(id, Reason::PROTOCOL_ERROR, now) };
        if answered.status < 200 {
            return if end_stream { self.provoked(id, Reason::PROTOCOL_ERROR, now) } else { self.quiet(now) };
        }
        stream.answered = true;
        if end_stream {
            self.close(id, |stream| stream.receiving = false);
        }
        self.queued = Some(Event::Answered { id, answered: Box::new(answered) });
        Ok(())
    }

    fn reset_frame(&mut self, id: u32, reason: Reason, now: Instant) -> Result<()> {
        if self.is_idle(id) {
            return protocol("a reset of a stream that was never opened");
        }
        match self.streams.get(&id) {
            Some(stream) if stream.sending || stream.receiving => {
                let unanswered = self.role == Role::Server && !stream.answered;
                self.close(id, |stream| (stream.sending, stream.receiving) = (false, false));
                self.queued = Some(Event::Reset { id, reason });
                // Asked and taken back: what is cheap for the peer is not for us (CVE-2023-44487).
                if unanswered { self.charge(guard::PROVOKED, now) } else { Ok(()) }
            }
            _ => self.quiet(now),
        }
    }

    fn settings(&mut self, head: Head, payload: &[u8], now: Instant) -> Result<()> {
        self.quiet(now)?;
        if head.has(flag::ACK) {
            return Ok(());
        }
        for entry in payload.chunks_exact(SETTING as usize) {
            let (id, value) = (u16::from_be_bytes([entry[0], entry[1]]), number(&entry[2..]));
            match id {
                setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                    return protocol("a setting out of range");
                }
                setting::MAX_CONCURRENT_STREAMS => self.allowed.streams = Some(value),
                setting::INITIAL_WINDOW_SIZE => self.initial_window(value)?,
                setting::MAX_FRAME_SIZE if !(DEFAULT_FRAME..=LARGEST_FRAME).contains(&value) => return protocol("a setting out of range"),
                wire::SETTINGS_EARLY_DATA => self.allowed.early_data = value == 1,
                _ => {}
            }
        }
        self.settled = true;
        frame::write(kind::SETTINGS, flag::ACK, 0, &[], &mut self.out);
        self.queued = Some(Event::Settings);
        Ok(())
    }

    fn initial_window(&mut self, value: u32) -> Result<()> {
        let by = i64::from(value) - i64::from(self.allowed.window);
        self.allowed.window = value;
        let mut sending = self.streams.values_mut().filter(|stream| stream.sending);
        let fits = i64::from(value) <= LARGEST_WINDOW && sending.all(|stream| stream.outflow.grow(by));
        if fits { Ok(()) } else { fatal(Reason::FLOW_CONTROL_ERROR, "a window that is too large") }
    }

    fn window_update(&mut self, id: u32, by: u32, now: Instant) -> Result<()> {
        self.quiet(now)?;
        if id == 0 {
            if by == 0 {
                return protocol("a window update of nothing");
            }
            if !self.outflow.grow(by.into()) {
                return fatal(Reason::FLOW_CONTROL_ERROR, "a window that is too large");
            }
            self.queued = Some(Event::Room { id: None });
            return Ok(());
        }
        if self.is_idle(id) {
            return protocol("a window update of a stream that was never opened");
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sending) else { return Ok(()) };
        if by == 0 {
            return self.provoked(id, Reason::PROTOCOL_ERROR, now);
        }
        if !stream.outflow.grow(by.into()) {
            return self.provoked(id, Reason::FLOW_CONTROL_ERROR, now);
        }
        self.queued = Some(Event::Room { id: Some(id) });
        Ok(())
    }

    /// The peer broke a rule of one stream: that one is reset. It costs, or it could be done for ever (CVE-2025-8671).
    fn provoked(&mut self, id: u32, reason: Reason, now: Instant) -> Result<()> {
        // Nothing may be said of a stream that was never opened (RFC 9113, 6.4).
        if self.is_idle(id) {
            return fatal(reason, "a broken frame of a stream that was never opened");
        }
        if self.streams.get(&id).is_some_and(|stream| stream.sending || stream.receiving) {
            self.reset(id, reason);
            self.queued = Some(Event::Reset { id, reason });
        } else {
            self.refuse(id, reason);
        }
        self.charge(guard::PROVOKED, now)
    }

    fn quiet(&mut self, now: Instant) -> Result<()> {
        self.charge(guard::QUIET, now)
    }

    fn charge(&mut self, cost: u32, now: Instant) -> Result<()> {
        if self.guard.charge(cost, now) { Ok(()) } else { fatal(Reason::ENHANCE_YOUR_CALM, "too much that costs and carries nothing") }
    }
}

/// The first four bytes.
fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(std::array::from_fn(|at| bytes[at]))
}
