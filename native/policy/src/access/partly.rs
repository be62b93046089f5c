//! What policies say of a request of which not everything is known, as of one that is only recorded: decided by the conditions that decide requests, once for
//! whoever is lucky with what is not known and once for whoever is not. Where both agree, it is so whatever was not known.
use std::collections::BTreeSet;

use super::condition::{Condition, Towards};
use super::policies::{Ask, Matching, Policies, Rule, rule_matches};
use super::subject::Subject;
use crate::evaluate::Evaluation;

/// What a subject does not tell: what stands there is not looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one for each field, and each stands alone")]
pub struct Unknown {
    pub source_ip: bool,
    pub remote_ip: bool,
    pub destination_ip: bool,
    pub destination_port: bool,
    pub host: bool,
    pub method: bool,
    pub path: bool,
    pub headers: bool,
    pub token: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds<'a> {
    pub best: Evaluation,
    pub worst: Evaluation,
    /// Providers that are asked, or may be.
    pub asked: Vec<Ask<'a>>,
    /// Of the rules that may match or not, the fields that are not known, as the wire calls them.
    pub fields: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Luck {
    Best,
    Worst,
}

struct Partly<'a> {
    subject: &'a Subject<'a>,
    unknown: Unknown,
    luck: Luck,
}

impl Policies {
    /// Conditions of one field are taken for independent: two that exclude each other may both be assumed, so it may not decide where it could.
    pub fn bounds(&self, subject: &Subject<'_>, unknown: Unknown) -> Bounds<'_> {
        let with = |luck| Partly { subject, unknown, luck };
        let (best, worst) = (with(Luck::Best), with(Luck::Worst));
        let mut fields = BTreeSet::new();
        for (rule, towards) in self.rules() {
            if best.matches(rule, towards) != worst.matches(rule, towards) {
                let conditions = rule.iter().flatten().flatten();
                fields.extend(conditions.filter(|condition| unknown.has(condition)).map(Condition::name));
            }
        }
        Bounds { asked: self.asks(&worst), best: self.weigh(&best), worst: self.weigh(&worst), fields }
    }
}

impl Partly<'_> {
    fn matches(&self, rule: &Rule, towards: Towards) -> bool {
        rule_matches(rule, |condition| {
            if self.unknown.has(condition) {
                (towards == Towards::Admit) == (self.luck == Luck::Best)
            } else {
                condition.holds(self.subject, towards)
            }
        })
    }
}

/// Without the index, which looks up what may not be known.
impl Matching for Partly<'_> {
    fn each(&self, policies: &Policies, go_on: impl FnMut(usize, usize) -> bool) {
        policies.each_rule(|rule, towards| self.matches(rule, towards), go_on);
    }
}

impl Unknown {
    fn has(self, condition: &Condition) -> bool {
        match condition {
            // Proven, or that there is none; and what only TLS names is never of a request.
            Condition::Principals(_) | Condition::Namespaces(_) | Condition::ServiceAccounts(_) | Condition::ServerNames(_) => false,
            Condition::SourceIps(_) => self.source_ip,
            Condition::RemoteIps(_) => self.remote_ip,
            Condition::DestinationIps(_) => self.destination_ip,
            Condition::DestinationPorts(_) => self.destination_port,
            Condition::Hosts(_) => self.host,
            Condition::Methods(_) => self.method,
            Condition::Paths(_) => self.path,
            Condition::Header(..) => self.headers,
            Condition::RequestPrincipals(_) | Condition::Audiences(_) | Condition::Presenters(_) | Condition::Claim(..) => self.token,
        }
    }
}
