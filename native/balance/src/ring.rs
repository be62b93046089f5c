//! A ring of hashes (Ketama): an endpoint that leaves gives what was its to those who follow it, and nothing else moves.
use crate::hash::{hash, salted};
use std::sync::Arc;

/// Points at least, as in Envoy.
pub const RING_SIZE: u32 = 1024;
/// Asked for, and made, at most: 1 MB for each backend that wants it.
pub const RING_SIZE_MAX: u32 = 65_536;

/// Points and whose they are, by index in the endpoints that it was made of. Sorted.
#[derive(Debug)]
pub(crate) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    pub(crate) fn new(endpoints: &[(Arc<str>, u32)], size: u32) -> Self {
        let total: u64 = endpoints.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let Some(lightest) = endpoints.iter().map(|(_, weight)| *weight).filter(|weight| *weight > 0).min() else {
            return Self(Box::default());
        };
        // Points of the lightest. A power of two: if it followed the number of endpoints closely, one that leaves would add a point to all.
        let least = (u64::from(size) * u64::from(lightest)).div_ceil(total).next_power_of_two();
        let points = |weight: u32| least * u64::from(weight) / u64::from(lightest);
        let all: u64 = endpoints.iter().map(|(_, weight)| points(*weight)).sum();
        // Weights that differ by more than the ring has points: what is lightest has one all the same.
        let shrink = all.div_ceil(u64::from(RING_SIZE_MAX)).max(1);
        let mut ring = Vec::new();
        for ((uid, weight), index) in endpoints.iter().zip(0_u32..).filter(|((_, weight), _)| *weight > 0) {
            let of = hash(uid.as_bytes());
            ring.extend((0..(points(*weight) / shrink).max(1)).map(|point| (salted(of, point), index)));
        }
        ring.sort_unstable();
        Self(ring.into_boxed_slice())
    }

    /// The endpoints in the order in which `hash` prefers them, some of them several times.
    pub(crate) fn prefers(&self, hash: u64) -> impl Iterator<Item = usize> {
        let first = self.0.partition_point(|(point, _)| *point < hash);
        self.0[first..].iter().chain(&self.0[..first]).map(|(_, index)| *index as usize)
    }
}
