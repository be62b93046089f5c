//! The `:authority` of CONNECT, parsed strictly: `a.b.c.d:port`, `[v6]:port` or `host.name:port`, in one spelling each.
use std::net::IpAddr;

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
    #[error("is longer than 320 bytes")]
    Length,
    #[error("has no port")]
    NoPort,
    #[error("the port is not 1 to 65535 in plain decimal")]
    Port,
    #[error("the address in brackets is not an IPv6 address")]
    Ipv6,
    #[error("an IPv4 address is written as IPv6")]
    Mapped,
    #[error("the host is neither an address nor a lower-case DNS name without final dot")]
    Host,
}

impl Authority {
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        unimplemented!("{text}")
    }
}
