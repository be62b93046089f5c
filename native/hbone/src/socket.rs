//! A TCP socket of an application, with its readiness in our own hands: reads and writes go straight to the kernel, and tokio only wakes.
//!
//! A short count means that the kernel has nothing more (or no more room) for now, so it takes the readiness back without a second, empty
//! call. Readiness is also taken back to hear of a reset while nothing may be read; `unread` and `full` keep what is really so.
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::task::Context;
use std::time::Duration;

use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::meter::{Meter, Side};
use crate::{scratch, sys};

#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    fin_sent: bool,
    /// There may be more to read, whatever tokio thinks.
    unread: bool,
    /// The last write left something behind.
    full: bool,
}

/// What a read of 0 means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

impl Socket {
    /// From now on the socket ends with RST, whatever ends it: also the kernel, when this process dies. Only `close` ends it with FIN.
    pub(crate) fn new(stream: TcpStream) -> Self {
        abort(&stream);
        Self { stream, fin_sent: false, unread: false, full: false }
    }

    /// Another one worked with it, and has said FIN or not. What tokio knows of it is forgotten: both ways are tried.
    pub(crate) fn resume(stream: TcpStream, fin_sent: bool) -> Self {
        abort(&stream);
        Self { stream, fin_sent, unread: true, full: false }
    }

    /// For another one; no readiness of it is known any more.
    pub(crate) fn into_std(self) -> io::Result<std::net::TcpStream> {
        self.stream.into_std()
    }

    pub(crate) fn is_fin_sent(&self) -> bool {
        self.fin_sent
    }

    /// Somebody may have looked into it: what is there may be more than what tokio knows of. The bytes that were passed on already, `count`
    /// of them, are taken out; `meter` is the client's.
    pub(crate) fn take_over(&mut self, count: usize, meter: &Meter) -> io::Result<()> {
        self.unread = true;
        if count == 0 {
            return Ok(());
        }
        let mut lent = scratch::lend();
        // TCP throws away what is read with this flag, so the buffer stays as it is.
        let flags = if meter.is_tapped() { RecvFlags::empty() } else { RecvFlags::TRUNC };
        let (_, skipped) = rustix::net::recv(&self.stream, &mut lent[..count], flags)?;
        meter.copy(Side::Client, &[IoSlice::new(&lent[..count])], skipped);
        if skipped == count { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// There may be something to read; if not, the task is woken when there is.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> bool {
        self.unread || self.stream.poll_read_ready(cx).is_ready()
    }

    /// There may be room to write; if not, the task is woken when there is.
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> bool {
        self.full = self.full && self.stream.poll_write_ready(cx).is_pending();
        !self.full
    }

    /// The socket was reset, whatever may still be read from it; if not, the task is woken when it is. For a socket that is not read now.
    pub(crate) fn poll_broken(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stream.try_io(Interest::ERROR, || Ok(())).is_ok() {
            return true;
        }
        if self.stream.poll_read_ready(cx).is_ready() {
            self.unread = true;
            self.forget(Interest::READABLE);
            // After a FIN it stays readable for ever: then the other side of the readiness tells. It must not lose what it has to say first:
            // that there is room again.
            if self.stream.poll_read_ready(cx).is_ready() && self.poll_writable(cx) {
                self.forget(Interest::WRITABLE);
                let _ = self.stream.poll_write_ready(cx);
            }
        }
        false
    }

    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = into.len();
        let result = rustix::net::recv(&self.stream, into, RecvFlags::empty()).map(|(_, count)| count);
        self.readable_after(result.map_err(Into::into), size)
    }

