//! The TLS 1.3 record layer after the handshake, without any I/O: bytes in, bytes out, and what they mean.
//!
//! rustls does the handshake; its traffic secrets come here (`keys`), application data is sealed into records (`seal`) and records are
//! opened (`open`), together with what may still happen on a connection: alerts, key updates and tickets (`message`).

mod buffer;
mod error;
mod keys;
mod message;
mod open;
mod seal;

pub(crate) use buffer::Buffer;
#[cfg(test)]
pub(crate) use buffer::idle_buffers;
pub(crate) use error::Alert;
pub use error::RecordError;
pub(crate) use keys::{Keys, Secret, Suite};
pub(crate) use message::Messages;
pub(crate) use open::{Opened, Opener};
pub(crate) use seal::{KEY_UPDATE, Sealer};

/// Type, version and length in front of each record.
pub(crate) const HEADER: usize = 5;
/// Most application data of one record (RFC 8446, 5.1).
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;
/// Tag of both AES-GCM suites.
pub(crate) const TAG: usize = 16;
/// The largest body of a record that may be received (RFC 8446, 5.2).
pub(crate) const MAX_BODY: usize = MAX_PLAINTEXT + 256;
/// The largest record that we send: header, data, the inner content type, tag.
pub(crate) const MAX_SEALED: usize = HEADER + MAX_PLAINTEXT + 1 + TAG;

/// Who we are in the handshake decides which secret is whose, and what a peer may say afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Content types (RFC 8446, 5.1). The outer type of every record after the handshake is `APPLICATION_DATA`.
pub(crate) mod content {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
}
