//! External authorization by real servers: one of gRPC made by tonic from the protocol, and one of HTTP.
use crate::access::{access, any, exact, policy, prefix};
use crate::support::{Backend, Body, Got, Local, PORT, Waypoint, backend, backend_that, body, get, one_rule, run, to, waypoint};
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::task::spawn_local;
use trackbed_contract::authorization::provider::Protocol;
use trackbed_contract::authorization::{Access, Action, CheckBody, CheckHeader, GrpcCheck, HttpCheck, Match, Policy, Provider};
use trackbed_contract::ext_authz::attribute_context::HttpRequest;
use trackbed_contract::ext_authz::authorization_server::{Authorization, AuthorizationServer};
use trackbed_contract::ext_authz::check_response::HttpResponse;
use trackbed_contract::ext_authz::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderAppendAction, HeaderValue, HeaderValueOption, HttpStatus, OkHttpResponse,
    QueryParameter, Status,
};
use trackbed_l7::Flag;

type Asked = Arc<Mutex<Vec<CheckRequest>>>;

/// Answers what it was told to, or never.
#[derive(Clone)]
pub(crate) struct Decider {
    pub(crate) asked: Asked,
    answer: Arc<Mutex<Option<Result<CheckResponse, tonic::Code>>>>,
}

#[tonic::async_trait]
impl Authorization for Decider {
    async fn check(&self, request: tonic::Request<CheckRequest>) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        self.asked.lock().unwrap().push(request.into_inner());
        let answer = self.answer.lock().unwrap().clone();
        match answer {
            Some(Ok(answer)) => Ok(tonic::Response::new(answer)),
            Some(Err(code)) => Err(tonic::Status::new(code, "no")),
            None => std::future::pending().await,
        }
    }
}

impl Decider {
    pub(crate) async fn start() -> (Self, SocketAddr) {
        let decider = Self { asked: Asked::default(), answer: Arc::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = AuthorizationServer::new(decider.clone());
        spawn_local(async move {
            while let Ok((io, _)) = listener.accept().await {
                let service = TowerToHyperService::new(server.clone());
                spawn_local(async move {
                    let connection = hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(io), service);
                    drop(connection.await);
                });
            }
        });
        (decider, address)
    }

    pub(crate) fn answers(&self, answer: Result<CheckResponse, tonic::Code>) {
        *self.answer.lock().unwrap() = Some(answer);
    }

    pub(crate) fn last(&self) -> HttpRequest {
        self.asked.lock().unwrap().last().unwrap().attributes.clone().unwrap().request.unwrap().http.unwrap()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "one of the answers that a decider can have")]
pub(crate) fn ok(response: OkHttpResponse) -> Result<CheckResponse, tonic::Code> {
    Ok(CheckResponse { status: Some(Status::default()), http_response: Some(HttpResponse::OkResponse(response)) })
}

#[expect(clippy::unnecessary_wraps, reason = "one of the answers that a decider can have")]
pub(crate) fn denied(response: DeniedHttpResponse) -> Result<CheckResponse, tonic::Code> {
    let status = Some(Status { code: 7, ..Status::default() });
    Ok(CheckResponse { status, http_response: Some(HttpResponse::DeniedResponse(response)) })
}

pub(crate) fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    let header = Some(HeaderValue { key: key.into(), value: value.into(), ..HeaderValue::default() });
    HeaderValueOption { header, append, ..HeaderValueOption::default() }
}

fn provider(protocol: Protocol) -> Provider {
    Provider { name: "decider".into(), service: "auth/decider".into(), port: PORT.into(), protocol: Some(protocol), ..Provider::default() }
}

pub(crate) fn grpc() -> Provider {
    provider(Protocol::Grpc(GrpcCheck {}))
}

/// Everything below /private is asked about.
pub(crate) fn asking(provider: Provider) -> Access {
    let private = Match { paths: any(&[prefix("/private")]), ..Match::default() };
    let custom = Policy { provider: provider.name.clone(), ..policy("ask", Action::Custom, &[private]) };
    Access { providers: vec![provider], ..access(vec![custom]) }
}

async fn served(provider: Provider, decider: SocketAddr) -> (Waypoint, Backend) {
    let waypoint = waypoint(one_rule(to("shop/v1"))).await;
    let v1 = backend("v1").await;
    waypoint.backend("shop/v1", &v1);
    waypoint.endpoint("auth/decider", PORT, "decider", decider);
    waypoint.guard(one_rule(to("shop/v1")), Some(&asking(provider)));
    (waypoint, v1)
}

