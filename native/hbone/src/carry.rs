//! Joins an application's socket and a stream of a tunnel: FIN as END_STREAM, reset as reset, both ways.
//!
//! What the tunnel brings is written to the socket by the tunnel's driver; this task does what the socket did not take at once, and
//! everything in the other direction.
use std::future::poll_fn;
use std::io::IoSlice;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use trackbed_contract::tables::errors;

use crate::TunnelStream;
use crate::h2::Reason;
use crate::leg::{Ends, Gone, PIECES, Port};
use crate::limits::LINGER;
use crate::link::{Carried, Core, Handle};
use crate::meter::{ClosedBy, Meter, Outcome, Side};
use crate::scratch::TURN;
use crate::socket::Socket;
use crate::turn::take_another_turn;

/// The kernel tells nobody when the last byte was acknowledged, so it is asked again.
const FLUSH_CHECK: Duration = Duration::from_millis(2);

pub(crate) fn run(socket: TcpStream, stream: TunnelStream, side: Side, meter: Rc<Meter>) -> impl Future<Output = Outcome> {
    go_on(Carry::new(socket, stream, side, meter))
}

/// The same for a stream whose socket it has already: another pump was frozen there.
pub(crate) fn resume(handle: Handle, side: Side, meter: Rc<Meter>, ends: Ends) -> impl Future<Output = Outcome> {
    go_on(Carry { handle, meter, side, ends })
}

