//! How long an endpoint lets a request wait: a moving average of latency that rises at once and falls slowly, so that whoever turns slow is left
//! alone before its queue has grown.
use std::time::{Duration, Instant};

/// Of the past, what is older than that counts for about a third. As in Finagle and Linkerd: long enough to outlast a pause of a collector, short
/// enough for an endpoint that recovered to have its share again within half a minute.
const DECAY: Duration = Duration::from_secs(10);
/// A try that failed counts as if it had taken so many times as long: what fails fast must not look fast.
const FAILURE: f64 = 4.0;
/// What nobody has asked yet, or not for long, is expected to take that long at least: below a millisecond endpoints differ by chance.
const LEAST_NANOSECONDS: f64 = 1_000_000.0;

/// Of one endpoint, as one thread sees it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PeakEwma {
    nanoseconds: f64,
    at: Option<Instant>,
}

impl PeakEwma {
    /// An answer that took `latency`.
    pub(crate) fn answered(&mut self, latency: Duration, now: Instant) {
        self.observe(nanoseconds(latency), now);
    }

    pub(crate) fn failed(&mut self, latency: Duration, now: Instant) {
        self.observe(nanoseconds(latency).max(self.wait(now)) * FAILURE, now);
    }

    /// Expected, in nanoseconds. It falls while nothing is heard, so that an endpoint that was slow is tried again.
    pub(crate) fn wait(&self, now: Instant) -> f64 {
        (self.nanoseconds * self.share(now)).max(LEAST_NANOSECONDS)
    }

    fn observe(&mut self, took: f64, now: Instant) {
        let share = self.share(now);
        let before = self.nanoseconds;
        self.nanoseconds = if took > before { took } else { before * share + took * (1.0 - share) };
        self.at = Some(now);
    }

    /// Of the past that still counts.
    fn share(&self, now: Instant) -> f64 {
        let age = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let (mut ewma, start) = (PeakEwma::default(), Instant::now());
        ewma.answered(MILLISECOND, start);
        ewma.answered(100 * MILLISECOND, start + MILLISECOND);
        assert!(ewma.wait(start + MILLISECOND) > 99e6);
        ewma.answered(MILLISECOND, start + 2 * MILLISECOND);
        assert!(ewma.wait(start + 2 * MILLISECOND) > 90e6, "one fast answer does not make up for it");
        (0..600_u32).for_each(|tick| ewma.answered(MILLISECOND, start + 100 * MILLISECOND * tick));
        assert!(ewma.wait(start + Duration::from_mins(1)) < 2e6, "a minute of them does");
    }

    #[test]
    fn what_is_not_heard_of_is_tried_again_in_time() {
        let (mut ewma, start) = (PeakEwma::default(), Instant::now());
        ewma.answered(Duration::from_secs(1), start);
        assert!(ewma.wait(start + Duration::from_mins(2)) < LEAST_NANOSECONDS * 1.01);
    }

    #[test]
    fn a_fast_failure_is_no_fast_answer() {
        let (mut ewma, start) = (PeakEwma::default(), Instant::now());
        ewma.answered(10 * MILLISECOND, start);
        ewma.failed(Duration::from_micros(100), start + MILLISECOND);
        assert!(ewma.wait(start + MILLISECOND) > 35e6);
    }
}
