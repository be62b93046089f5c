//! One try of a request at one endpoint: a connection from the pool or a new one, then the request and the head of its answer.
use crate::balancing::Chosen;
use crate::left::Left;
use crate::link::{Http1, Http2, Terms, http2_over};
use crate::pool::{Key, Place, Pool};
use crate::traffic::Open;
use crate::upload::Outgoing;
use crate::{ConnectError, Upstream};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use trackbed_contract::tables::errors;

/// A connection that a request can be sent on.
pub(crate) struct Ready<Io: 'static> {
    sender: Sender<Io>,
    /// Others used it before; the endpoint may be closing it right now.
    pub(crate) reused: bool,
}

enum Sender<Io: 'static> {
    Http1 { link: Http1<Io>, pool: Rc<Pool<Io>>, place: Weak<Place<Io>> },
    Http2 { link: Http2, stream: Rc<()> },
}

pub(crate) struct Answered<Io: 'static> {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease<Io>,
    /// For requests that wish to go on without HTTP.
    pub(crate) left: Option<Left<Io>>,
}

/// Why there is no connection.
pub(crate) enum NotReady {
    Failed(ConnectError),
    /// There may be no more of them, or no more requests that wait for one.
    Open(Open),
}

/// Why there is no answer.
pub(crate) enum Failure {
    /// The connection was closed before a byte of the request was on it.
    NotSent(Box<Request<Outgoing>>),
    /// It was lost, or broken off, after that.
    Lost(hyper::Error),
}

/// What a request has of the pool until the last byte of its answer was read. Dropped, it takes an HTTP/1.1 connection with it.
pub(crate) enum Lease<Io: 'static> {
    Http1 { link: Option<Http1<Io>>, pool: Rc<Pool<Io>>, place: Weak<Place<Io>> },
    Http2(#[expect(dead_code, reason = "counts as an open stream until it is dropped")] Rc<()>),
}

impl<Io> Lease<Io> {
    /// The answer was read to its end, and the request was sent to its own.
    pub(crate) fn give_back(&mut self) {
        if let Self::Http1 { link, pool, place } = self
            && let Some(link) = link.take()
        {
            pool.give(place, link);
        }
    }
}

impl<Io> Ready<Io>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    fn own(link: Http1<Io>, reused: bool, pool: &Rc<Pool<Io>>, place: &Rc<Place<Io>>) -> Self {
        Self { sender: Sender::Http1 { link, pool: Rc::clone(pool), place: Rc::downgrade(place) }, reused }
    }

    /// Whether a request that wishes to go on without HTTP means anything to the server.
    pub(crate) async fn takes_upgrades(&self) -> bool {
        match &self.sender {
            Sender::Http1 { .. } => true,
            Sender::Http2 { link, .. } => link.allowed.connect().await,
        }
    }

    pub(crate) async fn send(self, request: Request<Outgoing>, upgrade: bool) -> Result<Answered<Io>, Failure> {
        match self.sender {
            Sender::Http2 { mut link, stream } => {
                let mut response = link.sender.try_send_request(request).await.map_err(Failure::of)?;
                let goes_on = upgrade && response.status() == StatusCode::OK;
                let left = goes_on.then(|| Left::Stream(hyper::upgrade::on(&mut response), Rc::clone(&stream)));
                Ok(Answered { response, lease: Lease::Http2(stream), left })
            }
            Sender::Http1 { mut link, pool, place } => {
                let left = upgrade.then(|| Left::Connection(link.left()));
                let response = link.sender.try_send_request(request).await.map_err(Failure::of)?;
                Ok(Answered { response, lease: Lease::Http1 { link: Some(link), pool, place }, left })
            }
        }
    }
}

impl Failure {
    fn of(mut error: TrySendError<Request<Outgoing>>) -> Self {
        match error.take_message() {
            Some(request) => Self::NotSent(Box::new(request)),
            None => Self::Lost(error.into_error()),
        }
    }
}

