//! What is told of each request and each connection: for metrics, access log and traces, which others write.
use crate::{Client, Decided, Served};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
pub use trackbed_balance::{Cause, Ejection};

/// Called on the worker, between two requests: it counts and queues, it does not write.
pub trait Report: 'static {
    /// Once for each request, after the last byte of its response, or when it was given up; together with others, within 50 ms.
    fn request(&self, record: &RequestRecord<'_>);
    /// Once for each connection that is not carried as HTTP, upgraded ones included, when it is over; and for one that was to be HTTP and is not.
    fn connection(&self, record: &StreamRecord<'_>);
    /// Whether a request makes a span, which `request` is then told of. `asked`: what the client's trace context wants; None without one.
    fn traces(&self, _asked: Option<bool>) -> bool {
        false
    }
    /// Once for each copy of a request for a mirror.
    fn copied(&self, _served: &Served, _mirror: &crate::BackendKey, _how: Copied) {}
    /// Once for each endpoint that is spared for a while.
    fn ejected(&self, _backend: &crate::BackendKey, _ejection: &Ejection) {}
}

/// What became of a mirror's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    Answered(u16),
    /// It could not be sent, or was not answered in time.
    Failed,
    /// Too many were under way.
    Dropped,
    /// Policies of the mirror's service do not admit it, or would have to ask somebody about it.
    Denied,
}

/// What a request is in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub trace: u128,
    pub id: u64,
    /// The client's own; None where the trace begins here.
    pub parent: Option<u64>,
}

/// Whom a rule belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteName {
    /// "HTTPRoute" and so on.
    pub kind: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
    /// Index in spec.rules.
    pub index: u32,
    /// Empty when it has none.
    pub rule: Box<str>,
    /// All of it: `HTTPRoute/shop/cart/0`, and the rule's name behind it if it has one. Written once, for each request is told with it.
    pub text: Box<str>,
}

#[derive(Debug)]
pub struct RequestRecord<'a> {
    pub client: &'a Client,
    pub served: &'a Served,
    /// None when no policy said anything.
    pub decided: Option<&'a Decided>,
    /// None when no rule matched, or no route is attached.
    pub route: Option<&'a RouteName>,
    /// None when the request went nowhere.
    pub backend: Option<&'a crate::BackendKey>,
    /// Uid and address of the last that was tried.
    pub endpoint: Option<(&'a Arc<str>, SocketAddr)>,
    pub method: &'a http::Method,
    pub authority: &'a str,
    /// As the client sent it, with the query.
    pub path: &'a str,
    pub version: http::Version,
    pub grpc: bool,
    /// Of HTTP; 0 when none was sent.
    pub status: u16,
    /// From headers or trailers.
    pub grpc_status: Option<u16>,
    pub flags: &'a [Flag],
    /// Name of the rate limit or the load shedding that refused it.
    pub limited_by: Option<&'a str>,
    /// Beside the first: 0 when nothing was tried again.
    pub retries: u32,
    pub request_id: &'a str,
    /// W3C: as it went on.
    pub traceparent: &'a str,
    /// Of a request that is traced.
    pub span: Option<Span>,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// It may be told a moment later.
    pub ended: SystemTime,
    /// Until the last byte.
    pub duration: Duration,
    /// Until the backend's answer began.
    pub first_byte: Option<Duration>,
}

#[derive(Debug)]
pub struct StreamRecord<'a> {
    pub client: &'a Client,
    pub served: &'a Served,
    /// None when no policy said anything.
    pub decided: Option<&'a Decided>,
    pub route: Option<&'a RouteName>,
    pub backend: Option<&'a crate::BackendKey>,
    pub endpoint: Option<(&'a Arc<str>, SocketAddr)>,
    /// Of TLS, where it was read.
    pub server_name: Option<&'a str>,
    pub flags: &'a [Flag],
    /// From the client.
    pub received_bytes: u64,
    /// To the client.
    pub sent_bytes: u64,
    pub duration: Duration,
}

/// Envoy's response flags, which logs and dashboards of meshes know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flag {
    /// NR: no rule of an attached route matches.
    NoRoute,
    /// NC: the rule's backend cannot be used.
    NoBackend,
    /// UH: the backend has no endpoint.
    NoEndpoint,
    /// UF: no connection to the endpoint.
    ConnectFailure,
    /// UC: the endpoint closed the connection before its answer was complete.
    ConnectionTermination,
    /// UT: the time for the answer was over.
    Timeout,
    /// URX: tried as often as the rule says, or as the budget allows.
    RetriesExceeded,
    /// DC: the client went away.
    ClientGone,
    /// DPE: the client does not speak HTTP as it should.
    ProtocolError,
    /// UPE: the endpoint does not.
    UpstreamProtocolError,
    /// RBAC: policies do not admit it. Envoy has no flag for that.
    Denied,
    /// JWT: its token is refused. Nor for that.
    TokenRefused,
    /// UAEX: external authorization does not admit it.
    ExternallyDenied,
    /// UO: one of the backend's limits is reached.
    Overflow,
    /// RL: a rate limit is.
    RateLimited,
    /// TL: its body is larger than what is admitted. Envoy has no flag for that either.
    TooLarge,
    /// OL: more requests are under way than the service can work on.
    Overloaded,
    /// DI: it was held back on purpose.
    Delayed,
    /// FI: it was answered with an error on purpose.
    FaultInjected,
}

impl Flag {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoBackend => "NC",
            Self::NoEndpoint => "UH",
            Self::ConnectFailure => "UF",
            Self::ConnectionTermination => "UC",
            Self::Timeout => "UT",
            Self::RetriesExceeded => "URX",
            Self::ClientGone => "DC",
            Self::ProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::Denied => "RBAC",
            Self::TokenRefused => "JWT",
            Self::ExternallyDenied => "UAEX",
            Self::Overflow => "UO",
            Self::RateLimited => "RL",
            Self::TooLarge => "TL",
            Self::Overloaded => "OL",
            Self::Delayed => "DI",
            Self::FaultInjected => "FI",
        }
    }
}
