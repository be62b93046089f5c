//! The record of one request, from its head to its last byte: told once, however the request ended.
use crate::admission::Admission;
use crate::backend::Backend;
use crate::balancing::{Chosen, Met};
use crate::batch::Batch;
use crate::rule::HttpRule;
use crate::trace::Trace;
use crate::traffic::Pass;
use crate::{Client, Flag, Report, RequestRecord, Served, Span};
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use trackbed_policy::{PolicyRef, Refused};

/// What all requests of a connection have in common.
pub(crate) struct Parties {
    pub(crate) client: Client,
    /// Of the client, for x-forwarded-for.
    pub(crate) address: HeaderValue,
    pub(crate) served: Served,
    pub(crate) report: Rc<dyn Report>,
    /// For requests.
    pub(crate) batch: Rc<Batch>,
}

/// What policies said of a request or a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The one that decided; None where none did.
    pub policy: Option<PolicyRef>,
    /// Of the errors in proto/tables.json; empty when it was admitted.
    pub code: &'static str,
    pub reason: String,
    /// What policies that are only tried would have refused it for.
    pub audit: Option<Refused>,
}

impl Decided {
    /// No policy has a part in it.
    pub(crate) fn nobody(code: &'static str, reason: String) -> Self {
        Self { policy: None, code, reason, audit: None }
    }

    pub(crate) fn of(refused: Refused) -> Self {
        let Refused { code, policy, reason } = refused;
        Self { policy: Some(policy), code, reason, audit: None }
    }

    /// Of the service that was addressed, and of the one that a route sends to: who refuses is told, and otherwise who admitted it first.
    pub(crate) fn both(before: Option<Self>, then: Option<Self>) -> Option<Self> {
        let (before, then) = match (before, then) {
            (Some(before), Some(then)) => (before, then),
            (before, then) => return before.or(then),
        };
        let (mut told, other) = if then.code.is_empty() && before.policy.is_some() { (before, then) } else { (then, before) };
        told.audit = told.audit.or(other.audit);
        Some(told)
    }
}

pub(crate) struct Record {
    parties: Rc<Parties>,
    method: Method,
    uri: Uri,
    version: Version,
    begun: Instant,
    pub(crate) authority: Option<HeaderValue>,
    pub(crate) trace: Option<Trace>,
    /// Of a service that is guarded.
    pub(crate) admission: Option<Rc<Admission>>,
    /// What policies said of it, where they said something.
    pub(crate) decided: Option<Box<Decided>>,
    pub(crate) rule: Option<Arc<HttpRule>>,
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) endpoint: Option<(Arc<str>, SocketAddr)>,
    pub(crate) grpc: bool,
    pub(crate) status: Option<StatusCode>,
    pub(crate) grpc_status: Option<u16>,
    flags: Vec<Flag>,
    /// That refused it.
    pub(crate) limited_by: Option<Box<str>>,
    /// Through the gate of load shedding, until all is over.
    pub(crate) pass: Option<Pass>,
    pub(crate) retries: u32,
    /// Counted where the body is read.
    pub(crate) request_bytes: Rc<Cell<u64>>,
    pub(crate) response_bytes: u64,
    pub(crate) first_byte: Option<Duration>,
    complete: bool,
}

impl Record {
    /// In a box: it goes through many hands.
    pub(crate) fn begin(parties: Rc<Parties>, request: &http::request::Parts) -> Box<Self> {
        Box::new(Self {
            parties,
            method: request.method.clone(),
            uri: request.uri.clone(),
            version: request.version,
            begun: Instant::now(),
            authority: None,
            trace: None,
            admission: None,
            decided: None,
            rule: None,
            backend: None,
            endpoint: None,
            grpc: false,
            status: None,
            grpc_status: None,
            flags: Vec::new(),
            limited_by: None,
            pass: None,
            retries: 0,
            request_bytes: Rc::default(),
            response_bytes: 0,
            first_byte: None,
            complete: false,
        })
    }

    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    pub(crate) fn flag(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// While it lasts.
    pub(crate) fn denied(&mut self, refused: Refused) {
        let audit = self.decided.take().and_then(|decided| decided.audit);
        self.decided = Some(Box::new(Decided { audit, ..Decided::of(refused) }));
    }

    pub(crate) fn answered(&mut self) {
        self.first_byte = Some(self.begun.elapsed());
    }

    /// What an answer was worth that only began before.
    pub(crate) fn met<D>(&self, endpoint: &Chosen<D>, met: Met) {
        if let Some(backend) = &self.backend {
            endpoint.ended(met, &*self.parties.report, &backend.key);
        }
    }

    /// The last byte of the response was handed over.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete && self.flags.is_empty() {
            self.flags.push(Flag::ClientGone);
        }
        let trace = self.trace.take();
        let texts = Texts::of([
            text(self.authority.as_ref()),
            self.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            text(trace.as_ref().map(|trace| &trace.request_id)),
            text(trace.as_ref().map(|trace| &trace.traceparent)),
        ]);
        self.parties.batch.push(Over {
            parties: Rc::clone(&self.parties),
            rule: self.rule.take(),
            backend: self.backend.take(),
            endpoint: self.endpoint.take(),
            decided: self.decided.take(),
            method: std::mem::take(&mut self.method),
            texts,
            version: self.version,
            grpc: self.grpc,
            status: self.status.map_or(0, |status| status.as_u16()),
            grpc_status: self.grpc_status,
            flags: std::mem::take(&mut self.flags),
            limited_by: self.limited_by.take(),
            retries: self.retries,
            span: trace.and_then(|trace| trace.span),
            request_bytes: self.request_bytes.get(),
            response_bytes: self.response_bytes,
            ended: SystemTime::now(),
            duration: self.begun.elapsed(),
            first_byte: self.first_byte,
        });
    }
}

