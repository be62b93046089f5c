//! The words of external authorization: what is asked about a request, and what the answer makes of it. Envoy's ext_authz v3 over gRPC, and its HTTP flavour.
use crate::admission::Destination;
use crate::ahead::Beginning;
use crate::client::Client;
use crate::provider::{ByHttp, WithBody};
use crate::token_place::parameters;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, TE, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use prost::Message;
use std::fmt::Write;
use trackbed_contract::Identity;
use trackbed_contract::ext_authz::attribute_context::{HttpRequest, Peer, Request as AskedRequest};
use trackbed_contract::ext_authz::check_response::HttpResponse;
use trackbed_contract::ext_authz::{
    Address, AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValueOption, OkHttpResponse,
    SocketAddress,
};

const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// A request as it would go on, and as much of its body as goes along.
pub(crate) struct Question<'a> {
    pub(crate) client: &'a Client,
    pub(crate) destination: Destination<'a>,
    pub(crate) request: &'a Parts,
    /// In its normal form.
    pub(crate) path: &'a str,
    /// None: it has none, or none goes along.
    pub(crate) body: Option<(WithBody, Beginning)>,
    /// It has no body.
    pub(crate) empty: bool,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Admitted(Box<Changes>),
    Denied(Box<Response<Bytes>>),
}

/// What an answer that admits makes of the request, and of its answer.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    request: Vec<Change>,
    remove: Vec<HeaderName>,
    set_parameters: Vec<(String, String)>,
    remove_parameters: Vec<String>,
    pub(crate) response: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(crate) struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: HeaderAppendAction,
}

/// It is not as the protocol says, or says what nobody may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer of external authorization is not usable: {0}")]
pub(crate) struct Unusable(pub(crate) &'static str);

impl Question<'_> {
    fn path_and_query(&self) -> String {
        self.request.uri.query().map_or_else(|| self.path.to_owned(), |query| format!("{}?{query}", self.path))
    }

    fn version(&self) -> &'static str {
        if self.request.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }
    }

    /// Framed for gRPC, with the head of its call.
    pub(crate) fn by_grpc(&self, authority: &str) -> Option<Request<Bytes>> {
        let message = self.attributes();
        let mut body = BytesMut::with_capacity(message.encoded_len() + 5);
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).ok()?);
        message.encode(&mut body).ok()?;
        let uri =
            Uri::builder().scheme("http").authority(authority).path_and_query("/envoy.service.auth.v3.Authorization/Check").build().ok()?;
        let request = Request::post(uri).version(Version::HTTP_2).header(CONTENT_TYPE, "application/grpc").header(TE, "trailers");
        request.body(body.freeze()).ok()
    }

    fn attributes(&self) -> CheckRequest {
        let Self { client, destination, request, .. } = self;
        let host = text(&request.headers, HOST);
        let mut headers = std::collections::HashMap::new();
        for name in request.headers.keys().filter(|name| **name != HOST) {
            let values: Vec<_> = request.headers.get_all(name).iter().map(|value| readable(value.as_bytes())).collect();
            // HTTP/2 may cut what is one cookie in HTTP/1.1 into several.
            let cut = *name == COOKIE && request.version == Version::HTTP_2;
            headers.insert(name.as_str().to_owned(), values.join(if cut { "; " } else { "," }));
        }
        let path = self.path_and_query();
        for (name, value) in [(":method", request.method.as_str()), (":path", &path), (":authority", host), (":scheme", "http")] {
            headers.insert(name.to_owned(), value.to_owned());
        }
        let (mut body, mut raw_body) = (String::new(), Vec::new());
        if let Some((with, Beginning { bytes, whole })) = &self.body {
            headers.insert(PARTIAL.as_str().to_owned(), (!whole).to_string());
            if with.as_bytes { raw_body = bytes.to_vec() } else { body = readable(bytes) }
        }
        let http = HttpRequest {
            id: text(&request.headers, HeaderName::from_static("x-request-id")).to_owned(),
            method: request.method.to_string(),
            host: host.to_owned(),
            scheme: "http".to_owned(),
            size: self.size(),
            protocol: self.version().to_owned(),
            headers,
            path,
            body,
            raw_body,
            ..HttpRequest::default()
        };
        let source = Peer {
            address: Some(address(client.address.ip().to_canonical().to_string(), client.address.port())),
            principal: client.identity.as_ref().map(|identity| identity.as_str().to_owned()).unwrap_or_default(),
            service: client.identity.as_ref().map(Identity::service_account).unwrap_or_default().to_owned(),
            ..Peer::default()
        };
        let addressed = destination.ip.map(|ip| address(ip.to_canonical().to_string(), destination.port));
        let destination = Peer { address: addressed, service: destination.service.to_owned(), ..Peer::default() };
        let asked = AskedRequest { time: Some(std::time::SystemTime::now().into()), http: Some(http) };
        let attributes =
            AttributeContext { source: Some(source), destination: Some(destination), request: Some(asked), ..AttributeContext::default() };
        CheckRequest { attributes: Some(attributes) }
    }

    /// -1: not known.
    fn size(&self) -> i64 {
        let told = self.request.headers.get(CONTENT_LENGTH).and_then(|size| size.to_str().ok()?.parse().ok());
        let read = || match &self.body {
            None => self.empty.then_some(0),
            Some((_, beginning)) => beginning.whole.then(|| i64::try_from(beginning.bytes.len()).ok())?,
        };
        told.or_else(read).unwrap_or(-1)
    }

    /// A request of the same kind, without what only the backend should hear.
    pub(crate) fn by_http(&self, http: &ByHttp) -> Option<Request<Bytes>> {
        let path = PathAndQuery::try_from(format!("{}{}", http.path_prefix, self.path_and_query())).ok()?;
        let body = self.body.as_ref().map(|(_, beginning)| beginning.bytes.clone()).unwrap_or_default();
        let mut request = Request::builder().method(self.request.method.clone()).uri(Uri::from(path)).body(body).ok()?;
        let goes = |name: &HeaderName| name == HOST || name == AUTHORIZATION || http.headers.has(name);
        for (name, value) in self.request.headers.iter().filter(|(name, _)| goes(name) && !is_framing(name)) {
            request.headers_mut().append(name, value.clone());
        }
        for (name, value) in &http.additional {
            request.headers_mut().insert(name, value.clone());
        }
        if let Some((_, beginning)) = &self.body {
            request.headers_mut().insert(PARTIAL, HeaderValue::from_static(if beginning.whole { "false" } else { "true" }));
        }
        let length = request.body().len();
        if length > 0 || ![Method::GET, Method::HEAD].contains(request.method()) {
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(request)
    }
}

