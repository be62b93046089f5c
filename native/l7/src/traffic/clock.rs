//! Time as one number that threads can share in an atomic.
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static BEGAN: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the process first asked, never 0: that is for "never".
pub(super) fn nanoseconds(now: Instant) -> u64 {
    length(now.saturating_duration_since(*BEGAN.get_or_init(|| now))) + 1
}

/// At most a century, so that sums do not overflow.
pub(super) fn length(time: Duration) -> u64 {
    const CENTURY: u64 = 100 * 365 * 24 * 3600 * 1_000_000_000;
    u64::try_from(time.as_nanos()).map_or(CENTURY, |nanoseconds| nanoseconds.min(CENTURY))
}
