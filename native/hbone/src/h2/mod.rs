//! HTTP/2 for CONNECT tunnels, both roles, without any I/O: bytes of the peer in and events out, frames of ours into a buffer of the caller's.
//!
//! DATA is passed on piece by piece where it lies and never stored; everything else is bounded before it is stored (`receive`).

mod connection;
mod fields;
mod flow;
mod frame;
mod frozen;
mod guard;
mod hpack;
mod receive;
#[cfg(test)]
mod tests;

pub(crate) use connection::{Bounds, Connection, Role};
pub(crate) use fields::{Answered, Asked};
pub(crate) use frame::{HEAD, Reason};
pub(crate) use frozen::FrozenConnection;
pub use hpack::{Broken, Decoder};
pub(crate) use receive::Event;

/// The connection cannot go on; the peer is told `reason` with GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fatal {
    pub(crate) reason: Reason,
    pub(crate) what: &'static str,
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the peer broke HTTP/2: {} ({})", self.what, self.reason)
    }
}
