//! The account of one connection as one side of it: what its flow records, metrics and access line are made of.
//!
//! It holds what was decided on, not texts of it: an idle connection keeps a few pointers, and the texts of a flow record are made where
//! the record is sent.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use trackbed_contract::Identity;
use trackbed_contract::engine::{CloseBy, Direction, Path, Verdict};
use trackbed_contract::tables::errors;
use trackbed_decide::{Refusal, Service, Workload};
use trackbed_hbone::{ClosedBy, Meter, Outcome};
use trackbed_policy::{PolicyRef, Refused};
use trackbed_tls::PeerInfo;

use super::access;
use super::flow::{Closing, End, Known, Record};
use super::ledger::Ledger;
use super::series::{Failure, Series};
use super::watch::Seen;
use crate::worker::shared::Pod;

/// Of a connection that is being set up.
#[derive(Debug)]
pub(crate) struct Account {
    ledger: Rc<Ledger>,
    known: Known,
}

/// Of one whose bytes can move.
#[derive(Debug)]
pub(crate) struct OpenAccount {
    ledger: Rc<Ledger>,
    known: Arc<Known>,
    series: Arc<Series>,
    /// Bytes already added to the series: sent, received.
    counted: (u64, u64),
}

impl Account {
    pub(crate) fn new(ledger: &Rc<Ledger>, direction: Direction, pod: &Pod) -> Self {
        let known = Known::new(ledger.shared().next_flow(), direction, Arc::clone(&pod.local.uid));
        Self { ledger: Rc::clone(ledger), known }
    }

    /// Moves it out and leaves an empty one behind.
    pub(crate) fn take(&mut self) -> Self {
        let empty = Known::new(0, self.known.direction, Arc::clone(&self.known.pod_uid));
        Self { ledger: Rc::clone(&self.ledger), known: std::mem::replace(&mut self.known, empty) }
    }

    pub(crate) fn source(&mut self, address: SocketAddr, workload: Option<&Arc<Workload>>, proven: Option<&Identity>) {
        self.known.source = End::new(address, workload, proven);
    }

    pub(crate) fn destination(&mut self, address: SocketAddr, workload: Option<&Arc<Workload>>, proven: Option<&Identity>) {
        self.known.destination = End::new(address, workload, proven);
    }

    pub(crate) fn service(&mut self, service: Option<&Arc<Service>>) {
        if let Some(service) = service {
            self.known.service = Some(Arc::clone(service));
        }
    }

    pub(crate) fn path(&mut self, path: Path) {
        self.known.path = path;
    }

    pub(crate) fn policy(&mut self, policy: Option<&PolicyRef>) {
        if let Some(policy) = policy {
            self.known.policy = Some(policy.clone());
        }
    }

    /// What dry-run policies would have done otherwise.
    pub(crate) fn audit(&mut self, audit: Option<&Refused>) {
        self.known.audit = audit.map(|refused| Box::new(refused.clone()));
    }

    pub(crate) fn peer(&mut self, peer: &Arc<PeerInfo>) {
        self.known.peer = Some(Arc::clone(peer));
    }

    /// What the way to the peer cost beyond waiting for our own decision.
    pub(crate) fn timing(&mut self, connect: Duration, handshake: Duration) {
        self.known.took(connect, handshake);
    }

    /// Bytes can move from now on.
    pub(crate) fn opened(self) -> OpenAccount {
        let series = self.ledger.series(&self.known);
        series.opened.add(1);
        if let Some(audit) = self.known.audit.as_deref().filter(|_| self.known.direction == Direction::Inbound) {
            self.ledger.shared().audits.would_deny(&audit.policy.name);
        }
        self.ledger.shared().edges.opened(&self.known);
        let known = Arc::new(self.known);
        self.ledger.shared().reports.record(Record::Opened(Arc::clone(&known)));
        tracing::debug!(target: "access", id = known.id, "connection opened");
        OpenAccount { ledger: self.ledger, known, series, counted: (0, 0) }
    }

    /// The end of a connection that never opened.
    pub(crate) fn refused(self, refusal: &Refusal) {
        self.ledger.series(&self.known).failed(response_flag(refusal.code)).add(1);
        let closing = Closing { reset: true, ..Closing::blamed(refusal, self.known.started.elapsed()) };
        self.ledger.shared().edges.refused(&self.known, &closing);
        let (known, record) = finish(Arc::new(self.known), closing);
        for recording in self.ledger.recordings().iter() {
            recording.refused(&known, || record.encode());
        }
        self.ledger.shared().reports.record(record);
    }
}

