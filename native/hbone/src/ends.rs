//! The two kinds of ends a pump joins, a TCP socket and an h2 stream, under one interface.
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::Reason;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::TunnelStream;
use crate::stream::{Chunk, Unsent};
use crate::sys;

/// Most that moves in one direction before other connections of the worker have their turn; also the size of the worker's scratch.
/// 256 KiB cost 28 % less CPU per byte than 64 KiB.
pub(crate) const TURN: usize = 256 << 10;
/// Smaller pieces are copied together instead of kept one by one: h2 cuts a connection that makes it keep too many.
const SMALL: usize = 4 << 10;
/// The kernel tells nobody when the last byte was acknowledged, so it is asked again.
const FLUSH_CHECK: Duration = Duration::from_millis(2);

/// What one read gave.
#[derive(Debug)]
pub(crate) enum Input {
    /// So many bytes at the start of the scratch.
    Scratch(usize),
    Owned(Bytes),
    Fin,
    Reset,
}

/// The end cannot take anything any more.
#[derive(Debug)]
pub(crate) struct Gone;

pub(crate) trait End {
    /// Ready when `take` has something to say.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// At most `room` bytes; None when there was nothing after all.
    fn take(&mut self, room: usize, scratch: &mut [u8]) -> Option<Input>;
    /// What cannot be passed on yet but may be held without asking the other side for more.
    fn gather(&mut self, _: &mut Context<'_>, _: &mut Backlog) {}
    /// So many bytes taken here were passed on: the sender may send as many again.
    fn credit(&mut self, _: usize) {}

    /// How much `put` would take now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>>;
    /// What `poll_room` promised is not needed now.
    fn release_room(&mut self) {}
    /// How much of it was taken.
    fn put(&mut self, bytes: &[u8]) -> Result<usize, Gone>;
    /// FIN after everything put so far.
    fn finish(&mut self) -> Result<(), Gone>;

    /// The socket itself, when the kernel can move its bytes without us.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }

    /// Ready when this end was reset or lost, whatever may still be read from it.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;
    /// It went with its whole tunnel, not by a decision of the other side's application.
    fn lost(&self) -> bool {
        false
    }
    /// Everything put so far has left us: a reset will not overtake it.
    async fn flushed(&mut self);
    /// FIN went both ways: whatever was put is still delivered.
    fn close(self);
    /// `cut` = by our decision.
    fn reset(self, cut: bool);
}

/// Bytes taken from one end that the other did not take yet. Empty, and without memory, most of the time.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
}

impl Backlog {
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < SMALL {
            self.tail.extend_from_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
        self.chunks.push_back(bytes);
    }

