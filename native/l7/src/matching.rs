//! Which rule a request belongs to: the first entry whose conditions all hold.
use crate::invalid::{At, Invalid, Parsed, each, set};
use http::request::Parts;
use http::{HeaderName, Method};
use regex::bytes::{Regex, RegexBuilder};
use std::borrow::Cow;
use trackbed_contract::route;
use trackbed_policy::path;

/// As proto/route.proto says.
const PATTERN_BYTES: usize = 2048;
/// Of a compiled pattern. A hundred times what usual ones take, and little enough for a thousand of them.
const PATTERN_MEMORY_BYTES: usize = 256 * 1024;

#[derive(Debug)]
pub(crate) struct Match {
    path: PathMatch,
    method: Option<Method>,
    headers: Box<[(HeaderName, Text)]>,
    query: Box<[(Box<str>, Text)]>,
}

#[derive(Debug)]
enum PathMatch {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Pattern(Regex),
}

#[derive(Debug)]
enum Text {
    Exact(Box<str>),
    Pattern(Regex),
}

impl Match {
    pub(crate) fn parse(from: &route::HttpMatch) -> Parsed<Self> {
        let method = match from.method.as_str() {
            "" => None,
            name => Some(Method::from_bytes(name.as_bytes()).map_err(|_| Invalid::because("is not a method")).at("method")?),
        };
        Ok(Self {
            path: from.path.as_ref().map_or(Ok(PathMatch::Any), PathMatch::parse).at("path")?,
            method,
            headers: each("headers", &from.headers, |named| Ok((header_name(&named.name)?, Text::parse(named)?)))?,
            query: each("query", &from.query, |named| Ok((named.name.as_str().into(), Text::parse(named)?)))?,
        })
    }

    /// `path` is the merged one of [`path::normal`].
    pub(crate) fn holds(&self, request: &Parts, path: &str) -> bool {
        self.method.as_ref().is_none_or(|method| *method == request.method)
            && self.path.holds(path)
            && self.headers.iter().all(|(name, text)| request.headers.get_all(name).iter().any(|value| text.holds(value.as_bytes())))
            && (self.query.is_empty() || self.query_holds(request.uri.query().unwrap_or_default()))
    }

    /// What a change of the path may replace.
    pub(crate) fn prefix(&self) -> Option<&str> {
        if let PathMatch::Prefix(prefix) = &self.path { Some(prefix) } else { None }
    }

    fn query_holds(&self, query: &str) -> bool {
        self.query.iter().all(|(name, text)| first_parameter(query, name).is_some_and(|value| text.holds(&value)))
    }
}

impl PathMatch {
    fn parse(from: &route::Text) -> Parsed<Self> {
        use route::text::Kind;
        let normal =
            |text: &str| path::normal(text).map(|normal| normal.merged.into()).map_err(|cause| Invalid::because(cause.to_string()));
        match set("kind", from.kind.as_ref())? {
            Kind::Exact(text) => normal(text).map(Self::Exact),
            Kind::PathPrefix(text) if text == "/" => Ok(Self::Prefix(text.as_str().into())),
            Kind::PathPrefix(text) if text.ends_with('/') => Err(Invalid::because("a prefix has a slash at its end")),
            Kind::PathPrefix(text) => normal(text).map(Self::Prefix),
            Kind::Regex(text) => pattern(text).map(Self::Pattern),
        }
    }

    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => **text == *path,
            Self::Prefix(prefix) => after_prefix(path, prefix).is_some(),
            Self::Pattern(pattern) => pattern.is_match(path.as_bytes()),
        }
    }
}

/// What follows the prefix, when it ends where a segment does.
pub(crate) fn after_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix))?;
    (rest.is_empty() && prefix != "/" || rest.starts_with('/')).then_some(rest)
}

impl Text {
    fn parse(named: &route::NamedText) -> Parsed<Self> {
        use route::text::Kind;
        match set("value.kind", set("value", named.value.as_ref())?.kind.as_ref())? {
            Kind::Exact(text) => Ok(Self::Exact(text.as_str().into())),
            Kind::Regex(text) => pattern(text).map(Self::Pattern),
            Kind::PathPrefix(_) => Err(Invalid::because("path_prefix is for paths only")),
        }
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == value,
            Self::Pattern(pattern) => pattern.is_match(value),
        }
    }
}

pub(crate) fn header_name(name: &str) -> Parsed<HeaderName> {
    // `from_lowercase` refuses capitals, which control has no business to send.
    HeaderName::from_lowercase(name.as_bytes()).map_err(|_| Invalid::because(format!("{name:?} is not the lower case name of a header")))
}

