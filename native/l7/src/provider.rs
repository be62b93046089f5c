//! External authorization services, as control describes them.
use crate::BackendKey;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::service::{port_number, service_name};
use crate::token_place::header_name;
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use trackbed_contract::authorization as wire;
use trackbed_contract::authorization::provider::Protocol;
use trackbed_contract::authorization::text::Kind;

/// Without a word from the provider's configuration: people wait no longer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Of a request's body that may go along; it is held in memory.
const MOST_BODY: u32 = 1024 * 1024;

#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) name: Arc<str>,
    pub(crate) backend: BackendKey,
    pub(crate) timeout: Duration,
    pub(crate) fail_open: bool,
    pub(crate) status_on_error: StatusCode,
    pub(crate) body: Option<WithBody>,
    pub(crate) asked: Asked,
}

/// How much of a request's body goes along.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WithBody {
    pub(crate) most: usize,
    pub(crate) partial: bool,
    pub(crate) as_bytes: bool,
}

#[derive(Debug)]
pub(crate) enum Asked {
    Grpc,
    Http(Box<ByHttp>),
}

#[derive(Debug)]
pub(crate) struct ByHttp {
    pub(crate) path_prefix: String,
    pub(crate) headers: Names,
    pub(crate) additional: Box<[(HeaderName, HeaderValue)]>,
    pub(crate) to_upstream: Names,
    pub(crate) to_downstream: Names,
    /// None: all.
    pub(crate) to_downstream_on_deny: Option<Names>,
}

/// Patterns of headers' names.
#[derive(Debug, Default)]
pub(crate) struct Names(Box<[Name]>);

#[derive(Debug)]
enum Name {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Any,
}

impl Provider {
    pub(crate) fn parse(from: &wire::Provider) -> Parsed<Self> {
        if from.name.is_empty() {
            return Err(Invalid::because("is empty")).at("name");
        }
        let timeout = Duration::from_millis(from.timeout_milliseconds.into());
        let status = if from.status_on_error == 0 { Some(403) } else { u16::try_from(from.status_on_error).ok() };
        let status = status.and_then(|status| StatusCode::from_u16(status).ok()).filter(|status| status.as_u16() >= 400);
        let asked = match set("protocol", from.protocol.as_ref())? {
            Protocol::Grpc(wire::GrpcCheck {}) => Asked::Grpc,
            Protocol::Http(http) => Asked::Http(Box::new(ByHttp::parse(http).at("http")?)),
        };
        Ok(Self {
            name: from.name.as_str().into(),
            backend: BackendKey { service: service_name(&from.service).at("service")?, port: port_number(from.port).at("port")? },
            timeout: if timeout.is_zero() { DEFAULT_TIMEOUT } else { timeout },
            fail_open: from.fail_open,
            status_on_error: status.ok_or_else(|| Invalid::because("is not the status of an error")).at("status_on_error")?,
            body: from.body.map(WithBody::parse).transpose().at("body")?,
            asked,
        })
    }
}

impl WithBody {
    fn parse(from: wire::CheckBody) -> Parsed<Self> {
        let most = Some(from.maximum_bytes).filter(|most| (1..=MOST_BODY).contains(most)).and_then(|most| usize::try_from(most).ok());
        let most = most.ok_or_else(|| Invalid::because(format!("is not 1 to {MOST_BODY}"))).at("maximum_bytes")?;
        Ok(Self { most, partial: from.partial, as_bytes: from.as_bytes })
    }
}

impl ByHttp {
    fn parse(from: &wire::HttpCheck) -> Parsed<Self> {
        if !(from.path_prefix.is_empty() || from.path_prefix.starts_with('/')) || from.path_prefix.contains(['?', '#']) {
            return Err(Invalid::because("is not the beginning of a path")).at("path_prefix");
        }
        let header = |header: &wire::CheckHeader| {
            let value = HeaderValue::from_str(&header.value).map_err(|_| Invalid::because("is not the value of a header")).at("value")?;
            Ok((header_name(&header.name).at("name")?, value))
        };
        let on_deny = from.to_downstream_on_deny.as_ref();
        Ok(Self {
            path_prefix: from.path_prefix.trim_end_matches('/').to_owned(),
            headers: Names::parse(from.headers.as_ref()).at("headers")?,
            additional: each("additional_headers", &from.additional_headers, header)?,
            to_upstream: Names::parse(from.to_upstream_on_allow.as_ref()).at("to_upstream_on_allow")?,
            to_downstream: Names::parse(from.to_downstream_on_allow.as_ref()).at("to_downstream_on_allow")?,
            to_downstream_on_deny: on_deny.map(|names| Names::parse(Some(names))).transpose().at("to_downstream_on_deny")?,
        })
    }
}

impl Names {
    fn parse(from: Option<&wire::Texts>) -> Parsed<Self> {
        let Some(wire::Texts { any, none }) = from else { return Ok(Self::default()) };
        if !none.is_empty() {
            return Err(Invalid::because("is not for names of headers")).at("none");
        }
        let name = |text: &wire::Text| match set("kind", text.kind.as_ref())? {
            Kind::Exact(text) => Ok(Name::Exact(text.to_lowercase())),
            Kind::Prefix(text) => Ok(Name::Prefix(text.to_lowercase())),
            Kind::Suffix(text) => Ok(Name::Suffix(text.to_lowercase())),
            Kind::Presence(true) => Ok(Name::Any),
            Kind::Presence(false) | Kind::Template(_) => Err(Invalid::because("is not for names of headers")),
        };
        Ok(Self(each("any", any, name)?))
    }

    pub(crate) fn has(&self, name: &HeaderName) -> bool {
        let name = name.as_str();
        self.0.iter().any(|one| match one {
            Name::Exact(text) => name == text,
            Name::Prefix(text) => name.starts_with(text.as_str()),
            Name::Suffix(text) => name.ends_with(text.as_str()),
            Name::Any => true,
        })
    }
}
