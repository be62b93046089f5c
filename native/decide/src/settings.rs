//! Mesh-wide settings, checked once when they arrive.
use std::sync::Arc;
use std::time::Duration;

use trackbed_contract::tables::{bounds, ports};
use trackbed_contract::{IdentityError, TrustDomain, engine};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This node, as workloads name it. Empty for a waypoint, which is on whichever it is put.
    pub node: Arc<str>,
    pub trust_domain: TrustDomain,
    pub cluster_domain: Arc<str>,
    /// Network of this node; empty is a name like any other.
    pub network: Arc<str>,
    pub encrypt_same_node: bool,
    /// Longest wait of a connection for workload, identity and policy.
    pub hold: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("settings.node is empty: the director must name the node")]
    NoNode,
    #[error("settings.trust_domain {0:?}: {1}")]
    TrustDomain(String, IdentityError),
}

impl Settings {
    pub fn from_wire(wire: &engine::MeshSettings) -> Result<Self, SettingsError> {
        if wire.node.is_empty() {
            return Err(SettingsError::NoNode);
        }
        Self::of_waypoint(wire)
    }

    /// A waypoint has one pod and no node: whether the workload is its own does not depend on where it runs, and it relays to nobody.
    pub fn of_waypoint(wire: &engine::MeshSettings) -> Result<Self, SettingsError> {
        let hold = if wire.hold_milliseconds == 0 { bounds::HOLD_MILLISECONDS } else { wire.hold_milliseconds };
        Ok(Self {
            node: wire.node.as_str().into(),
            trust_domain: TrustDomain::parse(&wire.trust_domain)
                .map_err(|cause| SettingsError::TrustDomain(wire.trust_domain.clone(), cause))?,
            cluster_domain: wire.cluster_domain.as_str().into(),
            network: wire.network.as_str().into(),
            encrypt_same_node: wire.encrypt_same_node,
            hold: Duration::from_millis(hold.into()),
        })
    }
}

/// Ports that the engine listens on inside every captured pod: no application's, so never a destination.
pub fn is_own_port(port: u16) -> bool {
    matches!(port, ports::OUTBOUND | ports::INBOUND_PLAIN | ports::HBONE | ports::DNS)
}
