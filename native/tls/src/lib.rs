//! Workload certificates and the TLS configurations made from them: who we are to a peer, and whom we take a peer for.
//!
//! A key is made here, its request goes to the certificate authority, the reply becomes a [`Certified`], and a `Certified` gives the
//! configurations of both roles. Everything a peer's certificate must satisfy stands in `verify` and `san`.

mod certified;
mod config;
mod error;
mod handshake;
mod key;
mod peer;
mod san;
mod verify;

pub use certified::Certified;
pub use error::TlsError;
pub use handshake::{ClientStream, ServerStream, accept, connect};
pub use key::KeyPair;
pub use peer::PeerInfo;
pub use san::{SanError, identity_of};

/// The application protocol of a tunnel; a peer that does not choose it is refused.
pub const ALPN: &[u8] = b"h2";
