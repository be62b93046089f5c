//! A connection as plain values, for a successor that goes on with it where its bytes stopped: windows, streams, tables, half-read frames.
//!
//! Every value that thaws is checked against what a connection can come to, so that none of the codec's own rules needs a second look later.
use std::collections::BTreeMap;
use std::time::Instant;

mod reading;

use reading::FrozenReading;

use super::connection::{Allowed, Bounds, Connection, LAST_ID, Leaving, RESETS, Role, Stream};
use super::flow::{FIRST_WINDOW, Inflow, Intake, LARGEST_WINDOW, Outflow};
use super::frame::{DEFAULT_FRAME, LARGEST_FRAME};
use super::guard::Guard;
use super::hpack::{Decoder, Encoder, FrozenTable};
use super::receive::Reading;
use crate::moment;

/// The parts of a [`Connection`]; moments as `moment` writes them. Field numbers are for ever: what changes its meaning gets a new one.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(crate) struct FrozenConnection {
    #[prost(bool, tag = "1")]
    client: bool,
    /// What the peer was told; a successor with other bounds of its own keeps to it.
    #[prost(message, optional, tag = "2")]
    bounds: Option<FrozenBounds>,
    #[prost(uint32, optional, tag = "3")]
    allowed_streams: Option<u32>,
    #[prost(uint32, tag = "4")]
    allowed_window: u32,
    #[prost(bool, tag = "5")]
    allowed_early_data: bool,
    #[prost(oneof = "FrozenReading", tags = "6, 7, 8, 9, 10, 11")]
    reading: Option<FrozenReading>,
    #[prost(bool, tag = "12")]
    settled: bool,
    #[prost(message, optional, tag = "13")]
    table: Option<FrozenTable>,
    #[prost(bool, tag = "14")]
    encoder_told: bool,
    #[prost(uint32, tag = "15")]
    guard_level: u32,
    #[prost(sint64, tag = "16")]
    guard_at: i64,
    #[prost(sint64, tag = "17")]
    outflow: i64,
    #[prost(uint32, tag = "18")]
    intake_left: u32,
    #[prost(uint32, tag = "19")]
    spare: u32,
    #[prost(message, repeated, tag = "20")]
    streams: Vec<FrozenStream>,
    #[prost(uint32, tag = "21")]
    seen: u32,
    #[prost(uint32, tag = "22")]
    next_id: u32,
    #[prost(uint32, repeated, tag = "23")]
    resets: Vec<u32>,
    #[prost(uint32, tag = "24")]
    resets_told: u32,
    #[prost(uint32, optional, tag = "25")]
    going_away: Option<u32>,
    /// 0: not leaving, 1: announced, 2: left.
    #[prost(uint32, tag = "26")]
    leaving: u32,
    #[prost(uint32, tag = "27")]
    last_taken: u32,
    #[prost(bytes = "vec", tag = "28")]
    out: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenBounds {
    #[prost(uint32, tag = "1")]
    streams: u32,
    #[prost(uint32, tag = "2")]
    header_list: u32,
    #[prost(uint32, tag = "3")]
    frame: u32,
    #[prost(uint32, tag = "4")]
    window: u32,
    #[prost(uint32, tag = "5")]
    stream_window: u32,
    #[prost(uint32, tag = "6")]
    growth: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenStream {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(sint64, tag = "2")]
    outflow: i64,
    #[prost(uint32, tag = "3")]
    window: u32,
    #[prost(uint32, tag = "4")]
    left: u32,
    #[prost(uint32, tag = "5")]
    read: u32,
    #[prost(sint64, tag = "6")]
    granted: i64,
    #[prost(bool, tag = "7")]
    sending: bool,
    #[prost(bool, tag = "8")]
    receiving: bool,
    #[prost(bool, tag = "9")]
    answered: bool,
}