    pub(crate) fn front(&mut self) -> Option<&mut Bytes> {
        if self.chunks.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.chunks = if tail.is_empty() { VecDeque::new() } else { VecDeque::from([tail.freeze()]) };
        }
        self.chunks.front_mut()
    }

    pub(crate) fn advance(&mut self, count: usize) {
        if let Some(front) = self.chunks.front_mut() {
            front.advance(count);
            if front.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

pub(crate) struct Socket {
    stream: Rc<TcpStream>,
    /// Readiness ERROR alone: a reset is seen even while nothing is read or written.
    errors: Pin<Box<dyn Future<Output = ()>>>,
    fin_sent: bool,
}

impl Socket {
    /// From now on the socket ends with RST, whatever ends it: also the kernel, when this process dies. Only `close` ends it with FIN.
    pub(crate) fn new(stream: TcpStream) -> Self {
        abort(&stream);
        let stream = Rc::new(stream);
        let watched = Rc::clone(&stream);
        let errors = Box::pin(async move {
            let _ = watched.ready(Interest::ERROR).await; // ready and failed mean the same here
        });
        Self { stream, errors, fin_sent: false }
    }

    /// A read of 0 is a FIN, or what is left of a reset: the kernel reports a reset once, and after a FIN not at all. Once we have sent FIN
    /// too, an orderly end closes the socket just the same; resets are then left to `poll_gone`.
    fn end_of_input(&self) -> Input {
        let closed = sys::is_closed(&self.stream).unwrap_or(true);
        if closed && !self.fin_sent { Input::Reset } else { Input::Fin }
    }
}

impl End for Socket {
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_read_ready(cx).map(|_| ()) // an error shows in `take`
    }

    fn take(&mut self, room: usize, scratch: &mut [u8]) -> Option<Input> {
        let space = &mut scratch[..room.min(TURN)];
        let size = space.len();
        match try_io(&self.stream, Interest::READABLE, size, |mut socket| socket.read(space)) {
            Ok(0) => Some(self.end_of_input()),
            Ok(count) => Some(Input::Scratch(count)),
            Err(error) if is_later(&error) => None,
            Err(_) => Some(Input::Reset),
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        self.stream.poll_write_ready(cx).map(|ready| ready.map(|()| TURN).map_err(|_| Gone))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Gone> {
        match try_io(&self.stream, Interest::WRITABLE, bytes.len(), |mut socket| socket.write(bytes)) {
            Ok(count) => Ok(count),
            Err(error) if is_later(&error) => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    fn finish(&mut self) -> Result<(), Gone> {
        self.fin_sent = true;
        SockRef::from(&*self.stream).shutdown(Shutdown::Write).map_err(|_| Gone)
    }

    fn socket(&self) -> Option<&TcpStream> {
        Some(&self.stream)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.errors.as_mut().poll(cx)
    }

    async fn flushed(&mut self) {
        while sys::undelivered(&self.stream).is_ok_and(|bytes| bytes > 0) {
            sleep(FLUSH_CHECK).await;
        }
    }

    /// With the linger of `abort` the kernel would throw away what the application has not acknowledged yet.
    fn close(self) {
        if let Err(error) = SockRef::from(&*self.stream).set_linger(None) {
            tracing::debug!(%error, "a socket will end with RST instead of FIN");
        }
    }

    /// `new` has seen to it.
    fn reset(self, _: bool) {}
}

/// The close that follows sends RST instead of FIN, and so does the kernel's when the process dies.
pub(crate) fn abort(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a socket will end with FIN instead of RST");
    }
}

/// `TcpStream::try_io`, which also takes back the readiness after a short count: without that every wake-up costs a second, empty call.
fn try_io(
    stream: &TcpStream,
    interest: Interest,
    size: usize,
    mut call: impl FnMut(&socket2::Socket) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut short = None;
    let result = stream.try_io(interest, || match call(&SockRef::from(stream))? {
        count if count > 0 && count < size => {
            short = Some(count);
            Err(ErrorKind::WouldBlock.into())
        }
        count => Ok(count),
    });
    short.map_or(result, Ok)
}

pub(crate) fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

pub(crate) struct Stream {
    tunnel: TunnelStream,
    input: Option<Input>,
    unsent: Rc<Unsent>,
    lost: bool,
}

impl Stream {
    pub(crate) fn new(tunnel: TunnelStream) -> Self {
        Self { tunnel, input: None, unsent: Rc::default(), lost: false }
    }

    fn note(&mut self, error: &h2::Error) {
        self.lost |= !error.is_reset();
    }
}

impl End for Stream {
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.is_none() {
            self.input = Some(match ready!(self.tunnel.recv.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => Input::Owned(bytes),
                Some(Err(error)) => {
                    self.note(&error);
                    Input::Reset
                }
                None => Input::Fin,
            });
        }
        Poll::Ready(())
    }

    /// Whole frames only: what the other end does not take goes to the backlog.
    fn take(&mut self, _: usize, _: &mut [u8]) -> Option<Input> {
        self.input.take()
    }

    fn gather(&mut self, cx: &mut Context<'_>, backlog: &mut Backlog) {
        while self.poll_input(cx).is_ready() {
            match self.input.take() {
                Some(Input::Owned(bytes)) => backlog.push(bytes),
                end => {
                    self.input = end;
                    return;
                }
            }
        }
    }

    fn credit(&mut self, count: usize) {
        if let Err(error) = self.tunnel.recv.flow_control().release_capacity(count) {
            tracing::debug!(%error, "the stream ended before its capacity was given back");
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Gone>> {
        let send = &mut self.tunnel.send;
        if send.capacity() == 0 {
            send.reserve_capacity(TURN);
        }
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
            }
        }
        Poll::Ready(Ok(send.capacity().min(TURN)))
    }

    /// An idle stream must not keep a part of the connection's window from its neighbours.
    fn release_room(&mut self) {
        self.tunnel.send.reserve_capacity(0);
    }

    fn put(&mut self, bytes: &[u8]) -> Result<usize, Gone> {
        let chunk = Chunk::new(Bytes::copy_from_slice(bytes), &self.unsent);
        self.tunnel.send.send_data(chunk, false).map_err(|_| Gone)?;
        Ok(bytes.len())
    }

    fn finish(&mut self) -> Result<(), Gone> {
        self.tunnel.send.send_data(Chunk::new(Bytes::new(), &self.unsent), true).map_err(|_| Gone)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.tunnel.send.poll_reset(cx)) {
            self.note(&error);
        }
        Poll::Ready(())
    }

    fn lost(&self) -> bool {
        self.lost
    }

    async fn flushed(&mut self) {
        poll_fn(|cx| self.unsent.poll_none(cx)).await;
    }

    /// END_STREAM both ways: h2 has ended it.
    fn close(self) {}

    fn reset(mut self, cut: bool) {
        self.tunnel.send.send_reset(if cut { Reason::CANCEL } else { Reason::CONNECT_ERROR });
    }
}
