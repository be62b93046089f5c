//! CPU time of this process.

/// User and system time of all threads since the process started, in seconds. From the process clock: `/proc/self/stat` counts in 10 ms
/// ticks, too coarse for a run of a second.
#[allow(clippy::cast_precision_loss)] // seconds of a bench run fit a float many times over
pub(crate) fn seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
