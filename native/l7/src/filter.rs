//! What routes change about requests and responses on their way.
use crate::backend::{Backend, Turn};
use crate::cors::Cors;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::matching::{after_prefix, header_name};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::borrow::Cow;
use std::sync::Arc;
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) enum Filter {
    RequestHeaders(HeaderChange),
    ResponseHeaders(HeaderChange),
    Redirect(Redirect),
    Rewrite(Rewrite),
    Mirror(Mirror),
    Cors(Cors),
}

#[derive(Debug)]
pub(crate) struct HeaderChange {
    set: Box<[(HeaderName, HeaderValue)]>,
    add: Box<[(HeaderName, HeaderValue)]>,
    remove: Box<[HeaderName]>,
}

#[derive(Debug)]
pub(crate) struct Redirect {
    scheme: Option<Box<str>>,
    hostname: Option<Box<str>>,
    path: Option<PathChange>,
    port: Option<u16>,
    pub(crate) status: StatusCode,
}

#[derive(Debug)]
pub(crate) struct Rewrite {
    pub(crate) hostname: Option<HeaderValue>,
    path: Option<PathChange>,
}

#[derive(Debug)]
enum PathChange {
    Full(Box<str>),
    Prefix(Box<str>),
}

#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) backend: Arc<Backend>,
    numerator: u32,
    denominator: u32,
    turn: Turn,
}

/// What a redirect or a rewrite of the path starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// As it was matched.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// What the entry's path_prefix matched.
    pub(crate) prefix: Option<&'a str>,
}

impl Filter {
    pub(crate) fn parse(from: &route::Filter) -> Parsed<Self> {
        use route::filter::Kind;
        match set("kind", from.kind.as_ref())? {
            Kind::RequestHeaders(change) => HeaderChange::parse(change).map(Self::RequestHeaders).at("request_headers"),
            Kind::ResponseHeaders(change) => HeaderChange::parse(change).map(Self::ResponseHeaders).at("response_headers"),
            Kind::Redirect(redirect) => Redirect::parse(redirect).map(Self::Redirect).at("redirect"),
            Kind::Rewrite(rewrite) => Rewrite::parse(rewrite).map(Self::Rewrite).at("rewrite"),
            Kind::Mirror(mirror) => Mirror::parse(mirror).map(Self::Mirror).at("mirror"),
            Kind::Cors(cors) => Cors::parse(cors).map(Self::Cors).at("cors"),
        }
    }
}

