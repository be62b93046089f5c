//! The policies of one service at a waypoint: what they say of a request, with the words of the L4 evaluator.
use std::sync::Arc;

use trackbed_contract::authorization as wire;
use trackbed_contract::tables::errors;

use super::compile;
use super::condition::{Condition, Towards};
use super::index::Index;
use super::subject::Subject;
use crate::evaluate::{Considered, Decision, Effect, Evaluation, PolicyRef, Refused};
use crate::parse::PolicyError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    /// The provider that is asked.
    Custom(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) name: Arc<str>,
    pub(super) action: Action,
    pub(super) dry_run: bool,
    pub(super) rules: Vec<Rule>,
    /// Why control could not compile it.
    pub(super) invalid: Option<Arc<str>>,
}

/// All clauses hold.
pub(super) type Rule = Vec<Clause>;
/// One match holds.
pub(super) type Clause = Vec<Match>;
/// All conditions hold.
pub(super) type Match = Vec<Condition>;

/// Of one service.
#[derive(Debug, Clone, Default)]
pub struct Policies {
    all: Vec<Policy>,
    /// Of all their rules, in order.
    index: Index,
    /// Whether a CUSTOM policy is among them.
    custom: bool,
    standing: Standing,
}

/// What a policy says, and the rule by which.
#[derive(Debug, Clone, Copy)]
struct Said {
    effect: Effect,
    number: usize,
    rule: Option<usize>,
}

/// What is said before any rule is looked at: by a policy that could not be compiled, by an ALLOW that may admit others.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    enforced: Option<Said>,
    audited: Option<Said>,
    /// Whether there are such at all.
    dry_run: bool,
}

/// An external authorization service is to be asked, for this policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask<'a> {
    pub provider: &'a Arc<str>,
    pub policy: PolicyRef,
}

/// Of one rule: whether it matches, and where it did not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RuleTold {
    pub matches: bool,
    /// The clause of which no match holds, and of each of its matches the field that does not.
    pub clause: Option<usize>,
    pub fields: Vec<String>,
}

/// What a policy says, and each of its rules.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PolicyTold {
    #[serde(flatten)]
    pub considered: Considered,
    pub rules: Vec<RuleTold>,
}

impl Policies {
    /// Strict: everything in them can be enforced, or it is an error.
    pub fn from_wire(wire: &[wire::Policy]) -> Result<Self, PolicyError> {
        let policies = compile::policies(wire).map_err(|(place, problem)| PolicyError { policy: "access".to_owned(), place, problem })?;
        let index = Index::of(policies.iter().enumerate().flat_map(|(number, policy)| {
            let rules = policy.rules.iter().enumerate();
            rules.map(move |(rule, clauses)| (number, rule, clauses))
        }));
        let custom = policies.iter().any(|policy| matches!(policy.action, Action::Custom(_)) && !policy.dry_run);
        let standing = Standing::of(&policies);
        Ok(Self { all: policies, index, custom, standing })
    }

