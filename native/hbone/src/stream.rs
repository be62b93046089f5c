//! One accepted CONNECT: the two directions of an h2 stream and what is known about the tunnel it is in.
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use trackbed_tls::PeerInfo;

/// What setting up the tunnel cost; zero for a stream in a tunnel that was already there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub connect: Duration,
    pub handshake: Duration,
}

/// Open both ways. Dropping it resets the stream (CANCEL); the pump ends it in order.
pub struct TunnelStream {
    pub(crate) send: SendStream<Bytes>,
    pub(crate) recv: RecvStream,
    pub(crate) peer: Rc<PeerInfo>,
    pub(crate) timing: Timing,
    pub(crate) baggage: Option<String>,
    /// Gives the slot in its tunnel back when the stream is over.
    pub(crate) slot: Option<Box<dyn Slot>>,
}

pub(crate) trait Slot {}

impl TunnelStream {
    pub fn peer(&self) -> &Rc<PeerInfo> {
        &self.peer
    }

    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// What the other side said about itself: the merged `baggage` lines of the response (client) or the request (server).
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelStream").field("id", &self.recv.stream_id()).field("peer", &self.peer.identity).finish_non_exhaustive()
    }
}
