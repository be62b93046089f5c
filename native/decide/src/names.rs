//! Names of the mesh: exact host names and virtual addresses, as the clients of one namespace may see them.
use std::net::IpAddr;
use std::sync::Arc;

use trackbed_balance::Mode;

use crate::refusal::Refusal;
use crate::resource::{Service, Workload};
use crate::world::World;

/// A name of the mesh. Without addresses it exists and has none of them: NODATA, not NXDOMAIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub service: Arc<Service>,
    /// Virtual addresses; of a headless service its endpoints'. Both families, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl World {
    /// A host name without its final dot, any case: of a service (`web.shop.svc.cluster.local`) or of one endpoint of a headless service
    /// (`db-0.db.shop.svc.cluster.local`). `None` = not a name of the mesh for this client. A service that passes through goes to where the client
    /// wanted, so its name means what the client's own server says.
    pub fn lookup(&self, hostname: &str, client_namespace: &str) -> Option<Answer> {
        let hostname = hostname.to_ascii_lowercase();
        let named = self.services_named(&hostname).iter().filter(|service| service.mode != Mode::Passthrough);
        if let Some(service) = visible(named, client_namespace) {
            let addresses = if service.addresses.is_empty() { self.headless(service, |_| true) } else { self.host_vips(service) };
            return Some(Answer { service: Arc::clone(service), addresses });
        }
        let (pod, rest) = hostname.split_once('.')?;
        let service = visible(self.services_named(rest), client_namespace).filter(|service| service.addresses.is_empty())?;
        let is_it = |endpoint: &Workload| &*endpoint.name == pod;
        self.endpoints(&service.key)
            .iter()
            .any(|endpoint| is_it(endpoint))
            .then(|| Answer { service: Arc::clone(service), addresses: self.headless(service, is_it) })
    }

    /// The service that a client means by a host name, whatever its mode.
    pub(crate) fn service_by_name(&self, hostname: &str, client_namespace: &str) -> Option<&Arc<Service>> {
        visible(self.services_named(hostname), client_namespace)
    }

    /// The service that a client means by a virtual address: an exact one, then a pod's own address, then a block. A service of the cluster that exists but is not
    /// for this client is refused: unknown to the mesh would mean plaintext. What another namespace says of addresses outside of it means nothing to this client.
    pub(crate) fn service_by_vip(&self, address: IpAddr, client_namespace: &str) -> Result<Option<&Arc<Service>>, Refusal> {
        let pods = self.workloads_at(address);
        let exact = self.services_at(address);
        if !pods.is_empty() {
            // Where a pod stands, somebody's document about its address routes only that namespace's clients, or to the pod itself.
            let serves = |service: &Service| pods.iter().any(|pod| pod.services.contains_key(&service.key));
            let rightful = exact.iter().filter(|service| &*service.namespace == client_namespace || serves(service));
            return Ok(visible(rightful, client_namespace));
        }
        for claimants in std::iter::once(exact).chain(self.services_around(address)) {
            if let Some(found) = visible(claimants, client_namespace) {
                return Ok(Some(found));
            }
            if let Some(hidden) = claimants.iter().find(|service| self.is_of_cluster(service)) {
                return Err(Refusal::destination(format!("service {} is visible in its own namespace only", hidden.key)));
            }
        }
        Ok(None)
    }

    /// The cluster gave it its name and its address; any other is what somebody wrote about the world.
    fn is_of_cluster(&self, service: &Service) -> bool {
        let rest = service.hostname.strip_suffix(&*self.settings().cluster_domain);
        rest.is_some_and(|rest| rest.ends_with(".svc."))
    }

    fn host_vips(&self, service: &Service) -> Vec<IpAddr> {
        let hosts = self.vips(service).into_iter().filter(|net| net.prefix_len() == net.max_prefix_len());
        in_families(service, hosts.map(|net| net.addr()).collect())
    }

    fn headless(&self, service: &Service, wanted: impl Fn(&Workload) -> bool) -> Vec<IpAddr> {
        let network = &self.settings().network;
        let endpoints = self
            .endpoints(&service.key)
            .iter()
            .filter(|endpoint| endpoint.network == *network && (endpoint.healthy || service.allow_unhealthy) && wanted(endpoint));
        in_families(service, endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect())
    }
}

/// The client's own namespace first, then the canonical one, then by key: the same for every client of a namespace.
fn visible<'a>(services: impl IntoIterator<Item = &'a Arc<Service>>, client_namespace: &str) -> Option<&'a Arc<Service>> {
    let allowed = |service: &&Arc<Service>| !service.namespace_only || &*service.namespace == client_namespace;
    services.into_iter().filter(allowed).min_by_key(|service| (&*service.namespace != client_namespace, !service.canonical))
}

fn in_families(service: &Service, mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.retain(|address| if address.is_ipv4() { service.ipv4 } else { service.ipv6 });
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
