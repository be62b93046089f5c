//! The HTTP half of a waypoint: bytes in from any stream, matched by the routes that control compiled, bytes out through an [`Upstream`].
//!
//! It knows nothing of tunnels, certificates, namespaces or the director. Everything runs on single-threaded tokio runtimes (`LocalRuntime` or
//! `LocalSet`) and spawns local tasks; each worker has a [`Context`] of its own, and nothing is shared but the immutable [`Table`].
#![forbid(unsafe_code)]

mod client;
mod context;
mod report;
mod serve;
mod service;
mod table;
mod upstream;

pub use client::{Client, Served};
pub use context::Context;
pub use report::{Flag, Report, RequestRecord, RouteName, StreamRecord};
pub use serve::{End, serve};
pub use table::{Rejected, Table};
pub use upstream::{BackendKey, ConnectError, Endpoint, NoEndpoint, Outcome, Upstream};
