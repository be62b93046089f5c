//! HBONE: one HTTP/2 CONNECT stream per TCP connection, in mutual TLS; both roles, the pool of tunnels, and the pump that moves the bytes.
//!
//! Everything here runs on single-threaded tokio runtimes (`LocalRuntime` or `LocalSet`) and spawns local tasks.

mod backlog;
mod carry;
pub mod client;
mod driver;
mod duplex;
mod early;
mod error;
pub mod frozen;
mod h2;
pub mod headers;
mod leg;
pub mod limits;
mod link;
mod meter;
mod moment;
pub mod pool;
pub mod pump;
mod relay;
mod scratch;
pub mod server;
mod socket;
mod splice;
mod stream;
mod sys;
mod tap;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;
mod turn;
mod vigil;

pub use client::{ConnectRequest, Tunnel};
pub use duplex::Duplex;
pub use error::TunnelError;
pub use h2::{Broken, Decoder};
pub use pool::{Connector, Pool, Target};
pub use pump::{ClosedBy, Meter, Outcome, Side};
pub use server::{Request, Shutdown, serve};
pub use stream::{Timing, TunnelStream};
pub use tap::Tap;
