//! The access lines: one per connection and one per request, at their ends, with Istio's field names.
use trackbed_contract::Identity;
use trackbed_contract::engine::{Direction, Path};
use trackbed_l7::{Decided, RequestRecord, RouteName, StreamRecord};

use super::flow::{Closing, Known};
use super::requests::{Ends, flags};
use super::shown::Shown;

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
        policy = closing.policy(known).map_or("", |policy| &*policy.name),
        would_deny = known.audit.as_ref().map(|refused| &*refused.policy.name), error = error(),
        "connection complete");
}

/// `dst` is whom the client addressed, `upstream` who answered.
pub(super) fn request(record: &RequestRecord<'_>, ends: &Ends) {
    tracing::info!(target: "access", method = %record.method, path = record.path, authority = record.authority, protocol = ?record.version,
        response_code = record.status, grpc_status = record.grpc_status, response_flags = &*flags(record.flags), route = route(record.route),
        src.addr = %Shown(record.client.address), src.workload = ends.source.as_ref().map_or("", |workload| &workload.name),
        src.namespace = record.client.namespace().unwrap_or_default(), src.identity = record.client.identity.as_ref().map_or("", Identity::as_str),
        dst.service = &*record.served.service, dst.port = record.served.port,
        upstream.service = record.backend.map_or("", |backend| &backend.service),
        upstream.workload = ends.destination.as_ref().map_or("", |workload| &workload.name),
        upstream.addr = record.endpoint.map(|(_, address)| tracing::field::display(Shown(address))), retries = record.retries,
        limited_by = record.limited_by, policy = policy(record.decided),
        would_deny = would_deny(record.decided), error = error(record.decided),
        bytes_recv = record.request_bytes, bytes_sent = record.response_bytes, duration = format!("{}ms", record.duration.as_millis()),
        first_byte = record.first_byte.map(|time| tracing::field::display(format!("{}ms", time.as_millis()))),
        request_id = record.request_id, traceparent = record.traceparent, "request complete");
}

/// Of what was carried without looking into it.
pub(super) fn stream(record: &StreamRecord<'_>, ends: &Ends) {
    tracing::info!(target: "access", response_flags = &*flags(record.flags), route = route(record.route),
        server_name = record.server_name.unwrap_or_default(), src.addr = %Shown(record.client.address),
        src.workload = ends.source.as_ref().map_or("", |workload| &workload.name),
        src.namespace = record.client.namespace().unwrap_or_default(), src.identity = record.client.identity.as_ref().map_or("", Identity::as_str),
        dst.service = &*record.served.service, dst.port = record.served.port,
        upstream.service = record.backend.map_or("", |backend| &backend.service),
        upstream.workload = ends.destination.as_ref().map_or("", |workload| &workload.name),
        upstream.addr = record.endpoint.map(|(_, address)| tracing::field::display(Shown(address))),
        policy = policy(record.decided), would_deny = would_deny(record.decided), error = error(record.decided),
        bytes_recv = record.received_bytes, bytes_sent = record.sent_bytes, duration = format!("{}ms", record.duration.as_millis()),
        "stream complete");
}

fn policy(decided: Option<&Decided>) -> &str {
    decided.and_then(|decided| decided.policy.as_ref()).map_or("", |policy| &*policy.name)
}

fn would_deny(decided: Option<&Decided>) -> Option<&str> {
    decided?.audit.as_ref().map(|refused| &*refused.policy.name)
}

fn error(decided: Option<&Decided>) -> Option<String> {
    decided.filter(|decided| !decided.code.is_empty()).map(|decided| format!("{}: {}", decided.code, decided.reason))
}

/// Empty where no rule matched, or none is attached.
pub(super) fn route(route: Option<&RouteName>) -> &str {
    route.map_or("", |route| &route.text)
}
