//! How a line's parts are seen, judged and caught: the configuration as the tracker means it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// What one camera sees of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraView {
    /// Name of the camera.
    pub name: String,
    /// From the trigger to the first frame that shows the part; negative where the camera comes before the trigger.
    pub offset: SignedDuration,
    /// For how long it shows the part from there.
    pub window: Duration,
    /// A view with fewer scored frames is missing.
    pub min_frames: usize,
    /// With this many scored frames the view is complete, and further ones are not looked at.
    pub max_frames: Option<usize>,
}

/// What a part's frames say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartPolicy {
    /// One frame that rejects rejects the part, at once.
    #[default]
    Any,
    /// The part is rejected when every frame rejects.
    All,
    /// The part is rejected when `k` frames reject, at once; with `n`, of its first `n` scored ones, and fewer than `n` do
    /// not make a pass.
    KOfN {
        /// How many must reject.
        k: usize,
        /// Of how many.
        n: Option<usize>,
    },
    /// The frame with the highest score speaks for the part.
    Worst,
}

/// What a part becomes whose views are not all there and whose other frames do not reject it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MissingView {
    /// `unknown`.
    #[default]
    Unknown,
    /// `reject`.
    Reject,
    /// What the frames that are there say; `unknown` only when there are none at all.
    Ignore,
}

/// How far the gate is from the trigger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GatePosition {
    /// In time, for a belt of one speed.
    Delay(Duration),
    /// In counts of the encoder; without a known count rate there is no moment.
    Counts(i64),
}

/// Everything that parts depend on.
#[derive(Debug, Clone, PartialEq)]
pub struct PartPlan {
    /// At least one.
    pub cameras: Vec<CameraView>,
    /// What frames say together.
    pub policy: PartPolicy,
    /// What missing views do.
    pub missing_view: MissingView,
    /// How long after the end of a window a frame of it may still come.
    pub grace: Duration,
    /// Where the gate is, if that is known.
    pub gate: Option<GatePosition>,
    /// How long before `reject_at`, or before the decision's end without it, a verdict must stand.
    pub decide_before: Duration,
    /// Without a known gate: how long after the trigger a decision may be acted on.
    pub expires_after: Duration,
    /// How late a trigger's message may be and still find its frames.
    pub remember: Duration,
}

impl CameraView {
    /// First moment of the part that was triggered then.
    pub(super) fn begin(&self, trigger: Timestamp) -> Timestamp {
        shifted(trigger, self.offset)
    }

    /// First moment after the part.
    pub(super) fn end(&self, trigger: Timestamp) -> Timestamp {
        later(self.begin(trigger), self.window)
    }

    /// Whether a frame of this moment shows the part.
    pub(super) fn shows(&self, trigger: Timestamp, captured_at: Timestamp) -> bool {
        (self.begin(trigger)..self.end(trigger)).contains(&captured_at)
    }
}

/// Saturates at the ends of time.
pub(super) fn shifted(moment: Timestamp, by: SignedDuration) -> Timestamp {
    let end = if by.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    moment.checked_add(by).unwrap_or(end)
}

/// Saturates at the end of time.
pub(super) fn later(moment: Timestamp, by: Duration) -> Timestamp {
    moment.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Saturates at the beginning of time.
pub(super) fn earlier(moment: Timestamp, by: Duration) -> Timestamp {
    moment.checked_sub(by).unwrap_or(Timestamp::MIN)
}
