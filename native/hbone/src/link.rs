//! One TLS connection with its streams: bytes in, bytes out, and who waits for what. Owned by one thread, driven by one task (`driver`);
//! the pumps of its streams send through it by themselves.
use std::any::Any;
use std::cell::{Ref, RefCell, RefMut};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trackbed_tls::Channel;
use trackbed_tls::channel::{ALERT_BYTES, Front, PREPARE_BYTES, RECORD_DATA, RECORD_HEAD, RECORD_TAIL};

use crate::h2::{Asked, Bounds, Connection, Event, HEAD, Reason, Role};
use crate::leg::{Gone, Leg, PIECES};
use crate::limits;
use crate::scratch::{self, FRONT, Lent, PAYLOAD, PAYLOAD_AT, SLOT, TURN};
use crate::socket::{End, is_later};
use crate::vigil::Vigil;

/// What carries the records: a TCP socket, or a pipe in tests.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Any {}
impl<T: AsyncRead + AsyncWrite + Unpin + Any> Wire for T {}

/// Payload up to here is collected with that of other streams and leaves at the end of the turn; more leaves at once, by itself.
const SMALL: usize = 4 << 10;
/// Memory for collected frames that a tunnel may keep while it is idle.
const OUT_KEPT: usize = 4 << 10;
/// How long a bulk stream counts as one after its last 64 MiB.
const BULK_SECONDS: u64 = 5;

pub(crate) struct Link(RefCell<Core>);

#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(crate) struct Core {
    pub(crate) h2: Connection<Leg>,
    /// None when the connection is over.
    pub(crate) wire: Option<Box<dyn Wire>>,
    pub(crate) channel: Channel,
    /// The beginning of a record whose end has not come.
    pub(crate) partial: Vec<u8>,
    /// Sealed records that the wire has not taken.
    pub(crate) output: Option<Output>,
    driver: Waker,
    /// The driver is woken already.
    scheduled: bool,
    /// Streams that wait for room, the longest first: ticket and id.
    pub(crate) waiting: VecDeque<(u64, u32)>,
    pub(crate) tickets: u64,
    /// New streams that nobody has looked at.
    pub(crate) asked: VecDeque<(u32, Box<Asked>)>,
    /// A stream moves so much that new ones should go elsewhere.
    pub(crate) bulk: Option<(u32, Instant)>,
    pub(crate) ponged: bool,
    /// Nobody asks for streams any more.
    pub(crate) retired: bool,
    /// The peer has said close_notify.
    pub(crate) closed: bool,
    /// Why the connection is over.
    over: Option<Rc<str>>,
    pub(crate) idle_since: Option<Instant>,
    pub(crate) vigil: Vigil,
    /// Nothing but reading what the peer still says comes after it.
    said_last: bool,
    frozen: bool,
}

#[derive(Debug)]
pub(crate) enum Output {
    Lent(Lent, Range<usize>),
    /// Little, in memory of its size.
    Parked(Box<[u8]>, usize),
}

/// One stream, for whoever works with it. Dropping it resets the stream, unless it is over.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) link: Rc<Link>,
    pub(crate) id: u32,
}

/// What `Core::carry` did.
pub(crate) enum Carried {
    Bytes(usize),
    /// Nothing to read now.
    Later,
    Fin,
    Reset,
}

/// What `Core::poll_receive` met.
pub(crate) enum Received {
    Bytes(usize),
    /// close_notify.
    Closed,
}

/// Payload of one stream that lies in several places of the input.
struct Gather {
    id: u32,
    ranges: [Range<usize>; PIECES],
    count: usize,
}

impl Link {
    pub(crate) fn new(wire: Box<dyn Wire>, channel: Channel, rest: Vec<u8>, h2: Connection<Leg>, vigil: Vigil) -> Self {
        Self(RefCell::new(Core {
            h2,
            wire: Some(wire),
            channel,
            partial: rest,
            output: None,
            driver: Waker::noop().clone(),
            scheduled: false,
            waiting: VecDeque::new(),
            tickets: 0,
            asked: VecDeque::new(),
            bulk: None,
            ponged: false,
            retired: false,
            closed: false,
            over: None,
            idle_since: Some(Instant::now()),
            vigil,
            said_last: false,
            frozen: false,
        }))
    }

