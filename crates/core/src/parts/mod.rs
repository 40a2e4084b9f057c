//! From frames to parts: which frame shows which part, what its frames say together, and when that must stand.
//!
//! Triggers, captures, outcomes and the time come in, in whatever order the world delivers them; exactly one
//! [`PartDecision`] a part goes out, before its deadline or as `unknown` at it, and a [`Note`] for everything odd.
//! Pure: no clock, no threads, and nothing in memory that is not bounded.

mod encoder;
mod plan;
mod tracker;
mod vote;

#[cfg(test)]
mod tests;

use jiff::Timestamp;

use crate::decision::{ClockSource, Reason, Verdict};
pub use encoder::{EncoderDivider, EncoderRate};
pub use plan::{CameraView, GatePosition, MissingView, PartPlan, PartPolicy};
pub use tracker::PartTracker;

/// Something says that a part is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// Its number, when whoever triggers counts; parts are counted here without one.
    pub number: Option<u64>,
    /// Where the belt was.
    pub encoder: Option<i64>,
    /// When it happened, which may be earlier than its message came.
    pub at: Timestamp,
}

/// What became of a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum FrameOutcome {
    /// The model answered, and the line's rules judged the answer.
    Scored {
        /// `pass` or `reject`.
        verdict: Verdict,
        /// Why.
        reason: Reason,
        /// The calibrated anomaly score.
        score: f64,
    },
    /// It tells nothing of its part: it fell out, could not be scored, or its camera is not to be trusted.
    NotScored {
        /// Why.
        reason: Reason,
    },
    /// Nobody meant to score it: its turn is another's.
    NotMeant,
}

/// Whether a camera can be expected to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CameraPresence {
    /// Its first frame has not come yet.
    #[default]
    Starting,
    /// It delivers.
    Running,
    /// It failed and is tried again.
    Lost,
    /// It came to its end; nothing follows.
    Ended,
}

/// The verdict on a part.
#[derive(Debug, Clone, PartialEq)]
pub struct PartDecision {
    /// Number of the part on this line, from 0.
    pub part: u64,
    /// The trigger that opened it.
    pub trigger: Trigger,
    /// What its frames say.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Camera and number of every frame that was scored, in the order of capture.
    pub frames: Vec<(usize, u64)>,
    /// Capture of its first frame, and of its last; those that were not scored count too.
    pub captured: Option<(Timestamp, Timestamp)>,
    /// What said when the first frame was captured.
    pub clock: ClockSource,
    /// When it was reached.
    pub decided_at: Timestamp,
    /// When the part reaches the gate.
    pub reject_at: Option<Timestamp>,
    /// From here on the decision must not be acted on.
    pub expires_at: Timestamp,
    /// Whether its deadline came before its verdict.
    pub missed_deadline: bool,
}

/// Something odd that somebody should count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A frame came, or was scored, after its part had to be decided.
    LateFrame,
    /// A frame that no part claimed.
    StrayFrame,
    /// A part was decided without a view of it.
    MissingView,
    /// A trigger that was told before.
    DuplicateTrigger,
    /// Numbers between the last trigger and this one never came: this many.
    MissedTriggers(u64),
    /// A trigger's number is lower than the last one's.
    OutOfOrderTrigger,
    /// A trigger came when its part had to be decided already.
    LateTrigger,
    /// More parts are open, or frames remembered, than memory is given for.
    Overflow,
    /// A deadline came before the verdict.
    DeadlineMissed,
    /// A trigger's message says nothing that whoever heard it understands.
    MalformedTrigger,
}

impl Note {
    /// Every name, for series that must exist from the start.
    pub const NAMES: [&'static str; 10] = [
        "late_frame",
        "stray_frame",
        "missing_view",
        "duplicate_trigger",
        "missed_trigger",
        "out_of_order_trigger",
        "late_trigger",
        "overflow",
        "deadline_missed",
        "malformed_trigger",
    ];

    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self.place()]
    }

    /// Its place in [`Note::NAMES`].
    pub const fn place(self) -> usize {
        match self {
            Self::LateFrame => 0,
            Self::StrayFrame => 1,
            Self::MissingView => 2,
            Self::DuplicateTrigger => 3,
            Self::MissedTriggers(_) => 4,
            Self::OutOfOrderTrigger => 5,
            Self::LateTrigger => 6,
            Self::Overflow => 7,
            Self::DeadlineMissed => 8,
            Self::MalformedTrigger => 9,
        }
    }

    /// How many such things it tells of.
    pub const fn count(self) -> u64 {
        match self {
            Self::MissedTriggers(count) => count,
            _ => 1,
        }
    }
}

/// What follows from something that was told.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// Parts that are decided now.
    pub decisions: Vec<PartDecision>,
    /// What was odd.
    pub notes: Vec<Note>,
}
