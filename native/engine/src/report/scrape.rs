//! Prometheus text and health over HTTP: on the node's loopback, or in a waypoint's pod.
use std::convert::Infallible;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use trackbed_contract::tables::metrics;

use super::series::header;
use crate::data::{self, Order};
use crate::worker::shared::Shared;

/// Prometheus needs one connection; a few people with curl may look at the same time.
const MOST_CLIENTS: usize = 8;
/// A client that does not finish its request head holds one of the places.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// And one that keeps its connection open without asking gives it back.
const CONNECTION_LIMIT: Duration = Duration::from_mins(5);
/// For a thread to count: far more than a turn of a busy one takes.
const COUNTING_LIMIT: Duration = Duration::from_secs(1);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served: only `paths` are known on this listener, and `threads` count what they know before they are looked at.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) paths: &'static [&'static str],
    pub(crate) threads: Vec<data::Handle>,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) async fn serve(listener: TcpListener, served: Served) {
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let served = served.clone();
        tokio::spawn(async move {
            let _place = place;
            let answer = service_fn(move |request| {
                let served = served.clone();
                async move { Ok::<_, Infallible>(respond(&request, &served).await) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            let connection =
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).serve_connection(TokioIo::new(stream), answer);
            // What goes wrong here is the client's affair.
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
        });
    }
}

async fn respond<B>(request: &Request<B>, Served { paths, threads, shared }: &Served) -> Response<Text> {
    let path = paths.iter().find(|path| **path == request.uri().path()).copied();
    let (status, body) = match (request.method(), path) {
        (_, None) => (StatusCode::NOT_FOUND, format!("known paths: {}\n", paths.join(" "))),
        (&Method::GET, Some("/metrics")) => {
            counted(threads).await;
            (StatusCode::OK, text(shared))
        }
        (&Method::GET, Some("/healthz/ready")) => match shared.unready.load().as_str() {
            "" => (StatusCode::OK, "ready\n".to_owned()),
            why => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        (&Method::GET, Some(_)) => (StatusCode::OK, "ok\n".to_owned()),
        (_, Some(_)) => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
    };
    let mut response = Response::new(Text(Some(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

/// Whatever was answered before is in what is shown. A thread that is too busy to say so keeps nobody from the rest.
async fn counted(threads: &[data::Handle]) {
    for thread in threads {
        let (done, told) = oneshot::channel();
        if thread.try_send(Order::Tell(done)).is_ok() {
            let _ = tokio::time::timeout(COUNTING_LIMIT, told).await;
        }
    }
}

fn text(shared: &Shared) -> String {
    let mut text = String::new();
    shared.series.write(&mut text);
    shared.requests.write(&mut text);
    shared.observed.write(&mut text);
    shared.audits.write(&mut text);
    shared.limits.write(&mut text, shared.routes.load().table());
    let counters = &shared.counters;
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut one = |name: &str, kind: &str, help: &str, samples: &[(&str, u64)]| {
        header(&mut text, name, kind, help);
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    one(metrics::TRACKBED_CONNECTIONS, "gauge", "captured connections that are open", &[("", shared.pods.load().connections())]);
    one(
        metrics::TRACKBED_TUNNELS,
        "gauge",
        "open HBONE connections, by role",
        &[
            ("{role=\"client\"}", counters.client_tunnels.load(Ordering::Relaxed) as u64),
            ("{role=\"server\"}", counters.server_tunnels.load(Ordering::Relaxed) as u64),
        ],
    );
    one(metrics::TRACKBED_STATE_GENERATION, "gauge", "generation the engine acknowledged", &[("", load(&counters.generation))]);
    one(
        metrics::TRACKBED_ENGINE_RESTARTS_TOTAL,
        "counter",
        "worker processes that the keeper had to replace",
        &[("", load(&counters.restarts))],
    );
    one(metrics::TRACKBED_DRIFT_TOTAL, "counter", "changes noticed in the namespaces of pods", &[("", load(&counters.drift))]);
    one(
        metrics::TRACKBED_FLOWS_DROPPED_TOTAL,
        "counter",
        "flow records dropped because a queue was full",
        &[("", shared.reports.dropped_total())],
    );
    one(
        metrics::TRACKBED_DNS_REQUESTS_TOTAL,
        "counter",
        "captured DNS queries, by outcome",
        &[
            ("{outcome=\"answered\"}", load(&counters.dns_answered)),
            ("{outcome=\"forwarded\"}", load(&counters.dns_forwarded)),
            ("{outcome=\"refused\"}", load(&counters.dns_refused)),
            ("{outcome=\"failed\"}", load(&counters.dns_failed)),
        ],
    );
    one(metrics::TRACKBED_LOG_DROPPED_TOTAL, "counter", "log lines dropped because their reader was slow", &[("", crate::log::dropped())]);
    one(
        metrics::TRACKBED_SERIES_DROPPED_TOTAL,
        "counter",
        "connections and requests without metrics because the number of series is bounded",
        &[("", shared.series.overflowed() + shared.requests.overflowed() + shared.observed.overflowed())],
    );
    one(
        metrics::TRACKBED_ACCEPT_PAUSES_TOTAL,
        "counter",
        "times accepting paused for lack of descriptors",
        &[("", load(&counters.accept_pauses))],
    );
    one(
        metrics::TRACKBED_RECORDINGS,
        "gauge",
        "recordings of pods' traffic (trackbed pcap) that are on",
        &[("", shared.recordings.count())],
    );
    one(
        metrics::TRACKBED_CONNECTIONS_SHED_TOTAL,
        "counter",
        "connections refused because descriptors are few and their pod holds more than others",
        &[("", load(&counters.shed))],
    );
    one(
        metrics::TRACKBED_TUNNELS_REFUSED_TOTAL,
        "counter",
        "tunnels refused because their peer or all peers of a pod hold too many",
        &[("", load(&counters.tunnels_refused))],
    );
    if let Some(spans) = &shared.spans {
        one(metrics::TRACKBED_SPANS_EXPORTED_TOTAL, "counter", "spans that the collector took", &[("", load(&spans.exported))]);
        one(
            metrics::TRACKBED_SPANS_DROPPED_TOTAL,
            "counter",
            "spans dropped because a queue was full or the collector did not take them",
            &[("", load(&spans.dropped))],
        );
    }
    certificates(&mut text, shared);
    text
}

/// The first certificate to end says whether renewal works.
fn certificates(text: &mut String, shared: &Shared) {
    let name = metrics::TRACKBED_CERTIFICATE_EXPIRY_SECONDS;
    let Some(first) = shared.identities.load().values().map(|certified| certified.not_after()).min() else { return };
    let left = first.duration_since(SystemTime::now()).unwrap_or_default();
    header(text, name, "gauge", "seconds until a certificate ends, by kind");
    let _ = writeln!(text, "{name}{{kind=\"workload\"}} {}", left.as_secs());
}

/// Binds so that a second engine on the same address is a clear error at start.
pub(crate) async fn bind(option: &str, address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| std::io::Error::new(error.kind(), format!("{option} {address}: {error}")))
}

/// All addresses of both families, where the kernel has both, unless one was asked for.
pub(crate) async fn bind_or_any(option: &str, address: Option<SocketAddr>, port: u16) -> std::io::Result<TcpListener> {
    match address {
        Some(address) => bind(option, address).await,
        None => match bind(option, (Ipv6Addr::UNSPECIFIED, port).into()).await {
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => bind(option, (Ipv4Addr::UNSPECIFIED, port).into()).await,
            bound => bound,
        },
    }
}

struct Text(Option<Bytes>);

impl hyper::body::Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        hyper::body::SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}
