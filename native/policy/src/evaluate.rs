//! The verdict: every candidate is considered, DENY before ALLOW before the default, and what is not known denies.
use std::sync::Arc;

use serde::Serialize;
use trackbed_contract::tables::errors;

use crate::policy::{Action, Connection, Intermediary, Policy, Rejected};
use crate::why::RuleSaid;

/// A policy that applies to the destination, or the hole where one should be.
#[derive(Debug, Clone, Copy)]
pub enum Candidate<'a> {
    Known(&'a Policy),
    /// It could not be compiled: denies.
    Rejected(&'a Rejected),
    /// The workload names it and nobody knows it: denies until it is known.
    Unknown(&'a Arc<str>),
}

/// The policy that decided, for flow, log, metric and response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRef {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Index of the rule that matched; `None` where no rule did.
    pub rule: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Decision {
    /// `by` is `None` when no ALLOW policy applies.
    Allowed {
        by: Option<PolicyRef>,
    },
    Denied(Refused),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// `E_POLICY_DENIED`, `_STRICT`, `_INVALID`, `_UNKNOWN` or `_NO_ALLOW`.
    pub code: &'static str,
    /// For `E_POLICY_NO_ALLOW` the first of the ALLOW policies, none of which matched.
    pub policy: PolicyRef,
    pub reason: String,
}

/// The decision, and what dry-run policies say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    pub decision: Decision,
    /// The dry-run DENY and ALLOW policies that match.
    pub dry_run: Vec<Considered>,
    /// What the decision would be were dry-run policies enforced; `None` where it would admit or refuse just the same.
    pub audit: Option<Decision>,
}

/// One candidate and what it said, for explanations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Considered {
    pub policy: PolicyRef,
    pub effect: Effect,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// A DENY policy matches.
    Denies,
    /// The policy could not be compiled.
    Invalid,
    /// The policy is named and not known.
    Unknown,
    /// A CUSTOM policy matches: its provider decides first.
    Asks,
    /// An ALLOW policy matches.
    Allows,
    /// An ALLOW policy does not match: without another one that does, the connection is denied.
    AllowsOthers,
    /// A DENY policy does not match.
    DeniesOthers,
}

/// Decides. Order: DENY that matches, policies that are not usable, ALLOW that matches; with ALLOW policies and no match deny, else allow.
pub fn evaluate<'a>(candidates: impl IntoIterator<Item = Candidate<'a>>, connection: &Connection<'_>) -> Evaluation {
    let (mut enforced, mut audited): (Option<Said<'a>>, Option<Said<'a>>) = (None, None);
    let mut dry_run = Vec::new();
    for candidate in candidates {
        let (effect, rule) = candidate.consider(connection);
        let strongest = if candidate.dry_run() {
            if rule.is_some() {
                dry_run.push(candidate.considered(effect, rule));
            }
            &mut audited
        } else {
            &mut enforced
        };
        if strongest.as_ref().is_none_or(|(found, ..)| effect < *found) {
            *strongest = Some((effect, candidate, rule));
        }
    }
    let decision = decide(enforced, connection);
    // Of two that say the same the enforced one has decided already.
    let stronger = audited.filter(|(effect, ..)| enforced.is_none_or(|(found, ..)| *effect < found));
    let audit = stronger.map(|said| decide(Some(said), connection)).filter(|other| other.admits() != decision.admits());
    Evaluation { decision, dry_run, audit }
}

/// What a candidate says, and the rule by which.
type Said<'a> = (Effect, Candidate<'a>, Option<usize>);

/// The strongest of what candidates say decides.
fn decide(strongest: Option<Said<'_>>, connection: &Connection<'_>) -> Decision {
    match strongest {
        None | Some((Effect::DeniesOthers, ..)) => Decision::Allowed { by: None },
        Some((Effect::Allows, candidate, rule)) => Decision::Allowed { by: Some(candidate.reference(rule)) },
        Some((effect, candidate, rule)) => Decision::Denied(candidate.refuse(effect, rule, connection)),
    }
}

impl Decision {
    pub fn admits(&self) -> bool {
        matches!(self, Self::Allowed { .. })
    }

    pub fn refused(self) -> Option<Refused> {
        if let Self::Denied(refused) = self { Some(refused) } else { None }
    }
}

