//! The record of one request, from its head to its last byte: told once, however the request ended.
use crate::admission::Admission;
use crate::backend::Backend;
use crate::balancing::{Chosen, Met};
use crate::rule::HttpRule;
use crate::trace::Trace;
use crate::traffic::Pass;
use crate::{Client, Flag, Report, RequestRecord, Served};
use http::{HeaderValue, Method, StatusCode, Uri, Version};
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trackbed_policy::{PolicyRef, Refused};

/// What all requests of a connection have in common.
pub(crate) struct Parties {
    pub(crate) client: Client,
    /// Of the client, for x-forwarded-for.
    pub(crate) address: HeaderValue,
    pub(crate) served: Served,
    pub(crate) report: Rc<dyn Report>,
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
        let trace = self.trace.as_ref();
        self.parties.report.request(&RequestRecord {
            client: &self.parties.client,
            served: &self.parties.served,
            route: self.rule.as_ref().and_then(|rule| rule.name.as_ref()),
            backend: self.backend.as_ref().map(|backend| &*backend.key),
            endpoint: self.endpoint.as_ref().map(|(uid, address)| (uid, *address)),
            decided: self.decided.as_deref(),
            method: &self.method,
            authority: text(self.authority.as_ref()),
            path: self.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str),
            version: self.version,
            grpc: self.grpc,
            status: self.status.map_or(0, |status| status.as_u16()),
            grpc_status: self.grpc_status,
            flags: &self.flags,
            limited_by: self.limited_by.as_deref(),
            retries: self.retries,
            request_id: text(trace.map(|trace| &trace.request_id)),
            traceparent: text(trace.map(|trace| &trace.traceparent)),
            span: trace.and_then(|trace| trace.span),
            request_bytes: self.request_bytes.get(),
            response_bytes: self.response_bytes,
            duration: self.begun.elapsed(),
            first_byte: self.first_byte,
        });
    }
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or_default()
}
