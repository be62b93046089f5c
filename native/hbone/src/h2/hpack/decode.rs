//! A header block into fields. It is read to its end whatever it holds, because its effects on the table must not be lost.
use super::table::{FrozenTable, Table};
use super::{Broken, huffman};

/// Size of the table that we leave at the standard's default.
const TABLE: usize = 4096;
/// The longest string that is decoded: no list of headers that we take is longer.
const STRING: usize = 64 << 10;
/// Of an integer after its first: 28 bits are more than any length or index that we take, and a longer form is refused whatever its value
/// (RFC 7541, 5.1, leaves the limit to the decoder).
const INTEGER_BYTES: usize = 4;

/// Reads the header blocks of one direction of a connection, one after the other.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
}

/// A reading position, with the memory that Huffman strings are decoded into.
struct Block<'a> {
    rest: &'a [u8],
}

/// A string as it stands in the block or decoded.
enum Text<'a> {
    Plain(&'a [u8]),
    Decoded(Vec<u8>),
}

impl Decoder {
    #[allow(clippy::new_without_default)] // nothing wants one that it did not ask for
    pub fn new() -> Self {
        Self { table: Table::new(TABLE) }
    }

    pub(crate) fn freeze(&self) -> FrozenTable {
        self.table.freeze()
    }

    /// None when no peer can have filled a table of ours like this.
    pub(crate) fn thaw(frozen: &FrozenTable) -> Option<Self> {
        Table::thaw(frozen, TABLE).map(|table| Self { table })
    }

    /// Gives every field of the block, name and value, to `field`.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<(), Broken> {
        let mut block = Block { rest: block };
        let mut begun = false;
        while let Some(&first) = block.rest.first() {
            match first {
                0x80.. => {
                    let index = block.integer(7)?;
                    let (name, value) = self.table.get(index).ok_or(Broken("an index beyond the table"))?;
                    field(name, value);
                }
                0x40.. => {
                    let (name, value) = self.literal(&mut block, 6)?;
                    field(name.bytes(), value.bytes());
                    self.table.insert(name.bytes(), value.bytes());
                }
                0x20.. => {
                    let size = block.integer(5)?;
                    if begun || size > TABLE {
                        return Err(Broken("a table size that is too large or comes too late"));
                    }
                    self.table.resize(size);
                    continue;
                }
                _ => {
                    let (name, value) = self.literal(&mut block, 4)?;
                    field(name.bytes(), value.bytes());
                }
            }
            begun = true;
        }
        Ok(())
    }

    #[cfg(feature = "testing")]
    pub(crate) fn size(&self) -> usize {
        self.table.size()
    }

    fn literal<'a>(&self, block: &mut Block<'a>, prefix: u32) -> Result<(Text<'a>, Text<'a>), Broken> {
        let name = match block.integer(prefix)? {
            0 => block.string()?,
            index => Text::Decoded(self.table.get(index).ok_or(Broken("an index beyond the table"))?.0.to_vec()),
        };
        Ok((name, block.string()?))
    }
}

impl<'a> Block<'a> {
    fn byte(&mut self) -> Result<u8, Broken> {
        let (first, rest) = self.rest.split_first().ok_or(Broken("a header block that ends within a field"))?;
        self.rest = rest;
        Ok(*first)
    }

    /// An integer whose first byte has `prefix` bits of it (RFC 7541, 5.1).
    fn integer(&mut self, prefix: u32) -> Result<usize, Broken> {
        let most = (1_usize << prefix) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Ok(value);
        }
        for at in 0..INTEGER_BYTES {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Broken("an integer that is too long"))
    }

    fn string(&mut self) -> Result<Text<'a>, Broken> {
        let coded = self.rest.first().is_some_and(|byte| byte & 0x80 != 0);
        let length = self.integer(7)?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(Broken("a header block that ends within a string"))?;
        self.rest = rest;
        if !coded {
            return Ok(Text::Plain(text));
        }
        let mut decoded = Vec::with_capacity(length + length / 2);
        huffman::decode(text, STRING, &mut decoded)?;
        Ok(Text::Decoded(decoded))
    }
}

impl Text<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes,
            Self::Decoded(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use super::*;

    fn fields(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Broken> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, |name, value| fields.push(format!("{}={}", text(name), text(value))))?;
        Ok(fields)
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_requests_of_the_standard_decode_with_one_table() {
        // RFC 7541, C.4: with Huffman strings.
        let mut decoder = Decoder::new();
        let first = fields(&mut decoder, &hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap();
        assert_eq!(first, [":method=GET", ":scheme=http", ":path=/", ":authority=www.example.com"]);
        let second = fields(&mut decoder, &hex("8286 84be 5886 a8eb 1064 9cbf")).unwrap();
        assert_eq!(second[3..], [":authority=www.example.com", "cache-control=no-cache"]);
        let third = fields(&mut decoder, &hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf")).unwrap();
        assert_eq!(third, [":method=GET", ":scheme=https", ":path=/index.html", ":authority=www.example.com", "custom-key=custom-value"]);
    }

    #[test]
    fn responses_evict_what_does_not_fit() {
        // RFC 7541, C.5: a table of 256 bytes.
        let mut decoder = Decoder::new();
        let mut block = hex("3fe1 01");
        block.extend(hex(
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        ));
        assert_eq!(fields(&mut decoder, &block).unwrap()[3], "location=https://www.example.com");
        let second = fields(&mut decoder, &hex("4803 3330 37c1 c0bf")).unwrap();
        assert_eq!(second[..2], [":status=307", "cache-control=private"]);
        assert!(fields(&mut decoder, &hex("c2")).is_err(), "the status 302 was evicted");
    }

    #[test]
    fn what_breaks_the_rules_is_refused_and_never_panics() {
        for bad in [
            "80",
            "ff ff ff ff ff ff ff",
            "be",
            "40",
            "40 01",
            "00 05 61",
            "82 3f e1 01",
            "3f e2 1f",
            "0f 80 80 80 80 80 01 00",
            "20 3f b8 80 80 80 00", // a table of 87 bytes, in more bytes than a number may take
            "00 81 ff 00",
        ] {
            assert!(fields(&mut Decoder::new(), &hex(bad)).is_err(), "{bad}");
        }
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut decoder = Decoder::new();
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..random.usize(0..60)).map(|_| random.u8(..)).collect();
            let _ = fields(&mut decoder, &block);
            assert!(decoder.table.size() <= TABLE);
        }
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::new();
        fields(&mut decoder, &hex("40 01 61 01 62")).unwrap();
        assert_eq!(fields(&mut decoder, &hex("be")).unwrap(), ["a=b"]);
        let mut large = hex("40 01 61 7f 81 1f");
        large.extend(vec![b'x'; 4096]);
        fields(&mut decoder, &large).unwrap();
        assert!(fields(&mut decoder, &hex("be")).is_err());
        let mut again = hex("20 3f e1 1f 40 01 61 01 62"); // none at all, then 4096
        again.extend(hex("be"));
        assert_eq!(fields(&mut decoder, &again).unwrap(), ["a=b", "a=b"]);
    }
}