    pub(crate) fn borrow(&self) -> Ref<'_, Core> {
        self.0.borrow()
    }

    pub(crate) fn borrow_mut(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }
}

impl Core {
    /// The driver's turn begins.
    pub(crate) fn enter(&mut self, cx: &Context<'_>) {
        if !self.driver.will_wake(cx.waker()) {
            self.driver.clone_from(cx.waker());
        }
        self.scheduled = false;
    }

    /// Has the driver run once everything that is ready now had its turn: what was said meanwhile leaves together.
    pub(crate) fn schedule(&mut self) {
        if !std::mem::replace(&mut self.scheduled, true) {
            self.driver.wake_by_ref();
        }
    }

    pub(crate) fn over(&self) -> Option<&Rc<str>> {
        self.over.as_ref()
    }

    /// New streams can be asked for in principle.
    pub(crate) fn is_open(&self) -> bool {
        self.over.is_none() && !self.h2.is_going_away()
    }

    /// A bulk stream is in it.
    pub(crate) fn is_taken(&self) -> bool {
        self.bulk.is_some_and(|(_, at)| at.elapsed().as_secs() < BULK_SECONDS)
    }

    pub(crate) fn idle_since(&self) -> Option<Instant> {
        self.idle_since
    }

    /// It is at its end, and there is nothing that could go on.
    pub(crate) fn is_ending(&self) -> bool {
        self.over.is_some() || self.said_last || self.wire.is_none()
    }

    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// What it was made of is elsewhere: whoever still works with it is told, and does no harm.
    pub(crate) fn leave_frozen(&mut self, now: Instant) {
        self.h2 = Connection::new(self.h2.role(), bounds(self.h2.role(), 0), now);
        self.frozen = true;
        self.over = Some("it goes on in a successor".into());
        self.wire = None;
        self.output = None;
        self.waiting.clear();
        self.schedule();
    }

    /// Ends every stream. The first reason is the true one.
    pub(crate) fn end(&mut self, reason: &str) {
        if self.over.is_some() {
            return;
        }
        self.over = Some(reason.into());
        for (_, stream) in self.h2.streams() {
            if !stream.is_over() {
                stream.user.gone = Some(Gone::Lost);
            }
            stream.user.wake();
        }
        self.h2.abandon();
        self.schedule();
    }

