//! What a server's first SETTINGS allow: read as they pass, for the library tells nobody when they came.
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::timeout;

/// The first frame of a server is SETTINGS, and due at once: longer than any round trip.
const FIRST_SETTINGS: Duration = Duration::from_secs(1);
/// Of SETTINGS that are looked at: there are not twenty that anybody knows.
const MOST_BYTES: usize = HEAD + 64 * ENTRY;
const HEAD: usize = 9;
const ENTRY: usize = 6;
const SETTINGS: u8 = 4;
/// RFC 8441.
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Known to those who want to send on the connection.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    /// Extended CONNECT; None while nothing is known.
    connect: Cell<Option<bool>>,
    told: Notify,
}

impl Allowed {
    /// Whether an extended CONNECT may be sent, once the server has said so.
    pub(crate) async fn connect(&self) -> bool {
        let told = async {
            loop {
                let told = self.told.notified();
                match self.connect.get() {
                    Some(allowed) => return allowed,
                    None => told.await,
                }
            }
        };
        timeout(FIRST_SETTINGS, told).await.unwrap_or(false)
    }

    fn tell(&self, connect: bool) {
        self.connect.set(Some(connect));
        self.told.notify_waiters();
    }
}

/// A connection to a server of HTTP/2.
pub(crate) struct Heard<Io> {
    io: Io,
    /// The beginning, until it is understood.
    first: RefCell<Option<Vec<u8>>>,
    allowed: Rc<Allowed>,
}

impl<Io> Heard<Io> {
    pub(crate) fn new(io: Io) -> Self {
        Self { io, first: RefCell::new(Some(Vec::new())), allowed: Rc::default() }
    }

    pub(crate) fn allowed(&self) -> &Rc<Allowed> {
        &self.allowed
    }

    fn hear(&self, bytes: &[u8]) {
        let mut kept = self.first.borrow_mut();
        let Some(first) = kept.as_mut() else { return };
        first.extend_from_slice(&bytes[..bytes.len().min(MOST_BYTES - first.len())]);
        if let Some(connect) = connect_allowed(first) {
            self.allowed.tell(connect);
            *kept = None;
        }
    }
}

/// None while the frame is incomplete. What is no SETTINGS allows nothing; the library ends the connection for it.
fn connect_allowed(first: &[u8]) -> Option<bool> {
    let (head, rest) = first.split_at_checked(HEAD)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    if head[3] != SETTINGS || HEAD + length > MOST_BYTES {
        return Some(false);
    }
    let mut entries = rest.get(..length)?.chunks_exact(ENTRY);
    // Said twice, the last word holds.
    let said = entries.rfind(|entry| u16::from_be_bytes([entry[0], entry[1]]) == ENABLE_CONNECT_PROTOCOL);
    Some(said.is_some_and(|entry| entry[2..] == [0, 0, 0, 1]))
}

impl<Io: AsyncRead + Unpin> AsyncRead for Heard<Io> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        self.hear(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Heard<Io> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, entries: &[(u16, u32)]) -> Vec<u8> {
        let length = u8::try_from(entries.len() * ENTRY).unwrap_or_default();
        let mut bytes = vec![0, 0, length, kind, 0, 0, 0, 0, 0];
        for (id, value) in entries {
            bytes.extend_from_slice(&id.to_be_bytes());
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    #[test]
    fn the_first_settings_say_whether_connect_may_be_extended() {
        for (bytes, expected) in [
            (frame(SETTINGS, &[(3, 100), (8, 1)]), Some(true)),
            (frame(SETTINGS, &[(8, 1), (8, 0)]), Some(false)),
            (frame(SETTINGS, &[(3, 8)]), Some(false)),
            (frame(SETTINGS, &[]), Some(false)),
            (frame(0, &[(8, 1)]), Some(false)),
            (vec![0xff; HEAD], Some(false)),
            (Vec::new(), None),
        ] {
            assert_eq!(connect_allowed(&bytes), expected, "{bytes:?}");
        }
        let whole = frame(SETTINGS, &[(4, 65_535), (8, 1)]);
        for cut in 0..whole.len() {
            let heard = Heard::new(());
            heard.hear(&whole[..cut]);
            assert_eq!(heard.allowed.connect.get(), None, "{cut}");
            heard.hear(&[&whole[cut..], b"what follows"].concat());
            assert_eq!(heard.allowed.connect.get(), Some(true), "{cut}");
        }
    }
}
