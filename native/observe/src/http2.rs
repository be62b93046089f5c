//! HTTP/2 as it passes, gRPC in it too: which streams are open, and how each was answered (RFC 9113).
use std::time::Instant;

use trackbed_hbone::{Decoder, Side};

use crate::exchange::{Exchange, GaveUp};
use crate::limits::{BLOCK, STREAMS};
use crate::observer::{Depth, Progress};
use crate::protocol::Protocol;
use crate::sniff::PREFACE;

const HEAD: usize = 9;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 0x1;
    pub(super) const END_HEADERS: u8 = 0x4;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

#[derive(Debug)]
pub(crate) struct Http2 {
    depth: Depth,
    client: Reader,
    server: Reader,
    /// Requests without their whole answers, by number.
    streams: Vec<Stream>,
    /// The highest number that the client has used.
    last: u32,
    /// Of the first request.
    grpc: bool,
}

#[derive(Debug)]
struct Stream {
    id: u32,
    since: Instant,
    grpc: bool,
    /// 0 before the answer.
    status: u16,
    grpc_status: Option<u16>,
}

/// One direction.
#[derive(Debug)]
struct Reader {
    place: Place,
    /// Of a frame's head, or of a payload that is wanted whole: what came of it.
    part: Vec<u8>,
    decoder: Decoder,
    /// A header block that goes on in another frame.
    block: Option<Block>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// So many bytes of it are still to come.
    Preface(usize),
    Head,
    Payload(Head, usize),
}

#[derive(Debug, Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    pushed: bool,
    bytes: Vec<u8>,
}

/// What a block says that is of interest.
#[derive(Debug, Default)]
struct Fields {
    status: Option<u16>,
    grpc_status: Option<u16>,
    grpc: bool,
}

impl Http2 {
    pub(crate) fn new(depth: Depth) -> Self {
        let reader = |place| Reader { place, part: Vec::new(), decoder: Decoder::new(), block: None };
        Self {
            depth,
            client: reader(Place::Preface(PREFACE.len())),
            server: reader(Place::Head),
            streams: Vec::new(),
            last: 0,
            grpc: false,
        }
    }

    /// The client has said that it speaks HTTP/2.
    pub(crate) fn is_begun(&self) -> bool {
        !matches!(self.client.place, Place::Preface(_))
    }

    pub(crate) fn is_grpc(&self) -> bool {
        self.grpc
    }

    pub(crate) fn feed(&mut self, from: Side, mut bytes: &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) -> Progress {
        // The first request is all that is wanted then.
        if self.depth == Depth::Protocol && from == Side::Server {
            return Progress::More;
        }
        while !bytes.is_empty() {
            if let Err(why) = self.step(from, &mut bytes, now, tell) {
                return Progress::GaveUp(why);
            }
            if self.depth == Depth::Protocol && self.last > 0 {
                return Progress::Over(self.protocol());
            }
        }
        Progress::More
    }

    pub(crate) fn end(&mut self, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        for stream in std::mem::take(&mut self.streams) {
            tell(stream.exchange(now));
        }
    }

    fn protocol(&self) -> Protocol {
        if self.grpc { Protocol::Grpc } else { Protocol::Http2 }
    }

