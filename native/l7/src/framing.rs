//! Where HTTP/1.1 messages of a client begin and end, read more strictly than a parser of heads alone can: what two servers could cut in two
//! different ways is a violation (RFC 9112, sections 2.2, 6.3, 7.1 and 11.2).
use crate::limits::HEAD_BYTES;
use memchr::{memchr, memchr2};

#[derive(Debug, Default)]
pub(crate) struct Framing {
    state: State,
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    head: Head,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first line of a head; empty lines may be there.
    #[default]
    Between,
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    Trailers,
}

/// What a head has said of the body so far.
#[derive(Debug, Default, Clone, Copy)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scanned {
    Fine,
    /// A request that wishes to upgrade ended there. What follows is HTTP only if the answer says so.
    Upgrade(usize),
    /// So many bytes may still be looked at by others. `head`: in one, so that it can be answered with 400.
    Violation {
        at: usize,
        head: bool,
    },
}

struct Violation;

/// The parser of heads has refused them long before, with the status that says so; this is for lines of bodies.
const LINE_BYTES: usize = 2 * HEAD_BYTES as usize;

impl Framing {
    /// A head has begun and has not ended.
    pub(crate) fn in_head(&self) -> bool {
        self.state == State::Head || (self.state == State::Between && !self.line.is_empty())
    }

    /// Once it has said `Violation`, it must not be asked again.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Body(left) => at += self.skip(left, rest, State::Body, State::Between),
                State::Chunk(left) => at += self.skip(left, rest, State::Chunk, State::ChunkEnd),
                _ => {
                    let head = matches!(self.state, State::Between | State::Head);
                    let Some(end) = memchr(b'\n', rest) else {
                        self.line.extend_from_slice(rest);
                        let long = self.line.len() > LINE_BYTES;
                        return if long { Scanned::Violation { at, head } } else { Scanned::Fine };
                    };
                    if self.whole_line(&rest[..=end]).is_err() {
                        return Scanned::Violation { at, head };
                    }
                    at += end + 1;
                }
            }
            if self.state == State::Between && std::mem::take(&mut self.head.upgrade) {
                return Scanned::Upgrade(at);
            }
        }
        Scanned::Fine
    }

    fn skip(&mut self, left: u64, rest: &[u8], again: fn(u64) -> State, then: State) -> usize {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
        let left = left - count as u64;
        self.state = if left == 0 { then } else { again(left) };
        count
    }

    fn whole_line(&mut self, end: &[u8]) -> Result<(), Violation> {
        if self.line.is_empty() {
            return self.take_line(end);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(end);
        let taken = self.take_line(&line);
        line.clear();
        self.line = line;
        taken
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let line = line.strip_suffix(b"\r\n").ok_or(Violation)?;
        if memchr2(b'\r', 0, line).is_some() {
            return Err(Violation);
        }
        match self.state {
            State::Between if line.is_empty() => {}
            State::Between => {
                self.head = Head::default();
                self.state = State::Head;
            }
            State::Head if line.is_empty() => self.state = self.head.body()?,
            State::Head => self.head.field(line)?,
            State::ChunkSize => {
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::Trailers if line.is_empty() => self.state = State::Between,
            State::Trailers if !folded(line) => {}
            State::ChunkEnd | State::Trailers | State::Body(_) | State::Chunk(_) => return Err(Violation),
        }
        Ok(())
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        if folded(line) {
            return Err(Violation);
        }
        // Lines without a colon, and bad names, are for the parser of heads.
        let Some(colon) = memchr(b':', line) else { return Ok(()) };
        let value = line[colon + 1..].trim_ascii();
        match line[..colon].trim_ascii() {
            name if name.eq_ignore_ascii_case(b"content-length") => {
                let length = digits(value, 10).filter(|_| self.length.is_none()).ok_or(Violation)?;
                self.length = Some(length);
            }
            name if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Violation);
                }
                self.chunked = true;
            }
            name if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            _ => {}
        }
        Ok(())
    }

    fn body(self) -> Result<State, Violation> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Violation),
            (None, true) => Ok(State::ChunkSize),
            (None | Some(0), false) => Ok(State::Between),
            (Some(length), false) => Ok(State::Body(length)),
        }
    }
}

