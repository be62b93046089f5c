//! A ring of hashes (Ketama): an endpoint that leaves gives what was its to those who follow it, and nothing else moves.
use crate::hash::{hash, salted};
use std::sync::Arc;

/// Points of a ring of four endpoints, as in Envoy.
pub const RING_SIZE: u32 = 1024;
pub const RING_SIZE_MAX: u32 = 65_536;
/// An endpoint has so many of the points, however many there are of them: if its share followed their number, one that leaves would move the points
/// of all others.
const SHARE: u32 = 4;
/// Points that are made at most, 4 MB for each backend and thread that wants them. Where there would be more, each endpoint has half as many, and
/// half again: with more than 1024 of them, once, much moves.
const POINTS: u64 = 262_144;

/// Points and whose they are, by index in the endpoints that it was made of. Sorted.
#[derive(Debug)]
pub(crate) struct Ring(Box<[(u64, u32)]>);

impl Ring {
    pub(crate) fn new(endpoints: &[(Arc<str>, u32)], size: u32) -> Self {
        let Some(lightest) = endpoints.iter().map(|(_, weight)| *weight).filter(|weight| *weight > 0).min() else {
            return Self(Box::default());
        };
        // Of weights, only the order of magnitude of the lightest: whoever is it may leave too.
        let unit = 1_u64 << lightest.ilog2();
        let each = u64::from((size / SHARE).next_power_of_two());
        let all: u64 = endpoints.iter().map(|(_, weight)| each * u64::from(*weight) / unit).sum();
        let shrink = all.div_ceil(POINTS).next_power_of_two();
        let points = |weight: u32| (each * u64::from(weight) / unit / shrink).max(1);
        let mut ring = Vec::new();
        for ((uid, weight), index) in endpoints.iter().zip(0_u32..).filter(|((_, weight), _)| *weight > 0) {
            let of = hash(uid.as_bytes());
            ring.extend((0..points(*weight)).map(|point| (salted(of, point), index)));
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
