//! One stream of a tunnel beyond what HTTP/2 knows of it: what it holds for an application, and that one's socket.
use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::backlog::Backlog;
use crate::early;
use crate::h2::{Answered, Reason};
use crate::leg::{Bulk, Ends, Gone, Leg, Port};
use crate::meter::{ClosedBy, Meter, Side};
use crate::moment;
use crate::socket::Socket;

/// The parts of a [`Leg`].
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct FrozenLeg {
    #[prost(uint32, tag = "1")]
    pub(super) id: u32,
    #[prost(bytes = "vec", tag = "2")]
    backlog: Vec<u8>,
    #[prost(bool, tag = "3")]
    fin: bool,
    /// The reason of a reset.
    #[prost(uint32, optional, tag = "4")]
    gone: Option<u32>,
    #[prost(message, optional, tag = "5")]
    answer: Option<FrozenAnswer>,
    #[prost(uint64, optional, tag = "6")]
    ticket: Option<u64>,
    #[prost(bool, tag = "7")]
    pub(super) queued: bool,
    #[prost(uint64, tag = "8")]
    bulk_bytes: u64,
    #[prost(sint64, optional, tag = "9")]
    bulk_since: Option<i64>,
    #[prost(uint32, tag = "10")]
    early: u32,
    #[prost(message, optional, tag = "11")]
    pub(super) port: Option<FrozenPort>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenAnswer {
    #[prost(uint32, tag = "1")]
    status: u32,
    #[prost(message, repeated, tag = "2")]
    headers: Vec<FrozenHeader>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenHeader {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A socket that is carried, and how far its pump was.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub(super) struct FrozenPort {
    #[prost(bool, tag = "1")]
    fin_sent: bool,
    #[prost(bool, tag = "2")]
    broken: bool,
    #[prost(bool, tag = "3")]
    streaming: bool,
    #[prost(bool, tag = "4")]
    up_done: bool,
    #[prost(bool, tag = "5")]
    down_done: bool,
    #[prost(bool, tag = "6")]
    socket_gone: bool,
    #[prost(bool, tag = "7")]
    stream_gone: bool,
    #[prost(bool, tag = "8")]
    lost: bool,
    /// 0: not yet, 1: by the client, 2: by the server, 3: by us.
    #[prost(uint32, tag = "9")]
    closed_by: u32,
    #[prost(sint64, tag = "10")]
    start: i64,
    #[prost(message, optional, tag = "11")]
    meter: Option<FrozenMeter>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct FrozenMeter {
    #[prost(uint64, tag = "1")]
    sent: u64,
    #[prost(uint64, tag = "2")]
    received: u64,
    #[prost(sint64, optional, tag = "3")]
    first_byte: Option<i64>,
    #[prost(bool, tag = "4")]
    cut: bool,
}

const ENDED_BY: [Option<ClosedBy>; 4] = [None, Some(ClosedBy::Client), Some(ClosedBy::Server), Some(ClosedBy::Engine)];

/// What no stream can be like.
pub(super) type Why = &'static str;

fn moment_of(offset: i64, now: Instant) -> Result<Instant, Why> {
    moment::at(offset, now).ok_or("a moment that cannot be")
}

impl FrozenLeg {
    pub(super) fn of(id: u32, leg: &Leg, now: Instant) -> Self {
        Self {
            id,
            backlog: leg.backlog.to_vec(),
            fin: leg.fin,
            // A tunnel that was lost is not frozen.
            gone: leg.gone.map(|gone| if let Gone::Reset(reason) = gone { reason.0 } else { Reason::CANCEL.0 }),
            answer: leg.answer.as_ref().map(|answer| FrozenAnswer::of(answer)),
            ticket: leg.ticket,
            queued: leg.queued,
            bulk_bytes: leg.bulk.bytes as u64,
            bulk_since: leg.bulk.since.map(|since| moment::offset(since, now)),
            early: u32::try_from(leg.early).unwrap_or(u32::MAX),
            port: leg.port.as_ref().map(|port| FrozenPort::of(port, now)),
        }
    }

    /// `socket` is there exactly when there is a port.
    pub(super) fn thaw(self, side: Side, socket: Option<tokio::net::TcpStream>, now: Instant) -> Result<Leg, Why> {
        let mut backlog = Backlog::default();
        backlog.push(&self.backlog);
        let early = usize::try_from(self.early).ok().filter(|early| *early <= early::MOST);
        let port = match (self.port, socket) {
            (Some(port), Some(socket)) => Some(port.thaw(side, socket, now)?),
            (None, None) => None,
            _ => return Err("a socket too many or too few"),
        };
        let mut leg = Leg::default();
        leg.port = port;
        leg.backlog = backlog;
        leg.fin = self.fin;
        leg.gone = self.gone.map(|reason| Gone::Reset(Reason(reason)));
        leg.answer = self.answer.map(FrozenAnswer::thaw).transpose()?;
        leg.ticket = self.ticket;
        leg.queued = self.queued;
        leg.early = early.ok_or("more early words than are told")?;
        leg.bulk = Bulk {
            bytes: usize::try_from(self.bulk_bytes)
                .ok()
                .filter(|bytes| *bytes <= Leg::MOST_COUNTED)
                .ok_or("more bytes than are counted")?,
            since: self.bulk_since.map(|since| moment_of(since, now)).transpose()?,
        };
        Ok(leg)
    }
}

#[cfg(test)]
impl FrozenLeg {
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn is_half_closed(&self) -> bool {
        self.port.as_ref().is_some_and(|port| port.up_done != port.down_done)
    }
}

impl FrozenAnswer {
    fn of(answer: &Answered) -> Self {
        let header =
            |(name, value): (&HeaderName, &HeaderValue)| FrozenHeader { name: name.as_str().into(), value: value.as_bytes().into() };
        Self { status: answer.status.into(), headers: answer.headers.iter().map(header).collect() }
    }

    fn thaw(self) -> Result<Box<Answered>, Why> {
        let status = u16::try_from(self.status).ok().filter(|status| (200..1000).contains(status)).ok_or("an answer that is none")?;
        let mut headers = HeaderMap::new();
        for FrozenHeader { name, value } in self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "a header that is none")?;
            let value = HeaderValue::from_bytes(&value).map_err(|_| "a header that is none")?;
            headers.try_append(name, value).map_err(|_| "too many headers")?;
        }
        Ok(Box::new(Answered { status, headers }))
    }
}

impl FrozenPort {
    fn of(port: &Port, now: Instant) -> Self {
        let Ends { up_done, down_done, socket_gone, stream_gone, lost, closed_by } = port.ends;
        Self {
            fin_sent: port.socket.is_fin_sent(),
            broken: port.broken,
            streaming: port.streaming,
            up_done,
            down_done,
            socket_gone,
            stream_gone,
            lost,
            closed_by: number(closed_by),
            start: moment::offset(port.start, now),
            meter: Some(FrozenMeter::of(&port.meter, now)),
        }
    }

    fn thaw(self, side: Side, socket: tokio::net::TcpStream, now: Instant) -> Result<Port, Why> {
        let Self { fin_sent, broken, streaming, up_done, down_done, socket_gone, stream_gone, lost, closed_by, start, meter } = self;
        let closed_by = ended_by(closed_by)?;
        Ok(Port {
            socket: Socket::resume(socket, fin_sent),
            meter: meter.ok_or("a socket that nobody counts")?.thaw(now)?,
            side,
            broken,
            streaming,
            start: moment_of(start, now)?,
            ends: Ends { up_done, down_done, socket_gone, stream_gone, lost, closed_by },
        })
    }
}

pub(super) fn number(closed_by: Option<ClosedBy>) -> u32 {
    ENDED_BY.iter().position(|known| *known == closed_by).and_then(|at| u32::try_from(at).ok()).unwrap_or_default()
}

pub(super) fn ended_by(number: u32) -> Result<Option<ClosedBy>, Why> {
    ENDED_BY.get(number as usize).copied().ok_or("an end by nobody")
}

impl FrozenMeter {
    pub(super) fn of(meter: &Meter, now: Instant) -> Self {
        Self {
            sent: meter.sent(),
            received: meter.received(),
            first_byte: meter.first_byte().map(|at| moment::offset(at, now)),
            cut: meter.is_cut(),
        }
    }

    pub(super) fn thaw(self, now: Instant) -> Result<Rc<Meter>, Why> {
        let first_byte = self.first_byte.map(|at| moment_of(at, now)).transpose()?;
        Ok(Meter::resume(self.sent, self.received, first_byte, self.cut))
    }
}