impl HeaderChange {
    fn parse(from: &route::HeaderChange) -> Parsed<Self> {
        Ok(Self {
            set: each("set", &from.set, header)?,
            add: each("add", &from.add, header)?,
            remove: each("remove", &from.remove, |name| header_name(name))?,
        })
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

fn header(from: &route::Header) -> Parsed<(HeaderName, HeaderValue)> {
    let name = header_name(&from.name)?;
    // They say where a message ends; a route that could set them could hide a second request in a first.
    if [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, header::UPGRADE, header::TE, header::TRAILER].contains(&name)
    {
        return Err(Invalid::because(format!("{name} belongs to the connection and cannot be set")));
    }
    let value = HeaderValue::from_str(&from.value)
        .map_err(|_| Invalid::because(format!("the value of {name} has characters that a header cannot have")))?;
    Ok((name, value))
}

impl Redirect {
    fn parse(from: &route::Redirect) -> Parsed<Self> {
        let status = u16::try_from(from.status).ok().filter(|status| [301, 302, 303, 307, 308].contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        if !from.scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Err(Invalid::because("is not a scheme")).at("scheme");
        }
        Ok(Self {
            scheme: text(&from.scheme),
            hostname: host(&from.hostname)?,
            path: from.path.as_ref().map(PathChange::parse).transpose().at("path")?,
            port: u16::try_from(from.port)
                .map(|port| (port != 0).then_some(port))
                .map_err(|_| Invalid::because("is not a port"))
                .at("port")?,
            status: status.ok_or_else(|| Invalid::because(format!("{} is not 301, 302, 303, 307 or 308", from.status))).at("status")?,
        })
    }

    /// `host` without a port, as the client wrote it; `port` is the one that they addressed.
    pub(crate) fn location(&self, target: Target<'_>, host: &str, port: u16) -> String {
        let scheme = self.scheme.as_deref().unwrap_or("http");
        let default = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let port = self.port.unwrap_or_else(|| if self.scheme.is_some() { default.unwrap_or(port) } else { port });
        let host = self.hostname.as_deref().unwrap_or(host);
        let path = changed(self.path.as_ref(), target);
        let port = if default == Some(port) { String::new() } else { format!(":{port}") };
        let (mark, query) = target.query.map_or(("", ""), |query| ("?", query));
        format!("{scheme}://{host}{port}{path}{mark}{query}")
    }
}

impl Rewrite {
    fn parse(from: &route::Rewrite) -> Parsed<Self> {
        let hostname = host(&from.hostname)?.map(|host| HeaderValue::from_str(&host)).transpose();
        Ok(Self {
            hostname: hostname.map_err(|_| Invalid::because("is not a host name")).at("hostname")?,
            path: from.path.as_ref().map(PathChange::parse).transpose().at("path")?,
        })
    }

    /// None: the path stays.
    pub(crate) fn path<'a>(&'a self, target: Target<'a>) -> Option<Cow<'a, str>> {
        self.path.as_ref().map(|change| changed(Some(change), target))
    }
}

impl PathChange {
    fn parse(from: &route::PathChange) -> Parsed<Self> {
        use route::path_change::Kind;
        let fine = |path: &str| path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#' | b'\\'));
        match set("kind", from.kind.as_ref())? {
            Kind::Full(path) if path.starts_with('/') && fine(path) => Ok(Self::Full(path.as_str().into())),
            Kind::Prefix(path) if (path.is_empty() || path.starts_with('/')) && fine(path) => {
                Ok(Self::Prefix(path.trim_end_matches('/').into()))
            }
            Kind::Full(path) | Kind::Prefix(path) => Err(Invalid::because(format!("{path:?} is not a path"))),
        }
    }
}

/// A prefix that no entry matched by cannot be replaced; control does not let such rules through, and here the path just stays.
fn changed<'a>(change: Option<&'a PathChange>, target: Target<'a>) -> Cow<'a, str> {
    match change {
        None => Cow::Borrowed(target.path),
        Some(PathChange::Full(path)) => Cow::Borrowed(path),
        Some(PathChange::Prefix(replacement)) => {
            let rest = target.prefix.and_then(|prefix| after_prefix(target.path, prefix));
            match rest.map(|rest| format!("{replacement}{rest}")) {
                None => Cow::Borrowed(target.path),
                Some(path) if path.is_empty() => Cow::Borrowed("/"),
                Some(path) => Cow::Owned(path),
            }
        }
    }
}

impl Mirror {
    fn parse(from: &route::Mirror) -> Parsed<Self> {
        if from.denominator == 0 || from.numerator > from.denominator {
            return Err(Invalid::because(format!("{} of {} is not a share", from.numerator, from.denominator)));
        }
        let backend = Backend::parse(set("backend", from.backend.as_ref())?).at("backend")?;
        Ok(Self { backend: Arc::new(backend), numerator: from.numerator, denominator: from.denominator, turn: Turn::default() })
    }

    /// Whether this request is copied.
    pub(crate) fn drawn(&self) -> bool {
        self.backend.refuse.is_none() && self.turn.next(self.denominator.into()) < self.numerator.into()
    }
}

fn text(from: &str) -> Option<Box<str>> {
    (!from.is_empty()).then(|| from.into())
}

fn host(from: &str) -> Parsed<Option<Box<str>>> {
    let fine = from.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']'));
    if fine { Ok(text(from)) } else { Err(Invalid::because(format!("{from:?} is not a host name"))).at("hostname") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use route::path_change::Kind;

    fn location(redirect: &route::Redirect, path: &str, prefix: Option<&str>, port: u16) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        Redirect::parse(redirect).unwrap().location(Target { path, query, prefix }, "shop.example", port)
    }

    fn redirect() -> route::Redirect {
        route::Redirect { status: 302, ..Default::default() }
    }

