//! Bytes that came and that nobody took yet. Empty, and without memory, most of the time; bounded by the window of their stream.
use std::collections::VecDeque;
use std::io::IoSlice;

/// Small pieces are collected up to here, so that many of them cost no more memory than their bytes.
const CHUNK: usize = 64 << 10;

/// A pointer, for every connection has some; what it points to is there only while bytes are.
#[derive(Debug, Default)]
pub(crate) struct Backlog(Option<Box<Chunks>>);

#[derive(Debug, Default)]
struct Chunks {
    queue: VecDeque<Vec<u8>>,
    /// Of the first chunk, what is gone already.
    taken: usize,
}

impl Backlog {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let queue = &mut self.0.get_or_insert_default().queue;
        match queue.back_mut() {
            Some(last) if last.len() + bytes.len() <= CHUNK => last.extend_from_slice(bytes),
            _ => queue.push_back(bytes.to_vec()),
        }
    }

    /// As many pieces as `out` takes; returns how many.
    pub(crate) fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let Some(chunks) = &self.0 else { return 0 };
        let mut skip = chunks.taken;
        let mut count = 0;
        for (slot, chunk) in out.iter_mut().zip(&chunks.queue) {
            *slot = IoSlice::new(&chunk[skip..]);
            skip = 0;
            count += 1;
        }
        count
    }

    /// Everything that is in it.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let Some(chunks) = &self.0 else { return Vec::new() };
        let mut all = chunks.queue.iter().fold(Vec::new(), |mut all, chunk| {
            all.extend_from_slice(chunk);
            all
        });
        all.drain(..chunks.taken);
        all
    }

    pub(crate) fn advance(&mut self, mut count: usize) {
        let Some(chunks) = &mut self.0 else { return };
        while let Some(first) = chunks.queue.front() {
            let left = first.len() - chunks.taken;
            if count < left {
                chunks.taken += count;
                return;
            }
            count -= left;
            chunks.taken = 0;
            chunks.queue.pop_front();
        }
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_and_leaves_no_memory() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut backlog, mut expected, mut passed) = (Backlog::default(), Vec::new(), Vec::new());
        for _ in 0..2000 {
            let most = if random.u8(..) == 0 { 200_000 } else { 300 };
            let piece: Vec<u8> = (0..random.usize(0..most)).map(|_| random.u8(..)).collect();
            expected.extend_from_slice(&piece);
            backlog.push(&piece);
            while random.bool() && !backlog.is_empty() {
                let mut slices = [IoSlice::new(&[]); 3];
                let count = backlog.slices(&mut slices);
                let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                let some = random.usize(1..=all.len());
                passed.extend_from_slice(&all[..some]);
                backlog.advance(some);
            }
        }
        while !backlog.is_empty() {
            let mut slices = [IoSlice::new(&[])];
            backlog.slices(&mut slices);
            passed.extend_from_slice(&slices[0]);
            let count = slices[0].len();
            backlog.advance(count);
        }
        assert!(passed == expected);
        assert!(backlog.0.is_none());
    }

    #[test]
    fn tiny_pieces_cost_little_more_than_their_bytes() {
        let mut backlog = Backlog::default();
        (0..100_000).for_each(|_| backlog.push(b"x"));
        assert!(backlog.0.is_some_and(|chunks| chunks.queue.len() <= 2));
    }
}
