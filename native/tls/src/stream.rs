//! A TLS connection as a byte stream: the record layer between an application's buffers and a socket's.
use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop;

use crate::Channel;
use crate::record::{Alert, Buffer, Opened, Opener, RecordError, Sealer};

/// Unsent bytes up to here move to memory of their own size when the socket is full; more keep the large buffer they are in.
const PARKED: usize = 64 << 10;
/// Bytes that count as one operation of a task's turn (of 128): half a mebibyte, then another task's small request has its chance.
const OPERATION: usize = 4 << 10;

/// Holds large buffers only while data moves; an idle one holds none.
pub struct TlsStream<Io> {
    pub(crate) io: Io,
    pub(crate) sealer: Sealer,
    opener: Opener,
    pub(crate) input: Buffer,
    /// Opened data in `input` that nobody took yet.
    plain: Range<usize>,
    /// Sealed records that the socket did not take yet.
    pub(crate) output: Buffer,
    reading: Reading,
    /// We said that we send nothing more.
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Reading {
    Open,
    Closed,
    Failed(RecordError),
}

impl<Io> TlsStream<Io> {
    /// `input` is what came behind the handshake.
    pub(crate) fn new(io: Io, sealer: Sealer, opener: Opener, input: Buffer) -> Self {
        Self { io, sealer, opener, input, plain: 0..0, output: Buffer::default(), reading: Reading::Open, closed: false }
    }

    pub fn get_ref(&self) -> &Io {
        &self.io
    }

    /// The socket, its record layer, and bytes of the peer that came behind the handshake: for a stream that nothing was read from or
    /// written to.
    pub fn into_parts(self) -> (Io, Channel, Vec<u8>) {
        (self.io, Channel::new(self.sealer, self.opener), self.input.filled().to_vec())
    }

    /// What lies opened already goes to the reader.
    fn deliver(&mut self, to: &mut ReadBuf<'_>) {
        let count = self.plain.len().min(to.remaining());
        if count == 0 {
            return; // the buffer that it was in may be given back already
        }
        to.put_slice(self.input.at(self.plain.start..self.plain.start + count));
        self.plain.start += count;
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> TlsStream<Io> {
    /// More of the peer's bytes. The end of the connection is an error here: a proper end was announced before it.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.borrow_scratch();
        let mut room = ReadBuf::new(self.input.room());
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut room);
        let count = room.filled().len();
        match polled {
            Poll::Ready(Ok(())) if count > 0 => {
                self.input.extend(count);
                charge(cx, count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Err(self.fail(RecordError::Truncated, cx))),
            other => {
                self.input.park(usize::MAX);
                other
            }
        }
    }

    /// Everything sealed is with the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, self.output.filled()) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    self.output.consume(count);
                    charge(cx, count);
                }
                Poll::Ready(Err(error)) => {
                    // Nothing may follow a hole in the records.
                    self.output = Buffer::default();
                    self.closed = true;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {
                    self.output.park(PARKED);
                    return Poll::Pending;
                }
            }
        }
        self.output = Buffer::default();
        Poll::Ready(Ok(()))
    }

    fn poll_seal(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if slices.iter().all(|slice| slice.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_drain(cx))?;
        if self.closed {
            let why: io::Error = match self.reading {
                Reading::Failed(error) => error.into(),
                _ => io::ErrorKind::BrokenPipe.into(),
            };
            return Poll::Ready(Err(why));
        }
        self.output = Buffer::scratch();
        let count = match self.sealer.seal(slices, &mut self.output) {
            Ok(count) => count,
            Err(error) => return Poll::Ready(Err(self.fail(error, cx))),
        };
        // What the socket does not take now is ours: the bytes count as written, a flush waits for them.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    /// The end, for the reader and the writer; the peer is told why.
    fn fail(&mut self, error: RecordError, cx: &mut Context<'_>) -> io::Error {
        self.reading = Reading::Failed(error);
        self.input = Buffer::default();
        if let Some(alert) = error.alert()
            && !self.closed
        {
            // Records that wait for the socket go first, and whoever waits with them is not to lose its waker.
            let first = self.output.is_empty();
            if self.sealer.alert(alert, &mut self.output).is_ok() && first {
                let _ = self.poll_drain(cx); // the connection is over, for the reason that is returned
            }
        }
        // A peer that is only done with sending may still listen.
        self.closed |= error != RecordError::Truncated;
        error.into()
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = to.filled().len();
        loop {
            this.deliver(to);
            if to.remaining() == 0 {
                break;
            }
            let delivered = to.filled().len() > before;
            match this.reading {
                Reading::Open => {}
                Reading::Failed(error) if !delivered => return Poll::Ready(Err(error.into())),
                Reading::Closed | Reading::Failed(_) => break,
            }
            match this.opener.next(&mut this.input) {
                Ok(Opened::Data(range)) => this.plain = range,
                Ok(Opened::Control | Opened::Updated { asked: false }) => {}
                Ok(Opened::Updated { asked: true }) => this.sealer.owe_update(),
                Ok(Opened::Closed) => {
                    this.reading = Reading::Closed;
                    this.input = Buffer::default();
                }
                Ok(Opened::More) if delivered => break,
                Ok(Opened::More) => ready!(this.poll_fill(cx))?,
                // Data in front of it is handed over first; the error stays for the next call.
                Err(error) => _ = this.fail(error, cx),
            }
        }
        if this.plain.is_empty() {
            this.input.park(0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_seal(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    /// Says close_notify, then that no byte follows. Reading goes on until the peer has done the same.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closed {
            this.closed = true;
            this.sealer.alert(Alert::CloseNotify, &mut this.output)?;
        }
        ready!(this.poll_drain(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer was faster; its close is no failure of ours.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }
}

impl<Io: fmt::Debug> fmt::Debug for TlsStream<Io> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("io", &self.io).field("reading", &self.reading).finish_non_exhaustive()
    }
}

/// Takes from the task's turn what these bytes are worth; a socket alone counts a system call, however large.
fn charge(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / OPERATION {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(operation) = coop::poll_proceed(cx) {
            operation.made_progress();
        }
    }
}
