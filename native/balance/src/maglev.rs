//! Maglev's table: each endpoint has its share of the slots almost exactly, and keeps nearly all of them when others come and go.
use crate::hash::{hash, salted};
use std::sync::Arc;

/// Envoy's default. Of a prime so far above the number of endpoints little moves when one leaves: with 100 of them less than 2 % beside its own.
pub const MAGLEV_SIZE: u32 = 65_537;
/// Largest: 4 MB for each backend that wants it.
pub const MAGLEV_SIZE_MAX: u32 = 1_000_003;

/// Of index in the endpoints that it was made of, by slot.
#[derive(Debug)]
pub(crate) struct Maglev(Box<[u32]>);

const FREE: u32 = u32::MAX;

impl Maglev {
    /// `size` is a prime. Empty when no endpoint has a weight.
    pub(crate) fn new(endpoints: &[(Arc<str>, u32)], size: u32) -> Self {
        let heaviest = endpoints.iter().map(|(_, weight)| *weight).max().unwrap_or_default();
        if heaviest == 0 {
            return Self(Box::default());
        }
        let mut slots = vec![FREE; size as usize].into_boxed_slice();
        let mut preferences: Vec<_> = endpoints.iter().map(|(uid, weight)| Preference::new(uid, *weight, size)).collect();
        let mut left = size;
        // Whoever is heaviest takes a slot in each round; the others in so many rounds as their weights are parts of its.
        for round in 1_u64.. {
            for (preference, index) in preferences.iter_mut().zip(0_u32..) {
                if round * u64::from(preference.weight) < preference.due {
                    continue;
                }
                preference.due += u64::from(heaviest);
                let slot = preference.next_free(&slots);
                slots[slot] = index;
                left -= 1;
                if left == 0 {
                    return Self(slots);
                }
            }
        }
        Self(slots)
    }

    /// The endpoints in the order in which `hash` prefers them, some of them several times, no end.
    pub(crate) fn prefers(&self, hash: u64) -> impl Iterator<Item = usize> {
        let size = self.0.len().max(1);
        let first = usize::try_from(hash % size as u64).unwrap_or_default();
        self.0.iter().cycle().skip(first).take(size).map(|index| *index as usize)
    }
}

/// The order in which one endpoint wants the slots: a permutation of all of them.
struct Preference {
    next: u64,
    skip: u64,
    size: u64,
    weight: u32,
    due: u64,
}

impl Preference {
    fn new(uid: &str, weight: u32, size: u32) -> Self {
        let (hash, size) = (hash(uid.as_bytes()), u64::from(size));
        Self { next: salted(hash, 1) % size, skip: salted(hash, 2) % (size - 1) + 1, size, weight, due: 1 }
    }

    fn next_free(&mut self, slots: &[u32]) -> usize {
        loop {
            let slot = usize::try_from(self.next).unwrap_or_default();
            self.next = (self.next + self.skip) % self.size;
            if slots[slot] == FREE {
                return slot;
            }
        }
    }
}

/// Whether a size of table can be one.
pub fn is_prime(number: u32) -> bool {
    number > 1 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}
