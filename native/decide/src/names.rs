//! Names of the mesh for DNS: exact host names, as one client namespace may see them.
use std::net::IpAddr;
use std::sync::Arc;

use crate::resource::Service;
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
    /// (`db-0.db.shop.svc.cluster.local`). `None` = not a name of the mesh for this client.
    pub fn lookup(&self, hostname: &str, client_namespace: &str) -> Option<Answer> {
        unimplemented!("{hostname} {client_namespace}")
    }
}
