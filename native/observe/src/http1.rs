//! HTTP/1.1 as it passes: where messages begin and end, and which answer belongs to which request (RFC 9112).
use std::collections::VecDeque;
use std::time::Instant;

use trackbed_hbone::Side;

use crate::exchange::{Exchange, GaveUp};
use crate::limits::{LINE, PIPELINED};
use crate::observer::{Depth, Progress};
use crate::protocol::Protocol;

#[derive(Debug)]
pub(crate) struct Http1 {
    depth: Depth,
    client: Reader,
    server: Reader,
    waiting: VecDeque<Waiting>,
    /// Of the answer that is being read.
    status: u16,
}

/// A request without its whole answer.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    /// What decides whether its answer has a body.
    method: Method,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Head,
    Connect,
    Other,
}

/// One direction.
#[derive(Debug)]
struct Reader {
    part: Part,
    line: Line,
    /// What its head has said of the message so far.
    head: Head,
    /// When its first byte passed.
    since: Option<Instant>,
}

/// What the next bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Start,
    Field,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    Trailer,
    /// As long as the connection lives.
    Rest,
}

/// The beginning of a line that is not whole yet.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// Some of it was not kept.
    cut: bool,
    /// `text` is of the line before, which has been read.
    read: bool,
}

#[derive(Debug, Default, Clone, Copy)]
struct Head {
    length: Option<u64>,
    /// Transfer-Encoding was there, and whether chunks are its last word.
    coded: Option<bool>,
    websocket: bool,
    upgrade: bool,
}

/// What a reader has come to.
enum Event<'a> {
    Start(&'a [u8]),
    /// The head is whole.
    Head(Head),
    /// The message is.
    End,
}

impl Http1 {
    pub(crate) fn new(depth: Depth) -> Self {
        let reader = || Reader { part: Part::Start, line: Line::default(), head: Head::default(), since: None };
        Self { depth, client: reader(), server: reader(), waiting: VecDeque::new(), status: 0 }
    }

    pub(crate) fn feed(&mut self, from: Side, bytes: &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) -> Progress {
        let mut rest = bytes;
        while !rest.is_empty() {
            let read = match from {
                Side::Client => self.asked(&mut rest, now),
                Side::Server => self.answered(&mut rest, now, tell),
            };
            match read {
                Ok(None) => {}
                Ok(Some(protocol)) => return Progress::Over(protocol),
                Err(why) => return Progress::GaveUp(why),
            }
        }
        Progress::More
    }

    pub(crate) fn finished(&mut self, from: Side, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        if from == Side::Server && self.server.part == Part::Rest {
            self.complete(now, tell);
            self.server.begin();
        }
    }

    pub(crate) fn end(&mut self, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        // The first one's answer may have begun.
        let begun = self.server.part != Part::Start && self.status >= 200;
        for (index, request) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            tell(exchange(request, (begun && index == 0).then_some(self.status), now));
        }
    }

    /// Some of what the client says. Not None when nothing more is wanted.
    fn asked(&mut self, rest: &mut &[u8], now: Instant) -> Result<Option<Protocol>, GaveUp> {
        match self.client.read(rest, now)? {
            Some(Event::Start(line)) => {
                if self.waiting.len() == PIPELINED {
                    return Err(GaveUp::Bound);
                }
                let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                let is_token =
                    !method.is_empty() && method.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_!#$%&'*+.^`|~".contains(byte));
                if !is_token || method.len() == line.len() {
                    return Err(GaveUp::Malformed);
                }
                let method = match method {
                    b"HEAD" => Method::Head,
                    b"CONNECT" => Method::Connect,
                    _ => Method::Other,
                };
                self.waiting.push_back(Waiting { since: self.client.since.unwrap_or(now), method });
            }
            Some(Event::Head(head)) => {
                // Nothing more of a connection that stays what it is.
                if self.depth == Depth::Protocol && !head.upgrade {
                    return Ok(Some(Protocol::Http1));
                }
                self.client.body(match head {
                    Head { coded: Some(true), .. } => Part::ChunkSize,
                    // RFC 9112, 6.3: it has no end then.
                    Head { coded: Some(false), .. } => return Err(GaveUp::Malformed),
                    Head { length, .. } => Part::Body(length.unwrap_or(0)),
                });
            }
            Some(Event::End) | None => {}
        }
        Ok(None)
    }

    /// Some of what the server says.
    fn answered(&mut self, rest: &mut &[u8], now: Instant, tell: &mut dyn FnMut(Exchange)) -> Result<Option<Protocol>, GaveUp> {
        match self.server.read(rest, now)? {
            Some(Event::Start(line)) => {
                // A server that says something unasked closes the connection with it (408).
                if self.waiting.is_empty() {
                    return Err(GaveUp::Malformed);
                }
                self.status = status(line).ok_or(GaveUp::Malformed)?;
            }
            Some(Event::Head(head)) => {
                let method = self.waiting.front().map_or(Method::Other, |request| request.method);
                let body = match (self.status, method) {
                    (101, _) | (200..300, Method::Connect) => {
                        self.complete(now, tell);
                        return Ok(Some(if head.websocket { Protocol::WebSocket } else { Protocol::Http1 }));
                    }
                    // Another answer follows.
                    (100..200, _) => {
                        self.server.begin();
                        return Ok(None);
                    }
                    _ if self.depth == Depth::Protocol => return Ok(Some(Protocol::Http1)),
                    (204 | 304, _) | (_, Method::Head) => Part::Body(0),
                    _ => match head {
                        Head { coded: Some(true), .. } => Part::ChunkSize,
                        Head { coded: None, length: Some(length), .. } => Part::Body(length),
                        Head { .. } => Part::Rest,
                    },
                };
                self.server.body(body);
                if body == Part::Body(0) {
                    self.complete(now, tell);
                }
            }
            Some(Event::End) => self.complete(now, tell),
            None => {}
        }
        Ok(None)
    }

    /// The oldest request has its whole answer.
    fn complete(&mut self, now: Instant, tell: &mut dyn FnMut(Exchange)) {
        if let Some(request) = self.waiting.pop_front() {
            tell(exchange(request, Some(self.status), now));
        }
    }
}