async fn post(waypoint: &Waypoint, path: &str, text: &str) -> Got {
    let request = Request::post(path).header("host", "cart").body(body(text.to_owned())).unwrap();
    waypoint.http1().await.send(request).await
}

#[test]
fn what_it_asks_is_what_would_go_on() {
    run(async {
        let (decider, address) = Decider::start().await;
        decider.answers(ok(OkHttpResponse::default()));
        let with = Provider { body: Some(CheckBody { maximum_bytes: 8, partial: true, as_bytes: false }), ..grpc() };
        let (waypoint, v1) = served(with, address).await;
        assert_eq!(waypoint.http1().await.get("/public").await.status, 200);
        assert!(decider.asked.lock().unwrap().is_empty(), "nobody asks about other paths");
        let request = Request::post("/private/%61?q=1").header("host", "Cart:80").header("x-a", "1").header("x-a", "2");
        let got = waypoint.http1().await.send(request.body(body("0123456789")).unwrap()).await;
        assert_eq!((got.status.as_u16(), got.body.as_str()), (200, "0123456789"), "the whole body goes on");
        let asked = decider.last();
        assert_eq!(
            (asked.method.as_str(), asked.path.as_str(), asked.host.as_str(), asked.query.as_str()),
            ("POST", "/private/a?q=1", "Cart:80", "")
        );
        assert_eq!((asked.scheme.as_str(), asked.protocol.as_str(), asked.size, asked.body.as_str()), ("http", "HTTP/1.1", 10, "01234567"));
        for (name, value) in [("x-a", "1,2"), (":path", "/private/a?q=1"), (":method", "POST"), ("x-envoy-auth-partial-body", "true")] {
            assert_eq!(asked.headers.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(asked.headers["x-request-id"], asked.id);
        let source = decider.asked.lock().unwrap()[0].attributes.clone().unwrap().source.unwrap();
        assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/default");
        assert_eq!(source.address.unwrap().socket_address.unwrap().address, "127.0.0.1");
        assert_eq!(v1.seen.borrow().len(), 2);
        assert_eq!(post(&waypoint, "/private", "01234567").await.status, 200);
        assert_eq!(decider.last().headers["x-envoy-auth-partial-body"], "false");
    });
}

#[test]
fn what_it_admits_goes_on_as_it_says() {
    run(async {
        let (decider, address) = Decider::start().await;
        let added =
            |key: &str, value: &str, how: HeaderAppendAction| HeaderValueOption { append_action: how.into(), ..option(key, value, None) };
        decider.answers(ok(OkHttpResponse {
            headers: vec![option("x-user", "ann", None), option("x-list", "b", Some(true)), option("x-new", "n", Some(false))],
            headers_to_remove: vec!["x-secret".into()],
            response_headers_to_add: vec![option("x-checked", "yes", None), added("x-backend", "other", HeaderAppendAction::AddIfAbsent)],
            query_parameters_to_set: vec![QueryParameter { key: "user".into(), value: "a&b".into() }],
            query_parameters_to_remove: vec!["drop".into()],
        }));
        let (waypoint, v1) = served(grpc(), address).await;
        let request = get("/private?drop=1&keep=2&user=root").header("x-user", "root").header("x-list", "a").header("x-secret", "s");
        let got = waypoint.http1().await.send(request.body(body("")).unwrap()).await;
        assert_eq!((got.status.as_u16(), got.header("x-checked"), got.header("x-backend")), (200, "yes", "v1"));
        let seen = v1.seen.borrow()[0].clone();
        assert_eq!(seen.uri, "/private?keep=2&user=a%26b");
        assert_eq!((seen.header("x-user"), seen.header("x-new"), seen.headers.get("x-secret")), ("ann", "n", None));
        assert_eq!(seen.headers.get_all("x-list").iter().collect::<Vec<_>>(), ["a", "b"]);
    });
}

#[test]
fn what_it_denies_is_answered_in_its_words() {
    run(async {
        let (decider, address) = Decider::start().await;
        let (waypoint, v1) = served(grpc(), address).await;
        let headers = vec![option("location", "https://login", None), option("content-type", "text/html", None)];
        decider.answers(denied(DeniedHttpResponse { status: Some(HttpStatus { code: 302 }), headers, body: "<a>".into() }));
        let got = waypoint.http1().await.get("/private").await;
        assert_eq!(
            (got.status.as_u16(), got.header("location"), got.header("content-type"), got.body.as_str()),
            (302, "https://login", "text/html", "<a>")
        );
        decider.answers(denied(DeniedHttpResponse::default()));
        let call = get("/private").header("content-type", "application/grpc").body(body("")).unwrap();
        let got = waypoint.http2().await.send(call).await;
        assert_eq!((got.status.as_u16(), got.header("grpc-status")), (200, "7"));
        decider.answers(Ok(CheckResponse { status: Some(Status { code: 16, ..Status::default() }), http_response: None }));
        assert_eq!(waypoint.http1().await.get("/private").await.status, 403);
        assert!(v1.seen.borrow().is_empty());
        let told = waypoint.ledger().requests.borrow();
        assert!(told.iter().all(|told| told.flags == [Flag::ExternallyDenied] && told.decided == "E_POLICY_EXTERNAL shop/ask 0"));
    });
}

#[test]
fn who_cannot_be_asked_or_answers_nonsense_denies() {
    run(async {
        let (decider, address) = Decider::start().await;
        let short = Provider { timeout_milliseconds: 100, ..grpc() };
        let (waypoint, v1) = served(short.clone(), address).await;
        let bad = |header: HeaderValueOption| ok(OkHttpResponse { headers: vec![header], ..OkHttpResponse::default() });
        let answers = [
            None,
            Some(Err(tonic::Code::Unavailable)),
            Some(Err(tonic::Code::PermissionDenied)),
            Some(Ok(CheckResponse::default())),
            Some(Ok(CheckResponse { status: None, http_response: Some(HttpResponse::OkResponse(OkHttpResponse::default())) })),
            Some(Ok(CheckResponse {
                status: Some(Status::default()),
                http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse::default())),
            })),
            Some(denied(DeniedHttpResponse { status: Some(HttpStatus { code: 200 }), ..DeniedHttpResponse::default() })),
            Some(denied(DeniedHttpResponse { status: Some(HttpStatus { code: 70_000 }), ..DeniedHttpResponse::default() })),
            Some(denied(DeniedHttpResponse { body: "x".repeat(70_000), ..DeniedHttpResponse::default() })),
            Some(bad(option("host", "other", None))),
            Some(bad(option(":path", "/other", None))),
            Some(bad(option("content-length", "1", None))),
            Some(bad(option("transfer-encoding", "chunked", None))),
            Some(bad(option("x", "a\r\nb", None))),
            Some(bad(HeaderValueOption::default())),
        ];
        let count = answers.len();
        for answer in answers {
            *decider.answer.lock().unwrap() = answer.clone();
            let got = waypoint.http1().await.get("/private").await;
            assert_eq!((got.status.as_u16(), got.body.as_str()), (403, "external authorization for shop/ask failed"), "{answer:?}");
        }
        assert!(v1.seen.borrow().is_empty());
        assert!(waypoint.ledger().requests.borrow().iter().all(|told| told.decided == "E_POLICY_EXTERNAL_FAILED shop/ask 0"));
        assert_eq!(waypoint.ledger().requests.borrow().len(), count);
        // Nobody there at all.
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for (decided, expected) in [
            (grpc(), 403),
            (Provider { status_on_error: 503, ..grpc() }, 503),
            (Provider { fail_open: true, ..grpc() }, 200),
            (Provider { service: "auth/unknown".into(), ..grpc() }, 403),
        ] {
            let (waypoint, v1) = served(decided, nobody).await;
            assert_eq!(waypoint.http1().await.get("/private").await.status, expected);
            assert_eq!(v1.seen.borrow().len(), usize::from(expected == 200));
        }
        // It may let pass only who could not be asked about.
        *decider.answer.lock().unwrap() = None;
        let (waypoint, _v1) = served(Provider { fail_open: true, ..short }, address).await;
        assert_eq!(waypoint.http1().await.get("/private").await.status, 200);
        decider.answers(denied(DeniedHttpResponse::default()));
        assert_eq!(waypoint.http1().await.get("/private").await.status, 403);
    });
}

