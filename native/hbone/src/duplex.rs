//! One stream of a tunnel as an ordinary connection, for whoever serves it in this process: bytes to read and to write, half-closed by FIN.
//!
//! What its user does not read stays in the stream's window, and stops the other side there.
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;
use tokio::time::timeout;

use crate::h2::Role;
use crate::leg::{Gone, PIECES};
use crate::limits::LINGER;
use crate::link::{Core, Handle};
use crate::meter::Side;
use crate::{Meter, TunnelStream};

/// A [`TunnelStream`] to read from and to write to, within a local runtime. Shutting it down is FIN. Dropping it before both sides have
/// said FIN resets the stream; after a shutdown, once the other side has had a moment to say its own.
pub struct Duplex {
    /// None once it lingers.
    handle: Option<Handle>,
    tasks: Arc<Tasks>,
    /// Wakes both of them.
    waker: Waker,
    finished: bool,
    meter: Option<Rc<Meter>>,
}

impl TunnelStream {
    /// From now on it is served here. Its tunnel cannot be frozen any more.
    pub fn into_duplex(self) -> Duplex {
        let handle = self.handle;
        if let Some(stream) = handle.link.borrow_mut().h2.stream(handle.id) {
            stream.user.served = true;
        }
        let tasks = Arc::new(Tasks::default());
        Duplex { handle: Some(handle), waker: Waker::from(Arc::clone(&tasks)), tasks, finished: false, meter: None }
    }
}

impl Duplex {
    /// What is read and written is counted here from now on.
    #[must_use]
    pub fn counted_by(mut self, meter: &Rc<Meter>) -> Self {
        self.meter = Some(Rc::clone(meter));
        self
    }

    /// The stream, with the task that waits for it known. An error when it is gone with its tunnel.
    fn with<T>(&self, act: impl FnOnce(&mut Core, u32) -> io::Result<T>) -> io::Result<T> {
        let Some(Handle { link, id }) = &self.handle else { return Err(io::ErrorKind::NotConnected.into()) };
        let core = &mut *link.borrow_mut();
        let Some(stream) = core.h2.stream(*id) else { return Err(io::ErrorKind::NotConnected.into()) };
        stream.user.attend(&Context::from_waker(&self.waker));
        let done = act(core, *id);
        if !core.h2.out.is_empty() {
            core.schedule();
        }
        done
    }

    /// The first `bytes` of these pieces.
    fn count(&self, from: Side, pieces: &[IoSlice<'_>], bytes: usize) {
        if let Some(meter) = &self.meter {
            meter.copy(from, pieces, bytes);
            meter.count(from, bytes);
        }
    }

    fn finished(&self, from: Side) {
        if let Some(meter) = &self.meter {
            meter.finished(from);
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        let turn = ready!(poll_proceed(cx));
        self.tasks.set(WRITER, cx.waker());
        let sent = self.with(|core, id| {
            if let Some(gone) = core.h2.stream(id).and_then(|stream| stream.user.gone) {
                return Err(lost(gone));
            }
            // Flushing what was collected may leave the wire full: then the stream waits like any other.
            while core.may_send(id) {
                if let Some(count) = core.write_pieces(id, pieces) {
                    self.count(peer(core).other(), pieces, count);
                    return Ok(Some(count));
                }
            }
            Ok(None)
        });
        sent.transpose().map_or(Poll::Pending, |sent| {
            turn.made_progress();
            Poll::Ready(sent)
        })
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.tasks.set(READER, cx.waker());
        // Libraries ask again and again.
        if self.tasks.is_quiet() {
            return Poll::Pending;
        }
        let turn = ready!(poll_proceed(cx));
        let read = self.with(|core, id| {
            let from = peer(core);
            let Some(stream) = core.h2.stream(id) else { return Ok(None) };
            let leg = &mut stream.user;
            if leg.backlog.is_empty() {
                return match leg.gone {
                    _ if leg.fin => {
                        self.finished(from);
                        Ok(Some(()))
                    }
                    Some(gone) => Err(lost(gone)),
                    None => Ok(None),
                };
            }
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let filled = leg.backlog.slices(&mut pieces);
            let pieces = &pieces[..filled];
            let mut count = 0;
            for piece in pieces {
                let some = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece[..some]);
                count += some;
            }
            self.count(from, pieces, count);
            leg.backlog.advance(count);
            let keeps_up = leg.backlog.is_empty();
            core.h2.read(id, count, keeps_up, Instant::now());
            Ok(Some(()))
        });
        let Some(read) = read.transpose() else {
            self.tasks.told_nothing();
            return Poll::Pending;
        };
        turn.made_progress();
        Poll::Ready(read)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was written leaves when the tunnel's driver runs next, together with what others wrote.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.finished, true) {
            self.with(|core, id| {
                core.h2.end(id);
                self.finished(peer(core).other());
                Ok(())
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Duplex {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let is_over = handle.link.borrow_mut().h2.stream(handle.id).is_none_or(|stream| stream.is_over());
        if !self.finished || is_over {
            return;
        }
        // Its last words may still be on their way to an application that a reset would keep from reading them.
        let rest = Self { handle: Some(handle), tasks: Arc::clone(&self.tasks), waker: self.waker.clone(), finished: true, meter: None };
        tokio::task::spawn_local(linger(rest));
    }
}

/// Reads what still comes, until the other side says FIN too.
async fn linger(mut rest: Duplex) {
    let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    // Now for good: without the handle it does not linger again.
    drop(rest.handle.take());
}

impl fmt::Debug for Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Duplex").field("id", &self.handle.as_ref().map(|handle| handle.id)).finish_non_exhaustive()
    }
}

/// Who is at the other end.
fn peer(core: &Core) -> Side {
    if core.h2.role() == Role::Server { Side::Client } else { Side::Server }
}

fn lost(gone: Gone) -> io::Error {
    match gone {
        Gone::Reset(reason) => io::Error::new(io::ErrorKind::ConnectionReset, format!("the stream was reset: {reason}")),
        Gone::Lost => io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel was lost"),
    }
}

/// A stream knows one waker; whoever reads and whoever writes may be two tasks.
#[derive(Default)]
struct Tasks {
    wakers: Mutex<[Option<Waker>; 2]>,
    /// The stream has had nothing to say since its reader was told that there is nothing to read.
    quiet: AtomicBool,
}

const READER: usize = 0;
const WRITER: usize = 1;

impl Tasks {
    fn set(&self, who: usize, waker: &Waker) {
        let mut wakers = self.lock();
        if !wakers[who].as_ref().is_some_and(|known| known.will_wake(waker)) {
            wakers[who] = Some(waker.clone());
        }
    }

    fn told_nothing(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// The stream wakes its tasks whenever something becomes of it.
    fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, [Option<Waker>; 2]> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.quiet.store(false, Ordering::Relaxed);
        // Taken out first: a task that runs at once may come back here.
        let wakers = self.lock().clone();
        let [reader, writer] = &wakers;
        if let Some(reader) = reader {
            reader.wake_by_ref();
        }
        if let Some(writer) = writer.as_ref().filter(|writer| reader.as_ref().is_none_or(|reader| !reader.will_wake(writer))) {
            writer.wake_by_ref();
        }
    }
}
