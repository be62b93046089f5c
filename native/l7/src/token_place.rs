//! Where a request may carry its token, and how it is taken out of there.
use crate::invalid::{At, Invalid, Parsed, each};
use http::header::COOKIE;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::borrow::Cow;
use trackbed_contract::authorization as wire;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind a prefix.
    Header(HeaderName, String),
    /// Of the query.
    Parameter(String),
    Cookie(String),
}

/// The scheme of RFC 6750; schemes have no case (RFC 9110, section 11.1).
const BEARER: &str = "Bearer ";

impl Place {
    pub(crate) fn parse(from: &wire::TokenRule) -> Parsed<Vec<Self>> {
        let header = |header: &wire::TokenHeader| Ok(Self::Header(header_name(&header.name).at("name")?, header.prefix.clone()));
        let named = |name: &String| if name.is_empty() { Err(Invalid::because("is empty")) } else { Ok(name.clone()) };
        let mut places = each("headers", &from.headers, header)?.into_vec();
        places.extend(each("parameters", &from.parameters, |name| named(name).map(Self::Parameter))?);
        places.extend(each("cookies", &from.cookies, |name| named(name).map(Self::Cookie))?);
        if places.is_empty() { Err(Invalid::because("is not set")).at("headers, parameters, cookies") } else { Ok(places) }
    }

    pub(crate) fn tokens<'a>(&self, request: &'a Parts) -> Vec<Cow<'a, str>> {
        match self {
            Self::Header(name, prefix) => {
                let values = request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                values.filter_map(|value| behind(value, prefix)).collect()
            }
            Self::Parameter(name) => {
                let pairs = request.uri.query().into_iter().flat_map(parameters);
                pairs.filter(|(_, key, _)| key == name).map(|(_, _, value)| value).collect()
            }
            Self::Cookie(name) => cookies(&request.headers)
                .filter(|(key, _)| key == name)
                .map(|(_, value)| value.trim_matches('"').to_owned().into())
                .collect(),
        }
    }

    /// False: what is left cannot be sent on.
    pub(crate) fn take_out(&self, request: &mut Parts) -> bool {
        match self {
            Self::Header(name, _) => {
                request.headers.remove(name);
                true
            }
            Self::Parameter(name) => {
                let Some(query) = request.uri.query() else { return true };
                let left: Vec<&str> = parameters(query).filter(|(_, key, _)| key != name).map(|(whole, ..)| whole).collect();
                let path = request.uri.path();
                let text = if left.is_empty() { path.to_owned() } else { format!("{path}?{}", left.join("&")) };
                let mut parts = std::mem::take(&mut request.uri).into_parts();
                let Ok(path) = PathAndQuery::try_from(text) else { return false };
                parts.path_and_query = Some(path);
                let Ok(uri) = Uri::from_parts(parts) else { return false };
                request.uri = uri;
                true
            }
            Self::Cookie(name) => {
                let left: Vec<String> =
                    cookies(&request.headers).filter(|(key, _)| key != name).map(|(key, value)| format!("{key}={value}")).collect();
                request.headers.remove(COOKIE);
                if left.is_empty() {
                    return true;
                }
                let Ok(value) = HeaderValue::from_str(&left.join("; ")) else { return false };
                request.headers.insert(COOKIE, value);
                true
            }
        }
    }
}

fn behind<'a>(value: Cow<'a, str>, prefix: &str) -> Option<Cow<'a, str>> {
    // A scheme with nothing behind it, whose space HTTP has cut off, is a token that is none.
    if prefix == BEARER && value.eq_ignore_ascii_case(BEARER.trim_end()) {
        return Some("".into());
    }
    let beginning = value.get(..prefix.len())?;
    let matches = if prefix == BEARER { beginning.eq_ignore_ascii_case(prefix) } else { beginning == prefix };
    matches.then(|| match value {
        Cow::Borrowed(value) => Cow::Borrowed(value[prefix.len()..].trim()),
        Cow::Owned(value) => Cow::Owned(value[prefix.len()..].trim().to_owned()),
    })
}

/// As it is written, name and value decoded as forms are.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (&str, Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (pair, decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return text.into();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(if *byte == b'+' { b' ' } else { *byte });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// In HTTP/2 they may come in several headers.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    values.flat_map(|value| value.split(';')).filter_map(|cookie| cookie.trim().split_once('='))
}

/// In lower case, as control sends them.
pub(crate) fn header_name(name: &str) -> Parsed<HeaderName> {
    HeaderName::from_lowercase(name.as_bytes()).map_err(|_| Invalid::because(format!("{name:?} is not the name of a header in lower case")))
}
