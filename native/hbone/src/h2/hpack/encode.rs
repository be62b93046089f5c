//! Fields into a header block that no later one depends on: names by index where the standard has one, nothing remembered.
use super::table::STATIC;

/// Literal without indexing, and its bits of an index.
const LITERAL: (u8, u32) = (0x00, 4);
const INDEXED: (u8, u32) = (0x80, 7);
/// Size update to 0.
const NO_TABLE: u8 = 0x20;

#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// The peer was told that we use no table: from then on it may change its own bound without our notice.
    told: bool,
}

impl Encoder {
    /// `told`: another one has said already that no table is used.
    pub(crate) fn resume(told: bool) -> Self {
        Self { told }
    }

    pub(crate) fn is_told(&self) -> bool {
        self.told
    }

    pub(crate) fn encode<'a>(&mut self, fields: impl IntoIterator<Item = (&'a str, &'a [u8])>, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.told, true) {
            out.push(NO_TABLE);
        }
        for (name, value) in fields {
            field(name, value, out);
        }
    }
}

fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    if let Some(both) = STATIC.iter().position(|(known, text)| *known == name && !text.is_empty() && text.as_bytes() == value) {
        return integer(INDEXED, both + 1, out);
    }
    let index = STATIC.iter().position(|(known, _)| *known == name);
    integer(LITERAL, index.map_or(0, |index| index + 1), out);
    if index.is_none() {
        string(name.as_bytes(), out);
    }
    string(value, out);
}

fn string(text: &[u8], out: &mut Vec<u8>) {
    integer((0x00, 7), text.len(), out);
    out.extend_from_slice(text);
}

#[allow(clippy::cast_possible_truncation)] // each cast is of a value that was masked or compared
fn integer((pattern, prefix): (u8, u32), value: usize, out: &mut Vec<u8>) {
    let most = (1_usize << prefix) - 1;
    if value < most {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use super::super::Decoder;
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_leaves_no_trace_in_a_table() {
        let long = vec![b'v'; 5000];
        let fields: [(&str, &[u8]); 5] =
            [(":method", b"CONNECT"), (":authority", b"10.0.0.1:80"), (":status", b"200"), ("baggage", &long), ("x", b"")];
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::new());
        for round in 0..2 {
            let mut block = Vec::new();
            encoder.encode(fields, &mut block);
            assert_eq!(block[0] == NO_TABLE, round == 0);
            let mut seen = Vec::new();
            decoder.decode(&block, |name, value| seen.push((String::from_utf8(name.to_vec()).unwrap(), value.to_vec()))).unwrap();
            assert_eq!(seen, fields.map(|(name, value)| (name.to_owned(), value.to_vec())));
        }
        assert!(decoder.decode(&[0xbe], |_, _| ()).is_err());
    }
}