impl Answer {
    /// `status`: of gRPC; `body`: the one message, framed.
    pub(crate) fn of_grpc(status: Option<u16>, mut body: &[u8]) -> Result<Self, Unusable> {
        if status != Some(0) {
            return Err(Unusable("its call failed"));
        }
        let (head, message) = body.split_first_chunk::<5>().ok_or(Unusable("it is cut off"))?;
        body = message;
        if head[0] != 0 || usize::try_from(u32::from_be_bytes([head[1], head[2], head[3], head[4]])) != Ok(body.len()) {
            return Err(Unusable("it is not one message"));
        }
        let response = CheckResponse::decode(body).map_err(|_| Unusable("it is no CheckResponse"))?;
        let admits = response.status.ok_or(Unusable("it has no status"))?.code == 0;
        match (admits, response.http_response) {
            (true, None) => Ok(Self::Admitted(Box::default())),
            (true, Some(HttpResponse::OkResponse(ok))) => Ok(Self::Admitted(Box::new(Changes::of(&ok)?))),
            (false, Some(HttpResponse::DeniedResponse(denied))) => Ok(Self::Denied(Box::new(denial(&denied)?))),
            (false, None) => Ok(Self::Denied(Box::new(denial(&DeniedHttpResponse::default())?))),
            (true, Some(HttpResponse::DeniedResponse(_))) | (false, Some(HttpResponse::OkResponse(_))) => {
                Err(Unusable("it admits and denies"))
            }
        }
    }

