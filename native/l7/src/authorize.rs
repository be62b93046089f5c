//! Whether a request may go on: its token, external authorization, and the policies of the service, before anything is done for it.
//!
//! That order is Istio's, and all of it is before routes, redirects, CORS, faults and mirrors: what is denied has no effect.
use crate::access::Access;
use crate::admission::{Admission, Destination, Facts};
use crate::ahead::Ahead;
use crate::ask::{Asking, ask as asked};
use crate::canonical::{Canonical, FORWARDED_FOR};
use crate::carry::Carried;
use crate::check::{Answer, Change, Changes};
use crate::provider::Provider;
use crate::record::{Decided, Record};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::table::Guard;
use crate::tokens::{Accepted, Denied};
use crate::{Flag, Upstream};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use trackbed_contract::tables::errors;
use trackbed_policy::{Ask, Decision, Evaluation, PolicyRef, Refused};

/// What a request goes on with.
pub(crate) struct Admitted {
    pub(crate) admission: Rc<Admission>,
    /// Its token.
    pub(crate) accepted: Option<Arc<Accepted>>,
    /// What external authorization puts on the answer.
    pub(crate) answer: Vec<Change>,
}

/// A request on its way to a service, and the path that the service is asked for.
pub(crate) struct Asks<'a> {
    pub(crate) destination: Destination<'a>,
    pub(crate) request: &'a mut Parts,
    pub(crate) path: &'a str,
    pub(crate) body: &'a mut Ahead,
}

/// None: nobody guards the service. The request is changed as tokens and external authorization want it.
pub(crate) async fn authorize<U: Upstream>(
    session: &Session<U>,
    request: &mut Parts,
    canonical: &Canonical,
    body: &mut Ahead,
    record: &mut Record,
) -> Result<Option<Admitted>, Refusal> {
    match session.guard() {
        Guard::Nobody => Ok(None),
        // In a box: what it may wait for is large, and memory of every request otherwise.
        guard => Box::pin(guarded(session, guard, request, canonical, body, record)).await.map(Some),
    }
}

async fn guarded<U: Upstream>(
    session: &Session<U>,
    guard: Guard,
    request: &mut Parts,
    canonical: &Canonical,
    body: &mut Ahead,
    record: &mut Record,
) -> Result<Admitted, Refusal> {
    let mut access = match guard {
        Guard::Nobody | Guard::Unknown => return Err(refuse(not_known(), record)),
        Guard::By(access) => access,
    };
    let accepted = authenticate(&access, request, None, record)?;
    let facts = |access: &Access, request: &Parts| {
        let remote_ip = remote_ip(session, request, access.trusted_proxies);
        Facts::of_request(request, canonical.path.clone(), accepted.as_ref(), remote_ip)
    };
    let destination = Destination::addressed(&session.parties);
    let mut known = facts(&access, request);
    let asks = known.of(&session.parties, destination, |subject| access.policies.custom(subject));
    let mut answer = Vec::new();
    if !asks.is_empty() {
        let path = canonical.path.as_deref().unwrap_or(request.uri.path()).to_owned();
        answer = ask_all(session, &access, asks, &mut Asks { destination, request, path: &path, body }, record).await?;
        // Policies may have changed while it was asked.
        access = match session.guard() {
            Guard::Nobody => access,
            Guard::Unknown => return Err(refuse(not_known(), record)),
            Guard::By(access) => access,
        };
        known = facts(&access, request);
    }
    let admission = session.context.live.begin(&session.parties, Some(known));
    settle(admission.evaluate(&access.policies), record)?;
    Ok(Admitted { admission, accepted, answer })
}

/// The request's token; None: it has none, which policies may object to.
pub(crate) fn authenticate(
    access: &Access,
    request: &mut Parts,
    earlier: Option<&Arc<Accepted>>,
    record: &mut Record,
) -> Result<Option<Arc<Accepted>>, Refusal> {
    access.tokens.authenticate(request, earlier, SystemTime::now()).map_err(|denied| refused_token(denied, record))
}

