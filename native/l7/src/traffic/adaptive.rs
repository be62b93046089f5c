//! How many requests a backend can work on at once, found out from how long its answers take: while they take as long as at best, it may be asked for
//! more; when they take longer, requests wait there, and the limit shrinks until they do not.
use std::time::{Duration, Instant};

/// As proto/traffic.proto, AdaptiveConcurrency.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    pub(super) least: u32,
    pub(super) most: u32,
    pub(super) initial: u32,
    /// Times the best latency.
    pub(super) tolerance: f64,
}

/// A window has so much time and so many answers at least: less says nothing.
const WINDOW: Duration = Duration::from_millis(100);
const WINDOW_ANSWERS: usize = 20;
/// And at most: the later ones are left out.
const WINDOW_ANSWERS_MOST: usize = 512;
/// The best latency is that of the best window of the last two of these.
const AGE: Duration = Duration::from_secs(30);
/// Now and then the limit is halved for one window: who begins under load has never seen how fast the backend can be, and under a load that always
/// waits a little, waiting a little would become the best. At first after that time, then after twice as long each, at last once in an age; from
/// the beginning again when it did find something better.
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// What is better by less is chance.
const BETTER: f64 = 0.95;

#[derive(Debug)]
pub(super) struct Adaptive {
    bounds: Bounds,
    limit: f64,
    began: Instant,
    latencies: Vec<Duration>,
    /// Most that were under way in this window.
    busiest: u32,
    best: Option<Duration>,
    best_before: Option<Duration>,
    best_since: Instant,
    probing: bool,
    probed: Instant,
    probe_after: Duration,
}

impl Adaptive {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self {
            bounds,
            limit: f64::from(bounds.initial.clamp(bounds.least, bounds.most)),
            began: now,
            latencies: Vec::new(),
            busiest: 0,
            best: None,
            best_before: None,
            best_since: now,
            probing: false,
            probed: now,
            probe_after: FIRST_PROBE,
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the bounds")]
    pub(super) fn limit(&self) -> u32 {
        let limit = if self.probing { self.limit / 2.0 } else { self.limit };
        (limit as u32).clamp(self.bounds.least, self.bounds.most)
    }

    /// An answer began that was asked for at `asked`, while `under_way` were.
    pub(super) fn answered(&mut self, asked: Instant, under_way: u32, now: Instant) {
        self.busiest = self.busiest.max(under_way);
        // Those of the window before waited under the limit of that.
        if asked >= self.began && self.latencies.len() < WINDOW_ANSWERS_MOST {
            self.latencies.push(now.saturating_duration_since(asked));
        }
        if now.saturating_duration_since(self.began) >= WINDOW && self.latencies.len() >= WINDOW_ANSWERS {
            self.turn(now);
        }
    }

    fn turn(&mut self, now: Instant) {
        let middle = self.latencies.len() / 2;
        let typical = *self.latencies.select_nth_unstable(middle).1;
        let before = self.best.into_iter().chain(self.best_before).min();
        let best = before.map_or(typical, |before| before.min(typical));
        self.best = Some(self.best.map_or(typical, |best| best.min(typical)));
        if self.probing {
            let better = before.is_some_and(|before| typical < before.mul_f64(BETTER));
            self.probe_after = if better { FIRST_PROBE } else { (self.probe_after * 2).min(AGE) };
        } else {
            let tolerated = best.as_secs_f64() * self.bounds.tolerance;
            let gradient = tolerated / typical.as_secs_f64().max(f64::MIN_POSITIVE);
            if gradient < 1.0 {
                self.limit *= gradient.max(0.5);
            } else if self.busiest * 2 >= self.limit() {
                // What is not used says nothing about what could be.
                self.limit += (self.limit.sqrt() / 4.0).max(1.0);
            }
            self.limit = self.limit.clamp(f64::from(self.bounds.least), f64::from(self.bounds.most));
        }
        if now.saturating_duration_since(self.best_since) >= AGE {
            self.best_before = self.best.take();
            self.best_since = now;
        }
        self.probing = now.saturating_duration_since(self.probed) >= self.probe_after;
        if self.probing {
            self.probed = now;
        }
        self.began = now;
        self.latencies.clear();
        self.busiest = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;

    const BOUNDS: Bounds = Bounds { least: 4, most: 1000, initial: 20, tolerance: 1.5 };

    /// A backend that works on so many at once, each for `service` (give or take a third), and is offered `times` of what it can do. The limit, the
    /// p99 of what was admitted and the share of its capacity that was used, of the second half of the time.
    fn offered(parallel: usize, service: Duration, times: f64, seconds: u64, seed: u64) -> (u32, Duration, f64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let start = Instant::now();
        let mut adaptive = Adaptive::new(BOUNDS, start);
        let mut free: BinaryHeap<Reverse<Instant>> = (0..parallel).map(|_| Reverse(start)).collect();
        let mut ends: BinaryHeap<Reverse<(Instant, Instant)>> = BinaryHeap::new();
        #[expect(clippy::cast_precision_loss, reason = "a few")]
        let rate = parallel as f64 / service.as_secs_f64() * times;
        let (mut now, end) = (start, start + Duration::from_secs(seconds));
        let mut latencies = Vec::new();
        while now < end {
            now += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate);
            while let Some(Reverse((at, asked))) = ends.peek().copied().filter(|Reverse((at, _))| *at <= now) {
                ends.pop();
                let under_way = u32::try_from(ends.len() + 1).unwrap_or(u32::MAX);
                adaptive.answered(asked, under_way, at);
                if at > start + Duration::from_secs(seconds / 2) {
                    latencies.push(at - asked);
                }
            }
            if ends.len() < adaptive.limit() as usize
                && let Some(Reverse(at)) = free.pop()
            {
                let done = at.max(now) + service.mul_f64(0.67 + rng.f64() * 0.66);
                free.push(Reverse(done));
                ends.push(Reverse((done, now)));
            }
        }
        latencies.sort_unstable();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let used = latencies.len() as f64 / (rate / times * (seconds - seconds / 2) as f64);
        (adaptive.limit(), latencies[latencies.len() * 99 / 100], used)
    }

    #[test]
    fn at_five_times_the_capacity_the_admitted_wait_less_than_twice_as_long_and_the_backend_is_busy() {
        for (parallel, milliseconds) in [(10, 10), (50, 20)] {
            let service = Duration::from_millis(milliseconds);
            for seed in 0..2 {
                let (limit, alone, _) = offered(parallel, service, 0.5, 20, seed);
                let (limited, p99, used) = offered(parallel, service, 5.0, 50, seed);
                println!("{parallel} at once: limit {limit} and {limited}, p99 {alone:?} and {p99:?}, {used:.2} used");
                assert!(p99 < alone * 2, "{parallel}, seed {seed}: {p99:?} instead of {alone:?}");
                assert!(used > 0.9, "{parallel}, seed {seed}: {used}");
            }
        }
    }

    #[test]
    fn an_idle_backend_keeps_its_limit() {
        let (limit, ..) = offered(100, Duration::from_millis(5), 0.02, 60, 1);
        assert!((BOUNDS.initial..BOUNDS.initial + 10).contains(&limit), "{limit}");
    }
}