impl OpenAccount {
    /// Adds what has moved since the last call, and says how much that was.
    fn count(&mut self, sent: u64, received: u64) -> (u64, u64) {
        let moved = (sent.saturating_sub(self.counted.0), received.saturating_sub(self.counted.1));
        // Istio's "sent" is what the server sent (istio#32399), ours is what the client sent.
        self.series.received.add(moved.0);
        self.series.sent.add(moved.1);
        self.counted = (sent, received);
        moved
    }

    pub(crate) fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// So that long connections show while they live.
    pub(crate) fn count_meter(&mut self, meter: &Meter) {
        let (sent, received) = self.count(meter.sent(), meter.received());
        if (sent, received) != (0, 0) {
            self.ledger.shared().edges.moved(&self.known, sent, received);
        }
    }

    /// The end. `cut` = the engine ended it, and why; `seen` = what its bytes told.
    pub(crate) fn closed(mut self, outcome: &Outcome, cut: Option<&Refusal>, seen: Option<&Seen>) {
        let (sent, received) = self.count(outcome.sent, outcome.received);
        self.series.closed.add(1);
        let duration = self.known.started.elapsed();
        let mut closing = match cut {
            Some(refusal) => {
                self.series.failed(response_flag(refusal.code)).add(1);
                Closing::blamed(refusal, duration)
            }
            None => Closing { verdict: if outcome.code.is_empty() { Verdict::Allowed } else { Verdict::Failed }, ..Closing::new(duration) },
        };
        if cut.is_none() {
            closing.code = outcome.code;
        }
        closing.sent = outcome.sent;
        closing.received = outcome.received;
        closing.first_byte = outcome.first_byte;
        closing.reset = outcome.reset;
        if let Some(seen) = seen {
            (closing.protocol, closing.server_name) = (seen.protocol, seen.server_name.clone());
        }
        closing.closed_by = match outcome.closed_by {
            ClosedBy::Client => CloseBy::Client,
            ClosedBy::Server => CloseBy::Server,
            ClosedBy::Engine => CloseBy::Engine,
        };
        self.ledger.shared().edges.closed(&self.known, &closing, sent, received);
        let (known, record) = finish(self.known, closing);
        for recording in self.ledger.recordings().iter() {
            recording.closed(&known, || record.encode());
        }
        self.ledger.shared().reports.record(record);
    }
}

impl Closing {
    fn new(duration: Duration) -> Self {
        Self {
            verdict: Verdict::Allowed,
            closed_by: CloseBy::Engine,
            reset: false,
            sent: 0,
            received: 0,
            duration,
            first_byte: None,
            protocol: None,
            server_name: None,
            code: "",
            refusal: None,
        }
    }

    fn blamed(refusal: &Refusal, duration: Duration) -> Self {
        let denied = refusal.policy.is_some() || is_policy(refusal.code);
        let verdict = if denied { Verdict::Denied } else { Verdict::Failed };
        Self { verdict, code: refusal.code, refusal: Some(Box::new(refusal.clone())), ..Self::new(duration) }
    }
}

fn finish(known: Arc<Known>, closing: Closing) -> (Arc<Known>, Record) {
    access::line(&known, &closing);
    (Arc::clone(&known), Record::Closed(known, Box::new(closing)))
}

fn is_policy(code: &str) -> bool {
    [errors::POLICY_DENIED, errors::POLICY_NO_ALLOW, errors::POLICY_STRICT, errors::POLICY_UNKNOWN, errors::POLICY_INVALID].contains(&code)
}

/// Istio's `response_flags`.
pub(super) fn response_flag(code: &str) -> Failure {
    match code {
        code if is_policy(code) => Failure::Denied,
        errors::TUNNEL_HANDSHAKE => Failure::Handshake,
        errors::IDENTITY_MISSING | errors::IDENTITY_MISMATCH | errors::IDENTITY_MALFORMED | errors::IDENTITY_REFUSED => Failure::Identity,
        _ => Failure::Connect,
    }
}
