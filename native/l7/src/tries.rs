//! The tries of one request: an endpoint for each, the time that it has, and what follows from how it went.
use crate::attempt::{Answered, Failure, NotReady, acquire};
use crate::backend::Backend;
use crate::balancing::{Chosen, NotChosen, observe};
use crate::grpc::http_status;
use crate::record::Record;
use crate::refusal::{Refusal, grpc_status};
use crate::restrain::too_large;
use crate::retry::{Met, Verdict, verdict};
use crate::rule::HttpRule;
use crate::session::Session;
use crate::traffic::Open;
use crate::upload::{Outgoing, Upload};
use crate::{ConnectError, Flag, NoEndpoint, Outcome, Upstream};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use trackbed_balance::Wish;

/// What is to be brought, and whereto.
pub(crate) struct Errand<'a> {
    pub(crate) rule: &'a HttpRule,
    pub(crate) backend: &'a Backend,
    pub(crate) request: Parts,
    pub(crate) http2: bool,
    pub(crate) upgrade: bool,
    /// None: no body.
    pub(crate) upload: Option<Rc<RefCell<Upload>>>,
    pub(crate) begun: Instant,
    /// Who should have it.
    pub(crate) hash: Option<u64>,
    pub(crate) session: Option<u64>,
}

pub(crate) struct Arrived<U: Upstream> {
    pub(crate) answered: Answered<U::Io>,
    pub(crate) endpoint: Chosen<U::Detail>,
    pub(crate) upload: Option<Rc<RefCell<Upload>>>,
    /// For the last byte of the answer.
    pub(crate) deadline: Option<Instant>,
}

/// How a try went.
enum Tried<Io: 'static> {
    Answered(Answered<Io>),
    Unreached(ConnectError),
    /// One of the backend's limits is reached.
    Open(Open),
    /// On a connection that others used before, and that was closed before the request was on it.
    Stale,
    Refused,
    /// Its server takes no WebSockets in HTTP/2.
    Unfit,
    Lost {
        reused: bool,
        parse: bool,
    },
}

