//! What Linewarden says about a frame and about a part: results, decisions and the ids that tie them together.
//!
//! Model output comes in as a [`FrameResult`]; a [`Decision`] goes out. Everything here is pure: no files, no sockets,
//! no GStreamer, no tokio, no ONNX Runtime, and no clock: the caller says what time it is.

#![forbid(unsafe_code)]

mod decision;
mod ids;
mod result;

pub use decision::{Decision, DecisionRules, Reason, RulesError, Verdict};
pub use ids::{BootId, Sequence};
pub use result::{Anomaly, BACKGROUND, FrameResult, ModelRef, ScoredFrame};
