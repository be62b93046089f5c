//! Why a tunnel or a stream in it could not be had, each with its code of `proto/tables.json`.
use trackbed_contract::tables::errors;
use trackbed_tls::TlsError;

/// Cheap to clone: everyone who waited for the same dial gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    #[error("no TCP connection: {0}")]
    Unreachable(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{what} took longer than {milliseconds} ms")]
    Timeout { what: &'static str, milliseconds: u64 },
    #[error("HTTP/2 handshake failed: {0}")]
    Handshake(String),
    #[error("the peer answered CONNECT with status {status}")]
    Refused { status: u16 },
    #[error("the tunnel was lost: {0}")]
    Lost(String),
    /// The peer did not look at the request: it may be repeated on another tunnel.
    #[error("the peer did not take the stream: {0}")]
    NotTaken(String),
    #[error("the request cannot be sent: {0}")]
    Request(String),
    /// The stream goes on in a successor: nobody may be told the same.
    #[error("the tunnel was frozen, and stream {0} goes on in its successor")]
    Frozen(u32),
    /// The client's first words were on their way already, and the peer did not say that nobody has heard them.
    #[error("{0}; the application may have heard the client")]
    InDoubt(Box<Self>),
}

impl TunnelError {
    /// The code that flows, logs and metrics carry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => errors::TUNNEL_UNREACHABLE,
            Self::Tls(error) => error.code(),
            Self::Timeout { .. } | Self::Handshake(_) => errors::TUNNEL_HANDSHAKE,
            Self::Refused { .. } => errors::TUNNEL_PEER_REFUSED,
            Self::Lost(_) | Self::NotTaken(_) | Self::Frozen(_) => errors::TUNNEL_LOST,
            Self::Request(_) => errors::DESTINATION_REFUSED,
            Self::InDoubt(error) => error.code(),
        }
    }

    /// Another endpoint may be told the same: no application has heard a byte of this client. Whether a refusal by status would come out
    /// otherwise elsewhere is the caller's to judge.
    pub fn before_application(&self) -> bool {
        !matches!(self, Self::Request(_) | Self::InDoubt(_) | Self::Frozen(_))
    }
}