/// Values that no HTTP/2 connection of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no HTTP/2 connection stands like this: {0}")]
pub(crate) struct NoConnection(&'static str);

fn must(holds: bool, what: &'static str) -> Result<(), NoConnection> {
    if holds { Ok(()) } else { Err(NoConnection(what)) }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX) // far above every bound: refused when it thaws
}

impl<U: Default> Connection<U> {
    /// Once the input so far is used up. What the user keeps about streams is the user's to freeze.
    pub(crate) fn freeze(&self, now: Instant) -> FrozenConnection {
        debug_assert!(self.queued.is_none(), "an event that nobody has seen");
        let (guard_level, guard_at) = self.guard.parts();
        FrozenConnection {
            client: self.role == Role::Client,
            bounds: Some(self.bounds.freeze()),
            allowed_streams: self.allowed.streams,
            allowed_window: self.allowed.window,
            allowed_early_data: self.allowed.early_data,
            reading: Some(self.reading.freeze()),
            settled: self.settled,
            table: Some(self.decoder.freeze()),
            encoder_told: self.encoder.is_told(),
            guard_level,
            guard_at: moment::offset(guard_at, now),
            outflow: self.outflow.value(),
            intake_left: self.intake.left(),
            spare: self.spare,
            streams: self.streams.iter().map(|(id, stream)| stream.freeze(*id, now)).collect(),
            seen: self.seen,
            next_id: self.next_id,
            resets: self.resets.iter().copied().collect(),
            resets_told: small(self.resets_told),
            going_away: self.going_away,
            leaving: self.leaving as u32,
            last_taken: self.last_taken,
            out: self.out.clone(),
        }
    }

    /// Its streams have nothing of their user's yet.
    pub(crate) fn thaw(frozen: FrozenConnection, now: Instant) -> Result<Self, NoConnection> {
        let role = if frozen.client { Role::Client } else { Role::Server };
        let bounds = frozen.bounds.as_ref().ok_or(NoConnection("no bounds"))?.thaw()?;
        let guard_at = moment::at(frozen.guard_at, now).ok_or(NoConnection("a moment that cannot be"))?;
        let table = frozen.table.as_ref().ok_or(NoConnection("no table of headers"))?;
        must(i64::from(frozen.allowed_window) <= LARGEST_WINDOW, "a first window that is too large")?;
        let mut connection = Self {
            role,
            bounds,
            allowed: Allowed { streams: frozen.allowed_streams, window: frozen.allowed_window, early_data: frozen.allowed_early_data },
            reading: Reading::head(),
            queued: None,
            settled: frozen.settled,
            decoder: Decoder::thaw(table).ok_or(NoConnection("a table of headers beyond its bound"))?,
            encoder: Encoder::resume(frozen.encoder_told),
            guard: Guard::resume(frozen.guard_level, guard_at).ok_or(NoConnection("a peer that has cost too much"))?,
            outflow: Outflow::at(frozen.outflow).ok_or(NoConnection("a window that is too large"))?,
            intake: Intake::resume(bounds.window, frozen.intake_left).ok_or(NoConnection("more left than the connection's window"))?,
            spare: frozen.spare,
            streams: BTreeMap::new(),
            live: 0,
            seen: frozen.seen,
            next_id: frozen.next_id,
            resets: frozen.resets.into(),
            resets_told: usize::try_from(frozen.resets_told).unwrap_or(usize::MAX),
            going_away: frozen.going_away,
            leaving: Leaving::thaw(frozen.leaving)?,
            last_taken: frozen.last_taken,
            out: frozen.out,
        };
        connection.check_ids()?;
        connection.take_streams(&frozen.streams, now)?;
        let reading = frozen.reading.ok_or(NoConnection("no place in a frame"))?;
        connection.reading = connection.resume_reading(reading, now)?;
        Ok(connection)
    }

