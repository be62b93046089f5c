//! The HTTP half of a waypoint: bytes in from any stream, matched by the routes that control compiled, bytes out through an [`Upstream`].
//!
//! It knows nothing of tunnels, certificates, namespaces or the director. Everything runs on single-threaded tokio runtimes (`LocalRuntime` or
//! `LocalSet`) and spawns local tasks; each worker has a [`Context`] of its own, and nothing is shared but the immutable [`Table`].
#![forbid(unsafe_code)]

mod access;
mod admission;
mod ahead;
mod allowed;
mod answer;
mod ask;
mod attempt;
mod authorize;
mod backend;
mod balancing;
mod batch;
mod budget;
mod canonical;
mod carry;
mod check;
mod client;
mod context;
mod cors;
mod exchange;
mod explain;
mod extended;
mod filter;
mod framing;
mod grpc;
mod guard;
mod hello;
mod http_server;
mod invalid;
mod learnt;
mod left;
mod limits;
mod link;
mod matching;
mod metered;
mod mirror;
mod onward;
mod pool;
mod provider;
mod record;
mod refusal;
mod replay;
mod report;
mod restrain;
mod retry;
mod rewound;
mod rule;
mod serve;
mod service;
mod session;
mod shaping;
mod stream_rules;
mod table;
mod telling;
mod token_place;
mod tokens;
mod trace;
mod traffic;
mod tries;
mod upload;
mod upstream;

pub use client::{Client, Served};
pub use context::Context;
pub use explain::Explained;
pub use record::Decided;
pub use replay::{Recorded, Replayed};
pub use report::{Cause, Copied, Ejection, Flag, Report, RequestRecord, RouteName, Span, StreamRecord};
pub use serve::{End, serve};
pub use table::{Kind, Rejected, Table};
pub use trackbed_policy::path::{Normal, PathError, normal};
pub use traffic::LimitSeen;
pub use upstream::{BackendKey, ConnectError, Endpoint, Member, NoEndpoint, Outcome, Upstream};
