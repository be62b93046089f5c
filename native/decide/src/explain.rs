//! Why a connection would be admitted or refused: every policy that was considered, from the evaluator that enforces.
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use trackbed_contract::Identity;
use trackbed_policy::{Connection, Considered, Evaluation, explain};

use crate::resource::Workload;
use crate::world::World;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every policy that applies to the destination, and what it says.
    pub considered: Vec<Considered>,
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// Explains the policy part of a connection to a workload, on this node or another. `source` is `None` for plaintext.
pub fn explain_inbound(
    world: &World,
    workload: &Workload,
    source: Option<&Identity>,
    source_ip: IpAddr,
    destination: SocketAddr,
) -> Explanation {
    let connection = Connection { source, source_ip, destination_ip: destination.ip(), destination_port: destination.port() };
    let (considered, evaluation) = explain(world.candidates(workload), &connection);
    Explanation { considered, evaluation }
}
