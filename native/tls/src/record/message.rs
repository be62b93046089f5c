//! Handshake messages after the handshake, read byte by byte: they may come in pieces or together, and none is ever stored.
use super::{RecordError, Role};

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and 24 bits of length.
const HEAD: usize = 4;
/// Two fields of 64 KiB and a nonce: no ticket is longer (RFC 8446, 4.6.1).
const MAX_TICKET: usize = (1 << 17) + 270;

/// The peer's sending keys change with the next record; `asked` when ours must too, before we send data again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUpdate {
    pub(crate) asked: bool,
}

/// Where in a message the last record ended.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the body still to come, once the head is whole.
    left: usize,
}

impl Messages {
    /// Takes the content of one handshake record.
    pub(crate) fn take(&mut self, mut content: &[u8], role: Role) -> Result<Option<KeyUpdate>, RecordError> {
        if content.is_empty() {
            return Err(RecordError::Unexpected { what: "an empty handshake record" });
        }
        while let Some((&byte, rest)) = content.split_first() {
            if self.have < HEAD {
                self.head[self.have] = byte;
                self.have += 1;
                content = rest;
                if self.have == HEAD {
                    self.left = body_length(self.head, role)?;
                    if self.left == 0 {
                        return Err(RecordError::Decode { what: "it is empty" });
                    }
                }
            } else if self.head[0] == KEY_UPDATE {
                // Records behind it have other keys, so nothing may follow it in this one.
                if !rest.is_empty() {
                    return Err(RecordError::Unexpected { what: "a handshake message behind a key update" });
                }
                *self = Self::default();
                return match byte {
                    0 | 1 => Ok(Some(KeyUpdate { asked: byte == 1 })),
                    _ => Err(RecordError::Parameter),
                };
            } else {
                let skipped = self.left.min(content.len());
                content = &content[skipped..];
                self.left -= skipped;
                if self.left == 0 {
                    *self = Self::default();
                }
            }
        }
        Ok(None)
    }

    /// The head as far as it is there, and how much of the body is missing.
    pub(crate) fn position(&self) -> (&[u8], usize) {
        (&self.head[..self.have], self.left)
    }

    /// None when no messages of a peer lead there.
    pub(crate) fn at(head: &[u8], left: usize, role: Role) -> Option<Self> {
        let mut messages = Self { head: [0; HEAD], have: head.len(), left };
        messages.head.get_mut(..head.len())?.copy_from_slice(head);
        let within = match <[u8; HEAD]>::try_from(head) {
            Ok(head) => body_length(head, role).is_ok_and(|length| (1..=length).contains(&left)),
            Err(_) => left == 0,
        };
        within.then_some(messages)
    }

    /// Nothing but the rest of the message may come now.
    pub(crate) fn is_partial(&self) -> bool {
        self.have > 0
    }
}

fn body_length([kind, lengths @ ..]: [u8; HEAD], role: Role) -> Result<usize, RecordError> {
    let length = lengths.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    match kind {
        KEY_UPDATE if length == 1 => Ok(length),
        KEY_UPDATE => Err(RecordError::Decode { what: "a key update has one byte" }),
        // We resume nothing; a server that sends tickets all the same does no harm.
        NEW_SESSION_TICKET if role == Role::Client && length <= MAX_TICKET => Ok(length),
        NEW_SESSION_TICKET if role == Role::Client => Err(RecordError::Decode { what: "a ticket is too long" }),
        _ => Err(RecordError::Unexpected { what: "a handshake message that has no place after the handshake" }),
    }
}
