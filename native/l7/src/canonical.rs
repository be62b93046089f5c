//! One form for every request, whichever version of HTTP it came in: what is ambiguous is refused, what belongs to a connection is taken off.
use crate::Served;
use crate::extended;
use crate::refusal::Refusal;
use http::header::Entry;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};
use std::borrow::Cow;
use std::net::Ipv6Addr;
use trackbed_policy::path;

pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What of a request is not in its headers. Host is there, whatever the version; the path is that of [`path::normal`].
#[derive(Debug)]
pub(crate) struct Canonical {
    /// With what the client wishes to go on: "websocket". To a backend of HTTP/1.1 only.
    pub(crate) upgrade: Option<HeaderValue>,
    /// Where trailers are understood. gRPC servers insist on it.
    pub(crate) trailers: bool,
    /// And said as HTTP/1.1 wants it, which is where a backend of that version takes it from.
    trailers_named: bool,
    /// For matches, where it is not as the client sent it.
    merged: Option<String>,
    /// For the backend, where it is not as the client sent it.
    pub(crate) path: Option<String>,
}

impl Canonical {
    /// A copy for a mirror never upgrades.
    pub(crate) fn for_copy(&self) -> Self {
        Self { upgrade: None, trailers: self.trailers, trailers_named: self.trailers_named, merged: None, path: None }
    }

    /// What is matched.
    pub(crate) fn merged<'a>(&'a self, request: &'a Parts) -> &'a str {
        self.merged.as_deref().unwrap_or_else(|| request.uri.path())
    }
}

/// Leaves in `request` what goes on. `client`: its address.
pub(crate) fn canonical(request: &mut Parts, client: &HeaderValue, served: &Served) -> Result<Canonical, Refusal> {
    let tunnelled = extended::meant(request)?;
    if request.method == Method::CONNECT {
        let refusal = Refusal::malformed("CONNECT is not for waypoints");
        return Err(Refusal { status: StatusCode::METHOD_NOT_ALLOWED, ..refusal });
    }
    framing(request)?;
    if let Some(host) = host(request, served)? {
        request.headers.insert(HOST, host);
    }
    let upgrade = tunnelled.or_else(|| upgrade(request));
    let trailers = request.headers.get_all(TE).iter().any(|value| tokens(value).any(|token| token == "trailers"));
    let trailers_named =
        trailers && (request.version == Version::HTTP_2 || names(&request.headers).any(|name| name.eq_ignore_ascii_case("te")));
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
    Ok(Canonical { upgrade, trailers, trailers_named, merged, path })
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

/// The authority of the URI, or Host; two of them must be the same. None: Host is what it should be.
fn host(request: &Parts, served: &Served) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("there is more than one Host"));
    }
    let authority = request.uri.authority();
    if authority.is_some() && request.uri.scheme().is_none() {
        return Err(Refusal::malformed("the target is neither a path nor a URI"));
    }
    match (authority, host) {
        (Some(authority), Some(host)) if request.version == Version::HTTP_2 && host != authority.as_str() => {
            Err(Refusal::malformed("Host and :authority differ"))
        }
        // The absolute form of HTTP/1.1 wins over Host, as the standard says.
        (Some(authority), _) if is_host(authority.as_str()) => {
            HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| Refusal::malformed("the authority is none"))
        }
        (None, Some(host)) if host.to_str().is_ok_and(is_host) => Ok(None),
        (None, None) if request.version < Version::HTTP_11 => {
            let hostname = served.service.split_once('/').map_or("", |(_, hostname)| hostname);
            HeaderValue::from_str(hostname).map(Some).map_err(|_| Refusal::malformed("there is no Host"))
        }
        (None, None) => Err(Refusal::malformed("there is no Host")),
        _ => Err(Refusal::malformed("the Host is none")),
    }
}

/// A name or an address, and a port or none; no user, whom only attackers still send.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) if address.parse::<Ipv6Addr>().is_ok() => ("v6", ""),
        Some((address, port)) if port.starts_with(':') && address.parse::<Ipv6Addr>().is_ok() => ("v6", &port[1..]),
        Some(_) => return false,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    !host.is_empty() && host.bytes().all(named) && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn upgrade(request: &Parts) -> Option<HeaderValue> {
    let protocol = request.headers.get(UPGRADE)?;
    let asked = request.version == Version::HTTP_11 && names(&request.headers).any(|name| name.eq_ignore_ascii_case("upgrade"));
    // An upgrade to HTTP/2 is one of this connection, and deprecated: the request is answered in HTTP/1.1, as the standard allows.
    (asked && !tokens(protocol).any(|token| token == "h2c")).then(|| protocol.clone())
}

