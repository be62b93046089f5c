//! Records of the peer, one after the other, opened where they lie.
use std::ops::Range;

use super::message::{KeyUpdate, Messages};
use super::{Buffer, HEADER, Keys, MAX_BODY, MAX_PLAINTEXT, RecordError, Role, TAG, content};

/// Records in a row that carry no data: more than any honest peer sends, few enough to cost nothing.
const MAX_QUIET: u8 = 32;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// What the front of the input was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// Not a whole record yet.
    More,
    /// Application data, at this place of the input (which has moved on behind the record).
    Data(Range<usize>),
    /// Nothing for the application.
    Control,
    /// The peer's keys changed; `asked` when ours must change too.
    Updated { asked: bool },
    /// close_notify: the peer sends nothing more.
    Closed,
}

pub(crate) struct Opener {
    keys: Keys,
    role: Role,
    messages: Messages,
    quiet: u8,
}

impl Opener {
    pub(crate) fn new(keys: Keys, role: Role) -> Self {
        Self { keys, role, messages: Messages::default(), quiet: 0 }
    }

    /// Goes on where another one stopped: within a message perhaps, and behind `quiet` records without data. None for more than there can be.
    pub(crate) fn resume(keys: Keys, role: Role, messages: Messages, quiet: u8) -> Option<Self> {
        (quiet <= MAX_QUIET).then_some(Self { keys, role, messages, quiet })
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn role(&self) -> Role {
        self.role
    }

    pub(crate) fn messages(&self) -> &Messages {
        &self.messages
    }

    pub(crate) fn quiet(&self) -> u8 {
        self.quiet
    }

    pub(crate) fn next(&mut self, input: &mut Buffer) -> Result<Opened, RecordError> {
        let start = input.start();
        let (length, opened) = self.front(input.filled_mut())?;
        input.consume(length);
        Ok(match opened {
            Opened::Data(range) => Opened::Data(start + range.start..start + range.end),
            other => other,
        })
    }

    /// Opens the record at the front in place: how long it is, and where in `input` its data lies.
    pub(crate) fn front(&mut self, input: &mut [u8]) -> Result<(usize, Opened), RecordError> {
        let Some(length) = whole_record(input)? else { return Ok((0, Opened::More)) };
        let inner = self.keys.open(&mut input[..length])?;
        if inner.len() > MAX_PLAINTEXT + 1 {
            return Err(RecordError::Overflow);
        }
        // Padding is zeros behind the content type.
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Unexpected { what: "a record without a content type" })?;
        let (text, kind) = (&inner[..end], inner[end]);
        match self.content(kind, text)? {
            Opened::Data(_) if end > 0 => {
                self.quiet = 0;
                Ok((length, Opened::Data(HEADER..HEADER + end)))
            }
            other => {
                self.quiet += 1;
                let what = "too many records without data";
                if self.quiet > MAX_QUIET { Err(RecordError::Unexpected { what }) } else { Ok((length, other)) }
            }
        }
    }

    fn content(&mut self, kind: u8, text: &[u8]) -> Result<Opened, RecordError> {
        if kind != content::HANDSHAKE && self.messages.is_partial() {
            return Err(RecordError::Unexpected { what: "another record within a handshake message" });
        }
        match kind {
            content::APPLICATION_DATA if text.is_empty() => Ok(Opened::Control),
            content::APPLICATION_DATA => Ok(Opened::Data(0..text.len())),
            content::HANDSHAKE => match self.messages.take(text, self.role)? {
                None => Ok(Opened::Control),
                Some(KeyUpdate { asked }) => {
                    self.keys.update()?;
                    Ok(Opened::Updated { asked })
                }
            },
            content::ALERT => match text {
                [_, CLOSE_NOTIFY] => Ok(Opened::Closed),
                // Always followed by close_notify.
                [_, USER_CANCELED] => Ok(Opened::Control),
                // The level means nothing in TLS 1.3 (RFC 8446, 6).
                [_, code] => Err(RecordError::Alert(*code)),
                _ => Err(RecordError::Decode { what: "an alert has two bytes" }),
            },
            _ => Err(RecordError::Unexpected { what: "a record of an unknown content type" }),
        }
    }
}

/// The length of the record at the front, once all of it is there. What can be refused by its header alone is.
fn whole_record(input: &[u8]) -> Result<Option<usize>, RecordError> {
    let Some((&[kind, _, _, high, low], rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
    if kind != content::APPLICATION_DATA {
        return Err(RecordError::Unexpected { what: "an unprotected record after the handshake" });
    }
    let body = usize::from(u16::from_be_bytes([high, low]));
    match body {
        ..=TAG => Err(RecordError::Mac),
        _ if body > MAX_BODY => Err(RecordError::Overflow),
        _ => Ok((rest.len() >= body).then_some(HEADER + body)),
    }
}
