//! A connection at a quiet moment as plain bytes and descriptors, and back: a tunnel with everything in it, or a pair of joined sockets.
//!
//! Every moment between two polls is quiet, for each thread has one task at work. What thaws goes on byte for byte; whatever is not exactly
//! what a program of this version wrote is refused whole, and its descriptors are closed: the connection is reset, never taken half.
//!
//! The bytes hold the secrets of the connection: they are for one successor, over a channel that nobody else reads.
mod envelope;
mod joined;
mod leg;
#[cfg(test)]
mod tests;
mod tunnel;

use std::fmt;
use std::os::fd::OwnedFd;

use tokio::net::TcpStream;
use trackbed_contract::tables::errors;
use zeroize::Zeroizing;

pub use tunnel::{Carried, Thawed};
pub(crate) use tunnel::{Facts, freeze, thaw};

/// A frozen connection. Dropping it ends the connection: applications see a reset.
pub struct Frozen {
    /// Overwritten when dropped.
    pub state: Zeroizing<Vec<u8>>,
    /// The tunnel's socket, then those of its streams in their order; or client and server.
    pub descriptors: Vec<OwnedFd>,
}

/// Why a connection cannot be frozen. It goes on where it is, if nothing else is said.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error("the connection is at its end")]
    Ending,
    #[error("it has no sockets of its own")]
    NoSocket,
    #[error("a stream of it is served by this process itself: it ends here, after a GOAWAY")]
    Served,
    /// It is lost, like the next one.
    #[error("the connection holds more than any successor would take")]
    TooLarge,
    #[error("a socket could not be taken out of its thread: {0}")]
    Socket(std::io::Error),
}

/// Why bytes and descriptors are no connection.
#[derive(Debug, thiserror::Error)]
pub enum ThawError {
    #[error("the frozen state is damaged: {0}")]
    Damaged(&'static str),
    #[error("the frozen state has version {found}; this engine knows version {}", envelope::VERSION)]
    Version { found: u16 },
    #[error("the frozen state is not that of a connection: {0}")]
    Impossible(String),
    #[error("the frozen state comes with {found} descriptors instead of {expected}")]
    Descriptors { expected: usize, found: usize },
    #[error("a descriptor of the frozen state is of no use: {0}")]
    Socket(#[from] std::io::Error),
}

impl ThawError {
    pub fn code(&self) -> &'static str {
        errors::HANDOVER_STATE
    }
}

/// Known to this thread's runtime.
fn socket(descriptor: OwnedFd) -> Result<TcpStream, ThawError> {
    let socket = std::net::TcpStream::from(descriptor);
    socket.set_nonblocking(true)?;
    Ok(TcpStream::from_std(socket)?)
}

/// Its bytes are nobody's business.
impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("bytes", &self.state.len()).field("descriptors", &self.descriptors.len()).finish()
    }
}
