//! A loaded model: pictures in, detections out.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use linewarden_core::{Anomaly, BACKGROUND, FrameResult, ModelRef};
use ort::session::Session;
use ort::value::TensorRef;

use crate::device::{Device, DeviceChoice, DeviceRequest};
use crate::error::ModelError;
use crate::frame::FrameView;
use crate::map::{AnomalyMap, LabelMask};
use crate::package::{INPUT, MAP_OUTPUT, ModelInfo, ModelType, Package, SCORE_OUTPUT};
use crate::preprocess::Preprocessor;
use crate::runtime;

/// How far a golden score may be from its promise.
const GOLDEN_TOLERANCE: f64 = 1e-3;

/// Label areas are counted on the map enlarged by this factor, whose cells follow a contour closely enough.
const MASK_SCALE: usize = 4;

const BACKGROUND_COLOR: &str = "#FFFFFF";

/// What to do with a picture of another size than the training pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SizePolicy {
    /// Refuse it: another size often means another camera or another distance.
    #[default]
    Exact,
    /// Scale it.
    Scale,
}

/// How to run a model.
#[derive(Debug, Clone)]
pub struct DetectorOptions {
    /// Which processor.
    pub device: DeviceRequest,
    /// Which one of several.
    pub device_id: u32,
    /// Threads within an operator, at least 1.
    pub threads: usize,
    /// What to do with pictures of another size.
    pub sizes: SizePolicy,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self { device: DeviceRequest::Auto, device_id: 0, threads: 1, sizes: SizePolicy::Exact }
    }
}

/// How long each stage of one detection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimes {
    /// Scaling and colour conversion.
    pub preprocess: Duration,
    /// ONNX Runtime.
    pub inference: Duration,
    /// Map, labels and areas.
    pub postprocess: Duration,
}

impl StageTimes {
    /// All stages together.
    pub fn total(&self) -> Duration {
        self.preprocess + self.inference + self.postprocess
    }
}

/// What a model found in a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// The answer.
    pub result: FrameResult,
    /// Where the anomalies are, over the scored region.
    pub map: AnomalyMap,
    /// How long it took.
    pub times: StageTimes,
    mask: Option<LabelMask>,
}

impl Detection {
    /// Which label each cell has, at the size at which the areas were counted; a normal picture has no mask.
    pub fn mask(&self) -> Option<&LabelMask> {
        self.mask.as_ref()
    }
}

/// A model that is ready to score. One detector scores one picture at a time; open another for another thread.
#[derive(Debug)]
pub struct Detector {
    info: Arc<ModelInfo>,
    model_ref: ModelRef,
    choice: DeviceChoice,
    sizes: SizePolicy,
    session: Session,
    preprocessor: Preprocessor,
    input: Vec<u8>,
}

impl Detector {
    /// Loads a package, starts it on the asked device and lets it score its golden pictures.
    ///
    /// With [`DeviceRequest::Auto`] a device that does not load, or that scores the golden pictures differently, is
    /// passed over; [`Detector::device`] tells which and why.
    ///
    /// # Errors
    /// When the package is broken, the runtime is missing, a named device does not load, or golden scores differ.
    pub fn open(path: &Path, options: &DetectorOptions) -> Result<Self, ModelError> {
        Self::from_package(&Package::read(path)?, options)
    }

    /// The same for a package that has been read already.
    ///
    /// # Errors
    /// As [`Detector::open`].
    pub fn from_package(package: &Package, options: &DetectorOptions) -> Result<Self, ModelError> {
        let mut passed_over = Vec::new();
        let candidates = options.device.candidates();
        let last = candidates.len().saturating_sub(1);
        for (index, device) in candidates.into_iter().enumerate() {
            match Self::on_device(package, options, device) {
                Ok(mut detector) => {
                    detector.choice.passed_over = passed_over;
                    return Ok(detector);
                }
                Err(error) if index == last => return Err(error),
                Err(error @ ModelError::Runtime { .. }) => return Err(error),
                Err(ModelError::Device { reason, .. }) => passed_over.push((device, reason)),
                Err(error) => passed_over.push((device, error.to_string())),
            }
        }
        Err(ModelError::UnknownDevice("none".to_owned()))
    }

    fn on_device(package: &Package, options: &DetectorOptions, device: Device) -> Result<Self, ModelError> {
        let info = package.info();
        let session = open_session(package, options, device)?;
        let mut detector = Self {
            info: Arc::new(info.clone()),
            model_ref: info.model_ref(),
            choice: DeviceChoice { device, passed_over: Vec::new() },
            sizes: options.sizes,
            session,
            preprocessor: Preprocessor::new(info.input_size.width_px, info.input_size.height_px),
            input: Vec::new(),
        };
        detector.check_golden(package)?;
        Ok(detector)
    }

    /// What `model.json` says.
    pub fn info(&self) -> &Arc<ModelInfo> {
        &self.info
    }

    /// The reference that results carry.
    pub fn model_ref(&self) -> &ModelRef {
        &self.model_ref
    }

    /// The device in use.
    pub fn device(&self) -> &DeviceChoice {
        &self.choice
    }

    /// Whether pictures of this size can be scored.
    ///
    /// # Errors
    /// When the size is not the training size and scaling is not allowed.
    pub fn check_size(&self, width_px: u32, height_px: u32) -> Result<(), ModelError> {
        let trained = self.info.image_size;
        if self.sizes == SizePolicy::Scale || (width_px, height_px) == (trained.width_px, trained.height_px) {
            return Ok(());
        }
        Err(ModelError::Size {
            width_px,
            height_px,
            trained_width_px: trained.width_px,
            trained_height_px: trained.height_px,
        })
    }

