//! Every bound of a tunnel, with its reason.
use std::time::Duration;

use trackbed_contract::tables::bounds;

/// What the window of one stream may grow to, for a reader that keeps up: 10 Gbit/s at 3 ms, and what ztunnel uses from the start.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// What all windows of a connection may grow by beyond their first 64 KiB: four streams at their most.
pub const WINDOW_GROWTH: u32 = 4 * STREAM_WINDOW;
/// What a connection may have in flight; given back on receipt, so that no stream can hold it.
pub const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Largest frame we take. DATA is passed on piece by piece, whatever its size.
pub const FRAME_BYTES: u32 = 1 << 20;
/// Response headers are a status and a baggage line.
pub const CLIENT_HEADER_LIST: u32 = 16 << 10;
/// Requests carry baggage, forwarded and whatever an Envoy adds.
pub const SERVER_HEADER_LIST: u32 = 64 << 10;
/// Streams of one peer's tunnel on our server; ztunnel's figure.
pub const SERVER_STREAMS: u32 = 200;
/// Streams we open on one tunnel even if the peer allows more: a lost tunnel must not take everything along.
pub const CLIENT_STREAMS: usize = 100;

/// Time between PINGs, and how long one may stay unanswered.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// TCP connection to the peer's HBONE port.
pub const CONNECT: Duration = Duration::from_millis(bounds::CONNECT_MILLISECONDS as u64);
/// TLS handshake, HTTP/2 preface and first SETTINGS together.
pub const HANDSHAKE: Duration = Duration::from_millis(bounds::HANDSHAKE_MILLISECONDS as u64);
/// Answer to CONNECT: the peer's own limit for its application, and the way there and back.
pub const CONNECT_ANSWER: Duration = Duration::from_millis(bounds::CONNECT_MILLISECONDS as u64 + 2_000);
/// A client that finished its handshake has something to ask: without a CONNECT by then it only holds memory.
pub const FIRST_CONNECT: Duration = Duration::from_secs(30);
/// A tunnel without a stream for this long is closed by the client.
pub const IDLE: Duration = Duration::from_mins(5);
/// How long the last bytes may take after the end of a connection, or before a reset: longer than any round trip, short for a person.
pub const LINGER: Duration = Duration::from_secs(1);

/// The bounds that an engine may set otherwise; everything else is fixed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub connect: Duration,
    pub handshake: Duration,
    pub connect_answer: Duration,
    pub first_connect: Duration,
    pub ping_interval: Duration,
    pub ping_timeout: Duration,
    pub idle: Duration,
    pub client_streams: usize,
    pub server_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            handshake: HANDSHAKE,
            connect_answer: CONNECT_ANSWER,
            first_connect: FIRST_CONNECT,
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            idle: IDLE,
            client_streams: CLIENT_STREAMS,
            server_streams: SERVER_STREAMS,
        }
    }
}
