//! DNS of captured pods: answers the names of mesh services, relays every other query to the very server that the pod asked.

mod answer;
mod counters;
mod frames;
mod question;
mod relay;
mod server;
mod stream;

pub use answer::{Addresses, Names, Reply, TTL_SECONDS, Transport, UDP_PAYLOAD_BYTES, answer, failure};
pub use counters::Counters;
pub use relay::{Dial, IN_FLIGHT, RESEND_AFTER, UPSTREAM_LIMIT};
pub use server::Resolver;
