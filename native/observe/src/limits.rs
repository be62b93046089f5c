//! What is kept of one connection at most, and why so much.

/// First bytes of a client that are kept until they tell the protocol, where it is not TLS: the longest that any needs is a request line's
/// method and the beginning of its target, or the head of a Kafka request with its client's name.
pub(crate) const FIRST: usize = 64;
/// A ClientHello that is longer names no server to us: real ones have 2 KiB, with post-quantum keys.
pub(crate) const HELLO: usize = 16 << 10;
/// A DNS name.
pub(crate) const NAME: usize = 253;
/// Of a line of an HTTP/1.1 head, its beginning: what tells how long a message is has no longer lines, and the others are not looked at.
pub(crate) const LINE: usize = 256;
/// Requests of an HTTP/1.1 connection that wait for their answers: few clients pipeline, and those that do send no more at once.
pub(crate) const PIPELINED: usize = 32;
/// Requests of an HTTP/2 connection that wait for their answers: servers allow 100 to 250.
pub(crate) const STREAMS: usize = 256;
/// A header block of HTTP/2 that does not come in one piece: what servers take of one.
pub(crate) const BLOCK: usize = 16 << 10;
