//! The access line: one per connection at its end, with Istio's field names.
use trackbed_contract::engine::{Direction, Path};

use super::flow::{Closing, Known};

/// Bytes are seen from the local pod, as in Istio.
pub(super) fn line(known: &Known, closing: &Closing) {
    let (source, destination) = (&known.source, &known.destination);
    let (sent, received) = (closing.sent, closing.received);
    let (direction, out, into) = match known.direction {
        Direction::Inbound => ("inbound", received, sent),
        Direction::Outbound | Direction::Unspecified => ("outbound", sent, received),
    };
    let path = match known.path {
        Path::Relay => "relay",
        Path::Tunnel => "tunnel",
        Path::Plain => "plain",
        Path::Unspecified => "",
    };
    let error = || (!closing.code.is_empty()).then(|| format!("{}: {}", closing.code, closing.reason()));
    // Nothing of this is computed when the line is filtered. `direction` first: the macro cannot tell a dotted first name from the rest.
    tracing::info!(target: "access", direction, path,
        src.addr = source.address(), src.workload = source.of(|w| &w.name), src.namespace = source.of(|w| &w.namespace),
        src.identity = source.identity(), dst.addr = destination.address(),
        dst.service = known.service.as_ref().map_or("", |service| &service.key), dst.workload = destination.of(|w| &w.name),
        dst.namespace = destination.of(|w| &w.namespace), dst.identity = destination.identity(), bytes_sent = out,
        bytes_recv = into, duration = format!("{}ms", closing.duration.as_millis()),
        policy = closing.policy(known).map_or("", |policy| &*policy.name), error = error(),
        "connection complete");
}
