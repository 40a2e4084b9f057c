//! What a model says about one frame.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Name of the entry that stands for everything outside the anomalies of a segmentation answer.
pub const BACKGROUND: &str = "background";

/// One anomaly label and the share of the picture that it covers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The label, `background` for the rest of the picture.
    pub name: String,
    /// Share of the picture's pixels, 0 to 1.
    pub total_percentage_area: f64,
    /// Colour of the label in the mask, `#RRGGBB`.
    pub hex_color: String,
}

/// The answer of a model for one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrameResult {
    /// Whether `anomaly_score` reached `anomaly_threshold`.
    pub is_anomalous: bool,
    /// How sure the model is of `is_anomalous`, 0.5 to 1 for a calibrated model.
    pub confidence: f64,
    /// Calibrated score, 0 (normal) to 1 (anomalous).
    pub anomaly_score: f64,
    /// Scores from here on are anomalous.
    pub anomaly_threshold: f64,
    /// Segmentation models only: background first, then each label found. Empty for classification models.
    pub anomalies: Vec<Anomaly>,
}

impl FrameResult {
    /// How sure a score is of its side of the threshold: 0.5 at the threshold, 1 at the end of the scale, on a straight
    /// line between them. With a threshold of 0.5 it is the probability of the verdict.
    pub fn confidence_of(score: f64, threshold: f64) -> f64 {
        let (distance, side) =
            if score >= threshold { (score - threshold, 1.0 - threshold) } else { (threshold - score, threshold) };
        0.5 + 0.5 * (distance / side.max(f64::EPSILON))
    }

    /// The labels found, without the background.
    pub fn labels(&self) -> impl Iterator<Item = &Anomaly> {
        self.anomalies.iter().filter(|anomaly| anomaly.name != BACKGROUND)
    }
}

/// Names exactly which model gave a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    /// Project (or package folder) that the model belongs to.
    pub project: String,
    /// Version within the project.
    pub version: String,
    /// SHA-256 of `model.onnx`, lower-case hexadecimal.
    pub sha256: String,
}

/// A frame's result with everything that says which frame it was.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredFrame {
    /// Name of the camera.
    pub camera: String,
    /// Number of the frame since the camera's start, from 0.
    pub frame: u64,
    /// Presentation time in the stream, if it has one.
    pub pts: Option<Duration>,
    /// When the frame was captured.
    pub captured_at: Timestamp,
    /// What the model said.
    pub result: FrameResult,
    /// How long pre-processing, inference and post-processing took together.
    pub detection_time: Duration,
    /// Which model said it.
    pub model: ModelRef,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confidence_is_a_half_at_the_threshold_wherever_that_lies() {
        for (score, threshold, expected) in [
            (0.9, 0.5, 0.9),
            (0.1, 0.5, 0.9),
            (0.5, 0.5, 0.5),
            (0.6, 0.8, 0.625),
            (0.8, 0.8, 0.5),
            (0.9, 0.8, 0.75),
            (0.0, 0.8, 1.0),
            (1.0, 1.0, 0.5),
        ] {
            let confidence = FrameResult::confidence_of(score, threshold);
            assert!((confidence - expected).abs() < 1e-12, "{score} {threshold}: {confidence}");
        }
    }
}
