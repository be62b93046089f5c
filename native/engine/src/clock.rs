//! Wall-clock time as the contract writes it.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) fn unix_nanoseconds() -> i64 {
    nanoseconds(SystemTime::now())
}

pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

pub(crate) fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
