//! WebSockets of HTTP/2 (RFC 8441): an extended CONNECT means what a GET means that wishes to upgrade, and its stream is what goes on.
use crate::record::Parties;
use crate::refusal::Refusal;
use crate::session::Upgraded;
use crate::{Flag, Upstream};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use tokio::task::spawn_local;

const WEBSOCKET: &str = "websocket";

/// The client's stream, once it was answered that it goes on.
pub(crate) struct Tunnel(OnUpgrade);

impl Tunnel {
    pub(crate) fn of(request: &mut Parts) -> Option<Self> {
        request.extensions.get::<Protocol>()?;
        request.extensions.remove::<OnUpgrade>().map(Self)
    }

    /// Carries it in a task of its own, for its connection has other streams.
    pub(crate) fn carry<U: Upstream>(self, parties: &Rc<Parties>, upgraded: Upgraded<U>) {
        let parties = Rc::clone(parties);
        spawn_local(async move {
            let mut carried = upgraded.held.carried(&parties);
            let Ok(client) = self.0.await else {
                carried.flag = Some(Flag::ClientGone);
                return;
            };
            upgraded.backend.carry(carried, TokioIo::new(client)).await;
        });
    }
}

/// The other way round, for a backend of HTTP/2.
pub(crate) fn ask(request: &mut Parts, protocol: &HeaderValue) -> Result<(), Refusal> {
    let protocol = protocol.to_str().map_err(|_| Refusal::bad_request("the protocol cannot be sent on"))?;
    request.method = Method::CONNECT;
    request.headers.remove(SEC_WEBSOCKET_KEY);
    request.extensions.insert(Protocol::from(protocol));
    Ok(())
}

/// Makes of a CONNECT with `:protocol` the request that it means, so that routes and policies see no other than of HTTP/1.1. Returns what it
/// wishes to go on with; None: it has none.
pub(crate) fn meant(request: &mut Parts) -> Result<Option<HeaderValue>, Refusal> {
    let Some(protocol) = request.extensions.remove::<Protocol>() else { return Ok(None) };
    if protocol.as_str() != WEBSOCKET {
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, Flag::ProtocolError, "of extended CONNECT only websocket is known"));
    }
    request.method = Method::GET;
    // In HTTP/2 there is none, and a server of HTTP/1.1 wants one. Whether the answer fits to it is of no use to anybody here.
    let key = STANDARD.encode(fastrand::u128(..).to_be_bytes());
    let key = HeaderValue::from_str(&key).map_err(|_| Refusal::bad_request("no key can be made"))?;
    request.headers.insert(SEC_WEBSOCKET_KEY, key);
    Ok(Some(HeaderValue::from_static(WEBSOCKET)))
}

/// What says 101 in HTTP/1.1.
pub(crate) fn answer<B>(response: &mut Response<B>) {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
}
