//! Cross-origin requests: what browsers ask before them, and what they look for in the answers.
use crate::invalid::{Invalid, Parsed, each};
use crate::matching::header_name;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) struct Cors {
    origins: Box<[Origin]>,
    credentials: bool,
    methods: Allowed,
    headers: Allowed,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
}

#[derive(Debug)]
enum Origin {
    Any,
    Exact(Box<str>),
    /// What is before the star, and what is after it, with its dot.
    Star(Box<str>, Box<str>),
}

#[derive(Debug)]
enum Allowed {
    /// What was asked for is named back: a literal star means nothing where credentials are allowed.
    Any,
    These(Option<HeaderValue>),
}

/// What the response gets, once it is there.
#[derive(Debug)]
pub(crate) struct Granted {
    origin: HeaderValue,
    credentials: bool,
    expose: Option<HeaderValue>,
}

impl Cors {
    pub(crate) fn parse(from: &route::Cors) -> Parsed<Self> {
        let expose = each("expose_headers", &from.expose_headers, |name| name_or_star(name).map(|()| name.clone()))?;
        each("allow_headers", &from.allow_headers, |name| name_or_star(name))?;
        let method = |name: &String| {
            Method::from_bytes(name.as_bytes()).map(|_| ()).map_err(|_| Invalid::because(format!("{name:?} is not a method")))
        };
        each("allow_methods", &from.allow_methods, method)?;
        Ok(Self {
            origins: each("allow_origins", &from.allow_origins, |origin| Origin::parse(origin))?,
            credentials: from.allow_credentials,
            methods: Allowed::parse(&from.allow_methods)?,
            headers: Allowed::parse(&from.allow_headers)?,
            expose: list(&expose)?,
            max_age: (from.max_age_seconds > 0).then(|| HeaderValue::from(from.max_age_seconds)),
        })
    }

