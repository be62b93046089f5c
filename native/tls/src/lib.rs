//! Workload certificates, the TLS configurations made from them, and TLS itself: who we are to a peer, and whom we take a peer for.
//!
//! A key is made here, its request goes to the certificate authority, the reply becomes a [`Certified`], and a `Certified` gives the
//! configurations of both roles. Everything a peer's certificate must satisfy stands in `verify` and `san`.
//! rustls does the handshake; the records after it are our own (`record`), in a [`TlsStream`].

#![forbid(unsafe_code)]

// The tests share their certificates with those of the public interface.
#[cfg(test)]
extern crate self as trackbed_tls;

mod certified;
pub mod channel;
mod config;
mod error;
pub mod frozen;
mod handshake;
mod key;
mod peer;
mod record;
mod san;
mod secrets;
mod stream;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod verify;

pub use certified::Certified;
pub use channel::Channel;
pub use error::TlsError;
pub use handshake::{accept, connect};
pub use key::KeyPair;
pub use peer::PeerInfo;
pub use record::RecordError;
pub use san::{SanError, identity_of};
pub use stream::TlsStream;

/// The application protocol of a tunnel; a peer that does not choose it is refused.
pub const ALPN: &[u8] = b"h2";
