//! What a peer may cost without giving anything useful: a bucket that fills with frames that carry nothing and drains by time and by data.
use std::time::Instant;

/// Costs a peer may run up at once: every honest burst (a full tunnel opened and given up) stays far below.
const DEPTH: u32 = 4000;
/// Costs forgiven in a second.
const DRAIN: u32 = 400;
/// A frame that only has to be read: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, what is unknown.
pub(crate) const QUIET: u32 = 1;
/// A stream that was asked for and taken back, or that we had to reset: it cost us a task and an answer.
pub(crate) const PROVOKED: u32 = 16;
/// Window updates that one DATA frame of ours may bring.
pub(crate) const PER_DATA: u32 = 8;

#[derive(Debug)]
pub(crate) struct Guard {
    level: u32,
    at: Instant,
}

impl Guard {
    pub(crate) fn new(now: Instant) -> Self {
        Self { level: 0, at: now }
    }

    pub(crate) fn parts(&self) -> (u32, Instant) {
        (self.level, self.at)
    }

    /// None for a peer that has cost too much.
    pub(crate) fn resume(level: u32, at: Instant) -> Option<Self> {
        (level <= DEPTH).then_some(Self { level, at })
    }

    /// False when the peer has cost too much.
    pub(crate) fn charge(&mut self, cost: u32, now: Instant) -> bool {
        self.level += cost;
        if self.level > DEPTH {
            let drained = now.saturating_duration_since(self.at).as_millis().min(1 << 20);
            let forgiven = u32::try_from(drained).unwrap_or(u32::MAX).saturating_mul(DRAIN) / 1000;
            if forgiven > 0 {
                self.level = self.level.saturating_sub(forgiven);
                self.at = now;
            }
        }
        self.level <= DEPTH
    }

    /// Something useful moved.
    pub(crate) fn forgive(&mut self, cost: u32) {
        self.level = self.level.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_noticed_and_the_same_spread_over_time_is_not() {
        let start = Instant::now();
        let mut guard = Guard::new(start);
        assert!((0..DEPTH).all(|_| guard.charge(QUIET, start)));
        assert!(!guard.charge(QUIET, start));
        let mut guard = Guard::new(start);
        for second in 0..20_000 {
            let now = start + Duration::from_secs(second);
            assert!((0..DRAIN / 2).all(|_| guard.charge(QUIET, now)), "after {second} s");
        }
    }

    #[test]
    fn data_pays_for_the_frames_that_it_brings() {
        let start = Instant::now();
        let mut guard = Guard::new(start);
        for _ in 0..DEPTH {
            guard.forgive(PER_DATA);
            assert!((0..PER_DATA).all(|_| guard.charge(QUIET, start)));
        }
    }
}
