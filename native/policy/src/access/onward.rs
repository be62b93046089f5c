//! What policies say of a request that was addressed to another service, and that a route of their own namespace sends here: those that hold for both
//! services saw it as it came, once, and the others see it as it goes on.
use super::policies::{Ask, Matching, Policies};
use super::subject::Subject;
use crate::evaluate::Evaluation;

/// Those that are not among `met`, of what goes on.
struct Others<'a> {
    met: &'a Policies,
    goes: &'a Subject<'a>,
}

/// Those that are, of what came, and the others.
struct Each<'a> {
    came: &'a Subject<'a>,
    others: Others<'a>,
}

impl Policies {
    /// `met`: the policies of the service that was addressed.
    pub fn evaluate_onward(&self, (met, came): (&Self, &Subject<'_>), goes: &Subject<'_>) -> Evaluation {
        self.weigh(&Each { came, others: Others { met, goes } })
    }

    /// CUSTOM policies that match and were not asked about what came.
    pub fn custom_onward(&self, met: &Self, goes: &Subject<'_>) -> Vec<Ask<'_>> {
        self.asks(&Others { met, goes })
    }
}

impl Matching for Others<'_> {
    fn each(&self, policies: &Policies, mut go_on: impl FnMut(usize, usize) -> bool) {
        self.goes.each(policies, |number, rule| self.met.has(policies.name(number)) || go_on(number, rule));
    }
}

impl Matching for Each<'_> {
    fn each(&self, policies: &Policies, mut go_on: impl FnMut(usize, usize) -> bool) {
        let met = self.others.met;
        self.came.each(policies, |number, rule| !met.has(policies.name(number)) || go_on(number, rule));
        self.others.each(policies, go_on);
    }
}