    pub(crate) fn read_vectored(&mut self, into: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let size = into.iter().map(|slice| slice.len()).sum();
        let result = rustix::io::readv(&self.stream, into);
        self.readable_after(result.map_err(Into::into), size)
    }

    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (result, size) = match slices {
            [one] => (rustix::net::send(&self.stream, one, SendFlags::NOSIGNAL), one.len()),
            _ => (rustix::io::writev(&self.stream, slices), slices.iter().map(|slice| slice.len()).sum()),
        };
        self.spliced_to(result.map_err(Into::into), size)
    }

    /// Takes note of a write of `size` bytes that somebody else made; 0 when the socket takes nothing now.
    pub(crate) fn spliced_to(&mut self, result: io::Result<usize>, size: usize) -> io::Result<usize> {
        let count = match result {
            Err(error) if is_later(&error) => 0,
            result => result?,
        };
        self.full = count < size;
        if self.full {
            self.forget(Interest::WRITABLE);
        }
        Ok(count)
    }

    /// Takes note of a read that somebody else made, and whose count does not tell whether there is more.
    pub(crate) fn spliced_from(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        self.readable_after(result, 0)
    }

    fn readable_after(&mut self, result: io::Result<usize>, size: usize) -> io::Result<usize> {
        self.unread = result.as_ref().is_ok_and(|count| *count >= size);
        let drained = match &result {
            Ok(count) => (1..size).contains(count),
            Err(error) => is_later(error),
        };
        if drained {
            self.forget(Interest::READABLE);
        }
        result
    }

    fn forget(&self, interest: Interest) {
        let _ = self.stream.try_io(interest, || Err::<(), _>(ErrorKind::WouldBlock.into()));
    }

    /// A read of 0 is a FIN, or what is left of a reset: the kernel reports a reset once, and after a FIN not at all. Once we have sent FIN
    /// too, an orderly end closes the socket just the same; resets are then left to `poll_broken`.
    pub(crate) fn end_of_input(&self) -> End {
        let closed = sys::is_closed(&self.stream).unwrap_or(true);
        if closed && !self.fin_sent { End::Reset } else { End::Fin }
    }

    /// FIN behind everything written so far.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.fin_sent = true;
        SockRef::from(&self.stream).shutdown(Shutdown::Write)
    }

    /// Everything written has reached the other side's kernel.
    pub(crate) fn is_delivered(&self) -> bool {
        sys::undelivered(&self.stream).is_ok_and(|bytes| bytes == 0)
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// With the linger of `abort` the kernel would throw away what the application has not acknowledged yet.
    pub(crate) fn close(&self) {
        if let Err(error) = SockRef::from(&self.stream).set_linger(None) {
            tracing::debug!(%error, "a socket will end with RST instead of FIN");
        }
    }
}

/// The close that follows sends RST instead of FIN, and so does the kernel's when the process dies.
pub(crate) fn abort(socket: &TcpStream) {
    if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a socket will end with FIN instead of RST");
    }
}

pub(crate) fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn looking_for_a_reset_does_not_lose_the_word_that_there_is_room() {
        let (near, mut far) = pair().await;
        let mut socket = Socket::new(near);
        let block = vec![7; 1 << 16];
        let mut written = 0;
        while !socket.full {
            written += socket.write(&[IoSlice::new(&block)]).unwrap();
        }
        far.shutdown().await.unwrap();
        while !socket.stream().ready(Interest::READABLE).await.unwrap().is_read_closed() {}
        assert!(!poll_fn(|cx| Poll::Ready(socket.poll_writable(cx))).await);
        far.read_exact(&mut vec![0; written]).await.unwrap();
        socket.stream().ready(Interest::WRITABLE).await.unwrap();
        let room = poll_fn(|cx| {
            assert!(!socket.poll_broken(cx));
            Poll::Ready(socket.poll_writable(cx))
        });
        assert!(room.await);
    }

    #[tokio::test]
    async fn a_reset_is_heard_while_nothing_is_read_and_what_came_before_it_is_still_there() {
        let (near, mut far) = pair().await;
        let mut socket = Socket::new(near);
        far.write_all(b"last words").await.unwrap();
        socket.stream().ready(Interest::READABLE).await.unwrap();
        assert!(!poll_fn(|cx| Poll::Ready(socket.poll_broken(cx))).await);
        abort(&far);
        drop(far);
        let broken = poll_fn(|cx| if socket.poll_broken(cx) { Poll::Ready(()) } else { Poll::Pending });
        tokio::time::timeout(Duration::from_secs(10), broken).await.expect("the reset wakes the task");
        let mut seen = [0; 20];
        assert!(poll_fn(|cx| Poll::Ready(socket.poll_readable(cx))).await);
        assert_eq!((socket.read(&mut seen).unwrap(), &seen[..10]), (10, &b"last words"[..]));
        assert_eq!(socket.read(&mut seen).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
