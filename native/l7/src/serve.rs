//! One connection of a client, from its first byte to its last.
use crate::{Client, Context, Served, Upstream};
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};

/// How a connection ended. In every case `io` was dropped: shut down before if the end was orderly, not shut down if it is to be a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By either side, or drained.
    Closed,
    /// Nothing is known of the service, or no rule matches, or the backend cannot be used: nothing was carried.
    Refused,
    /// Broken off by an error of the client's side.
    Client,
    /// Broken off by an error of the backend's side (TCP and TLS; of HTTP each request has its own end).
    Upstream,
}

/// Serves `io`, whose other end is `client` and who addressed `served`, until it ends. Runs in the task of its caller, which may drop it.
pub async fn serve<Io, U>(io: Io, client: Client, served: Served, context: Rc<Context<U>>) -> End
where
    Io: AsyncRead + AsyncWrite + Unpin + 'static,
    U: Upstream,
{
    let Some(_) = context.table().service(&served.service) else { return End::Refused };
    drop((io, client));
    End::Refused
}