    fn reader(&mut self, from: Side) -> &mut Reader {
        match from {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Takes some of the bytes.
    fn step(&mut self, from: Side, bytes: &mut &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) -> Result<(), GaveUp> {
        let reader = self.reader(from);
        match reader.place {
            Place::Preface(left) => {
                let count = left.min(bytes.len());
                let (said, rest) = bytes.split_at(count);
                if !PREFACE[PREFACE.len() - left..].starts_with(said) {
                    return Err(GaveUp::Malformed);
                }
                *bytes = rest;
                reader.place = if left == count { Place::Head } else { Place::Preface(left - count) };
            }
            Place::Head => {
                let Some(head) = reader.head(bytes)? else { return Ok(()) };
                reader.place = Place::Payload(head, head.length);
                if head.length == 0 {
                    return self.whole(from, head, &[], now, tell);
                }
            }
            Place::Payload(head, left) => {
                let count = left.min(bytes.len());
                let (said, rest) = bytes.split_at(count);
                *bytes = rest;
                let is_whole = left == count;
                reader.place = Place::Payload(head, left - count);
                if !head.is_wanted() {
                    return if is_whole { self.whole(from, head, &[], now, tell) } else { Ok(()) };
                }
                if is_whole && count == head.length {
                    return self.whole(from, head, said, now, tell);
                }
                reader.part.extend_from_slice(said);
                if is_whole {
                    let part = std::mem::take(&mut reader.part);
                    return self.whole(from, head, &part, now, tell);
                }
            }
        }
        Ok(())
    }

    /// A frame has passed; `payload` is empty where it is not wanted.
    fn whole(&mut self, from: Side, head: Head, payload: &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) -> Result<(), GaveUp> {
        let reader = self.reader(from);
        reader.place = Place::Head;
        match head.kind {
            kind::HEADERS | kind::PUSH_PROMISE => {
                if reader.block.is_some() {
                    return Err(GaveUp::Malformed);
                }
                let (ends, pushed) = (head.has(flag::END_STREAM), head.kind == kind::PUSH_PROMISE);
                let fragment = head.fragment(payload).ok_or(GaveUp::Malformed)?;
                if head.has(flag::END_HEADERS) {
                    let fields = reader.decode(fragment)?;
                    self.said(from, head.stream, &fields, ends && !pushed, pushed, now, tell)?;
                } else {
                    reader.block = Some(Block { stream: head.stream, ends, pushed, bytes: fragment.to_vec() });
                }
            }
            kind::CONTINUATION => {
                let mut block = reader.block.take().filter(|block| block.stream == head.stream).ok_or(GaveUp::Malformed)?;
                if block.bytes.len() + payload.len() > BLOCK {
                    return Err(GaveUp::Bound);
                }
                block.bytes.extend_from_slice(payload);
                if head.has(flag::END_HEADERS) {
                    let fields = reader.decode(&block.bytes)?;
                    self.said(from, block.stream, &fields, block.ends && !block.pushed, block.pushed, now, tell)?;
                } else {
                    reader.block = Some(block);
                }
            }
            kind::DATA if from == Side::Server && head.has(flag::END_STREAM) => self.over(head.stream, now, tell),
            kind::RST_STREAM => self.over(head.stream, now, tell),
            _ => {}
        }
        Ok(())
    }

    /// A header block.
    #[allow(clippy::too_many_arguments)] // one caller's two places
    fn said(
        &mut self,
        from: Side,
        id: u32,
        fields: &Fields,
        ends: bool,
        pushed: bool,
        now: Instant,
        tell: &mut dyn FnMut(Exchange),
    ) -> Result<(), GaveUp> {
        match from {
            // What comes later of a stream is its trailers.
            Side::Client if id > self.last => {
                if self.streams.len() == STREAMS {
                    return Err(GaveUp::Bound);
                }
                self.grpc |= fields.grpc && self.last == 0;
                self.last = id;
                self.streams.push(Stream { id, since: now, grpc: fields.grpc, status: 0, grpc_status: None });
            }
            Side::Server if !pushed => {
                if let Some(stream) = self.place(id).map(|at| &mut self.streams[at]) {
                    // Of 1xx another one follows.
                    if let Some(status) = fields.status.filter(|status| *status >= 200) {
                        stream.status = status;
                    }
                    stream.grpc_status = fields.grpc_status.or(stream.grpc_status);
                }
                if ends {
                    self.over(id, now, tell);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn place(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |stream| stream.id).ok()
    }

    fn over(&mut self, id: u32, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        if let Some(at) = self.place(id) {
            tell(self.streams.remove(at).exchange(now));
        }
    }
}

impl Stream {
    fn exchange(&self, now: Instant) -> Exchange {
        Exchange {
            protocol: if self.grpc { Protocol::Grpc } else { Protocol::Http2 },
            status: (self.status != 0).then_some(self.status),
            grpc_status: self.grpc_status.filter(|_| self.grpc),
            duration: now.saturating_duration_since(self.since),
        }
    }
}

impl Reader {
    /// The head of a frame, when all of it is there.
    fn head(&mut self, bytes: &mut &[u8]) -> Result<Option<Head>, GaveUp> {
        let head = match bytes.split_first_chunk::<HEAD>() {
            Some((head, rest)) if self.part.is_empty() => {
                *bytes = rest;
                *head
            }
            _ => {
                let (said, rest) = bytes.split_at(bytes.len().min(HEAD - self.part.len()));
                self.part.extend_from_slice(said);
                *bytes = rest;
                let Ok(head) = <[u8; HEAD]>::try_from(&self.part[..]) else { return Ok(None) };
                self.part.clear();
                head
            }
        };
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        let head = Head { length, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) };
        // Such frames come on streams, and are no longer than what we keep. No other may come within a block.
        let fits = !head.is_wanted() || head.length <= BLOCK;
        let in_order = self.block.is_none() || head.kind == kind::CONTINUATION;
        match (fits, in_order) {
            (true, true) => Ok(Some(head)),
            (false, _) => Err(GaveUp::Bound),
            (_, false) => Err(GaveUp::Malformed),
        }
    }

    fn decode(&mut self, block: &[u8]) -> Result<Fields, GaveUp> {
        let mut fields = Fields::default();
        let read = self.decoder.decode(block, |name, value| match name {
            b":status" => fields.status = number(value),
            b"grpc-status" => fields.grpc_status = number(value),
            b"content-type" => fields.grpc = is_grpc(value),
            _ => {}
        });
        read.map(|()| fields).map_err(|_| GaveUp::Malformed)
    }
}

impl Head {
    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Its payload is looked at.
    fn is_wanted(self) -> bool {
        matches!(self.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION)
    }

    /// The part of a header block in the payload, without what stands before and behind it.
    fn fragment(self, mut payload: &[u8]) -> Option<&[u8]> {
        let mut padding = 0;
        if self.has(flag::PADDED) {
            let (length, rest) = payload.split_first()?;
            (padding, payload) = (usize::from(*length), rest);
        }
        let before = match self.kind {
            kind::PUSH_PROMISE => 4,
            _ if self.has(flag::PRIORITY) => 5,
            _ => 0,
        };
        payload.get(before..payload.len().checked_sub(padding)?)
    }
}

/// Not gRPC-Web, whose status is elsewhere.
fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn number(digits: &[u8]) -> Option<u16> {
    let fits = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}