/// Changes the request as they say, and returns what they put on its answer.
pub(crate) async fn ask_all<U: Upstream>(
    session: &Session<U>,
    access: &Access,
    asks: Vec<Ask<'_>>,
    about: &mut Asks<'_>,
    record: &mut Record,
) -> Result<Vec<Change>, Refusal> {
    let mut answer = Vec::new();
    for ask in asks {
        let Some(provider) = access.provider(ask.provider) else { return Err(refuse(failed(&ask, "it is not there"), record)) };
        if let Some(changes) = external(session, provider, &ask, about, record).await? {
            changes.apply(about.request).map_err(|cause| refuse(failed(&ask, &cause.to_string()), record))?;
            answer.extend(changes.response);
        }
    }
    Ok(answer)
}

/// None: its provider lets it pass though it could not be asked.
async fn external<U: Upstream>(
    session: &Session<U>,
    provider: &Provider,
    ask: &Ask<'_>,
    about: &mut Asks<'_>,
    record: &mut Record,
) -> Result<Option<Box<Changes>>, Refusal> {
    match asked(session, provider, about).await {
        Asking::Answered(Answer::Admitted(changes)) => Ok(Some(changes)),
        Asking::Answered(Answer::Denied(denied)) => {
            let (head, text) = denied.into_parts();
            let reason = format!("{} asked {}, which denies it", ask.policy.name, provider.name);
            record.decided = Some(Box::new(decided(ask, errors::POLICY_EXTERNAL, reason)));
            let text = String::from_utf8_lossy(&text).into_owned();
            Err(Refusal { headers: Some(Box::new(head.headers)), ..Refusal::new(head.status, Flag::ExternallyDenied, text) })
        }
        Asking::TooLong => {
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Flag::ExternallyDenied, "the body is longer than external authorization takes"))
        }
        Asking::Broken => Err(Refusal::new(StatusCode::BAD_REQUEST, Flag::ClientGone, "the request's body broke off")),
        Asking::Failed(reason) if provider.fail_open => {
            tracing::warn!(
                provider = &*provider.name,
                policy = &*ask.policy.name,
                reason,
                "external authorization failed, and lets it pass"
            );
            Ok(None)
        }
        Asking::Failed(reason) => Err(Refusal { status: provider.status_on_error, ..refuse(failed(ask, &reason), record) }),
    }
}

fn decided(ask: &Ask<'_>, code: &'static str, reason: String) -> Decided {
    Decided { policy: Some(ask.policy.clone()), code, reason, audit: None }
}

fn failed(ask: &Ask<'_>, reason: &str) -> Decided {
    decided(ask, errors::POLICY_EXTERNAL_FAILED, format!("{} asks {}: {reason}", ask.policy.name, ask.provider))
}

/// The words for operators are in the record alone.
pub(crate) fn refuse(decided: Decided, record: &mut Record) -> Refusal {
    let refusal = match (decided.code, &decided.policy) {
        (errors::POLICY_EXTERNAL_FAILED, Some(policy)) => {
            let reason = format!("external authorization for {} failed", policy.name);
            Refusal::new(StatusCode::FORBIDDEN, Flag::ExternallyDenied, reason)
        }
        _ => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::Denied, decided.reason.clone()),
    };
    record.decided = Some(Box::new(decided));
    refusal
}

/// A connection that is not carried as HTTP. False: it is refused.
pub(crate) fn authorize_connection<U: Upstream>(session: &Session<U>, server_name: Option<&str>, carried: &mut Carried<'_>) -> bool {
    let facts = Facts::Connection { server_name: server_name.map(Into::into) };
    match session.guard() {
        Guard::Nobody => {
            // It may last until somebody does.
            carried.admission = Some(session.context.live.begin(&session.parties, Some(facts)));
            true
        }
        Guard::Unknown => carried.judged(false, Some(not_known())),
        Guard::By(access) => {
            let admission = session.context.live.begin(&session.parties, Some(facts));
            let asks = admission.custom(&access.policies, not_asked);
            let (refused, decided) = decide(admission.evaluate(&access.policies));
            carried.admission = Some(admission);
            carried.judged(refused.is_none() && asks.is_none(), asks.or(decided))
        }
    }
}

