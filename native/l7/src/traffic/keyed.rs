//! A token bucket for each key, bounded: what there is no room for shares one, so that nobody gets more by using many keys.
use super::bucket::{Bucket, Rate};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Parts that are locked by themselves, so that threads seldom wait for each other.
const PARTS: usize = 16;
/// Between two attempts to make room in a part where all are in use: each looks at all of them.
const ROOM_AGAIN: u64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Keyed {
    parts: [Mutex<Part>; PARTS],
    keys: usize,
    rest: Bucket,
    /// Requests whose key found no room.
    shared: AtomicU64,
}

#[derive(Debug, Default)]
struct Part {
    /// When the bucket of a key is full again. One that is full already is as good as new, and can be forgotten.
    full_at: HashMap<u64, u64>,
    room_again: u64,
}

impl Keyed {
    /// For so many keys, rounded up to a multiple of the parts.
    pub(super) fn new(keys: u32) -> Self {
        Self { parts: Default::default(), keys: (keys as usize).div_ceil(PARTS), rest: Bucket::default(), shared: AtomicU64::new(0) }
    }

    /// `key` is a hash that nobody outside can predict.
    pub(super) fn take(&self, key: u64, rate: Rate, now: u64) -> Result<(), Duration> {
        let part = &self.parts[(key >> 32) as usize % PARTS];
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = part.full_at.get_mut(&key) {
            return rate.take(*full_at, now).map(|next| *full_at = next).map_err(Duration::from_nanos);
        }
        if part.has_room(self.keys, now) {
            let next = rate.take(0, now).unwrap_or_default();
            part.full_at.insert(key, next);
            return Ok(());
        }
        drop(part);
        self.shared.fetch_add(1, Relaxed);
        self.rest.take(rate, now)
    }

    pub(super) fn shared(&self) -> u64 {
        self.shared.load(Relaxed)
    }
}

impl Part {
    fn has_room(&mut self, keys: usize, now: u64) -> bool {
        if self.full_at.len() >= keys && now >= self.room_again {
            self.full_at.retain(|_, full_at| *full_at > now);
            self.room_again = now + ROOM_AGAIN;
        }
        self.full_at.len() < keys
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn spread(key: u64) -> u64 {
        key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn each_key_has_its_own() {
        let (keyed, rate) = (Keyed::new(1000), Rate::new(10, Duration::from_secs(1), 10).unwrap());
        for key in 0..50 {
            assert_eq!((0..100).filter(|_| keyed.take(spread(key), rate, 1).is_ok()).count(), 10);
        }
    }

    #[test]
    fn many_keys_get_what_the_known_ones_have_and_one_bucket_more_and_never_again() {
        let (keyed, rate) = (Keyed::new(160), Rate::new(10, Duration::from_secs(1), 10).unwrap());
        let admitted = (0..100_000).filter(|key| keyed.take(spread(*key), rate, 1).is_ok()).count();
        assert!((160..=170).contains(&admitted), "{admitted}");
        assert!(keyed.shared() > 99_000);
        assert!(keyed.parts.iter().map(|part| part.lock().unwrap().full_at.len()).sum::<usize>() <= 160);
        // Those that are known have lost nothing, and gained nothing.
        let known = (0..160).filter(|key| keyed.parts.iter().any(|part| part.lock().unwrap().full_at.contains_key(&spread(*key))));
        let known: Vec<_> = known.collect();
        for key in &known {
            assert_eq!((0..100).filter(|_| keyed.take(spread(*key), rate, 1).is_ok()).count(), 9);
        }
    }

    #[test]
    fn a_key_is_forgotten_only_when_its_bucket_is_full() {
        let (keyed, rate) = (Keyed::new(16), Rate::new(10, Duration::from_secs(1), 10).unwrap());
        // Keys of one part, which has room for one.
        let [first, second] = [1, 2];
        assert!((0..10).all(|_| keyed.take(first, rate, 1).is_ok()));
        assert!(keyed.take(second, rate, 1).is_ok(), "shares the rest");
        assert!(keyed.take(first, rate, 1).is_err());
        let later = SECOND / 2 + 1;
        assert_eq!((0..10).filter(|_| keyed.take(second, rate, later).is_ok()).count(), 10, "it still shares the rest");
        assert_eq!(
            (0..100).filter(|_| keyed.take(first, rate, later).is_ok()).count(),
            5,
            "half of it has come back, whoever asked meanwhile"
        );
    }
}