/// What speaks of one connection only does not go over to the next. One look at each name tells whether there is any of it, for as a rule there
/// is none or one.
pub(crate) fn take_off(headers: &mut HeaderMap) -> Result<(), Refusal> {
    // Other spellings of a loop over names are three times as long: this one looks at the length first.
    let of_connection = |name: &HeaderName| {
        matches!(
            name.as_str(),
            "connection"
                | "te"
                | "transfer-encoding"
                | "upgrade"
                | "keep-alive"
                | "proxy-connection"
                | "http2-settings"
                | "proxy-authenticate"
                | "proxy-authorization"
        )
    };
    if !headers.keys().any(of_connection) {
        return Ok(());
    }
    take_named(headers)?;
    let there: Vec<HeaderName> = headers.keys().filter(|name| of_connection(name)).cloned().collect();
    for name in there {
        headers.remove(name);
    }
    Ok(())
}

fn take_named(headers: &mut HeaderMap) -> Result<(), Refusal> {
    // What most of them say, and needs nothing done.
    let usual =
        |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive") || value.as_bytes().eq_ignore_ascii_case(b"close");
    if headers.get_all(CONNECTION).iter().all(usual) {
        return Ok(());
    }
    let named: Vec<HeaderName> = names(headers).filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect();
    if named.iter().any(|name| [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)) {
        return Err(Refusal::malformed("Connection names what belongs to the message"));
    }
    for name in &named {
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
fn forwarded(headers: &mut HeaderMap, client: &HeaderValue) {
    match headers.entry(FORWARDED_FOR) {
        Entry::Vacant(vacant) => drop(vacant.insert(client.clone())),
        Entry::Occupied(mut occupied) => {
            let mut chain = occupied.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
            chain.push(client.as_bytes());
            // Values with a separator between them are a value.
            occupied.insert(HeaderValue::from_bytes(&chain.join(&b", "[..])).unwrap_or_else(|_| client.clone()));
        }
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}

/// Puts on what the next connection needs. `path` instead of the request's, where it was changed.
pub(crate) fn for_backend(request: &mut Parts, path: Option<&str>, http2: bool, canonical: &Canonical) -> Result<(), Refusal> {
    let bad = || Refusal::bad_request("the path cannot be sent on");
    if !http2 {
        request.version = Version::HTTP_11;
        if let Some(upgrade) = &canonical.upgrade {
            request.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers.insert(UPGRADE, upgrade.clone());
        } else if canonical.trailers_named {
            // Of this connection, so that it is named there too; without it servers leave them out.
            request.headers.insert(CONNECTION, HeaderValue::from_static("te"));
            request.headers.insert(TE, HeaderValue::from_static("trailers"));
        }
        if path.is_none() && request.uri.authority().is_none() {
            // As it came.
            return Ok(());
        }
    }
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
        if let Some(protocol) = &canonical.upgrade {
            extended::ask(request, protocol)?;
        }
        request.version = Version::HTTP_2;
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

/// Trailers are announced in HTTP/1.1 only, and there they must be: those that no announcement names are left out. gRPC's are always the same.
pub(crate) fn response_for_client(headers: &mut HeaderMap, version: Version, grpc: bool) {
    if version == Version::HTTP_2 {
        headers.remove(TRAILER);
    } else if grpc && !headers.contains_key(TRAILER) {
        headers.insert(TRAILER, HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_none() {
        for (text, expected) in [
            ("cart", true),
            ("cart.shop.svc:8080", true),
            ("10.0.0.1:80", true),
            ("cart:", true),
            ("[2001:db8::1]", true),
            ("[2001:db8::1]:80", true),
            ("", false),
            (":80", false),
            ("user@cart", false),
            ("cart/x", false),
            ("cart, till", false),
            ("cart:80:90", false),
            ("cart:http", false),
            ("cart:123456", false),
            ("[2001:db8::1", false),
            ("[cart]:80", false),
            ("[::1]x80", false),
            ("[::1]80", false),
            ("a\u{e9}", false),
        ] {
            assert_eq!(is_host(text), expected, "{text}");
        }
    }
}
