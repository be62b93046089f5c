//! Spans of requests: what a collector gets of them, and what becomes of requests whose collector is not there.
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::transport::server::Connected;
use tonic_prost::ProstCodec;

use super::http::Client;
use super::lab::eventually;
use super::routing::{CART, PORT, Shop, cart, to};

#[path = "../../../src/report/otlp.rs"]
#[allow(dead_code)] // what only the engine says
mod otlp;

use otlp::{ExportRequest, ExportResponse, ResourceSpans, Span, Value};

/// A collector of OTLP, which keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ResourceSpans>>>);

impl Collector {
    /// Its address within the fabric.
    fn start(&self, shop: &Shop) -> String {
        format!("http://{}", self.serve(shop, None))
    }

    /// The same over TLS. Its address, and a file with the certificate that vouches for it.
    fn start_tls(&self, shop: &Shop) -> (String, PathBuf) {
        let made = rcgen::generate_simple_self_signed(["10.77.0.1".to_owned()]).unwrap();
        let roots = std::env::temp_dir().join(format!("trackbed-collector-{}-{:08x}.pem", std::process::id(), fastrand::u32(..)));
        std::fs::write(&roots, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        (format!("https://{}", self.serve(shop, Some(Arc::new(config).into()))), roots)
    }

    fn serve(&self, shop: &Shop, tls: Option<TlsAcceptor>) -> SocketAddr {
        let listener = shop.fabric.netns.enter(|| TcpListener::bind("10.77.0.1:0")).unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let incoming = futures_util::stream::unfold((listener, tls), async |(listener, tls)| {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        let opened: Option<Box<dyn Wire>> = match &tls {
                            None => Some(Box::new(stream)),
                            // Who does not like its certificate goes away.
                            Some(tls) => tls.accept(stream).await.ok().map(|stream| Box::new(stream) as Box<dyn Wire>),
                        };
                        if let Some(opened) = opened {
                            return Some((Ok::<_, io::Error>(Opened(opened)), (listener, tls)));
                        }
                    }
                });
                tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
            });
        });
        address
    }

    fn spans(&self) -> Vec<Span> {
        let all = self.0.lock().unwrap();
        all.iter().flat_map(|of| &of.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

struct Opened(Box<dyn Wire>);

impl Connected for Opened {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Opened {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl tower_service::Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), otlp::EXPORT);
        let kept = Arc::clone(&self.0);
        let keep = move |request: tonic::Request<ExportRequest>| {
            kept.lock().unwrap().extend(request.into_inner().resource_spans);
            std::future::ready(Ok(tonic::Response::new(ExportResponse::default())))
        };
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<ExportResponse, ExportRequest>::default());
            Ok(grpc.unary(Keep(keep), request).await)
        })
    }
}

struct Keep<F>(F);

impl<F, A> tonic::server::UnaryService<ExportRequest> for Keep<F>
where
    F: FnMut(tonic::Request<ExportRequest>) -> A,
    A: Future<Output = Result<tonic::Response<ExportResponse>, tonic::Status>>,
{
    type Response = ExportResponse;
    type Future = A;

    fn call(&mut self, request: tonic::Request<ExportRequest>) -> A {
        (self.0)(request)
    }
}

fn text(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|one| one.key == key).and_then(|one| one.value.clone()).and_then(|value| value.value);
    match value {
        Some(Value::Text(text)) => text,
        Some(Value::Number(number)) => number.to_string(),
        None => String::new(),
    }
}

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[test]
fn a_traced_request_is_a_span_between_its_client_and_its_server() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let collector = Collector::default();
    let url = collector.start(&shop);
    let waypoint = shop.waypoint_with(0, &[cart(vec![to("news", "/news")])], &["--traces", &url, "--trace-share", "0"]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    let mut ask = |path: &str, flags: &str| {
        let context = format!("traceparent: 00-{TRACE}-{PARENT}-{flags}");
        client.ask(&format!("GET {path} HTTP/1.1\r\nhost: cart\r\n{context}\r\n\r\n")).unwrap().unwrap()
    };
    // Neither one that its client does not trace nor, by a share of 0, one without a trace makes a span.
    let untraced = ask("/news/a", "00");
    assert!(untraced.body.contains(&format!("|00-{TRACE}-{PARENT}-00")), "{}", untraced.body);
    let traced = ask("/news/b?secret=1", "01");
    assert_eq!(ask("/else", "01").status, 404);
    assert_eq!(client.get("/news/c").status, 200);
    eventually("two spans", || collector.spans().len() >= 2);
    let spans = collector.spans();
    let [one, other] = &spans[..] else { panic!("{spans:#?}") };
    assert!(
        traced.body.contains(&format!("|00-{TRACE}-{}-01", hex(&one.id))),
        "the server has the waypoint as its parent: {}",
        traced.body
    );
    assert_eq!((hex(&one.trace), hex(&one.parent), &*one.name), (TRACE.into(), PARENT.into(), "GET HTTPRoute/shop/to-news/0"));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", "/news/b"),
        ("http.response.status_code", "200"),
        ("trackbed.backend", "shop/news.shop.svc.cluster.local"),
        ("upstream.workload", "news"),
        ("source.principal", "spiffe://cluster.local/ns/shop/sa/web"),
    ] {
        assert_eq!(text(one, key), value, "{key}");
    }
    assert!(one.start_time_unix_nano > 0 && one.end_time_unix_nano >= one.start_time_unix_nano);
    assert_eq!((text(other, "http.response.status_code"), text(other, "response_flags")), ("404".into(), "NR".into()));
    let resource = collector.0.lock().unwrap()[0].resource.clone().unwrap();
    assert!(format!("{resource:?}").contains("gate.shop"), "{resource:?}");
    eventually("they are counted", || waypoint.metrics().contains("trackbed_spans_exported_total 2"));
}

#[test]
fn spans_go_over_tls_to_a_collector_that_shows_a_certificate_of_the_roots_and_to_no_other() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let (right, wrong) = (Collector::default(), Collector::default());
    let (url, roots) = right.start_tls(&shop);
    let (stranger, other) = wrong.start_tls(&shop);
    let options = ["--traces", &url, "--trace-roots", roots.to_str().unwrap(), "--trace-share", "1"];
    let waypoint = shop.waypoint_with(0, &[cart(vec![to("cart", "/")])], &options);
    assert_eq!(Client::new(&shop.web, CART, PORT).unwrap().get("/").status, 200);
    eventually("a span", || right.spans().len() == 1);
    drop(waypoint);
    let options = ["--traces", &stranger, "--trace-roots", roots.to_str().unwrap(), "--trace-share", "1"];
    let waypoint = shop.waypoint_with(0, &[cart(vec![to("cart", "/")])], &options);
    assert_eq!(Client::new(&shop.web, CART, PORT).unwrap().get("/").status, 200);
    eventually("it is dropped", || waypoint.metrics().contains("trackbed_spans_dropped_total 1"));
    assert_eq!(wrong.spans().len(), 0);
    for file in [roots, other] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_collector_that_is_not_there_costs_spans_and_no_request() {
    let Some(shop) = Shop::new(&["gate"]) else { return };
    let waypoint = shop.waypoint_with(0, &[cart(vec![to("cart", "/")])], &["--traces", "http://10.77.0.1:9", "--trace-share", "1"]);
    let mut client = Client::new(&shop.web, CART, PORT).unwrap();
    for _ in 0..5 {
        let answer = client.get("/");
        assert!(answer.status == 200 && answer.body.contains("-01"), "{}", answer.body);
    }
    eventually("they are dropped", || waypoint.metrics().contains("trackbed_spans_dropped_total 5"));
}
