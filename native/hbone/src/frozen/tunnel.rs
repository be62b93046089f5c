//! A tunnel with its streams: the record layer, HTTP/2, what is on its way in both directions, and the sockets that it carries.
use std::any::Any;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use trackbed_tls::channel::RECORD_BYTES;
use trackbed_tls::frozen::{FrozenChannel, FrozenPeer};
use trackbed_tls::{Channel, PeerInfo};

use super::envelope::{self, Kind};
use super::leg::FrozenLeg;
use super::{FreezeError, Frozen, ThawError, socket};
use crate::carry;
use crate::client::Asking;
use crate::h2::{Connection, FrozenConnection, Reason, Role};
use crate::leg::{Ends, Leg};
use crate::limits::Limits;
use crate::link::{Core, Handle, Link, Output};
use crate::meter::{Meter, Outcome, Side};
use crate::moment;
use crate::vigil::{Seen, Vigil};
use crate::{Timing, TunnelStream};

/// What both ends know of a tunnel beside its link.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) peer: Arc<PeerInfo>,
    /// Of a server's client.
    pub(crate) address: Option<SocketAddr>,
    /// A client's: how long it took to set up, and when half of its life is over.
    pub(crate) handshake: Duration,
    pub(crate) prime: Instant,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct FrozenTunnel {
    #[prost(message, optional, tag = "1")]
    channel: Option<FrozenChannel>,
    #[prost(message, optional, tag = "2")]
    h2: Option<FrozenConnection>,
    /// In the order of the streams.
    #[prost(message, repeated, tag = "3")]
    legs: Vec<FrozenLeg>,
    #[prost(message, optional, tag = "4")]
    peer: Option<FrozenPeer>,
    #[prost(string, tag = "5")]
    address: String,
    #[prost(uint64, tag = "6")]
    handshake: u64,
    #[prost(sint64, tag = "7")]
    prime: i64,
    #[prost(message, optional, tag = "8")]
    vigil: Option<FrozenVigil>,
    /// The beginning of a record whose end has not come.
    #[prost(bytes = "vec", tag = "9")]
    partial: Vec<u8>,
    /// Sealed records that the socket has not taken.
    #[prost(bytes = "vec", tag = "10")]
    output: Vec<u8>,
    #[prost(uint64, tag = "11")]
    tickets: u64,
    #[prost(message, repeated, tag = "17")]
    waiting: Vec<FrozenPlace>,
    #[prost(message, optional, tag = "12")]
    bulk: Option<FrozenBulk>,
    #[prost(bool, tag = "13")]
    ponged: bool,
    #[prost(bool, tag = "14")]
    retired: bool,
    #[prost(bool, tag = "15")]
    closed: bool,
    #[prost(sint64, optional, tag = "16")]
    idle_since: Option<i64>,
}

/// In the queue for room, the longest wait first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenPlace {
    #[prost(uint64, tag = "1")]
    ticket: u64,
    #[prost(uint32, tag = "2")]
    id: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenBulk {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(sint64, tag = "2")]
    at: i64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenVigil {
    #[prost(sint64, tag = "1")]
    heard: i64,
    #[prost(sint64, tag = "2")]
    ping: i64,
    #[prost(bool, tag = "3")]
    asked: bool,
    #[prost(sint64, optional, tag = "4")]
    first: Option<i64>,
    #[prost(uint64, tag = "5")]
    patience: u64,
    /// Unix seconds.
    #[prost(uint64, tag = "6")]
    end: u64,
}

/// A stream that goes on. Dropping it resets the stream.
#[derive(Debug)]
pub enum Thawed {
    /// With its socket: its pump must run again.
    Carried(Carried),
    /// A client's that waits for its answer; whoever froze the tunnel has the socket.
    Asking(Asking),
    /// Open, and no pump had begun; whoever had it has its socket, and what it knew of it.
    Open(TunnelStream),
}

#[derive(Debug)]
pub struct Carried {
    handle: Handle,
    side: Side,
    meter: Rc<Meter>,
    ends: Ends,
}

impl Thawed {
    /// The number of the stream, by which those who had it know it.
    pub fn id(&self) -> u32 {
        match self {
            Self::Carried(carried) => carried.handle.id,
            Self::Asking(asking) => asking.handle.id,
            Self::Open(stream) => stream.handle.id,
        }
    }
}

impl Carried {
    /// Of a new object, with what was counted before.
    pub fn meter(&self) -> &Rc<Meter> {
        &self.meter
    }

    /// The pump that goes on.
    pub fn run(self) -> impl Future<Output = Outcome> {
        carry::resume(self.handle, self.side, self.meter, self.ends)
    }
}