pub(crate) async fn tries<U: Upstream>(session: &Session<U>, errand: Errand<'_>, record: &mut Record) -> Result<Arrived<U>, Refusal> {
    let Errand { rule, backend, request, http2, upgrade, upload, begun, hash, session: having } = errand;
    let context = &session.context;
    let whole = rule.request_timeout.map(|time| begun + time);
    if rule.retry.is_some() {
        context.budgets.request(&session.parties.served, begun.into_std());
    }
    let idempotent = request.method.is_idempotent();
    // HTTP/2 can refuse a stream long after it was sent.
    let keep = if rule.retry.is_some() || http2 {
        Keep::Always
    } else if idempotent {
        Keep::Reused
    } else {
        Keep::Never
    };
    let mut head = Some(request);
    let mut avoid: Vec<Arc<str>> = Vec::new();
    let mut count = 0;
    // After a connection of the pool turned out to be closed: once, and on a new one.
    let mut fresh = false;
    // Held while a second or further try is under way.
    let mut _retrying = None;
    loop {
        let wish = Wish { hash, session: having, avoid: &avoid };
        let endpoint = context.balancers.choose(context, &backend.key, &wish, Instant::now().into_std()).map_err(not_chosen)?;
        record.endpoint = Some((Arc::clone(&endpoint.uid), endpoint.address));
        let deadline = earlier(whole, rule.backend_timeout.map(|time| Instant::now() + time));
        let one = once(session, &endpoint, &mut head, upload.as_ref(), How { http2, upgrade, fresh, keep });
        let tried = match deadline {
            Some(deadline) => timeout_at(deadline, one).await.ok(),
            None => Some(one.await),
        };
        let replayable = head.is_some() && upload.as_ref().is_none_or(|upload| upload.borrow().can_be_sent_again());
        if upload.as_ref().is_some_and(|upload| upload.borrow().too_large()) && !matches!(tried, Some(Tried::Answered(_))) {
            return Err(too_large());
        }
        if upload.as_ref().is_some_and(|upload| upload.borrow().failed()) && !matches!(tried, Some(Tried::Answered(_))) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, Flag::ClientGone, "the request's body broke off"));
        }
        let (met, outcome) = match &tried {
            Some(Tried::Stale) => {
                fresh = true;
                continue;
            }
            // What an idle connection meets when the endpoint closes it at that very moment. To ask once more does no harm, says the standard.
            Some(Tried::Lost { reused: true, .. }) if idempotent && replayable && !fresh => {
                fresh = true;
                continue;
            }
            Some(Tried::Answered(answered)) => {
                let status = answered.response.status();
                (Met::Status(status), if record.grpc { by_grpc(&answered.response) } else { Outcome::Answered(status.as_u16()) })
            }
            Some(Tried::Unreached(error)) => {
                tracing::debug!(endpoint = %endpoint.uid, %error, "an endpoint was not reached");
                (Met::Unheard, Outcome::Unreachable)
            }
            Some(Tried::Open(open)) => return Err(overflow(open)),
            Some(Tried::Unfit) => return Err(unfit()),
            Some(Tried::Refused) if replayable => (Met::Unheard, Outcome::Lost),
            Some(Tried::Refused | Tried::Lost { .. }) => (Met::Lost, Outcome::Lost),
            None => (Met::Status(StatusCode::GATEWAY_TIMEOUT), Outcome::Lost),
        };
        let now = Instant::now();
        observe(context, &backend.key, &endpoint, outcome, now.into_std());
        let late = whole.is_some_and(|whole| whole <= now);
        let verdict = if late { Verdict::Final } else { verdict(met, rule.retry.as_ref(), count, replayable) };
        let again = match verdict {
            Verdict::Again { pause, free } if free || context.budgets.retry(&session.parties.served, now.into_std()) => Some(pause),
            Verdict::Again { .. } | Verdict::Exhausted => {
                record.flag(Flag::RetriesExceeded);
                None
            }
            Verdict::Final => None,
        };
        let counted = again.map(|_| endpoint.settings().breaker.retry()).transpose();
        let again = again.filter(|_| counted.is_ok());
        match counted {
            Ok(counted) => _retrying = counted,
            Err(_) => record.flag(Flag::Overflow),
        }
        let Some(pause) = again else { return end(tried, endpoint, upload, deadline) };
        if let Some(Tried::Answered(mut answered)) = tried
            && answered.response.body().is_end_stream()
        {
            answered.lease.give_back();
        }
        wait(pause, whole).await?;
        avoid.push(Arc::clone(&endpoint.uid));
        drop(endpoint);
        count += 1;
        record.retries += 1;
    }
}

#[derive(Clone, Copy)]
struct How {
    http2: bool,
    upgrade: bool,
    fresh: bool,
    keep: Keep,
}

/// Whether the head is kept for another try. Only where one may be, for a copy of all headers costs something.
#[derive(Clone, Copy)]
enum Keep {
    Always,
    /// On a connection that others used before, which may be closed at that very moment.
    Reused,
    Never,
}