    #[test]
    fn the_default_port_of_a_scheme_is_left_out() {
        for (scheme, port, addressed, expected) in [
            ("", 0, 80, "http://shop.example/a"),
            ("", 0, 8080, "http://shop.example:8080/a"),
            ("", 80, 8080, "http://shop.example/a"),
            ("", 443, 80, "http://shop.example:443/a"),
            ("http", 0, 8080, "http://shop.example/a"),
            ("https", 0, 80, "https://shop.example/a"),
            ("https", 0, 8080, "https://shop.example/a"),
            ("https", 443, 8080, "https://shop.example/a"),
            ("https", 8443, 80, "https://shop.example:8443/a"),
            ("http", 8080, 80, "http://shop.example:8080/a"),
            ("http", 443, 80, "http://shop.example:443/a"),
            ("https", 80, 80, "https://shop.example:80/a"),
            ("ftp", 0, 2121, "ftp://shop.example:2121/a"),
        ] {
            let redirect = route::Redirect { scheme: scheme.into(), port, ..redirect() };
            assert_eq!(location(&redirect, "/a", None, addressed), expected, "{scheme} {port} {addressed}");
        }
    }

    #[test]
    fn the_query_stays() {
        let path = Some(route::PathChange { kind: Some(Kind::Full("/new".into())) });
        let redirect = route::Redirect { path, hostname: "other.example".into(), ..redirect() };
        assert_eq!(location(&redirect, "/a?x=1&y", None, 80), "http://other.example/new?x=1&y");
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo", "/", "/xyz", "/xyz/foo"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/", "/", "/", "/"),
        ] {
            let path_change = Some(route::PathChange { kind: Some(Kind::Prefix(replacement.into())) });
            let rewrite = Rewrite::parse(&route::Rewrite { hostname: String::new(), path: path_change }).unwrap();
            let target = Target { path, query: None, prefix: Some(prefix) };
            assert_eq!(rewrite.path(target).as_deref(), Some(expected), "{path} {prefix} {replacement}");
        }
    }

    #[test]
    fn headers_are_set_then_added_then_removed() {
        let pair = |name: &str, value: &str| route::Header { name: name.into(), value: value.into() };
        let change = route::HeaderChange {
            set: vec![pair("a", "set"), pair("c", "set")],
            add: vec![pair("a", "added"), pair("b", "added")],
            remove: vec!["c".into(), "d".into()],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("a", "1"), ("a", "2"), ("b", "3"), ("d", "4"), ("e", "5")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        HeaderChange::parse(&change).unwrap().apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("a"), ["set", "added"]);
        assert_eq!(all("b"), ["3", "added"]);
        assert!(all("c").is_empty() && all("d").is_empty());
        assert_eq!(all("e"), ["5"]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        use route::filter::Kind;
        let set = |name: &str, value: &str| {
            let set = vec![route::Header { name: name.into(), value: value.into() }];
            Kind::RequestHeaders(route::HeaderChange { set, ..Default::default() })
        };
        let backend = Some(route::Backend { service: "shop/v1".into(), port: 80, ..Default::default() });
        for bad in [
            None,
            Some(set("X-Capital", "1")),
            Some(set("a b", "1")),
            Some(set("a", "1\r\nb: 2")),
            Some(set("content-length", "0")),
            Some(set("transfer-encoding", "chunked")),
            Some(Kind::Redirect(route::Redirect { status: 200, ..Default::default() })),
            Some(Kind::Redirect(route::Redirect { port: 70000, ..redirect() })),
            Some(Kind::Redirect(route::Redirect { hostname: "a/b".into(), ..redirect() })),
            Some(Kind::Redirect(route::Redirect { path: Some(route::PathChange { kind: None }), ..redirect() })),
            Some(Kind::Mirror(route::Mirror { backend: backend.clone(), numerator: 1, denominator: 0 })),
            Some(Kind::Mirror(route::Mirror { backend: backend.clone(), numerator: 2, denominator: 1 })),
            Some(Kind::Mirror(route::Mirror { backend: None, numerator: 1, denominator: 1 })),
        ] {
            let filter = route::Filter { kind: bad };
            assert!(Filter::parse(&filter).is_err(), "{filter:?}");
        }
    }
}
