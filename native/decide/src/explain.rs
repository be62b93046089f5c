//! Why a connection would be admitted or refused: every policy that was considered, from the evaluator that enforces.
use std::net::IpAddr;

use serde::Serialize;
use trackbed_contract::Identity;
use trackbed_policy::{Considered, Evaluation};

use crate::resource::Workload;
use crate::world::World;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub considered: Vec<Considered>,
    pub evaluation: Evaluation,
}

/// Explains the policy part of an inbound connection to a workload.
pub fn explain_inbound(
    world: &World,
    workload: &Workload,
    source: Option<&Identity>,
    source_ip: IpAddr,
    destination: std::net::SocketAddr,
) -> Explanation {
    unimplemented!("{world:?} {workload:?} {source:?} {source_ip} {destination}")
}
