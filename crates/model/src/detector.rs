//! A loaded model: pictures in, detections out.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::device::{Device, DeviceChoice, DeviceRequest};
use crate::engine::{Engine, Outcome, Scored};
use crate::error::ModelError;
use crate::frame::FrameView;
use crate::framing::{Framer, Placement};
use crate::map::{AnomalyMap, LabelMask, label_mask};
use crate::package::{Golden, ModelInfo, ModelType, Package, Size};
use crate::preprocess::Preprocessor;
use crate::register::Pose;
use crate::shared::Sharing;
use linewarden_core::{Anomaly, BACKGROUND, FrameResult, ModelRef};

/// How far a golden score may be from its promise.
const GOLDEN_TOLERANCE: f64 = 1e-3;

/// Label areas are counted on the map enlarged by this factor, whose cells follow a contour closely enough.
const MASK_SCALE: usize = 4;
/// Maps of many tiles are fine enough without: no side of a mask grows beyond this.
const MASK_SIDE: usize = 1024;

/// Views of one detector that go through the graph together, with several threads or on a GPU: memory grows with each.
const VIEWS_AT_ONCE: usize = 4;

/// Frames of several cameras in one run of a GPU.
const BATCH_ON_GPU: usize = 8;

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

/// Whose views go through the graph in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Batch {
    /// Those of detectors of the same graph where that is faster: up to 8 on CUDA and TensorRT, elsewhere each detector
    /// has the graph for itself.
    #[default]
    Auto,
    /// Each detector has the graph for itself.
    Own,
    /// Up to so many of detectors of the same graph, device, threads and number, which share one engine.
    UpTo(NonZeroUsize),
}

impl Batch {
    /// How many views may go together.
    pub(crate) fn on(self, device: Device) -> usize {
        match (self, device) {
            (Self::Own, _) | (Self::Auto, Device::Cpu | Device::OpenVino) => 1,
            (Self::Auto, Device::Cuda | Device::TensorRt) => BATCH_ON_GPU,
            (Self::UpTo(most), _) => most.get(),
        }
    }
}

/// How long each stage of one detection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StageTimes {
    /// Scaling and colour conversion.
    pub preprocess: Duration,
    /// ONNX Runtime, and where detectors share an engine the wait for it.
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
    /// How the part lies, where the model registers its pictures.
    pub pose: Option<Pose>,
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
    runner: Runner,
    framer: Framer,
    input: Vec<u8>,
    view: Vec<u8>,
}

/// What runs the graph.
#[derive(Debug)]
enum Runner {
    Own(Box<Engine>),
    Shared(Sharing),
}

/// A frame on its way through the graph, view by view.
struct Work {
    placement: Placement,
    views: Vec<Option<Scored>>,
    times: StageTimes,
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

    /// The same, and the graph may be shared with the process's other detectors that were opened so: it is loaded once,
    /// and views that come at the same time are run together. Each frame has the score that it has alone.
    ///
    /// # Errors
    /// As [`Detector::open`].
    pub fn open_shared(path: &Path, options: &DetectorOptions, batch: Batch) -> Result<Self, ModelError> {
        Self::on_best_device(&Package::read(path)?, options, batch)
    }

    /// The same for a package that has been read already.
    ///
    /// # Errors
    /// As [`Detector::open`].
    pub fn from_package(package: &Package, options: &DetectorOptions) -> Result<Self, ModelError> {
        Self::on_best_device(package, options, Batch::Own)
    }

