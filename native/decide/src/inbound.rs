//! Whether a connection to a local pod may reach its application: by tunnel, in plaintext, or relayed from a pod of the same node.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_policy::{Connection, Decision, PolicyRef, Refused, evaluate};

use crate::authority::{Authority, Host};
use crate::local::LocalPod;
use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::settings::is_own_port;
use crate::world::World;

/// An admitted connection: the facts it was decided on, kept to decide again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The local workload.
    pub workload: Arc<Workload>,
    /// Where the application listens: connect there, from `source_ip` unless it is the target's own address.
    pub target: SocketAddr,
    /// `None` = plaintext.
    pub source: Option<Identity>,
    pub source_ip: IpAddr,
    /// The service that the peer named in `:authority`.
    pub service: Option<Arc<Service>>,
    /// The ALLOW policy that admitted it; `None` when none applies.
    pub policy: Option<PolicyRef>,
    /// Why it would have been refused were dry-run policies enforced.
    pub audit: Option<Box<Refused>>,
}

/// A CONNECT that a peer with a proven identity sent to the pod's port 15008. `refusal.status` is the answer otherwise.
pub fn inbound_tunnel(world: &World, pod: &LocalPod, peer: &Identity, peer_ip: IpAddr, authority: &str) -> Result<Admitted, Refusal> {
    let authority = Authority::parse(authority).map_err(|cause| Refusal::destination(format!(":authority {authority:?}: {cause}")))?;
    let local = world.local(pod)?;
    let (target, service) = Asked { world, pod, workload: &local.workload, peer_ip }.resolve(&authority)?;
    admit(world, pod, target, Source { identity: Some(peer), ip: peer_ip, service })
}

/// A connection captured on port 15006: no identity.
pub fn inbound_plain(world: &World, pod: &LocalPod, source: IpAddr, original_destination: SocketAddr) -> Result<Admitted, Refusal> {
    admit(world, pod, original_destination, Source { identity: None, ip: source, service: None })
}

/// The destination's half of the same-node path: everything that [`inbound_tunnel`] checks, with the identity of the source's namespace.
pub fn relay_inbound(world: &World, pod: &LocalPod, source: &Identity, source_ip: IpAddr, target: SocketAddr) -> Result<Admitted, Refusal> {
    admit(world, pod, target, Source { identity: Some(source), ip: source_ip, service: None })
}

/// Decides a live connection again, by the same function and the stored facts. A workload that became another one is refused too.
pub fn recheck_inbound(world: &World, pod: &LocalPod, live: &Admitted) -> Result<Admitted, Refusal> {
    let source = Source { identity: live.source.as_ref(), ip: live.source_ip, service: live.service.clone() };
    let admitted = admit(world, pod, live.target, source)?;
    if admitted.workload.uid != live.workload.uid || admitted.workload.identity != live.workload.identity {
        return Err(Refusal::unavailable(
            errors::WORKLOAD_UNKNOWN,
            format!("the connection was made to {} and its pod is now {}", live.workload.uid, admitted.workload.uid),
        ));
    }
    Ok(admitted)
}

struct Source<'a> {
    identity: Option<&'a Identity>,
    ip: IpAddr,
    service: Option<Arc<Service>>,
}

