//! Which requests a setting is for.
use super::about::About;
use crate::invalid::{At, Invalid, Parsed, each};
use crate::matching::Match;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use trackbed_contract::traffic;

/// Of each list that is not empty, something must hold.
#[derive(Debug, Default)]
pub(super) struct Selector {
    matches: Box<[Match]>,
    identities: Box<[Pattern]>,
    namespaces: Box<[Box<str>]>,
    source_addresses: Box<[Range]>,
}

#[derive(Debug)]
enum Pattern {
    Exact(Box<str>),
    Prefix(Box<str>),
}

#[derive(Debug)]
struct Range {
    address: IpAddr,
    length: u8,
}

impl Selector {
    pub(super) fn parse(from: Option<&traffic::Selector>) -> Parsed<Self> {
        let Some(from) = from else { return Ok(Self::default()) };
        Ok(Self {
            matches: each("matches", &from.matches, Match::parse)?,
            identities: each("identities", &from.identities, |identity| Ok(Pattern::of(identity)))?,
            namespaces: from.namespaces.iter().map(|namespace| namespace.as_str().into()).collect(),
            source_addresses: each("source_addresses", &from.source_addresses, Range::parse)?,
        })
    }

    pub(super) fn selects(&self, about: &About<'_>) -> bool {
        let identity = about.client.identity.as_ref();
        let any = |empty: bool, holds: &dyn Fn() -> bool| empty || holds();
        any(self.namespaces.is_empty(), &|| {
            about.client.namespace().is_some_and(|namespace| self.namespaces.iter().any(|one| **one == *namespace))
        }) && any(self.identities.is_empty(), &|| {
            identity.is_some_and(|identity| self.identities.iter().any(|pattern| pattern.holds(identity.as_str())))
        }) && any(self.source_addresses.is_empty(), &|| {
            let address = about.client.address.ip().to_canonical();
            self.source_addresses.iter().any(|range| range.holds(address))
        }) && any(self.matches.is_empty(), &|| self.matches.iter().any(|entry| entry.holds(about.request, about.path)))
    }
}

impl Pattern {
    fn of(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(text.into()),
        }
    }

    fn holds(&self, identity: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *identity,
            Self::Prefix(prefix) => identity.starts_with(&**prefix),
        }
    }
}

impl Range {
    fn parse(from: &traffic::Range) -> Parsed<Self> {
        let address = match <[u8; 4]>::try_from(&*from.address) {
            Ok(v4) => Some(IpAddr::V4(Ipv4Addr::from(v4))),
            Err(_) => <[u8; 16]>::try_from(&*from.address).ok().map(|v6| IpAddr::V6(Ipv6Addr::from(v6))),
        };
        let address = address.ok_or_else(|| Invalid::because("has neither 4 nor 16 bytes")).at("address")?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = u8::try_from(from.length).ok().filter(|length| *length <= bits);
        let length = length.ok_or_else(|| Invalid::because(format!("{} is more than {bits}", from.length))).at("length")?;
        Ok(Self { address, length })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let length = u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                let differ = u32::from(range) ^ u32::from(address);
                differ.checked_shr(32 - length).unwrap_or_default() == 0
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                let differ = u128::from(range) ^ u128::from(address);
                differ.checked_shr(128 - length).unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use crate::Client;
    use trackbed_contract::{Identity, route};

    fn selects(selector: &traffic::Selector, identity: Option<&str>, address: &str, path: &str) -> bool {
        let client = Client {
            identity: identity.map(|identity| Identity::parse(identity).unwrap()),
            address: std::net::SocketAddr::new(address.parse().unwrap(), 1),
            addressed: None,
        };
        let request = http::Request::builder().uri(path).body(()).unwrap().into_parts().0;
        let about = About { client: &client, request: &request, path, route: None };
        Selector::parse(Some(selector)).unwrap().selects(&about)
    }

    const WEB: Option<&str> = Some("spiffe://cluster.local/ns/shop/sa/web");

    #[test]
    fn of_every_list_something_must_hold() {
        let identities = vec!["spiffe://cluster.local/ns/shop/sa/*".into()];
        let both = traffic::Selector { identities: identities.clone(), namespaces: vec!["till".into()], ..Default::default() };
        assert!(!selects(&both, WEB, "10.0.0.1", "/"));
        let both = traffic::Selector { identities, namespaces: vec!["till".into(), "shop".into()], ..Default::default() };
        assert!(selects(&both, WEB, "10.0.0.1", "/"));
        assert!(!selects(&both, None, "10.0.0.1", "/"), "who has no identity is none of them");
        assert!(selects(&traffic::Selector::default(), None, "10.0.0.1", "/"));
        let whole = traffic::Selector { identities: vec![WEB.unwrap().into()], ..Default::default() };
        assert!(selects(&whole, WEB, "10.0.0.1", "/") && !selects(&whole, Some("spiffe://cluster.local/ns/shop/sa/webb"), "10.0.0.1", "/"));
    }

    #[test]
    fn addresses_are_looked_for_in_ranges_of_their_family() {
        for (address, length, client, holds) in [
            (vec![10, 1, 0, 0], 16, "10.1.2.3", true),
            (vec![10, 1, 0, 0], 16, "10.2.2.3", false),
            (vec![10, 1, 0, 0], 16, "::ffff:10.1.9.9", true),
            (vec![0, 0, 0, 0], 0, "9.9.9.9", true),
            (vec![0, 0, 0, 0], 0, "fd00::1", false),
            (vec![0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8, "fd00::1", true),
            (vec![10, 1, 2, 3], 32, "10.1.2.3", true),
            (vec![10, 1, 2, 3], 32, "10.1.2.2", false),
        ] {
            let range = traffic::Range { address: address.clone(), length };
            let selector = traffic::Selector { source_addresses: vec![range], ..Default::default() };
            assert_eq!(selects(&selector, WEB, client, "/"), holds, "{address:?}/{length} {client}");
        }
    }

    #[test]
    fn a_match_is_one_of_the_routes() {
        let path = Some(route::Text { kind: Some(route::text::Kind::PathPrefix("/api".into())) });
        let selector = traffic::Selector { matches: vec![route::HttpMatch { path, ..Default::default() }], ..Default::default() };
        assert!(selects(&selector, WEB, "10.0.0.1", "/api/x") && !selects(&selector, WEB, "10.0.0.1", "/apis"));
    }
}