    /// Keeps an eye on whether the tunnel is in use, and gives memory back when it is not.
    pub(crate) fn note_use(&mut self, now: Instant) {
        if self.h2.live() > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(now);
            self.bulk = None;
        }
    }

    pub(crate) fn give_memory_back(&mut self) {
        if self.h2.out.is_empty() {
            self.h2.out = Vec::new();
        }
    }

    // Receiving.

    /// Reads once and passes on what came.
    pub(crate) fn poll_receive(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Result<Received, Ended>> {
        let Some(wire) = self.wire.as_mut() else { return Poll::Ready(Err(Ended::new("closed by us"))) };
        let mut lent = scratch::lend();
        let have = self.partial.len();
        let mut buffer = ReadBuf::new(&mut lent[have..]);
        ready!(Pin::new(wire).poll_read(cx, &mut buffer)).map_err(|error| Ended::new(error.to_string()))?;
        let count = buffer.filled().len();
        if count == 0 {
            return Poll::Ready(Err(Ended::new("the connection ended without close_notify")));
        }
        lent[..have].copy_from_slice(&self.partial);
        let closed = self.process(&mut lent, have + count, now)?;
        Poll::Ready(Ok(if closed { Received::Closed } else { Received::Bytes(count) }))
    }

    /// What came behind the handshake.
    pub(crate) fn receive_rest(&mut self, now: Instant) -> Result<Received, Ended> {
        let mut lent = scratch::lend();
        let have = self.partial.len();
        lent[..have].copy_from_slice(&self.partial);
        self.process(&mut lent, have, now).map(|closed| if closed { Received::Closed } else { Received::Bytes(have) })
    }

    /// Opens every whole record among the first `end` bytes and keeps the rest. True after close_notify.
    fn process(&mut self, bytes: &mut [u8], end: usize, now: Instant) -> Result<bool, Ended> {
        let mut at = 0;
        let mut gather = Gather::new();
        let closed = loop {
            match self.channel.open(&mut bytes[at..end]) {
                Ok(Front::More) => break false,
                Ok(Front::Closed) => break true,
                Ok(Front::Control { record }) => {
                    at += record;
                    self.schedule(); // a key update may be owed
                }
                Ok(Front::Data { record, data }) => {
                    let mut position = at + data.start;
                    let input = &bytes[..at + data.end];
                    at += record;
                    loop {
                        match self.h2.next(input, &mut position, now) {
                            Ok(Some(event)) => self.handle(event, input, &mut gather, now),
                            Ok(None) => break,
                            Err(fatal) => {
                                self.pass(input, &mut gather, now);
                                self.h2.leave(fatal.reason);
                                return Err(Ended::new(fatal.to_string()));
                            }
                        }
                    }
                }
                Err(error) => {
                    self.pass(&bytes[..at], &mut gather, now);
                    let mut alert = [0; ALERT_BYTES];
                    let length = self.channel.alert(error, &mut alert).unwrap_or(0);
                    return Err(Ended { reason: error.to_string(), alert: alert[..length].into() });
                }
            }
        };
        self.pass(&bytes[..at], &mut gather, now);
        self.partial.clear();
        self.partial.shrink_to(end - at);
        self.partial.extend_from_slice(&bytes[at..end]);
        Ok(closed)
    }

    fn handle(&mut self, event: Event, input: &[u8], gather: &mut Gather, now: Instant) {
        if let Event::Data { id, range } = event {
            if gather.id != id || gather.count == PIECES {
                self.pass(input, gather, now);
                gather.id = id;
            }
            gather.ranges[gather.count] = range;
            gather.count += 1;
            return;
        }
        self.pass(input, gather, now);
        match event {
            Event::Data { .. } => {}
            Event::Asked { id, asked } => self.asked.push_back((id, asked)),
            Event::Answered { id, answered } => self.tell(id, |leg| leg.answer = Some(answered)),
            Event::End { id } => self.tell(id, |leg| leg.fin = true),
            Event::Reset { id, reason } => self.tell(id, |leg| leg.gone = Some(Gone::Reset(reason))),
            Event::Room { id: Some(id) } => {
                if let Some(stream) = self.h2.stream(id)
                    && stream.user.ticket.is_some()
                {
                    stream.user.wake();
                }
            }
            Event::Settings | Event::Room { id: None } => self.wake_waiting(),
            Event::GoAway { last, reason } => {
                tracing::debug!(last, %reason, "the peer takes no new streams");
                for id in self.h2.abandon_beyond(last) {
                    self.tell(id, |leg| leg.gone = Some(Gone::Reset(Reason::REFUSED_STREAM)));
                }
            }
            Event::Pong => self.ponged = true,
        }
    }

    fn tell(&mut self, id: u32, act: impl FnOnce(&mut Leg)) {
        if let Some(stream) = self.h2.stream(id) {
            act(&mut stream.user);
            stream.user.wake();
        }
    }

    /// Gathered payload to its socket.
    fn pass(&mut self, input: &[u8], gather: &mut Gather, now: Instant) {
        let ranges = &gather.ranges[..std::mem::take(&mut gather.count)];
        let Some(stream) = self.h2.stream(gather.id).filter(|_| !ranges.is_empty()) else { return };
        let leg = &mut stream.user;
        let taken = leg.deliver(input, ranges);
        let keeps_up = leg.backlog.is_empty();
        if leg.is_bulk_after(taken, || now) {
            self.bulk = Some((gather.id, now));
        }
        self.h2.read(gather.id, taken, keeps_up, now);
    }

    // Sending.

    /// Whether a stream could send now; if not it waits in the queue, and is woken.
    pub(crate) fn may_send(&mut self, id: u32) -> bool {
        if self.output.is_none() && self.h2.room(id) > 0 {
            return true;
        }
        let Some(stream) = self.h2.stream(id) else { return false };
        let ticket = *stream.user.ticket.get_or_insert(self.tickets);
        if !std::mem::replace(&mut stream.user.queued, true) {
            self.tickets += 1;
            // Who waited in vain keeps its place.
            let place = self.waiting.partition_point(|(before, _)| *before < ticket);
            self.waiting.insert(place, (ticket, id));
        }
        false
    }

    fn wake_waiting(&mut self) {
        for (_, id) in std::mem::take(&mut self.waiting) {
            if let Some(stream) = self.h2.stream(id) {
                stream.user.queued = false;
                stream.user.wake();
            }
        }
    }

    /// Moves up to `most` bytes from a stream's socket into the tunnel, after `may_send`.
    pub(crate) fn carry(&mut self, id: u32, most: usize) -> io::Result<Carried> {
        if self.h2.out.len() > RECORD_DATA {
            self.flush();
            if self.output.is_some() {
                return Ok(Carried::Later);
            }
        }
        let room = self.h2.room(id).min(most).min(TURN);
        let Some(leg) = self.h2.stream(id).map(|stream| &mut stream.user) else { return Ok(Carried::Reset) };
        leg.ticket = None;
        let Some(port) = &mut leg.port else { return Ok(Carried::Reset) };
        let mut lent = scratch::lend();
        let count = match read(port, &mut lent, room) {
            Ok(0) if room > 0 => {
                return Ok(match port.socket.end_of_input() {
                    End::Fin => Carried::Fin,
                    End::Reset => Carried::Reset,
                });
            }
            Ok(count) => count,
            Err(error) if is_later(&error) => return Ok(Carried::Later),
            Err(error) => return Err(error),
        };
        if port.meter.is_tapped() {
            let places = lent[FRONT..].chunks(SLOT).map(|slot| io::IoSlice::new(&slot[PAYLOAD_AT..PAYLOAD_AT + PAYLOAD]));
            port.meter.copy(port.side, &places.take(count.div_ceil(PAYLOAD)).collect::<Vec<_>>(), count);
        }
        port.meter.count(port.side, count);
        if count <= SMALL {
            self.say(id, &lent[FRONT + PAYLOAD_AT..FRONT + PAYLOAD_AT + count]);
            // Alone in its tunnel it waits for nobody.
            if self.h2.live() == 1 {
                drop(lent);
                self.flush();
            } else {
                self.schedule();
            }
            return Ok(Carried::Bytes(count));
        }
        if leg.is_bulk_after(count, Instant::now) {
            self.bulk = Some((id, Instant::now()));
        }
        if let Err(error) = self.send_records(id, lent, count) {
            self.fail(&error);
        }
        Ok(Carried::Bytes(count))
    }

    /// Adds some of these bytes to the stream, after `may_send`; None when the wire must take what was collected first.
    pub(crate) fn write_pieces(&mut self, id: u32, pieces: &[io::IoSlice<'_>]) -> Option<usize> {
        if self.h2.out.len() > RECORD_DATA {
            self.flush();
            if self.output.is_some() {
                return None;
            }
        }
        let room = self.h2.room(id).min(if scratch::is_scarce() { PAYLOAD } else { TURN });
        let count = room.min(pieces.iter().map(|piece| piece.len()).sum());
        let leg = &mut self.h2.stream(id)?.user;
        leg.ticket = None;
        if count <= SMALL {
            let head = self.h2.data(id, u32::try_from(count).unwrap_or(u32::MAX));
            self.h2.out.extend_from_slice(&head);
            let mut left = count;
            for piece in pieces {
                let some = piece.len().min(left);
                self.h2.out.extend_from_slice(&piece[..some]);
                left -= some;
            }
            self.schedule();
            return Some(count);
        }
        if leg.is_bulk_after(count, Instant::now) {
            self.bulk = Some((id, Instant::now()));
        }
        let mut lent = scratch::lend();
        fill(&mut lent, pieces, count);
        if let Err(error) = self.send_records(id, lent, count) {
            self.fail(&error);
        }
        Some(count)
    }

    /// What a client says before its answer may go out: the peer holds it, and it leaves at once. Behind a wire that takes nothing it would
    /// only fill memory.
    pub(crate) fn may_say_early(&self) -> bool {
        self.h2.takes_early_data() && self.output.is_none() && self.h2.out.len() <= TURN
    }

    /// Adds a DATA frame of at most `room` bytes to what leaves together.
    pub(crate) fn say(&mut self, id: u32, payload: &[u8]) {
        let head = self.h2.data(id, u32::try_from(payload.len()).unwrap_or(u32::MAX));
        self.h2.out.extend_from_slice(&head);
        self.h2.out.extend_from_slice(payload);
    }

    /// Seals payload that lies in its records already, behind what was collected, and sends all of it.
    fn send_records(&mut self, id: u32, mut lent: Lent, count: usize) -> io::Result<()> {
        let mut update = [0; PREPARE_BYTES];
        let length = self.channel.prepare(&mut update)?;
        let update = &update[..length];
        let mut start = FRONT;
        if !self.h2.out.is_empty() {
            let size = RECORD_HEAD + self.h2.out.len() + RECORD_TAIL;
            start -= size;
            self.channel.seal(&self.h2.out, &mut lent[start..start + size])?;
            self.out_is_sent();
        }
        start -= update.len();
        lent[start..start + update.len()].copy_from_slice(update);
        let mut end = FRONT;
        for index in 0..count.div_ceil(PAYLOAD) {
            let length = PAYLOAD.min(count - index * PAYLOAD);
            let record = &mut lent[end..end + PAYLOAD_AT + length + RECORD_TAIL];
            let head = self.h2.data(id, u32::try_from(length).map_err(io::Error::other)?);
            record[RECORD_HEAD..PAYLOAD_AT].copy_from_slice(&head);
            self.channel.seal_in_place(record)?;
            end += record.len();
        }
        self.output = Some(Output::Lent(lent, start..end));
        self.write();
        Ok(())
    }

    /// Sends everything that was collected, as far as the wire takes it.
    pub(crate) fn flush(&mut self) {
        self.write();
        while self.output.is_none() && !self.h2.out.is_empty() {
            let lent = scratch::lend();
            if let Err(error) = self.seal_out(lent) {
                return self.fail(&error);
            }
            self.write();
        }
    }

    /// Seals as much of what was collected as fits.
    fn seal_out(&mut self, mut lent: Lent) -> io::Result<()> {
        let mut end = self.channel.prepare(&mut lent)?;
        let mut sealed = 0;
        for data in self.h2.out.chunks(RECORD_DATA) {
            let size = RECORD_HEAD + data.len() + RECORD_TAIL;
            if end + size > lent.len() {
                break;
            }
            self.channel.seal(data, &mut lent[end..end + size])?;
            (sealed, end) = (sealed + data.len(), end + size);
        }
        if sealed == self.h2.out.len() {
            self.out_is_sent();
        } else {
            self.h2.out.drain(..sealed);
        }
        self.output = Some(Output::Lent(lent, 0..end));
        Ok(())
    }

    fn out_is_sent(&mut self) {
        self.h2.out.clear();
        self.h2.out.shrink_to(OUT_KEPT);
    }

    /// Gives sealed records to the wire; the driver is woken when it takes more.
    fn write(&mut self) {
        let Some(mut output) = self.output.take() else { return };
        let Some(wire) = self.wire.as_mut() else { return };
        let mut cx = Context::from_waker(&self.driver);
        loop {
            match Pin::new(&mut *wire).poll_write(&mut cx, output.rest()) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    if output.advance(count) {
                        if !self.waiting.is_empty() {
                            self.wake_waiting();
                        }
                        return;
                    }
                }
                Poll::Ready(Ok(_)) => return self.fail(&io::ErrorKind::WriteZero.into()),
                Poll::Ready(Err(error)) => return self.fail(&error),
                Poll::Pending => {
                    self.output = Some(output.park());
                    return;
                }
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.wire = None;
        self.end(&error.to_string());
    }

    /// Everything said is with the wire.
    pub(crate) fn is_flushed(&self) -> bool {
        self.wire.is_none() || self.output.is_none() && self.h2.out.is_empty()
    }

    /// The last record: that we send nothing more, or why not.
    pub(crate) fn say_last(&mut self, alert: &[u8]) {
        self.said_last = true;
        self.flush();
        let mut last = [0; ALERT_BYTES];
        let length = if alert.is_empty() { self.channel.close_notify(&mut last).unwrap_or(0) } else { 0 };
        let last = if alert.is_empty() { &last[..length] } else { alert };
        let before = self.output.as_ref().map(|output| output.rest().to_vec()).unwrap_or_default();
        self.output = Some(Output::Parked([&before, last].concat().into(), 0));
        self.write();
    }

    /// The wire alone, once the streams are over.
    pub(crate) fn take_wire(&mut self) -> Option<Box<dyn Wire>> {
        self.output = None;
        self.wire.take()
    }
}

/// Into the places of payload in as many records as the stream has use for.
fn read(port: &mut crate::leg::Port, lent: &mut Lent, room: usize) -> io::Result<usize> {
    let first = room.min(PAYLOAD);
    if !port.streaming || scratch::is_scarce() {
        let count = port.socket.read(&mut lent[FRONT + PAYLOAD_AT..FRONT + PAYLOAD_AT + first])?;
        port.streaming = count == PAYLOAD;
        return Ok(count);
    }
    let mut wanted = room;
    let mut slots = lent[FRONT..].chunks_mut(SLOT);
    let mut places: [io::IoSliceMut<'_>; scratch::SLOTS] = std::array::from_fn(|_| {
        let length = wanted.min(PAYLOAD);
        wanted -= length;
        let slot = slots.next().unwrap_or_default();
        io::IoSliceMut::new(slot.get_mut(PAYLOAD_AT..PAYLOAD_AT + length).unwrap_or_default())
    });
    let count = port.socket.read_vectored(&mut places[..room.div_ceil(PAYLOAD)])?;
    port.streaming = count >= PAYLOAD;
    Ok(count)
}