    fn on_best_device(package: &Package, options: &DetectorOptions, batch: Batch) -> Result<Self, ModelError> {
        let mut passed_over = Vec::new();
        let candidates = options.device.candidates();
        let last = candidates.len().saturating_sub(1);
        for (index, device) in candidates.into_iter().enumerate() {
            match Self::on_device(package, options, batch, device) {
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

    fn on_device(
        package: &Package,
        options: &DetectorOptions,
        batch: Batch,
        device: Device,
    ) -> Result<Self, ModelError> {
        let info = package.info();
        let framer = package.framer()?;
        let runner = match batch.on(device) {
            1 => Engine::open(package, options, device).map(|engine| Runner::Own(Box::new(engine))),
            batch => Sharing::join(package, options, device, batch).map(Runner::Shared),
        };
        let runner = runner.map_err(|error| of_package(error, package))?;
        let mut detector = Self {
            info: Arc::new(info.clone()),
            model_ref: info.model_ref(),
            choice: DeviceChoice { device, passed_over: Vec::new() },
            sizes: options.sizes,
            runner,
            framer,
            input: Vec::new(),
            view: Vec::new(),
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

    /// What this detector shares with others, where it does.
    pub fn sharing(&self) -> Option<&Sharing> {
        match &self.runner {
            Runner::Own(_) => None,
            Runner::Shared(sharing) => Some(sharing),
        }
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
        let nothing = || Err(ModelError::Inference("there was nothing to score".to_owned()));
        self.score_all(std::iter::once(Ok(frame))).pop().unwrap_or_else(nothing)
    }

    /// Scores pictures of one or several cameras, together where that is faster: each has the score that it has alone,
    /// and an error of its own.
    pub fn detect_batch(&mut self, frames: &[FrameView<'_>]) -> Vec<Result<Detection, ModelError>> {
        let checked: Vec<Result<&FrameView<'_>, ModelError>> = frames
            .iter()
            .map(|frame| self.check_size(frame.crop().width_px, frame.crop().height_px).map(|()| frame))
            .collect();
        self.score_all(checked.into_iter())
    }

    /// The score of one view alone: a picture as it was cut for the network.
    ///
    /// # Errors
    /// When ONNX Runtime fails.
    pub fn score_view(&mut self, view: &FrameView<'_>) -> Result<f64, ModelError> {
        let Size { width_px, height_px } = self.info.input_size;
        let mut input = std::mem::take(&mut self.input);
        let scaled = Preprocessor::new(width_px, height_px).run(view, &mut input);
        let outcome = scaled.and_then(|()| self.runner.run(&mut input, 1));
        self.input = input;
        let nothing = || Err(ModelError::Inference("the graph gave no score".to_owned()));
        Ok(outcome?.pop().unwrap_or_else(nothing)?.score)
    }

    /// The score of one of a package's golden pictures, which is a PNG.
    ///
    /// # Errors
    /// When it is no PNG, or ONNX Runtime fails.
    pub fn score_golden(&mut self, package: &Package, golden: &Golden, png: &[u8]) -> Result<f64, ModelError> {
        let broken = |error: image::ImageError| ModelError::Package {
            path: package.path().to_owned(),
            reason: format!("cannot read `golden/{}`: {error}", golden.file),
        };
        let picture = image::load_from_memory_with_format(png, image::ImageFormat::Png).map_err(broken)?.into_rgb8();
        let view = FrameView::rgb(picture.width(), picture.height(), &picture)?;
        if golden.is_view { self.score_view(&view) } else { Ok(self.detect(&view)?.result.anomaly_score) }
    }

    fn score_all<'a, 'b: 'a>(
        &mut self,
        frames: impl ExactSizeIterator<Item = Result<&'a FrameView<'b>, ModelError>>,
    ) -> Vec<Result<Detection, ModelError>> {
        let views = self.framer.views();
        let at_once = self.runner.views_at_once().min(views * frames.len());
        let mut works: Vec<Result<Work, ModelError>> = Vec::with_capacity(frames.len());
        let mut waiting: Vec<(usize, usize)> = Vec::with_capacity(at_once);
        for (index, frame) in frames.enumerate() {
            let start = Instant::now();
            let placed = frame.and_then(|frame| Ok((frame, self.framer.place(frame)?)));
            let (frame, placement) = match placed {
                Ok(placed) => placed,
                Err(error) => {
                    works.push(Err(error));
                    continue;
                }
            };
            let times = StageTimes { preprocess: start.elapsed(), ..StageTimes::default() };
            works.push(Ok(Work { placement, views: (0..views).map(|_| None).collect(), times }));
            for view in 0..views {
                if self.framer.is_blind(view) {
                    continue;
                }
                let start = Instant::now();
                if let Err(error) = self.cut(frame, view, waiting.is_empty()) {
                    works[index] = Err(error);
                    break;
                }
                if let Ok(work) = &mut works[index] {
                    work.times.preprocess += start.elapsed();
                }
                waiting.push((index, view));
                if waiting.len() >= at_once {
                    self.run_waiting(&mut waiting, &mut works);
                }
            }
        }
        self.run_waiting(&mut waiting, &mut works);
        works.into_iter().map(|work| Ok(self.finish(work?))).collect()
    }

    /// Adds the pixels of one view to those that wait.
    fn cut(&mut self, frame: &FrameView<'_>, view: usize, is_first: bool) -> Result<(), ModelError> {
        if is_first {
            return self.framer.cut(frame, view, &mut self.input);
        }
        self.framer.cut(frame, view, &mut self.view)?;
        self.input.extend_from_slice(&self.view);
        Ok(())
    }

    /// Runs the graph on the views that wait, and gives each frame its part.
    fn run_waiting(&mut self, waiting: &mut Vec<(usize, usize)>, works: &mut [Result<Work, ModelError>]) {
        if waiting.is_empty() {
            return;
        }
        let start = Instant::now();
        let outcome = self.runner.run(&mut self.input, waiting.len());
        let share = start.elapsed() / waiting.len() as u32;
        let outcomes = outcome.unwrap_or_else(|error| {
            let for_each = |_| match &error {
                ModelError::Interrupted => Err(ModelError::Interrupted),
                other => Err(ModelError::Inference(other.to_string())),
            };
            waiting.iter().map(for_each).collect()
        });
        for ((frame, view), outcome) in waiting.drain(..).zip(outcomes) {
            match (&mut works[frame], outcome) {
                (Ok(work), Ok(scored)) => {
                    work.times.inference += share;
                    work.views[view] = Some(scored);
                }
                (Ok(_), Err(error)) => works[frame] = Err(error),
                (Err(_), _) => {}
            }
        }
    }

    /// The answer for a frame all of whose views have been scored: its score is the highest of theirs.
    fn finish(&mut self, work: Work) -> Detection {
        let start = Instant::now();
        let Work { placement, views, mut times } = work;
        let score = views.iter().flatten().map(|scored| scored.score).fold(0.0, f64::max);
        let mut labels: Vec<Vec<Option<AnomalyMap>>> = Vec::new();
        let label_count = views.iter().flatten().map(|scored| scored.labels.len()).max().unwrap_or(0);
        labels.resize_with(label_count, || Vec::with_capacity(views.len()));
        let mut maps = Vec::with_capacity(views.len());
        for scored in views {
            let (map, of_labels) = scored.map_or((None, Vec::new()), |scored| (Some(scored.map), scored.labels));
            maps.push(map);
            let mut of_labels = of_labels.into_iter();
            labels.iter_mut().for_each(|label| label.push(of_labels.next()));
        }
        let map = self.framer.merge(maps, &placement);
        let labels: Vec<AnomalyMap> = labels.into_iter().map(|maps| self.framer.merge(maps, &placement)).collect();
        let (result, mask) = self.conclude(score, &map, &labels);
        times.postprocess += start.elapsed();
        Detection { result, map, pose: placement.pose, times, mask }
    }

    /// From score and maps to the answer and its mask. Whoever learnt labels marks them whatever the verdict is, since
    /// verdict and mask are answers to two questions; without labels only an anomalous picture has a mask.
    fn conclude(&self, score: f64, map: &AnomalyMap, labels: &[AnomalyMap]) -> (FrameResult, Option<LabelMask>) {
        let threshold = self.info.threshold;
        let is_anomalous = score >= threshold;
        let scale = (MASK_SIDE / map.width.max(map.height).max(1)).clamp(1, MASK_SCALE);
        let mask = match labels {
            [] => is_anomalous.then(|| map.resized(map.width * scale, map.height * scale).mask()),
            labels => label_mask(labels, scale),
        };
        let anomalies = match self.info.model_type {
            ModelType::Classification => Vec::new(),
            ModelType::Segmentation => self.anomalies(mask.as_ref()),
        };
        let confidence = FrameResult::confidence_of(score, threshold);
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
            let got = self.score_golden(package, golden, png)?;
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

impl Runner {
    /// Views of one detector that may go together.
    fn views_at_once(&self) -> usize {
        match self {
            Self::Own(engine) if engine.takes_several() => VIEWS_AT_ONCE,
            Self::Own(_) => 1,
            Self::Shared(sharing) => sharing.batch().min(VIEWS_AT_ONCE),
        }
    }

    fn run(&mut self, rgb: &mut Vec<u8>, views: usize) -> Outcome {
        match self {
            Self::Own(engine) => engine.run(rgb, views),
            Self::Shared(sharing) => sharing.run(rgb, views),
        }
    }
}

fn of_package(error: ModelError, package: &Package) -> ModelError {
    match error {
        ModelError::Inference(reason) => ModelError::Package { path: package.path().to_owned(), reason },
        other => other,
    }
}
