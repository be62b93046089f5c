//! The rustls configurations of a tunnel: TLS 1.3 and what both of our ends agree on, nothing else.
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, danger::ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use trackbed_contract::Identity;

use crate::secrets::key_log;
use crate::verify::{ClientCheck, ServerCheck};
use crate::{ALPN, KeyPair, TlsError};

/// AES-128 first: both suites are what peers speak (no ChaCha20 in HBONE), and it costs 12 % less than AES-256 per byte.
/// X25519MLKEM768 first: recorded traffic stays closed to a later quantum computer; rustls sends the X25519 share beside it.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        ..default_provider()
    })
});

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// The base of every client connection. It expects nobody: `Certified::client_config` puts the identities of one connection in.
pub(crate) fn client(
    chain: &[CertificateDer<'static>],
    key: &KeyPair,
    identity: &Identity,
    roots: &Arc<RootCertStore>,
) -> Result<ClientConfig, TlsError> {
    let nobody: Arc<dyn ServerCertVerifier> = Arc::new(ServerCheck::new(Arc::clone(roots), &[]));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Certificate { identity: identity.clone(), reason: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(nobody)
        .with_client_cert_resolver(resolver(chain, key));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    // A resumed session would skip the identity check of this very connection.
    config.resumption = Resumption::disabled();
    // Our own record layer goes on from the handshake's secrets.
    config.key_log = key_log();
    config.enable_secret_extraction = true;
    Ok(config)
}

pub(crate) fn server(
    chain: &[CertificateDer<'static>],
    key: &KeyPair,
    identity: &Identity,
    roots: &Arc<RootCertStore>,
) -> Result<ServerConfig, TlsError> {
    let check = ClientCheck::new(Arc::clone(roots), identity)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError::Certificate { identity: identity.clone(), reason: error.to_string() })?
        .with_client_cert_verifier(Arc::new(check))
        .with_cert_resolver(resolver(chain, key));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    config.key_log = key_log();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn resolver(chain: &[CertificateDer<'static>], key: &KeyPair) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain.to_vec(), key.signer())))
}