    fn check_ids(&self) -> Result<(), NoConnection> {
        let fits = match self.role {
            Role::Client => self.seen == 0 && !self.next_id.is_multiple_of(2) && self.next_id <= LAST_ID + 2,
            Role::Server => self.next_id == 1 && (self.seen == 0 || !self.seen.is_multiple_of(2)) && self.seen <= LAST_ID,
        };
        must(fits, "stream numbers of the other role")?;
        must(self.going_away.is_none_or(|last| last <= LAST_ID) && self.last_taken <= LAST_ID, "a stream number that is too large")?;
        must(self.resets.len() <= RESETS && self.resets_told <= self.resets.len(), "too many resets")?;
        must(!self.resets.iter().any(|id| self.is_idle(*id)), "a reset of a stream that was never opened")
    }

    fn take_streams(&mut self, streams: &[FrozenStream], now: Instant) -> Result<(), NoConnection> {
        let mut grown = 0;
        for frozen in streams {
            must(frozen.id > 0 && !self.is_idle(frozen.id), "a stream that was never opened")?;
            let stream = frozen.thaw::<U>(self.bounds.stream_window, now)?;
            if !stream.is_over() {
                self.live += 1;
                grown += u64::from(stream.inflow.growth());
            }
            must(self.streams.insert(frozen.id, Box::new(stream)).is_none(), "a stream twice")?;
        }
        must(grown + u64::from(self.spare) == u64::from(self.bounds.growth), "windows that grew by more than there was")?;
        let most = u64::from(self.bounds.streams);
        let fits = self.role == Role::Client || self.live as u64 <= most && self.streams.len() as u64 <= 2 * most;
        must(fits, "more streams than the peer may open")
    }
}

impl Bounds {
    fn freeze(self) -> FrozenBounds {
        let Self { streams, header_list, frame, window, stream_window, growth } = self;
        FrozenBounds { streams, header_list, frame, window, stream_window, growth }
    }
}

impl FrozenBounds {
    fn thaw(&self) -> Result<Bounds, NoConnection> {
        let Self { streams, header_list, frame, window, stream_window, growth } = *self;
        let fits = |window: u32| window >= FIRST_WINDOW && i64::from(window) <= LARGEST_WINDOW;
        must(fits(window) && fits(stream_window), "windows out of range")?;
        must((DEFAULT_FRAME..=LARGEST_FRAME).contains(&frame), "a size of frames out of range")?;
        Ok(Bounds { streams, header_list, frame, window, stream_window, growth })
    }
}

impl Leaving {
    fn thaw(number: u32) -> Result<Self, NoConnection> {
        [Self::No, Self::Announced, Self::Left]
            .into_iter()
            .find(|leaving| *leaving as u32 == number)
            .ok_or(NoConnection("a way of leaving"))
    }
}

impl<U> Stream<U> {
    fn freeze(&self, id: u32, now: Instant) -> FrozenStream {
        let (window, left, read, granted) = self.inflow.parts();
        let Self { outflow, sending, receiving, answered, .. } = *self;
        let granted = moment::offset(granted, now);
        FrozenStream { id, outflow: outflow.value(), window, left, read, granted, sending, receiving, answered }
    }
}

impl FrozenStream {
    fn thaw<U: Default>(&self, most: u32, now: Instant) -> Result<Stream<U>, NoConnection> {
        let granted = moment::at(self.granted, now).ok_or(NoConnection("a moment that cannot be"))?;
        let inflow = Inflow::of_parts((self.window, self.left, self.read, granted), most);
        Ok(Stream {
            outflow: Outflow::at(self.outflow).ok_or(NoConnection("a window that is too large"))?,
            inflow: inflow.ok_or(NoConnection("more left than the stream's window"))?,
            sending: self.sending,
            receiving: self.receiving,
            answered: self.answered,
            user: U::default(),
        })
    }
}

/// What is under way in it is the applications'.
impl std::fmt::Debug for FrozenConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenConnection").field("client", &self.client).field("streams", &self.streams.len()).finish_non_exhaustive()
    }
}
