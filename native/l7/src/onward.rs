//! Whether a request may go on to where a route sends it: a route is no way around the policies of the service behind it.
//!
//! A service's own routes to itself change nothing: its policies have seen the request. Another service's policies see it as it goes on, with what filters
//! made of it; so do those of the service itself where the route is its client's, who would rewrite a path that is denied into one that is not.
use crate::access::Access;
use crate::admission::{Destination, Facts, Onward};
use crate::ahead::Ahead;
use crate::authorize::{Admitted, Asks, ask_all, authenticate, decide, not_asked, not_known, refuse, settle};
use crate::carry::Carried;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::table::Guard;
use crate::{BackendKey, RouteName, Served, Upstream};
use http::request::Parts;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use trackbed_policy::{Ask, Policies, Subject, path};

/// Where a route leads, if policies have to be asked about it.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    backend: &'a Arc<BackendKey>,
    once: bool,
}

impl<'a> Way<'a> {
    /// None: to what was addressed, and by its own routes or by none.
    pub(crate) fn of(served: &Served, route: Option<&RouteName>, backend: &'a Arc<BackendKey>) -> Option<Self> {
        let route = route?;
        let namespace = backend.service.split_once('/').map_or("", |(namespace, _)| namespace);
        let once = *route.namespace == *namespace;
        (!once || backend.service != served.service).then_some(Self { backend, once })
    }

    /// Policies that have seen it as it came, and need not again.
    fn met<U: Upstream>(self, session: &Session<U>, admitted: Option<&Admitted>) -> Option<Arc<Access>> {
        admitted.filter(|_| self.once)?;
        if let Guard::By(access) = session.guard() { Some(access) } else { None }
    }
}

/// `path`: the one that filters made, or that of the request in its normal form; None: the request's own.
pub(crate) async fn authorize_onward<U: Upstream>(
    session: &Session<U>,
    way: Way<'_>,
    (request, path, body): (&mut Parts, Option<&str>, &mut Ahead),
    admitted: Option<Admitted>,
    record: &mut Record,
) -> Result<Option<Admitted>, Refusal> {
    let guard = || session.context.table().guard_of_backend(&way.backend.service);
    let mut access = match guard() {
        Guard::Nobody => return Ok(admitted),
        Guard::Unknown => return Err(refuse(not_known(), record)),
        Guard::By(access) => access,
    };
    let path = seen(path)?;
    let accepted = authenticate(&access, request, admitted.as_ref().and_then(|before| before.accepted.as_ref()), record)?;
    let facts = |access: &Access, request: &Parts| {
        Facts::of_request(request, path.clone(), accepted.as_ref(), remote_ip(session, access, admitted.as_ref()))
    };
    let destination = Destination::onward(way.backend);
    let mut known = facts(&access, request);
    let met = way.met(session, admitted.as_ref());
    let asks = known.of(&session.parties, destination, |subject| custom(&access, met.as_deref(), subject));
    let mut answer = Vec::new();
    if !asks.is_empty() {
        let path = path.as_deref().unwrap_or(request.uri.path()).to_owned();
        answer = ask_all(session, &access, asks, &mut Asks { destination, request, path: &path, body }, record).await?;
        // Policies may have changed while it was asked.
        access = match guard() {
            Guard::Nobody => access,
            Guard::Unknown => return Err(refuse(not_known(), record)),
            Guard::By(access) => access,
        };
        known = facts(&access, request);
    }
    let met = way.met(session, admitted.as_ref());
    let mut admitted = admitted.unwrap_or_else(|| Admitted {
        admission: session.context.live.begin(&session.parties, None),
        accepted: None,
        answer: Vec::new(),
    });
    admitted.accepted = admitted.accepted.or(accepted);
    admitted.answer.extend(answer);
    let onward = Onward { backend: Arc::clone(way.backend), facts: known, once: way.once };
    let came = admitted.admission.came().zip(met.as_deref().map(policies));
    settle(onward.evaluate(&session.parties, came, &access.policies), record)?;
    admitted.admission.goes_on(onward);
    Ok(Some(admitted))
}