#[allow(clippy::manual_async_fn)] // an async function would keep `carry` twice
fn go_on(mut carry: Carry) -> impl Future<Output = Outcome> {
    async move {
        let ended = poll_fn(|cx| carry.poll(cx)).await;
        let orderly = ended == Ended::Orderly;
        if ended == Ended::Broken && !carry.meter.is_cut() {
            // Boxed: few connections come here, and the rest need not hold the memory for it. What comes before a reset must not be
            // overtaken by it; a slow reader need not be waited for.
            let _ = Box::pin(timeout(LINGER, carry.deliver())).await;
        }
        let Some(start) = carry.start() else { return carry.meter.frozen() };
        let cut = carry.meter.is_cut();
        let code = if carry.ends.lost && !orderly && !cut { errors::TUNNEL_LOST } else { "" };
        let outcome = carry.meter.outcome(start, carry.ends.closed_by, !orderly, code);
        carry.finish(orderly, cut);
        outcome
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// FIN both ways.
    Orderly,
    /// At least one end is gone, or we cut it.
    Broken,
    /// It goes on elsewhere, with the whole tunnel.
    Frozen,
}

struct Carry {
    handle: Handle,
    meter: Rc<Meter>,
    side: Side,
    ends: Ends,
}

impl Carry {
    fn new(socket: TcpStream, stream: TunnelStream, side: Side, meter: Rc<Meter>) -> Self {
        let TunnelStream { handle, early, .. } = stream;
        let mut socket = Socket::new(socket);
        let broken = side == Side::Client && socket.take_over(early, &meter).is_err();
        meter.count(side, early);
        let ends = Ends::default();
        let port = Port { socket, meter: Rc::clone(&meter), side, broken, streaming: false, start: Instant::now(), ends };
        let carry = Self { handle, meter, side, ends };
        carry.take_up(port);
        carry
    }

    /// Before the tunnel's driver runs again: the application works on what came early while its client is told that it was accepted.
    fn take_up(&self, port: Port) {
        let core = &mut *self.handle.link.borrow_mut();
        if let Some(stream) = core.h2.stream(self.handle.id) {
            stream.user.port = Some(port);
            if !self.meter.is_cut() {
                let _ = self.pass_on(core); // the first turn finds a socket that is broken
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.meter.poll_cut(cx).is_ready() {
            self.ends.closed_by = Some(ClosedBy::Engine);
            return Poll::Ready(Ended::Broken);
        }
        if !self.act(cx) {
            return Poll::Ready(Ended::Frozen);
        }
        if self.ends.socket_gone || self.ends.stream_gone {
            Poll::Ready(Ended::Broken)
        } else if self.ends.up_done && self.ends.down_done {
            Poll::Ready(Ended::Orderly)
        } else {
            Poll::Pending
        }
    }

    /// One turn in both directions; false when the tunnel was frozen, and the stream is no longer here.
    fn act(&mut self, cx: &mut Context<'_>) -> bool {
        let link = Rc::clone(&self.handle.link);
        let core = &mut *link.borrow_mut();
        let before = self.ends;
        let Some(stream) = core.h2.stream(self.handle.id) else { return false };
        stream.user.attend(cx);
        // Acted upon at once, also between the ends of both directions; what came before it is delivered after it.
        if let Some(gone) = stream.user.gone {
            self.ends.lost |= gone == Gone::Lost;
            self.stream_is_gone();
        }
        self.up(core, cx);
        self.down(core, cx);
        if self.ends.up_done
            && !self.ends.socket_gone
            && !(self.ends.down_done)
            && self.port(core).is_none_or(|port| port.socket.poll_broken(cx))
        {
            self.socket_is_gone();
        }
        if !core.h2.out.is_empty() {
            core.schedule();
        }
        if self.ends != before
            && let Some(port) = self.port(core)
        {
            port.ends = self.ends;
        }
        true
    }

    /// From the socket into the stream.
    fn up(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        let mut left = TURN;
        while !self.ends.up_done && !self.ends.stream_gone {
            if left == 0 {
                return take_another_turn(cx);
            }
            if !core.may_send(self.handle.id) {
                if self.port(core).is_none_or(|port| port.socket.poll_broken(cx)) {
                    self.socket_is_gone();
                }
                return;
            }
            if !self.port(core).is_some_and(|port| port.socket.poll_readable(cx)) {
                return;
            }
            match core.carry(self.handle.id, left) {
                Ok(Carried::Bytes(count)) => left = left.saturating_sub(count.max(1)),
                Ok(Carried::Later) => {}
                Ok(Carried::Fin) => {
                    core.h2.end(self.handle.id);
                    self.meter.finished(self.side);
                    self.ends.up_done = true;
                    self.ends.closed_by.get_or_insert(self.side.into());
                }
                Ok(Carried::Reset) | Err(_) => {
                    self.ends.up_done = true;
                    self.socket_is_gone();
                }
            }
        }
    }

    /// From the stream to the socket: what the driver left behind, and the end.
    fn down(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        let id = self.handle.id;
        let mut left = TURN;
        while !self.ends.down_done && !self.ends.socket_gone {
            let Some(stream) = core.h2.stream(id) else { return };
            let leg = &mut stream.user;
            let Some(port) = &mut leg.port else { return };
            if port.broken {
                return self.socket_is_gone();
            }
            if leg.backlog.is_empty() {
                if leg.fin {
                    if port.socket.finish().is_err() {
                        return self.socket_is_gone();
                    }
                    self.meter.finished(self.side.other());
                    self.ends.down_done = true;
                    self.ends.closed_by.get_or_insert(self.side.other().into());
                }
                return;
            }
            if left == 0 {
                return take_another_turn(cx);
            }
            if !port.socket.poll_writable(cx) {
                return;
            }
            match self.pass_on(core) {
                Some(count) => left = left.saturating_sub(count.max(1)),
                None => self.socket_is_gone(),
            }
        }
    }

    /// As much of what waits for the socket as it takes now; `None` when it takes nothing any more.
    fn pass_on(&self, core: &mut Core) -> Option<usize> {
        let leg = &mut core.h2.stream(self.handle.id)?.user;
        let port = leg.port.as_mut().filter(|port| !port.broken)?;
        let mut slices = [IoSlice::new(&[]); PIECES];
        let count = leg.backlog.slices(&mut slices);
        if count == 0 {
            return Some(0);
        }
        let Ok(count) = port.socket.write(&slices[..count]) else {
            port.broken = true;
            return None;
        };
        port.meter.copy(self.side.other(), &slices, count);
        leg.backlog.advance(count);
        port.meter.count(self.side.other(), count);
        let keeps_up = leg.backlog.is_empty();
        core.h2.read(self.handle.id, count, keeps_up, Instant::now());
        Some(count)
    }

    fn port<'c>(&self, core: &'c mut Core) -> Option<&'c mut Port> {
        core.h2.stream(self.handle.id)?.user.port.as_mut()
    }

    fn socket_is_gone(&mut self) {
        self.ends.socket_gone = true;
        self.ends.closed_by.get_or_insert(self.side.into());
    }

    fn stream_is_gone(&mut self) {
        self.ends.stream_gone = true;
        self.ends.closed_by.get_or_insert(self.side.other().into());
    }

    /// Brings to the end that is still there what the other sent before it went.
    async fn deliver(&mut self) {
        poll_fn(|cx| self.poll_rest(cx)).await;
        if self.ends.stream_gone && !self.ends.socket_gone {
            while !self.port(&mut self.handle.link.borrow_mut()).is_none_or(|port| port.socket.is_delivered()) && !self.meter.is_cut() {
                sleep(FLUSH_CHECK).await;
            }
        }
    }

    /// Ready when that is done, or when there is nobody to bring it to.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.meter.poll_cut(cx).is_ready() || (self.ends.socket_gone && self.ends.stream_gone) {
            return Poll::Ready(());
        }
        if !self.act(cx) {
            return Poll::Ready(());
        }
        let done = if self.ends.socket_gone { self.ends.up_done || self.ends.stream_gone } else { self.is_drained() };
        if done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// When it began; None when it was frozen.
    fn start(&self) -> Option<Instant> {
        Some(self.port(&mut self.handle.link.borrow_mut())?.start)
    }

    fn is_drained(&self) -> bool {
        let mut core = self.handle.link.borrow_mut();
        core.h2.stream(self.handle.id).is_none_or(|stream| stream.user.backlog.is_empty() && (self.ends.down_done || !stream.user.fin))
    }

    /// Ends both: the socket by what is taken from the stream here, the stream by a reset or, when it is over, by being forgotten.
    fn finish(&self, orderly: bool, cut: bool) {
        let mut core = self.handle.link.borrow_mut();
        let port = core.h2.stream(self.handle.id).and_then(|stream| stream.user.port.take());
        if let Some(port) = port.filter(|_| orderly) {
            port.socket.close();
        }
        if !orderly {
            core.h2.reset(self.handle.id, if cut { Reason::CANCEL } else { Reason::CONNECT_ERROR });
        }
    }
}
