//! One token: what it says, and whether it may be believed.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::keys::{Algorithm, Keys, Signed};

/// Seconds that two clocks may differ by.
pub const SKEW: u64 = 60;
/// Real ones have a few hundred bytes; heads of requests have 60 KiB.
const MOST_BYTES: usize = 16 * 1024;

/// Decoded, and not believed yet.
#[derive(Debug, Clone)]
pub struct Token<'a> {
    algorithm: Algorithm,
    key: Option<String>,
    claims: Map<String, Value>,
    /// As it was sent, base64url.
    payload: &'a str,
    signed: &'a str,
    signature: Vec<u8>,
}

/// For clients and operators: no words of the token in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the token is malformed")]
    Malformed,
    #[error("the token's algorithm is not one of those that are allowed")]
    Algorithm,
    #[error("the token asks for extensions that are not known here")]
    Critical,
    #[error("the token's issuer is not known here")]
    Issuer,
    #[error("there is no key of its issuer to verify the token with")]
    NoKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token is for another audience")]
    Audience,
    #[error("the request has more than one token")]
    Several,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Refused> {
        if text.len() > MOST_BYTES {
            return Err(Refused::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let header = object(header)?;
        if header.contains_key("crit") {
            return Err(Refused::Critical);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refused::Malformed)?;
        let algorithm = Algorithm::of(algorithm).ok_or(Refused::Algorithm)?;
        let key = match header.get("kid") {
            None => None,
            Some(Value::String(key)) => Some(key.clone()),
            Some(_) => return Err(Refused::Malformed),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Refused::Malformed)?;
        Ok(Self { algorithm, key, claims: object(payload)?, payload, signed, signature })
    }

    /// Not believed yet.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// `audiences`: one of them, where there are some. `now`: Unix seconds.
    pub fn verify(&self, keys: &Keys, audiences: &[String], now: u64) -> Result<(), Refused> {
        match keys.have_signed(self.algorithm, self.key.as_deref(), self.signed.as_bytes(), &self.signature) {
            Signed::Yes => {}
            Signed::No => return Err(Refused::Signature),
            Signed::NoKey => return Err(Refused::NoKey),
        }
        if self.expires()?.is_some_and(|expires| now > expires.saturating_add(SKEW)) {
            return Err(Refused::Expired);
        }
        if self.time("nbf")?.is_some_and(|from| now.saturating_add(SKEW) < from) {
            return Err(Refused::NotYet);
        }
        let has = |audience: &String| match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(all)) => all.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        };
        if audiences.is_empty() || audiences.iter().any(has) { Ok(()) } else { Err(Refused::Audience) }
    }

    /// Unix seconds. None: never.
    pub fn expires(&self) -> Result<Option<u64>, Refused> {
        self.time("exp")
    }

    /// NumericDate of RFC 7519, which may have fractions.
    fn time(&self, claim: &str) -> Result<Option<u64>, Refused> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(seconds));
        }
        let seconds = value.as_f64().filter(|seconds| seconds.is_finite() && *seconds >= 0.0).ok_or(Refused::Malformed)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and casts saturate")]
        Ok(Some(seconds as u64))
    }

    pub fn payload(&self) -> &'a str {
        self.payload
    }

    pub fn into_claims(self) -> Map<String, Value> {
        self.claims
    }
}

fn object(text: &str) -> Result<Map<String, Value>, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refused::Malformed)
}
