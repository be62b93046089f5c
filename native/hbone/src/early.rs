//! What a client says before its stream is accepted: it goes along with CONNECT, which saves it a round trip, and stays in its socket.
//!
//! Whoever takes the socket over later reads it without waiting for tokio's word: looking has used that up.
//!
//! Only towards a peer that holds it back until its application has accepted (`SETTINGS_EARLY_DATA`). When the stream is refused nothing is
//! lost: the socket was only looked at, and the next endpoint is told the same. When no answer comes nobody knows who has heard it: then
//! nobody else is told.
use std::io::ErrorKind;
use std::task::Context;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::link::Core;
use crate::{TunnelError, scratch};

/// Most that is said before the answer: a request with its headers, far below the first window of a stream.
pub(crate) const MOST: usize = 16 << 10;

/// The client's socket while its stream is asked for.
#[derive(Debug)]
pub(crate) struct Early<'a> {
    socket: Option<&'a TcpStream>,
    /// Bytes at the front of the socket's queue that the stream has already.
    sent: usize,
    /// Somebody before us may have looked as well.
    looked: bool,
}

impl<'a> Early<'a> {
    pub(crate) fn new(socket: Option<&'a TcpStream>) -> Self {
        Self { socket, sent: 0, looked: false }
    }

    /// So many bytes went along already, and no more will: the socket is elsewhere.
    pub(crate) fn told(sent: usize) -> Self {
        Self { socket: None, sent, looked: true }
    }

    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// What it means that no answer came. Words that were sent may be with the application, unless the peer says that it has not looked:
    /// whoever told them to somebody else would have a request carried out twice.
    pub(crate) fn judge(&self, error: TunnelError) -> TunnelError {
        let heard = self.sent > 0 && !matches!(error, TunnelError::NotTaken(_) | TunnelError::Frozen(_));
        if heard { TunnelError::InDoubt(Box::new(error)) } else { error }
    }

    /// Says what is new; the task is woken when there is more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, core: &mut Core, id: u32) {
        let Some(socket) = self.socket else { return };
        while core.may_say_early() && self.sent < MOST && (socket.poll_read_ready(cx).is_ready() || !self.looked) {
            self.looked = true;
            let mut lent = scratch::lend();
            let seen = recv(socket, &mut lent[..MOST], RecvFlags::PEEK);
            // Taken back, so that new bytes wake.
            let _ = socket.try_io(Interest::READABLE, || Err::<(), _>(ErrorKind::WouldBlock.into()));
            let most = self.sent + core.h2.room(id);
            match seen {
                Ok((_, seen)) if seen.min(most) > self.sent => {
                    core.say(id, &lent[self.sent..seen.min(most)]);
                    core.schedule();
                    self.sent = seen.min(most);
                    if let Some(stream) = core.h2.stream(id) {
                        stream.user.early = self.sent;
                    }
                }
                // Nothing new, its end, or an error: the pump finds it again.
                _ => return,
            }
        }
    }
}
