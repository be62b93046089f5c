//! Joins two sockets: the same-node relay, and plain paths. Small messages are copied, for that takes one call less; bulk stays in the kernel.
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::backlog::Backlog;
use crate::frozen::FreezeError;
use crate::limits::LINGER;
use crate::meter::{ClosedBy, Meter, Outcome, Side};
use crate::scratch::{self, TURN};
use crate::socket::{End, Socket, is_later};
use crate::splice::Pipe;
use crate::turn::take_another_turn;

/// A read that fills this much is bulk, and what follows goes through a pipe; a pipe that gets less is given up for reads again.
const BULK: usize = 64 << 10;
/// The kernel tells nobody when the last byte was acknowledged, so it is asked again.
const FLUSH_CHECK: Duration = Duration::from_millis(2);

pub(crate) fn run(client: TcpStream, server: TcpStream, meter: Rc<Meter>) -> impl Future<Output = Outcome> {
    let mut client = Socket::new(client);
    let client_gone = client.take_over(0, &meter).is_err();
    let (up, down) = (Half::default(), Half::default());
    let start = Instant::now();
    Joined { client, server: Socket::new(server), up, down, client_gone, server_gone: false, closed_by: None, start, meter }.run()
}

/// Two sockets, and what is on its way between them.
pub struct Joined {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
    pub(crate) up: Half,
    pub(crate) down: Half,
    pub(crate) client_gone: bool,
    pub(crate) server_gone: bool,
    pub(crate) closed_by: Option<ClosedBy>,
    pub(crate) start: Instant,
    pub(crate) meter: Rc<Meter>,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// FIN both ways.
    Orderly,
    /// An end is gone, or we cut it.
    Broken,
    /// It goes on elsewhere.
    Wanted,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Half {
    pub(crate) backlog: Backlog,
    /// While bytes are in it, or more are expected at once.
    pub(crate) pipe: Option<Pipe>,
    pub(crate) bulk: bool,
    pub(crate) done: bool,
}

/// How one direction ended.
enum HalfEnd {
    Fin,
    SourceReset,
    SinkGone,
}

impl Joined {
    /// With what was counted so far.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// To the end of the connection, or until it is frozen.
    #[allow(clippy::manual_async_fn)] // an async function would keep `self` twice
    pub fn run(mut self) -> impl Future<Output = Outcome> {
        self.meter.set_joined(true);
        async move {
            let mut ended = poll_fn(|cx| self.poll(cx)).await;
            if ended == Ended::Broken && !self.meter.is_cut() {
                // Boxed: few connections come here, and the rest need not hold the memory for it.
                let _ = Box::pin(timeout(LINGER, self.deliver())).await;
                if self.meter.is_wanted() && !self.meter.is_cut() {
                    ended = Ended::Wanted;
                }
            }
            self.meter.set_joined(false);
            if ended == Ended::Wanted {
                let meter = Rc::clone(&self.meter);
                meter.hand_over(self.freeze(Instant::now()));
                return meter.frozen();
            }
            self.meter.hand_over(Err(FreezeError::Ending));
            let orderly = ended == Ended::Orderly;
            let outcome = self.meter.outcome(self.start, self.closed_by, !orderly, "");
            if orderly {
                self.client.close();
                self.server.close();
            }
            outcome
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.meter.poll_cut(cx).is_ready() {
            self.closed_by = Some(ClosedBy::Engine);
            return Poll::Ready(Ended::Broken);
        }
        if self.meter.is_wanted() {
            return Poll::Ready(Ended::Wanted);
        }
        self.act(cx);
        if self.up.done && self.down.done && !self.client_gone && !self.server_gone {
            return Poll::Ready(Ended::Orderly);
        }
        if !self.client_gone && !self.server_gone {
            // Who is not read now may be reset all the same.
            if self.up.is_blocked() && self.client.poll_broken(cx) {
                self.gone(Side::Client);
            }
            if self.down.is_blocked() && self.server.poll_broken(cx) {
                self.gone(Side::Server);
            }
        }
        if self.client_gone || self.server_gone { Poll::Ready(Ended::Broken) } else { Poll::Pending }
    }

    /// Both directions, but nothing towards an end that is gone.
    fn act(&mut self, cx: &mut Context<'_>) {
        for from in [Side::Client, Side::Server] {
            let (half, source, sink, sink_gone) = match from {
                Side::Client => (&mut self.up, &mut self.client, &mut self.server, self.server_gone),
                Side::Server => (&mut self.down, &mut self.server, &mut self.client, self.client_gone),
            };
            if half.done || sink_gone {
                continue;
            }
            match half.poll(cx, source, sink, &self.meter, from) {
                Poll::Ready(HalfEnd::Fin) => {
                    self.meter.finished(from);
                    self.closed_by.get_or_insert(from.into());
                }
                Poll::Ready(HalfEnd::SourceReset) => self.gone(from),
                Poll::Ready(HalfEnd::SinkGone) => self.gone(from.other()),
                Poll::Pending => {}
            }
        }
    }

    fn gone(&mut self, side: Side) {
        match side {
            Side::Client => self.client_gone = true,
            Side::Server => self.server_gone = true,
        }
        self.closed_by.get_or_insert(side.into());
    }

    /// Brings to the end that is still there what the other sent before it went: a reset must not overtake it.
    async fn deliver(&mut self) {
        poll_fn(|cx| self.poll_rest(cx)).await;
        let survivor = match (self.client_gone, self.server_gone) {
            (true, false) => &self.server,
            (false, true) => &self.client,
            _ => return,
        };
        while !survivor.is_delivered() && !self.meter.is_cut() && !self.meter.is_wanted() {
            sleep(FLUSH_CHECK).await;
        }
    }

    /// Ready when that is done or there is nobody to bring it to.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.meter.poll_cut(cx).is_ready() || self.meter.is_wanted() || (self.client_gone && self.server_gone) {
            return Poll::Ready(());
        }
        self.act(cx);
        let done = if self.client_gone { self.up.done } else { self.down.done };
        if done || (self.client_gone && self.server_gone) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Half {
    /// Its source is not being read, for the sink is full or nothing more comes.
    fn is_blocked(&self) -> bool {
        self.done || !self.backlog.is_empty() || self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty())
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Socket, to: &mut Socket, meter: &Meter, side: Side) -> Poll<HalfEnd> {
        let mut left = TURN;
        let end = loop {
            if left == 0 {
                take_another_turn(cx);
                return Poll::Pending;
            }
            match self.step(cx, from, to, meter, side) {
                Poll::Ready(Ok(moved)) => {
                    meter.count(side, moved);
                    left = left.saturating_sub(moved);
                }
                Poll::Ready(Err(end)) => break end,
                Poll::Pending => {
                    if let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty()) {
                        pipe.give_back();
                    }
                    return Poll::Pending;
                }
            }
        };
        self.done = true;
        self.backlog = Backlog::default();
        self.pipe = None;
        Poll::Ready(end)
    }