/// The continuation of a line, which was given up in 2014 and is read in different ways.
fn folded(line: &[u8]) -> bool {
    line.first().is_some_and(|first| matches!(first, b' ' | b'\t'))
}

/// Extensions are nobody's business, but must not hide a line end.
fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let size = memchr(b';', line).map_or(line, |end| &line[..end]);
    digits(size, 16).ok_or(Violation)
}

/// Nothing but digits.
fn digits(text: &[u8], radix: u32) -> Option<u64> {
    let mut value: u64 = 0;
    for digit in text {
        value = value.checked_mul(radix.into())?.checked_add(char::from(*digit).to_digit(radix)?.into())?;
    }
    (!text.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use proptest::prelude::*;

    /// What is said of the whole, given in pieces of that size; offsets are those in the whole.
    fn scanned(bytes: &[u8], piece: usize) -> Scanned {
        let mut framing = Framing::default();
        for (index, piece_bytes) in bytes.chunks(piece).enumerate() {
            match framing.scan(piece_bytes) {
                Scanned::Fine => {}
                Scanned::Upgrade(at) => return Scanned::Upgrade(index * piece + at),
                Scanned::Violation { at, head } => return Scanned::Violation { at: index * piece + at, head },
            }
        }
        Scanned::Fine
    }

    #[test]
    fn messages_follow_each_other_whatever_their_bodies_are() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
            POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbody\n\0\r\n\n\
            \r\nPUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;ext=\"x\"\r\na\nb\r\n0A\r\n0123456789\r\n0\r\nsum: 1\r\n\r\n\
            POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        for piece in 1..whole.len() {
            assert_eq!(scanned(whole, piece), Scanned::Fine, "in pieces of {piece}");
        }
        let mut framing = Framing::default();
        framing.scan(whole);
        assert!(!framing.in_head());
    }

    #[test]
    fn what_could_be_cut_in_two_ways_is_a_violation() {
        for (head, bytes) in [
            (true, &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..]),
            (true, b"GET / HTTP/1.1\r\nHost: a\n\r\n"),
            (true, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
            (true, b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            (true, b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n"),
            (true, b"GET / HTTP/1.1\r\nHost: a\r\n\tfolded\r\n\r\n"),
            (true, b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n"),
            (true, b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 0x5\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length : 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
            (true, b"POST / HTTP/1.1\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n"),
            (false, b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nsum: 1\r\n x\r\n\r\n"),
        ] {
            for piece in [1, 2, 7, 1000] {
                let told = scanned(bytes, piece);
                assert!(
                    matches!(told, Scanned::Violation { head: of, .. } if of == head),
                    "{told:?} of {:?}",
                    String::from_utf8_lossy(bytes)
                );
            }
        }
    }

    #[test]
    fn a_line_without_an_end_is_not_kept_for_ever() {
        let mut framing = Framing::default();
        let told = (0..200).map(|_| framing.scan(&[b'a'; 1000])).find(|told| *told != Scanned::Fine);
        assert!(matches!(told, Some(Scanned::Violation { head: true, .. })));
        assert!(framing.line.len() <= LINE_BYTES + 1000);
    }

    #[test]
    fn after_an_upgrade_nothing_is_looked_at_until_it_is_answered() {
        let head = b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let whole = [&head[..], b"\n\0any\nthing"].concat();
        for piece in 1..whole.len() {
            assert_eq!(scanned(&whole, piece), Scanned::Upgrade(head.len()), "in pieces of {piece}");
        }
        let with_body = b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(scanned(&[&with_body[..], b"\n"].concat(), 10), Scanned::Upgrade(with_body.len()));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in "(GET / HTTP/1.1\r\n|[a-z]{1,3}: [a-z]{0,3}\r\n|\r\n|\n|Content-Length: [0-9]{1,2}\r\n|Transfer-Encoding: chunked\r\n|[0-9a-f]{1,2}\r\n|0\r\n\r\n| |\r|[a-z]{1,20}){0,20}", piece in 1_usize..20) {
            let whole = scanned(bytes.as_bytes(), usize::MAX);
            let pieces = scanned(bytes.as_bytes(), piece);
            let kind = |scanned| if let Scanned::Violation { head, .. } = scanned { Scanned::Violation { at: 0, head } } else { scanned };
            prop_assert_eq!(kind(whole), kind(pieces));
        }
    }
}
