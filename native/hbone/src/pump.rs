//! Moves the bytes of one connection both ways, and its ends: FIN as FIN, reset as reset.
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::TunnelStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    Client,
    Server,
    Engine,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Payload bytes from client to server.
    pub sent: u64,
    /// Payload bytes from server to client.
    pub received: u64,
    /// Who ended it first: by FIN, by reset, or we by `Meter::cut`.
    pub closed_by: ClosedBy,
    /// The end was a reset, not FIN both ways.
    pub reset: bool,
    /// From the pump's start to the first byte from the server.
    pub first_byte: Option<Duration>,
    /// Empty for an orderly end or an application's reset; `E_TUNNEL_LOST` when the tunnel broke under it.
    pub code: &'static str,
}

/// The live view of one pump, and the handle that cuts it. Make one per connection and keep a clone of the `Rc`.
#[derive(Debug, Default)]
pub struct Meter {
    sent: Cell<u64>,
    received: Cell<u64>,
}

impl Meter {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Payload bytes from client to server so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Payload bytes from server to client so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Ends the connection with a reset both ways (policy, expiry, removal of the pod). May be called before the pump runs.
    pub fn cut(&self) {
        todo!()
    }
}

/// Outbound: a captured application is the client, the tunnel leads to the server.
pub async fn outbound(client: TcpStream, server: TunnelStream, meter: &Rc<Meter>) -> Outcome {
    let _ = (client, server, meter);
    todo!()
}

/// Inbound: the tunnel brings the client, the local application is the server.
pub async fn inbound(client: TunnelStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    let _ = (client, server, meter);
    todo!()
}

/// Both ends are sockets: the same-node relay, and plain paths.
pub async fn relay(client: TcpStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    let _ = (client, server, meter);
    todo!()
}

/// Ends a socket so that its peer sees a reset: for connections refused before a pump runs.
pub fn reset(socket: TcpStream) {
    let _ = socket;
    todo!()
}
