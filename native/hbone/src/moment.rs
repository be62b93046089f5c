//! Moments as plain values: nanoseconds from the moment of freezing, which becomes that of thawing. What was due meanwhile is due then.
use std::time::{Duration, Instant};

/// Below zero for what was before `now`.
pub(crate) fn offset(at: Instant, now: Instant) -> i64 {
    let nanos = |duration: Duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(now) {
        Some(ahead) => nanos(ahead),
        None => -nanos(now.duration_since(at)),
    }
}

/// None for a moment that this machine's clock cannot have.
pub(crate) fn at(offset: i64, now: Instant) -> Option<Instant> {
    let distance = Duration::from_nanos(offset.unsigned_abs());
    if offset < 0 { now.checked_sub(distance) } else { now.checked_add(distance) }
}
