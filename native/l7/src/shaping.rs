//! The filters of a rule and of its backend, applied to one request in their order.
use crate::canonical::Canonical;
use crate::cors::{Cors, Granted};
use crate::filter::{Filter, HeaderChange, Mirror, Target};
use http::header::{HOST, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};

/// What they changed beside the request's headers, and what is to be done later. Rules live as long as the request does.
#[derive(Default)]
pub(crate) struct Shaped<'a> {
    /// Instead of the request's.
    pub(crate) path: Option<String>,
    pub(crate) mirrors: Vec<&'a Mirror>,
    response: Vec<&'a HeaderChange>,
    cors: Option<Granted>,
}

/// An answer without a backend.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
}

impl<'a> Shaped<'a> {
    /// `prefix`: what the entry's path_prefix matched. `port`: the one that the client addressed.
    pub(crate) fn apply(
        &mut self,
        filters: &'a [Filter],
        request: &mut Parts,
        canonical: &Canonical,
        prefix: Option<&str>,
        port: u16,
    ) -> Option<Answered> {
        for filter in filters {
            match filter {
                Filter::RequestHeaders(change) => change.apply(&mut request.headers),
                Filter::ResponseHeaders(change) => self.response.push(change),
                Filter::Mirror(mirror) => self.mirrors.push(mirror),
                Filter::Cors(cors) if Cors::is_preflight(request) => {
                    return Some(Answered { status: StatusCode::OK, headers: cors.answer(&request.headers) });
                }
                Filter::Cors(cors) => self.cors = cors.grant(&request.headers),
                Filter::Redirect(redirect) => {
                    let target = Target { path: canonical.merged(request), query: request.uri.query(), prefix };
                    let location = redirect.location(target, host(&request.headers), port);
                    let mut headers = HeaderMap::new();
                    // The path, the host and the rule's texts are all of them fit for a header.
                    if let Ok(location) = HeaderValue::from_str(&location) {
                        headers.insert(LOCATION, location);
                    }
                    self.response(&mut headers);
                    return Some(Answered { status: redirect.status, headers });
                }
                Filter::Rewrite(rewrite) => {
                    let target = Target { path: canonical.merged(request), query: None, prefix };
                    if let Some(path) = rewrite.path(target) {
                        self.path = Some(path.into_owned());
                    }
                    if let Some(hostname) = &rewrite.hostname {
                        request.headers.insert(HOST, hostname.clone());
                    }
                }
            }
        }
        None
    }

    pub(crate) fn response(&self, headers: &mut HeaderMap) {
        for change in &self.response {
            change.apply(headers);
        }
        if let Some(granted) = &self.cors {
            granted.apply(headers);
        }
    }
}

/// Without the port.
fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
