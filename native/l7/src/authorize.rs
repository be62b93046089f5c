//! Whether a request may go on: its token, external authorization, and the policies of the service, before anything is done for it.
//!
//! That order is Istio's, and all of it is before routes, redirects, CORS, faults and mirrors: what is denied has no effect.
use crate::access::Access;
use crate::admission::{Admission, Facts, Request};
use crate::canonical::{Canonical, FORWARDED_FOR};
use crate::carry::Carried;
use crate::record::{Decided, Record};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::table::Guard;
use crate::tokens::Denied;
use crate::{Flag, Upstream};
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use trackbed_contract::tables::errors;
use trackbed_policy::{Decision, PolicyRef, Refused};

pub(crate) fn authorize<U: Upstream>(
    session: &Session<U>,
    request: &mut Parts,
    canonical: &Canonical,
    record: &mut Record,
) -> Result<Option<Rc<Admission>>, Refusal> {
    let access = match session.guard() {
        Guard::Nobody => return Ok(None),
        Guard::Unknown => {
            let decided = not_known();
            let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Flag::Denied, decided.reason.clone());
            record.decided = Some(Box::new(decided));
            return Err(refusal);
        }
        Guard::By(access) => access,
    };
    let token = access.tokens.authenticate(request, SystemTime::now()).map_err(|denied| refused_token(denied, record))?;
    let facts = Request {
        method: request.method.clone(),
        uri: request.uri.clone(),
        path: canonical.path.clone(),
        headers: request.headers.clone(),
        token,
        remote_ip: remote_ip(session, request, access.trusted_proxies),
    };
    let admission = session.context.live.begin(&session.parties, Facts::Request(Box::new(facts)));
    let (refusal, decided) = decide(&admission, &access);
    record.decided = decided.map(Box::new);
    refusal.map_or(Ok(Some(admission)), Err)
}

/// A connection that is not carried as HTTP. False: it is refused.
pub(crate) fn authorize_connection<U: Upstream>(session: &Session<U>, server_name: Option<&str>, carried: &mut Carried<'_>) -> bool {
    let (admitted, decided) = match session.guard() {
        Guard::Nobody => return true,
        Guard::Unknown => (false, Some(not_known())),
        Guard::By(access) => {
            let facts = Facts::Connection { server_name: server_name.map(Into::into) };
            let admission = session.context.live.begin(&session.parties, facts);
            let (refusal, decided) = decide(&admission, &access);
            carried.admission = Some(admission);
            // External authorization is of requests: what it should decide cannot pass as bytes.
            (refusal.is_none(), decided)
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
    Refusal { header: Some(Box::new((WWW_AUTHENTICATE, challenge))), ..refusal }
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
