//! Keeps a tunnel's socket a moment longer than HTTP/2 does, so that its last frames arrive.
//!
//! Closing a socket with unread data in it (a WINDOW_UPDATE is enough) makes the kernel send RST, which can destroy what the peer has not
//! read yet. So after an orderly end we read on until the peer has closed too.
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::limits::LINGER;

/// One byte stream with two holders on one thread: h2, which drops it when done, and whoever lingers.
#[derive(Debug)]
pub(crate) struct Held<Io>(Rc<RefCell<Io>>);

impl<Io: AsyncRead + AsyncWrite + Unpin> Held<Io> {
    pub(crate) fn new(io: Io) -> (Self, Self) {
        let io = Rc::new(RefCell::new(io));
        (Self(Rc::clone(&io)), Self(io))
    }

    /// Reads and drops until the peer's end, at most `LINGER` long.
    pub(crate) async fn linger(mut self) {
        let mut scrap = [0; 4096];
        let drain = async { while matches!(self.read(&mut scrap).await, Ok(count) if count > 0) {} };
        let _ = tokio::time::timeout(LINGER, drain).await; // a peer that does not close is not waited for
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Io>) -> T) -> T {
        act(Pin::new(&mut *self.0.borrow_mut()))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncRead for Held<Io> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_read(cx, buffer))
    }
}

impl<Io: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Held<Io> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.with(|io| io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|io| io.poll_shutdown(cx))
    }
}
