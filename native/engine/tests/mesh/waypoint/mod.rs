//! The engine as a waypoint: attached over TLS, unprivileged, between two nodes' engines.
mod attach;
mod http;
mod lab;
mod routing;
mod traces;
