//! The account of one connection as one side of it: flow records, Istio's metrics and the access line, from its facts.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use trackbed_contract::Identity;
use trackbed_contract::engine::{CloseBy, Direction, Flow, FlowEnd, FlowPhase, Path, Verdict};
use trackbed_contract::tables::errors;
use trackbed_decide::{Refusal, Service, Workload};
use trackbed_hbone::{ClosedBy, Meter, Outcome};
use trackbed_tls::PeerInfo;

use super::series::{Labels, NAMES, Series};
use crate::clock;
use crate::worker::shared::{Pod, Shared};

#[derive(Debug)]
pub(crate) struct Account {
    shared: Arc<Shared>,
    flow: Box<Flow>,
    labels: Box<Labels>,
    start: Instant,
    series: Option<Arc<Series>>,
    /// Bytes already added to the series: sent, received.
    counted: (u64, u64),
}

impl Account {
    pub(crate) fn new(shared: &Arc<Shared>, direction: Direction, pod: &Pod) -> Self {
        let flow = Flow {
            id: shared.next_flow(),
            direction: direction.into(),
            start: clock::unix_nanoseconds(),
            pod_uid: pod.local.uid.to_string(),
            source: Some(FlowEnd::default()),
            destination: Some(FlowEnd::default()),
            ..Flow::default()
        };
        let mut account = Self {
            shared: Arc::clone(shared),
            flow: Box::new(flow),
            labels: Box::default(),
            start: Instant::now(),
            series: None,
            counted: (0, 0),
        };
        account.label("reporter", if direction == Direction::Outbound { "source" } else { "destination" });
        account
    }

    /// Moves it out and leaves an empty one behind.
    pub(crate) fn take(&mut self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            flow: std::mem::take(&mut self.flow),
            labels: std::mem::take(&mut self.labels),
            start: self.start,
            series: self.series.take(),
            counted: self.counted,
        }
    }

    pub(crate) fn source(&mut self, address: SocketAddr, workload: Option<&Workload>, proven: Option<&Identity>) {
        self.flow.source = Some(end(address, workload, proven));
        self.end_labels("source", workload, proven);
    }

    pub(crate) fn destination(&mut self, address: SocketAddr, workload: Option<&Workload>, proven: Option<&Identity>) {
        self.flow.destination = Some(end(address, workload, proven));
        self.end_labels("destination", workload, proven);
    }

    pub(crate) fn service(&mut self, service: Option<&Service>) {
        let Some(service) = service else { return };
        self.flow.service = service.key.to_string();
        self.label("destination_service", &service.hostname);
        self.label("destination_service_namespace", &service.namespace);
        self.label("destination_service_name", &service.name);
    }

    pub(crate) fn path(&mut self, path: Path) {
        self.flow.path = path.into();
        self.label("connection_security_policy", if path == Path::Tunnel { "mutual_tls" } else { "unknown" });
    }

    pub(crate) fn policy(&mut self, policy: Option<&trackbed_policy::PolicyRef>) {
        if let Some(policy) = policy {
            self.flow.policy = policy.name.to_string();
            self.flow.rule = policy.rule.and_then(|rule| u32::try_from(rule).ok()).unwrap_or_default();
        }
    }

    pub(crate) fn peer(&mut self, peer: &PeerInfo) {
        self.flow.tls_version = peer.version.into();
        self.flow.tls_cipher = peer.cipher.into();
        self.flow.tls_group = peer.group.into();
        self.flow.peer_serial.clone_from(&peer.serial);
    }

    /// What the way to the peer cost beyond waiting for our own decision.
    pub(crate) fn timing(&mut self, connect: std::time::Duration, handshake: std::time::Duration) {
        self.flow.connect_microseconds = clock::microseconds(connect);
        self.flow.handshake_microseconds = clock::microseconds(handshake);
    }

    /// Bytes can move from now on.
    pub(crate) fn opened(&mut self) {
        // From now on the series has the labels: an idle connection keeps no texts of its own for them.
        let series = self.shared.series.of(std::mem::take(&mut self.labels));
        series.opened.fetch_add(1, Ordering::Relaxed);
        self.series = Some(series);
        self.flow.verdict = Verdict::Allowed.into();
        self.shared.reports.flow(Flow { phase: FlowPhase::Opened.into(), ..(*self.flow).clone() });
        tracing::debug!(target: "access", id = self.flow.id, "connection opened");
    }

    /// Adds what has moved since the last call to the metrics, so that long connections show while they live.
    pub(crate) fn count(&mut self, sent: u64, received: u64) {
        if let Some(series) = &self.series {
            // Istio's "sent" is what the server sent (istio#32399), ours is what the client sent.
            series.received.fetch_add(sent.saturating_sub(self.counted.0), Ordering::Relaxed);
            series.sent.fetch_add(received.saturating_sub(self.counted.1), Ordering::Relaxed);
            self.counted = (sent, received);
        }
    }

    pub(crate) fn count_meter(&mut self, meter: &Meter) {
        self.count(meter.sent(), meter.received());
    }

    /// The end of a connection that was open. `cut` = the engine ended it, and why.
    pub(crate) fn closed(mut self, outcome: &Outcome, cut: Option<&Refusal>) {
        self.count(outcome.sent, outcome.received);
        if let Some(series) = &self.series {
            series.closed.fetch_add(1, Ordering::Relaxed);
        }
        self.flow.bytes_sent = outcome.sent;
        self.flow.bytes_received = outcome.received;
        self.flow.first_byte_microseconds = outcome.first_byte.map(clock::microseconds).unwrap_or_default();
        self.flow.reset = outcome.reset;
        self.flow.closed_by = match outcome.closed_by {
            ClosedBy::Client => CloseBy::Client,
            ClosedBy::Server => CloseBy::Server,
            ClosedBy::Engine => CloseBy::Engine,
        }
        .into();
        if let Some(refusal) = cut {
            self.blame(refusal);
            if let Some(series) = &self.series {
                self.shared.series.failure(series.labels.clone(), response_flag(refusal.code));
            }
        } else if !outcome.code.is_empty() {
            self.flow.verdict = Verdict::Failed.into();
            self.flow.code = outcome.code.into();
        }
        self.finish();
    }

    /// The end of a connection that never opened.
    pub(crate) fn refused(mut self, refusal: &Refusal) {
        self.shared.series.failure(std::mem::take(&mut self.labels), response_flag(refusal.code));
        self.blame(refusal);
        self.flow.closed_by = CloseBy::Engine.into();
        self.flow.reset = true;
        self.finish();
    }

    fn blame(&mut self, refusal: &Refusal) {
        let denied = refusal.policy.is_some() || is_policy(refusal.code);
        self.flow.verdict = if denied { Verdict::Denied } else { Verdict::Failed }.into();
        self.flow.code = refusal.code.into();
        self.flow.reason.clone_from(&refusal.reason);
        self.flow.policy.clear();
        self.flow.rule = 0;
        self.policy(refusal.policy.as_ref());
    }

    fn finish(mut self) {
        self.flow.phase = FlowPhase::Closed.into();
        self.flow.duration_microseconds = clock::microseconds(self.start.elapsed());
        access_line(&self.flow);
        self.shared.reports.flow(*self.flow);
    }

    fn end_labels(&mut self, side: &str, workload: Option<&Workload>, proven: Option<&Identity>) {
        let name = |label: &str| format!("{side}_{label}");
        self.label(&name("principal"), proven.map_or("", Identity::as_str));
        let Some(workload) = workload else { return };
        self.label(&name("workload"), &workload.workload_name);
        self.label(&name("canonical_service"), &workload.canonical_name);
        self.label(&name("canonical_revision"), &workload.canonical_revision);
        self.label(&name("workload_namespace"), &workload.namespace);
        self.label(&name("app"), &workload.canonical_name);
        self.label(&name("version"), &workload.canonical_revision);
        self.label(&name("cluster"), &workload.cluster);
    }

    fn label(&mut self, name: &str, value: &str) {
        if let Some(index) = NAMES.iter().position(|known| *known == name) {
            value.clone_into(&mut self.labels[index]);
        }
    }
}

