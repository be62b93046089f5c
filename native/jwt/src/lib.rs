//! JSON Web Tokens: signatures, times and audiences, verified strictly. Nobody but an issuer's own key makes a token of it.
//!
//! Compact JWS alone (RFC 7515), signed with RSA, ECDSA or Ed25519. `none` and HMAC are refused, and a key serves the algorithms of its own kind only, so that
//! nobody can sign with what everybody knows.
#![forbid(unsafe_code)]

mod keys;
mod token;

pub use keys::{Algorithm, Keys, KeysError};
pub use token::{Refused, SKEW, Token};
