//! Which connections a recording is about.
use std::collections::HashSet;
use std::net::IpAddr;

use trackbed_contract::engine::{Direction, Record as Order};

use crate::report::flow::{End, Known};

/// One Unix socket message carries more; nobody names more.
const MOST_NAMED: usize = 256;

#[derive(Debug)]
pub(super) struct Filter {
    pods: HashSet<String>,
    peers: Vec<Peer>,
    ports: Vec<u16>,
}

#[derive(Debug)]
struct Peer {
    network: Option<(IpAddr, u32)>,
    namespace: String,
    pod: String,
}

impl Filter {
    pub(super) fn new(order: &Order) -> Result<Self, String> {
        if order.pod_uids.len().max(order.peers.len()).max(order.ports.len()) > MOST_NAMED {
            return Err(format!("a recording names at most {MOST_NAMED} pods, peers and ports each"));
        }
        let peers = order.peers.iter().map(|peer| {
            Ok(Peer { network: network(&peer.address, peer.prefix_length)?, namespace: peer.namespace.clone(), pod: peer.pod.clone() })
        });
        let ports = order.ports.iter().map(|port| u16::try_from(*port).map_err(|_| format!("{port} is no port")));
        Ok(Self {
            pods: order.pod_uids.iter().cloned().collect(),
            peers: peers.collect::<Result<_, String>>()?,
            ports: ports.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn takes(&self, known: &Known) -> bool {
        let peer = if known.direction == Direction::Outbound { &known.destination } else { &known.source };
        self.pods.contains(&*known.pod_uid)
            && (self.ports.is_empty() || self.ports.contains(&known.destination.port()))
            && (self.peers.is_empty() || self.peers.iter().any(|wanted| wanted.is(peer)))
    }
}

impl Peer {
    /// By any of its addresses: a client dials a service's, and the endpoint is who it talks to.
    fn is(&self, end: &End) -> bool {
        let mut addresses = end.workload.iter().flat_map(|workload| &workload.addresses).copied().chain(end.ip());
        self.network.is_none_or(|network| addresses.any(|address| contains(network, address)))
            && (self.namespace.is_empty() || *self.namespace == *end.of(|workload| &workload.namespace))
            && (self.pod.is_empty() || *self.pod == *end.of(|workload| &workload.name))
    }
}

fn network(address: &[u8], length: u32) -> Result<Option<(IpAddr, u32)>, String> {
    let ip: IpAddr = match address.len() {
        0 => return Ok(None),
        4 => <[u8; 4]>::try_from(address).map_err(|_| "a wrong address")?.into(),
        16 => <[u8; 16]>::try_from(address).map_err(|_| "a wrong address")?.into(),
        other => return Err(format!("an address of {other} bytes")),
    };
    if length > if ip.is_ipv4() { 32 } else { 128 } { Err(format!("a prefix of {length} bits")) } else { Ok(Some((ip, length))) }
}

fn contains((network, length): (IpAddr, u32), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (network.to_bits() ^ address.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0,
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits() ^ address.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_shares_its_first_bits() {
        let held = |network: &str, length, address: &str| contains((network.parse().expect("ip"), length), address.parse().expect("ip"));
        assert!(held("10.1.2.3", 32, "10.1.2.3") && !held("10.1.2.3", 32, "10.1.2.2"));
        assert!(held("10.1.0.0", 16, "10.1.255.1") && !held("10.1.0.0", 16, "10.2.0.1"));
        assert!(held("0.0.0.0", 0, "192.0.2.1") && !held("0.0.0.0", 0, "::1"));
        assert!(held("fd00:1::", 32, "fd00:1:ffff::1") && !held("fd00:1::", 32, "fd00:2::1") && held("::", 0, "::1"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let port = Order { ports: vec![65536], ..Order::default() };
        assert!(Filter::new(&port).is_err_and(|error| error.contains("65536")));
        assert!(network(&[1, 2, 3], 0).is_err_and(|error| error.contains('3')));
        assert!(network(&[10, 0, 0, 1], 33).is_err_and(|error| error.contains("33")));
    }
}
