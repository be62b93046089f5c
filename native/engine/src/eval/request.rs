//! What becomes of a request at the waypoints on its way, by the table that they serve from.
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::http::request::Parts;
use serde::Serialize;
use trackbed_contract::tables::errors;
use trackbed_decide::{Judgement, Prospect, Verdict, Way};
use trackbed_l7::{Client, Decided, Explained, Served};
use trackbed_policy::PolicyTold;

use super::Mesh;
use super::line::{Connect, Request, Source};

/// The default port of HTTP is not written behind a host.
const HTTP: u16 = 80;
/// A client's port is nobody's business here.
const ANY_PORT: u16 = 1;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RequestTold {
    service: Arc<str>,
    port: u16,
    /// Every policy of the service's requests.
    considered: Vec<PolicyTold>,
    /// External authorization services that are asked first.
    asked: Vec<String>,
    #[serde(flatten)]
    judgement: Judgement,
    /// `HTTPRoute/shop/cart/0`; null = no route is attached, or it is refused before.
    route: Option<String>,
    backends: Vec<Backend>,
}

#[derive(Debug, Serialize)]
struct Backend {
    service: Arc<str>,
    port: u16,
    weight: u32,
}

/// Of each waypoint's service once; what it says holds for the ways through that waypoint. A state without routes says nothing.
pub(super) fn explain(mesh: &Mesh, question: &Connect, request: &Request, prospect: &mut Prospect) -> Result<Vec<RequestTold>, String> {
    let mut told: Vec<RequestTold> = Vec::new();
    for way in &mut prospect.ways {
        let Some((service, port)) = way.serves.clone().filter(|(service, _)| mesh.routes.has(service)) else { continue };
        if !told.iter().any(|known| known.service == service && known.port == port) {
            let client = client(mesh, &question.source, way)?;
            let explained =
                mesh.routes.table().explain(&client, &Served { service: Arc::clone(&service), port }, parts(question, request)?);
            told.push(RequestTold::of(explained, service.clone(), port));
        }
        if let Some(one) = told.iter().find(|known| known.service == service && known.port == port)
            && way.judgement.verdict == Verdict::Allowed
        {
            way.judgement = one.judgement.clone();
        }
    }
    prospect.settle();
    Ok(told)
}

fn client(mesh: &Mesh, source: &Source, way: &Way) -> Result<Client, String> {
    let Source::Workload(uid) = source else { return Err("only a workload of the mesh comes to a waypoint".to_owned()) };
    let identity = mesh.world.workload(uid).map(|workload| workload.identity.clone());
    let ip = way.from.ok_or("the way to a waypoint has no client's address")?;
    let addressed = way.address.parse::<SocketAddr>().ok().map(|address| address.ip());
    Ok(Client { identity, address: SocketAddr::new(ip, ANY_PORT), addressed })
}

fn parts(question: &Connect, request: &Request) -> Result<Parts, String> {
    let host = if question.host.contains(':') { format!("[{}]", question.host) } else { question.host.clone() };
    let host = if question.port == HTTP { host } else { format!("{host}:{}", question.port) };
    let named = request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let builder = hyper::Request::builder().method(request.method.as_str()).uri(request.path.as_str());
    let builder = request.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
    let builder = if named { builder } else { builder.header("host", host) };
    builder.body(()).map(|request| request.into_parts().0).map_err(|error| format!("request: {error}"))
}

impl RequestTold {
    fn of(explained: Explained, service: Arc<str>, port: u16) -> Self {
        let Explained { considered, asked, decided, route, backends } = explained;
        let judgement = judgement(decided);
        let asked: Vec<String> = asked.iter().map(|(provider, policy)| format!("{provider} by {}", policy.name)).collect();
        let judgement = if judgement.verdict == Verdict::Allowed && !asked.is_empty() {
            let reason = format!("it depends on what is answered by {}", asked.join(", "));
            Judgement { verdict: Verdict::Depends, code: errors::POLICY_DENIED, reason, ..judgement }
        } else {
            judgement
        };
        let backend = |(key, weight): (Arc<trackbed_l7::BackendKey>, u32)| Backend { service: key.service.clone(), port: key.port, weight };
        let backends = backends.into_iter().map(backend).collect();
        Self { service, port, considered, asked, judgement, route: route.map(Into::into), backends }
    }
}

/// None: nobody objects.
pub(super) fn judgement(decided: Option<Decided>) -> Judgement {
    let allowed = || Judgement::new(Verdict::Allowed, "", String::new());
    match decided {
        None => allowed(),
        Some(Decided { code: "", policy, audit, .. }) => Judgement { policy, audit, ..allowed() },
        Some(Decided { code, reason, policy, audit }) => {
            let verdict = if policy.is_some() { Verdict::Denied } else { Verdict::Failed };
            Judgement { policy, audit, ..Judgement::new(verdict, code, reason) }
        }
    }
}
