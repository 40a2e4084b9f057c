//! A part each so many milliseconds, for a belt that brings them as a clock does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_core::parts::Trigger;

use crate::line::gate::Gate;
use crate::line::stop::{Stop, StoppedOnDrop};

/// Keeps time until what it gives is dropped.
pub(super) fn start(line: &str, rate_hz: f64, gate: Arc<Gate>) -> anyhow::Result<StoppedOnDrop> {
    let work = move |stop: &Stop| keep_time(rate_hz, &gate, stop);
    StoppedOnDrop::start(format!("lw-rate-{line}"), work).context("cannot start the thread of a rate")
}

/// Each moment is counted from the first, so that the belt does not drift.
fn keep_time(rate_hz: f64, gate: &Gate, stop: &Stop) {
    let began = Instant::now();
    for number in 0_u64.. {
        // Exact for more parts than a line ever sees.
        let due = Duration::try_from_secs_f64(number as f64 / rate_hz).unwrap_or(Duration::MAX);
        if stop.wait(due.saturating_sub(began.elapsed())) {
            return;
        }
        gate.trigger(Trigger { number: Some(number), encoder: None, at: Timestamp::now() });
    }
}