    /// One write, or one read and what can be written of it at once: how many bytes went through.
    fn step(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Socket,
        to: &mut Socket,
        meter: &Meter,
        side: Side,
    ) -> Poll<Result<usize, HalfEnd>> {
        if self.is_blocked() {
            if !to.poll_writable(cx) {
                return Poll::Pending;
            }
            return Poll::Ready(self.write(to, meter, side).map_err(|_| HalfEnd::SinkGone));
        }
        if !from.poll_readable(cx) {
            return Poll::Pending;
        }
        if self.bulk
            && !meter.is_tapped()
            && let Some(pipe) = self.pipe.take().or_else(Pipe::lend)
        {
            return Poll::Ready(self.splice(pipe, from, to, meter, side));
        }
        Poll::Ready(self.copy(from, to, meter, side))
    }

    fn write(&mut self, to: &mut Socket, meter: &Meter, side: Side) -> io::Result<usize> {
        // An empty one may be left from before bytes were copied.
        if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            return pipe.drain(to);
        }
        let mut slices = [IoSlice::new(&[]); 16];
        let count = self.backlog.slices(&mut slices);
        let moved = to.write(&slices[..count])?;
        meter.copy(side, &slices[..count], moved);
        self.backlog.advance(moved);
        Ok(moved)
    }

    fn copy(&mut self, from: &mut Socket, to: &mut Socket, meter: &Meter, side: Side) -> Result<usize, HalfEnd> {
        let mut lent = scratch::lend();
        let count = match from.read(&mut lent[..BULK]) {
            Ok(0) => return Err(end(from, to)),
            Ok(count) => count,
            Err(error) if is_later(&error) => return Ok(0),
            Err(_) => return Err(HalfEnd::SourceReset),
        };
        self.bulk = count == BULK;
        let bytes = [IoSlice::new(&lent[..count])];
        let moved = to.write(&bytes).map_err(|_| HalfEnd::SinkGone)?;
        meter.copy(side, &bytes, moved);
        self.backlog.push(&lent[moved..count]);
        Ok(moved)
    }

    fn splice(&mut self, mut pipe: Pipe, from: &mut Socket, to: &mut Socket, meter: &Meter, side: Side) -> Result<usize, HalfEnd> {
        let filled = pipe.fill(from);
        if !matches!(filled, Ok(1..)) {
            pipe.give_back();
            self.bulk = false;
            return match filled {
                Ok(_) => Err(end(from, to)),
                Err(error) if is_later(&error) => Ok(0),
                Err(_) => Err(HalfEnd::SourceReset),
            };
        }
        self.bulk = filled.is_ok_and(|count| count >= BULK / 4);
        self.pipe = Some(pipe);
        let moved = self.write(to, meter, side).map_err(|_| HalfEnd::SinkGone)?;
        if !self.bulk
            && let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty())
        {
            pipe.give_back();
        }
        Ok(moved)
    }
}

/// Nothing more comes: FIN goes on as FIN.
fn end(from: &Socket, to: &mut Socket) -> HalfEnd {
    match from.end_of_input() {
        End::Reset => HalfEnd::SourceReset,
        End::Fin if to.finish().is_err() => HalfEnd::SinkGone,
        End::Fin => HalfEnd::Fin,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn an_empty_pipe_is_not_in_the_way_of_bytes_that_were_copied() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let mut half = Half { pipe: Pipe::lend(), ..Half::default() };
        half.backlog.push(b"copied");
        assert_eq!(half.write(&mut Socket::new(near.unwrap()), &Meter::default(), Side::Client).unwrap(), 6);
        assert!(half.backlog.is_empty());
        drop(far);
    }
}