/// The one inbound decision, whatever path the connection came by.
fn admit(world: &World, pod: &LocalPod, target: SocketAddr, source: Source<'_>) -> Result<Admitted, Refusal> {
    let target = SocketAddr::new(target.ip().to_canonical(), target.port());
    let source_ip = source.ip.to_canonical();
    let workload = world.local(pod)?.workload;
    if !is_own_address(pod, &workload, target.ip()) {
        return Err(not_the_pods(pod, target.ip()));
    }
    if target.port() == 0 {
        return Err(Refusal::destination("port 0 is no destination"));
    }
    if is_own_port(target.port()) {
        return Err(Refusal::own_port(target.port()));
    }
    if workload.application_tunnel {
        let reason = format!("{} wants its connections with a PROXY header, which this version does not write", workload.uid);
        return Err(Refusal::unavailable(errors::SOURCE_UNSUPPORTED, reason));
    }
    if let Some(identity) = source.identity.filter(|identity| identity.trust_domain() != workload.identity.trust_domain()) {
        return Err(Refusal::identity(format!("{identity} is of another trust domain than {}", workload.identity)));
    }
    let connection = Connection { source: source.identity, source_ip, destination_ip: target.ip(), destination_port: target.port() };
    let evaluation = evaluate(world.candidates(&workload), &connection);
    match evaluation.decision {
        Decision::Denied(refused) => Err(refused.into()),
        Decision::Allowed { by } => Ok(Admitted {
            target,
            source: source.identity.cloned(),
            source_ip,
            service: source.service,
            policy: by,
            audit: evaluation.audit.and_then(Decision::refused).map(Box::new),
            workload,
        }),
    }
}

/// An address is the pod's when its namespace holds it and its workload has it.
fn is_own_address(pod: &LocalPod, workload: &Workload, address: IpAddr) -> bool {
    // Whatever the two lists say, the pod's loopback is behind its policy and nobody else's business.
    let reachable = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
    reachable && pod.addresses.contains(&address) && workload.addresses.contains(&address)
}

fn not_the_pods(pod: &LocalPod, address: IpAddr) -> Refusal {
    Refusal::destination(format!("{address} is not an address of pod {}/{}", pod.namespace, pod.name))
}

/// Where an authority points, seen from the pod whose listener was asked.
struct Asked<'a> {
    world: &'a World,
    pod: &'a LocalPod,
    workload: &'a Workload,
    peer_ip: IpAddr,
}

impl Asked<'_> {
    fn resolve(&self, authority: &Authority) -> Result<(SocketAddr, Option<Arc<Service>>), Refusal> {
        let service = match &authority.host {
            Host::Ip(ip) if is_own_address(self.pod, self.workload, *ip) => return Ok((SocketAddr::new(*ip, authority.port), None)),
            Host::Ip(ip) => self.served(self.world.services_at(*ip)).ok_or_else(|| not_the_pods(self.pod, *ip))?,
            Host::Name(name) => self.served(self.world.services_named(name)).ok_or_else(|| {
                let reason = format!("pod {}/{} serves no service named {name}", self.pod.namespace, self.pod.name);
                Refusal::unavailable(errors::DESTINATION_REFUSED, reason)
            })?,
        };
        let port = self.workload.target_port(service, authority.port).ok_or_else(|| {
            let reason = format!("pod {}/{} serves {} on no port {}", self.pod.namespace, self.pod.name, service.key, authority.port);
            Refusal::unavailable(errors::SERVICE_NO_PORT, reason)
        })?;
        Ok((SocketAddr::new(self.own_address()?, port), Some(Arc::clone(service))))
    }

    /// One of these services that the pod is behind; of its own namespace if several share the name.
    fn served<'s>(&self, services: &'s [Arc<Service>]) -> Option<&'s Arc<Service>> {
        let served = services.iter().filter(|service| self.workload.services.contains_key(&service.key));
        served.min_by_key(|service| service.namespace != self.workload.namespace)
    }

    /// Of the peer's family, so that the application can be shown the peer's address.
    fn own_address(&self) -> Result<IpAddr, Refusal> {
        let peer = self.peer_ip.to_canonical();
        let own = || self.pod.addresses.iter().filter(|address| is_own_address(self.pod, self.workload, **address));
        own()
            .find(|address| address.is_ipv4() == peer.is_ipv4())
            .or_else(|| own().next())
            .copied()
            .ok_or_else(|| Refusal::unavailable(errors::WORKLOAD_UNKNOWN, format!("pod {} has no address", self.pod.name)))
    }
}
