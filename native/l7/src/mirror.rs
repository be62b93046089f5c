//! Copies of requests for mirrors: they run beside the request, nobody waits for them, and their answers go nowhere.
use crate::attempt::{NotReady, acquire};
use crate::authorize::Admitted;
use crate::balancing::observe;
use crate::canonical::{Canonical, for_backend, is_grpc};
use crate::exchange::speaks_http2;
use crate::filter::Mirror;
use crate::limits::{MIRROR_WAIT, MIRRORS};
use crate::onward::{Way, may_copy};
use crate::report::Copied;
use crate::rule::HttpRule;
use crate::session::Session;
use crate::shaping::Shaped;
use crate::upload::{Outgoing, Upload};
use crate::{Context, Outcome, Upstream};
use http::Request;
use http::request::Parts;
use http_body::Body;
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::select;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};
use trackbed_balance::Wish;

/// `request` and `path` as the rule's filters left them.
pub(crate) fn mirror<U: Upstream>(
    session: &Rc<Session<U>>,
    mirror: &Mirror,
    request: &Parts,
    canonical: &Canonical,
    path: Option<&str>,
    (rule, admitted): (&HttpRule, Option<&Admitted>),
    upload: Option<&Rc<RefCell<Upload>>>,
) {
    let context = &session.context;
    let backend = Arc::clone(&mirror.backend);
    let report = |how| session.parties.report.copied(&session.parties.served, &mirror.backend.key, how);
    let mut request = request.clone();
    let mut shaped = Shaped::default();
    let http2 = speaks_http2(backend.protocol, request.version, is_grpc(&request.headers));
    let answered = shaped.apply(&backend.filters, &mut request, canonical, None, session.parties.served.port);
    let path = shaped.path.as_deref().or(path);
    let way = Way::of(&session.parties.served, rule.name.as_ref(), &backend.key);
    if way.is_some_and(|way| !may_copy(session, way, &mut request, path, admitted)) {
        return report(Copied::Denied);
    }
    if answered.is_some() || for_backend(&mut request, path, http2, &canonical.for_copy()).is_err() {
        return report(Copied::Failed);
    }
    if context.mirrors.get() >= MIRRORS {
        return report(Copied::Dropped);
    }
    context.mirrors.set(context.mirrors.get() + 1);
    let body = upload.map_or(Outgoing::Nothing, |upload| upload.borrow_mut().copy());
    let session = Rc::clone(session);
    spawn_local(async move {
        let context = &session.context;
        let given_up = body.given_up();
        let sent = timeout(MIRROR_WAIT, async {
            select! {
                biased;
                sent = send(context, &backend.key, Request::from_parts(request, body), http2) => sent,
                () = given_up => None,
            }
        })
        .await;
        context.mirrors.set(context.mirrors.get() - 1);
        let how = sent.ok().flatten().map_or(Copied::Failed, Copied::Answered);
        session.parties.report.copied(&session.parties.served, &backend.key, how);
    });
}

async fn send<U: Upstream>(context: &Context<U>, backend: &crate::BackendKey, request: Request<Outgoing>, http2: bool) -> Option<u16> {
    let endpoint = context.balancers.choose(context, backend, &Wish::default(), Instant::now().into_std()).ok()?;
    let told = |outcome| observe(context, backend, &endpoint, outcome, Instant::now().into_std());
    let ready = match acquire(&context.upstream, &context.pool, &endpoint, http2, false).await {
        Ok(ready) => ready,
        Err(NotReady::Open(_)) => return None,
        Err(NotReady::Failed(_)) => {
            told(Outcome::Unreachable);
            return None;
        }
    };
    let Ok(mut answered) = ready.send(request, false).await else {
        told(Outcome::Lost);
        return None;
    };
    let status = answered.response.status().as_u16();
    told(Outcome::Answered(status));
    let body = answered.response.body_mut();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        frame.ok()?;
    }
    answered.lease.give_back();
    Some(status)
}
