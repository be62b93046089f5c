//! Why a rule does not match: the field that fails, for explanations. Slow and wordy where `matches` is fast and says nothing.
use std::fmt::{self, Display};

use serde::Serialize;
use trackbed_contract::Identity;

use crate::policy::{Connection, Field, Match, Policy, ServiceAccount, Text};

/// A page is read by people: a rule of a thousand addresses is cut.
const MOST_MISSES: usize = 16;
const MOST_VALUES: usize = 16;

/// One rule of a policy and what it says of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleSaid {
    pub rule: usize,
    pub matches: bool,
    /// Where it matches none: of each alternative in a clause that no alternative fulfils, the first field that fails.
    pub misses: Vec<Miss>,
}

/// A field, what it wants, and what the connection has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Miss {
    /// For example `clauses[0].matches[1].principals`, as in the policy that nodes get: a clause each for `from`, `to` and every condition.
    pub field: String,
    pub wants: String,
    pub has: String,
}

impl Policy {
    /// What a rule says may depend on the client's address, beside its identity.
    pub(crate) fn looks_at_source_ip(&self) -> bool {
        self.rules.iter().flatten().flatten().any(|m| !m.source_ips.is_empty())
    }

    pub(crate) fn rules_said(&self, connection: &Connection<'_>) -> Vec<RuleSaid> {
        let said = self.rules.iter().enumerate().map(|(rule, clauses)| {
            let mut misses = Vec::new();
            for (index, clause) in clauses.iter().enumerate() {
                let failed: Vec<_> = clause.iter().map(|m| m.miss(connection)).collect();
                if clause.is_empty() || failed.iter().any(Option::is_none) {
                    continue;
                }
                for (at, miss) in failed.into_iter().flatten().enumerate() {
                    misses.push(Miss { field: format!("clauses[{index}].matches[{at}].{}", miss.field), ..miss });
                }
            }
            let matches = misses.is_empty();
            misses.truncate(MOST_MISSES);
            RuleSaid { rule, matches, misses }
        });
        said.collect()
    }
}

impl Match {
    /// The first field that fails; `None` = it matches.
    fn miss(&self, connection: &Connection<'_>) -> Option<Miss> {
        let namespace = connection.source.map_or("", Identity::namespace);
        let principal = connection.source.map_or("", Identity::principal);
        let (source, destination) = (connection.source_ip.to_canonical(), connection.destination_ip.to_canonical());
        let account = connection
            .source
            .map(|source| ServiceAccount { namespace: source.namespace().to_owned(), name: source.service_account().to_owned() });
        let known = |text: &str| if text.is_empty() { "none: plaintext".to_owned() } else { text.to_owned() };
        let fields = [
            self.namespaces.miss("namespaces", |text| text.matches(namespace), &known(namespace)),
            self.principals.miss("principals", |text| text.matches(principal), &known(principal)),
            self.source_ips.miss("source_ips", |net| net.contains(&source), &source),
            self.destination_ips.miss("destination_ips", |net| net.contains(&destination), &destination),
            self.destination_ports.miss("destination_ports", |port| *port == connection.destination_port, &connection.destination_port),
            self.service_accounts.miss(
                "service_accounts",
                |wanted| account.as_ref() == Some(wanted),
                &account.as_ref().map_or_else(|| known(""), ToString::to_string),
            ),
        ];
        let empty = Miss { field: "nothing".to_owned(), wants: "no field is set: never matches".to_owned(), has: String::new() };
        if self.is_empty() { Some(empty) } else { fields.into_iter().flatten().next() }
    }
}

impl<T: Display> Field<T> {
    fn miss(&self, field: &str, matches: impl Fn(&T) -> bool, has: &impl Display) -> Option<Miss> {
        let miss = |field: String, wants: &[T]| Miss { field, wants: listed(wants), has: has.to_string() };
        if !self.any.is_empty() && !self.any.iter().any(&matches) {
            return Some(miss(field.to_owned(), &self.any));
        }
        self.none.iter().any(matches).then(|| miss(format!("not_{field}"), &self.none))
    }
}

fn listed<T: Display>(values: &[T]) -> String {
    let mut texts: Vec<_> = values.iter().take(MOST_VALUES).map(ToString::to_string).collect();
    if values.len() > MOST_VALUES {
        texts.push(format!("and {} more", values.len() - MOST_VALUES));
    }
    texts.join(", ")
}

/// As it is written in a document.
impl Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Presence => f.write_str("*"),
        }
    }
}

impl Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
