//! CPU time of this process, and which CPU a thread of it runs on.
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// User and system time of all threads since the process started, in seconds. From the process clock: `/proc/self/stat` counts in 10 ms
/// ticks, too coarse for a run of a second.
#[allow(clippy::cast_precision_loss)] // seconds of a bench run fit a float many times over
pub(crate) fn seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// One of the CPUs that this process may use.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cpu {
    First,
    Last,
}

/// Keeps the calling thread on that CPU.
pub(crate) fn pin(cpu: Cpu) -> io::Result<()> {
    let allowed = sched_getaffinity(None)?;
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| allowed.is_set(*number));
    let chosen = match cpu {
        Cpu::First => numbers.next(),
        Cpu::Last => numbers.next_back(),
    };
    let mut one = CpuSet::new();
    one.set(chosen.ok_or_else(|| io::Error::other("this thread may run nowhere"))?);
    Ok(sched_setaffinity(None, &one)?)
}
