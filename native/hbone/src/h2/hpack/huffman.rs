//! The static Huffman code of HPACK, read canonically: within one length codes count up with their symbols, so lengths say everything.
use super::Broken;

/// Bits of each byte's code (RFC 7541, appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LONGEST: usize = 30;
/// The padding behind the last symbol is shorter than a byte, and all ones: the beginning of the symbol "end of string".
const MOST_PADDING: u32 = 7;

/// For each length: its first code, the first of its symbols' places in `symbols`, and how many there are.
struct Code {
    first: [u32; LONGEST + 1],
    place: [u16; LONGEST + 1],
    count: [u16; LONGEST + 1],
    symbols: [u8; 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code { first: [0; LONGEST + 1], place: [0; LONGEST + 1], count: [0; LONGEST + 1], symbols: [0; 256] };
    let (mut length, mut next, mut place) = (1, 0, 0);
    while length <= LONGEST {
        code.first[length] = next;
        code.place[length] = place;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                #[allow(clippy::cast_possible_truncation)] // below 256
                let byte = symbol as u8;
                code.symbols[place as usize] = byte;
                place += 1;
                next += 1;
            }
            symbol += 1;
        }
        code.count[length] = place - code.place[length];
        next <<= 1;
        length += 1;
    }
    code
}

/// Decodes `bytes` to the end of `out`, at most `most` bytes of it.
pub(super) fn decode(bytes: &[u8], most: usize, out: &mut Vec<u8>) -> Result<(), Broken> {
    let mut left = most;
    let (mut value, mut length) = (0_u32, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| u32::from(byte >> at & 1))) {
        value = value << 1 | bit;
        length += 1;
        if length > LONGEST {
            return Err(Broken("a Huffman code that stands for nothing"));
        }
        let Some(index) = value.checked_sub(CODE.first[length]).filter(|index| *index < u32::from(CODE.count[length])) else { continue };
        left = left.checked_sub(1).ok_or(Broken("a Huffman string longer than any header may be"))?;
        out.push(CODE.symbols[usize::from(CODE.place[length]) + index as usize]);
        (value, length) = (0, 0);
    }
    let ones = (1_u32 << length) - 1;
    if length > MOST_PADDING as usize || value != ones { Err(Broken("Huffman padding that is not the end of string")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use super::*;

    fn text(bytes: &[u8]) -> Result<String, Broken> {
        let mut out = Vec::new();
        decode(bytes, 100, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_examples_of_the_standard_decode() {
        // RFC 7541, C.4 and C.6.
        assert_eq!(text(&[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff]).unwrap(), "www.example.com");
        assert_eq!(text(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), "no-cache");
        assert_eq!(text(&[0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf]).unwrap(), "custom-value");
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b,
            0xff,
        ];
        assert_eq!(text(&date).unwrap(), "Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(text(&[]).unwrap(), "");
    }

    #[test]
    fn every_byte_has_a_code_of_its_own_and_the_longest_end_where_they_must() {
        assert_eq!(CODE.count.iter().sum::<u16>(), 256);
        let kraft: u64 = LENGTHS.iter().map(|length| 1_u64 << (LONGEST - usize::from(*length))).sum();
        assert_eq!(kraft + 1, 1 << LONGEST, "with the end of string the code is complete");
    }

    #[test]
    fn bad_padding_the_end_of_string_and_too_long_strings_are_refused() {
        for bad in [&[0x1f, 0xff][..], &[0xff], &[0x00, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xff], &[0x18]] {
            assert!(text(bad).is_err(), "{bad:x?}");
        }
        assert!(decode(&[0; 100], 100, &mut Vec::new()).is_err(), "160 zeros");
    }
}
