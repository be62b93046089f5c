//! One accepted CONNECT: a stream that is open both ways, and what is known about the tunnel it is in.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use trackbed_tls::PeerInfo;

use crate::link::Handle;

/// What setting up the tunnel cost; zero for a stream in a tunnel that was already there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub connect: Duration,
    pub handshake: Duration,
}

/// Open both ways. Dropping it resets the stream (CANCEL); the pump ends it in order.
pub struct TunnelStream {
    pub(crate) handle: Handle,
    pub(crate) peer: Arc<PeerInfo>,
    pub(crate) timing: Timing,
    pub(crate) baggage: Option<String>,
    /// Bytes at the front of the client's socket that the stream has already.
    pub(crate) early: usize,
}

impl TunnelStream {
    pub fn peer(&self) -> &Arc<PeerInfo> {
        &self.peer
    }

    /// Its number in the tunnel, by which it is known again after a thaw.
    pub fn id(&self) -> u32 {
        self.handle.id
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
        f.debug_struct("TunnelStream").field("id", &self.handle.id).field("peer", &self.peer.identity).finish_non_exhaustive()
    }
}
