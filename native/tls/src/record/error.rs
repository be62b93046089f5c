//! How a connection ends in the record layer, and what the peer is told about it.
use std::io;

/// The alerts that we send (RFC 8446, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Alert {
    CloseNotify = 0,
    UnexpectedMessage = 10,
    BadRecordMac = 20,
    RecordOverflow = 22,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
}

/// Fatal in every case: the connection carries nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the peer sent {what}")]
    Unexpected { what: &'static str },
    #[error("a record did not decrypt: it was changed on its way, or is not the peer's")]
    Mac,
    #[error("the peer sent a record that is larger than TLS allows")]
    Overflow,
    #[error("the peer sent a handshake message that does not parse: {what}")]
    Decode { what: &'static str },
    #[error("the peer asked for a key update of an unknown kind")]
    Parameter,
    #[error("the peer ended the connection with the TLS alert {}", name(*.0))]
    Alert(u8),
    #[error("the connection ended without close_notify: what was read may be incomplete")]
    Truncated,
    #[error("the record layer failed in itself: {what}")]
    Internal { what: &'static str },
}

impl RecordError {
    /// What the peer is told; nothing after its own alert, and nothing when it is gone.
    pub(crate) fn alert(self) -> Option<Alert> {
        match self {
            Self::Unexpected { .. } => Some(Alert::UnexpectedMessage),
            Self::Mac => Some(Alert::BadRecordMac),
            Self::Overflow => Some(Alert::RecordOverflow),
            Self::Decode { .. } => Some(Alert::DecodeError),
            Self::Parameter => Some(Alert::IllegalParameter),
            Self::Internal { .. } => Some(Alert::InternalError),
            Self::Alert(_) | Self::Truncated => None,
        }
    }
}

impl From<RecordError> for io::Error {
    fn from(error: RecordError) -> Self {
        let kind = match error {
            RecordError::Truncated => io::ErrorKind::UnexpectedEof,
            RecordError::Alert(_) => io::ErrorKind::ConnectionAborted,
            RecordError::Internal { .. } => io::ErrorKind::Other,
            _ => io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}

/// The name as RFC 8446 writes it, of those a peer has reason to send.
fn name(code: u8) -> String {
    let known = match code {
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return code.to_string(),
    };
    known.into()
}