    /// In place of some that cannot be used: everything is denied under this name.
    pub fn unusable(name: &str, reason: &str) -> Self {
        let policy = Policy { name: name.into(), action: Action::Deny, dry_run: false, rules: Vec::new(), invalid: Some(reason.into()) };
        let all = vec![policy];
        Self { standing: Standing::of(&all), all, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Names of the providers that enforced policies want.
    pub fn providers(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        let enforced = self.all.iter().filter(|policy| !policy.dry_run && policy.invalid.is_none());
        enforced.filter_map(|policy| if let Action::Custom(provider) = &policy.action { Some((&policy.name, provider)) } else { None })
    }

    /// CUSTOM policies that match, before the others are asked: each provider once.
    pub fn custom(&self, subject: &Subject<'_>) -> Vec<Ask<'_>> {
        self.asks(subject)
    }

    /// Of a policy of these.
    pub(super) fn name(&self, number: usize) -> &str {
        &self.all[number].name
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.all.iter().any(|policy| *policy.name == *name)
    }

    pub(super) fn asks(&self, matching: &impl Matching) -> Vec<Ask<'_>> {
        let mut asked: Vec<Ask<'_>> = Vec::new();
        if !self.custom {
            return asked;
        }
        matching.each(self, |number, rule| {
            let policy = &self.all[number];
            if let Action::Custom(provider) = &policy.action
                && !policy.dry_run
                && asked.iter().all(|ask| ask.provider != provider)
            {
                asked.push(Ask { provider, policy: policy.reference(Some(rule)) });
            }
            true
        });
        asked
    }

    /// DENY that matches, then what control could not compile, then ALLOW. CUSTOM has no part in it.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Evaluation {
        self.weigh(subject)
    }

    pub(super) fn weigh(&self, matching: &impl Matching) -> Evaluation {
        let Standing { mut enforced, mut audited, dry_run: any_dry_run } = self.standing;
        let mut dry_run: Vec<(usize, Considered)> = Vec::new();
        matching.each(self, |number, rule| {
            let policy = &self.all[number];
            let said = Said { effect: policy.effect(true), number, rule: Some(rule) };
            if said.effect == Effect::Asks {
                return true;
            }
            let strongest = if policy.dry_run { &mut audited } else { &mut enforced };
            if strongest.is_none_or(|found| said.effect < found.effect) {
                *strongest = Some(said);
            }
            if policy.dry_run && dry_run.last().is_none_or(|(last, _)| *last != number) {
                dry_run.push((number, policy.considered(said.effect, said.rule)));
            }
            any_dry_run || enforced.is_none_or(|found| found.effect != Effect::Denies)
        });
        let decision = self.decide(enforced);
        // Of two that say the same the enforced one has decided already.
        let stronger = audited.filter(|said| enforced.is_none_or(|found| said.effect < found.effect));
        let audit = stronger.map(|said| self.decide(Some(said))).filter(|other| other.admits() != decision.admits());
        Evaluation { decision, dry_run: dry_run.into_iter().map(|(_, considered)| considered).collect(), audit }
    }

    fn decide(&self, strongest: Option<Said>) -> Decision {
        let Some(Said { effect, number, rule }) = strongest else { return Decision::Allowed { by: None } };
        let policy = &self.all[number];
        if effect == Effect::Allows {
            Decision::Allowed { by: Some(policy.reference(rule)) }
        } else {
            Decision::Denied(policy.refuse(effect, rule))
        }
    }

    /// Every policy and each of its rules, and the evaluation that follows: without the index.
    pub fn explain(&self, subject: &Subject<'_>) -> (Vec<PolicyTold>, Evaluation) {
        let told = self.all.iter().map(|policy| {
            let rules: Vec<RuleTold> = policy.rules.iter().map(|rule| told(rule, subject, policy.towards())).collect();
            let matched = rules.iter().position(|rule| rule.matches);
            let effect = if policy.invalid.is_some() { Effect::Invalid } else { policy.effect(matched.is_some()) };
            PolicyTold { considered: policy.considered(effect, matched), rules }
        });
        (told.collect(), self.evaluate(subject))
    }

    /// Every rule, and what its policy does with what it matches.
    pub(super) fn rules(&self) -> impl Iterator<Item = (&Rule, Towards)> {
        let usable = self.all.iter().filter(|policy| policy.invalid.is_none());
        usable.flat_map(|policy| policy.rules.iter().map(|rule| (rule, policy.towards())))
    }

    /// Of the rules that `matches` says it of, one after the other.
    pub(super) fn each_rule(&self, matches: impl Fn(&Rule, Towards) -> bool, mut go_on: impl FnMut(usize, usize) -> bool) {
        for (number, policy) in self.all.iter().enumerate().filter(|(_, policy)| policy.invalid.is_none()) {
            for (at, rule) in policy.rules.iter().enumerate() {
                if matches(rule, policy.towards()) && !go_on(number, at) {
                    return;
                }
            }
        }
    }
}

/// How rules that match are found.
pub(super) trait Matching {
    /// Policy and rule, in order, until `go_on` says no.
    fn each(&self, policies: &Policies, go_on: impl FnMut(usize, usize) -> bool);
}

impl Matching for Subject<'_> {
    fn each(&self, policies: &Policies, mut go_on: impl FnMut(usize, usize) -> bool) {
        policies.index.candidates(self, |number, rule| {
            let policy = &policies.all[number];
            // One that could not be compiled has its own effect.
            if policy.invalid.is_some() || !matches(&policy.rules[rule], self, policy.towards()) {
                return true;
            }
            go_on(number, rule)
        });
    }
}

