//! Certificates of every shape, and peers made of rustls alone that present them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test binary uses a part of it; in tests a failed unwrap is the message

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use trackbed_contract::Identity;
use trackbed_tls::{Certified, TlsError};

pub const OURS: &str = "spiffe://cluster.local/ns/shop/sa/ours";
pub const PEER: &str = "spiffe://cluster.local/ns/shop/sa/peer";

pub fn identity(text: &str) -> Identity {
    Identity::parse(text).unwrap()
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

/// A leaf and the key it is for.
pub struct Leaf {
    pub chain: Vec<Vec<u8>>,
    pub key: KeyPair,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// What a good workload certificate looks like; tests spoil one thing.
pub fn good(names: Vec<SanType>) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (now - Duration::from_mins(1)).into();
    params.not_after = (now + Duration::from_hours(1)).into();
    params
}

impl Authority {
    pub fn new() -> Self {
        Self(CertifiedIssuer::self_signed(authority_params("root"), KeyPair::generate().unwrap()).unwrap())
    }

    pub fn below(&self, name: &str) -> Self {
        Self(CertifiedIssuer::signed_by(authority_params(name), KeyPair::generate().unwrap(), &self.0).unwrap())
    }

    pub fn root(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    pub fn leaf(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Leaf { chain: vec![certificate.der().to_vec()], key }
    }

    pub fn certify(&self, text: &str) -> Certified {
        self.accept(text, &self.leaf(&good(vec![uri(text)]))).unwrap()
    }

    /// As the engine does with a reply.
    pub fn accept(&self, text: &str, leaf: &Leaf) -> Result<Certified, TlsError> {
        let key = Arc::new(trackbed_tls::KeyPair::deserialize(leaf.key.serialized_der()).unwrap());
        Certified::new(&identity(text), key, &leaf.chain, &[self.root()], SystemTime::now())
    }
}

impl Leaf {
    /// Without rustls's own look at what it is going to present.
    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let chain = self.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = PrivatePkcs8KeyDer::from(self.key.serialized_der().to_vec()).into();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, aws_lc_rs::sign::any_ecdsa_type(&key).unwrap())))
    }

    /// A server that asks for no client certificate and would take anybody.
    pub fn server(&self, provider: CryptoProvider) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.resolver());
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    /// A client that would take any server.
    pub fn client(&self, provider: CryptoProvider) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer));
        let mut config = builder.with_client_cert_resolver(self.resolver());
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

#[derive(Debug)]
pub struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &aws_lc_rs::default_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}