    /// Scores one picture whose size was found fit by [`Detector::check_size`].
    ///
    /// # Errors
    /// When pre-processing or ONNX Runtime fails.
    pub fn detect(&mut self, frame: &FrameView<'_>) -> Result<Detection, ModelError> {
        let start = Instant::now();
        let mut input = std::mem::take(&mut self.input);
        let scaled = self.preprocessor.run(frame, &mut input);
        let preprocessed = Instant::now();
        let outcome = scaled.and_then(|()| self.infer(&input));
        self.input = input;
        let (score, map) = outcome?;
        let inferred = Instant::now();
        let (result, mask) = self.conclude(score, &map);
        let times = StageTimes {
            preprocess: preprocessed - start,
            inference: inferred - preprocessed,
            postprocess: inferred.elapsed(),
        };
        Ok(Detection { result, map, times, mask })
    }

    /// Runs the graph on pixels of the network's size.
    fn infer(&mut self, rgb: &[u8]) -> Result<(f64, AnomalyMap), ModelError> {
        let failed = |error: ort::Error| ModelError::Inference(error.to_string());
        let size = self.info.input_size;
        let shape = [1, size.height_px as usize, size.width_px as usize, 3];
        let input = TensorRef::from_array_view((shape, rgb)).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![INPUT => input]).map_err(failed)?;
        let (_, score) = outputs[SCORE_OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
        let (shape, values) = outputs[MAP_OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
        let &score = score.first().ok_or_else(|| ModelError::Inference("the graph gave no score".to_owned()))?;
        if !score.is_finite() {
            return Err(ModelError::Inference(format!("the graph gave the score {score}")));
        }
        let &[_, height, width] = &shape[..] else {
            return Err(ModelError::Inference(format!("`{MAP_OUTPUT}` has shape {shape:?}, not [N, h, w]")));
        };
        let map = AnomalyMap { width: width as usize, height: height as usize, values: values.to_vec() };
        Ok((f64::from(score), map))
    }

    /// From score and map to the answer, and to the mask of an anomalous picture.
    fn conclude(&self, score: f64, map: &AnomalyMap) -> (FrameResult, Option<LabelMask>) {
        let threshold = self.info.threshold;
        let is_anomalous = score >= threshold;
        let mask = is_anomalous.then(|| map.resized(map.width * MASK_SCALE, map.height * MASK_SCALE).mask());
        let anomalies = match self.info.model_type {
            ModelType::Classification => Vec::new(),
            ModelType::Segmentation => self.anomalies(mask.as_ref()),
        };
        let confidence = score.max(1.0 - score);
        (FrameResult { is_anomalous, confidence, anomaly_score: score, anomaly_threshold: threshold, anomalies }, mask)
    }

    fn anomalies(&self, mask: Option<&LabelMask>) -> Vec<Anomaly> {
        let background = |area| Anomaly {
            name: BACKGROUND.to_owned(),
            total_percentage_area: area,
            hex_color: BACKGROUND_COLOR.to_owned(),
        };
        let Some(mask) = mask else { return vec![background(1.0)] };
        let areas = mask.areas(self.info.labels.len());
        let found = self.info.labels.iter().zip(&areas[1..]).filter(|&(_, &area)| area > 0.0);
        let found = found.map(|(label, &area)| Anomaly {
            name: label.name.clone(),
            total_percentage_area: area,
            hex_color: label.hex_color.clone(),
        });
        std::iter::once(background(areas[0])).chain(found).collect()
    }

    /// Lets the model score the package's own pictures, which also warms it up.
    fn check_golden(&mut self, package: &Package) -> Result<(), ModelError> {
        for (golden, png) in package.golden() {
            let broken = |reason: String| ModelError::Package { path: package.path().to_owned(), reason };
            let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png)
                .map_err(|error| broken(format!("cannot read `golden/{}`: {error}", golden.file)))?
                .into_rgb8();
            let view = FrameView::rgb(picture.width(), picture.height(), &picture)?;
            let got = self.detect(&view)?.result.anomaly_score;
            if (got - golden.anomaly_score).abs() > GOLDEN_TOLERANCE {
                return Err(ModelError::Golden {
                    path: package.path().to_owned(),
                    file: golden.file.clone(),
                    device: self.choice.device,
                    expected: golden.anomaly_score,
                    got,
                });
            }
        }
        Ok(())
    }
}

fn open_session(package: &Package, options: &DetectorOptions, device: Device) -> Result<Session, ModelError> {
    let size = package.info().input_size;
    let broken = |error: String| ModelError::Package { path: package.path().to_owned(), reason: error };
    // The graph takes any size and number of pictures; here both are known, which lets the optimiser plan memory.
    let known = [("batch", 1), ("height", size.height_px), ("width", size.width_px)];
    let mut builder = runtime::session_builder(options.threads)?;
    for (dimension, length) in known {
        builder =
            builder.with_dimension_override(dimension, i64::from(length)).map_err(|error| broken(error.to_string()))?;
    }
    builder = device
        .register(builder, options.device_id, options.threads)
        .map_err(|reason| ModelError::Device { device, reason })?;
    builder.commit_from_memory(package.onnx()).map_err(|error| match device {
        Device::Cpu => broken(format!("ONNX Runtime refuses `model.onnx`: {error}")),
        other => ModelError::Device { device: other, reason: error.to_string() },
    })
}
