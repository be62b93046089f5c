//! What is done with a request that a rule's entry matched.
use crate::RouteName;
use crate::backend::Backends;
use crate::filter::Filter;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::matching::Match;
use http::request::Parts;
use std::sync::Arc;
use std::time::Duration;
use trackbed_contract::route;

/// Enough for a backend to come back from a hiccup, and not felt by a person.
const DEFAULT_BACKOFF: Duration = Duration::from_millis(25);

#[derive(Debug)]
pub(crate) struct HttpRules {
    entries: Box<[(Match, usize)]>,
    rules: Box<[Arc<HttpRule>]>,
}

#[derive(Debug)]
pub(crate) struct HttpRule {
    /// None: no route, the service itself.
    pub(crate) name: Option<RouteName>,
    pub(crate) filters: Box<[Filter]>,
    pub(crate) backends: Backends,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) backend_timeout: Option<Duration>,
    pub(crate) retry: Option<Retry>,
}

#[derive(Debug)]
pub(crate) struct Retry {
    codes: Box<[u16]>,
    pub(crate) attempts: u32,
    pub(crate) backoff: Duration,
    pub(crate) on_connection_error: bool,
}

impl HttpRules {
    pub(crate) fn parse(from: &route::HttpRules) -> Parsed<Self> {
        let rules = each("rules", &from.rules, |rule| HttpRule::parse(rule).map(Arc::new))?;
        let entry = |entry: &route::HttpEntry| {
            let rule = usize::try_from(entry.rule).ok().filter(|rule| *rule < rules.len());
            let rule = rule.ok_or_else(|| Invalid::because(format!("there is no rule {}", entry.rule))).at("rule")?;
            Ok((Match::parse(set("match", entry.r#match.as_ref())?).at("match")?, rule))
        };
        Ok(Self { entries: each("entries", &from.entries, entry)?, rules })
    }

    pub(crate) fn all(&self) -> &[Arc<HttpRule>] {
        &self.rules
    }

    /// `path` is the merged one of [`crate::path::normal`]. With the prefix that matched, for changes of the path.
    pub(crate) fn find(&self, request: &Parts, path: &str) -> Option<(&Arc<HttpRule>, Option<&str>)> {
        let (entry, rule) = self.entries.iter().find(|(entry, _)| entry.holds(request, path))?;
        Some((&self.rules[*rule], entry.prefix()))
    }
}

impl HttpRule {
    pub(crate) fn to(backends: Backends) -> Self {
        Self { name: None, filters: Box::default(), backends, request_timeout: None, backend_timeout: None, retry: None }
    }

    fn parse(from: &route::HttpRule) -> Parsed<Self> {
        Ok(Self {
            name: Some(route_name(set("id", from.id.as_ref())?)),
            filters: each("filters", &from.filters, Filter::parse)?,
            backends: Backends::parse(&from.backends)?,
            request_timeout: milliseconds(from.request_timeout_milliseconds),
            backend_timeout: milliseconds(from.backend_timeout_milliseconds),
            retry: from.retry.as_ref().map(Retry::parse).transpose().at("retry")?,
        })
    }
}

impl Retry {
    fn parse(from: &route::Retry) -> Parsed<Self> {
        let code = |code: &u32| u16::try_from(*code).ok().filter(|code| (400..600).contains(code));
        let code = |given: &u32| code(given).ok_or_else(|| Invalid::because(format!("{given} is not the status of an error")));
        Ok(Self {
            codes: each("codes", &from.codes, code)?,
            attempts: from.attempts,
            backoff: milliseconds(from.backoff_milliseconds).unwrap_or(DEFAULT_BACKOFF),
            on_connection_error: from.on_connection_error,
        })
    }

    #[cfg(test)]
    pub(crate) fn of(codes: &[u16], attempts: u32, backoff: Duration, on_connection_error: bool) -> Self {
        Self { codes: codes.into(), attempts, backoff, on_connection_error }
    }

    pub(crate) fn wants(&self, status: http::StatusCode) -> bool {
        self.codes.contains(&status.as_u16())
    }
}

pub(crate) fn route_name(from: &route::RuleId) -> RouteName {
    let route::RuleId { kind, namespace, name, index, rule_name } = from;
    let mut text = format!("{kind}/{namespace}/{name}/{index}");
    if !rule_name.is_empty() {
        text.push('/');
        text.push_str(rule_name);
    }
    RouteName {
        kind: kind.as_str().into(),
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        index: *index,
        rule: rule_name.as_str().into(),
        text: text.into(),
    }
}

fn milliseconds(count: u32) -> Option<Duration> {
    (count > 0).then(|| Duration::from_millis(count.into()))
}