    /// The question of a browser, before the request itself: it is answered here and goes nowhere.
    pub(crate) fn is_preflight(request: &Parts) -> bool {
        request.method == Method::OPTIONS
            && request.headers.contains_key(ORIGIN)
            && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// None: not from an origin that is allowed; the answer then says nothing, and the browser keeps it to itself.
    pub(crate) fn grant(&self, request: &HeaderMap) -> Option<Granted> {
        let origin = request.get(ORIGIN)?;
        let allowed = self.origins.iter().find(|allowed| allowed.holds(origin))?;
        let any = matches!(allowed, Origin::Any) && !self.credentials;
        let origin = if any { HeaderValue::from_static("*") } else { origin.clone() };
        Some(Granted { origin, credentials: self.credentials, expose: self.expose.clone() })
    }

    /// The headers of the answer to a preflight.
    pub(crate) fn answer(&self, request: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let Some(granted) = self.grant(request) else { return headers };
        granted.apply(&mut headers);
        let mut say = |name, value: Option<&HeaderValue>| value.map(|value| headers.insert(name, value.clone()));
        say(ACCESS_CONTROL_ALLOW_METHODS, self.methods.of(request.get(ACCESS_CONTROL_REQUEST_METHOD)));
        say(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.of(request.get(ACCESS_CONTROL_REQUEST_HEADERS)));
        say(ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref());
        headers
    }
}

impl Granted {
    /// The route's word instead of the backend's: two origins in one answer are none for a browser.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in [ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
            headers.remove(name);
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        if self.origin != "*" {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

impl Origin {
    fn parse(from: &str) -> Parsed<Self> {
        if from == "*" {
            return Ok(Self::Any);
        }
        let bad = || Invalid::because(format!("{from:?} is not an origin, nor one with a star as its first label"));
        let (_, host) = from.split_once("://").filter(|(scheme, host)| !scheme.is_empty() && !host.is_empty()).ok_or_else(bad)?;
        match host.split_once('*') {
            None => Ok(Self::Exact(from.into())),
            Some(("", after)) if !after.contains('*') => Ok(Self::Star(from[..from.len() - host.len()].into(), after.into())),
            Some(_) => Err(bad()),
        }
    }

    fn holds(&self, origin: &HeaderValue) -> bool {
        let origin = origin.as_bytes();
        match self {
            Self::Any => true,
            Self::Exact(wanted) => wanted.as_bytes() == origin,
            Self::Star(before, after) => {
                let star = origin.strip_prefix(before.as_bytes()).and_then(|rest| rest.strip_suffix(after.as_bytes()));
                star.is_some_and(|labels| {
                    !labels.is_empty() && labels.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
                })
            }
        }
    }
}

impl Allowed {
    fn parse(from: &[String]) -> Parsed<Self> {
        if from.iter().any(|name| name == "*") { Ok(Self::Any) } else { list(from).map(Self::These) }
    }

    fn of<'a>(&'a self, asked: Option<&'a HeaderValue>) -> Option<&'a HeaderValue> {
        match self {
            Self::Any => asked,
            Self::These(these) => these.as_ref(),
        }
    }
}

fn name_or_star(name: &str) -> Parsed<()> {
    if name == "*" { Ok(()) } else { header_name(&name.to_ascii_lowercase()).map(|_| ()) }
}

fn list(names: &[String]) -> Parsed<Option<HeaderValue>> {
    let value = (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", "))).transpose();
    value.map_err(|_| Invalid::because("a name has characters that a header cannot have"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    fn cors(origins: &[&str], credentials: bool, methods: &[&str]) -> Cors {
        let own = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        Cors::parse(&route::Cors {
            allow_origins: own(origins),
            allow_credentials: credentials,
            allow_methods: own(methods),
            allow_headers: own(&["x-a", "X-B"]),
            expose_headers: own(&["x-c"]),
            max_age_seconds: 60,
        })
        .unwrap()
    }

    fn asked(origin: &'static str) -> HeaderMap {
        let pairs = [(ORIGIN, origin), (ACCESS_CONTROL_REQUEST_METHOD, "PUT"), (ACCESS_CONTROL_REQUEST_HEADERS, "x-a")];
        pairs.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn a_preflight_from_an_allowed_origin_is_told_everything() {
        let headers = cors(&["https://www.shop.example"], true, &["GET", "PUT"]).answer(&asked("https://www.shop.example"));
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "https://www.shop.example"),
            (ACCESS_CONTROL_ALLOW_METHODS, "GET, PUT"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "x-a, X-B"),
            (ACCESS_CONTROL_EXPOSE_HEADERS, "x-c"),
            (ACCESS_CONTROL_MAX_AGE, "60"),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (VARY, "Origin"),
        ] {
            assert_eq!(headers.get(&name).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn another_origin_is_told_nothing() {
        assert!(cors(&["https://www.shop.example"], true, &["GET"]).answer(&asked("https://shop.example")).is_empty());
        assert!(cors(&[], true, &["GET"]).answer(&asked("https://shop.example")).is_empty());
    }

    #[test]
    fn a_star_stands_for_labels_and_nothing_else() {
        let cors = cors(&["https://*.shop.example"], false, &["*"]);
        for (origin, allowed) in [
            ("https://a.shop.example", true),
            ("https://a.b.shop.example", true),
            ("https://shop.example", false),
            ("https://.shop.example", false),
            ("http://a.shop.example", false),
            ("https://evil.example/.shop.example", false),
            ("https://evil.example:1.shop.example", false),
            ("https://a.shop.example:8443", false),
        ] {
            assert_eq!(cors.grant(&asked(origin)).is_some(), allowed, "{origin}");
        }
        assert_eq!(cors.answer(&asked("https://a.shop.example")).get(ACCESS_CONTROL_ALLOW_METHODS).unwrap(), "PUT");
    }

    #[test]
    fn any_origin_is_named_back_only_with_credentials() {
        let origin =
            |credentials| cors(&["*"], credentials, &["GET"]).answer(&asked("https://x.example"))[ACCESS_CONTROL_ALLOW_ORIGIN].clone();
        assert_eq!(origin(false), "*");
        assert_eq!(origin(true), "https://x.example");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for bad in ["shop.example", "https://", "https://a.*.example", "https://*.*", "://a"] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }
}
