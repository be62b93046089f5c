//! Moves the bytes of one connection both ways, and its ends: FIN as FIN, reset as reset.
use std::rc::Rc;

use tokio::net::TcpStream;

use crate::meter::Side;
pub use crate::meter::{ClosedBy, Meter, Outcome};
use crate::socket::abort;
use crate::{TunnelStream, carry};

/// Outbound: a captured application is the client, the tunnel leads to the server.
pub async fn outbound(client: TcpStream, server: TunnelStream, meter: &Rc<Meter>) -> Outcome {
    carry::run(client, server, Side::Client, meter).await
}

/// Inbound: the tunnel brings the client, the local application is the server.
pub async fn inbound(client: TunnelStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    carry::run(server, client, Side::Server, meter).await
}

/// Both ends are sockets: the same-node relay, and plain paths.
pub async fn relay(client: TcpStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    crate::relay::run(client, server, meter).await
}

/// From now on the socket ends with RST, also when this process dies: for connections that wait for their pump. An orderly end of the pump
/// is a FIN all the same.
pub fn guard(socket: &TcpStream) {
    abort(socket);
}

/// Ends a socket so that its peer sees a reset: for connections refused before a pump runs.
pub fn reset(socket: TcpStream) {
    abort(&socket);
    drop(socket);
}
