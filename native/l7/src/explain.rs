//! What would become of a request here, told in full and without doing it, by the functions that do it: its token, every policy, and the rule it takes.
use crate::canonical::canonical;
use crate::client::{Client, Served};
use crate::record::Decided;
use crate::replay::decided;
use crate::service::Rules;
use crate::table::{Guard, Table};
use crate::upstream::BackendKey;
use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use std::sync::Arc;
use std::time::SystemTime;
use trackbed_contract::tables::errors;
use trackbed_policy::{Host, Http, Paths, Policies, PolicyRef, PolicyTold, Subject, Token};

#[derive(Debug, Default)]
pub struct Explained {
    pub considered: Vec<PolicyTold>,
    /// External authorization services that are asked before the other policies, by the policies that ask them. What they say is not known.
    pub asked: Vec<(Arc<str>, PolicyRef)>,
    /// What decided: a token, a policy, or that it can be served by nobody. None: nobody objects.
    pub decided: Option<Decided>,
    /// `HTTPRoute/shop/cart/0`; None: no route is attached, or it does not come so far.
    pub route: Option<Box<str>>,
    /// Where the rule sends it, by weight.
    pub backends: Vec<(Arc<BackendKey>, u32)>,
}

impl Table {
    /// `request` is as its client sends it; a port whose connections are not carried as HTTP gets what is said of such a connection.
    pub fn explain(&self, client: &Client, served: &Served, mut request: Parts) -> Explained {
        let refused = |code, reason: String| Explained { decided: Some(Decided::nobody(code, reason)), ..Explained::default() };
        let Some(service) = self.service(&served.service) else {
            return refused(errors::ROUTES_UNKNOWN, format!("nothing is known of {}", served.service));
        };
        let port = service.port(served.port);
        let address = client.address.ip().to_string();
        let address = HeaderValue::from_str(&address).unwrap_or(HeaderValue::from_static("unknown"));
        let canonical = match canonical(&mut request, &address, served) {
            Ok(canonical) => canonical,
            Err(refusal) => return refused(errors::DESTINATION_REFUSED, refusal.reason.into_owned()),
        };
        let mut explained = match self.guard(&served.service) {
            Guard::Nobody => Explained::default(),
            Guard::Unknown => return refused(errors::ACCESS_UNKNOWN, "the policies of the service are not known".to_owned()),
            Guard::By(access) => match access.tokens.authenticate(&mut request, None, SystemTime::now()) {
                Err(denied) => {
                    let policy = Some(PolicyRef { name: denied.policy, rule: None });
                    let reason = format!("{}: {}", denied.why, denied.reason);
                    let decided = Decided { policy, ..Decided::nobody(errors::TOKEN_REFUSED, reason) };
                    return Explained { decided: Some(decided), ..Explained::default() };
                }
                Ok(token) => {
                    let path = canonical.path.as_deref().unwrap_or(request.uri.path());
                    // Who stands before the client cannot be told from a question.
                    let remote = (access.trusted_proxies == 0).then(|| client.address.ip());
                    judge(
                        &access.policies,
                        client,
                        served,
                        &request,
                        &Facts { path, token: token.as_ref().map(|accepted| &*accepted.token), remote },
                    )
                }
            },
        };
        if explained.is_denied() {
            return explained;
        }
        let found = match port.rules(client.namespace()) {
            None => Ok(&port.own.http),
            Some(Rules::Http(rules)) => {
                rules.find(&request, canonical.merged(&request)).map(|(rule, _)| rule).ok_or("no rule of the routes matches")
            }
            Some(Rules::Tls(_) | Rules::Tcp(_)) => Err("its routes are of connections, not of requests"),
        };
        let rule = match found {
            Ok(rule) => rule,
            Err(reason) => {
                explained.decided = Some(Decided::nobody(errors::DESTINATION_REFUSED, reason.to_owned()));
                return explained;
            }
        };
        explained.route = rule.name.as_ref().map(|name| name.text.clone());
        explained.backends = rule.backends.weighted().collect();
        explained
    }
}

impl Explained {
    fn is_denied(&self) -> bool {
        self.decided.as_ref().is_some_and(|decided| !decided.code.is_empty())
    }
}

struct Facts<'a> {
    path: &'a str,
    token: Option<&'a Token>,
    remote: Option<std::net::IpAddr>,
}

fn judge(policies: &Policies, client: &Client, served: &Served, request: &Parts, facts: &Facts<'_>) -> Explained {
    let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let http = Http {
        host: &Host::of(host),
        method: request.method.as_str(),
        paths: &Paths::of(facts.path),
        headers: &request.headers,
        token: facts.token,
    };
    let subject = Subject {
        source: client.identity.as_ref(),
        source_ip: client.address.ip(),
        remote_ip: facts.remote,
        destination_ip: client.addressed,
        destination_port: served.port,
        server_name: None,
        http: Some(http),
    };
    let asked = policies.custom(&subject).into_iter().map(|ask| (Arc::clone(ask.provider), ask.policy)).collect();
    let (considered, evaluation) = policies.explain(&subject);
    Explained { considered, asked, decided: decided(evaluation), ..Explained::default() }
}
