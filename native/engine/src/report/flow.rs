//! A flow record before it is sent: shared with the connection it is about, put into words only for a director that takes it.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use trackbed_contract::Identity;
use trackbed_contract::engine::{Audit, CloseBy, Direction, Flow, FlowEnd, FlowPhase, Path, Verdict};
use trackbed_decide::{Refusal, Service, Workload};
use trackbed_observe::Protocol;
use trackbed_policy::{PolicyRef, Refused};
use trackbed_tls::PeerInfo;

use super::account::response_flag;
use crate::clock;

/// What there is to say about a connection, by phase.
#[derive(Debug)]
pub(crate) enum Record {
    Opened(Arc<Known>),
    Closed(Arc<Known>, Box<Closing>),
    /// Of a waypoint: there are few of them, and none is kept for long.
    Request(Box<Flow>),
}

/// What is known of a connection when bytes begin to move.
#[derive(Debug)]
pub(crate) struct Known {
    pub(super) id: u64,
    pub(super) direction: Direction,
    pub(super) path: Path,
    /// Wall clock.
    pub(super) start: i64,
    pub(super) started: Instant,
    pub(super) pod_uid: Arc<str>,
    pub(super) source: End,
    pub(super) destination: End,
    pub(super) service: Option<Arc<Service>>,
    pub(super) policy: Option<PolicyRef>,
    /// Why it would have been refused were dry-run policies enforced. Boxed: hardly any connection has it.
    pub(super) audit: Option<Box<Refused>>,
    /// Of a tunnel.
    pub(super) peer: Option<Arc<PeerInfo>>,
    connect_microseconds: u32,
    handshake_microseconds: u32,
}

/// One end of a connection.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// None when it is not known. Apart from its port, which a `SocketAddr` would pad.
    ip: Option<IpAddr>,
    port: u16,
    pub(super) workload: Option<Arc<Workload>>,
    pub(super) proven: Option<Identity>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(super) verdict: Verdict,
    pub(super) closed_by: CloseBy,
    pub(super) reset: bool,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) duration: Duration,
    pub(super) first_byte: Option<Duration>,
    pub(super) protocol: Option<Protocol>,
    /// That a client of TLS asked for.
    pub(super) server_name: Option<Box<str>>,
    pub(super) code: &'static str,
    /// Why we ended or refused it; its policy takes the place of the one that admitted the connection.
    pub(super) refusal: Option<Box<Refusal>>,
}

impl End {
    pub(super) fn new(address: SocketAddr, workload: Option<&Arc<Workload>>, proven: Option<&Identity>) -> Self {
        Self { ip: Some(address.ip()), port: address.port(), workload: workload.cloned(), proven: proven.cloned() }
    }

    pub(super) fn address(&self) -> String {
        self.ip.map(|ip| SocketAddr::new(ip, self.port).to_string()).unwrap_or_default()
    }

    pub(super) const fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn of<'a>(&'a self, part: impl Fn(&'a Workload) -> &'a str) -> &'a str {
        self.workload.as_deref().map_or("", part)
    }

    pub(super) fn identity(&self) -> &str {
        self.proven.as_ref().map_or("", Identity::as_str)
    }

    pub(super) fn to_wire(&self) -> FlowEnd {
        FlowEnd {
            address: match self.ip {
                Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
                Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
                None => Vec::new(),
            },
            port: self.port.into(),
            pod: self.of(|workload| &workload.name).to_owned(),
            workload: self.of(|workload| &workload.workload_name).to_owned(),
            namespace: self.of(|workload| &workload.namespace).to_owned(),
            identity: self.identity().to_owned(),
            node: self.of(|workload| &workload.node).to_owned(),
        }
    }
}

impl Known {
    pub(super) fn new(id: u64, direction: Direction, pod_uid: Arc<str>) -> Self {
        Self {
            id,
            direction,
            path: Path::Unspecified,
            start: clock::unix_nanoseconds(),
            started: Instant::now(),
            pod_uid,
            source: End::default(),
            destination: End::default(),
            service: None,
            policy: None,
            audit: None,
            peer: None,
            connect_microseconds: 0,
            handshake_microseconds: 0,
        }
    }

    /// What the way to the peer cost.
    pub(super) fn took(&mut self, connect: Duration, handshake: Duration) {
        let short = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        (self.connect_microseconds, self.handshake_microseconds) = (short(connect), short(handshake));
    }

