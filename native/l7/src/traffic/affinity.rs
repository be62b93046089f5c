//! Which endpoint a request should have: by a hash of what it says, or by a session that began there.
use super::about::About;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::matching::{first_parameter, header_name};
use http::header::{COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;
use std::time::Duration;
use trackbed_balance::hash;
use trackbed_contract::{route, traffic};

/// As proto/traffic.proto says.
const SESSION_NAME: &str = "trackbed-session";

/// What counts of a request, the first that it has.
#[derive(Debug, Default)]
pub(super) struct Hashing(Box<[Key]>);

#[derive(Debug)]
enum Key {
    Header(HeaderName),
    Cookie(Cookie),
    SourceIdentity,
    SourceAddress,
    QueryParameter(Box<str>),
    Hostname,
}

/// One that the waypoint makes, or reads.
#[derive(Debug)]
struct Cookie {
    name: Box<str>,
    /// None: it is never made.
    lifetime: Option<Lifetime>,
    /// "; Path=/; ..."
    rest: Box<str>,
}

#[derive(Debug, Clone, Copy)]
enum Lifetime {
    /// Of the client's own session.
    Session,
    For(Duration),
}

#[derive(Debug)]
pub(crate) enum Persistence {
    #[expect(private_interfaces, reason = "made and read here alone")]
    Cookie(Cookie),
    Header(HeaderName),
}

impl Hashing {
    pub(super) fn parse(from: &[traffic::HashKey]) -> Parsed<Self> {
        each("hash", from, Key::parse).map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With a cookie that the client is to be given so that it has one next time.
    pub(super) fn of(&self, about: &About<'_>) -> (Option<u64>, Option<HeaderValue>) {
        for key in &self.0 {
            if let Some(found) = key.of(about) {
                return (Some(found), None);
            }
            if let Key::Cookie(cookie) = key
                && cookie.lifetime.is_some()
            {
                let value = fastrand::u64(..);
                return (Some(hash(hexadecimal(value).as_bytes())), cookie.made(value));
            }
        }
        (None, None)
    }
}

impl Key {
    fn parse(from: &traffic::HashKey) -> Parsed<Self> {
        use traffic::hash_key::Kind;
        Ok(match set("kind", from.kind.as_ref())? {
            Kind::Header(name) => Self::Header(header_name(name).at("header")?),
            Kind::Cookie(cookie) => {
                let lifetime = (cookie.ttl_milliseconds > 0).then(|| Lifetime::For(Duration::from_millis(cookie.ttl_milliseconds)));
                Self::Cookie(Cookie::parse(&cookie.name, lifetime, &cookie.path, &cookie.attributes, "").at("cookie")?)
            }
            Kind::SourceIdentity(_) => Self::SourceIdentity,
            Kind::SourceAddress(_) => Self::SourceAddress,
            Kind::QueryParameter(name) => Self::QueryParameter(name.as_str().into()),
            Kind::Hostname(_) => Self::Hostname,
        })
    }

    fn of(&self, about: &About<'_>) -> Option<u64> {
        let headers = &about.request.headers;
        match self {
            Self::Header(name) => {
                let mut values = headers.get_all(name).iter().filter(|value| !value.is_empty());
                let first = hash(values.next()?.as_bytes());
                // Each on its own, so that no two lists of values are one text.
                Some(values.fold(first, |all, value| hash(&[all.to_le_bytes(), hash(value.as_bytes()).to_le_bytes()].concat())))
            }
            Self::Cookie(cookie) => cookie.read(headers).map(hash),
            Self::SourceIdentity => about.client.identity.as_ref().map(|identity| hash(identity.as_str().as_bytes())),
            Self::SourceAddress => Some(match about.client.address.ip().to_canonical() {
                std::net::IpAddr::V4(v4) => hash(&v4.octets()),
                std::net::IpAddr::V6(v6) => hash(&v6.octets()),
            }),
            Self::QueryParameter(name) => {
                first_parameter(about.request.uri.query()?, name).filter(|value| !value.is_empty()).map(|value| hash(&value))
            }
            Self::Hostname => headers.get(HOST).map(|host| hash(host.as_bytes().to_ascii_lowercase().as_slice())),
        }
    }
}

impl Persistence {
    pub(super) fn parse(from: &traffic::SessionPersistence) -> Parsed<Self> {
        let name = if from.session_name.is_empty() { SESSION_NAME } else { &from.session_name };
        match traffic::SessionType::try_from(from.r#type) {
            Ok(traffic::SessionType::Unspecified | traffic::SessionType::Cookie) => {
                let lifetime = match from.absolute_timeout_milliseconds {
                    0 => Lifetime::Session,
                    timeout => Lifetime::For(Duration::from_millis(timeout)),
                };
                Cookie::parse(name, Some(lifetime), &from.path, &from.attributes, "; HttpOnly").map(Self::Cookie)
            }
            Ok(traffic::SessionType::Header) => header_name(&name.to_ascii_lowercase()).at("session_name").map(Self::Header),
            Err(_) => Err(Invalid::because("is not known")).at("type"),
        }
    }

    /// The endpoint that the request's session is of. What is no token of ours is none.
    pub(crate) fn session(&self, headers: &HeaderMap) -> Option<u64> {
        let token = match self {
            Self::Cookie(cookie) => cookie.read(headers)?,
            Self::Header(name) => headers.get(name)?.as_bytes(),
        };
        let text = std::str::from_utf8(token).ok().filter(|text| text.len() == 16)?;
        u64::from_str_radix(text, 16).ok()
    }

    /// Tells the client whose its session is.
    pub(crate) fn tell(&self, session: u64, headers: &mut HeaderMap) {
        match self {
            Self::Cookie(cookie) => {
                if let Some(made) = cookie.made(session) {
                    headers.append(SET_COOKIE, made);
                }
            }
            Self::Header(name) => {
                if let Ok(value) = HeaderValue::from_str(&hexadecimal(session)) {
                    headers.insert(name.clone(), value);
                }
            }
        }
    }
}

impl Cookie {
    fn parse(name: &str, lifetime: Option<Lifetime>, path: &str, attributes: &[route::Header], rest: &str) -> Parsed<Self> {
        // What may be in a cookie's name, RFC 6265: a token.
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(Invalid::because(format!("{name:?} is not the name of a cookie"))).at("name");
        }
        let plain = |text: &str| text.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b';');
        let path = if path.is_empty() { "/" } else { path };
        if !path.starts_with('/') || !plain(path) {
            return Err(Invalid::because(format!("{path:?} is not the path of a cookie"))).at("path");
        }
        let mut all = format!("; Path={path}{rest}");
        for attribute in attributes {
            if attribute.name.is_empty() || !attribute.name.bytes().all(token) || !plain(&attribute.value) {
                return Err(Invalid::because(format!("{:?} is not an attribute of a cookie", attribute.name))).at("attributes");
            }
            let equals = if attribute.value.is_empty() { "" } else { "=" };
            // Writing to a string does not fail.
            let _ = write!(all, "; {}{equals}{}", attribute.name, attribute.value);
        }
        Ok(Self { name: name.into(), lifetime, rest: all.into() })
    }

    /// The value of the first of its name.
    fn read<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
        let values = pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(self.name.as_bytes())?.strip_prefix(b"="));
        values.filter(|value| !value.is_empty()).find(|_| true)
    }

    fn made(&self, value: u64) -> Option<HeaderValue> {
        let mut text = format!("{}={}", self.name, hexadecimal(value));
        if let Some(Lifetime::For(time)) = self.lifetime {
            let _ = write!(text, "; Max-Age={}", time.as_secs().max(1));
        }
        text.push_str(&self.rest);
        HeaderValue::from_str(&text).ok()
    }
}