/// Takes everything out of a link. Its tasks find that out when they run next, and end without a word.
pub(crate) fn freeze(link: &Link, facts: &Facts, now: Instant) -> Result<Frozen, FreezeError> {
    let core = &mut *link.borrow_mut();
    if core.is_ending() {
        return Err(FreezeError::Ending);
    }
    if core.h2.streams().any(|(_, stream)| stream.user.served) {
        return Err(FreezeError::Served);
    }
    let wire = take_socket(core)?;
    refuse_unanswered(core);
    let state = envelope::seal(Kind::Tunnel, &FrozenTunnel::of(core, facts, now));
    let mut descriptors = vec![wire.into_std().map(OwnedFd::from)];
    for (_, stream) in core.h2.streams() {
        let port = stream.user.port.take();
        descriptors.extend(port.map(|port| port.socket.into_std().map(OwnedFd::from)));
        stream.user.wake();
    }
    core.leave_frozen(now);
    let descriptors = descriptors.into_iter().collect::<Result<_, _>>().map_err(FreezeError::Socket)?;
    Ok(Frozen { state: state.ok_or(FreezeError::TooLarge)?, descriptors })
}

fn take_socket(core: &mut Core) -> Result<TcpStream, FreezeError> {
    let is_socket = core.wire.as_deref().is_some_and(|wire| (wire as &dyn Any).is::<TcpStream>());
    let wire = core.wire.take_if(|_| is_socket).ok_or(FreezeError::NoSocket)?;
    let wire: Box<dyn Any> = wire;
    wire.downcast::<TcpStream>().map(|wire| *wire).map_err(|_| FreezeError::NoSocket)
}

/// Somebody works for them who cannot be frozen. Nothing of theirs has reached an application, so they may be asked again.
fn refuse_unanswered(core: &mut Core) {
    core.asked.clear();
    for id in core.h2.unanswered() {
        core.h2.reset(id, Reason::REFUSED_STREAM);
        core.waiting.retain(|(_, waits)| *waits != id);
        if let Some(stream) = core.h2.stream(id) {
            stream.user.wake();
        }
        core.h2.release(id);
    }
}

/// Must be called within a local runtime. The link has no driver yet.
pub(crate) fn thaw(frozen: Frozen, role: Role, limits: &Limits, now: Instant) -> Result<(Rc<Link>, Facts, Vec<Thawed>), ThawError> {
    let Frozen { state, descriptors } = frozen;
    let tunnel: FrozenTunnel = envelope::open(Kind::Tunnel, &state)?;
    drop(state);
    let expected = 1 + tunnel.legs.iter().filter(|leg| leg.port.is_some()).count();
    if descriptors.len() != expected {
        return Err(ThawError::Descriptors { expected, found: descriptors.len() });
    }
    let mut sockets = descriptors.into_iter().map(socket).collect::<Result<Vec<_>, _>>()?.into_iter();
    let wire = sockets.next().ok_or(ThawError::Descriptors { expected, found: 0 })?;
    let facts = tunnel.facts(role, now).map_err(ThawError::Impossible)?;
    let link = tunnel.link(wire, role, sockets, limits, now).map_err(ThawError::Impossible)?;
    let link = Rc::new(link);
    let streams = hand_out(&link, &facts, role, limits);
    Ok((link, facts, streams))
}

fn hand_out(link: &Rc<Link>, facts: &Facts, role: Role, limits: &Limits) -> Vec<Thawed> {
    let core = &mut *link.borrow_mut();
    let streams = core.h2.streams().map(|(id, stream)| {
        let handle = Handle { link: Rc::clone(link), id };
        let answered = stream.is_answered();
        let leg = &stream.user;
        match &leg.port {
            Some(port) => Thawed::Carried(Carried { handle, side: side(role), meter: Rc::clone(&port.meter), ends: port.ends }),
            None if answered && leg.answer.is_none() => {
                let (peer, timing, baggage) = (Arc::clone(&facts.peer), Timing::default(), None);
                Thawed::Open(TunnelStream { handle, peer, timing, baggage, early: leg.early })
            }
            None => Thawed::Asking(Asking { handle, peer: Arc::clone(&facts.peer), early: leg.early, limit: limits.connect_answer }),
        }
    });
    streams.collect()
}

fn side(role: Role) -> Side {
    if role == Role::Client { Side::Client } else { Side::Server }
}

impl FrozenTunnel {
    fn of(core: &mut Core, facts: &Facts, now: Instant) -> Self {
        Self {
            channel: Some(core.channel.freeze()),
            h2: Some(core.h2.freeze(now)),
            legs: core.h2.streams().map(|(id, stream)| FrozenLeg::of(id, &stream.user, now)).collect(),
            peer: Some(facts.peer.freeze()),
            address: facts.address.map(|address| address.to_string()).unwrap_or_default(),
            handshake: nanos(facts.handshake),
            prime: moment::offset(facts.prime, now),
            vigil: Some(FrozenVigil::of(core.vigil.seen(), now)),
            partial: core.partial.clone(),
            output: core.output.as_ref().map(|output| output.rest().to_vec()).unwrap_or_default(),
            tickets: core.tickets,
            waiting: core.waiting.iter().map(|(ticket, id)| FrozenPlace { ticket: *ticket, id: *id }).collect(),
            bulk: core.bulk.map(|(id, at)| FrozenBulk { id, at: moment::offset(at, now) }),
            ponged: core.ponged,
            retired: core.retired,
            closed: core.closed,
            idle_since: core.idle_since.map(|since| moment::offset(since, now)),
        }
    }

