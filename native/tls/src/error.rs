//! Why a key, a certificate or a handshake was refused, each with its code of `proto/tables.json`.
use trackbed_contract::Identity;
use trackbed_contract::tables::errors;

use crate::san::SanError;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("no key or certificate request could be made: {0}")]
    Key(String),
    #[error("the certificate for {identity} was not accepted: {reason}")]
    Certificate { identity: Identity, reason: String },
    #[error("the certificate of {identity} is not valid now; it is valid from {not_before} to {not_after} (Unix seconds)")]
    NotValidNow { identity: Identity, not_before: u64, not_after: u64 },
    #[error("the peer's certificate has no identity of the mesh: {0}")]
    Malformed(#[from] SanError),
    #[error("the peer is {found}, expected {expected}")]
    Unexpected { found: Identity, expected: String },
    #[error("the peer is {found}, of another trust domain than {ours}")]
    TrustDomain { found: Identity, ours: String },
    #[error("TLS handshake failed: {0}")]
    Handshake(String),
}

impl TlsError {
    /// The code that flows, logs and metrics carry.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Key(_) | Self::Certificate { .. } | Self::NotValidNow { .. } => errors::IDENTITY_MISSING,
            Self::Malformed(_) => errors::IDENTITY_MALFORMED,
            Self::Unexpected { .. } | Self::TrustDomain { .. } => errors::IDENTITY_MISMATCH,
            Self::Handshake(_) => errors::TUNNEL_HANDSHAKE,
        }
    }
}