/// `head` is gone afterwards if it cannot be sent again.
async fn once<U: Upstream>(
    session: &Session<U>,
    endpoint: &Chosen<U::Detail>,
    head: &mut Option<Parts>,
    upload: Option<&Rc<RefCell<Upload>>>,
    how: How,
) -> Tried<U::Io> {
    let context = &session.context;
    let ready = match acquire(&context.upstream, &context.pool, endpoint, how.http2, how.fresh).await {
        Ok(ready) => ready,
        Err(NotReady::Failed(error)) => return Tried::Unreached(error),
        Err(NotReady::Open(open)) => return Tried::Open(open),
    };
    if how.upgrade && !ready.takes_upgrades().await {
        return Tried::Unfit;
    }
    let reused = ready.reused;
    if !reused {
        endpoint.sent(Instant::now().into_std());
    }
    let copy = match how.keep {
        Keep::Always => head.clone(),
        Keep::Reused if reused => head.clone(),
        Keep::Reused | Keep::Never => None,
    };
    let Some(request) = head.take() else { return Tried::Lost { reused, parse: false } };
    *head = copy;
    let body = upload.map_or(Outgoing::Nothing, Upload::body);
    match ready.send(Request::from_parts(request, body), how.upgrade).await {
        Ok(answered) => Tried::Answered(answered),
        Err(Failure::NotSent(request)) => {
            *head = Some(request.into_parts().0);
            if reused && !how.fresh { Tried::Stale } else { Tried::Refused }
        }
        Err(Failure::Lost(cause)) if is_refused(&cause) => Tried::Refused,
        Err(Failure::Lost(cause)) => {
            tracing::debug!(endpoint = %endpoint.uid, %cause, "a connection was lost before the answer");
            Tried::Lost { reused, parse: cause.is_parse() }
        }
    }
}

/// HTTP/2's way to say that nobody looked at the request: a stream refused, or one above the last that GOAWAY names.
fn is_refused(cause: &hyper::Error) -> bool {
    let source = std::error::Error::source(cause).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_remote()
            && (error.reason() == Some(h2::Reason::REFUSED_STREAM) || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)))
    })
}

/// The server's own status counts, not that of HTTP, which is 200 for all of them.
fn by_grpc(response: &Response<Incoming>) -> Outcome {
    let status = response.status();
    match grpc_status(response.headers()) {
        Some(code) if status.is_success() => Outcome::Answered(http_status(code).as_u16()),
        None if status.is_success() && !response.body().is_end_stream() => Outcome::Began,
        _ => Outcome::Answered(status.as_u16()),
    }
}

fn end<U: Upstream>(
    tried: Option<Tried<U::Io>>,
    endpoint: Chosen<U::Detail>,
    upload: Option<Rc<RefCell<Upload>>>,
    deadline: Option<Instant>,
) -> Result<Arrived<U>, Refusal> {
    match tried {
        Some(Tried::Answered(answered)) => Ok(Arrived { answered, endpoint, upload, deadline }),
        Some(Tried::Open(open)) => Err(overflow(&open)),
        Some(Tried::Unfit) => Err(unfit()),
        Some(Tried::Unreached(_)) => Err(Refusal::unavailable(Flag::ConnectFailure, "the backend cannot be reached")),
        Some(Tried::Lost { parse: true, .. }) => {
            Err(Refusal::new(StatusCode::BAD_GATEWAY, Flag::UpstreamProtocolError, "the backend's answer is malformed"))
        }
        Some(Tried::Lost { .. } | Tried::Stale | Tried::Refused) => {
            Err(Refusal::unavailable(Flag::ConnectionTermination, "the backend closed the connection before it answered"))
        }
        None => Err(Refusal::timeout("the backend did not answer in time")),
    }
}

async fn wait(pause: Duration, whole: Option<Instant>) -> Result<(), Refusal> {
    if whole.is_some_and(|whole| Instant::now() + pause >= whole) {
        return Err(Refusal::timeout("the time for the request is over"));
    }
    if pause > Duration::ZERO {
        sleep(pause).await;
    }
    Ok(())
}

fn not_chosen(none: NotChosen) -> Refusal {
    match none {
        NotChosen::NoEndpoint(NoEndpoint::Unknown) => Refusal::unavailable(Flag::NoEndpoint, "the backend's service is not known"),
        NotChosen::NoEndpoint(NoEndpoint::None) => Refusal::unavailable(Flag::NoEndpoint, "the backend has no endpoint"),
        NotChosen::Open(open) => overflow(&open),
    }
}

fn unfit() -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, Flag::NoBackend, "the backend takes no WebSockets in HTTP/2: its SETTINGS do not allow it")
}

fn overflow(open: &Open) -> Refusal {
    tracing::debug!(%open, "a request was not sent on");
    Refusal::unavailable(Flag::Overflow, "too much is under way at the backend")
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
