//! The texts of CONNECT: each is read in one way only, and what was read and written again means the same.
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use trackbed_contract::Identity;
use trackbed_contract::tables::bounds;
use trackbed_decide::{Authority, Host};
use trackbed_hbone::headers::{Baggage, Forwarded, TraceParent};
use trackbed_hbone::testing::{Codec, Seen};

pub fn authority(data: &[u8]) {
    let carried = carry(data);
    let Ok(text) = std::str::from_utf8(data) else {
        assert_eq!(carried, None, "not even text");
        return;
    };
    if let Some(carried) = &carried {
        assert_eq!(carried, text);
        assert!(text.len() <= bounds::AUTHORITY_BYTES as usize && !text.contains(['@', ' ', '\0', '\r', '\n', '/']));
    }
    if let Ok(authority) = Authority::parse(text) {
        let printed = print(&authority);
        assert_eq!(Authority::parse(&printed).as_ref(), Ok(&authority), "{printed}");
        // Only IPv6 has several spellings of one address.
        assert!(printed == text || matches!(authority.host, Host::Ip(IpAddr::V6(_))), "{text:?} is {printed:?}");
        assert_eq!(carried.as_deref(), Some(text), "a tunnel does not carry what the decision takes");
        agrees_with_std(&authority, text);
        assert!(authority.port > 0 && !matches!(authority.host, Host::Ip(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some()));
    } else if let Ok(address) = text.parse::<SocketAddr>() {
        assert!(is_refused_for_a_reason(address, text), "{text:?} is refused");
    }
    texts(text);
    if let Ok(identity) = Identity::parse(text) {
        assert_eq!(identity.as_str(), text);
    }
}

fn print(Authority { host, port }: &Authority) -> String {
    match host {
        Host::Ip(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        Host::Ip(address) => format!("{address}:{port}"),
        Host::Name(name) => format!("{name}:{port}"),
    }
}

/// The standard library and the parser of URIs see the same host and port.
fn agrees_with_std(authority: &Authority, text: &str) {
    match &authority.host {
        Host::Ip(address) => assert_eq!(text.parse(), Ok(SocketAddr::new(*address, authority.port))),
        Host::Name(name) => {
            assert!(name.parse::<IpAddr>().is_err() && text.parse::<SocketAddr>().is_err());
            let uri: http::uri::Authority = text.parse().expect("a name and a port");
            assert_eq!((uri.host(), uri.port_u16()), (name.as_str(), Some(authority.port)));
        }
    }
}

/// Port 0 or written with zeros in front, IPv4 in IPv6, a zone.
fn is_refused_for_a_reason(address: SocketAddr, text: &str) -> bool {
    let port = text.rsplit(':').next().unwrap_or_default();
    let host = match address {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().is_some() || v6.scope_id() != 0 || text.contains('%'),
    };
    address.port() == 0 || port != address.port().to_string() || host
}

/// Header texts: what we print of what we read reads the same.
fn texts(text: &str) {
    let printed = Baggage::parse(text).to_string();
    assert_eq!(Baggage::parse(&printed).to_string(), printed);
    if let Some(host) = Forwarded::parse_host(text) {
        let printed = Forwarded { source: SocketAddr::from(([10, 0, 0, 1], 1)), host: Some(host.to_owned()) }.to_string();
        assert_eq!(Forwarded::parse_host(&printed), Some(host), "{printed}");
    }
    if let Some(trace) = TraceParent::parse(text) {
        assert_eq!(trace.to_string()[..53], text[..53]);
    }
}

/// What a server makes of a CONNECT with this authority: None when it is refused.
fn carry(authority: &[u8]) -> Option<String> {
    let mut block = vec![0x02, 7]; // :method, literal
    block.extend(b"CONNECT");
    block.push(0x01); // :authority, literal
    length(authority.len(), &mut block);
    block.extend(authority);
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend(&u32::try_from(block.len()).expect("short").to_be_bytes()[1..]);
    bytes.extend([1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    let now = Instant::now();
    let (mut codec, mut at) = (Codec::server(now), 0);
    let mut asked = None;
    loop {
        match codec.next(&bytes, &mut at, now) {
            Ok(Some(Seen::Asked { authority, .. })) => asked = Some(authority),
            Ok(Some(_)) => {}
            Ok(None) => return asked,
            Err(_) => return None, // larger than any list of headers
        }
    }
}

/// The length of a string without Huffman coding (RFC 7541, 5.1).
fn length(value: usize, out: &mut Vec<u8>) {
    let Some(mut rest) = value.checked_sub(127) else { return out.push(u8::try_from(value).expect("below 127")) };
    out.push(127);
    while rest >= 128 {
        out.push(u8::try_from(rest & 127).expect("seven bits") | 128);
        rest >>= 7;
    }
    out.push(u8::try_from(rest).expect("seven bits"));
}
