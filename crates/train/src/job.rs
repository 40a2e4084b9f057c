//! The two jobs a user asks for: train a model package from a data set, and evaluate a package on one.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::FrameResult;
use linewarden_model::overlay::mask_of;
use linewarden_model::package::{DatasetInfo, Package, Size};
use linewarden_model::{
    Detection, Detector, DetectorOptions, Device, DeviceRequest, Framing, FramingFiles, Label, LabelMask, ModelError,
    ModelInfo, ModelType, SizePolicy,
};
use serde_json::json;

use crate::backbone::{Backbone, BackboneError, BackboneSource};
use crate::dataset::{
    ANOMALY_LABEL, Class, Dataset, DatasetError, LabelColor, LabelPicture, MINIMUM_NORMALS, Picture, PictureError,
    Problem, Sample, check_sets, read_mask,
};
use crate::evaluation::{Evaluation, Evaluator, Judged, ModelIdentity, ScoreMap};
use crate::features::picture_view;
use crate::package::{self, Description, PackageError};
use crate::progress::Progress;
use crate::threshold::{Choice, Wish, choose};
use crate::trainer::{Fitted, TrainError, fit_memory_bank};

/// Colour of the one label of a model that was told nothing about defects.
const ANOMALY_COLOR: &str = "#FF3B30";
/// Below this many normal pictures the calibration's tail is mostly guessed.
const FEW_NORMALS: usize = 20;
/// Held-out normals above the threshold that are more than chance: twice the tail that calibration aims at.
const MANY_FALSE_REJECTS: f64 = 0.10;

/// What to train.
#[derive(Debug)]
pub struct TrainRequest {
    /// Training pictures; only the normal ones are learnt from.
    pub dataset: Dataset,
    /// Pictures to evaluate on. Without them the data set's own anomalies and its held-out normals are used.
    pub test: Option<Dataset>,
    /// What the model shall answer; nothing to let the data set say.
    pub model_type: Option<ModelType>,
    /// What the threshold shall do; nothing to take the calibration's.
    pub threshold: Option<Wish>,
    /// Seed of everything random.
    pub seed: u64,
    /// The feature network.
    pub backbone: BackboneSource,
    /// Threads.
    pub threads: NonZeroUsize,
    /// Project that the model belongs to.
    pub project: String,
    /// Version within the project.
    pub version: String,
    /// When training ends, for `model.json`.
    pub time: Timestamp,
}

