//! What Linewarden says about a frame and about a part: results, decisions and the ids that tie them together.
//!
//! Model output comes in as a [`FrameResult`]; a [`Decision`] goes out, of a frame or, through [`parts`], of a part.
//! Everything here is pure: no files, no sockets, no GStreamer, no tokio, no ONNX Runtime, and no clock: the caller says
//! what time it is.

#![forbid(unsafe_code)]

mod backoff;
mod challenge;
mod chart;
mod decision;
mod drift;
pub mod health;
mod ids;
pub mod parts;
pub mod presence;
mod result;

pub use backoff::Backoff;
pub use challenge::{Challenge, ChallengeError, Challenger, Duty, MOST_PARTS, Outcome};
pub use chart::{Control, RejectChart};
pub use decision::{Action, ClockSource, Decision, DecisionRules, Reason, RulesError, Verdict};
pub use drift::{Drift, Lead, Reference};
pub use ids::{BootId, Sequence};
pub use result::{Anomaly, BACKGROUND, FrameResult, ModelRef, ScoredFrame};
