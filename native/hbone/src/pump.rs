//! Moves the bytes of one connection both ways, and its ends: FIN as FIN, reset as reset.
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::timeout;
use trackbed_contract::tables::errors;

use crate::TunnelStream;
use crate::ends::{Backlog, End, Gone, Input, Socket, Stream, TURN, abort, is_later};
use crate::limits::LINGER;
use crate::splice::Pipe;

thread_local! {
    /// Belongs to the worker, not to a connection: idle connections hold no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; TURN]);
}

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
    /// Empty for an orderly end or an application's reset; `E_TUNNEL_LOST` when the tunnel broke under it.
    pub code: &'static str,
}

/// The live view of one pump, and the handle that cuts it. Make one per connection and keep a clone of the `Rc`.
#[derive(Debug, Default)]
pub struct Meter {
    sent: Cell<u64>,
    received: Cell<u64>,
    first_byte: Cell<Option<Instant>>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Meter {
    pub fn new() -> Rc<Self> {
        Rc::default()
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

    /// Returns once `cut` was called. One waits at a time: before the pump runs, whoever sets the connection up.
    pub async fn until_cut(&self) {
        poll_fn(|cx| self.poll_cut(cx)).await;
    }

    fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        if self.cut.get() {
            return Poll::Ready(());
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn count_sent(&self, bytes: usize) {
        self.sent.set(self.sent.get() + bytes as u64);
    }

    fn count_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
        if self.first_byte.get().is_none() {
            self.first_byte.set(Some(Instant::now()));
        }
    }
}

/// Outbound: a captured application is the client, the tunnel leads to the server.
pub async fn outbound(client: TcpStream, server: TunnelStream, meter: &Rc<Meter>) -> Outcome {
    run(Socket::new(client), Stream::new(server), meter).await
}

/// Inbound: the tunnel brings the client, the local application is the server.
pub async fn inbound(client: TunnelStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    run(Stream::new(client), Socket::new(server), meter).await
}

/// Both ends are sockets: the same-node relay, and plain paths.
pub async fn relay(client: TcpStream, server: TcpStream, meter: &Rc<Meter>) -> Outcome {
    run(Socket::new(client), Socket::new(server), meter).await
}

/// From now on the socket ends with RST, also when this process dies: for connections that wait for their pump. An orderly end of the pump
/// is a FIN all the same.
pub fn guard(socket: &TcpStream) {
    abort(socket);
}

/// Ends a socket so that its peer sees a reset: for connections refused before a pump runs.
pub fn reset(socket: TcpStream) {
    abort(&socket);
    drop(socket);
}

async fn run<C: End, S: End>(client: C, server: S, meter: &Rc<Meter>) -> Outcome {
    let start = Instant::now();
    let mut pump = Pump::new(client, server, meter);
    let orderly = poll_fn(|cx| pump.poll(cx)).await == Ended::Orderly;
    if !orderly {
        // A reset must not overtake the bytes that came before it; a cut and a slow reader need not be waited for.
        let delivered = async {
            poll_fn(|cx| pump.poll_rest(cx)).await;
            pump.flush_survivor().await;
        };
        let _ = timeout(LINGER, delivered).await;
    }
    let cut = meter.cut.get();
    let lost = pump.client.lost() || pump.server.lost();
    let outcome = Outcome {
        sent: meter.sent(),
        received: meter.received(),
        closed_by: pump.closed_by.unwrap_or(ClosedBy::Engine),
        reset: !orderly,
        first_byte: meter.first_byte.get().map(|at| at.duration_since(start)),
        code: if lost && !orderly && !cut { errors::TUNNEL_LOST } else { "" },
    };
    if orderly {
        pump.client.close();
        pump.server.close();
    } else {
        pump.client.reset(cut);
        pump.server.reset(cut);
    }
    outcome
}

struct Pump<'m, C, S> {
    client: C,
    server: S,
    up: Half,
    down: Half,
    client_gone: bool,
    server_gone: bool,
    closed_by: Option<ClosedBy>,
    meter: &'m Meter,
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    backlog: Backlog,
    /// Between two sockets, while bytes are in it.
    pipe: Option<Pipe>,
    done: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// FIN both ways.
    Orderly,
    /// At least one end is gone, or we cut it.
    Broken,
}

/// How one direction ended.
enum HalfEnd {
    Fin,
    SourceReset,
    SinkGone,
}

impl<'m, C: End, S: End> Pump<'m, C, S> {
    fn new(client: C, server: S, meter: &'m Meter) -> Self {
        let (up, down) = (Half::default(), Half::default());
        Self { client, server, up, down, client_gone: false, server_gone: false, closed_by: None, meter }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.meter.poll_cut(cx).is_ready() {
            self.closed_by = Some(ClosedBy::Engine);
            return Poll::Ready(Ended::Broken);
        }
        self.move_bytes(cx);
        if self.up.done && self.down.done && !self.client_gone && !self.server_gone {
            return Poll::Ready(Ended::Orderly);
        }
        if !self.client_gone && self.client.poll_gone(cx).is_ready() {
            self.client_is_gone();
        }
        if !self.server_gone && self.server.poll_gone(cx).is_ready() {
            self.server_is_gone();
        }
        if self.client_gone || self.server_gone { Poll::Ready(Ended::Broken) } else { Poll::Pending }
    }

