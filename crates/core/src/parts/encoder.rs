//! What a belt's encoder tells: how fast it counts, and when the next part is there.

use jiff::{SignedDuration, Timestamp};

use super::Trigger;

/// Counts that are closer together than this say nothing of the speed: their times are those of messages.
const LEAST_GAP: SignedDuration = SignedDuration::from_millis(5);
/// A jump over more parts than this is a new count, not a belt.
const MOST_AT_ONCE: i64 = 64;

/// The belt's speed by its last counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct EncoderRate {
    last: Option<(i64, Timestamp)>,
    counts_a_second: Option<f64>,
}

impl EncoderRate {
    /// The belt was at `count` then. Older counts than the last are passed over.
    pub fn count(&mut self, count: i64, at: Timestamp) {
        let Some((last_count, last_at)) = self.last else {
            self.last = Some((count, at));
            return;
        };
        let gap = at.duration_since(last_at);
        if gap < LEAST_GAP {
            return;
        }
        // Exact up to 2^53 counts.
        let counts = count.saturating_sub(last_count) as f64;
        // A belt that stands or runs back brings no part to the gate.
        self.counts_a_second = Some(counts / gap.as_secs_f64()).filter(|rate| *rate > 0.0);
        self.last = Some((count, at));
    }

    /// How long the belt takes for so many counts, if it moves.
    pub fn time_for(&self, counts: i64) -> Option<SignedDuration> {
        SignedDuration::try_from_secs_f64(counts as f64 / self.counts_a_second?).ok()
    }
}

/// Makes a trigger of each so-manieth count.
#[derive(Debug, Clone, Copy)]
pub struct EncoderDivider {
    counts_a_part: i64,
    last: Option<(i64, Timestamp)>,
}

impl EncoderDivider {
    /// A part each `counts_a_part` counts, which is at least 1.
    pub fn new(counts_a_part: i64) -> Self {
        Self { counts_a_part: counts_a_part.max(1), last: None }
    }

    /// The belt was at `count` then: the parts that came by since the last count, each with the moment on the way between
    /// the two. A belt that runs back, or a count that starts over, brings none.
    pub fn count(&mut self, count: i64, at: Timestamp) -> Vec<Trigger> {
        let Some((last_count, last_at)) = self.last.replace((count, at)) else { return Vec::new() };
        let (before, now) = (last_count.div_euclid(self.counts_a_part), count.div_euclid(self.counts_a_part));
        if now <= before || now.saturating_sub(before) > MOST_AT_ONCE || at < last_at {
            return Vec::new();
        }
        let (gap, counts) = (at.duration_since(last_at).as_secs_f64(), count.saturating_sub(last_count) as f64);
        let trigger = |part: i64| {
            let encoder = part.saturating_mul(self.counts_a_part);
            let back = count.saturating_sub(encoder) as f64 / counts * gap;
            let back = SignedDuration::try_from_secs_f64(back).unwrap_or_default();
            let at = at.checked_sub(back).unwrap_or(at);
            Trigger { number: u64::try_from(part).ok(), encoder: Some(encoder), at }
        };
        (before + 1..=now).map(trigger).collect()
    }
}
