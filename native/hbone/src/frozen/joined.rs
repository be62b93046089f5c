//! Two sockets that were joined: what was on its way between them, in memory or in a pipe of the kernel's, and how far their ends were.
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::envelope::{self, Kind};
use super::leg::{FrozenMeter, ended_by, number};
use super::{FreezeError, Frozen, ThawError, socket};
use crate::backlog::Backlog;
use crate::moment;
use crate::relay::{Half, Joined};
use crate::socket::Socket;

/// The parts of a [`Joined`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct FrozenJoined {
    #[prost(message, optional, tag = "1")]
    client: Option<FrozenEnd>,
    #[prost(message, optional, tag = "2")]
    server: Option<FrozenEnd>,
    #[prost(uint32, tag = "3")]
    closed_by: u32,
    #[prost(sint64, tag = "4")]
    start: i64,
    #[prost(message, optional, tag = "5")]
    meter: Option<FrozenMeter>,
}

/// A socket, and the direction that begins at it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
struct FrozenEnd {
    #[prost(bool, tag = "1")]
    fin_sent: bool,
    #[prost(bool, tag = "2")]
    gone: bool,
    /// What was read from it and is not with the other end.
    #[prost(bytes = "vec", tag = "3")]
    backlog: Vec<u8>,
    #[prost(bool, tag = "4")]
    bulk: bool,
    #[prost(bool, tag = "5")]
    done: bool,
}

impl Joined {
    pub(crate) fn freeze(self, now: Instant) -> Result<Frozen, FreezeError> {
        let Self { client, server, up, down, client_gone, server_gone, closed_by, start, meter } = self;
        let joined = FrozenJoined {
            client: Some(FrozenEnd::of(&client, up, client_gone).map_err(FreezeError::Socket)?),
            server: Some(FrozenEnd::of(&server, down, server_gone).map_err(FreezeError::Socket)?),
            closed_by: number(closed_by),
            start: moment::offset(start, now),
            meter: Some(FrozenMeter::of(&meter, now)),
        };
        let state = envelope::seal(Kind::Joined, &joined).ok_or(FreezeError::TooLarge)?;
        let descriptor = |socket: Socket| socket.into_std().map(OwnedFd::from).map_err(FreezeError::Socket);
        Ok(Frozen { state, descriptors: vec![descriptor(client)?, descriptor(server)?] })
    }

    pub(crate) fn thaw(frozen: Frozen, now: Instant) -> Result<Self, ThawError> {
        let Frozen { state, descriptors } = frozen;
        let joined: FrozenJoined = envelope::open(Kind::Joined, &state)?;
        let found = descriptors.len();
        let [client, server] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| ThawError::Descriptors { expected: 2, found })?;
        let impossible = |why: &str| ThawError::Impossible(why.to_owned());
        let (client, up, client_gone) = joined.client.ok_or_else(|| impossible("no client"))?.thaw(client)?;
        let (server, down, server_gone) = joined.server.ok_or_else(|| impossible("no server"))?.thaw(server)?;
        let meter = joined.meter.ok_or_else(|| impossible("sockets that nobody counts"))?;
        Ok(Self {
            client,
            server,
            up,
            down,
            client_gone,
            server_gone,
            closed_by: ended_by(joined.closed_by).map_err(impossible)?,
            start: moment::at(joined.start, now).ok_or_else(|| impossible("a moment that cannot be"))?,
            meter: meter.thaw(now).map_err(impossible)?,
        })
    }
}

impl FrozenEnd {
    /// What is in a pipe is read out of it: the pipe belongs to the thread.
    fn of(socket: &Socket, half: Half, gone: bool) -> io::Result<Self> {
        let Half { backlog, pipe, bulk, done } = half;
        let mut bytes = backlog.to_vec();
        if let Some(pipe) = pipe {
            bytes.extend(pipe.empty()?);
        }
        Ok(Self { fin_sent: socket.is_fin_sent(), gone, backlog: bytes, bulk, done })
    }

    fn thaw(self, descriptor: OwnedFd) -> Result<(Socket, Half, bool), ThawError> {
        let Self { fin_sent, gone, backlog: bytes, bulk, done } = self;
        let mut backlog = Backlog::default();
        backlog.push(&bytes);
        Ok((Socket::resume(socket(descriptor)?, fin_sent), Half { backlog, pipe: None, bulk, done }, gone))
    }
}

/// What is under way in it is the applications'.
impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined")
            .field("client", &self.client)
            .field("server", &self.server)
            .field("meter", &self.meter)
            .finish_non_exhaustive()
    }
}
