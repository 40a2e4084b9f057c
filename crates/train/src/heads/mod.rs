//! Heads: what labelled anomalies teach. Labelled pictures come in; out comes the best of several candidates, each judged
//! on pictures that it was not fitted to, with calibrated scores and masks.
//!
//! [`learn`] does it all. What scores a picture is a [`Part`]; a [`Stack`] weighs one or several of them. Nothing here
//! knows of ONNX or of packages: the exporter writes the same arithmetic.

#[cfg(test)]
mod agreement;
pub(crate) mod cells;
mod folds;
pub(crate) mod gaussian;
pub(crate) mod image;
mod lbfgs;
mod learn;
mod logistic;
mod mask_head;
pub(crate) mod masks;
mod mlp;
pub(crate) mod patch;
mod seen;
mod stack;
mod taps;

pub use cells::CellHead;
pub use gaussian::Gaussian;
pub use image::ImageHead;
pub use learn::{Candidate, Found, Learnt, Lessons, learn};
pub use masks::{Borders, LabelCurve};
pub use stack::{Part, Stack};
pub use taps::{TapMap, Taps};