    fn facts(&self, role: Role, now: Instant) -> Result<Facts, String> {
        let peer = PeerInfo::thaw(self.peer.as_ref().ok_or("nothing about its peer")?).map_err(|error| error.to_string())?;
        let address = (role == Role::Server).then(|| self.address.parse()).transpose().map_err(|_| "a client without an address")?;
        if address.is_none() && !self.address.is_empty() {
            return Err("an address of a server's client".into());
        }
        Ok(Facts {
            peer: Arc::new(peer),
            address,
            handshake: Duration::from_nanos(self.handshake),
            prime: moment::at(self.prime, now).ok_or("a moment that cannot be")?,
        })
    }

    fn link(
        self,
        wire: TcpStream,
        role: Role,
        mut sockets: impl Iterator<Item = TcpStream>,
        limits: &Limits,
        now: Instant,
    ) -> Result<Link, String> {
        let moment = |offset| moment::at(offset, now).ok_or("a moment that cannot be");
        let channel = Channel::thaw(self.channel.as_ref().ok_or("no record layer")?).map_err(|error| error.to_string())?;
        let mut h2 = Connection::<Leg>::thaw(self.h2.ok_or("no HTTP/2")?, now).map_err(|error| error.to_string())?;
        if h2.role() != role {
            return Err("it is of the other role".into());
        }
        if self.partial.len() > RECORD_BYTES {
            return Err("more than a record that is not whole".into());
        }
        if !self.legs.iter().map(|leg| leg.id).eq(h2.streams().map(|(id, _)| id)) {
            return Err("other streams than HTTP/2 has".into());
        }
        let queued: BTreeSet<_> = self.legs.iter().filter(|leg| leg.queued).map(|leg| leg.id).collect();
        let waiting: BTreeSet<_> = self.waiting.iter().map(|place| place.id).collect();
        if queued != waiting || waiting.len() != self.waiting.len() || !self.waiting.is_sorted_by_key(|place| place.ticket) {
            return Err("a queue of other streams than those that wait".into());
        }
        for leg in self.legs {
            let id = leg.id;
            let carried = if leg.port.is_some() { sockets.next() } else { None };
            let stream = h2.stream(id).ok_or("a stream that is gone")?;
            stream.user = leg.thaw(side(role), carried, now)?;
        }
        let seen = self.vigil.ok_or("nothing about time")?.thaw(now)?;
        let link = Link::new(Box::new(wire), channel, self.partial, h2, Vigil::resume(role, limits, seen, now));
        let mut core = link.borrow_mut();
        core.output = (!self.output.is_empty()).then(|| Output::Parked(self.output.into(), 0));
        core.waiting = self.waiting.iter().map(|place| (place.ticket, place.id)).collect();
        core.tickets = self.tickets;
        core.bulk = self.bulk.map(|bulk| moment(bulk.at).map(|at| (bulk.id, at))).transpose()?;
        (core.ponged, core.retired, core.closed) = (self.ponged, self.retired, self.closed);
        core.idle_since = self.idle_since.map(moment).transpose()?;
        drop(core);
        Ok(link)
    }
}

#[cfg(test)]
impl FrozenTunnel {
    pub(super) fn legs(&self) -> &[FrozenLeg] {
        &self.legs
    }

    pub(super) fn has_partial(&self) -> bool {
        !self.partial.is_empty()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty()
    }
}

impl FrozenVigil {
    fn of(seen: Seen, now: Instant) -> Self {
        let Seen { heard, ping, asked, first, end } = seen;
        Self {
            heard: moment::offset(heard, now),
            ping: moment::offset(ping, now),
            asked,
            first: first.map(|(until, _)| moment::offset(until, now)),
            patience: first.map(|(_, patience)| nanos(patience)).unwrap_or_default(),
            end: end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    fn thaw(&self, now: Instant) -> Result<Seen, &'static str> {
        let moment = |offset| moment::at(offset, now).ok_or("a moment that cannot be");
        let patience = Duration::from_nanos(self.patience);
        if self.first.is_none() && self.patience > 0 {
            return Err("patience for nothing");
        }
        Ok(Seen {
            heard: moment(self.heard)?,
            ping: moment(self.ping)?,
            asked: self.asked,
            first: self.first.map(moment).transpose()?.map(|until| (until, patience)),
            end: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(self.end)).ok_or("a certificate beyond all time")?,
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