    /// Brings to the end that is still there what the other sent before it went. Ready when that is done or there is nobody to bring it to.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.meter.poll_cut(cx).is_ready() || (self.client_gone && self.server_gone) {
            return Poll::Ready(());
        }
        self.move_bytes(cx);
        let done = if self.client_gone { self.up.done } else { self.down.done };
        if done || (self.client_gone && self.server_gone) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Both directions, but nothing towards an end that is gone.
    fn move_bytes(&mut self, cx: &mut Context<'_>) {
        let meter = self.meter;
        if !self.up.done && !self.server_gone {
            match self.up.poll(cx, &mut self.client, &mut self.server, &|bytes| meter.count_sent(bytes)) {
                Poll::Ready(HalfEnd::Fin) => _ = self.closed_by.get_or_insert(ClosedBy::Client),
                Poll::Ready(HalfEnd::SourceReset) => self.client_is_gone(),
                Poll::Ready(HalfEnd::SinkGone) => self.server_is_gone(),
                Poll::Pending => {}
            }
        }
        if !self.down.done && !self.client_gone {
            match self.down.poll(cx, &mut self.server, &mut self.client, &|bytes| meter.count_received(bytes)) {
                Poll::Ready(HalfEnd::Fin) => _ = self.closed_by.get_or_insert(ClosedBy::Server),
                Poll::Ready(HalfEnd::SourceReset) => self.server_is_gone(),
                Poll::Ready(HalfEnd::SinkGone) => self.client_is_gone(),
                Poll::Pending => {}
            }
        }
    }

    fn client_is_gone(&mut self) {
        self.client_gone = true;
        self.closed_by.get_or_insert(ClosedBy::Client);
    }

    fn server_is_gone(&mut self) {
        self.server_gone = true;
        self.closed_by.get_or_insert(ClosedBy::Server);
    }

    async fn flush_survivor(&mut self) {
        if self.meter.cut.get() {
            return;
        }
        match (self.client_gone, self.server_gone) {
            (true, false) => self.server.flushed().await,
            (false, true) => self.client.flushed().await,
            _ => {}
        }
    }
}

