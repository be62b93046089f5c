//! Every bound of the crate that no route sets, and its reason.
use std::time::Duration;

/// Of a request's or response's head. Envoy's default; cookies and tokens of real sites stay below half of it.
pub(crate) const HEAD_BYTES: u32 = 60 * 1024;
/// Of headers in one head: as Envoy and hyper have it.
pub(crate) const HEADERS: usize = 100;
/// For a head to end once it has begun, the first of a connection or any later one. Between two requests a connection may be idle for as long as
/// its tunnel lets it.
pub(crate) const HEAD_WAIT: Duration = Duration::from_secs(30);
/// For the first words of a client that connected just before a drain: longer than any round trip.
pub(crate) const FIRST_WORDS: Duration = Duration::from_secs(2);
/// HTTP/2 streams that one client may have open: what Envoy gives, and enough for any gRPC client, which opens a second connection then.
pub(crate) const STREAMS: u32 = 100;
/// Unread bytes of one stream, and of one connection: four streams that nobody reads do not stop the others.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Of a request's body that are kept so that it can be sent again. Larger ones are tried once.
pub(crate) const REPLAY_BYTES: usize = 64 * 1024;
/// Of a body that a mirror has not read yet. One that is slower than that is given up: the client must not wait for it.
pub(crate) const MIRROR_BYTES: usize = 1024 * 1024;
/// Copies under way on one worker. More than that means that the mirror does not keep up.
pub(crate) const MIRRORS: usize = 256;
/// For a mirror's whole answer, which nobody reads.
pub(crate) const MIRROR_WAIT: Duration = Duration::from_secs(15);
/// Questions to external authorization that one worker waits for. More than that means that the service does not keep up.
pub(crate) const CHECKS: usize = 1024;
/// Of its answer: a page for people who are not let in.
pub(crate) const CHECK_BYTES: usize = 64 * 1024;
/// Tries of a request that no endpoint heard a byte of, beside the first, whatever the rule says.
pub(crate) const UNHEARD_TRIES: u32 = 2;
/// Longest pause between two tries.
pub(crate) const BACKOFF: Duration = Duration::from_secs(5);
/// Idle connections to one endpoint: as many as were busy at once in a small burst.
pub(crate) const IDLE_OF_ENDPOINT: usize = 64;
/// Idle connections of one worker: their buffers stay below a megabyte or so.
pub(crate) const IDLE: usize = 512;
/// Idle connections are closed after that time; most servers wait longer (nginx 75 s, Go for ever) and do not close under a request's feet.
pub(crate) const IDLE_TIME: Duration = Duration::from_secs(30);
/// Between two looks at the idle ones.
pub(crate) const IDLE_SWEEP: Duration = Duration::from_secs(5);
/// How long a client may be silent on a port whose protocol nobody declared before the backend is asked whether it speaks first. Clients that
/// speak first do so with their first packet, which is here already as a rule.
pub(crate) const CLIENT_FIRST: Duration = Duration::from_millis(10);
/// For the rest of what a protocol is told by, once a client has begun.
pub(crate) const TELLING: Duration = Duration::from_secs(1);
/// What was learnt of a port is looked at anew after that time: behind it may be another program by then.
pub(crate) const LEARNT_TIME: Duration = Duration::from_mins(5);
/// Ports that something was learnt of. More are not remembered until some have grown old.
pub(crate) const LEARNT: usize = 4096;
/// Of a TLS ClientHello: what one record holds. Real ones have 2 KiB, also with post-quantum keys.
pub(crate) const HELLO_BYTES: usize = 16 * 1024;
/// Each direction of what is carried without HTTP.
pub(crate) const CARRY_BYTES: usize = 16 * 1024;
/// Backends whose endpoints one worker remembers something of.
pub(crate) const BALANCED: usize = 4096;
/// Requests that one worker holds back on purpose; beyond, there is no delay: a fault that is injected must not become one of the waypoint.
pub(crate) const DELAYED: usize = 1024;
