//! Why a connection would be admitted or refused: every policy that was considered, from the evaluator that enforces.
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;
use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_policy::{Candidate, Connection, Considered, Evaluation, PolicyRef, Refused, RuleSaid, explain};

use crate::inbound::{Admitted, inbound_plain, relay_inbound};
use crate::local::LocalPod;
use crate::refusal::Refusal;
use crate::resource::Workload;
use crate::world::World;

/// Addresses of one identity that are tried for a client whose own is not known: more pods than this may differ from those.
const MOST_ADDRESSES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Every policy that applies to the destination, and what it says.
    pub considered: Vec<Judged>,
    #[serde(flatten)]
    pub evaluation: Evaluation,
}

/// A policy that was considered, with each of its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judged {
    #[serde(flatten)]
    pub considered: Considered,
    pub rules: Vec<RuleSaid>,
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
    let judged = considered.into_iter().zip(world.candidates(workload));
    let considered = judged.map(|(considered, candidate)| Judged { considered, rules: candidate.rules(&connection) }).collect();
    Explanation { considered, evaluation }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Allowed,
    /// A policy refuses it.
    Denied,
    /// It would not come about for another reason.
    Failed,
    /// It depends on what is not known: which endpoint, or which address.
    Depends,
}

/// What the destination's engine answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    pub verdict: Verdict,
    pub code: &'static str,
    pub reason: String,
    pub policy: Option<PolicyRef>,
    /// Why it would be refused were dry-run policies enforced.
    pub audit: Option<Refused>,
}

impl Judgement {
    pub(crate) fn of(outcome: Result<&Admitted, &Refusal>) -> Self {
        match outcome {
            Ok(admitted) => Self {
                policy: admitted.policy.clone(),
                audit: admitted.audit.as_deref().cloned(),
                ..Self::new(Verdict::Allowed, "", String::new())
            },
            Err(refusal) => {
                let verdict = if refusal.policy.is_some() { Verdict::Denied } else { Verdict::Failed };
                Self { policy: refusal.policy.clone(), ..Self::new(verdict, refusal.code, refusal.reason.clone()) }
            }
        }
    }

    pub fn new(verdict: Verdict, code: &'static str, reason: String) -> Self {
        Self { verdict, code, reason, policy: None, audit: None }
    }
}

/// Whether a workload's own engine admits a connection to its port: by the function that decides it there. Of a client whose address is not
/// known, every address that its identity has now is tried.
pub fn admission(world: &World, workload: &Arc<Workload>, source: Option<&Identity>, source_ip: Option<IpAddr>, port: u16) -> Judgement {
    let one = |ip: IpAddr| admission_from(world, workload, source, ip, port);
    if let Some(ip) = source_ip {
        return one(ip);
    }
    let anywhere = workload.addresses.first().copied().unwrap_or(IpAddr::from([0; 4]));
    let Some(looks) = world.candidates(workload).find(Candidate::looks_at_source_ip) else { return one(anywhere) };
    let addresses: Vec<_> = source.map(|source| world.addresses_of(source, MOST_ADDRESSES)).unwrap_or_default();
    let mut judgements = addresses.into_iter().map(one);
    let unclear = |why: &str| Judgement::new(Verdict::Depends, "", format!("{} looks at the client's address, {why}", looks.name()));
    let Some(first) = judgements.next() else { return unclear("which is not known") };
    if judgements.any(|other| other.verdict != first.verdict) { unclear("and not all of them are treated alike") } else { first }
}

fn admission_from(world: &World, workload: &Arc<Workload>, source: Option<&Identity>, ip: IpAddr, port: u16) -> Judgement {
    let there = world.seen_from(&workload.node);
    let pod = LocalPod::of(workload);
    let Some(address) = workload.address_like(ip) else {
        let reason = format!("{} has no address", workload.uid);
        return Judgement::new(Verdict::Failed, errors::WORKLOAD_UNKNOWN, reason);
    };
    let target = SocketAddr::new(address, port);
    let outcome = match source {
        Some(identity) => relay_inbound(&there, &pod, identity, ip, target),
        None => inbound_plain(&there, &pod, ip, target),
    };
    Judgement::of(outcome.as_ref())
}
