//! The part of a DNS message that decides: header and question. The rest is the server's business and passes untouched.

use std::ops::Range;

use hickory_proto::{
    op::{Header, MessageType, Query},
    rr::Name,
    serialize::binary::{BinDecodable, BinDecoder},
};

pub(crate) const HEADER_BYTES: usize = 12;
/// Type and class after the name.
const TYPE_AND_CLASS_BYTES: usize = 4;
const RESPONSE_BIT: u8 = 0x80;
const CODE_BITS: u8 = 0x0f;
const FORMAT_ERROR: u8 = 1;
const NOT_IMPLEMENTED: u8 = 4;

/// A query's header and its one question, and where the question lies in the bytes.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) header: Header,
    pub(crate) query: Query,
    pub(crate) bytes: Range<usize>,
}

#[derive(Debug)]
pub(crate) enum Malformed {
    /// Not even a header, or not a query: an answer could only feed a loop.
    Unanswerable,
    /// A header whose question cannot be read, or that does not have exactly one (RFC 9619).
    Format,
}

pub(crate) fn parse(message: &[u8]) -> Result<Question, Malformed> {
    let mut decoder = BinDecoder::new(message);
    let header = Header::read(&mut decoder).map_err(|_| Malformed::Unanswerable)?;
    if header.metadata.message_type != MessageType::Query {
        return Err(Malformed::Unanswerable);
    }
    if header.counts.queries != 1 {
        return Err(Malformed::Format);
    }
    let query = Query::read(&mut decoder).map_err(|_| Malformed::Format)?;
    Ok(Question { header, query, bytes: HEADER_BYTES..decoder.index() })
}

/// The name in lower case without the final dot; None when it cannot be a host name (a dot inside a label would read as two labels).
pub(crate) fn hostname(name: &Name) -> Option<String> {
    let mut hostname = String::with_capacity(name.len());
    for label in name {
        if !hostname.is_empty() {
            hostname.push('.');
        }
        for byte in label {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'A'..=b'Z' => hostname.push(byte.to_ascii_lowercase().into()),
                _ => return None,
            }
        }
    }
    (!hostname.is_empty()).then_some(hostname)
}

/// True when `response` is an answer to `question` (the raw bytes of one) under this id. Servers may change the case of the name.
/// A server too old for the query may answer with the bare header; that carries no data, so it is taken.
pub(crate) fn answers(response: &[u8], id: [u8; 2], question: &[u8]) -> bool {
    let Some((header, rest)) = response.split_first_chunk::<HEADER_BYTES>() else { return false };
    let [id_high, id_low, flags, codes, count_high, count_low, ..] = *header;
    if [id_high, id_low] != id || flags & RESPONSE_BIT == 0 {
        return false;
    }
    match [count_high, count_low] {
        [0, 0] => rest.is_empty() && matches!(codes & CODE_BITS, FORMAT_ERROR | NOT_IMPLEMENTED),
        [0, 1] => {
            let name = question.len().saturating_sub(TYPE_AND_CLASS_BYTES);
            let (Some(asked), Some(told)) = (question.split_at_checked(name), rest.get(..question.len())) else { return false };
            let told = told.split_at(name);
            asked.0.eq_ignore_ascii_case(told.0) && asked.1 == told.1
        }
        _ => false,
    }
}