fn hexadecimal(value: u64) -> String {
    format!("{value:016x}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use crate::Client;
    use trackbed_contract::Identity;
    use traffic::hash_key::Kind;

    fn hashed(keys: &[Kind], uri: &str, headers: &[(&str, &str)]) -> (Option<u64>, Option<HeaderValue>) {
        let keys: Vec<_> = keys.iter().map(|kind| traffic::HashKey { kind: Some(kind.clone()) }).collect();
        let builder = headers.iter().fold(http::Request::builder().uri(uri), |builder, (name, value)| builder.header(*name, *value));
        let request = builder.body(()).unwrap().into_parts().0;
        let identity = Some(Identity::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap());
        let client = Client { identity, address: "10.0.0.1:4000".parse().unwrap(), addressed: None };
        Hashing::parse(&keys).unwrap().of(&About { client: &client, request: &request, path: "/", route: None })
    }

    fn header() -> Kind {
        Kind::Header("x-user".into())
    }

    #[test]
    fn the_first_that_the_request_has_counts() {
        let keys = [header(), Kind::QueryParameter("user".into()), Kind::SourceIdentity(traffic::Unit {})];
        let of = |uri, headers: &[(&str, &str)]| hashed(&keys, uri, headers).0.unwrap();
        let (by_header, by_query, by_identity) = (of("/?user=b", &[("x-user", "a")]), of("/?user=b", &[]), of("/", &[("x-user", "")]));
        assert_eq!(by_header, hash(b"a"));
        assert_eq!(by_query, hash(b"b"));
        assert_eq!(by_identity, hash(b"spiffe://cluster.local/ns/shop/sa/web"));
        assert_eq!(hashed(&[header()], "/", &[]).0, None);
    }

    #[test]
    fn every_value_of_a_header_counts_and_no_two_lists_are_alike() {
        let of = |values: &[&str]| hashed(&[header()], "/", &values.iter().map(|value| ("x-user", *value)).collect::<Vec<_>>()).0;
        assert_ne!(of(&["a", "b"]), of(&["a"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a", "b"]), of(&["b", "a"]));
    }

    #[test]
    fn whoever_has_no_cookie_is_given_one_that_leads_to_the_same_endpoint() {
        let cookie = traffic::Cookie { name: "stick".into(), ttl_milliseconds: 60_000, ..Default::default() };
        let keys = [Kind::Cookie(cookie)];
        let (first, made) = hashed(&keys, "/", &[("cookie", "other=1")]);
        let made = made.unwrap().to_str().unwrap().to_owned();
        let (pair, rest) = made.split_once(';').unwrap();
        assert_eq!(rest, " Max-Age=60; Path=/");
        let (second, again) = hashed(&keys, "/", &[("cookie", &format!("other=1; {pair}"))]);
        assert_eq!((first, None), (second, again));
        let never = [Kind::Cookie(traffic::Cookie { name: "stick".into(), ..Default::default() })];
        assert_eq!(hashed(&never, "/", &[]), (None, None));
    }

    #[test]
    fn a_session_is_told_and_read_again_and_what_is_no_token_is_none() {
        for (kind, name) in [(traffic::SessionType::Cookie, "set-cookie"), (traffic::SessionType::Header, "x-session")] {
            let attributes = vec![route::Header { name: "SameSite".into(), value: "Strict".into() }];
            let session_name = "X-Session".to_owned();
            let from = traffic::SessionPersistence { r#type: kind.into(), session_name, attributes, ..Default::default() };
            let persistence = Persistence::parse(&from).unwrap();
            let mut told = HeaderMap::new();
            persistence.tell(0xabc, &mut told);
            let text = told.get(name).unwrap().to_str().unwrap();
            let mut sent = HeaderMap::new();
            if kind == traffic::SessionType::Cookie {
                assert_eq!(text, "X-Session=0000000000000abc; Path=/; HttpOnly; SameSite=Strict");
                sent.insert(COOKIE, "X-Session=0000000000000abc".parse().unwrap());
                assert_eq!(persistence.session(&sent), Some(0xabc));
                sent.insert(COOKIE, "X-Session=+000000000000abc; X-Session=1".parse().unwrap());
            } else {
                sent.insert("x-session", text.parse().unwrap());
                assert_eq!(persistence.session(&sent), Some(0xabc));
                sent.insert("x-session", "cart-0".parse().unwrap());
            }
            assert!(persistence.session(&sent).is_none() || kind == traffic::SessionType::Cookie);
        }
    }

    #[test]
    fn a_cookie_cannot_be_made_to_say_more() {
        for (name, path, attribute) in [("a b", "/", "Secure"), ("", "/", "Secure"), ("a", "/;Domain=x", "Secure"), ("a", "/", "x\r\ny")] {
            let attributes = vec![route::Header { name: attribute.into(), value: String::new() }];
            let cookie = traffic::Cookie { name: name.into(), ttl_milliseconds: 1, path: path.into(), attributes };
            assert!(Key::parse(&traffic::HashKey { kind: Some(Kind::Cookie(cookie)) }).is_err(), "{name:?} {path:?} {attribute:?}");
        }
    }
}
