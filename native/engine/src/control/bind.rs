//! The listeners of a pod inside its namespace: those that were left by an earlier worker, the rest bound now.
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use trackbed_contract::engine::AddPod;
use trackbed_contract::tables::ports;
use trackbed_netns::Netns;
use trackbed_netns::socket::{Peer, SocketError, listen_dns_udp, listen_tcp};

use crate::data::Listeners;
use crate::worker::heritage::Safe;

/// Named descriptors below `pod/<uid>/listen/`.
pub(crate) type Left = Vec<(String, OwnedFd)>;

struct Wanted {
    name: &'static str,
    port: u16,
    /// Captured outbound connections come over `lo`: nobody outside the pod has business there. Inbound ones come to the pod's addresses.
    loopback: bool,
    peer: Peer,
    kind: Kind,
}

enum Kind {
    Tcp(fn(&mut Listeners) -> &mut Vec<TcpListener>),
    Dns,
}

/// What `spec` asks for and `bound` did not.
fn wanted(spec: &AddPod, bound: Option<&AddPod>) -> Vec<Wanted> {
    let tcp = |name, port, peer, list| Wanted { name, port, loopback: peer == Peer::Application, peer, kind: Kind::Tcp(list) };
    let mut wanted = Vec::new();
    if bound.is_none() {
        wanted.push(tcp("outbound", ports::OUTBOUND, Peer::Application, |l| &mut l.outbound));
        wanted.push(tcp("hbone", ports::HBONE, Peer::Engine, |l| &mut l.hbone));
    }
    if spec.capture_inbound && !bound.is_some_and(|bound| bound.capture_inbound) {
        wanted.push(tcp("inbound", ports::INBOUND_PLAIN, Peer::Network, |l| &mut l.inbound_plain));
    }
    if spec.capture_dns && !bound.is_some_and(|bound| bound.capture_dns) {
        wanted.push(tcp("dns", ports::DNS, Peer::Application, |l| &mut l.dns_tcp));
        wanted.push(Wanted { name: "dns-udp", port: ports::DNS, loopback: false, peer: Peer::Application, kind: Kind::Dns });
    }
    wanted
}

/// Binds what is not left, and leaves it with the keeper. `bound` = what the pod asked for before: those listeners stay. An error names the
/// socket that could not be had; nothing of this call stays bound then.
pub(crate) fn bind(spec: &AddPod, bound: Option<&AddPod>, netns: &Netns, mut left: Left, safe: &Safe) -> Result<Listeners, SocketError> {
    let mut listeners = Listeners::default();
    let ipv6_needed = spec.addresses.iter().any(|address| address.len() == 16);
    for wanted in wanted(spec, bound) {
        for v4 in [true, false] {
            let name = format!("{}-{}", wanted.name, if v4 { "v4" } else { "v6" });
            let kept = left.iter().position(|(known, _)| *known == name).map(|index| left.swap_remove(index).1);
            let result = listener(&wanted, v4, netns, kept, &mut listeners);
            match result {
                Ok(descriptor) => safe.put(&listen_key(&spec.uid, &name), descriptor.as_fd()),
                Err(error) if !v4 && !ipv6_needed && has_no_ipv6(&error.source) => {}
                Err(error) => {
                    if bound.is_none() {
                        safe.drop_prefix(&listen_key(&spec.uid, ""));
                    }
                    return Err(error);
                }
            }
        }
    }
    Ok(listeners)
}

/// A waypoint's: the HBONE port of its own addresses, and nothing else.
pub(crate) fn bind_waypoint(addresses: &[IpAddr], netns: &Netns) -> Result<Listeners, SocketError> {
    let listen = |address: &IpAddr| listen_tcp(netns, SocketAddr::new(*address, ports::HBONE), Peer::Engine);
    Ok(Listeners { hbone: addresses.iter().map(listen).collect::<Result<_, _>>()?, ..Listeners::default() })
}

fn listen_key(uid: &str, name: &str) -> String {
    format!("pod/{uid}/listen/{name}")
}

/// One listener, put into its list; a second descriptor of it for the keeper.
fn listener(wanted: &Wanted, v4: bool, netns: &Netns, kept: Option<OwnedFd>, listeners: &mut Listeners) -> Result<OwnedFd, SocketError> {
    let ip: IpAddr = match (wanted.loopback, v4) {
        (true, true) => Ipv4Addr::LOCALHOST.into(),
        (true, false) => Ipv6Addr::LOCALHOST.into(),
        (false, true) => Ipv4Addr::UNSPECIFIED.into(),
        (false, false) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(ip, wanted.port);
    let copy = |socket: &dyn AsFd| {
        let copy = socket.as_fd().try_clone_to_owned();
        copy.map_err(|source| SocketError { step: "copy the descriptor", address, source })
    };
    match wanted.kind {
        Kind::Tcp(list) => {
            let listener = kept.map_or_else(|| listen_tcp(netns, address, wanted.peer), |kept| Ok(kept.into()))?;
            let copied = copy(&listener)?;
            list(listeners).push(listener);
            Ok(copied)
        }
        Kind::Dns => {
            let socket = kept.map_or_else(|| listen_dns_udp(netns, address), |kept| Ok(UdpSocket::from(kept)))?;
            let copied = copy(&socket)?;
            listeners.dns_udp.push(socket);
            Ok(copied)
        }
    }
}

/// A kernel without IPv6, or a namespace where it is switched off.
fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::ENOPROTOOPT))
}
