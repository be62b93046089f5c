//! HBONE: one HTTP/2 CONNECT stream per TCP connection, in mutual TLS; both roles, the pool of tunnels, and the pump that moves the bytes.
//!
//! Everything here runs on single-threaded tokio runtimes (`LocalRuntime` or `LocalSet`) and spawns local tasks.

mod alive;
pub mod client;
mod ends;
mod error;
pub mod headers;
pub mod limits;
mod linger;
pub mod pool;
pub mod pump;
pub mod server;
mod splice;
mod stream;
mod sys;

pub use client::{ConnectRequest, Tunnel};
pub use error::TunnelError;
pub use pool::{Connector, Pool, Target};
pub use pump::{ClosedBy, Meter, Outcome};
pub use server::{Request, Shutdown, serve};
pub use stream::{Timing, TunnelStream};
