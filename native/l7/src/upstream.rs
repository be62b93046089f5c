//! How backends are reached: implemented by the engine with endpoint choice and tunnels, by tests with plain TCP.
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
pub use trackbed_balance::Member;

/// A service that requests go to, as the routes name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendKey {
    /// "namespace/hostname"
    pub service: Arc<str>,
    pub port: u16,
}

/// One workload of a backend. It is held for as long as the request that it was chosen for lasts, the last byte of the response included; a
/// `detail` that counts open requests in its `Drop` counts right.
#[derive(Debug)]
pub struct Endpoint<D> {
    /// Of the workload. With `address`, it is what pooled connections are kept by.
    pub uid: Arc<str>,
    /// Address and port of the workload, the target port resolved.
    pub address: SocketAddr,
    pub detail: D,
}

/// What an endpoint did, for those who choose the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No connection came about.
    Unreachable,
    /// The connection was lost, or the time was over, before the answer began.
    Lost,
    /// The status of its answer; of gRPC, what stands in HTTP for its own. Of a connection without HTTP: 0, when it was established.
    Answered(u16),
    /// An answer of gRPC began, and its trailers will say its status.
    Began,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEndpoint {
    #[error("the service or its port is not known")]
    Unknown,
    #[error("the service has no endpoint that could be used")]
    None,
}

/// `code` is from the errors of proto/tables.json.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct ConnectError {
    pub code: &'static str,
    pub reason: String,
}

pub trait Upstream: 'static {
    /// Dropped without a shutdown, it is a reset.
    type Io: AsyncRead + AsyncWrite + Unpin + 'static;
    type Detail: 'static;
    /// Who could be asked for one backend, as of some moment.
    type Candidates: 'static;

    /// Asked for once, and again when they are not current any more.
    fn candidates(&self, backend: &BackendKey) -> Result<Self::Candidates, NoEndpoint>;

    /// Whether they still are who could be asked. Cheap: called for each try.
    fn are_current(&self, backend: &BackendKey, candidates: &Self::Candidates) -> bool;

    fn members<'a>(&self, candidates: &'a Self::Candidates) -> &'a [Member];

    /// The one of this index. None: it cannot be reached as things are now.
    fn endpoint(&self, candidates: &Self::Candidates, index: usize) -> Option<Endpoint<Self::Detail>>;

    /// Bounded in time by the implementation.
    fn connect(&self, endpoint: &Endpoint<Self::Detail>) -> impl Future<Output = Result<Self::Io, ConnectError>>;

    /// Called once for each try that an endpoint was chosen for, unless the client went away first.
    fn observe(&self, _endpoint: &Endpoint<Self::Detail>, _outcome: Outcome) {}
}