/// Into the places of payload, record by record.
fn fill(lent: &mut Lent, pieces: &[io::IoSlice<'_>], count: usize) {
    let mut at = 0;
    for piece in pieces {
        let mut piece = &piece[..piece.len().min(count - at)];
        while !piece.is_empty() {
            let (record, inside) = (at / PAYLOAD, at % PAYLOAD);
            let (some, rest) = piece.split_at(piece.len().min(PAYLOAD - inside));
            let place = FRONT + record * SLOT + PAYLOAD_AT + inside;
            lent[place..place + some.len()].copy_from_slice(some);
            at += some.len();
            piece = rest;
        }
    }
}

impl Output {
    pub(crate) fn rest(&self) -> &[u8] {
        match self {
            Self::Lent(lent, range) => &lent[range.clone()],
            Self::Parked(bytes, at) => &bytes[*at..],
        }
    }

    /// True when nothing is left.
    fn advance(&mut self, count: usize) -> bool {
        match self {
            Self::Lent(_, range) => range.start += count,
            Self::Parked(_, at) => *at += count,
        }
        self.rest().is_empty()
    }

    /// Little is copied, so that the large buffer can go back.
    fn park(self) -> Self {
        let rest = self.rest();
        if rest.len() <= 4 * SLOT { Self::Parked(rest.into(), 0) } else { self }
    }
}

impl Gather {
    fn new() -> Self {
        Self { id: 0, ranges: std::array::from_fn(|_| 0..0), count: 0 }
    }
}

/// Why a connection cannot go on, and the alert that says so.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) reason: String,
    pub(crate) alert: Box<[u8]>,
}

impl Ended {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), alert: Box::default() }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut core = self.link.borrow_mut();
        core.waiting.retain(|(_, id)| *id != self.id);
        core.h2.release(self.id);
        core.schedule();
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// What we allow a peer's connection.
pub(crate) fn bounds(role: Role, streams: u32) -> Bounds {
    Bounds {
        streams,
        header_list: if role == Role::Server { limits::SERVER_HEADER_LIST } else { limits::CLIENT_HEADER_LIST },
        frame: limits::FRAME_BYTES,
        window: limits::CONNECTION_WINDOW,
        stream_window: limits::STREAM_WINDOW,
        growth: limits::WINDOW_GROWTH,
    }
}

const _: () = assert!(HEAD + PAYLOAD == RECORD_DATA);
