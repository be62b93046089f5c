//! The `:authority` of CONNECT, parsed strictly: `a.b.c.d:port`, `[v6]:port` or `host.name:port`, in one spelling each.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use trackbed_contract::tables::bounds;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    pub host: Host,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    Ip(IpAddr),
    Name(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("is longer than {} bytes", bounds::AUTHORITY_BYTES)]
    Length,
    #[error("has no port")]
    NoPort,
    #[error("the port is not 1 to 65535 in plain decimal")]
    Port,
    #[error("the address in brackets is not an IPv6 address without zone")]
    Ipv6,
    #[error("an IPv4 address is written as IPv6")]
    Mapped,
    #[error("the host is neither an address nor a lower-case DNS name without final dot")]
    Host,
}

impl Authority {
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if text.len() > bounds::AUTHORITY_BYTES as usize {
            return Err(AuthorityError::Length);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => Host::Ip(IpAddr::V6(ipv6(bracketed)?)),
            // An unbracketed IPv6 address keeps a colon here and fails as a name.
            None => match host.parse::<Ipv4Addr>() {
                Ok(v4) => Host::Ip(IpAddr::V4(v4)),
                Err(_) if is_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(AuthorityError::Host),
            },
        };
        Ok(Self { host, port: parse_port(port)? })
    }
}

fn ipv6(bracketed: &str) -> Result<Ipv6Addr, AuthorityError> {
    let address: Ipv6Addr = bracketed.strip_suffix(']').and_then(|text| text.parse().ok()).ok_or(AuthorityError::Ipv6)?;
    if address.to_ipv4_mapped().is_some() { Err(AuthorityError::Mapped) } else { Ok(address) }
}

/// No sign, no leading zero, not 0.
fn parse_port(text: &str) -> Result<u16, AuthorityError> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().map_err(|_| AuthorityError::Port) } else { Err(AuthorityError::Port) }
}

/// DNS-1123 subdomain whose last label is not a number: `127.1`, `0x7f.1` and `2130706433` are addresses to some resolvers.
fn is_name(host: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label =
        |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-');
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(label) && !last.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_accepted() {
        let ip = |text: &str| Host::Ip(text.parse().expect("address"));
        let name = |text: &str| Host::Name(text.to_owned());
        for (text, host, port) in [
            ("10.0.0.1:80", ip("10.0.0.1"), 80),
            ("[fd00::1]:65535", ip("fd00::1"), 65_535),
            ("web.shop.svc.cluster.local:8080", name("web.shop.svc.cluster.local"), 8080),
            ("localhost:1", name("localhost"), 1),
        ] {
            assert_eq!(Authority::parse(text), Ok(Authority { host, port }), "{text}");
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        use AuthorityError::{Host, Ipv6, Length, Mapped, NoPort, Port};
        let long = format!("{}:80", "a".repeat(320));
        let long_name = format!("{}a:80", "a.".repeat(127));
        for (text, error) in [
            ("", NoPort),
            ("10.0.0.1", NoPort),
            (":80", Host),
            ("10.0.0.1:", Port),
            ("10.0.0.1:0", Port),
            ("10.0.0.1:080", Port),
            ("10.0.0.1:+80", Port),
            ("10.0.0.1:-1", Port),
            ("10.0.0.1:65536", Port),
            ("10.0.0.1:80 ", Port),
            ("10.0.0.1:٨٠", Port),
            ("10.0.0.1:80:80", Host),
            (" 10.0.0.1:80", Host),
            ("010.0.0.1:80", Host),
            ("127.1:80", Host),
            ("0x7f.0.0.1:80", Host),
            ("2130706433:80", Host),
            ("10.0.0.1.:80", Host),
            ("[10.0.0.1]:80", Ipv6),
            ("[::1:80", Ipv6),
            ("[]:80", Ipv6),
            ("[fe80::1%eth0]:80", Ipv6),
            ("[::ffff:10.0.0.1]:80", Mapped),
            ("[::ffff:a00:1]:80", Mapped),
            ("fd00::1:80", Host),
            ("::1:80", Host),
            ("web.shop.:80", Host),
            (".web:80", Host),
            ("web..shop:80", Host),
            ("Web.shop:80", Host),
            ("web_1:80", Host),
            ("-web:80", Host),
            ("web-.shop:80", Host),
            ("web\0.shop:80", Host),
            ("wéb:80", Host),
            ("user@web:80", Host),
            ("http://web:80", Host),
            ("web:80/path", Port),
            ("*.shop:80", Host),
            (&long, Length),
            (&long_name, Host),
        ] {
            assert_eq!(Authority::parse(text), Err(error), "{text:?}");
        }
    }
}