#[test]
fn bodies_go_along_as_far_as_they_may() {
    run(async {
        let (decider, address) = Decider::start().await;
        decider.answers(ok(OkHttpResponse::default()));
        let whole = Provider { body: Some(CheckBody { maximum_bytes: 8, partial: false, as_bytes: true }), ..grpc() };
        let (waypoint, v1) = served(whole, address).await;
        assert_eq!(post(&waypoint, "/private", "012345678").await.status, 413);
        assert_eq!(post(&waypoint, "/private", "01234567").await.body, "01234567");
        assert_eq!(decider.last().raw_body, b"01234567");
        assert_eq!(post(&waypoint, "/private", "").await.status, 200);
        let large = "x".repeat(300_000);
        assert_eq!(post(&waypoint, "/public", &large).await.body, large);
        assert_eq!(v1.seen.borrow().len(), 3);
        let most = Provider { body: Some(CheckBody { maximum_bytes: 100_000, partial: true, as_bytes: true }), ..grpc() };
        waypoint.guard(one_rule(to("shop/v1")), Some(&asking(most)));
        assert_eq!(post(&waypoint, "/private", &large).await.body, large, "what was read for the question goes on too");
        assert_eq!(decider.last().raw_body.len(), 100_000);
    });
}

#[test]
fn by_http_the_status_decides() {
    run(async {
        let decider = backend_that("decider", |seen| {
            let status = seen.header("x-answer").parse().unwrap_or(200);
            let response = Response::builder().status(status).header("x-user", "ann").header("x-user", "too").header("x-other", "o");
            let response: Response<Body> = response.header("x-note", "n").body(body("why")).unwrap();
            std::future::ready(response)
        })
        .await;
        let check = HttpCheck {
            path_prefix: "/check/".into(),
            headers: any(&[prefix("x-a")]),
            additional_headers: vec![CheckHeader { name: "x-from".into(), value: "waypoint".into() }],
            to_upstream_on_allow: any(&[exact("X-User")]),
            to_downstream_on_allow: any(&[exact("x-note")]),
            to_downstream_on_deny: any(&[exact("x-other")]),
        };
        let (waypoint, v1) = served(provider(Protocol::Http(check)), decider.address).await;
        let ask = async |status: &str| {
            let request = get("/private/x?q=1").header("authorization", "Basic x").header("cookie", "c=1").header("x-user", "root");
            waypoint.http1().await.send(request.header("x-answer", status).body(body("")).unwrap()).await
        };
        let got = ask("200").await;
        assert_eq!((got.status.as_u16(), got.header("x-note"), got.header("x-other")), (200, "n", ""));
        let seen = v1.seen.borrow()[0].clone();
        assert_eq!(seen.headers.get_all("x-user").iter().collect::<Vec<_>>(), ["ann", "too"]);
        let asked = decider.seen.borrow()[0].clone();
        assert_eq!((asked.uri.as_str(), asked.header("host"), asked.header("x-from")), ("/check/private/x?q=1", "cart", "waypoint"));
        assert_eq!((asked.header("authorization"), asked.headers.get("cookie"), asked.header("x-answer")), ("Basic x", None, "200"));
        for (status, expected) in [("401", 401), ("403", 403), ("302", 302), ("201", 403), ("500", 403), ("503", 403)] {
            let got = ask(status).await;
            assert_eq!(got.status.as_u16(), expected, "{status}");
            if expected == 401 {
                assert_eq!((got.body.as_str(), got.header("x-other"), got.header("x-note")), ("why", "o", ""));
            }
        }
        assert_eq!(v1.seen.borrow().len(), 1);
    });
}

#[test]
fn policies_see_what_it_says() {
    run(async {
        let (decider, address) = Decider::start().await;
        decider.answers(ok(OkHttpResponse { headers: vec![option("x-user", "ann", None)], ..OkHttpResponse::default() }));
        let (waypoint, v1) = served(grpc(), address).await;
        let user = |name: &str| trackbed_contract::authorization::Named { name: "x-user".into(), values: any(&[exact(name)]) };
        let deny = |name: &str| policy("users", Action::Deny, &[Match { headers: vec![user(name)], ..Match::default() }]);
        let with = |more: Policy| {
            let mut access = asking(grpc());
            access.policies.push(more);
            access
        };
        waypoint.guard(one_rule(to("shop/v1")), Some(&with(deny("ann"))));
        assert_eq!(waypoint.http1().await.get("/private").await.body, "RBAC: access denied by shop/users, rule 0");
        waypoint.guard(one_rule(to("shop/v1")), Some(&with(deny("root"))));
        let request = get("/private").header("x-user", "root").body(body("")).unwrap();
        assert_eq!(waypoint.http1().await.send(request).await.status, 200, "what the client says of itself is gone");
        assert_eq!(v1.seen.borrow().len(), 1);
    });
}
