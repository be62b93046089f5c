//! Header blocks: what our decoder reads another one reads too, and the same; what it refuses is refused there as well, or for a reason here.
use loona_hpack::decoder::DecoderError;
use trackbed_hbone::testing::Hpack;

use crate::script::Script;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The table that a decoder may be made to keep (RFC 7541, 4.2, with the default of HTTP/2).
const TABLE: usize = 4096;

pub fn hpack(data: &[u8]) {
    let mut script = Script::new(data);
    let (mut ours, mut other) = (Hpack::default(), loona_hpack::Decoder::new());
    other.set_max_allowed_table_size(TABLE);
    while let Some(block) = script.piece() {
        let (mut fields, mut expected) = (Fields::new(), Fields::new());
        let result = ours.decode(block, |name, value| fields.push((name.to_vec(), value.to_vec())));
        let reference = other.decode_with_cb(block, |name, value| expected.push((name.into_owned(), value.into_owned())));
        assert!(ours.size() <= TABLE);
        match (result, reference) {
            (Ok(()), Ok(())) => assert_eq!(fields, expected),
            // A connection ends with the first broken block. Nothing in the standard forbids one of size updates alone, but the tables
            // differ from there on.
            (Err(_), Err(_)) | (Ok(()), Err(DecoderError::SizeUpdateAtEnd)) => return,
            (Ok(()), Err(error)) => panic!("taken, but {error:?} to the reference: {block:x?}"),
            (Err(what), Ok(())) => {
                assert!(is_stricter(what), "refused ({what}), but not by the reference: {block:x?} is {expected:?}");
                return;
            }
        }
        round(&fields);
    }
}

/// Where the standard says "must" and the reference does not.
fn is_stricter(what: &str) -> bool {
    // RFC 7541, 4.2: at the beginning of a block.
    what == "a table size that is too large or comes too late"
}

/// What another encoder writes of these fields, with and without its table, comes back as it was.
fn round(fields: &Fields) {
    let (mut encoder, mut decoder) = (loona_hpack::Encoder::new(), Hpack::default());
    for _ in 0..2 {
        let block = encoder.encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let mut again = Fields::new();
        decoder.decode(&block, |name, value| again.push((name.to_vec(), value.to_vec()))).expect("an honest block");
        assert_eq!(&again, fields);
    }
}