fn end(address: SocketAddr, workload: Option<&Workload>, proven: Option<&Identity>) -> FlowEnd {
    FlowEnd {
        address: match address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
            std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
        },
        port: address.port().into(),
        workload: workload.map(|workload| workload.name.to_string()).unwrap_or_default(),
        namespace: workload.map(|workload| workload.namespace.to_string()).unwrap_or_default(),
        identity: proven.map(ToString::to_string).unwrap_or_default(),
        node: workload.map(|workload| workload.node.to_string()).unwrap_or_default(),
    }
}

fn is_policy(code: &str) -> bool {
    [errors::POLICY_DENIED, errors::POLICY_NO_ALLOW, errors::POLICY_STRICT, errors::POLICY_UNKNOWN, errors::POLICY_INVALID].contains(&code)
}

/// Istio's `response_flags`.
fn response_flag(code: &str) -> &'static str {
    match code {
        code if is_policy(code) => "DENY",
        errors::TUNNEL_HANDSHAKE => "TLS_FAILURE",
        errors::IDENTITY_MISSING | errors::IDENTITY_MISMATCH | errors::IDENTITY_MALFORMED | errors::IDENTITY_REFUSED => "IDENTITY_ERROR",
        _ => "CONNECT",
    }
}

/// Field names are Istio's; bytes are seen from the local pod, as there.
fn access_line(flow: &Flow) {
    let (source, destination) = (flow.source.clone().unwrap_or_default(), flow.destination.clone().unwrap_or_default());
    let inbound = flow.direction == i32::from(Direction::Inbound);
    let (out, into) = if inbound { (flow.bytes_received, flow.bytes_sent) } else { (flow.bytes_sent, flow.bytes_received) };
    let direction = if inbound { "inbound" } else { "outbound" };
    let path = match flow.path() {
        Path::Relay => "relay",
        Path::Tunnel => "tunnel",
        Path::Plain => "plain",
        Path::Unspecified => "",
    };
    let error = (!flow.code.is_empty()).then(|| format!("{}: {}", flow.code, flow.reason));
    // `direction` first: the macro cannot tell a dotted first name from the rest.
    tracing::info!(target: "access", direction, path,
        src.addr = address(&source), src.workload = source.workload, src.namespace = source.namespace, src.identity = source.identity,
        dst.addr = address(&destination), dst.service = flow.service, dst.workload = destination.workload,
        dst.namespace = destination.namespace, dst.identity = destination.identity, bytes_sent = out,
        bytes_recv = into, duration = format!("{}ms", flow.duration_microseconds / 1000), policy = flow.policy, error,
        "connection complete");
}

fn address(end: &FlowEnd) -> String {
    let port = u16::try_from(end.port).unwrap_or_default();
    if let Ok(ip) = <[u8; 4]>::try_from(&end.address[..]) {
        SocketAddr::from((ip, port)).to_string()
    } else if let Ok(ip) = <[u8; 16]>::try_from(&end.address[..]) {
        SocketAddr::from((ip, port)).to_string()
    } else {
        String::new()
    }
}
