//! Large buffers of a data thread, lent only while bytes move: idle tunnels and streams hold none.
use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};

use trackbed_tls::channel::{PREPARE_BYTES, RECORD_DATA, RECORD_HEAD, RECORD_TAIL};

use crate::h2::HEAD;

/// A full record of ours, with one DATA frame in it.
pub(crate) const SLOT: usize = RECORD_HEAD + RECORD_DATA + RECORD_TAIL;
/// Payload of one such record.
pub(crate) const PAYLOAD: usize = RECORD_DATA - HEAD;
/// Where payload stands in it.
pub(crate) const PAYLOAD_AT: usize = RECORD_HEAD + HEAD;
/// Records that leave by one system call: sixteen at a time cost 28 % less CPU than four.
pub(crate) const SLOTS: usize = 16;
/// Room in front of them for what must go first: a key update, and a record of small frames.
pub(crate) const FRONT: usize = PREPARE_BYTES + SLOT;
/// Most payload that moves in one direction before others of the thread have their turn.
pub(crate) const TURN: usize = SLOTS * PAYLOAD;

const BYTES: usize = FRONT + SLOTS * SLOT;
/// Buffers kept when nobody uses them.
const KEPT: usize = 4;
/// Of these, one that is never given back: the next small message needs no new memory.
const LASTING: usize = 1;
/// Buffers that may wait full for peers that do not read, 18 MB; beyond that tunnels send one record at a time and keep no more.
const MANY: usize = 64;

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LENT: Cell<usize> = const { Cell::new(0) };
    /// The fewest that lay unused since the last `settle`.
    static UNUSED: Cell<usize> = const { Cell::new(0) };
}

/// Goes back when dropped. Always initialized, whatever it held before.
#[derive(Debug)]
pub(crate) struct Lent(Box<[u8]>);

pub(crate) fn lend() -> Lent {
    LENT.set(LENT.get() + 1);
    let (taken, left) = IDLE.with_borrow_mut(|idle| (idle.pop(), idle.len()));
    UNUSED.set(UNUSED.get().min(left));
    Lent(taken.unwrap_or_else(|| vec![0; BYTES].into()))
}

/// Gives back what nobody has used since the last time.
pub(crate) fn settle() {
    IDLE.with_borrow_mut(|idle| {
        idle.truncate(idle.len().saturating_sub(UNUSED.get()).max(LASTING));
        UNUSED.set(idle.len());
    });
}

/// Too many of them wait with somebody.
pub(crate) fn is_scarce() -> bool {
    LENT.get() > MANY
}

impl Deref for Lent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        // At the end of a thread its store may be gone already; then the memory is simply freed.
        let _ = LENT.try_with(|lent| lent.set(lent.get() - 1));
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_that_nobody_uses_are_given_back_but_one() {
        let kept = || IDLE.with_borrow(Vec::len);
        drop([lend(), lend(), lend()]);
        settle();
        assert_eq!(kept(), 3, "they were in use a moment ago");
        drop([lend(), lend()]);
        settle();
        assert_eq!(kept(), 2, "as many as were in use at a time");
        settle();
        settle();
        assert_eq!(kept(), 1);
    }
}
