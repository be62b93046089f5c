//! The live view of one connection, the handle that cuts it, and how it ended.
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::frozen::{FreezeError, Frozen};
use crate::tap::Tap;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    Client,
    Server,
    Engine,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Payload bytes from client to server.
    pub sent: u64,
    /// Payload bytes from server to client.
    pub received: u64,
    /// Who ended it first: by FIN, by reset, or we by `Meter::cut`.
    pub closed_by: ClosedBy,
    /// The end was a reset, not FIN both ways.
    pub reset: bool,
    /// From the pump's start to the first byte from the server.
    pub first_byte: Option<Duration>,
    /// It was frozen: this is no end, and where it goes on it will have another outcome.
    pub frozen: bool,
    /// Empty for an orderly end or an application's reset; `E_TUNNEL_LOST` when the tunnel broke under it.
    pub code: &'static str,
}

/// Which of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// The live view of one pump, and the handle that cuts it. Make one per connection and keep a clone of the `Rc`.
#[derive(Default)]
pub struct Meter {
    sent: Cell<u64>,
    received: Cell<u64>,
    first_byte: Cell<Option<Instant>>,
    cut: Cell<bool>,
    /// A pump of two sockets counts here, and can be asked for them.
    joined: Cell<bool>,
    /// Somebody waits for what the pump has, to go on with it elsewhere.
    wanted: Cell<Option<Box<Wanted>>>,
    waker: Cell<Option<Waker>>,
    /// Apart from `tap`, which is looked at only then.
    tapped: Cell<bool>,
    tap: Cell<Option<Tapped>>,
}

/// Boxed: every connection has the place for it, and few are ever recorded.
type Tapped = Box<Rc<dyn Tap>>;
/// Boxed: every connection has the place for it, and few are ever frozen.
type Wanted = oneshot::Sender<Result<Frozen, FreezeError>>;

impl Meter {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Goes on counting where another one stopped.
    pub(crate) fn resume(sent: u64, received: u64, first_byte: Option<Instant>, cut: bool) -> Rc<Self> {
        Rc::new(Self {
            sent: Cell::new(sent),
            received: Cell::new(received),
            first_byte: Cell::new(first_byte),
            cut: Cell::new(cut),
            ..Self::default()
        })
    }

    pub(crate) fn first_byte(&self) -> Option<Instant> {
        self.first_byte.get()
    }

    /// Payload bytes from client to server so far.
    pub fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// Payload bytes from server to client so far.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Ends the connection with a reset both ways (policy, expiry, removal of the pod). May be called before the pump runs.
    pub fn cut(&self) {
        self.cut.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Takes the connection out of this process: of two sockets alone, for a stream goes with its tunnel. Its pump hands it over when it
    /// runs next.
    pub async fn freeze(&self) -> Result<Frozen, FreezeError> {
        if !self.joined.get() {
            return Err(FreezeError::NoSocket);
        }
        let (sender, receiver) = oneshot::channel();
        self.wanted.set(Some(Box::new(sender)));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        // It ended first.
        receiver.await.unwrap_or(Err(FreezeError::Ending))
    }

    pub(crate) fn set_joined(&self, joined: bool) {
        self.joined.set(joined);
    }

    pub(crate) fn is_wanted(&self) -> bool {
        let wanted = self.wanted.take();
        let is = wanted.is_some();
        self.wanted.set(wanted);
        is
    }

    /// The answer to `freeze`.
    pub(crate) fn hand_over(&self, frozen: Result<Frozen, FreezeError>) {
        if let Some(wanted) = self.wanted.take() {
            // Nobody waits any more: then it is dropped, and the connection ends with a reset.
            let _ = wanted.send(frozen);
        }
    }

    /// Returns once `cut` was called. One waits at a time: before the pump runs, whoever sets the connection up.
    pub async fn until_cut(&self) {
        poll_fn(|cx| self.poll_cut(cx)).await;
    }

    /// Has what moves from now on copied, or no longer. What the kernel moves by itself already is not copied any more.
    pub fn set_tap(&self, tap: Option<Rc<dyn Tap>>) {
        self.tapped.set(tap.is_some());
        self.tap.set(tap.map(Box::new));
    }

    #[inline]
    pub(crate) fn is_tapped(&self) -> bool {
        self.tapped.get()
    }

    /// Bytes that `count` is about to be told of.
    #[inline]
    pub(crate) fn copy(&self, from: Side, pieces: &[IoSlice<'_>], count: usize) {
        if self.tapped.get() && count > 0 {
            self.copy_to_tap(from, pieces, count);
        }
    }

    #[cold]
    fn copy_to_tap(&self, from: Side, pieces: &[IoSlice<'_>], count: usize) {
        self.with_tap(|tap| tap.moved(from, self.counted(from), pieces, count));
    }

    /// This side said FIN.
    pub(crate) fn finished(&self, from: Side) {
        self.with_tap(|tap| {
            tap.finished(from, self.counted(from));
            true
        });
    }

    fn counted(&self, from: Side) -> u64 {
        match from {
            Side::Client => self.sent(),
            Side::Server => self.received(),
        }
    }

    /// It may not change the tap meanwhile. It goes when it wants no more.
    fn with_tap(&self, tell: impl FnOnce(&dyn Tap) -> bool) {
        if let Some(tap) = self.tap.take() {
            let stays = tell(&**tap);
            self.tapped.set(stays);
            self.tap.set(stays.then_some(tap));
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        if self.cut.get() {
            return Poll::Ready(());
        }
        let known = self.waker.take().filter(|known| known.will_wake(cx.waker()));
        self.waker.set(known.or_else(|| Some(cx.waker().clone())));
        Poll::Pending
    }

    /// Bytes that came from this side and were passed on.
    pub(crate) fn count(&self, from: Side, bytes: usize) {
        match from {
            Side::Client => self.sent.set(self.sent.get() + bytes as u64),
            Side::Server => {
                self.received.set(self.received.get() + bytes as u64);
                if bytes > 0 && self.first_byte.get().is_none() {
                    self.first_byte.set(Some(Instant::now()));
                }
            }
        }
    }

    pub(crate) fn outcome(&self, start: Instant, closed_by: Option<ClosedBy>, reset: bool, code: &'static str) -> Outcome {
        Outcome {
            sent: self.sent(),
            received: self.received(),
            closed_by: closed_by.unwrap_or(ClosedBy::Engine),
            reset,
            first_byte: self.first_byte.get().map(|at| at.saturating_duration_since(start)),
            frozen: false,
            code,
        }
    }

    /// What is said of a connection that goes on elsewhere.
    pub(crate) fn frozen(&self) -> Outcome {
        Outcome { frozen: true, ..self.outcome(Instant::now(), None, false, "") }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("sent", &self.sent()).field("received", &self.received()).field("cut", &self.is_cut()).finish()
    }
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl From<Side> for ClosedBy {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Server => Self::Server,
        }
    }
}
