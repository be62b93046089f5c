//! Asking an external authorization service about a request: what it cannot answer in time and in its own words denies, unless its provider says otherwise.
use crate::attempt::{Failure, NotReady, acquire};
use crate::authorize::Asks;
use crate::balancing::observe;
use crate::check::{Answer, Question, Unusable};
use crate::limits::{CHECK_BYTES, CHECKS, HEAD_WAIT, UNHEARD_TRIES};
use crate::provider::{Asked, Provider};
use crate::refusal::grpc_status;
use crate::session::Session;
use crate::upload::Outgoing;
use crate::{Outcome, Upstream};
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use tokio::time::{Instant, timeout};
use trackbed_balance::Wish;

/// What came of it.
pub(crate) enum Asking {
    Answered(Answer),
    /// The client's body is longer than what may go along.
    TooLong,
    /// The client's body broke off.
    Broken,
    /// For operators.
    Failed(String),
}

pub(crate) async fn ask<U: Upstream>(session: &Session<U>, provider: &Provider, about: &mut Asks<'_>) -> Asking {
    let empty = about.body.is_end_stream();
    let body = match provider.body.filter(|_| !empty) {
        None => None,
        Some(with) => match timeout(HEAD_WAIT, about.body.beginning(with.most)).await {
            Err(_) | Ok(Err(_)) => return Asking::Broken,
            Ok(Ok(beginning)) if !beginning.whole && !with.partial => return Asking::TooLong,
            Ok(Ok(beginning)) => Some((with, beginning)),
        },
    };
    let question =
        Question { client: &session.parties.client, destination: about.destination, request: about.request, path: about.path, body, empty };
    let Some(_under_way) = UnderWay::begin(&session.context.checks) else {
        return Asking::Failed("too many requests wait for external authorization".to_owned());
    };
    match timeout(provider.timeout, answer(session, provider, &question)).await {
        Ok(Ok(answer)) => Asking::Answered(answer),
        Ok(Err(reason)) => Asking::Failed(reason),
        Err(_) => Asking::Failed(format!("no answer within {} ms", provider.timeout.as_millis())),
    }
}

async fn answer<U: Upstream>(session: &Session<U>, provider: &Provider, question: &Question<'_>) -> Result<Answer, String> {
    let unusable = |cause: Unusable| cause.to_string();
    match &provider.asked {
        Asked::Grpc => {
            let authority = provider.backend.service.split_once('/').map_or("", |(_, hostname)| hostname);
            let request = question.by_grpc(authority).ok_or("the question cannot be written down")?;
            let (response, status) = call(session, provider, request, true).await?;
            Answer::of_grpc(status.or(grpc_status(response.headers())), response.body()).map_err(unusable)
        }
        Asked::Http(http) => {
            let request = question.by_http(http).ok_or("the question cannot be written down")?;
            let (response, _) = call(session, provider, request, false).await?;
            Answer::of_http(response, http).map_err(unusable)
        }
    }
}

/// The whole answer, and gRPC's status from its trailers.
async fn call<U: Upstream>(
    session: &Session<U>,
    provider: &Provider,
    request: Request<Bytes>,
    http2: bool,
) -> Result<(Response<Bytes>, Option<u16>), String> {
    let context = &session.context;
    let (head, body) = request.into_parts();
    let mut avoid: Vec<Arc<str>> = Vec::new();
    let mut fresh = false;
    // The endpoint is held until its last byte is read.
    let (_endpoint, mut answered) = loop {
        let wish = Wish { avoid: &avoid, ..Wish::default() };
        let endpoint =
            context.balancers.choose(context, &provider.backend, &wish, Instant::now().into_std()).map_err(|none| none.to_string())?;
        let told = |outcome| observe(context, &provider.backend, &endpoint, outcome, Instant::now().into_std());
        let ready = match acquire(&context.upstream, &context.pool, &endpoint, http2, fresh).await {
            Ok(ready) => ready,
            Err(NotReady::Open(open)) => return Err(open.to_string()),
            Err(NotReady::Failed(_)) if avoid.len() < UNHEARD_TRIES as usize => {
                told(Outcome::Unreachable);
                avoid.push(Arc::clone(&endpoint.uid));
                continue;
            }
            Err(NotReady::Failed(error)) => {
                told(Outcome::Unreachable);
                return Err(error.to_string());
            }
        };
        let request = Request::from_parts(head.clone(), Outgoing::Whole(Some(body.clone())));
        let reused = ready.reused;
        match ready.send(request, false).await {
            Ok(answered) => {
                told(Outcome::Answered(answered.response.status().as_u16()));
                break (endpoint, answered);
            }
            // It may have been closed while nobody used it. Asking twice does no harm.
            Err(_) if reused && !fresh => fresh = true,
            Err(failure) => {
                told(Outcome::Lost);
                return Err(match failure {
                    Failure::NotSent(_) => "the connection was closed before it was asked".to_owned(),
                    Failure::Lost(cause) => format!("the connection was lost before the answer: {cause}"),
                });
            }
        }
    };
    let mut whole = BytesMut::new();
    let mut status = None;
    let body = answered.response.body_mut();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|cause| format!("the answer broke off: {cause}"))?;
        status = status.or(frame.trailers_ref().and_then(grpc_status));
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > CHECK_BYTES {
                return Err(format!("the answer has more than {CHECK_BYTES} bytes"));
            }
            whole.extend_from_slice(data);
        }
    }
    answered.lease.give_back();
    Ok((answered.response.map(|_| whole.freeze()), status))
}

/// One question of a worker that is not answered yet.
struct UnderWay<'a>(&'a Cell<usize>);

impl<'a> UnderWay<'a> {
    /// None: there are too many.
    fn begin(count: &'a Cell<usize>) -> Option<Self> {
        if count.get() >= CHECKS {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self(count))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
