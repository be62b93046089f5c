//! Bytes on their way to or from the socket, in large buffers that a thread lends out only while data moves.
use std::cell::RefCell;
use std::ops::Range;

use super::MAX_SEALED;

/// Sixteen full records, 256 KiB of data: one system call for all of them costs 22 % less CPU per byte than four at a time.
pub(crate) const SCRATCH: usize = 16 * MAX_SEALED;
/// Buffers that a thread keeps when nobody uses them: one to read and one to write into, and two for peers that do not keep up.
const KEPT: usize = 4;

thread_local! {
    static IDLE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Memory of a fixed size with a filled part: always initialized, so reading into it needs neither clearing nor `unsafe`.
#[derive(Default)]
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    filled: Range<usize>,
}

impl Buffer {
    /// Lent by the thread; goes back when dropped.
    pub(crate) fn scratch() -> Self {
        let kept = IDLE.with_borrow_mut(Vec::pop);
        Self { memory: kept.unwrap_or_else(|| vec![0; SCRATCH].into()), filled: 0..0 }
    }

    pub(crate) fn with_size(size: usize) -> Self {
        Self { memory: vec![0; size].into(), filled: 0..0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.filled.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.filled.clone()]
    }

    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled.clone()]
    }

    /// Where the filled part begins: positions given to `at` count from the same place.
    pub(crate) fn start(&self) -> usize {
        self.filled.start
    }

    pub(crate) fn at(&self, range: Range<usize>) -> &[u8] {
        &self.memory[range]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.filled.start += count;
        debug_assert!(self.filled.start <= self.filled.end);
    }

    /// What is behind the filled part; `extend` says how much of it was filled.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.memory[self.filled.end..]
    }

    pub(crate) fn extend(&mut self, count: usize) {
        self.filled.end += count;
        debug_assert!(self.filled.end <= self.memory.len());
    }

    /// Nothing is filled any more; all is room.
    pub(crate) fn rewind(&mut self) {
        self.filled = 0..0;
    }

    /// Moves the filled part to the front of a lent buffer, so that all its room can be read into.
    pub(crate) fn borrow_scratch(&mut self) {
        if self.is_scratch() {
            let filled = self.filled.clone();
            self.filled = 0..filled.len();
            self.memory.copy_within(filled, 0);
        } else {
            let mut scratch = Self::scratch();
            scratch.append(self);
            *self = scratch;
        }
    }

    /// Gives a lent buffer back when at most `keep` bytes are in it; those stay, in memory of just their size.
    pub(crate) fn park(&mut self, keep: usize) {
        if self.is_scratch() && self.len() <= keep {
            self.shrink();
        }
    }

    /// In memory of just its size.
    pub(crate) fn shrink(&mut self) {
        *self = if self.is_empty() { Self::default() } else { Self { filled: 0..self.len(), memory: self.filled().into() } };
    }

    /// What is filled, with `room` bytes behind it.
    pub(crate) fn grow(&mut self, room: usize) {
        let mut larger = Self::with_size(self.len() + room);
        larger.append(self);
        *self = larger;
    }

    /// Memory held.
    #[cfg(test)]
    pub(crate) fn size(&self) -> usize {
        self.memory.len()
    }

    fn append(&mut self, other: &Self) {
        self.room()[..other.len()].copy_from_slice(other.filled());
        self.extend(other.len());
    }

    fn is_scratch(&self) -> bool {
        self.memory.len() == SCRATCH
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if !self.is_scratch() {
            return;
        }
        let memory = std::mem::take(&mut self.memory);
        // At the end of a thread its store may be gone already; then the memory is simply freed.
        let _ = IDLE.try_with(|idle| {
            let mut idle = idle.borrow_mut();
            if idle.len() < KEPT {
                idle.push(memory);
            }
        });
    }
}

#[cfg(test)]
pub(crate) fn idle_buffers() -> usize {
    IDLE.with_borrow(Vec::len)
}
