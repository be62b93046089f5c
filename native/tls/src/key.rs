//! A workload's private key: made here, used here, wiped here.
use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::SigningKey;
use trackbed_contract::Identity;
use zeroize::{Zeroize, Zeroizing};

use crate::TlsError;

/// ECDSA P-256. Never printed; its bytes are overwritten when the last holder lets go.
pub struct KeyPair {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
    signer: Arc<dyn SigningKey>,
}

impl KeyPair {
    pub fn generate() -> Result<Self, TlsError> {
        let pair = Wiped(rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(key_error)?);
        Self::deserialize(pair.0.serialized_der())
    }

    /// PKCS #10 in DER: empty subject, the identity as the only, critical subject alternative name, ECDSA with SHA-256.
    pub fn csr(&self, identity: &Identity) -> Result<Vec<u8>, TlsError> {
        let pair = self.rcgen()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(key_error)?)];
        Ok(params.serialize_request(&pair.0).map_err(key_error)?.der().to_vec())
    }

    /// The public half: DER of its SubjectPublicKeyInfo, as a certificate carries it.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The private key, PKCS #8. Only for the keeper's sealed memory, so that a new worker can go on with it; never for a file, a log or
    /// the contract with the director.
    pub fn serialize(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// The counterpart of [`KeyPair::serialize`].
    pub fn deserialize(pkcs8: &[u8]) -> Result<Self, TlsError> {
        let pkcs8 = Zeroizing::new(pkcs8.to_vec());
        let public = Self::read(&pkcs8)?.0.subject_public_key_info();
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&der).map_err(key_error)?;
        Ok(Self { pkcs8, public, signer })
    }

    pub(crate) fn signer(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.signer)
    }

    fn rcgen(&self) -> Result<Wiped, TlsError> {
        Self::read(&self.pkcs8)
    }

    fn read(pkcs8: &[u8]) -> Result<Wiped, TlsError> {
        let der = PrivatePkcs8KeyDer::from(pkcs8);
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(key_error)?;
        Ok(Wiped(pair))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(secret)")
    }
}

/// rcgen keeps a second copy of the key's DER in each key object and does not wipe it by itself.
struct Wiped(rcgen::KeyPair);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn key_error(error: impl fmt::Display) -> TlsError {
    TlsError::Key(error.to_string())
}
