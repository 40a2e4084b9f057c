//! What scores a frame: a loaded model, and the part of the picture that it is shown.
//!
//! The element has one that runs, and while models change one beside it; the daemon's shadow has one of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use linewarden_model::{Batch, Detection, Detector, DetectorOptions, FrameView, ModelError, Rect};

use crate::frame::{self, PictureError};

/// A model that is ready to score frames.
#[derive(Debug)]
pub struct Scorer {
    pub(super) detector: Detector,
    pub(super) roi: Option<Rect>,
    pub(super) path: PathBuf,
}

/// Why a frame has no result.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// Its buffer is no picture.
    #[error("cannot read the frame: {0}")]
    Picture(#[from] PictureError),
    /// The model does not take it.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Scorer {
    /// Loads a model package and lets it score its golden pictures. `roi` is the part of the visible picture that counts.
    ///
    /// # Errors
    /// As [`Detector::open_shared`].
    pub fn open(path: &Path, options: &DetectorOptions, batch: Batch, roi: Option<Rect>) -> Result<Self, ModelError> {
        let detector = Detector::open_shared(path, options, batch)?;
        Ok(Self { detector, roi, path: path.to_owned() })
    }

    /// The model within.
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Scores a frame of these caps.
    ///
    /// # Errors
    /// When the buffer is no picture of these caps, its size is not the model's, or ONNX Runtime fails.
    pub fn score(&mut self, buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Result<Detection, ScoreError> {
        frame::with_view(buffer, info, |view| {
            let scored = || {
                let region = scored_region(view.crop(), self.roi)?;
                let (width_px, height_px) = frame::display_size(region.width_px, region.height_px, info);
                self.detector.check_size(width_px, height_px)?;
                Ok(self.detector.detect(&view.cropped(region).map_err(ModelError::from)?)?)
            };
            Ok(scored())
        })?
    }

    /// A size that is refused is refused before the first frame.
    pub(super) fn check_size(&self, info: &gst_video::VideoInfo) -> Result<(), ModelError> {
        let region = scored_region(Rect::of_size(info.width(), info.height()), self.roi)?;
        let (width_px, height_px) = frame::display_size(region.width_px, region.height_px, info);
        self.detector.check_size(width_px, height_px)
    }

    /// How long a picture of the trained size takes: the first answer to who asks for latency. It warms the model up too.
    pub(super) fn first_latency(&mut self) -> Duration {
        let size = self.detector.info().image_size;
        let black = vec![0; size.width_px as usize * size.height_px as usize * 3];
        let view = FrameView::rgb(size.width_px, size.height_px, &black);
        let detection = view.map_err(ModelError::from).and_then(|view| self.detector.detect(&view));
        // A model that cannot score black scored its golden pictures: the frames will tell.
        detection.map_or(Duration::ZERO, |detection| detection.times.total())
    }
}

/// The region of interest, which lies in the visible part.
pub(super) fn scored_region(visible: Rect, roi: Option<Rect>) -> Result<Rect, ModelError> {
    let Some(roi) = roi else { return Ok(visible) };
    if !roi.fits(visible.width_px, visible.height_px) {
        let Rect { width_px, height_px, .. } = visible;
        return Err(linewarden_model::FrameError::Crop { crop: roi, width_px, height_px }.into());
    }
    Ok(Rect { x: visible.x + roi.x, y: visible.y + roi.y, ..roi })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_of_interest_lies_in_the_visible_part() {
        let visible = Rect { x: 10, y: 20, width_px: 64, height_px: 48 };
        let roi = Rect { x: 4, y: 8, width_px: 60, height_px: 40 };
        assert_eq!(scored_region(visible, None).unwrap(), visible);
        assert_eq!(scored_region(visible, Some(roi)).unwrap(), Rect { x: 14, y: 28, ..roi });
        let error = scored_region(visible, Some(Rect { x: 5, ..roi })).unwrap_err().to_string();
        assert!(error.contains("64x48"), "{error}");
    }
}
