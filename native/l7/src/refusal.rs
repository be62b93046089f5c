//! Answers of the waypoint itself, where a request goes nowhere: with a status for people, or one for gRPC.
use crate::Flag;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) flag: Flag,
    /// For the client's operator: no words that the client sent.
    pub(crate) reason: Cow<'static, str>,
    /// Whoever wrote that request may mean something else by what follows it: the connection ends with the answer.
    pub(crate) close: bool,
    /// Of the answer.
    pub(crate) headers: Option<Box<HeaderMap>>,
    /// When it may be asked again.
    pub(crate) retry_after: Option<Duration>,
    /// Instead of what stands for the status.
    pub(crate) grpc: Option<u16>,
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// A page for people is not told in a header.
const MESSAGE_BYTES: usize = 512;

impl Refusal {
    pub(crate) fn new(status: StatusCode, flag: Flag, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, flag, reason: reason.into(), close: false, headers: None, retry_after: None, grpc: None }
    }

    pub(crate) fn bad_request(reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Flag::ProtocolError, reason)
    }

    pub(crate) fn malformed(reason: &'static str) -> Self {
        Self { close: true, ..Self::bad_request(reason) }
    }

    pub(crate) fn unavailable(flag: Flag, reason: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, flag, reason)
    }

    pub(crate) fn timeout(reason: &'static str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Flag::Timeout, reason)
    }

    /// gRPC clients look at nothing but grpc-status: it is in the headers of an answer without a body, which the standard calls Trailers-Only.
    /// Otherwise the reason is the body.
    pub(crate) fn response(&self, grpc: bool) -> (Response<()>, Option<u16>) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        if let Some(own) = self.headers.as_deref() {
            headers.clone_from(own);
        }
        if let Some(time) = self.retry_after {
            // In whole seconds for HTTP, and what clients of gRPC understand.
            headers.insert(RETRY_AFTER, HeaderValue::from(time.as_secs() + u64::from(time.subsec_nanos() > 0)));
            if grpc {
                headers.insert(PUSHBACK, HeaderValue::from(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)));
            }
        }
        if !grpc {
            if !self.reason.is_empty() {
                headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
            }
            *response.status_mut() = self.status;
            return (response, None);
        }
        let code = self.grpc_status();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(code));
        if !self.reason.is_empty() {
            headers.insert(GRPC_MESSAGE, message(&self.reason));
        }
        (response, Some(code))
    }

    /// As gRPC maps HTTP's statuses, but for a rule whose backends cannot be used, of which GRPCRoute says UNAVAILABLE, and a time that was over,
    /// which is what DEADLINE_EXCEEDED is for.
    fn grpc_status(&self) -> u16 {
        if let Some(code) = self.grpc {
            return code;
        }
        match (self.flag, self.status.as_u16()) {
            // RESOURCE_EXHAUSTED. The standard's table has UNAVAILABLE for 429, which clients take as leave to try again at once.
            (Flag::RateLimited | Flag::TooLarge, _) => 8,
            (Flag::Timeout, _) => 4,
            (Flag::NoBackend, _) | (_, 429 | 502..=504) => 14,
            (_, 400 | 500) => 13,
            (_, 401) => 16,
            (_, 403) => 7,
            (_, 404 | 405 | 501) => 12,
            _ => 2,
        }
    }
}

/// Percent-encoded, as gRPC has it.
fn message(reason: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(reason.len());
    for byte in reason.bytes().take(MESSAGE_BYTES) {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            byte => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    HeaderValue::from_str(&encoded).unwrap_or_else(|_| HeaderValue::from_static("refused"))
}

/// What an answer says in its headers or trailers.
pub(crate) fn grpc_status(headers: &http::HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