    pub(crate) fn of_http(response: Response<Bytes>, http: &ByHttp) -> Result<Self, Unusable> {
        let status = response.status();
        if status.is_server_error() {
            return Err(Unusable("its status is an error of the server"));
        }
        let change = |(name, value): (&HeaderName, &HeaderValue), how| Change { name: name.clone(), value: value.clone(), how };
        let headers = || response.headers().iter().filter(|(name, _)| !is_framing(name) && *name != HOST);
        if status == StatusCode::OK {
            let mut changes = Changes::default();
            let mut seen: Vec<&HeaderName> = Vec::new();
            for header in headers().filter(|(name, _)| http.to_upstream.has(name)) {
                // The first of a name replaces what the client sent, the others stand beside it.
                let how = if seen.contains(&header.0) {
                    HeaderAppendAction::AppendIfExistsOrAdd
                } else {
                    HeaderAppendAction::OverwriteIfExistsOrAdd
                };
                seen.push(header.0);
                changes.request.push(change(header, how));
            }
            let to_client = headers().filter(|(name, _)| http.to_downstream.has(name));
            changes.response = to_client.map(|header| change(header, HeaderAppendAction::AppendIfExistsOrAdd)).collect();
            return Ok(Self::Admitted(Box::new(changes)));
        }
        let goes = |name: &HeaderName| name == CONTENT_TYPE || http.to_downstream_on_deny.as_ref().is_none_or(|names| names.has(name));
        let kept: HeaderMap = headers().filter(|(name, _)| goes(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut denied = Response::new(response.into_body());
        *denied.status_mut() = if status.is_success() { StatusCode::FORBIDDEN } else { status };
        *denied.headers_mut() = kept;
        Ok(Self::Denied(Box::new(denied)))
    }
}

impl Changes {
    fn of(ok: &OkHttpResponse) -> Result<Self, Unusable> {
        let OkHttpResponse { headers, headers_to_remove, response_headers_to_add, query_parameters_to_set, query_parameters_to_remove } =
            ok;
        let remove = headers_to_remove.iter().map(|name| changeable(name)).collect::<Result<_, _>>()?;
        Ok(Self {
            request: headers
                .iter()
                .map(|option| Change::of(option, HeaderAppendAction::OverwriteIfExistsOrAdd))
                .collect::<Result<_, _>>()?,
            remove,
            set_parameters: query_parameters_to_set.iter().map(|one| (one.key.clone(), one.value.clone())).collect(),
            remove_parameters: query_parameters_to_remove.clone(),
            response: response_headers_to_add
                .iter()
                .map(|option| {
                    let how =
                        HeaderAppendAction::try_from(option.append_action).map_err(|_| Unusable("it has an unknown append_action"))?;
                    Change::of(option, how)
                })
                .collect::<Result<_, _>>()?,
        })
    }

    pub(crate) fn apply(&self, request: &mut Parts) -> Result<(), Unusable> {
        for change in &self.request {
            change.apply(&mut request.headers);
        }
        for name in &self.remove {
            request.headers.remove(name);
        }
        if self.set_parameters.is_empty() && self.remove_parameters.is_empty() {
            return Ok(());
        }
        let gone =
            |key: &str| self.remove_parameters.iter().any(|name| name == key) || self.set_parameters.iter().any(|(name, _)| name == key);
        let query = request.uri.query().into_iter().flat_map(parameters);
        let mut pairs: Vec<String> = query.filter(|(_, key, _)| !gone(key)).map(|(whole, ..)| whole.to_owned()).collect();
        pairs.extend(self.set_parameters.iter().map(|(key, value)| format!("{}={}", encoded(key), encoded(value))));
        let path = request.uri.path();
        let text = if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) };
        let bad = Unusable("its parameters make no URI");
        let path = PathAndQuery::try_from(text).map_err(|_| bad)?;
        let mut parts = std::mem::take(&mut request.uri).into_parts();
        parts.path_and_query = Some(path);
        request.uri = Uri::from_parts(parts).map_err(|_| bad)?;
        Ok(())
    }
}

impl Change {
    fn of(option: &HeaderValueOption, default: HeaderAppendAction) -> Result<Self, Unusable> {
        let header = option.header.as_ref().ok_or(Unusable("it has a header without a name"))?;
        let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        let value = HeaderValue::from_bytes(bytes).map_err(|_| Unusable("it has a header whose value is none"))?;
        let how = match option.append {
            Some(true) => HeaderAppendAction::AppendIfExistsOrAdd,
            Some(false) => HeaderAppendAction::OverwriteIfExistsOrAdd,
            None => default,
        };
        Ok(Self { name: changeable(&header.key)?, value, how })
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        let there = headers.contains_key(&self.name);
        match self.how {
            HeaderAppendAction::AppendIfExistsOrAdd => drop(headers.append(&self.name, self.value.clone())),
            HeaderAppendAction::AddIfAbsent if there => {}
            HeaderAppendAction::OverwriteIfExists if !there => {}
            HeaderAppendAction::AddIfAbsent | HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd => {
                headers.insert(&self.name, self.value.clone());
            }
        }
    }
}

/// As Envoy writes down what is no text: servers compare it.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

fn denial(denied: &DeniedHttpResponse) -> Result<Response<Bytes>, Unusable> {
    let code = denied.status.as_ref().map_or(403, |status| status.code);
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    // A success or a mere piece of news cannot be a refusal.
    let status = status.filter(|status| status.as_u16() >= 300).ok_or(Unusable("it denies with a status that does not"))?;
    let mut response = Response::new(Bytes::from(denied.body.clone()));
    *response.status_mut() = status;
    for option in &denied.headers {
        Change::of(option, HeaderAppendAction::OverwriteIfExistsOrAdd)?.apply(response.headers_mut());
    }
    Ok(response)
}

/// Neither what routes and policies were looked up by, nor what cuts messages out of a connection.
fn changeable(name: &str) -> Result<HeaderName, Unusable> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unusable("it has a header whose name is none"))?;
    if name == HOST || is_framing(&name) { Err(Unusable("it changes a header that is not its own")) } else { Ok(name) }
}

fn is_framing(name: &HeaderName) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING, TE].contains(name)
        || matches!(name.as_str(), "connection" | "upgrade" | "keep-alive" | "proxy-connection" | "http2-settings" | "trailer" | "expect")
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn address(address: String, port: u16) -> Address {
    Address { socket_address: Some(SocketAddress { address, port_value: port.into() }) }
}
