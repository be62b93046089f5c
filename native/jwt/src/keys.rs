//! The public keys of an issuer, from a JSON Web Key Set (RFC 7517).
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// More than any issuer has; each is looked at when tokens come in.
const MOST_KEYS: usize = 64;
/// Of the set's text.
const MOST_BYTES: usize = 64 * 1024;
/// Smaller ones can be broken (NIST SP 800-131A); larger ones only cost time.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Those that can be used here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys(Vec<Key>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("the key set has {0} bytes, more than {MOST_BYTES}")]
    TooLong(usize),
    #[error("the key set has {0} keys, more than {MOST_KEYS}")]
    TooMany(usize),
    #[error("the key set is not JSON of RFC 7517: {0}")]
    Malformed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The only one that it is for.
    algorithm: Option<Algorithm>,
    public: Public,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Public {
    /// PKCS #1, DER.
    Rsa(Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// Members that are not here mean nothing to us.
#[derive(Deserialize)]
struct Member {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Keys of other kinds, for other uses, or that are malformed are passed over, as the standard says: the set may be empty in the end.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        if text.len() > MOST_BYTES {
            return Err(KeysError::TooLong(text.len()));
        }
        let set: Set = serde_json::from_str(text).map_err(|cause| KeysError::Malformed(cause.to_string()))?;
        if set.keys.len() > MOST_KEYS {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        Ok(Self(set.keys.into_iter().filter_map(|key| Key::of(serde_json::from_value(key).ok()?)).collect()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them has signed it. A token that names its key is compared with that, and with keys that have no name.
    pub(crate) fn have_signed(&self, algorithm: Algorithm, key: Option<&str>, input: &[u8], signature: &[u8]) -> Signed {
        let named = |of: &&Key| key.is_none_or(|key| of.id.as_deref().is_none_or(|id| id == key));
        let mut fitting = self.0.iter().filter(named).filter(|key| key.serves(algorithm)).peekable();
        if fitting.peek().is_none() {
            return Signed::NoKey;
        }
        let verified = |key: &Key| {
            let of = key.public.verifies(algorithm);
            of.is_some_and(|(by, bytes)| UnparsedPublicKey::new(by, bytes).verify(input, signature).is_ok())
        };
        if fitting.any(verified) { Signed::Yes } else { Signed::No }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    Yes,
    No,
    NoKey,
}

impl Key {
    fn of(member: Member) -> Option<Self> {
        let verifies = member.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if member.r#use.as_ref().is_some_and(|purpose| purpose != "sig") || !verifies {
            return None;
        }
        let algorithm = match &member.alg {
            Some(name) => Some(Algorithm::of(name)?),
            None => None,
        };
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let point = |length: usize| {
            let (x, y) = (bytes(&member.x)?, bytes(&member.y)?);
            // Uncompressed (SEC 1, section 2.3.3).
            (x.len() == length && y.len() == length).then(|| [&[4], &x[..], &y[..]].concat())
        };
        let public = match (member.kty.as_str(), member.crv.as_deref()) {
            ("RSA", _) => Public::Rsa(rsa(&bytes(&member.n)?, &bytes(&member.e)?)?),
            ("EC", Some("P-256")) => Public::P256(point(32)?),
            ("EC", Some("P-384")) => Public::P384(point(48)?),
            ("EC", Some("P-521")) => Public::P521(point(66)?),
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes(&member.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        Some(Self { id: member.kid, algorithm, public })
    }

    fn serves(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|only| only == algorithm) && self.public.verifies(algorithm).is_some()
    }
}

impl Public {
    /// None: another kind of key.
    fn verifies(&self, algorithm: Algorithm) -> Option<(&'static dyn VerificationAlgorithm, &[u8])> {
        let by: &'static dyn VerificationAlgorithm = match (self, algorithm) {
            (Self::Rsa(_), Algorithm::Rs256) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (Self::Rsa(_), Algorithm::Rs384) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (Self::Rsa(_), Algorithm::Rs512) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (Self::Rsa(_), Algorithm::Ps256) => &signature::RSA_PSS_2048_8192_SHA256,
            (Self::Rsa(_), Algorithm::Ps384) => &signature::RSA_PSS_2048_8192_SHA384,
            (Self::Rsa(_), Algorithm::Ps512) => &signature::RSA_PSS_2048_8192_SHA512,
            (Self::P256(_), Algorithm::Es256) => &signature::ECDSA_P256_SHA256_FIXED,
            (Self::P384(_), Algorithm::Es384) => &signature::ECDSA_P384_SHA384_FIXED,
            (Self::P521(_), Algorithm::Es512) => &signature::ECDSA_P521_SHA512_FIXED,
            (Self::Ed25519(_), Algorithm::EdDsa) => &signature::ED25519,
            _ => return None,
        };
        let (Self::Rsa(bytes) | Self::P256(bytes) | Self::P384(bytes) | Self::P521(bytes) | Self::Ed25519(bytes)) = self;
        Some((by, bytes))
    }
}

impl Algorithm {
    /// None: `none`, HMAC, and what we do not know.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// RSAPublicKey of PKCS #1 (RFC 8017, appendix A.1.1).
fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Vec<u8>> {
    let significant = |bytes: &[u8]| bytes.iter().position(|byte| *byte != 0).map(|first| bytes[first..].to_vec());
    let (modulus, exponent) = (significant(modulus)?, significant(exponent)?);
    let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
    if !RSA_BITS.contains(&bits) || exponent.len() > 8 || exponent.last()? % 2 == 0 {
        return None;
    }
    let body = [integer(&modulus), integer(&exponent)].concat();
    Some([vec![0x30], length(body.len()), body].concat())
}

fn integer(significant: &[u8]) -> Vec<u8> {
    // A first bit that is set would make it negative.
    let sign: &[u8] = if significant.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    [&[0x02], &length(sign.len() + significant.len())[..], sign, significant].concat()
}

fn length(count: usize) -> Vec<u8> {
    let bytes = count.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let bytes = &bytes[first..];
    match bytes {
        [short @ 0..=0x7F] => vec![*short],
        // Eight at most.
        _ => [&[0x80 | u8::try_from(bytes.len()).unwrap_or(8)], bytes].concat(),
    }
}
