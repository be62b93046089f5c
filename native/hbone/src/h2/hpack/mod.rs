//! Header compression (RFC 7541): all of it when reading, and of writing only what needs no memory.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::Decoder;
pub(crate) use encode::Encoder;
pub(crate) use table::FrozenTable;

/// A header block that does not decode: the connection cannot go on, for its table is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub(crate) &'static str);