/// The DENY that keeps a client out also behind an intermediary. Of the rest the destination decides, for which the intermediary is the source.
pub fn keeps_out<'a>(
    candidates: impl IntoIterator<Item = Candidate<'a>>,
    client: &Connection<'_>,
    through: &Intermediary<'_>,
) -> Option<Refused> {
    candidates.into_iter().find_map(|candidate| {
        let Candidate::Known(policy) = candidate else { return None };
        let enforced = policy.action() == Action::Deny && !policy.dry_run();
        let rule = enforced.then(|| policy.matches_through(client, through))??;
        Some(candidate.refuse(Effect::Denies, Some(rule), client))
    })
}

/// Every candidate and what it says, in the given order, and the evaluation that follows.
pub fn explain<'a>(candidates: impl IntoIterator<Item = Candidate<'a>>, connection: &Connection<'_>) -> (Vec<Considered>, Evaluation) {
    let candidates: Vec<_> = candidates.into_iter().collect();
    let considered = candidates
        .iter()
        .map(|candidate| {
            let (effect, rule) = candidate.consider(connection);
            candidate.considered(effect, rule)
        })
        .collect();
    (considered, evaluate(candidates, connection))
}

impl Candidate<'_> {
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Known(policy) => policy.name(),
            Self::Rejected(rejected) => &rejected.name,
            Self::Unknown(name) => name,
        }
    }

    /// What it says may depend on the client's address, beside its identity.
    pub fn looks_at_source_ip(&self) -> bool {
        matches!(self, Self::Known(policy) if policy.looks_at_source_ip())
    }

    /// Of each rule whether it matches, and if not why.
    pub fn rules(&self, connection: &Connection<'_>) -> Vec<RuleSaid> {
        if let Self::Known(policy) = self { policy.rules_said(connection) } else { Vec::new() }
    }

    fn dry_run(&self) -> bool {
        match self {
            Self::Known(policy) => policy.dry_run(),
            Self::Rejected(rejected) => !rejected.enforced,
            Self::Unknown(_) => false,
        }
    }

    fn consider(&self, connection: &Connection<'_>) -> (Effect, Option<usize>) {
        let policy = match self {
            Self::Known(policy) => policy,
            Self::Rejected(_) => return (Effect::Invalid, None),
            Self::Unknown(_) => return (Effect::Unknown, None),
        };
        let rule = policy.matches(connection);
        let effect = match (policy.action(), rule) {
            (Action::Deny, Some(_)) => Effect::Denies,
            (Action::Deny, None) => Effect::DeniesOthers,
            (Action::Allow, Some(_)) => Effect::Allows,
            (Action::Allow, None) => Effect::AllowsOthers,
        };
        (effect, rule)
    }

    fn reference(&self, rule: Option<usize>) -> PolicyRef {
        PolicyRef { name: Arc::clone(self.name()), rule }
    }

    fn considered(&self, effect: Effect, rule: Option<usize>) -> Considered {
        Considered { policy: self.reference(rule), effect, dry_run: self.dry_run() }
    }

    fn refuse(&self, effect: Effect, rule: Option<usize>, connection: &Connection<'_>) -> Refused {
        let name = self.name();
        let (code, reason) = match (effect, self) {
            (Effect::Denies, _) if connection.source.is_none() && is_converted(name) => {
                (errors::POLICY_STRICT, format!("{name} demands mutual TLS on port {}", connection.destination_port))
            }
            (Effect::Denies, _) => (errors::POLICY_DENIED, format!("{name} denies it by rule {}", rule.unwrap_or_default())),
            (_, Self::Rejected(rejected)) => (errors::POLICY_INVALID, rejected.reason.to_string()),
            (_, Self::Unknown(_)) => (errors::POLICY_UNKNOWN, format!("{name} is named by the workload and not known")),
            _ => (errors::POLICY_NO_ALLOW, format!("{name} and every other ALLOW policy of the destination admit others only")),
        };
        Refused { code, policy: self.reference(rule), reason }
    }
}

/// Names that the compiler gives to a PeerAuthentication turned into a DENY. An underscore cannot stand in a Kubernetes name, so no
/// AuthorizationPolicy is called like this.
fn is_converted(name: &str) -> bool {
    let name = name.split_once('/').map_or(name, |(_, name)| name);
    name == "istio_converted_static_strict" || name.starts_with("converted_peer_authentication_")
}