/// A copy for a mirror, which nobody is told about: it is sent only where nothing stands against it. Nobody is asked about it, so what would have to be
/// asked about is not copied.
pub(crate) fn may_copy<U: Upstream>(
    session: &Session<U>,
    way: Way<'_>,
    request: &mut Parts,
    path: Option<&str>,
    admitted: Option<&Admitted>,
) -> bool {
    let access = match session.context.table().guard_of_backend(&way.backend.service) {
        Guard::Nobody => return true,
        Guard::Unknown => return false,
        Guard::By(access) => access,
    };
    let earlier = admitted.and_then(|before| before.accepted.as_ref());
    let (Ok(path), Ok(accepted)) = (seen(path), access.tokens.authenticate(request, earlier, SystemTime::now())) else { return false };
    let facts = Facts::of_request(request, path, accepted.as_ref(), remote_ip(session, &access, admitted));
    let met = way.met(session, admitted);
    let asked =
        facts.of(&session.parties, Destination::onward(way.backend), |subject| !custom(&access, met.as_deref(), subject).is_empty());
    let onward = Onward { backend: Arc::clone(way.backend), facts, once: way.once };
    let came = admitted.and_then(|before| before.admission.came()).zip(met.as_deref().map(policies));
    !asked && onward.evaluate(&session.parties, came, &access.policies).decision.admits()
}

/// A connection that is not carried as HTTP. False: it is refused.
pub(crate) fn authorize_connection_onward<U: Upstream>(
    session: &Session<U>,
    way: Way<'_>,
    server_name: Option<&str>,
    carried: &mut Carried<'_>,
) -> bool {
    let Some(admission) = carried.admission.clone() else { return false };
    let facts = Facts::Connection { server_name: server_name.map(Into::into) };
    let onward = Onward { backend: Arc::clone(way.backend), facts, once: way.once };
    let admitted = match session.context.table().guard_of_backend(&way.backend.service) {
        // It may last until somebody does.
        Guard::Nobody => true,
        Guard::Unknown => carried.judged(false, Some(not_known())),
        Guard::By(access) => {
            let addressed = if let Guard::By(access) = session.guard() { Some(access) } else { None };
            let met = addressed.as_deref().map(policies);
            let asks = onward.facts.of(&session.parties, Destination::onward(way.backend), |subject| {
                custom(&access, addressed.as_deref().filter(|_| way.once), subject).first().map(not_asked)
            });
            let (refused, decided) = decide(onward.evaluate(&session.parties, admission.came().zip(met), &access.policies));
            carried.judged(refused.is_none() && asks.is_none(), asks.or(decided))
        }
    };
    admission.goes_on(onward);
    admitted
}

/// `met`: of the service that was addressed, whose policies were asked about what came.
fn custom<'a>(access: &'a Access, met: Option<&Access>, goes: &Subject<'_>) -> Vec<Ask<'a>> {
    met.map_or_else(|| access.policies.custom(goes), |met| access.policies.custom_onward(&met.policies, goes))
}

fn policies(access: &Access) -> &Policies {
    &access.policies
}

/// As policies read it: whoever wrote a route may have written a path in another form than the policy's author.
fn seen(path: Option<&str>) -> Result<Option<String>, Refusal> {
    let normal = |text| path::normal(text).map(|normal| normal.path.into_owned());
    path.filter(|text| *text != "*")
        .map(normal)
        .transpose()
        .map_err(|_| Refusal::bad_request("the route's path can be read in more than one way"))
}

/// What filters left of a chain of proxies is not believed.
fn remote_ip<U: Upstream>(session: &Session<U>, access: &Access, admitted: Option<&Admitted>) -> Option<IpAddr> {
    if access.trusted_proxies == 0 {
        return Some(session.parties.client.address.ip());
    }
    let Guard::By(addressed) = session.guard() else { return None };
    let Facts::Request(came) = admitted?.admission.came()? else { return None };
    came.remote_ip.filter(|_| addressed.trusted_proxies == access.trusted_proxies)
}
