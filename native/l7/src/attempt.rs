//! One try of a request at one endpoint: a connection from the pool or a new one, then the request and the head of its answer.
use crate::balancing::Chosen;
use crate::link::{Http1, Terms, http2_over};
use crate::pool::{Key, Place, Pool};
use crate::rewound::Rewound;
use crate::traffic::Open;
use crate::upload::Outgoing;
use crate::{ConnectError, Upstream};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::oneshot;
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
    Http2 { sender: http2::SendRequest<Outgoing>, stream: Rc<()> },
}

pub(crate) struct Answered<Io: 'static> {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease<Io>,
    /// Of HTTP/1.1, for requests that wish to upgrade: what is left of the connection when it did.
    pub(crate) left: Option<oneshot::Receiver<Rewound<Io>>>,
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
    Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + 'static,
{
    pub(crate) async fn send(self, request: Request<Outgoing>, upgrade: bool) -> Result<Answered<Io>, Failure> {
        match self.sender {
            Sender::Http2 { mut sender, stream } => {
                let response = sender.try_send_request(request).await.map_err(Failure::of)?;
                Ok(Answered { response, lease: Lease::Http2(stream), left: None })
            }
            Sender::Http1 { mut link, pool, place } => {
                let left = upgrade.then(|| link.left());
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
    if http2 { shared(upstream, &place, endpoint, fresh).await } else { own(upstream, pool, &place, endpoint, fresh).await }
}

async fn own<U: Upstream>(
    upstream: &U,
    pool: &Rc<Pool<U::Io>>,
    place: &Rc<Place<U::Io>>,
    endpoint: &Chosen<U::Detail>,
    fresh: bool,
) -> Result<Ready<U::Io>, NotReady> {
    let ready = |link, reused| Ready { sender: Sender::Http1 { link, pool: Rc::clone(pool), place: Rc::downgrade(place) }, reused };
    if !fresh {
        while let Some(mut link) = pool.take(place) {
            if is_ready(&mut link).await {
                return Ok(ready(link, true));
            }
        }
    }
    let settings = endpoint.settings();
    let _pending = settings.breaker.pending().map_err(NotReady::Open)?;
    let permit = settings.breaker.connection().await;
    let io = connected(upstream, endpoint).await.map_err(NotReady::Failed)?;
    let link = Http1::over(io, Terms::new(settings, permit)).await;
    link.map(|link| ready(link, false)).map_err(|cause| NotReady::Failed(unusable(&cause)))
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
    let ready = |(sender, stream), reused| Ready { sender: Sender::Http2 { sender, stream }, reused };
    let reuse = || if fresh { None } else { place.share() };
    if let Some(shared) = reuse() {
        return Ok(ready(shared, true));
    }
    let settings = endpoint.settings();
    let _pending = settings.breaker.pending().map_err(NotReady::Open)?;
    let before = place.failures();
    let _dialing = place.dialing.lock().await;
    if let Some(shared) = reuse() {
        return Ok(ready(shared, true));
    }
    if let Some(failure) = place.failed_since(before) {
        return Err(NotReady::Failed(failure));
    }
    let terms = Terms::new(settings, settings.breaker.connection().await);
    let failed = |error| NotReady::Failed(place.failed(error));
    let io = connected(upstream, endpoint).await.map_err(failed)?;
    let sender = http2_over(io, &terms).await.map_err(|cause| failed(unusable(&cause)))?;
    Ok(ready(place.add(sender, terms), false))
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
