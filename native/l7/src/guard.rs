//! Stands between a client's connection and the HTTP/1.1 parser: what [`crate::framing`] calls a violation never gets past it, and a head that
//! has begun must end in time.
use crate::framing::{Framing, Scanned};
use crate::limits::HEAD_WAIT;
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub(crate) struct Guard<Io> {
    io: Io,
    framing: Framing,
    upgrade: Rc<Upgrading>,
    /// What came after a request that wishes to upgrade.
    withheld: BytesMut,
    /// After a violation: nothing is read any more.
    condemned: bool,
    /// While a head is incomplete.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Whether what follows is HTTP: known to whom answers the request.
#[derive(Debug, Default)]
pub(crate) struct Upgrading(RefCell<Phase>);

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Http,
    /// Asked for and not answered.
    Open(Option<Waker>),
    Upgraded,
}

impl Upgrading {
    /// The answer to a request with an Upgrade header.
    pub(crate) fn answered(&self, upgraded: bool) {
        let phase = self.0.replace(if upgraded { Phase::Upgraded } else { Phase::Http });
        if let Phase::Open(Some(reader)) = phase {
            reader.wake();
        }
    }

    fn ask(&self) {
        *self.0.borrow_mut() = Phase::Open(None);
    }

    /// Whether it is HTTP.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut *self.0.borrow_mut() {
            Phase::Http => Poll::Ready(true),
            Phase::Upgraded => Poll::Ready(false),
            Phase::Open(reader) => {
                *reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// In place of what is not let past: malformed for every parser of heads, which answers 400 and closes. The end of a head too, for parsers wait
/// for one.
const MALFORMED: &[u8] = b"\0\r\n\r\n";

impl<Io: AsyncRead + Unpin> Guard<Io> {
    pub(crate) fn new(io: Io, upgrade: Rc<Upgrading>) -> Self {
        Self { io, framing: Framing::default(), upgrade, withheld: BytesMut::new(), condemned: false, deadline: None }
    }

    fn poll_any(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.withheld.is_empty() && self.condemned {
            return Poll::Ready(Ok(()));
        }
        if self.withheld.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.withheld.len().min(buf.remaining());
        buf.put_slice(&self.withheld[..count]);
        self.withheld.advance(count);
        Poll::Ready(Ok(()))
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
            None => Poll::Pending,
        }
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Guard<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let http = ready!(this.upgrade.poll(cx));
        let before = buf.filled().len();
        match this.poll_any(cx, buf) {
            Poll::Pending => return this.poll_late(cx),
            Poll::Ready(read) => read?,
        }
        if !http || this.condemned {
            return Poll::Ready(Ok(()));
        }
        let new = &buf.filled()[before..];
        match this.framing.scan(new) {
            Scanned::Fine => {}
            Scanned::Upgrade(at) => {
                let mut withheld = BytesMut::from(&new[at..]);
                withheld.extend_from_slice(&this.withheld);
                this.withheld = withheld;
                buf.set_filled(before + at);
                this.upgrade.ask();
            }
            Scanned::Violation { at, head: true } => {
                buf.set_filled(before + at);
                this.withheld = BytesMut::from(MALFORMED);
                this.condemned = true;
                return this.poll_any(cx, buf);
            }
            Scanned::Violation { head: false, .. } => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
        }
        if !this.framing.in_head() {
            this.deadline = None;
        } else if this.deadline.is_none() {
            this.deadline = Some(Box::pin(sleep(HEAD_WAIT)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Guard<Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