fn exchange(request: Waiting, status: Option<u16>, now: Instant) -> Exchange {
    Exchange { protocol: Protocol::Http1, status, grpc_status: None, duration: now.saturating_duration_since(request.since) }
}

fn status(line: &[u8]) -> Option<u16> {
    let digits = line.strip_prefix(b"HTTP/1.")?.get(2..)?.first_chunk::<3>()?;
    digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0')))
}

impl Reader {
    /// The next message.
    fn begin(&mut self) {
        (self.part, self.head, self.since) = (Part::Start, Head::default(), None);
    }

    fn body(&mut self, part: Part) {
        self.part = part;
        if part == Part::Body(0) {
            self.begin();
        }
    }

    /// Takes some of the bytes: up to what they tell.
    fn read<'s, 'b: 's>(&'s mut self, rest: &mut &'b [u8], now: Instant) -> Result<Option<Event<'s>>, GaveUp> {
        let is_over = match &mut self.part {
            Part::Rest => {
                *rest = &[];
                false
            }
            Part::Body(left) => skip(rest, left),
            Part::Chunk(left) => {
                if skip(rest, left) {
                    self.part = Part::ChunkSize;
                }
                false
            }
            Part::Start | Part::Field | Part::ChunkSize | Part::Trailer => return self.read_line(rest, now),
        };
        if is_over {
            self.begin();
        }
        Ok(is_over.then_some(Event::End))
    }

    fn read_line<'s, 'b: 's>(&'s mut self, rest: &mut &'b [u8], now: Instant) -> Result<Option<Event<'s>>, GaveUp> {
        self.since.get_or_insert(now);
        let Some((line, cut)) = self.line.read(rest) else { return Ok(None) };
        match self.part {
            // RFC 9112, 2.2: an empty line before a request is not looked at.
            Part::Start if line.is_empty() => self.since = None,
            Part::Start => {
                self.part = Part::Field;
                return Ok(Some(Event::Start(line)));
            }
            Part::Field if line.is_empty() => return Ok(Some(Event::Head(self.head))),
            Part::Field => self.head.field(line, cut)?,
            Part::ChunkSize => {
                self.part = match chunk_size(line).ok_or(GaveUp::Malformed)? {
                    0 => Part::Trailer,
                    // With the end of line behind it.
                    size => Part::Chunk(size + 2),
                };
            }
            Part::Trailer if line.is_empty() => {
                (self.part, self.head, self.since) = (Part::Start, Head::default(), None);
                return Ok(Some(Event::End));
            }
            _ => {}
        }
        Ok(None)
    }
}

/// True when that was all.
fn skip(rest: &mut &[u8], left: &mut u64) -> bool {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
    *rest = &rest[count..];
    *left -= count as u64;
    *left == 0
}

/// Up to the extensions, which nobody uses.
fn chunk_size(line: &[u8]) -> Option<u64> {
    const MOST_DIGITS: usize = 15;
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
    if !(1..=MOST_DIGITS).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |size, digit| Some(size << 4 | u64::from(char::from(*digit).to_digit(16)?)))
}

impl Line {
    /// The line that ends in `rest`, without its end, and whether its rest was left away; None when it does not end there.
    fn read<'s, 'b: 's>(&'s mut self, rest: &mut &'b [u8]) -> Option<(&'s [u8], bool)> {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.keep(rest);
            *rest = &[];
            return None;
        };
        let (last, behind) = rest.split_at(end);
        *rest = &behind[1..];
        if self.read || self.text.is_empty() {
            // No more of it than would be kept were it in pieces: what is told does not depend on that.
            return Some((without_return(&last[..last.len().min(LINE)]), last.len() > LINE));
        }
        self.keep(last);
        self.read = true;
        Some((without_return(&self.text), self.cut))
    }

    fn keep(&mut self, bytes: &[u8]) {
        if std::mem::take(&mut self.read) {
            (self.text, self.cut) = (Vec::new(), false);
        }
        let room = LINE - self.text.len();
        self.cut |= bytes.len() > room;
        self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

impl Head {
    fn field(&mut self, line: &[u8], cut: bool) -> Result<(), GaveUp> {
        let Some(colon) = memchr::memchr(b':', line) else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let telling = match name.len() {
            14 if is("content-length") => {
                let length = number(value).ok_or(GaveUp::Malformed)?;
                if self.length.is_some_and(|other| other != length) {
                    return Err(GaveUp::Malformed);
                }
                self.length = Some(length);
                true
            }
            17 if is("transfer-encoding") => {
                let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
                self.coded = Some(last.eq_ignore_ascii_case(b"chunked"));
                true
            }
            7 if is("upgrade") => {
                self.upgrade = true;
                self.websocket |= value.eq_ignore_ascii_case(b"websocket");
                false
            }
            _ => false,
        };
        if telling && cut { Err(GaveUp::Bound) } else { Ok(()) }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    const MOST_DIGITS: usize = 18;
    if !(1..=MOST_DIGITS).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| Some(number * 10 + u64::from(char::from(*digit).to_digit(10)?)))
}
