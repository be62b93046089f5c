//! The texts that CONNECT carries beside the authority: `baggage`, `forwarded`, `traceparent`. Pure, and bounded both ways.
use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue};

/// More than this of merged baggage is cut at the last whole item: it only labels metrics.
pub const BAGGAGE_BYTES: usize = 4096;
/// A host name is at most 253 characters long.
pub const HOST_BYTES: usize = 253;

/// What one side says about its workload. Empty = not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baggage {
    pub cluster: String,
    pub namespace: String,
    /// deployment | cronjob | pod | job; only with `workload_name`
    pub workload_type: String,
    pub workload_name: String,
    pub service_name: String,
    pub service_version: String,
    pub region: String,
    pub zone: String,
}

/// Where a connection really came from, and the service it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    pub source: SocketAddr,
    /// Only if the client addressed a service.
    pub host: Option<String>,
}

/// W3C trace context, version 00, not sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    pub trace: u128,
    pub span: u64,
}

const WORKLOAD_TYPES: [&str; 4] = ["deployment", "cronjob", "pod", "job"];

impl Baggage {
    /// Several header lines count as one list.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        merged(headers, "baggage").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// Unknown items and items without a value are passed over; of a doubled item the first counts. Values are not percent-decoded.
    pub fn parse(text: &str) -> Self {
        let mut baggage = Self::default();
        for item in text.split(',') {
            if let Some((key, value)) = item.split_once('=') {
                baggage.take(key.trim(), value.split(';').next().unwrap_or("").trim());
            }
        }
        baggage
    }

    fn take(&mut self, key: &str, value: &str) {
        let field = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service_name,
            "service.version" => &mut self.service_version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            _ => return self.take_workload(key, value),
        };
        if field.is_empty() {
            field.push_str(value);
        }
    }

    fn take_workload(&mut self, key: &str, value: &str) {
        let kind = key.strip_prefix("k8s.").and_then(|rest| rest.strip_suffix(".name"));
        if let Some(kind) = kind.filter(|kind| WORKLOAD_TYPES.contains(kind) && self.workload_name.is_empty() && !value.is_empty()) {
            self.workload_type = kind.into();
            self.workload_name = value.into();
        }
    }
}

impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = format!("k8s.{}.name", self.workload_type);
        let items = [
            ("k8s.cluster.name", &self.cluster),
            ("k8s.namespace.name", &self.namespace),
            (workload.as_str(), &self.workload_name),
            ("service.name", &self.service_name),
            ("service.version", &self.service_version),
            ("cloud.region", &self.region),
            ("cloud.availability_zone", &self.zone),
        ];
        let mut first = true;
        // A value that would break the list is left out rather than changed.
        for (key, value) in items.into_iter().filter(|(_, value)| !value.is_empty() && value.bytes().all(is_value)) {
            if !first {
                f.write_char(',')?;
            }
            first = false;
            write!(f, "{key}={value}")?;
        }
        Ok(())
    }
}

impl Forwarded {
    /// Only `host` is read: the source of a connection is proven by its certificate, never by a header.
    pub fn host_from_headers(headers: &HeaderMap) -> Option<String> {
        merged(headers, "forwarded").and_then(|text| Self::parse_host(&text).map(Into::into))
    }

    /// The first `host`, quoted or not.
    pub fn parse_host(text: &str) -> Option<&str> {
        let pairs = text.split([';', ',']).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.into_iter().find(|(key, _)| key.trim().eq_ignore_ascii_case("host"))?;
        let value = value.trim();
        let host = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'))?;
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*' | b':' | b'[' | b']');
        ((1..=HOST_BYTES).contains(&host.len()) && host.bytes().all(allowed)).then_some(host)
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "for=\"{}\"", self.source)?;
        self.host.as_ref().map_or(Ok(()), |host| write!(f, ";host={host}"))
    }
}

impl TraceParent {
    /// New per connection; all zero is not allowed by the standard.
    pub fn random() -> Self {
        Self { trace: fastrand::u128(1..), span: fastrand::u64(1..) }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (span, flags) = rest.split_once('-')?;
        if version != "00" || text.len() != 55 || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        let hex = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if ![trace, span, flags].into_iter().all(hex) {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-00", self.trace, self.span)
    }
}

/// All lines of a header as one list, cut at the last whole item before `BAGGAGE_BYTES`. None without a line of plain ASCII.
pub(crate) fn merged(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines: Vec<_> = headers.get_all(name).iter().filter_map(|line| line.to_str().ok()).collect();
    let mut text = lines.join(",");
    if text.len() > BAGGAGE_BYTES {
        text.truncate(BAGGAGE_BYTES);
        text.truncate(text.rfind(',').unwrap_or(0));
    }
    (!text.is_empty()).then_some(text)
}

/// Fit to be the value of a header.
pub(crate) fn is_writable(text: &str) -> bool {
    HeaderValue::from_str(text).is_ok()
}

fn is_value(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'"' | b'\\')
}