/// A trained model.
#[derive(Debug)]
pub struct Trained {
    /// The package, not yet written.
    pub package: Package,
    /// How good it is, as far as the pictures can tell.
    pub evaluation: Evaluation,
    /// Share of held-out normals above the threshold.
    pub held_out_false_rejects: f64,
    /// The threshold that was asked for, where the held-out pictures lead to one.
    pub threshold_choice: Option<Choice>,
    /// What the user should know.
    pub advice: Vec<String>,
}

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// The data set cannot be used; every offending file is named.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The backbone cannot be used.
    #[error("cannot use the backbone")]
    Backbone(#[from] BackboneError),
    /// Training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The package cannot be made.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Why one picture cannot be judged.
enum JudgeError {
    /// The picture is at fault: the others are looked at all the same, so that one error names all of them.
    Picture(Problem),
    /// No other picture would fare better.
    Model(ModelError),
}

impl From<PictureError> for JudgeError {
    fn from(error: PictureError) -> Self {
        Self::Picture(problem_of(&error))
    }
}

impl From<ModelError> for JudgeError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

/// Trains a model from the data set's normal pictures.
///
/// # Errors
/// When the data set cannot be used, or the backbone or ONNX Runtime is missing.
pub fn train(request: &TrainRequest, progress: &dyn Progress) -> Result<Trained, JobError> {
    let dataset = &request.dataset;
    let (width, height) = check_pictures(request, progress)?;
    let backbone = Backbone::load(&request.backbone)?;
    let normals: Vec<&Sample> = dataset.normals().collect();
    let fitted = fit_memory_bank(&normals, &backbone, request.seed, request.threads, progress)?;
    let description = describe(request, normals.len(), (width, height))?;
    let golden: Vec<&Path> = typical_and_odd(&fitted).map(|index| normals[index].path.as_path()).collect();
    let mut package = package::build(&fitted, &backbone, description, &golden)?;
    let (scores, truths): (Vec<f64>, Vec<bool>) = fitted.held_out.iter().map(|&(_, score)| (score, false)).unzip();
    let usual = package.info().threshold;
    let (threshold_choice, refusal) = match request.threshold.map(|wish| choose(wish, &scores, &truths)) {
        Some(Ok(choice)) => (Some(choice), None),
        Some(Err(error)) => (None, Some(format!("the usual threshold {usual} was kept: {error}"))),
        None => (None, None),
    };
    if let Some(choice) = &threshold_choice {
        package.set_threshold(choice.threshold);
    }
    let evaluation = match &request.test {
        Some(test) => evaluate_package(&package, test, false, progress)?,
        None => evaluate_without_test(&package, &fitted, &normals, dataset, progress)?,
    };
    let above = fitted.held_out.iter().filter(|&&(_, score)| score >= package.info().threshold).count();
    let held_out_false_rejects = above as f64 / fitted.held_out.len().max(1) as f64;
    let mut metrics = json!({
        "held_out_normals": fitted.held_out.len(),
        "held_out_false_rejects": held_out_false_rejects,
        "image": evaluation.image,
        "pixel": evaluation.pixel,
    });
    if let Some(choice) = &threshold_choice {
        let (dataset, time) = (&request.dataset.name, format!("{:.6}", request.time));
        metrics["threshold"] = json!({ "choice": choice, "dataset": dataset, "replaced": usual, "time": time });
    }
    if let serde_json::Value::Object(metrics) = metrics {
        package.set_metrics(metrics);
    }
    let mut advice = advice(normals.len(), held_out_false_rejects, &evaluation);
    advice.extend(refusal);
    Ok(Trained { package, evaluation, held_out_false_rejects, threshold_choice, advice })
}

/// Evaluates a package on every labelled picture of a data set.
///
/// # Errors
/// When pictures or masks cannot be read or have another size than the model was trained on while `scale` is off (all of
/// them are named), or the model cannot be run.
pub fn evaluate_package(
    package: &Package,
    dataset: &Dataset,
    scale: bool,
    progress: &dyn Progress,
) -> Result<Evaluation, JobError> {
    let info = package.info();
    let mut detector = open(package, scale)?;
    let labels = evaluation_labels(info, dataset);
    let mut evaluator = Evaluator::new(info.threshold, &labels);
    let samples: Vec<&Sample> = dataset.samples.iter().filter(|sample| sample.class.is_some()).collect();
    progress.stage("evaluating", samples.len());
    judge_all(&samples, &mut detector, &mut evaluator, &labels, progress)?;
    Ok(evaluator.finish())
}

/// Who the model is, for the files of an evaluation.
pub fn identity(info: &ModelInfo, ended_at: Timestamp) -> ModelIdentity {
    ModelIdentity {
        model_arn: format!("arn:aws:lookoutvision:local:000000000000:model/{}/{}", info.project, info.version),
        project_name: info.project.clone(),
        model_version: info.version.clone(),
        training_images: info.dataset.normal,
        ended_at,
    }
}

/// The size of the training pictures, if training and evaluation can use every one of them. Otherwise one error that
/// names all that cannot be used, before any time is spent on training. What is odd about them is told.
fn check_pictures(request: &TrainRequest, progress: &dyn Progress) -> Result<(usize, usize), DatasetError> {
    let checked = check_sets(&request.dataset, request.test.as_ref(), MINIMUM_NORMALS, progress)?;
    for warning in &checked.warnings {
        progress.note(&format!("warning: {warning}"));
    }
    Ok(checked.size)
}

fn problem_of(error: &PictureError) -> Problem {
    Problem::new(&error.path, error.fault.to_string())
}

fn describe(
    request: &TrainRequest,
    normal: usize,
    (width, height): (usize, usize),
) -> Result<Description, DatasetError> {
    let dataset = &request.dataset;
    let model_type = request.model_type.unwrap_or(ModelType::Classification);
    let label = Label { name: ANOMALY_LABEL.to_owned(), hex_color: ANOMALY_COLOR.to_owned() };
    // Sides are at most 4096 pixels, as the data set was checked.
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Ok(Description {
        project: request.project.clone(),
        version: request.version.clone(),
        model_type,
        labels: if model_type == ModelType::Segmentation { vec![label] } else { Vec::new() },
        image_size: Size { width_px: side(width), height_px: side(height) },
        framing: Framing::default(),
        framing_files: FramingFiles::default(),
        dataset: DatasetInfo {
            name: dataset.name.clone(),
            sha256: dataset.sha256()?,
            normal,
            anomaly: dataset.anomalies().count(),
        },
        seed: request.seed,
        time: format!("{:.6}", request.time),
    })
}

/// The held-out pictures with the middle and the highest score.
fn typical_and_odd(fitted: &Fitted) -> impl Iterator<Item = usize> + use<> {
    let mut by_score = fitted.held_out.clone();
    by_score.sort_by(|a, b| a.1.total_cmp(&b.1));
    let middle = by_score.get(by_score.len() / 2).map(|&(index, _)| index);
    let highest = by_score.last().map(|&(index, _)| index);
    middle.into_iter().chain(highest)
}

/// Without a test set: the normals by their held-out scores, and the data set's anomalies, of which nothing was learnt.
fn evaluate_without_test(
    package: &Package,
    fitted: &Fitted,
    normals: &[&Sample],
    dataset: &Dataset,
    progress: &dyn Progress,
) -> Result<Evaluation, JobError> {
    let info = package.info();
    let labels = evaluation_labels(info, dataset);
    let mut evaluator = Evaluator::new(info.threshold, &labels);
    for &(index, score) in &fitted.held_out {
        evaluator.add(&Judged {
            source_ref: normals[index].source_ref.clone(),
            labeled_at: normals[index].labeled_at,
            truth: Class::Normal,
            score,
            confidence: FrameResult::confidence_of(score, info.threshold),
            map: None,
            truth_mask: None,
            found_mask: None,
            size_px: (info.image_size.width_px as usize, info.image_size.height_px as usize),
            detection_time: Duration::ZERO,
        });
    }
    let anomalies: Vec<&Sample> = dataset.anomalies().collect();
    if !anomalies.is_empty() {
        let mut detector = open(package, false)?;
        progress.stage("evaluating on the labelled anomalies", anomalies.len());
        judge_all(&anomalies, &mut detector, &mut evaluator, &labels, progress)?;
    }
    Ok(evaluator.finish())
}

/// The CPU scores evaluations, so that they say the same on every machine.
fn open(package: &Package, scale: bool) -> Result<Detector, ModelError> {
    let options = DetectorOptions {
        device: DeviceRequest::Only(Device::Cpu),
        sizes: if scale { SizePolicy::Scale } else { SizePolicy::Exact },
        ..DetectorOptions::default()
    };
    Detector::from_package(package, &options)
}

/// The labels that number the masks of an evaluation: the data set's, or the model's own when the data set has none.
fn evaluation_labels(info: &ModelInfo, dataset: &Dataset) -> Vec<LabelColor> {
    if !dataset.labels.is_empty() {
        return dataset.labels.clone();
    }
    let own = |label: &Label| LabelColor { name: label.name.clone(), hex_color: label.hex_color.clone() };
    info.labels.iter().map(own).collect()
}

/// Judges every sample that has a class; pictures that cannot be judged are all named together.
fn judge_all(
    samples: &[&Sample],
    detector: &mut Detector,
    evaluator: &mut Evaluator,
    labels: &[LabelColor],
    progress: &dyn Progress,
) -> Result<(), JobError> {
    let mut problems = Vec::new();
    for sample in samples {
        let Some(truth) = sample.class else { continue };
        match judge(detector, sample, truth, labels) {
            Ok(judged) => evaluator.add(&judged),
            Err(JudgeError::Picture(problem)) => problems.push(problem),
            Err(JudgeError::Model(error)) => return Err(error.into()),
        }
        progress.advance(1);
    }
    Ok(DatasetError::unless_empty(problems)?)
}

fn judge(detector: &mut Detector, sample: &Sample, truth: Class, labels: &[LabelColor]) -> Result<Judged, JudgeError> {
    let picture = Picture::read(&sample.path)?;
    let view = picture_view(&picture)?;
    detector
        .check_size(view.width_px(), view.height_px())
        .map_err(|error| JudgeError::Picture(Problem::new(&sample.path, error.to_string())))?;
    let detection = detector.detect(&view)?;
    let truth_mask = if sample.mask.is_some() { Some(read_mask(sample, labels)?) } else { None };
    Ok(Judged {
        source_ref: sample.source_ref.clone(),
        labeled_at: sample.labeled_at,
        truth,
        score: detection.result.anomaly_score,
        confidence: detection.result.confidence,
        found_mask: found_mask(detector.info(), &detection, labels),
        map: Some(ScoreMap {
            width: detection.map.width,
            height: detection.map.height,
            values: detection.map.values.clone(),
        }),
        truth_mask,
        size_px: (picture.width_px, picture.height_px),
        detection_time: detection.times.total(),
    })
}

/// What a segmentation model marks, in the data set's label numbers. A model that knows only "anomaly" is measured on
/// a data set with one label as if it were that label, and on none with several.
fn found_mask(info: &ModelInfo, detection: &Detection, labels: &[LabelColor]) -> Option<LabelPicture> {
    if info.model_type == ModelType::Classification {
        return None;
    }
    let number_of = |name: &str| labels.iter().position(|label| label.name == name).map(|index| index as u8 + 1);
    let numbers: Vec<Option<u8>> = match (info.labels.as_slice(), labels) {
        ([_], [_]) => vec![Some(1)],
        (own, _) => own.iter().map(|label| number_of(&label.name)).collect(),
    };
    // A picture that the model calls normal has no mask: nothing was found in it.
    let nothing = || LabelMask { width: 1, height: 1, labels: vec![0] };
    let LabelMask { width, height, labels: cells } = mask_of(detection).unwrap_or_else(nothing);
    let translate = |&cell: &u8| match usize::from(cell).checked_sub(1) {
        Some(index) => numbers.get(index).copied().flatten().unwrap_or(0),
        None => 0,
    };
    numbers.iter().any(Option::is_some).then(|| LabelPicture {
        width,
        height,
        labels: cells.iter().map(translate).collect(),
    })
}

fn advice(normals: usize, false_rejects: f64, evaluation: &Evaluation) -> Vec<String> {
    let mut advice = Vec::new();
    if normals < FEW_NORMALS {
        advice.push(format!(
            "{normals} normal pictures are few: with {FEW_NORMALS} to 40 the threshold rests on firmer ground"
        ));
    }
    if false_rejects > MANY_FALSE_REJECTS {
        let share = false_rejects * 100.0;
        advice.push(format!(
            "{share:.0} % of held-out normal pictures would be rejected: the normal pictures vary much; add more of \
             them, or steadier light and position"
        ));
    }
    if evaluation.image.roc_auc.is_some_and(|auc| auc < 0.9) {
        advice.push(
            "normal and anomalous pictures are hard to tell apart from normals alone: ten labelled anomalies of each \
             kind, with masks, help far more than further normals"
                .to_owned(),
        );
    }
    advice
}