/// A request of which nothing is to come any more, until it is told. It holds nothing of its connection's buffers.
pub(crate) struct Over {
    parties: Rc<Parties>,
    rule: Option<Arc<HttpRule>>,
    backend: Option<Arc<Backend>>,
    endpoint: Option<(Arc<str>, SocketAddr)>,
    decided: Option<Box<Decided>>,
    method: Method,
    texts: Texts,
    version: Version,
    grpc: bool,
    status: u16,
    grpc_status: Option<u16>,
    flags: Vec<Flag>,
    limited_by: Option<Box<str>>,
    retries: u32,
    span: Option<Span>,
    request_bytes: u64,
    response_bytes: u64,
    ended: SystemTime,
    duration: Duration,
    first_byte: Option<Duration>,
}

impl Over {
    pub(crate) fn record(&self) -> RequestRecord<'_> {
        let [authority, path, request_id, traceparent] = self.texts.all();
        RequestRecord {
            client: &self.parties.client,
            served: &self.parties.served,
            route: self.rule.as_ref().and_then(|rule| rule.name.as_ref()),
            backend: self.backend.as_ref().map(|backend| &*backend.key),
            endpoint: self.endpoint.as_ref().map(|(uid, address)| (uid, *address)),
            decided: self.decided.as_deref(),
            method: &self.method,
            authority,
            path,
            version: self.version,
            grpc: self.grpc,
            status: self.status,
            grpc_status: self.grpc_status,
            flags: &self.flags,
            limited_by: self.limited_by.as_deref(),
            retries: self.retries,
            request_id,
            traceparent,
            span: self.span,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            ended: self.ended,
            duration: self.duration,
            first_byte: self.first_byte,
        }
    }
}

/// Authority, path, request id and trace in one piece of memory.
struct Texts {
    text: String,
    ends: [usize; 4],
}

impl Texts {
    fn of(parts: [&str; 4]) -> Self {
        let mut text = String::with_capacity(parts.iter().map(|part| part.len()).sum());
        let ends = parts.map(|part| {
            text.push_str(part);
            text.len()
        });
        Self { text, ends }
    }

    fn all(&self) -> [&str; 4] {
        let mut from = 0;
        self.ends.map(|end| &self.text[std::mem::replace(&mut from, end)..end])
    }
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn over(batch: Rc<Batch>, texts: [&str; 4]) -> Over {
        struct Nobody;
        impl Report for Nobody {
            fn request(&self, _: &RequestRecord<'_>) {}
            fn connection(&self, _: &crate::StreamRecord<'_>) {}
        }
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let parties = Parties {
            client: Client { identity: None, address, addressed: None },
            address: HeaderValue::from_static("10.0.0.1"),
            served: Served { service: "shop/cart".into(), port: 80 },
            report: Rc::new(Nobody),
            batch,
        };
        Over {
            parties: Rc::new(parties),
            rule: None,
            backend: None,
            endpoint: None,
            decided: None,
            method: Method::GET,
            texts: Texts::of(texts),
            version: Version::HTTP_11,
            grpc: false,
            status: 200,
            grpc_status: None,
            flags: Vec::new(),
            limited_by: None,
            retries: 0,
            span: None,
            request_bytes: 0,
            response_bytes: 0,
            ended: SystemTime::UNIX_EPOCH,
            duration: Duration::ZERO,
            first_byte: None,
        }
    }
}