/// `fresh`: one that nobody used before.
pub(crate) async fn acquire<U: Upstream>(
    upstream: &U,
    pool: &Rc<Pool<U::Io>>,
    endpoint: &Chosen<U::Detail>,
    http2: bool,
    fresh: bool,
) -> Result<Ready<U::Io>, NotReady> {
    let key: Key = (Arc::clone(&endpoint.uid), endpoint.address);
    let place = pool.place(&key);
    let kept = match http2 {
        _ if fresh => None,
        true => kept_shared(&place),
        false => kept_own(pool, &place).await,
    };
    match kept {
        Some(kept) => Ok(kept),
        // In a box: making a connection is a large future, and hardly any request has to.
        None if http2 => Box::pin(shared(upstream, &place, endpoint, fresh)).await,
        None => Box::pin(own(upstream, pool, &place, endpoint)).await,
    }
}

/// One that waits for a request.
async fn kept_own<Io>(pool: &Rc<Pool<Io>>, place: &Rc<Place<Io>>) -> Option<Ready<Io>>
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
{
    while let Some(mut link) = pool.take(place) {
        if is_ready(&mut link).await {
            return Some(Ready::own(link, true, pool, place));
        }
    }
    None
}

fn kept_shared<Io: 'static>(place: &Place<Io>) -> Option<Ready<Io>> {
    let (link, stream) = place.share()?;
    Some(Ready { sender: Sender::Http2 { link, stream }, reused: true })
}

async fn own<U: Upstream>(
    upstream: &U,
    pool: &Rc<Pool<U::Io>>,
    place: &Rc<Place<U::Io>>,
    endpoint: &Chosen<U::Detail>,
) -> Result<Ready<U::Io>, NotReady> {
    let settings = endpoint.settings();
    let _pending = settings.breaker.pending().map_err(NotReady::Open)?;
    let permit = settings.breaker.connection().await;
    let io = connected(upstream, endpoint).await.map_err(NotReady::Failed)?;
    let link = Http1::over(io, Terms::new(settings, permit)).await;
    link.map(|link| Ready::own(link, false, pool, place)).map_err(|cause| NotReady::Failed(unusable(&cause)))
}

/// Its task may have to turn once more after the last answer; one that then still is not ready is of no use.
async fn is_ready<Io>(link: &mut Http1<Io>) -> bool {
    for turn in 0..2 {
        if turn > 0 {
            tokio::task::yield_now().await;
        }
        if let Poll::Ready(ready) = poll_fn(|cx| Poll::Ready(link.sender.poll_ready(cx))).await {
            return ready.is_ok();
        }
    }
    false
}

async fn shared<U: Upstream>(
    upstream: &U,
    place: &Rc<Place<U::Io>>,
    endpoint: &Chosen<U::Detail>,
    fresh: bool,
) -> Result<Ready<U::Io>, NotReady> {
    let settings = endpoint.settings();
    let _pending = settings.breaker.pending().map_err(NotReady::Open)?;
    let before = place.failures();
    let _dialing = place.dialing.lock().await;
    // Somebody else may have made one meanwhile.
    if let Some(kept) = kept_shared(place).filter(|_| !fresh) {
        return Ok(kept);
    }
    if let Some(failure) = place.failed_since(before) {
        return Err(NotReady::Failed(failure));
    }
    let terms = Terms::new(settings, settings.breaker.connection().await);
    let failed = |error| NotReady::Failed(place.failed(error));
    let io = connected(upstream, endpoint).await.map_err(failed)?;
    let link = http2_over(io, &terms).await.map_err(|cause| failed(unusable(&cause)))?;
    let (link, stream) = place.add(link, terms);
    Ok(Ready { sender: Sender::Http2 { link, stream }, reused: false })
}

/// Within the backend's own time, where it has one.
pub(crate) async fn connected<U: Upstream>(upstream: &U, endpoint: &Chosen<U::Detail>) -> Result<U::Io, ConnectError> {
    let connecting = upstream.connect(endpoint);
    let Some(most) = endpoint.settings().connections.connect_timeout else { return connecting.await };
    timeout(most, connecting).await.unwrap_or_else(|_| {
        let reason = format!("{}: no connection within {} ms, as its settings have it", endpoint.address, most.as_millis());
        Err(ConnectError { code: errors::UPSTREAM_TIMEOUT, reason })
    })
}

fn unusable(cause: &hyper::Error) -> ConnectError {
    ConnectError { code: errors::UPSTREAM_REFUSED, reason: format!("the endpoint closed a connection that was just made: {cause}") }
}
