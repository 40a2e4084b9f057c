//! Time that passed, and time that this process worked.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::numbers::milliseconds;

/// Runs until it is looked at.
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

/// What a stopwatch showed, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) wall_ms: f64,
    /// Of all threads together.
    pub(crate) cpu_ms: f64,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: process_cpu() }
    }

    pub(crate) fn spent(&self) -> Spent {
        let cpu = process_cpu().saturating_sub(self.cpu);
        Spent { wall_ms: milliseconds(self.wall.elapsed()), cpu_ms: milliseconds(cpu) }
    }
}

fn process_cpu() -> Duration {
    // The clock of a process's own CPU time is never negative.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}