impl Half {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl End, to: &mut impl End, count: &dyn Fn(usize)) -> Poll<HalfEnd> {
        let mut left = TURN;
        let end = loop {
            if left == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(self.step(cx, from, to)) {
                Ok(None) => {}
                Ok(Some(moved)) => {
                    from.credit(moved);
                    count(moved);
                    left = left.saturating_sub(moved.max(1));
                }
                Err(end) => break end,
            }
        };
        self.done = true;
        self.backlog = Backlog::default();
        self.pipe = None;
        Poll::Ready(end)
    }

    /// One write, or one read and the write of what it gave: how many bytes went through.
    fn step(&mut self, cx: &mut Context<'_>, from: &mut impl End, to: &mut impl End) -> Poll<Result<Option<usize>, HalfEnd>> {
        if let Some(front) = self.backlog.front() {
            let Poll::Ready(room) = to.poll_room(cx) else {
                from.gather(cx, &mut self.backlog);
                return Poll::Pending;
            };
            let moved = room.and_then(|room| to.put(&front[..front.len().min(room)]));
            return Poll::Ready(moved.map(Some).map_err(sink_gone).inspect(|moved| self.backlog.advance(moved.unwrap_or(0))));
        }
        if let Some(pipe) = self.pipe.take() {
            return self.pour(cx, pipe, to);
        }
        if from.poll_input(cx).is_pending() {
            to.release_room();
            return Poll::Pending;
        }
        let room = match to.poll_room(cx) {
            Poll::Ready(Ok(room)) => room,
            Poll::Ready(Err(Gone)) => return Poll::Ready(Err(HalfEnd::SinkGone)),
            Poll::Pending => {
                from.gather(cx, &mut self.backlog);
                return Poll::Pending;
            }
        };
        if let (Some(source), Some(_)) = (from.socket(), to.socket())
            && let Some(filled) = self.fill(source)
        {
            return Poll::Ready(filled.map(|()| None));
        }
        Poll::Ready(SCRATCH.with_borrow_mut(|scratch| self.pass(from.take(room, scratch), scratch, to, room)))
    }

    /// Takes from a socket into a pipe. None when that must be left to `take`: no pipe, or the end of input.
    fn fill(&mut self, source: &TcpStream) -> Option<Result<(), HalfEnd>> {
        let mut pipe = Pipe::lend()?;
        match pipe.fill(source) {
            Ok(0) => {
                pipe.give_back();
                None
            }
            Ok(_) => {
                self.pipe = Some(pipe);
                Some(Ok(()))
            }
            Err(error) => {
                pipe.give_back();
                Some(if is_later(&error) { Ok(()) } else { Err(HalfEnd::SourceReset) })
            }
        }
    }

    /// Out of the pipe into the other socket.
    fn pour(&mut self, cx: &mut Context<'_>, mut pipe: Pipe, to: &mut impl End) -> Poll<Result<Option<usize>, HalfEnd>> {
        let room = to.poll_room(cx);
        let (Poll::Ready(Ok(_)), Some(sink)) = (&room, to.socket()) else {
            self.pipe = Some(pipe);
            return room.map(|_| Err(HalfEnd::SinkGone));
        };
        let moved = match pipe.drain(sink) {
            Err(error) if is_later(&error) => None,
            Err(_) => return Poll::Ready(Err(HalfEnd::SinkGone)),
            Ok(moved) => Some(moved),
        };
        if pipe.is_empty() {
            pipe.give_back();
        } else {
            self.pipe = Some(pipe);
        }
        Poll::Ready(Ok(moved))
    }

    fn pass(&mut self, input: Option<Input>, scratch: &[u8], to: &mut impl End, room: usize) -> Result<Option<usize>, HalfEnd> {
        match input {
            None => Ok(None),
            Some(Input::Scratch(count)) => {
                let moved = to.put(&scratch[..count]).map_err(sink_gone)?;
                if moved < count {
                    self.backlog.push(Bytes::copy_from_slice(&scratch[moved..count]));
                }
                Ok(Some(moved))
            }
            Some(Input::Owned(bytes)) => {
                let moved = to.put(&bytes[..bytes.len().min(room)]).map_err(sink_gone)?;
                if moved < bytes.len() {
                    self.backlog.push(bytes.slice(moved..));
                }
                Ok(Some(moved))
            }
            Some(Input::Fin) => {
                to.release_room();
                to.finish().map_err(sink_gone)?;
                Err(HalfEnd::Fin)
            }
            Some(Input::Reset) => {
                to.release_room();
                Err(HalfEnd::SourceReset)
            }
        }
    }
}

fn sink_gone(_: Gone) -> HalfEnd {
    HalfEnd::SinkGone
}
