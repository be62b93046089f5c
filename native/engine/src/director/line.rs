//! The way to the director: a node's stands behind a Unix socket, a waypoint's is control, over TLS and shown a token.
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cli::waypoint::Control;
use crate::trust::{read, trusting};

/// A Unix socket answers at once or not at all, and control has done its handshake by then.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A control that vanished without a word is noticed after both together; one that is busy for seconds is kept.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(crate) enum Line {
    Socket(PathBuf),
    Control(Control),
}

impl Line {
    pub(super) async fn connect(&self) -> Result<Channel, String> {
        let name = self.name();
        let endpoint = match self {
            // The authority is never used: the connector goes to the socket.
            Self::Socket(_) => Endpoint::from_static("http://director"),
            Self::Control(control) => Endpoint::from_shared(format!("http://{}", control.address))
                .map_err(|error| format!("{name}: {error}"))?
                .http2_keep_alive_interval(PING_INTERVAL)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true),
        };
        let channel = endpoint.connect_timeout(CONNECT_LIMIT).connect_with_connector(Connector(self.clone())).await;
        channel.map_err(|error| format!("{name}: {}", with_causes(&error)))
    }

    /// A call with what the director wants to see first: a token that may have been renewed since the last one.
    pub(super) fn call<T>(&self, message: T) -> Result<Request<T>, String> {
        let mut request = Request::new(message);
        if let Self::Control(Control { token, .. }) = self {
            let text = read(token).map_err(|error| error.to_string())?;
            let text = std::str::from_utf8(&text).unwrap_or_default().trim();
            let header = (!text.is_empty()).then(|| MetadataValue::try_from(format!("Bearer {text}")).ok()).flatten();
            let mut header = header.ok_or_else(|| format!("{}: not a token", token.display()))?;
            header.set_sensitive(true);
            request.metadata_mut().insert("authorization", header);
        }
        Ok(request)
    }

    fn name(&self) -> String {
        match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Control(control) => control.address.clone(),
        }
    }

    async fn open(self) -> io::Result<Box<dyn Wire>> {
        let control = match self {
            Self::Socket(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Control(control) => control,
        };
        let config = Arc::new(trusting(&control.roots)?);
        let stream = TcpStream::connect(&control.address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(TlsConnector::from(config).connect(control.server_name, stream).await?))
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source()).fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

#[derive(Debug, Clone)]
struct Connector(Line);

type Opened = io::Result<TokioIo<Box<dyn Wire>>>;

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Wire>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Opened> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let line = self.0.clone();
        Box::pin(async move { line.open().await.map(TokioIo::new) })
    }
}