    fn to_wire(&self, phase: FlowPhase, verdict: Verdict, policy: Option<&PolicyRef>) -> Flow {
        let mut flow = Flow {
            id: self.id,
            phase: phase.into(),
            direction: self.direction.into(),
            path: self.path.into(),
            verdict: verdict.into(),
            start: self.start,
            source: Some(self.source.to_wire()),
            destination: Some(self.destination.to_wire()),
            service: self.service.as_ref().map(|service| service.key.to_string()).unwrap_or_default(),
            connect_microseconds: self.connect_microseconds.into(),
            handshake_microseconds: self.handshake_microseconds.into(),
            pod_uid: self.pod_uid.to_string(),
            ..Flow::default()
        };
        if let Some(peer) = &self.peer {
            (flow.tls_version, flow.tls_cipher, flow.tls_group) = (peer.version.into(), peer.cipher.into(), peer.group.into());
            flow.peer_serial = peer.serial.to_string();
        }
        if let Some(policy) = policy {
            (flow.policy, flow.rule) = named(policy);
        }
        flow.audit = self.audit.as_deref().map(audit);
        flow
    }
}

pub(super) fn audit(refused: &Refused) -> Audit {
    let (policy, rule) = named(&refused.policy);
    Audit { verdict: Verdict::Denied.into(), policy, rule, code: refused.code.to_owned() }
}

pub(super) fn named(policy: &PolicyRef) -> (String, u32) {
    (policy.name.to_string(), policy.rule.and_then(|rule| u32::try_from(rule).ok()).unwrap_or_default())
}

impl Closing {
    /// The policy that had the last word.
    pub(super) fn policy<'a>(&'a self, known: &'a Known) -> Option<&'a PolicyRef> {
        self.refusal.as_ref().map_or(known.policy.as_ref(), |refusal| refusal.policy.as_ref())
    }

    /// Empty of one that ended as it should.
    fn response_flags(&self) -> &'static str {
        if self.verdict == Verdict::Allowed { "" } else { response_flag(self.code).text() }
    }

    pub(super) fn reason(&self) -> &str {
        self.refusal.as_ref().map_or("", |refusal| &refusal.reason)
    }
}

impl Record {
    /// As ReportBatch carries it.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.to_wire().encode_to_vec()
    }

    fn to_wire(&self) -> Flow {
        match self {
            Self::Request(flow) => (**flow).clone(),
            Self::Opened(known) => known.to_wire(FlowPhase::Opened, Verdict::Allowed, known.policy.as_ref()),
            Self::Closed(known, closing) => Flow {
                code: closing.code.to_owned(),
                reason: closing.reason().to_owned(),
                bytes_sent: closing.sent,
                bytes_received: closing.received,
                first_byte_microseconds: closing.first_byte.map(clock::microseconds).unwrap_or_default(),
                duration_microseconds: clock::microseconds(closing.duration),
                closed_by: closing.closed_by.into(),
                reset: closing.reset,
                protocol: closing.protocol.map_or("", Protocol::as_str).to_owned(),
                server_name: closing.server_name.as_deref().unwrap_or_default().to_owned(),
                response_flags: closing.response_flags().to_owned(),
                ..known.to_wire(FlowPhase::Closed, closing.verdict, closing.policy(known))
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use trackbed_contract::tables::errors;

    use super::*;

    #[test]
    fn a_record_says_by_what_a_connection_failed_as_the_metric_does() {
        let known = Arc::new(Known::new(1, Direction::Outbound, "pod".into()));
        let of = |verdict, code| {
            let closing = Closing {
                verdict,
                closed_by: CloseBy::Engine,
                reset: true,
                sent: 0,
                received: 0,
                duration: Duration::ZERO,
                first_byte: None,
                code,
                refusal: None,
                protocol: None,
                server_name: None,
            };
            Flow::decode(&*Record::Closed(Arc::clone(&known), Box::new(closing)).encode()).expect("a flow").response_flags
        };
        assert_eq!(of(Verdict::Denied, errors::POLICY_DENIED), "DENY");
        assert_eq!(of(Verdict::Failed, errors::TUNNEL_HANDSHAKE), "TLS_FAILURE");
        assert_eq!(of(Verdict::Failed, "E_OTHER"), "CONNECT");
        assert_eq!(of(Verdict::Allowed, ""), "");
    }

    /// Each holds an idle connection's memory: more than this shows in the bench.
    #[test]
    fn what_is_known_of_an_idle_connection_is_small() {
        println!("known {}", size_of::<Known>());
        assert!(size_of::<Known>() <= 256, "{}", size_of::<Known>());
    }
}
