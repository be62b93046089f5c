//! Which rule a connection belongs to, by the server name of its TLS or without one.
use crate::RouteName;
use crate::backend::Backends;
use crate::invalid::{Invalid, Parsed, each, set};
use crate::rule::route_name;
use std::sync::Arc;
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) struct StreamRules(Box<[Arc<StreamRule>]>);

#[derive(Debug)]
pub(crate) struct StreamRule {
    /// None: no route, the service itself.
    pub(crate) name: Option<RouteName>,
    server_names: Box<[ServerName]>,
    pub(crate) backends: Backends,
}

#[derive(Debug)]
enum ServerName {
    Exact(Box<str>),
    /// With the dot that follows the star.
    Suffix(Box<str>),
}

impl StreamRules {
    pub(crate) fn parse(from: &route::StreamRules) -> Parsed<Self> {
        each("rules", &from.rules, |rule| StreamRule::parse(rule).map(Arc::new)).map(Self)
    }

    pub(crate) fn find(&self, server_name: Option<&str>) -> Option<&Arc<StreamRule>> {
        self.0.iter().find(|rule| rule.holds(server_name))
    }
}

impl StreamRule {
    pub(crate) fn to(backends: Backends) -> Self {
        Self { name: None, server_names: Box::default(), backends }
    }

    fn parse(from: &route::StreamRule) -> Parsed<Self> {
        Ok(Self {
            name: Some(route_name(set("id", from.id.as_ref())?)),
            server_names: each("server_names", &from.server_names, |name| ServerName::parse(name))?,
            backends: Backends::parse(&from.backends)?,
        })
    }

    fn holds(&self, server_name: Option<&str>) -> bool {
        self.server_names.is_empty() || server_name.is_some_and(|name| self.server_names.iter().any(|wanted| wanted.holds(name)))
    }
}

impl ServerName {
    fn parse(from: &str) -> Parsed<Self> {
        let name = from.strip_prefix('*').unwrap_or(from);
        let labels = name.strip_prefix('.').filter(|_| name.len() < from.len()).unwrap_or(name);
        let fine = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
        };
        if !labels.split('.').all(fine) || (name.len() < from.len() && !name.starts_with('.')) {
            return Err(Invalid::because(format!(
                "{from:?} is not the name of a server in lower case, nor one with a star as its first label"
            )));
        }
        Ok(if name.len() < from.len() { Self::Suffix(name.into()) } else { Self::Exact(name.into()) })
    }

    /// `name` is in lower case.
    fn holds(&self, name: &str) -> bool {
        match self {
            Self::Exact(wanted) => **wanted == *name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    fn holds(wanted: &str, name: &str) -> bool {
        ServerName::parse(wanted).unwrap().holds(name)
    }

    #[test]
    fn a_star_stands_for_one_label_or_more() {
        assert!(holds("*.shop.example", "a.shop.example"));
        assert!(holds("*.shop.example", "a.b.shop.example"));
        assert!(!holds("*.shop.example", "shop.example"));
        assert!(!holds("*.shop.example", "xshop.example"));
        assert!(!holds("*.shop.example", ".shop.example"));
        assert!(holds("shop.example", "shop.example"));
        assert!(!holds("shop.example", "a.shop.example"));
    }

    #[test]
    fn what_is_no_server_name_is_refused() {
        for bad in ["", "*", "*.", "*shop", "a.*.b", "Shop.example", "a..b", "a.b.", "a b"] {
            assert!(ServerName::parse(bad).is_err(), "{bad}");
        }
    }
}
