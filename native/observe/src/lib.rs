//! What a connection carries, told by its bytes as they pass: the protocol, by the first bytes of both ends, and requests with their answers.
//!
//! Nothing here does any I/O, holds a byte up or fails a connection. What is kept of one is bounded (`limits`); what cannot be followed within
//! the bounds, or breaks its protocol's rules, is given up and said to be.
#![forbid(unsafe_code)]

mod exchange;
mod hello;
mod http1;
mod http2;
mod limits;
mod observer;
mod protocol;
mod sniff;

pub use exchange::{Exchange, GaveUp};
pub use observer::{Depth, Observer};
pub use protocol::Protocol;
pub use trackbed_hbone::Side;
