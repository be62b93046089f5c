//! Moves the bytes of one connection both ways, and its ends: FIN as FIN, reset as reset.
//!
//! Plain functions that give futures: an async function would keep its arguments beside what is made of them, for every idle connection.
use std::rc::Rc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::frozen::{Frozen, ThawError};
pub use crate::meter::{ClosedBy, Meter, Outcome, Side};
pub use crate::relay::Joined;
use crate::socket::abort;
use crate::{TunnelStream, carry};

/// Outbound: a captured application is the client, the tunnel leads to the server.
pub fn outbound(client: TcpStream, server: TunnelStream, meter: &Rc<Meter>) -> impl Future<Output = Outcome> + use<> {
    carry::run(client, server, Side::Client, Rc::clone(meter))
}

/// Inbound: the tunnel brings the client, the local application is the server.
pub fn inbound(client: TunnelStream, server: TcpStream, meter: &Rc<Meter>) -> impl Future<Output = Outcome> + use<> {
    carry::run(server, client, Side::Server, Rc::clone(meter))
}

/// Both ends are sockets: the same-node relay, and plain paths.
pub fn relay(client: TcpStream, server: TcpStream, meter: &Rc<Meter>) -> impl Future<Output = Outcome> + use<> {
    crate::relay::run(client, server, Rc::clone(meter))
}

/// Goes on with two sockets that [`Meter::freeze`] gave, within a local runtime.
pub fn thaw(frozen: Frozen) -> Result<Joined, ThawError> {
    Joined::thaw(frozen, Instant::now())
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
