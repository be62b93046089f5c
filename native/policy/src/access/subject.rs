//! What a request, or a connection that is not HTTP, is to the policies of a waypoint.
use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;
use trackbed_contract::Identity;

use super::token::Token;

/// Addresses may be IPv4-mapped: they are compared in their canonical form.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Of the client, by its certificate.
    pub source: Option<&'a Identity>,
    pub source_ip: IpAddr,
    /// Of the client behind proxies that are trusted; the same as `source_ip` where none is. None: it cannot be told.
    pub remote_ip: Option<IpAddr>,
    /// What the client addressed; None where it addressed a name.
    pub destination_ip: Option<IpAddr>,
    pub destination_port: u16,
    /// Of the client's own TLS. None: not known, for nobody read it.
    pub server_name: Option<&'a str>,
    /// None: not HTTP.
    pub http: Option<Http<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub struct Http<'a> {
    pub host: &'a Host<'a>,
    pub method: &'a str,
    pub paths: &'a Paths<'a>,
    /// As they go on.
    pub headers: &'a HeaderMap,
    /// Of a request without one: None.
    pub token: Option<&'a Token>,
}

/// Of a request, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    pub(crate) whole: Cow<'a, str>,
    /// Where the port begins.
    name: usize,
}

impl<'a> Host<'a> {
    pub fn of(host: &'a str) -> Self {
        let whole = if host.bytes().any(|byte| byte.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { Cow::Borrowed(host) };
        let name = match whole.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.len(),
            _ => whole.len(),
        };
        // The root's dot names the same host.
        let name = whole[..name].strip_suffix('.').map_or(name, str::len);
        Self { whole, name }
    }

    /// Without port.
    pub(crate) fn name(&self) -> &str {
        &self.whole[..self.name]
    }
}

/// The readings of a path: servers differ in what they decode, merge and cut off, and whichever stands behind the waypoint must not see another path than
/// its policies did. Patterns are read in the same ways, and compared reading by reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths<'a> {
    raw: Cow<'a, str>,
    /// Where it can be read in more than one way: without empty segments; decoded as well; and without parameters as well.
    others: Option<Box<[String; 3]>>,
}

impl<'a> Paths<'a> {
    pub(crate) const READINGS: usize = 4;

    /// `path`: in the normal form of [`crate::path::normal`], as it goes to the backend.
    pub fn of(path: impl Into<Cow<'a, str>>) -> Self {
        let raw = path.into();
        let others = (!is_plain(raw.as_bytes())).then(|| {
            // Who takes a backslash for a slash does so after decoding.
            let decoded = merge(&percent_decoded(&raw).replace('\\', "/"));
            let cut = merge(&without_parameters(&decoded));
            Box::new([merge(&raw), decoded, cut])
        });
        Self { raw, others }
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.others.is_none()
    }

    /// Below [`Self::READINGS`]; 0 is the path as it is.
    pub(crate) fn reading(&self, number: usize) -> &str {
        match (&self.others, number.checked_sub(1)) {
            (Some(others), Some(other)) => others.get(other).unwrap_or(&others[2]),
            _ => &self.raw,
        }
    }
}

/// Most paths are, and cost one look at each byte.
fn is_plain(path: &[u8]) -> bool {
    let mut slash = false;
    path.iter().all(|&byte| {
        let plain = !(matches!(byte, b'%' | b';' | b'\\') || (slash && byte == b'/'));
        slash = byte == b'/';
        plain
    })
}

fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

fn percent_decoded(path: &str) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if let (b'%', Some(high), Some(low)) = (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            decoded.push(high << 4 | low);
            at += 3;
        } else {
            decoded.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// As servlet containers have it: ";v=1" at the end of a segment is no part of its name.
fn without_parameters(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_a_reading_for_each_way_in_which_servers_read_it() {
        for (path, expected) in [
            ("/", ["/"; 4]),
            ("/a/b", ["/a/b"; 4]),
            ("/a//b", ["/a//b", "/a/b", "/a/b", "/a/b"]),
            ("/a%2Fb", ["/a%2Fb", "/a%2Fb", "/a/b", "/a/b"]),
            ("/a%20b", ["/a%20b", "/a%20b", "/a b", "/a b"]),
            ("/a%5Cb", ["/a%5Cb", "/a%5Cb", "/a/b", "/a/b"]),
            ("/a;v=1/b", ["/a;v=1/b", "/a;v=1/b", "/a;v=1/b", "/a/b"]),
            ("/a%3Bv/b", ["/a%3Bv/b", "/a%3Bv/b", "/a;v/b", "/a/b"]),
            ("/a/%2Fb;c", ["/a/%2Fb;c", "/a/%2Fb;c", "/a/b;c", "/a/b"]),
            ("*", ["*"; 4]),
        ] {
            let paths = Paths::of(path);
            assert_eq!(std::array::from_fn(|number| paths.reading(number)), expected, "{path}");
        }
    }

    #[test]
    fn a_host_is_known_with_its_port_and_without() {
        for (host, whole, name) in [
            ("Shop.Example", "shop.example", "shop.example"),
            ("shop.example:80", "shop.example:80", "shop.example"),
            ("shop.example.", "shop.example.", "shop.example"),
            ("shop.example.:80", "shop.example.:80", "shop.example"),
            ("[::1]", "[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80", "[::1]"),
        ] {
            let host = Host::of(host);
            assert_eq!((&*host.whole, host.name()), (whole, name));
        }
    }
}
