//! The server name in a TLS ClientHello: read, never changed.
use crate::limits::HELLO_BYTES;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hello {
    /// More bytes are needed.
    Incomplete,
    /// In lower case; None where the client does not say.
    Names(Option<String>),
    NotTls,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Of a plaintext record (RFC 8446, section 5.1).
const RECORD_BYTES: usize = 16 * 1024;

/// `bytes`: everything that the client has sent.
pub(crate) fn hello(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    // A hello may be cut into records, and some clients do so.
    loop {
        match record(rest) {
            Err(hello) => return hello,
            Ok((fragment, after)) => {
                message.extend_from_slice(fragment);
                rest = after;
            }
        }
        let Some(header) = message.first_chunk::<4>() else { continue };
        let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
        if header[0] != CLIENT_HELLO || length > HELLO_BYTES {
            return Hello::NotTls;
        }
        if let Some(body) = message.get(4..4 + length) {
            return Reader(body).names().unwrap_or(Hello::NotTls);
        }
    }
}

fn record(bytes: &[u8]) -> Result<(&[u8], &[u8]), Hello> {
    if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) || bytes.get(1).is_some_and(|major| *major != 3) {
        return Err(Hello::NotTls);
    }
    let header = bytes.first_chunk::<5>().ok_or(Hello::Incomplete)?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length == 0 || length > RECORD_BYTES {
        return Err(Hello::NotTls);
    }
    bytes[5..].split_at_checked(length).ok_or(Hello::Incomplete)
}

/// Reads what is there; None where something is missing.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn names(&mut self) -> Option<Hello> {
        self.take(2 + 32)?;
        self.vector8()?;
        self.vector16()?;
        self.vector8()?;
        if self.0.is_empty() {
            return Some(Hello::Names(None));
        }
        let mut extensions = Reader(self.vector16()?);
        while !extensions.0.is_empty() {
            let kind = extensions.u16()?;
            let mut body = Reader(extensions.vector16()?);
            if kind == SERVER_NAME {
                let mut names = Reader(body.vector16()?);
                let kind = names.take(1)?;
                let name = names.vector16()?;
                return (kind == [HOST_NAME]).then(|| host_name(name)).flatten().map(|name| Hello::Names(Some(name)));
            }
        }
        Some(Hello::Names(None))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

fn host_name(name: &[u8]) -> Option<String> {
    let fine = (1..=253).contains(&name.len()) && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    fine.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use proptest::prelude::*;

    fn vector(length_bytes: usize, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[4 - length_bytes..], body].concat()
    }

    fn message(name: Option<&str>) -> Vec<u8> {
        let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &vector(2, body)].concat();
        let sni = name.map(|name| extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat())));
        let extensions = [extension(43, &[2, 3, 4]), sni.unwrap_or_default(), extension(10, &[0, 2, 0, 29])].concat();
        let body = [&[3, 3][..], &[7; 32], &vector(1, &[9; 32]), &vector(2, &[19, 1]), &vector(1, &[0]), &vector(2, &extensions)].concat();
        [&[1][..], &vector(3, &body)].concat()
    }

    /// Cut into records of that many bytes.
    pub(crate) fn client_hello(name: Option<&str>, cut: usize) -> Vec<u8> {
        message(name).chunks(cut).flat_map(|fragment| [&[22, 3, 1][..], &vector(2, fragment)].concat()).collect()
    }

    #[test]
    fn the_name_is_read_however_the_hello_is_cut() {
        for cut in [1, 3, 4, 5, 50, 10_000] {
            let bytes = client_hello(Some("WWW.Shop.example"), cut);
            assert_eq!(hello(&bytes), Hello::Names(Some("www.shop.example".into())), "{cut}");
            (0..bytes.len()).for_each(|end| assert_eq!(hello(&bytes[..end]), Hello::Incomplete, "{cut} {end}"));
        }
        assert_eq!(hello(&client_hello(None, 10_000)), Hello::Names(None));
    }

    #[test]
    fn what_is_no_hello_is_told_apart_from_a_part_of_one() {
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x02",
            b"\x15\x03\x01",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        ] {
            assert_eq!(hello(bad), Hello::NotTls, "{bad:?}");
        }
        assert_eq!(hello(&client_hello(Some("a b"), 10_000)), Hello::NotTls);
        assert_eq!(hello(&client_hello(Some(""), 10_000)), Hello::NotTls);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(mut bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..200, to in any::<u8>()) {
            hello(&bytes);
            bytes.splice(0..0, [22, 3, 1]);
            hello(&bytes);
            let mut changed = client_hello(Some("shop.example"), 60);
            let at = at % changed.len();
            changed[at] = to;
            hello(&changed);
        }
    }
}
