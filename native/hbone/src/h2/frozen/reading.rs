//! Where in a frame of the peer the input stopped, as plain values.
use std::time::Instant;

use super::{NoConnection, must, small};
use crate::h2::connection::{Connection, LAST_ID, Role};
use crate::h2::frame::{HEAD, Head, PREFACE, kind};
use crate::h2::receive::{Block, Data, MOST_PARTS, Reading};

/// Where in a frame the input ended.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum FrozenReading {
    #[prost(uint32, tag = "6")]
    Preface(u32),
    #[prost(bytes, tag = "7")]
    Head(Vec<u8>),
    #[prost(message, tag = "8")]
    Data(FrozenData),
    #[prost(uint32, tag = "9")]
    Skip(u32),
    #[prost(message, tag = "10")]
    Body(FrozenBody),
    #[prost(message, tag = "11")]
    Between(FrozenBody),
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct FrozenData {
    #[prost(uint32, optional, tag = "1")]
    id: Option<u32>,
    #[prost(uint32, tag = "2")]
    left: u32,
    #[prost(uint32, tag = "3")]
    padding: u32,
    #[prost(bool, tag = "4")]
    padded: bool,
    #[prost(bool, tag = "5")]
    end: bool,
}

/// A frame whose head is whole, or the head of the next part of a header block.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct FrozenBody {
    #[prost(bytes = "vec", tag = "1")]
    head: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    bytes: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    block: Option<FrozenBlock>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct FrozenBlock {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(bool, tag = "2")]
    end_stream: bool,
    #[prost(uint32, tag = "3")]
    parts: u32,
    #[prost(bytes = "vec", tag = "4")]
    bytes: Vec<u8>,
}

impl<U: Default> Connection<U> {
    pub(super) fn resume_reading(&mut self, frozen: FrozenReading, now: Instant) -> Result<Reading, NoConnection> {
        Ok(match frozen {
            FrozenReading::Preface(seen) => {
                let fits = self.role == Role::Server && !self.settled && (seen as usize) < PREFACE.len();
                must(fits, "a preface in the wrong place")?;
                Reading::Preface(seen as usize)
            }
            FrozenReading::Head(head) => {
                let (bytes, have) = part_of_head(&head)?;
                Reading::Head { bytes, have }
            }
            FrozenReading::Skip(left) => {
                must((1..=self.bounds.frame).contains(&left), "a frame that is too large")?;
                Reading::Skip(left as usize)
            }
            FrozenReading::Data(frozen) => {
                let data = frozen.thaw(self.bounds.frame)?;
                must(data.id.is_none_or(|id| id > 0 && !self.is_idle(id)), "data of a stream that was never opened")?;
                Reading::Data(data)
            }
            FrozenReading::Between(FrozenBody { head, bytes, block }) => {
                must(bytes.is_empty(), "a body without its head")?;
                let block = self.resume_block(block.ok_or(NoConnection("no header block"))?)?;
                let (bytes, have) = part_of_head(&head)?;
                Reading::Between { bytes, have, block }
            }
            FrozenReading::Body(FrozenBody { head, bytes, block }) => {
                let plain = <[u8; HEAD]>::try_from(head).map_err(|_| NoConnection("a head that is no head"))?;
                let head = Head::parse(plain);
                must(head.bytes() == plain, "a head with more than we keep")?;
                must(bytes.len() < head.length as usize, "a frame that was whole")?;
                must(head.kind != kind::DATA, "a frame that is passed on in pieces")?;
                let block = block.map(|block| self.resume_block(block)).transpose()?;
                // The head is read again: it passes as it did before, or the frame cannot have been begun.
                self.reading = block.map_or_else(Reading::head, |block| Reading::Between { bytes: [0; HEAD], have: 0, block });
                self.next(&plain, &mut 0, now).map_err(|_| NoConnection("a frame that cannot be"))?;
                match std::mem::replace(&mut self.reading, Reading::head()) {
                    Reading::Body { head, block, .. } => Reading::Body { head, bytes, block },
                    _ => return Err(NoConnection("a frame that is skipped")),
                }
            }
        })
    }

    fn resume_block(&self, frozen: FrozenBlock) -> Result<Box<Block>, NoConnection> {
        let FrozenBlock { id, end_stream, parts, bytes } = frozen;
        must((1..=LAST_ID).contains(&id) && (self.role == Role::Client || !id.is_multiple_of(2)), "a header block of no stream")?;
        must(bytes.len() <= self.bounds.header_list as usize && (1..=MOST_PARTS).contains(&parts), "a header block without end")?;
        Ok(Box::new(Block { id, end_stream, parts, bytes }))
    }
}

fn part_of_head(part: &[u8]) -> Result<([u8; HEAD], usize), NoConnection> {
    must(part.len() < HEAD, "a head that is whole")?;
    let mut bytes = [0; HEAD];
    bytes[..part.len()].copy_from_slice(part);
    Ok((bytes, part.len()))
}

impl Reading {
    pub(super) fn freeze(&self) -> FrozenReading {
        match self {
            Self::Preface(seen) => FrozenReading::Preface(small(*seen)),
            Self::Head { bytes, have } => FrozenReading::Head(bytes[..*have].to_vec()),
            Self::Skip(left) => FrozenReading::Skip(small(*left)),
            Self::Data(Data { id, left, padding, padded, end }) => {
                FrozenReading::Data(FrozenData { id: *id, left: small(*left), padding: small(*padding), padded: *padded, end: *end })
            }
            Self::Body { head, bytes, block } => FrozenReading::Body(FrozenBody {
                head: head.bytes().to_vec(),
                bytes: bytes.clone(),
                block: block.as_ref().map(|block| block.freeze()),
            }),
            Self::Between { bytes, have, block } => {
                FrozenReading::Between(FrozenBody { head: bytes[..*have].to_vec(), bytes: Vec::new(), block: Some(block.freeze()) })
            }
        }
    }
}

impl FrozenData {
    fn thaw(&self, largest: u32) -> Result<Data, NoConnection> {
        let Self { id, left, padding, padded, end } = *self;
        must(padding <= u8::MAX.into() && left.saturating_add(padding) <= largest, "a frame that is too large")?;
        must(if padded { left > 0 && padding == 0 } else { left + padding > 0 }, "a frame that was whole")?;
        Ok(Data { id, left: left as usize, padding: padding as usize, padded, end })
    }
}

impl Block {
    fn freeze(&self) -> FrozenBlock {
        FrozenBlock { id: self.id, end_stream: self.end_stream, parts: self.parts, bytes: self.bytes.clone() }
    }
}