/// External authorization is of requests: what it should decide cannot pass as bytes.
pub(crate) fn not_asked(ask: &Ask<'_>) -> Decided {
    failed(ask, "it is asked about requests alone, and this is not HTTP")
}

/// What policies say, for the record; or the answer to what they do not admit.
pub(crate) fn settle(evaluation: Evaluation, record: &mut Record) -> Result<(), Refusal> {
    let (refused, decided) = decide(evaluation);
    record.decided = Decided::both(record.decided.take().map(|before| *before), decided).map(Box::new);
    refused.map_or(Ok(()), |refused| Err(denied(&refused)))
}

pub(crate) fn decide(evaluation: Evaluation) -> (Option<Refused>, Option<Decided>) {
    let audit = evaluation.audit.and_then(Decision::refused);
    let (by, refused) = match evaluation.decision {
        Decision::Allowed { by } => (by, None),
        Decision::Denied(refused) => (None, Some(refused)),
    };
    let decided = match (&refused, by) {
        (Some(refused), _) => Some(Decided { audit, ..Decided::of(refused.clone()) }),
        (None, None) if audit.is_none() => None,
        (None, policy) => Some(Decided { policy, audit, ..Decided::nobody("", String::new()) }),
    };
    (refused, decided)
}

/// Also of a stream that is denied while it lasts.
pub(crate) fn denied(refused: &Refused) -> Refusal {
    let name = &refused.policy.name;
    // Why it cannot be enforced is the operators' business: it is in the flow.
    let reason = match (refused.code, refused.policy.rule) {
        (errors::POLICY_NO_ALLOW, _) => format!("RBAC: access denied: no ALLOW policy admits it, {name} among them"),
        (errors::POLICY_INVALID, _) => format!("RBAC: access denied by {name}, which cannot be enforced"),
        (_, rule) => format!("RBAC: access denied by {name}, rule {}", rule.unwrap_or_default()),
    };
    Refusal::new(StatusCode::FORBIDDEN, Flag::Denied, reason)
}

/// As RFC 6750 has it.
fn refused_token(denied: Denied, record: &mut Record) -> Refusal {
    let Denied { why, policy, reason } = denied;
    let policy = Some(PolicyRef { name: policy, rule: None });
    record.decided = Some(Box::new(Decided { policy, code: errors::TOKEN_REFUSED, reason, audit: None }));
    let challenge = HeaderValue::from_str(&format!("Bearer error=\"invalid_token\", error_description=\"{why}\""));
    let challenge = challenge.unwrap_or_else(|_| HeaderValue::from_static("Bearer error=\"invalid_token\""));
    let refusal = Refusal::new(StatusCode::UNAUTHORIZED, Flag::TokenRefused, why.to_string());
    let headers = HeaderMap::from_iter([(WWW_AUTHENTICATE, challenge)]);
    Refusal { headers: Some(Box::new(headers)), ..refusal }
}

pub(crate) fn not_known() -> Decided {
    let reason = "the policies of the service are not known here yet".to_owned();
    Decided { policy: None, code: errors::ACCESS_UNKNOWN, reason, audit: None }
}

/// The chain ends with the client itself, whose address stands there by now.
fn remote_ip<U: Upstream>(session: &Session<U>, request: &Parts, trusted: usize) -> Option<IpAddr> {
    if trusted == 0 {
        return Some(session.parties.client.address.ip());
    }
    let chain = request.headers.get(FORWARDED_FOR)?.to_str().ok()?;
    chain.rsplit(',').nth(trusted)?.trim().parse().ok()
}
