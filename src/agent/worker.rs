//! The thread that holds a running model: it scores one picture after another, and ends when nobody can ask any more.

use std::sync::mpsc::Receiver;
use std::time::Instant;

use linewarden_core::FrameResult;
use linewarden_model::overlay::mask_rgb;
use linewarden_model::{Detector, FrameView, ModelError, ModelType, PixelFormat, Plane, YuvColor};
use tokio::sync::oneshot;

use super::bitmap::Shape;

/// A picture that waits for its score.
pub(super) struct Task {
    pub(super) shape: Shape,
    pub(super) stride_bytes: usize,
    pub(super) pixels: Vec<u8>,
    pub(super) answer: oneshot::Sender<Result<Answer, ModelError>>,
}

/// What the model says.
pub(super) struct Answer {
    pub(super) result: FrameResult,
    /// RGB888 without padding, of a segmentation model.
    pub(super) mask: Option<Vec<u8>>,
    /// Without the time in the queue.
    pub(super) seconds: f64,
}

/// Scores until the last sender is gone and the queue is empty.
pub(super) fn work(mut detector: Detector, tasks: &Receiver<Task>) {
    for Task { shape, stride_bytes, pixels, answer } in tasks {
        // A client that hung up wants nothing any more.
        if answer.is_closed() {
            continue;
        }
        let outcome = score(&mut detector, shape, stride_bytes, &pixels);
        let _ = answer.send(outcome);
    }
}

fn score(detector: &mut Detector, shape: Shape, stride_bytes: usize, pixels: &[u8]) -> Result<Answer, ModelError> {
    let began = Instant::now();
    let Shape { width_px, height_px } = shape;
    detector.check_size(width_px, height_px)?;
    let plane = Plane { data: pixels, stride_bytes };
    let frame = FrameView::new(PixelFormat::Rgb, width_px, height_px, vec![plane], YuvColor::default())?;
    let detection = detector.detect(&frame)?;
    let is_segmentation = detector.info().model_type == ModelType::Segmentation;
    let mask = is_segmentation.then(|| mask_rgb(&detection, &detector.info().labels, width_px, height_px));
    Ok(Answer { result: detection.result, mask, seconds: began.elapsed().as_secs_f64() })
}
