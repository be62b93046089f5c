//! A token bucket in one atomic number, by the generic cell rate algorithm: nothing fills it, the time at which it will be full again is what is
//! kept. All threads take from it without a lock, and what was admitted over any time is exact.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Tokens per time, and how many there may be. All in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Between two tokens.
    step: u64,
    /// For a full bucket to be drained and filled again.
    depth: u64,
}

impl Rate {
    /// `requests` in each `interval`, of which `burst` at once. None: no request at all.
    pub(super) fn new(requests: u32, interval: Duration, burst: u32) -> Option<Self> {
        if requests == 0 {
            return None;
        }
        let step = (super::clock::length(interval) / u64::from(requests)).max(1);
        Some(Self { step, depth: step.saturating_mul(u64::from(burst.max(1))) })
    }

    /// The same with so many times the time between two tokens, and room for `burst` of them.
    pub(super) fn slowed(self, times: f64, burst: u64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds, not negative"
        )]
        let step = ((self.step as f64 * times) as u64).max(1);
        Self { step, depth: step.saturating_mul(burst.max(1)) }
    }

    /// The same with room for what comes in so long at least.
    pub(super) fn deepened(self, nanoseconds: u64) -> Self {
        Self { depth: self.depth.max(nanoseconds), ..self }
    }

    /// Time in which an empty one is full again.
    pub(super) fn depth(self) -> u64 {
        self.depth
    }

    pub(super) fn step(self) -> u64 {
        self.step
    }

    /// Tokens in a time.
    pub(super) fn in_time(self, nanoseconds: u64) -> u64 {
        nanoseconds / self.step
    }

    /// `full_at` after one token more was taken, or how long until there is one.
    pub(super) fn take(self, full_at: u64, now: u64) -> Result<u64, u64> {
        let next = full_at.max(now) + self.step;
        if next - now <= self.depth { Ok(next) } else { Err(next - now - self.depth) }
    }

    /// Whether less than half of the tokens are there.
    pub(super) fn is_half_empty(self, full_at: u64, now: u64) -> bool {
        full_at.saturating_sub(now) > self.depth / 2
    }
}

/// Full at first.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes a token, or says for how long there is none.
    pub(super) fn take(&self, rate: Rate, now: u64) -> Result<(), Duration> {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |full_at| rate.take(full_at, now).ok());
        taken.map(|_| ()).map_err(|full_at| Duration::from_nanos(rate.take(full_at, now).err().unwrap_or(rate.step)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU32;

    const SECOND: u64 = 1_000_000_000;

    fn per_second(requests: u32, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(1), burst).unwrap()
    }

    #[test]
    fn what_is_admitted_over_a_minute_is_the_rate_and_the_burst_within_a_thousandth_whatever_is_asked() {
        for requests in [10_u32, 1000, 20_000] {
            for times in [2, 7] {
                let burst = requests.div_ceil(10).max(2);
                let (bucket, rate) = (Bucket::default(), per_second(requests, burst));
                let gap = SECOND / u64::from(requests * times);
                let asked = (0..60 * u64::from(requests * times)).map(|index| 1 + index * gap);
                let admitted: u32 = asked.map(|now| u32::from(bucket.take(rate, now).is_ok())).sum();
                let wanted = f64::from(60 * requests + burst);
                assert!((f64::from(admitted) / wanted - 1.0).abs() < 0.001 + 1.0 / wanted, "{admitted} of {wanted} at {requests} rps");
            }
        }
    }

    #[test]
    fn a_burst_is_admitted_at_once_and_then_the_rate() {
        let (bucket, rate) = (Bucket::default(), per_second(10, 5));
        assert_eq!((0..20).filter(|_| bucket.take(rate, SECOND).is_ok()).count(), 5);
        assert_eq!(bucket.take(rate, SECOND).unwrap_err(), Duration::from_millis(100));
        assert!(bucket.take(rate, SECOND + SECOND / 10).is_ok());
        assert!(bucket.take(rate, SECOND + SECOND / 10).is_err());
    }

    #[test]
    fn threads_together_get_what_one_would() {
        let (bucket, rate, admitted) = (Bucket::default(), per_second(1000, 100), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // All of them at the same moments: whoever comes second must find what the first left.
                    let taken = (0..1000).filter(|index| bucket.take(rate, SECOND + index * SECOND / 1000).is_ok()).count();
                    admitted.fetch_add(u32::try_from(taken).unwrap(), Relaxed);
                });
            }
        });
        // Threads are not at the same moment at the same time: one that is behind may find less, nobody finds more.
        let admitted = admitted.load(Relaxed);
        assert!((1000..=1100).contains(&admitted), "{admitted}");
    }

    /// That it is never more holds on every machine; that it is not less, where nothing else runs: `make long` asks for so many seconds.
    #[test]
    fn two_threads_by_the_clock_get_the_rate_and_the_burst() {
        let long: Option<f64> = std::env::var("TRACKBED_RATE_SECONDS").ok().and_then(|text| text.parse().ok());
        for requests in [10, 1000, 20_000] {
            // As where nothing is said of it.
            let burst = requests;
            let (bucket, rate, admitted) = (Bucket::default(), per_second(requests, burst), AtomicU32::new(0));
            let begun = std::time::Instant::now();
            let time = Duration::from_secs_f64(long.unwrap_or(0.1));
            let now = || u64::try_from(begun.elapsed().as_nanos()).unwrap() + 1;
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while begun.elapsed() < time {
                            admitted.fetch_add(u32::from(bucket.take(rate, now()).is_ok()), Relaxed);
                        }
                    });
                }
            });
            let (admitted, most) =
                (f64::from(admitted.into_inner()), f64::from(requests) * begun.elapsed().as_secs_f64() + f64::from(burst));
            println!("{requests} rps: {admitted} of {most:.1}");
            assert!(admitted <= most + 1.0, "{admitted} of {most}");
            assert!(long.is_none() || admitted >= most * 0.98 - 1.0, "{admitted} of {most}");
        }
    }

    proptest! {
        #[test]
        fn no_window_of_time_ever_has_more_than_its_tokens_and_the_burst(
            requests in 1_u32..1000, burst in 1_u32..50, gaps in prop::collection::vec(0_u64..50_000_000, 1..300)
        ) {
            let (bucket, rate) = (Bucket::default(), per_second(requests, burst));
            let mut now = 1;
            let mut admitted = Vec::new();
            for gap in gaps {
                now += gap;
                if bucket.take(rate, now).is_ok() {
                    admitted.push(now);
                }
            }
            for (index, begin) in admitted.iter().enumerate() {
                for (count, end) in admitted[index..].iter().enumerate() {
                    prop_assert!(count as u64 <= rate.in_time(end - begin) + u64::from(burst));
                }
            }
        }
    }
}
