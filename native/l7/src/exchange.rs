//! One request and its answer: which rule it belongs to, what the rule makes of it, and where it goes.
use crate::admission::Admission;
use crate::ahead::Ahead;
use crate::answer::{Answer, Stream};
use crate::authorize::{Admitted, authorize, denied};
use crate::backend::Backend;
use crate::canonical::{self, canonical, for_backend, is_grpc};
use crate::extended::{self, Tunnel};
use crate::left::Left;
use crate::limits::REPLAY_BYTES;
use crate::mirror::mirror;
use crate::onward::{Way, authorize_onward};
use crate::record::Record;
use crate::refusal::{Refusal, grpc_status};
use crate::restrain::restrain;
use crate::rule::HttpRule;
use crate::service::Rules;
use crate::session::{Held, Session, Upgraded};
use crate::shaping::{self, Shaped};
use crate::trace::Trace;
use crate::traffic::{About, Unusable};
use crate::tries::{Arrived, Errand, tries};
use crate::upload::Upload;
use crate::{Flag, Upstream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use tokio::select;
use tokio::time::Instant;
use trackbed_contract::route::Protocol;

/// How the answer came about.
enum Passed<U: Upstream> {
    /// None: the connection goes on without HTTP.
    Backend(Response<Option<Box<Stream<U>>>>),
    Here(shaping::Answered),
}

pub(crate) async fn exchange<U: Upstream>(session: Rc<Session<U>>, request: Request<Incoming>) -> Response<Answer<U>> {
    let (mut request, incoming) = request.into_parts();
    let tunnel = Tunnel::of(&mut request);
    let version = request.version;
    let asks = version != Version::HTTP_2 && request.headers.contains_key(UPGRADE);
    let mut record = Record::begin(Rc::clone(&session.parties), &request);
    let passed = pass(&session, request, incoming, tunnel, &mut record).await;
    if asks {
        session.upgrading.answered(session.upgraded.borrow().is_some());
    }
    match passed {
        Ok(Passed::Backend(response)) => {
            record.status = Some(response.status());
            record.grpc_status = if record.grpc { grpc_status(response.headers()) } else { None };
            let (mut head, stream) = response.into_parts();
            canonical::response_for_client(&mut head.headers, version, record.grpc);
            let answer = match stream {
                Some(stream) => Answer::of(stream, record),
                None => Answer::text("", record),
            };
            Response::from_parts(head, answer)
        }
        Ok(Passed::Here(answered)) => {
            record.status = Some(answered.status);
            let mut response = Response::new(Answer::text("", record));
            *response.status_mut() = answered.status;
            *response.headers_mut() = answered.headers;
            response
        }
        Err(refusal) => {
            record.flag(refusal.flag);
            let (mut response, code) = refusal.response(record.grpc);
            if refusal.close && version != Version::HTTP_2 {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            record.status = Some(response.status());
            record.grpc_status = code;
            let text = if code.is_some() { Cow::Borrowed("") } else { refusal.reason };
            response.map(|()| Answer::text(text, record))
        }
    }
}

async fn pass<U: Upstream>(
    session: &Rc<Session<U>>,
    mut request: Parts,
    incoming: Incoming,
    tunnel: Option<Tunnel>,
    record: &mut Record,
) -> Result<Passed<U>, Refusal> {
    let served = &session.parties.served;
    let port = session.port();
    let grpc = is_grpc(&request.headers);
    record.grpc = grpc || port.as_ref().is_some_and(|port| port.protocol == Protocol::Grpc);
    let port = port.ok_or(Refusal::unavailable(Flag::NoRoute, "nothing is known of the service any more"))?;
    let mut canonical = canonical(&mut request, &session.parties.address, served)?;
    record.authority = request.headers.get(HOST).cloned();
    record.trace = Some(Trace::of(&mut request.headers, |asked| session.parties.report.traces(asked)));
    let mut incoming = Ahead::new(incoming);
    let mut admitted = authorize(session, &mut request, &canonical, &mut incoming, record).await?;

    let (rule, prefix) = match port.rules(session.parties.client.namespace()) {
        None => (&port.own.http, None),
        Some(Rules::Http(rules)) => rules.find(&request, canonical.merged(&request)).ok_or(Refusal::new(
            StatusCode::NOT_FOUND,
            Flag::NoRoute,
            "no rule of the routes matches",
        ))?,
        Some(Rules::Tls(_) | Rules::Tcp(_)) => {
            return Err(Refusal::unavailable(Flag::NoRoute, "the routes of the service are not of HTTP any more"));
        }
    };
    record.rule = Some(Arc::clone(rule));
    let begun = Instant::from_std(record.begun());
    let scope = match session.context.table().scope(&served.service, served.port, rule.name.as_ref()) {
        Ok(scope) => scope.cloned(),
        Err(Unusable) => return Err(Refusal::unavailable(Flag::NoRoute, "what is in force for requests to the service is not known")),
    };
    if let Some(scope) = &scope {
        session.asked(scope.most_requests_per_connection);
        let about =
            About { client: &session.parties.client, request: &request, path: canonical.merged(&request), route: rule.name.as_ref() };
        restrain(&session.context, scope, &about, &incoming, record).await?;
    }

    let mut shaped = Shaped::default();
    if let Some(answered) = shaped.apply(&rule.filters, &mut request, &canonical, prefix, served.port) {
        return Ok(Passed::Here(answered));
    }
    let chosen = rule.backends.choose();
    let backend = chosen.ok_or(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Flag::NoBackend, "the rule has no backend"))?;
    record.backend = Some(Arc::clone(backend));
    if let Some(status) = backend.refuse {
        return Err(Refusal::new(status, Flag::NoBackend, "the rule's backend cannot be used"));
    }
    if let Some(answered) = shaped.apply(&backend.filters, &mut request, &canonical, prefix, served.port) {
        return Ok(Passed::Here(answered));
    }

    let path = shaped.path.as_deref().or(canonical.path.as_deref());
    if let Some(way) = Way::of(served, rule.name.as_ref(), &backend.key) {
        admitted = Box::pin(authorize_onward(session, way, (&mut request, path, &mut incoming), admitted, record)).await?;
    }

    let http2 = speaks_http2(backend.protocol, if tunnel.is_some() { Version::HTTP_11 } else { request.version }, grpc);
    // In HTTP/1.1 it may go unheard, as the standard says; an extended CONNECT is nothing else.
    canonical.upgrade = canonical.upgrade.filter(|_| !http2 || tunnel.is_some());
    let upload = (!incoming.is_end_stream()).then(|| {
        let keep = if rule.retry.is_some() { REPLAY_BYTES } else { 0 };
        Upload::new(incoming, keep, scope.as_ref().and_then(|scope| scope.most_body_bytes), Rc::clone(&record.request_bytes))
    });
    for copy in shaped.mirrors.iter().filter(|mirror| mirror.drawn()) {
        mirror(session, copy, &request, &canonical, path, (rule, admitted.as_ref()), upload.as_ref());
    }
    let table = session.context.table();
    let settings = table.backend(&backend.key.service, backend.key.port);
    let persistence =
        scope.as_ref().and_then(|scope| scope.persistence.as_ref()).or(settings.and_then(|settings| settings.persistence.as_ref()));
    let session_of = persistence.and_then(|persistence| persistence.session(&request.headers));
    let about = About { client: &session.parties.client, request: &request, path: canonical.merged(&request), route: rule.name.as_ref() };
    let (hash, cookie) = settings.map_or((None, None), |settings| settings.hash(&about));
    for_backend(&mut request, path, http2, &canonical)?;
    let errand = Errand { rule, backend, request, http2, upgrade: canonical.upgrade.is_some(), upload, begun, hash, session: session_of };
    let arrived = match &admitted {
        None => tries(session, errand, record).await?,
        Some(Admitted { admission, .. }) => {
            let arrived = select! {
                biased;
                refused = admission.until_cut() => return Err(denied(&refused)),
                arrived = tries(session, errand, record) => arrived?,
            };
            record.admission = Some(Rc::clone(admission));
            arrived
        }
    };
    record.answered();
    if let Some(pass) = record.pass.as_ref().filter(|_| !arrived.answered.response.status().is_server_error()) {
        pass.answered(Instant::now().into_std());
    }
    let session_is = arrived.endpoint.session();
    let wish = Wish::of(canonical.upgrade.is_some(), tunnel);
    let mut response = received(session, arrived, (rule, backend), wish, record.admission.as_ref())?;
    shaped.response(response.headers_mut());
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    if let Some(persistence) = persistence.filter(|_| session_of != Some(session_is)) {
        persistence.tell(session_is, response.headers_mut());
    }
    for change in admitted.iter().flat_map(|admitted| &admitted.answer) {
        change.apply(response.headers_mut());
    }
    Ok(Passed::Backend(response))
}

/// A gRPC request has no meaning in HTTP/1.1, whatever the backend's port is called.
pub(crate) fn speaks_http2(backend: Protocol, client: Version, grpc: bool) -> bool {
    match backend {
        Protocol::Http2 | Protocol::Grpc => true,
        Protocol::Http => grpc,
        Protocol::Unspecified | Protocol::Tcp | Protocol::Tls => client == Version::HTTP_2,
    }
}

/// What the client wishes to go on without HTTP.
enum Wish {
    None,
    /// All of it, in HTTP/1.1.
    Connection,
    Stream(Tunnel),
}

impl Wish {
    fn of(upgrade: bool, tunnel: Option<Tunnel>) -> Self {
        match (upgrade, tunnel) {
            (false, _) => Self::None,
            (true, None) => Self::Connection,
            (true, Some(tunnel)) => Self::Stream(tunnel),
        }
    }
}

/// Checks what the backend answered, and takes off what speaks of its connection.
fn received<U: Upstream>(
    session: &Session<U>,
    arrived: Arrived<U>,
    (rule, backend): (&Arc<HttpRule>, &Arc<Backend>),
    wish: Wish,
    admission: Option<&Rc<Admission>>,
) -> Result<Response<Option<Box<Stream<U>>>>, Refusal> {
    let Arrived { answered, endpoint, upload, deadline } = arrived;
    let (mut head, incoming) = answered.response.into_parts();
    if head.headers.contains_key(TRANSFER_ENCODING) && head.headers.contains_key(CONTENT_LENGTH) {
        return Err(broken("the backend's answer has two lengths"));
    }
    let switched = head.status == StatusCode::SWITCHING_PROTOCOLS || matches!(answered.left, Some(Left::Stream(..)));
    let protocol = if switched { head.headers.get(UPGRADE).cloned() } else { None };
    canonical::take_off(&mut head.headers).map_err(|_| broken("the backend's answer is malformed"))?;
    head.version = Version::default();
    if !switched {
        if matches!(wish, Wish::Stream(_)) && head.status.is_success() {
            return Err(broken("the backend did not switch to WebSocket"));
        }
        let stream = Stream::new(incoming, answered.lease, endpoint, upload, deadline);
        return Ok(Response::from_parts(head, Some(Box::new(stream))));
    }
    let unasked = || broken("the backend switched to a protocol that nobody asked for");
    let beyond = Held { rule: Arc::clone(rule), backend: Arc::clone(backend), endpoint, admission: admission.cloned() };
    let upgraded = Upgraded { backend: answered.left.ok_or_else(unasked)?, held: beyond };
    let mut response = Response::from_parts(head, None);
    match wish {
        Wish::None => return Err(unasked()),
        Wish::Connection => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().extend(protocol.map(|protocol| (UPGRADE, protocol)));
            *session.upgraded.borrow_mut() = Some(upgraded);
        }
        Wish::Stream(tunnel) => {
            extended::answer(&mut response);
            tunnel.carry(&session.parties, upgraded);
        }
    }
    Ok(response)
}

fn broken(reason: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, Flag::UpstreamProtocolError, reason)
}
