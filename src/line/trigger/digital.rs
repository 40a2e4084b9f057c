//! A light barrier on an input of this machine: a part with each edge of a GPIO line, at the kernel's own time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use gpiocdev::Request;
use gpiocdev::line::{EdgeDetection, EdgeEvent, EventClock};
use jiff::Timestamp;
use linewarden_core::Backoff;
use linewarden_core::parts::Trigger;

use crate::config::DigitalTrigger;
use crate::line::gate::Gate;
use crate::line::stop::{Stop, StoppedOnDrop};

/// A stop is heard so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A line that was held this long was a good one: the next attempt comes quickly.
const GOOD_LINE: Duration = Duration::from_secs(2);

/// Numbers edges across the times that the line was lost: the kernel counts from 1 each time it is asked for.
#[derive(Debug, Default)]
struct Numbers {
    before: u64,
    counted: u32,
}

/// Waits for edges until what it gives is dropped.
pub(super) fn start(line: &str, config: DigitalTrigger, gate: Arc<Gate>) -> anyhow::Result<StoppedOnDrop> {
    let work = move |stop: &Stop| watch(&config, &gate, stop);
    StoppedOnDrop::start(format!("lw-digital-{line}"), work).context("cannot start the thread of a digital line")
}

fn watch(config: &DigitalTrigger, gate: &Gate, stop: &Stop) {
    let mut backoff = Backoff::of_peer();
    let mut numbers = Numbers::default();
    loop {
        let began = Instant::now();
        let Err(error) = watch_one_request(config, gate, stop, &mut numbers) else { return };
        if began.elapsed() >= GOOD_LINE {
            backoff.reset();
        }
        gate.triggers_connected(Some(&format!("{error:#}")));
        if stop.wait(backoff.next_delay()) {
            return;
        }
    }
}

/// Returns when it is told to stop.
fn watch_one_request(config: &DigitalTrigger, gate: &Gate, stop: &Stop, numbers: &mut Numbers) -> anyhow::Result<()> {
    let place = || format!("line {} of {}", config.offset, config.chip.display());
    let request = request(config).with_context(|| format!("cannot use {}", place()))?;
    gate.triggers_connected(None);
    numbers.begin();
    while !stop.is_set() {
        let has_edge = request.wait_edge_event(LOOK_EVERY);
        if has_edge.with_context(|| format!("cannot wait for {}", place()))? {
            let edge = request.read_edge_event().with_context(|| format!("cannot read {}", place()))?;
            gate.trigger(numbers.trigger(&edge));
        }
    }
    Ok(())
}

fn request(config: &DigitalTrigger) -> gpiocdev::Result<Request> {
    let mut request = Request::builder();
    request.on_chip(&config.chip).with_line(config.offset).as_input().with_consumer("linewarden");
    request.with_edge_detection(if config.on_fall { EdgeDetection::FallingEdge } else { EdgeDetection::RisingEdge });
    // Capture times are of the same clock.
    request.with_event_clock(EventClock::Realtime);
    if !config.debounce.is_zero() {
        request.with_debounce_period(config.debounce);
    }
    request.request()
}

impl Numbers {
    fn begin(&mut self) {
        self.before += u64::from(std::mem::take(&mut self.counted));
    }

    /// The kernel also counts edges that found its queue full: the part after them has its own number all the same.
    fn trigger(&mut self, edge: &EdgeEvent) -> Trigger {
        self.counted = edge.line_seqno;
        let number = (self.before + u64::from(edge.line_seqno)).saturating_sub(1);
        let at = Timestamp::from_nanosecond(i128::from(edge.timestamp_ns));
        Trigger { number: Some(number), encoder: None, at: at.unwrap_or_else(|_| Timestamp::now()) }
    }
}

#[cfg(test)]
mod tests {
    use gpiocdev::line::EdgeKind;

    use super::*;

    fn edge(line_seqno: u32, timestamp_ns: u64) -> EdgeEvent {
        EdgeEvent { timestamp_ns, kind: EdgeKind::Rising, offset: 17, seqno: line_seqno, line_seqno }
    }

    #[test]
    fn edges_are_numbered_from_0_with_those_that_were_lost_and_across_a_line_that_was_away() {
        let mut numbers = Numbers::default();
        let number = |numbers: &mut Numbers, count| numbers.trigger(&edge(count, 0)).number.unwrap();
        numbers.begin();
        assert_eq!([1, 2, 5].map(|count| number(&mut numbers, count)), [0, 1, 4]);
        numbers.begin();
        assert_eq!([1, 2].map(|count| number(&mut numbers, count)), [5, 6]);
    }

    #[test]
    fn an_edge_has_the_kernels_time() {
        let at = Numbers::default().trigger(&edge(1, 1_700_000_000_123_456_789)).at;
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.123456789Z");
    }
}
