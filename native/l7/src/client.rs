//! Who is at the client's end of a connection, and which service they addressed.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use trackbed_contract::Identity;

/// Who is at the other end: from the tunnel's certificate, never from what the client sends.
#[derive(Debug, Clone)]
pub struct Client {
    /// None for a client outside the mesh, whom policy let in.
    pub identity: Option<Identity>,
    pub address: SocketAddr,
    /// What it dialled; None where it asked for a name.
    pub addressed: Option<IpAddr>,
}

impl Client {
    /// Consumer routes are looked up by it. Without an identity there is none, and the producer's routes hold.
    pub fn namespace(&self) -> Option<&str> {
        self.identity.as_ref().map(Identity::namespace)
    }
}

/// What the client addressed: by its address, whatever a Host header says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Served {
    /// "namespace/hostname"; of a pod that was asked for itself its address.
    pub service: Arc<str>,
    pub port: u16,
}

impl Served {
    /// No routes are about it, and nobody declares what its ports speak.
    pub fn is_pod(&self) -> bool {
        !self.service.contains('/')
    }
}
