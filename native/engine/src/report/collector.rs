//! The way to a collector of spans: plain, or over TLS.
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cli::waypoint::Traces;
use crate::trust::trusting;

/// Where systems keep the roots that they trust: Debian and Alpine, Fedora and its kin, openSUSE.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem"];

/// Opened with the first batch, and again whenever it was lost.
pub(super) fn channel(traces: &Traces, limit: Duration) -> Channel {
    let endpoint = Endpoint::from(traces.collector.clone()).connect_timeout(limit).timeout(limit);
    endpoint.connect_with_connector_lazy(Connector { roots: traces.roots.clone() })
}

#[derive(Debug, Clone)]
struct Connector {
    /// None: those of the system.
    roots: Option<PathBuf>,
}

impl Connector {
    async fn open(self, uri: Uri) -> io::Result<Box<dyn Wire>> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let stream = TcpStream::connect((&*host, uri.port_u16().unwrap_or_default())).await?;
        stream.set_nodelay(true)?;
        if uri.scheme_str() != Some("https") {
            return Ok(Box::new(stream));
        }
        let roots = match &self.roots {
            Some(roots) => roots,
            None => system_roots()?,
        };
        let config = Arc::new(trusting(roots)?);
        let name = ServerName::try_from(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

fn system_roots() -> io::Result<&'static Path> {
    let found = SYSTEM_ROOTS.into_iter().map(Path::new).find(|path| path.exists());
    found.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the system has no roots: name a file of the collector's with --trace-roots")
    })
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Wire>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.open(uri).await.map(TokioIo::new) })
    }
}
