//! One form for every request, whichever version of HTTP it came in: what is ambiguous is refused, what belongs to a connection is taken off.
use crate::path;
use crate::refusal::Refusal;
use crate::{Client, Served};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use std::borrow::Cow;
use std::fmt::Write;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What of a request is not in its headers. Host is there, whatever the version; the path is that of [`path::normal`].
#[derive(Debug)]
pub(crate) struct Canonical {
    /// With what the client wishes to go on: "websocket". HTTP/1.1 only.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Where trailers are understood. gRPC servers insist on it.
    pub(crate) trailers: bool,
    /// For matches, where it is not as the client sent it.
    merged: Option<String>,
    /// For the backend, where it is not as the client sent it.
    pub(crate) path: Option<String>,
}

impl Canonical {
    /// A copy for a mirror never upgrades.
    pub(crate) fn for_copy(&self) -> Self {
        Self { upgrade: None, trailers: self.trailers, merged: None, path: None }
    }

    /// What is matched.
    pub(crate) fn merged<'a>(&'a self, request: &'a Parts) -> &'a str {
        self.merged.as_deref().unwrap_or_else(|| request.uri.path())
    }
}

/// Leaves in `request` what goes on.
pub(crate) fn canonical(request: &mut Parts, client: &Client, served: &Served) -> Result<Canonical, Refusal> {
    if request.method == Method::CONNECT {
        let refusal = Refusal::malformed("CONNECT is not for waypoints");
        return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, ..refusal });
    }
    framing(request)?;
    let host = host(request, served)?;
    request.headers.insert(HOST, host);
    let upgrade = upgrade(request);
    let trailers = request.headers.get_all(TE).iter().any(|value| tokens(value).any(|token| token == "trailers"));
    take_off(&mut request.headers)?;
    // The answer to it is the waypoint's: it asks for the body as soon as it passes it on.
    request.headers.remove(EXPECT);
    forwarded(&mut request.headers, client);
    let (merged, path) = match request.uri.path() {
        "*" if request.method == Method::OPTIONS => (None, None),
        text => {
            let normal = path::normal(text).map_err(|_| Refusal::bad_request("the path can be read in more than one way"))?;
            let changed = |path| if let Cow::Owned(path) = path { Some(path) } else { None };
            (changed(normal.merged), changed(normal.path))
        }
    };
    Ok(Canonical { upgrade, trailers, merged, path })
}

/// The library has taken one of two lengths already, or neither; what it lets through and others might read in another way is refused.
fn framing(request: &Parts) -> Result<(), Refusal> {
    let mut encodings = request.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(encoding) = encodings.next() else { return Ok(()) };
    if request.headers.contains_key(CONTENT_LENGTH) {
        return Err(Refusal::malformed("Content-Length and Transfer-Encoding exclude each other"));
    }
    if encodings.next().is_some() || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        let refusal = Refusal::malformed("no transfer coding but chunked is known");
        return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, ..refusal });
    }
    Ok(())
}

/// The authority of the URI, or Host; two of them must be the same.
fn host(request: &Parts, served: &Served) -> Result<HeaderValue, Refusal> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("there is more than one Host"));
    }
    let authority = request.uri.authority();
    if authority.is_some() && request.uri.scheme().is_none() {
        return Err(Refusal::malformed("the target is neither a path nor a URI"));
    }
    let fine = |text: &str| !text.is_empty() && !text.contains('@') && Authority::try_from(text).is_ok();
    match (authority, host) {
        (Some(authority), Some(host)) if request.version == Version::HTTP_2 && host != authority.as_str() => {
            Err(Refusal::malformed("Host and :authority differ"))
        }
        // The absolute form of HTTP/1.1 wins over Host, as the standard says.
        (Some(authority), _) if fine(authority.as_str()) => {
            HeaderValue::from_str(authority.as_str()).map_err(|_| Refusal::malformed("the authority is none"))
        }
        (None, Some(host)) if host.to_str().is_ok_and(fine) => Ok(host.clone()),
        (None, None) if request.version < Version::HTTP_11 => {
            let hostname = served.service.split_once('/').map_or("", |(_, hostname)| hostname);
            HeaderValue::from_str(hostname).map_err(|_| Refusal::malformed("there is no Host"))
        }
        (None, None) => Err(Refusal::malformed("there is no Host")),
        _ => Err(Refusal::malformed("the Host is none")),
    }
}

fn upgrade(request: &Parts) -> Option<HeaderValue> {
    let asked = request.version == Version::HTTP_11 && names(&request.headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    // An upgrade to HTTP/2 is one of this connection, and deprecated: the request is answered in HTTP/1.1, as the standard allows.
    request.headers.get(UPGRADE).filter(|value| asked && !tokens(value).any(|token| token == "h2c")).cloned()
}

/// What speaks of one connection only does not go over to the next.
pub(crate) fn take_off(headers: &mut HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = names(headers).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
        if named.iter().any(|name| [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)) {
            return Err(Refusal::malformed("Connection names what belongs to the message"));
        }
        for name in &named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in
        [&TE, &TRANSFER_ENCODING, &UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS, &PROXY_AUTHENTICATE, &PROXY_AUTHORIZATION]
    {
        headers.remove(name);
    }
    Ok(())
}

fn names(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers.get_all(CONNECTION).iter().flat_map(tokens)
}

/// Of a list; of TE without their weights.
fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let list = value.to_str().unwrap_or_default().split(',');
    list.map(|token| token.split(';').next().unwrap_or_default().trim())
}

/// The client's address is hidden behind the waypoint's otherwise.
fn forwarded(headers: &mut HeaderMap, client: &Client) {
    let mut chain = String::new();
    for earlier in headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()) {
        chain.push_str(earlier);
        chain.push_str(", ");
    }
    // Writing to a String cannot fail.
    let _ = write!(chain, "{}", client.address.ip());
    if let Ok(chain) = HeaderValue::from_str(&chain) {
        headers.insert(FORWARDED_FOR, chain);
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Puts on what the next connection needs. `path` instead of the request's, where it was changed.
pub(crate) fn for_backend(request: &mut Parts, path: Option<&str>, http2: bool, canonical: &Canonical) -> Result<(), Refusal> {
    let bad = || Refusal::bad_request("the path cannot be sent on");
    let path = match path {
        None => request.uri.path_and_query().cloned(),
        Some(path) => {
            let text = request.uri.query().map_or_else(|| Cow::Borrowed(path), |query| Cow::Owned(format!("{path}?{query}")));
            Some(PathAndQuery::try_from(&*text).map_err(|_| bad())?)
        }
    };
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if http2 {
        let host = request.headers.remove(HOST).ok_or_else(bad)?;
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| bad())?);
        if canonical.trailers {
            request.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        request.version = Version::HTTP_2;
    } else {
        if let Some(upgrade) = &canonical.upgrade {
            request.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers.insert(UPGRADE, upgrade.clone());
        }
        request.version = Version::HTTP_11;
    }
    request.uri = Uri::from_parts(uri).map_err(|_| bad())?;
    Ok(())
}

/// gRPC has a meaning in HTTP/2 alone, and errors of its own.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(http::header::CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes();
    kind.strip_prefix(b"application/grpc").is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';')))
}

/// Trailers are announced in HTTP/1.1 only.
pub(crate) fn response_for_client(headers: &mut HeaderMap, version: Version) {
    if version == Version::HTTP_2 {
        headers.remove(TRAILER);
    }
}
