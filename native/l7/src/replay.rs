//! What would become of a request that is recorded: by the policies that decide requests, as far as they look at nothing that records do not hold.
use crate::access::Access;
use crate::canonical::canonical;
use crate::client::Served;
use crate::onward::Way;
use crate::record::Decided;
use crate::service::Rules;
use crate::table::{Guard, Table};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Request};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_policy::{Bounds, Decision, Evaluation, Host, Http, Paths, Refused, Subject, Unknown};

/// Stands for an authority that is not known, where there must be one.
const NO_AUTHORITY: &str = "unknown.invalid";
/// The token rules may refuse it, whatever policies say.
const TOKEN: &str = "token";

/// As a record has it. None: it does not say.
#[derive(Debug, Clone, Copy)]
pub struct Recorded<'a> {
    /// Of the client; None: it had none, which is known.
    pub identity: Option<&'a Identity>,
    pub address: Option<IpAddr>,
    /// As in [`Served`].
    pub service: &'a Arc<str>,
    pub port: Option<u16>,
    pub method: Option<&'a str>,
    pub authority: Option<&'a str>,
    /// As the client sent it.
    pub path: Option<&'a str>,
    /// Its token, or that it had none, passed the token rules that are there now.
    pub token_passed: bool,
}

#[derive(Debug, Default)]
pub struct Replayed {
    /// As in [`crate::Explained`], where it does not depend on anything.
    pub decided: Option<Decided>,
    /// What would have to be known: fields as the wire calls them, providers that are asked. Empty: it is decided.
    pub depends: Vec<String>,
}

impl Table {
    /// Err: no request can be like this.
    pub fn replay(&self, recorded: &Recorded<'_>) -> Result<Replayed, String> {
        let refused = |code, reason: String| Ok(Replayed { decided: Some(Decided::nobody(code, reason)), ..Replayed::default() });
        let served = Served { service: Arc::clone(recorded.service), port: recorded.port.unwrap_or_default() };
        let mut request = recorded.parts()?;
        let path = match canonical(&mut request, &HeaderValue::from_static("unknown"), &served) {
            Ok(canonical) => canonical.path,
            Err(refusal) => return refused(errors::DESTINATION_REFUSED, refusal.reason.into_owned()),
        };
        let mut replayed = match self.guard(recorded.service) {
            Guard::Nobody => Replayed::default(),
            Guard::By(access) => replay(&access, recorded, &request, path.as_deref().unwrap_or(request.uri.path())),
            Guard::Unknown if served.is_pod() || self.has(recorded.service) => {
                return refused(errors::ACCESS_UNKNOWN, "the policies of the service are not known".to_owned());
            }
            Guard::Unknown => return refused(errors::ROUTES_UNKNOWN, format!("nothing is known of {}", recorded.service)),
        };
        let is_refused = replayed.decided.as_ref().is_some_and(|decided| !decided.code.is_empty());
        let onward = self.onward(recorded, &served);
        if !is_refused && !onward.is_empty() {
            replayed.decided = None;
            replayed.depends.extend(onward);
        }
        Ok(replayed)
    }

    /// Whose policies a request may meet on its way: which rule it takes may depend on its headers, and what filters make of it is not followed here.
    fn onward(&self, recorded: &Recorded<'_>, served: &Served) -> BTreeSet<String> {
        let service = self.service(recorded.service);
        let ports = service.into_iter().flat_map(|service| service.ports(recorded.port));
        let mut found = BTreeSet::new();
        for port in ports {
            let Some(Rules::Http(rules)) = port.rules(recorded.identity.map(Identity::namespace)) else { continue };
            for rule in rules.all() {
                for (backend, _) in rule.backends.weighted() {
                    let is_asked = Way::of(served, rule.name.as_ref(), &backend).is_some();
                    if is_asked && !matches!(self.guard_of_backend(&backend.service), Guard::Nobody) {
                        found.insert(format!("policies of {}", backend.service));
                    }
                }
            }
        }
        found
    }
}

impl Recorded<'_> {
    fn parts(&self) -> Result<Parts, String> {
        let request = Request::builder().method(self.method.unwrap_or("GET")).uri(self.path.unwrap_or("/"));
        let request = request.header(HOST, self.authority.unwrap_or(NO_AUTHORITY)).body(());
        request.map(|request| request.into_parts().0).map_err(|error| error.to_string())
    }
}

fn replay(access: &Access, recorded: &Recorded<'_>, request: &Parts, path: &str) -> Replayed {
    let remote_known = access.trusted_proxies == 0 && recorded.address.is_some();
    let address = recorded.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    // Where no rule reads tokens nobody has one.
    let any_token = !access.tokens.is_empty();
    let unknown = Unknown {
        source_ip: recorded.address.is_none(),
        remote_ip: !remote_known,
        destination_ip: true,
        destination_port: recorded.port.is_none(),
        host: recorded.authority.is_none(),
        method: recorded.method.is_none(),
        path: recorded.path.is_none(),
        headers: true,
        token: any_token,
    };
    let http = Http {
        host: &Host::of(recorded.authority.unwrap_or(NO_AUTHORITY)),
        method: request.method.as_str(),
        paths: &Paths::of(path),
        headers: &request.headers,
        token: None,
    };
    let subject = Subject {
        source: recorded.identity,
        source_ip: address,
        remote_ip: remote_known.then_some(address),
        destination_ip: None,
        destination_port: recorded.port.unwrap_or_default(),
        server_name: None,
        http: Some(http),
    };
    let Bounds { best, worst, asked, fields } = access.policies.bounds(&subject, unknown);
    if !best.decision.admits() {
        return Replayed { decided: decided(best), depends: Vec::new() };
    }
    let token = (any_token && !recorded.token_passed).then(|| TOKEN.to_owned());
    let asked = asked.into_iter().map(|ask| format!("what {} says to {}", ask.provider, ask.policy.name));
    let depends: Vec<String> = token.into_iter().chain(asked).chain(fields.iter().filter(|_| !worst.decision.admits()).cloned()).collect();
    if !depends.is_empty() {
        return Replayed { decided: None, depends };
    }
    // Dry runs that look at what is not known may deny it: that is worth a look too.
    let maybe = best.audit.is_none() && worst.audit.is_some();
    let mut decided = decided(worst);
    if let Some(Refused { reason, .. }) = decided.as_mut().filter(|_| maybe).and_then(|decided| decided.audit.as_mut()) {
        *reason = format!("{reason}, or not: it depends on {}", Vec::from_iter(fields).join(", "));
    }
    Replayed { decided, depends }
}

pub(crate) fn decided(Evaluation { decision, audit, .. }: Evaluation) -> Option<Decided> {
    let audit = audit.and_then(Decision::refused);
    match decision {
        Decision::Denied(refused) => Some(Decided { audit, ..Decided::of(refused) }),
        Decision::Allowed { by: None } if audit.is_none() => None,
        Decision::Allowed { by } => Some(Decided { policy: by, audit, ..Decided::nobody("", String::new()) }),
    }
}
