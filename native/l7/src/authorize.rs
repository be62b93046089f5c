//! Whether a request may go on: its token, external authorization, and the policies of the service, before anything is done for it.
//!
//! That order is Istio's, and all of it is before routes, redirects, CORS, faults and mirrors: what is denied has no effect.
use crate::access::Access;
use crate::admission::{Admission, Facts, Request};
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
use crate::tokens::Denied;
use crate::{Flag, Upstream};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use trackbed_contract::tables::errors;
use trackbed_policy::{Ask, Decision, PolicyRef, Refused, Token};

/// What a request goes on with.
pub(crate) struct Admitted {
    pub(crate) admission: Rc<Admission>,
    /// What external authorization puts on the answer.
    pub(crate) answer: Vec<Change>,
}

/// None: nobody guards the service. The request is changed as tokens and external authorization want it.
pub(crate) async fn authorize<U: Upstream>(
    session: &Session<U>,
    request: &mut Parts,
    canonical: &Canonical,
    body: &mut Ahead,
    record: &mut Record,
) -> Result<Option<Admitted>, Refusal> {
    let mut access = match session.guard() {
        Guard::Nobody => return Ok(None),
        Guard::Unknown => return Err(refuse(not_known(), record)),
        Guard::By(access) => access,
    };
    let token = access.tokens.authenticate(request, SystemTime::now()).map_err(|denied| refused_token(denied, record))?;
    let facts = |access: &Access, request: &Parts, token: Option<Arc<Token>>| {
        Facts::Request(Box::new(Request {
            method: request.method.clone(),
            uri: request.uri.clone(),
            path: canonical.path.clone(),
            headers: request.headers.clone(),
            token,
            remote_ip: remote_ip(session, request, access.trusted_proxies),
        }))
    };
    let mut known = facts(&access, request, token.clone());
    let asks = known.of(&session.parties, |subject| access.policies.custom(subject));
    let mut answer = Vec::new();
    if !asks.is_empty() {
        for ask in asks {
            let Some(provider) = access.provider(ask.provider) else { return Err(refuse(failed(&ask, "it is not there"), record)) };
            let path = canonical.path.as_deref().unwrap_or(request.uri.path()).to_owned();
            if let Some(changes) = external(session, provider, &ask, (request, &path, body), record).await? {
                changes.apply(request).map_err(|cause| refuse(failed(&ask, &cause.to_string()), record))?;
                answer.extend(changes.response);
            }
        }
        // Policies may have changed while it was asked.
        access = match session.guard() {
            Guard::Nobody => access,
            Guard::Unknown => return Err(refuse(not_known(), record)),
            Guard::By(access) => access,
        };
        known = facts(&access, request, token);
    }
    let admission = session.context.live.begin(&session.parties, known);
    let (refusal, decided) = decide(&admission, &access);
    record.decided = decided.map(Box::new);
    refusal.map_or(Ok(Some(Admitted { admission, answer })), Err)
}

/// None: its provider lets it pass though it could not be asked.
async fn external<U: Upstream>(
    session: &Session<U>,
    provider: &Provider,
    ask: &Ask<'_>,
    (request, path, body): (&Parts, &str, &mut Ahead),
    record: &mut Record,
) -> Result<Option<Box<Changes>>, Refusal> {
    match asked(session, provider, request, path, body).await {
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
fn refuse(decided: Decided, record: &mut Record) -> Refusal {
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
    let (admitted, decided) = match session.guard() {
        Guard::Nobody => {
            // It may last until somebody does.
            carried.admission =
                Some(session.context.live.begin(&session.parties, Facts::Connection { server_name: server_name.map(Into::into) }));
            return true;
        }
        Guard::Unknown => (false, Some(not_known())),
        Guard::By(access) => {
            let facts = Facts::Connection { server_name: server_name.map(Into::into) };
            let admission = session.context.live.begin(&session.parties, facts);
            // External authorization is of requests: what it should decide cannot pass as bytes.
            let asks = admission.custom(&access.policies, |ask| failed(ask, "it is asked about requests alone, and this is not HTTP"));
            let (refusal, decided) = decide(&admission, &access);
            carried.admission = Some(admission);
            (refusal.is_none() && asks.is_none(), asks.or(decided))
        }
    };
    carried.decided = decided;
    if !admitted {
        carried.flag = Some(Flag::Denied);
    }
    admitted
}

fn decide(admission: &Admission, access: &Arc<Access>) -> (Option<Refusal>, Option<Decided>) {
    let evaluation = admission.evaluate(&access.policies);
    let (by, refused) = match evaluation.decision {
        Decision::Allowed { by } => (by, None),
        Decision::Denied(refused) => (Some(refused.policy.clone()), Some(refused)),
    };
    let refusal = refused.as_ref().map(denied);
    let audit = evaluation.audit.and_then(Decision::refused);
    let said = by.is_some() || audit.is_some();
    let decided = said.then(|| {
        let (code, reason) = refused.map_or(("", String::new()), |refused| (refused.code, refused.reason));
        Decided { policy: by, code, reason, audit }
    });
    (refusal, decided)
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

fn not_known() -> Decided {
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
