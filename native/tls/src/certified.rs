//! An identity that was certified: key, chain and roots that fit each other, checked before anything uses them.
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use trackbed_contract::Identity;
use x509_parser::prelude::X509Certificate;

use crate::{KeyPair, TlsError, config, san, verify};

/// A reply with more certificates than leaf, two issuers and a cross-signed one is a mistake, and every peer would have to check them all.
const CHAIN_CERTIFICATES: usize = 8;
/// Two roots overlap in a rotation; the rest is room for federated meshes.
const ROOTS: usize = 32;

/// Immutable: a renewal makes a new one. Holds the rustls configurations made from it, so that they are built once per certificate.
pub struct Certified {
    identity: Identity,
    key: Arc<KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    generation: u64,
    client: ClientConfig,
    server: Arc<ServerConfig>,
    anchors: Arc<RootCertStore>,
}

impl Certified {
    /// Takes a certificate reply (DER, leaf first) for a key of ours. Refused unless the leaf carries this key and, as its only alternative
    /// name, this identity, is valid at `now`, may be used by clients and servers, and chains to one of `roots`.
    pub fn new(identity: &Identity, key: Arc<KeyPair>, chain: &[Vec<u8>], roots: &[Vec<u8>], now: SystemTime) -> Result<Self, TlsError> {
        let refuse = |reason: String| TlsError::Certificate { identity: identity.clone(), reason };
        let leaf = chain.first().ok_or_else(|| refuse("the chain is empty".into()))?;
        if chain.len() > CHAIN_CERTIFICATES || roots.len() > ROOTS {
            return Err(refuse(format!("more than {CHAIN_CERTIFICATES} certificates or {ROOTS} roots")));
        }
        let found = san::identity_of(leaf).map_err(|error| refuse(error.to_string()))?;
        if found != *identity {
            return Err(refuse(format!("it names {found}")));
        }
        let parsed = san::parse(leaf).map_err(|error| refuse(error.to_string()))?;
        if parsed.public_key().raw != key.public_key() {
            return Err(refuse("it certifies another key".into()));
        }
        let (not_before, not_after) = validity(&parsed);
        let serial = serial(&parsed);
        let anchors = Arc::new(anchors(roots).map_err(refuse)?);
        let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        verify::own_chain(&chain, &anchors, unix(now)).map_err(|error| refuse(error.to_string()))?;
        Ok(Self {
            client: config::client(&chain, &key, identity, &anchors)?,
            server: Arc::new(config::server(&chain, &key, identity, &anchors)?),
            identity: identity.clone(),
            roots: roots.iter().map(|der| CertificateDer::from(der.clone())).collect(),
            generation: next_generation(),
            key,
            chain,
            not_before,
            not_after,
            serial,
            anchors,
        })
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn key(&self) -> &Arc<KeyPair> {
        &self.key
    }

    /// DER, leaf first.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(AsRef::as_ref)
    }

    /// DER of the roots that peers of this identity are checked against.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(AsRef::as_ref)
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Lower-case hexadecimal without separators.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Unique in this process: tunnels made with one certificate are never taken for those of its successor.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The certificate may be used at `now`.
    pub fn check(&self, now: SystemTime) -> Result<(), TlsError> {
        if (self.not_before..=self.not_after).contains(&now) {
            return Ok(());
        }
        let (not_before, not_after) = (unix(self.not_before).as_secs(), unix(self.not_after).as_secs());
        Err(TlsError::NotValidNow { identity: self.identity.clone(), not_before, not_after })
    }

    /// For one connection to a server that must be one of `expected`.
    pub fn client_config(&self, expected: &[Identity]) -> Arc<ClientConfig> {
        let mut config = self.client.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verify::ServerCheck::new(Arc::clone(&self.anchors), expected)));
        Arc::new(config)
    }

    /// For any number of connections from clients of our trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certified").field("identity", &self.identity).field("serial", &self.serial).finish_non_exhaustive()
    }
}

fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

fn anchors(roots: &[Vec<u8>]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for der in roots {
        store.add(CertificateDer::from(der.as_slice())).map_err(|error| format!("a root does not parse: {error}"))?;
    }
    if store.is_empty() { Err("there is no root to trust".into()) } else { Ok(store) }
}

/// First and last moment of a certificate.
pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = certificate.validity();
    (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}

pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    // A DER integer with its high bit set begins with a zero byte that is not part of the number.
    let bytes = certificate.raw_serial();
    let bytes = if let [0, rest @ ..] = bytes { rest } else { bytes };
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // writing to a String cannot fail
        text
    })
}

fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}
