//! What a header block says: a CONNECT or why it is none, or the answer to one (RFC 9113, 8.2, 8.3 and 8.5).
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use trackbed_contract::tables::bounds;

use super::hpack::{Broken, Decoder};

/// What a field counts beyond its bytes (RFC 9113, 6.5.2).
const OVERHEAD: usize = 32;
/// Headers that speak of one connection and have no place in HTTP/2.
const OF_CONNECTION: [&[u8]; 5] = [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

/// A request as far as the server needs it.
#[derive(Debug)]
pub(crate) struct Asked {
    /// None when it is no proper CONNECT: it is answered with `status`.
    pub(crate) authority: Option<String>,
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
}

/// Every field of a block, sorted.
#[derive(Debug, Default)]
struct Fields {
    method: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    status: Option<Vec<u8>>,
    /// :scheme, :path or :protocol, which CONNECT does not have.
    other_pseudo: bool,
    headers: HeaderMap,
    malformed: bool,
    size: usize,
    too_large: bool,
}

const BAD_REQUEST: u16 = 400;
const TOO_LARGE: u16 = 431;

impl Asked {
    /// `most` bounds the decoded list. The block is decoded to its end in any case.
    pub(crate) fn read(block: &[u8], decoder: &mut Decoder, most: usize) -> Result<Self, Broken> {
        let fields = Fields::read(block, decoder, most)?;
        let proper = !fields.too_large
            && !fields.malformed
            && !fields.other_pseudo
            && fields.status.is_none()
            && fields.method.as_deref() == Some(b"CONNECT");
        let authority = fields.authority.filter(|_| proper).and_then(authority);
        Ok(Self { authority, status: if fields.too_large { TOO_LARGE } else { BAD_REQUEST }, headers: fields.headers })
    }
}

impl Answered {
    /// None when it is no proper answer.
    pub(crate) fn read(block: &[u8], decoder: &mut Decoder, most: usize) -> Result<Option<Self>, Broken> {
        let fields = Fields::read(block, decoder, most)?;
        let stray = fields.other_pseudo || fields.method.is_some() || fields.authority.is_some();
        let status = fields.status.as_deref().and_then(status).filter(|_| !fields.malformed && !fields.too_large && !stray);
        Ok(status.map(|status| Self { status, headers: fields.headers }))
    }
}

impl Fields {
    fn read(block: &[u8], decoder: &mut Decoder, most: usize) -> Result<Self, Broken> {
        let mut fields = Self::default();
        decoder.decode(block, |name, value| {
            fields.size += name.len() + value.len() + OVERHEAD;
            fields.too_large |= fields.size > most;
            if !fields.too_large {
                fields.take(name, value);
            }
        })?;
        Ok(fields)
    }

    fn take(&mut self, name: &[u8], value: &[u8]) {
        let Some(pseudo) = name.strip_prefix(b":") else { return self.header(name, value) };
        let place = match pseudo {
            b"method" => &mut self.method,
            b"authority" => &mut self.authority,
            b"status" => &mut self.status,
            b"scheme" | b"path" | b"protocol" => {
                self.other_pseudo = true;
                return;
            }
            _ => {
                self.malformed = true;
                return;
            }
        };
        // Doubled, or behind a regular field.
        self.malformed |= place.is_some() || !self.headers.is_empty();
        *place = Some(value.to_vec());
    }

    fn header(&mut self, name: &[u8], value: &[u8]) {
        let bad = name.iter().any(u8::is_ascii_uppercase) || OF_CONNECTION.contains(&name) || (name == b"te" && value != b"trailers");
        match (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            (Ok(name), Ok(value)) if !bad => _ = self.headers.try_append(name, value).inspect_err(|_| self.malformed = true),
            _ => self.malformed = true,
        }
    }
}

fn authority(text: Vec<u8>) -> Option<String> {
    let text = String::from_utf8(text).ok().filter(|text| text.len() <= bounds::AUTHORITY_BYTES as usize && !text.contains('@'))?;
    text.parse::<Authority>().is_ok().then_some(text)
}

fn status(text: &[u8]) -> Option<u16> {
    let digits = <[u8; 3]>::try_from(text).ok().filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (status >= 100).then_some(status)
}
