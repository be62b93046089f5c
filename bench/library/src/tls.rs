//! Mutual TLS 1.3 with rustls as it comes: the peer must have a certificate of the same authority.
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Failure;

const ALPN: &[u8] = b"h2";

fn roots(directory: &str) -> Result<Arc<RootCertStore>, Failure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(format!("{directory}/ca.pem"))? {
        roots.add(certificate?)?;
    }
    Ok(Arc::new(roots))
}

fn own(directory: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let chain = CertificateDer::pem_file_iter(format!("{directory}/cert.pem"))?.collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_file(format!("{directory}/key.pem"))?))
}

pub(crate) fn connector(directory: &str) -> Result<TlsConnector, Failure> {
    let (chain, key) = own(directory)?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
        .with_root_certificates(roots(directory)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config).into())
}

pub(crate) fn acceptor(directory: &str) -> Result<TlsAcceptor, Failure> {
    let (chain, key) = own(directory)?;
    let verifier = WebPkiClientVerifier::builder(roots(directory)?).build()?;
    let mut config =
        ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_client_cert_verifier(verifier).with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config).into())
}

/// The name that the bench's certificates carry.
pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from("bench.test").expect("a valid name")
}
