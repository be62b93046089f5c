//! Whom we accept: the chain by webpki, the identity by us, both inside the handshake and so before any application byte.
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};
use trackbed_contract::Identity;

use crate::config::provider;
use crate::{TlsError, san};

/// The client's check: chain with serverAuth, and one of the identities that this connection is for.
#[derive(Debug)]
pub(crate) struct ServerCheck {
    roots: Arc<RootCertStore>,
    expected: Vec<Identity>,
}

/// The server's check: chain with clientAuth, and our own trust domain.
#[derive(Debug)]
pub(crate) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ServerCheck {
    pub(crate) fn new(roots: Arc<RootCertStore>, expected: &[Identity]) -> Self {
        Self { roots, expected: expected.to_vec() }
    }

    fn identity(&self, leaf: &CertificateDer<'_>) -> Result<(), TlsError> {
        let found = san::identity_of(leaf)?;
        if self.expected.contains(&found) {
            return Ok(());
        }
        let expected: Vec<_> = self.expected.iter().map(Identity::as_str).collect();
        Err(TlsError::Unexpected { found, expected: expected.join(" or ") })
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms().all)?;
        self.identity(leaf).map_err(into_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

impl ClientCheck {
    pub(crate) fn new(roots: Arc<RootCertStore>, ours: &Identity) -> Result<Self, TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
        let chain = chain.map_err(|error| TlsError::Handshake(error.to_string()))?;
        Ok(Self { chain, trust_domain: ours.trust_domain().into() })
    }

    fn identity(&self, leaf: &CertificateDer<'_>) -> Result<(), TlsError> {
        let found = san::identity_of(leaf)?;
        if found.trust_domain() == self.trust_domain {
            return Ok(());
        }
        Err(TlsError::TrustDomain { found, ours: self.trust_domain.clone() })
    }
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// None: naming the roots would tell every prober who signs us, and clients have one certificate per mesh anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        self.identity(leaf).map_err(into_rustls)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

/// What a peer will check of our own chain, in both roles, asked before we use it.
pub(crate) fn own_chain(chain: &[CertificateDer<'static>], roots: &Arc<RootCertStore>, now: UnixTime) -> Result<(), Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let parsed = ParsedCertificate::try_from(leaf)?;
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms().all)?;
    let as_client = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider()).build();
    as_client.map_err(|error| Error::General(error.to_string()))?.verify_client_cert(leaf, intermediates, now)?;
    Ok(())
}

/// Our error back out of what rustls returned, or rustls's own.
pub(crate) fn from_rustls(error: &Error) -> TlsError {
    if let Error::InvalidCertificate(CertificateError::Other(other)) = error
        && let Some(ours) = other.0.downcast_ref::<TlsError>()
    {
        return ours.clone();
    }
    TlsError::Handshake(error.to_string())
}

fn into_rustls(error: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
