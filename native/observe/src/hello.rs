//! The server name in a TLS ClientHello, read byte by byte as it passes: nothing of it is kept but the name.
use crate::limits::{HELLO, NAME};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Version and random.
const FIXED: usize = 34;

/// A reading position in the records of a hello, which may be cut anywhere.
#[derive(Debug)]
pub(crate) struct Hello {
    record: Record,
    place: Place,
    /// Of a number that is being read.
    number: usize,
    /// Bytes of the place that are still to come.
    left: usize,
    /// Of the message.
    message: usize,
    /// Of the extensions.
    extensions: usize,
    kind: u16,
    name: Vec<u8>,
}

/// Of the record that a byte is in.
#[derive(Debug)]
enum Record {
    Head(u8, usize),
    Fragment(usize),
}

/// What the next bytes of the message are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Kind,
    Length,
    Fixed,
    /// Length of a list that is skipped: the session's id, the suites, the compressions.
    ListLength(List),
    List(List),
    ExtensionsLength,
    ExtensionKind,
    ExtensionLength,
    Extension,
    /// The length of the list of names, which has one.
    NamesLength,
    NameKind,
    NameLength,
    Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    Session,
    Suites,
    Compressions,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    More,
    /// To its end, or as far as it tells: the name in lower case, where it has one.
    Names(Option<String>),
    NotTls,
}

impl Hello {
    pub(crate) fn new() -> Self {
        Self { record: Record::Head(0, 0), place: Place::Kind, number: 0, left: 1, message: 4, extensions: 0, kind: 0, name: Vec::new() }
    }

    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Read {
        while let Some((&first, rest)) = bytes.split_first() {
            match &mut self.record {
                Record::Head(at, length) => {
                    let fits = match *at {
                        0 => first == HANDSHAKE,
                        1 => first == 3,
                        2 => true,
                        _ => {
                            *length = *length << 8 | usize::from(first);
                            true
                        }
                    };
                    *at += 1;
                    let (whole, length) = (*at == 5, *length);
                    if !fits || whole && (length == 0 || length > HELLO) {
                        return Read::NotTls;
                    }
                    if whole {
                        self.record = Record::Fragment(length);
                    }
                    bytes = rest;
                }
                Record::Fragment(left) => {
                    let (part, behind) = bytes.split_at(bytes.len().min(*left));
                    *left -= part.len();
                    if *left == 0 {
                        self.record = Record::Head(0, 0);
                    }
                    bytes = behind;
                    match self.part(part) {
                        Read::More => {}
                        end => return end,
                    }
                }
            }
        }
        Read::More
    }

    /// Some more of the message.
    fn part(&mut self, mut bytes: &[u8]) -> Read {
        while !bytes.is_empty() {
            let (taken, rest) = bytes.split_at(bytes.len().min(self.left));
            bytes = rest;
            self.left -= taken.len();
            let Some(message) = self.message.checked_sub(taken.len()) else { return Read::NotTls };
            self.message = message;
            match self.place {
                Place::Fixed | Place::List(_) | Place::Extension => {}
                Place::Name => self.name.extend_from_slice(taken),
                _ => self.number = taken.iter().fold(self.number, |number, byte| number << 8 | usize::from(*byte)),
            }
            // Places without a byte end at once.
            while self.left == 0 {
                let number = std::mem::take(&mut self.number);
                match self.next(number) {
                    Ok((place, left)) => (self.place, self.left) = (place, left),
                    Err(end) => return end,
                }
            }
        }
        Read::More
    }

    /// What comes behind the place that has just ended, and how many bytes it has.
    fn next(&mut self, number: usize) -> Result<(Place, usize), Read> {
        Ok(match self.place {
            Place::Kind if number == usize::from(CLIENT_HELLO) => (Place::Length, 3),
            Place::Length if number <= HELLO => {
                self.message = number;
                (Place::Fixed, FIXED)
            }
            Place::Fixed => (Place::ListLength(List::Session), 1),
            Place::ListLength(list) => (Place::List(list), number),
            Place::List(List::Session) => (Place::ListLength(List::Suites), 2),
            Place::List(List::Suites) => (Place::ListLength(List::Compressions), 1),
            Place::List(List::Compressions) if self.message == 0 => return Err(Read::Names(None)),
            Place::List(List::Compressions) => (Place::ExtensionsLength, 2),
            Place::ExtensionsLength => {
                self.extensions = number;
                self.extension()?
            }
            Place::ExtensionKind => {
                self.kind = u16::try_from(number).map_err(|_| Read::NotTls)?;
                (Place::ExtensionLength, 2)
            }
            Place::ExtensionLength => {
                self.extensions = self.extensions.checked_sub(4 + number).ok_or(Read::NotTls)?;
                if self.kind == SERVER_NAME { (Place::NamesLength, 2) } else { (Place::Extension, number) }
            }
            Place::Extension => self.extension()?,
            Place::NamesLength => (Place::NameKind, 1),
            Place::NameKind if number == usize::from(HOST_NAME) => (Place::NameLength, 2),
            Place::NameLength if (1..=NAME).contains(&number) => (Place::Name, number),
            Place::Name => return Err(host_name(&self.name).map_or(Read::NotTls, |name| Read::Names(Some(name)))),
            Place::Kind | Place::Length | Place::NameKind | Place::NameLength => return Err(Read::NotTls),
        })
    }

    fn extension(&self) -> Result<(Place, usize), Read> {
        if self.extensions == 0 { Err(Read::Names(None)) } else { Ok((Place::ExtensionKind, 2)) }
    }
}

fn host_name(name: &[u8]) -> Option<String> {
    let fine = name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    fine.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use super::*;

    fn vector(length_bytes: usize, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[4 - length_bytes..], body].concat()
    }

    fn message(name: Option<&str>) -> Vec<u8> {
        let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &vector(2, body)].concat();
        let sni = name.map(|name| extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat())));
        // An extension without a body before it, and a long one.
        let extensions = [extension(23, &[]), extension(51, &[1; 1200]), sni.unwrap_or_default(), extension(10, &[0, 2, 0, 29])].concat();
        let body = [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[19, 1]), &vector(1, &[0]), &vector(2, &extensions)].concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    fn records(message: &[u8], cut: usize) -> Vec<u8> {
        message.chunks(cut).flat_map(|fragment| [&[22, 3, 1][..], &vector(2, fragment)].concat()).collect()
    }

    #[test]
    fn the_name_is_read_however_records_and_reads_are_cut() {
        for (cut, piece) in [(1, 1), (3, 7), (5, 1000), (10_000, 1), (10_000, 10_000)] {
            for name in [Some("WWW.Shop.example"), None] {
                let (bytes, mut hello) = (records(&message(name), cut), Hello::new());
                let read = bytes.chunks(piece).map(|piece| hello.read(piece)).find(|read| *read != Read::More);
                assert_eq!(read, Some(Read::Names(name.map(str::to_ascii_lowercase))), "{cut} {piece}");
            }
        }
    }

    #[test]
    fn what_is_no_hello_is_none_however_it_goes_on() {
        for bad in [&b"GET / HTTP/1.1"[..], &[22, 2], &[22, 3, 1, 0, 0], &[22, 3, 1, 0, 4, 2], &[22, 3, 1, 0, 4, 1, 255, 255, 255]] {
            assert_eq!(Hello::new().read(bad), Read::NotTls, "{bad:?}");
        }
        assert_eq!(Hello::new().read(&records(&message(Some("sh op")), 10_000)), Read::NotTls);
    }
}
