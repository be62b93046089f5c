//! Every bound of a tunnel, with its reason.
use std::time::Duration;

use trackbed_contract::tables::bounds;

/// What one stream may have in flight: 10 Gbit/s at 3 ms, and what ztunnel uses.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Four streams nobody reads must not stop a fifth (equal windows deadlock: ztunnel#1538).
pub const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// Largest DATA frame we take; larger frames save headers, smaller ones latency for neighbours.
pub const FRAME_BYTES: u32 = 1 << 20;
/// What h2 may hold unsent per stream before the pump stops reading the socket: two turns of the pump.
pub const SEND_BUFFER: usize = 512 << 10;
/// Response headers are a status and a baggage line.
pub const CLIENT_HEADER_LIST: u32 = 16 << 10;
/// Requests carry baggage, forwarded and whatever an Envoy adds.
pub const SERVER_HEADER_LIST: u32 = 64 << 10;
/// Streams of one peer's tunnel on our server; ztunnel's figure.
pub const SERVER_STREAMS: u32 = 200;
/// Streams we open on one tunnel even if the peer allows more: a lost tunnel must not take everything along.
pub const CLIENT_STREAMS: usize = 100;
/// Streams reset by the peer that wait to be accepted (rapid reset) and by us that are remembered (MadeYouReset).
pub const RESET_STREAMS: usize = 32;
/// Errors provoked by the peer before its connection is cut.
pub const LOCAL_ERROR_RESETS: usize = 256;

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
