//! One accepted CONNECT: the two directions of an h2 stream and what is known about the tunnel it is in.
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use trackbed_tls::PeerInfo;

use crate::client::Slot;

/// What setting up the tunnel cost; zero for a stream in a tunnel that was already there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timing {
    pub connect: Duration,
    pub handshake: Duration,
}

/// Open both ways. Dropping it resets the stream (CANCEL); the pump ends it in order.
pub struct TunnelStream {
    pub(crate) send: SendStream<Chunk>,
    pub(crate) recv: RecvStream,
    pub(crate) peer: Rc<PeerInfo>,
    pub(crate) timing: Timing,
    pub(crate) baggage: Option<String>,
    /// Gives the slot in a client's tunnel back when the stream is over.
    pub(crate) _slot: Option<Slot>,
}

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

/// Payload on its way into a stream. It knows when h2 is done with it: a reset must not overtake data, and h2 tells nobody when it wrote.
pub(crate) struct Chunk {
    bytes: Bytes,
    unsent: Rc<Unsent>,
}

/// Chunks of one stream that h2 still holds.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    chunks: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

impl Chunk {
    pub(crate) fn new(bytes: Bytes, unsent: &Rc<Unsent>) -> Self {
        unsent.chunks.set(unsent.chunks.get() + 1);
        Self { bytes, unsent: Rc::clone(unsent) }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.unsent.chunks.set(self.unsent.chunks.get() - 1);
        if self.unsent.chunks.get() == 0
            && let Some(waker) = self.unsent.waker.take()
        {
            waker.wake();
        }
    }
}

impl Unsent {
    /// Ready once everything has left for the wire.
    pub(crate) fn poll_none(&self, cx: &Context<'_>) -> Poll<()> {
        if self.chunks.get() == 0 {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