impl Standing {
    fn of(all: &[Policy]) -> Self {
        let of = |dry_run: bool| {
            let mine = || all.iter().enumerate().filter(move |(_, policy)| policy.dry_run == dry_run);
            let invalid = mine().find(|(_, policy)| policy.invalid.is_some()).map(|(number, _)| (Effect::Invalid, number));
            let allow = || mine().find(|(_, policy)| policy.action == Action::Allow).map(|(number, _)| (Effect::AllowsOthers, number));
            invalid.or_else(allow).map(|(effect, number)| Said { effect, number, rule: None })
        };
        Self { enforced: of(false), audited: of(true), dry_run: all.iter().any(|policy| policy.dry_run) }
    }
}

fn matches(rule: &Rule, subject: &Subject<'_>, towards: Towards) -> bool {
    rule_matches(rule, |condition| condition.holds(subject, towards))
}

pub(super) fn rule_matches(rule: &Rule, holds: impl Fn(&Condition) -> bool) -> bool {
    rule.iter().all(|clause| clause.iter().any(|conditions| conditions.iter().all(&holds)))
}

fn told(rule: &Rule, subject: &Subject<'_>, towards: Towards) -> RuleTold {
    let failing = |conditions: &Match| conditions.iter().find(|condition| !condition.holds(subject, towards)).map(Condition::name);
    for (index, clause) in rule.iter().enumerate() {
        let fields: Vec<Option<String>> = clause.iter().map(failing).collect();
        if fields.iter().all(Option::is_some) {
            return RuleTold { matches: false, clause: Some(index), fields: fields.into_iter().flatten().collect() };
        }
    }
    RuleTold { matches: true, clause: None, fields: Vec::new() }
}

impl Policy {
    fn towards(&self) -> Towards {
        if self.action == Action::Allow { Towards::Admit } else { Towards::Restrict }
    }

    fn effect(&self, matches: bool) -> Effect {
        match (&self.action, matches) {
            (Action::Allow, true) => Effect::Allows,
            (Action::Allow, false) => Effect::AllowsOthers,
            (Action::Deny, true) => Effect::Denies,
            (Action::Custom(_), true) => Effect::Asks,
            (Action::Deny | Action::Custom(_), false) => Effect::DeniesOthers,
        }
    }

    fn reference(&self, rule: Option<usize>) -> PolicyRef {
        PolicyRef { name: Arc::clone(&self.name), rule }
    }

    fn considered(&self, effect: Effect, rule: Option<usize>) -> Considered {
        Considered { policy: self.reference(rule), effect, dry_run: self.dry_run }
    }

    fn refuse(&self, effect: Effect, rule: Option<usize>) -> Refused {
        let name = &self.name;
        let (code, reason) = match effect {
            Effect::Denies => (errors::POLICY_DENIED, format!("{name} denies it by rule {}", rule.unwrap_or_default())),
            Effect::AllowsOthers => {
                (errors::POLICY_NO_ALLOW, format!("{name} and every other ALLOW policy of the service admit others only"))
            }
            _ => (errors::POLICY_INVALID, format!("{name} cannot be enforced: {}", self.invalid.as_deref().unwrap_or_default())),
        };
        Refused { code, policy: self.reference(rule), reason }
    }
}
