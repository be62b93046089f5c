//! What a connection carries, for whoever records it or looks at its beginning. Nobody does most of the time, and then it costs one branch.
use std::fmt;
use std::io::IoSlice;

use crate::meter::Side;

/// Is told what a pump moves, on the pump's own thread, before it moves on.
pub trait Tap: fmt::Debug {
    /// The first `count` bytes of these pieces came from this side; `offset` of them came before. False when it need not be told more.
    fn moved(&self, from: Side, offset: u64, pieces: &[IoSlice<'_>], count: usize) -> bool;
    /// This side said FIN after `offset` bytes; it may say so more than once.
    fn finished(&self, from: Side, offset: u64);
}
