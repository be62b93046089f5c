//! What a finished handshake says about the other side.
use std::sync::Arc;
use std::time::SystemTime;

use rustls::CommonState;
use trackbed_contract::Identity;

use crate::certified::validity;
use crate::{TlsError, san};

/// Facts about the peer, all proven by its certificate or by the handshake.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    pub identity: Identity,
    /// Serial number of the leaf, lower-case hexadecimal without separators.
    pub serial: Arc<str>,
    /// End of the leaf: a connection must not outlive it.
    pub not_after: SystemTime,
    /// "TLSv1.3"
    pub version: &'static str,
    /// "TLS13_AES_128_GCM_SHA256"
    pub cipher: &'static str,
    /// "X25519MLKEM768"
    pub group: &'static str,
}

/// The only one that we speak.
pub(crate) const VERSION: &str = "TLSv1.3";

impl PeerInfo {
    pub(crate) fn of(connection: &CommonState) -> Result<Self, TlsError> {
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        let leaf = leaf.ok_or_else(|| TlsError::Handshake("the peer sent no certificate".into()))?;
        let parsed = san::parse(leaf)?;
        Ok(Self {
            identity: san::identity_of(leaf)?,
            serial: crate::certified::serial(&parsed).into(),
            not_after: validity(&parsed).1,
            version: VERSION,
            cipher: connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or(""),
            group: connection.negotiated_key_exchange_group().and_then(|group| group.name().as_str()).unwrap_or(""),
        })
    }
}