/// The whole value must match. Classes are those of ASCII, as RE2's are; matching takes time in proportion to the value, whatever the pattern.
fn pattern(text: &str) -> Parsed<Regex> {
    if text.len() > PATTERN_BYTES {
        return Err(Invalid::because(format!("a pattern is longer than {PATTERN_BYTES} bytes")));
    }
    let compile = |text: &str| RegexBuilder::new(text).unicode(false).size_limit(PATTERN_MEMORY_BYTES).build();
    // By itself first: "a)|(b" must not get its parentheses from us.
    let compiled = compile(text).and_then(|_| compile(&format!(r"\A(?:{text})\z")));
    compiled.map_err(|cause| Invalid::because(format!("the pattern {text:?}: {cause}")))
}

pub(crate) fn first_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*parameter(key) == *name.as_bytes()).then(|| parameter(value))
    })
}

/// As forms encode it. What is no encoding stays as it is.
fn parameter(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(match (byte, encoded) {
            (_, Some(value)) => value,
            (b'+', None) => b' ',
            _ => byte,
        });
        at += if encoded.is_some() { 3 } else { 1 };
    }
    Cow::Owned(decoded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use route::text::Kind;

    fn text(kind: Kind) -> route::Text {
        route::Text { kind: Some(kind) }
    }

    fn named(name: &str, kind: Kind) -> route::NamedText {
        route::NamedText { name: name.into(), value: Some(text(kind)) }
    }

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = http::Request::builder().method(method).uri(uri);
        headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(()).unwrap().into_parts().0
    }

    fn holds(from: &route::HttpMatch, request: &Parts) -> bool {
        let path = path::normal(request.uri.path()).unwrap();
        Match::parse(from).unwrap().holds(request, &path.merged)
    }

    fn path_holds(kind: Kind, path: &str) -> bool {
        holds(&route::HttpMatch { path: Some(text(kind)), ..Default::default() }, &request("GET", path, &[]))
    }

    #[test]
    fn a_prefix_holds_in_whole_segments() {
        for (prefix, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            ("/", "/", true),
            ("/", "/x/y", true),
            ("/a", "//a/b", true),
            ("/a", "/x/../a/b", true),
            ("/a", "/%61/b", true),
            ("/a", "/A", false),
        ] {
            assert_eq!(path_holds(Kind::PathPrefix(prefix.into()), path), expected, "{prefix} {path}");
        }
    }

    #[test]
    fn a_pattern_holds_for_the_whole_value() {
        assert!(path_holds(Kind::Regex("/v[0-9]+/.*".into()), "/v12/x/y"));
        assert!(!path_holds(Kind::Regex("/v[0-9]+".into()), "/v12/x"));
        assert!(!path_holds(Kind::Regex("v1|/v2".into()), "/v1"));
        assert!(path_holds(Kind::Regex("/a|/b".into()), "/b"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["(", "a)|(b", "(?=look)", r"(a)\1", &"a".repeat(2049), "(?:a{1000}){1000}"] {
            let from = route::HttpMatch { path: Some(text(Kind::Regex(bad.into()))), ..Default::default() };
            assert!(Match::parse(&from).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_a_header_are_looked_at_one_by_one() {
        let from = route::HttpMatch { headers: vec![named("x-env", Kind::Exact("blue".into()))], ..Default::default() };
        assert!(holds(&from, &request("GET", "/", &[("X-Env", "green"), ("X-Env", "blue")])));
        assert!(!holds(&from, &request("GET", "/", &[("X-Env", "green,blue")])));
        assert!(!holds(&from, &request("GET", "/", &[])));
    }

    #[test]
    fn the_first_of_several_query_parameters_counts() {
        let from = route::HttpMatch { query: vec![named("animal", Kind::Exact("a whale".into()))], ..Default::default() };
        for (query, expected) in [
            ("animal=a+whale", true),
            ("x=1&animal=a%20whale&animal=y", true),
            ("animal=y&animal=a+whale", false),
            ("Animal=a+whale", false),
            ("", false),
            ("anim%61l=a%20whale", true),
        ] {
            assert_eq!(holds(&from, &request("GET", &format!("/?{query}"), &[])), expected, "{query}");
        }
    }

    #[test]
    fn every_condition_must_hold() {
        let from = route::HttpMatch {
            path: Some(text(Kind::Exact("/a".into()))),
            method: "POST".into(),
            headers: vec![named("v", Kind::Regex("[12]".into()))],
            query: Vec::new(),
        };
        assert!(holds(&from, &request("POST", "/a?x", &[("v", "2")])));
        assert!(!holds(&from, &request("GET", "/a", &[("v", "2")])));
        assert!(!holds(&from, &request("POST", "/a/b", &[("v", "2")])));
        assert!(!holds(&from, &request("POST", "/a", &[("v", "3")])));
        assert!(holds(&route::HttpMatch::default(), &request("PATCH", "/any", &[])));
    }
}
