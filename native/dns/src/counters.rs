//! What became of the queries of one pod.

use std::cell::Cell;

/// Plain cells: a pod's resolver lives on one thread. Each query counts once, in the first four.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered from the mesh's own names.
    pub answered: Cell<u64>,
    /// Relayed, and the server's answer passed back.
    pub forwarded: Cell<u64>,
    /// Malformed, or not to be answered at all.
    pub refused: Cell<u64>,
    /// SERVFAIL: the server did not answer, could not be reached, or a bound was met.
    pub failed: Cell<u64>,
    /// Of `failed` (and of connections, which are no queries): what a bound cut.
    pub limited: Cell<u64>,
}

pub(crate) fn count(counter: &Cell<u64>) {
    counter.set(counter.get().wrapping_add(1));
}
