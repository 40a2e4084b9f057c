//! The two jobs a user asks for: train a model package from a data set, and evaluate a package on one.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::FrameResult;
use linewarden_model::package::{Calibration, CandidateInfo, DatasetInfo, Package, Size, sha256_hex};
use linewarden_model::{
    AnomalyMap, Detector, DetectorOptions, Device, DeviceRequest, Label, LabelMask, ModelError, ModelInfo, ModelType,
    SizePolicy,
};
use serde_json::json;

use crate::backbone::{Backbone, BackboneError, BackboneSource};
use crate::dataset::{
    ANOMALY_LABEL, Class, Dataset, DatasetError, LabelColor, LabelPicture, MINIMUM_NORMALS, Picture, PictureError,
    Problem, Sample, check_sets, read_mask,
};
use crate::evaluation::{Evaluation, Evaluator, Judged, ModelIdentity, ScoreMap};
use crate::export::{learnt_model, memory_bank_model, strides};
use crate::features::{INPUT_SIZE_PX, bank_strides, picture_view};
use crate::heads::{Candidate, Found, Lessons, learn};
use crate::memory::{Memory, MemoryError};
use crate::package::{self, Description, PackageError};
use crate::progress::Progress;
use crate::sizing::BankSize;
use crate::threshold::{Choice, Wish, choose};
use crate::trainer::{Again, Normals, TrainError, fit_memory_bank};
use crate::views::{FramingRequest, Views};

/// Colour of the one label of a model that was told nothing about defects.
const ANOMALY_COLOR: &str = "#FF3B30";
/// Below this many normal pictures the calibration's tail is mostly guessed.
const FEW_NORMALS: usize = 20;
/// Fewer labelled anomalies than this are not learnt from: folds without any would say nothing.
const FEWEST_ANOMALIES: usize = 4;
/// Pictures of each label that the guide asks of a segmentation model's only data set.
const FEWEST_WITHOUT_TEST_SET: usize = 20;
/// The same for a training set beside a test set.
const FEWEST_WITH_TEST_SET: usize = 10;
/// Held-out normals above the threshold that are more than chance: twice the tail that calibration aims at.
const MANY_FALSE_REJECTS: f64 = 0.10;

/// What to train.
#[derive(Debug)]
pub struct TrainRequest {
    /// Training pictures; anomalies are learnt from where there are at least four.
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
    /// Which part of the pictures counts, and how they are cut.
    pub framing: FramingRequest,
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
    /// The sizes that the memory bank could have had, and what each is worth; nothing where anomalies were learnt from.
    pub bank_sizes: Vec<BankSize>,
    /// What the user should know.
    pub advice: Vec<String>,
    /// The scores of the normal pictures, each held out.
    pub held_out: Vec<f64>,
    /// The scores of the remembered pictures, where there are any.
    pub remembered_held_out: Vec<Again>,
    /// What a later training needs to add pictures, where it can: it belongs into the package's folder.
    pub memory: Option<Memory>,
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
    /// What the earlier training left cannot be used.
    #[error("the model cannot be extended")]
    Memory(#[from] MemoryError),
    /// The model and what shall be added do not go together.
    #[error("the model cannot be extended: {0}")]
    Extend(String),
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

/// Trains a model: from normal pictures alone, or from labelled anomalies as well where there are enough of them.
///
/// # Errors
/// When the data set cannot be used, or the backbone or ONNX Runtime is missing.
pub fn train(request: &TrainRequest, progress: &dyn Progress) -> Result<Trained, JobError> {
    let size = check_pictures(request, MINIMUM_NORMALS, progress)?;
    let backbone = Backbone::load(&request.backbone)?;
    let kind = kind_of(request)?;
    let views = views(request, size, progress)?;
    let made = if has_enough_anomalies(request) {
        from_labels(request, &backbone, &views, kind.model_type, progress)?
    } else {
        from_normals(request, None, &backbone, &views, progress)?
    };
    conclude(request, None, &backbone, &views, kind, made, progress)
}

/// Trains a model that begins with what another one remembers.
pub(crate) fn train_further(
    request: &TrainRequest,
    package: &Package,
    memory: &Memory,
    backbone: &Backbone,
    progress: &dyn Progress,
) -> Result<Trained, JobError> {
    let views = Views::of_package(package);
    let kind = Kind { model_type: package.info().model_type, advice: None };
    let made = from_normals(request, Some(memory), backbone, &views, progress)?;
    conclude(request, Some(package.info()), backbone, &views, kind, made, progress)
}

fn has_enough_anomalies(request: &TrainRequest) -> bool {
    request.dataset.anomalies().count() >= FEWEST_ANOMALIES
}

/// From a model to its package, and to what there is to say of it.
fn conclude(
    request: &TrainRequest,
    before: Option<&ModelInfo>,
    backbone: &Backbone,
    views: &Views,
    kind: Kind,
    made: Made<'_>,
    progress: &dyn Progress,
) -> Result<Trained, JobError> {
    let golden: Vec<&Path> = typical_and_odd(&made).map(|index| made.samples[index].path.as_path()).collect();
    let description = describe(request, before, &made, views, kind.model_type)?;
    let mut package = package::build(made.onnx, backbone, description, &golden)?;
    let class = |found: &Found| (found.score, made.samples[found.sample].class == Some(Class::Anomaly));
    let (scores, truths): (Vec<f64>, Vec<bool>) = made
        .held_out
        .iter()
        .map(class)
        .chain(made.remembered_held_out.iter().map(|again| (again.score, false)))
        .unzip();
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
        None => evaluate_held_out(&package, &made.samples, &made.held_out, &request.dataset, progress)?,
    };
    let normals =
        normal_scores(&made.samples, &made.held_out).chain(made.remembered_held_out.iter().map(|again| again.score));
    let normals: Vec<f64> = normals.collect();
    package.set_normal_scores(normals.clone());
    let above = normals.iter().filter(|&&score| score >= package.info().threshold).count();
    let held_out_false_rejects = above as f64 / normals.len().max(1) as f64;
    let mut metrics = json!({
        "held_out_normals": normals.len(),
        "held_out_false_rejects": held_out_false_rejects,
        "image": evaluation.image,
        "pixel": evaluation.pixel,
    });
    if let Some(choice) = &threshold_choice {
        let (dataset, time) = (&request.dataset.name, format!("{:.6}", request.time));
        metrics["threshold"] = json!({ "choice": choice, "dataset": dataset, "replaced": usual, "time": time });
    }
    if !made.bank_sizes.is_empty() {
        metrics["bank_sizes"] = json!(made.bank_sizes);
    }
    if let serde_json::Value::Object(metrics) = metrics {
        package.set_metrics(metrics);
    }
    let normal = request.dataset.normals().count();
    let learnt_anomalies = made.samples.len() > normal;
    let mut advice = advice(normal + made.remembered, learnt_anomalies, held_out_false_rejects, &evaluation);
    advice.extend(kind.advice);
    advice.extend(refusal);
    let normals = normal + made.remembered;
    advice.extend(threshold_choice.as_ref().and_then(|choice| choice.held_out_advice(normals)));
    if let Some(before) = before.filter(|before| before.threshold != usual && threshold_choice.is_none()) {
        advice.push(format!(
            "the threshold is {usual} again: the {} of the model before was chosen for its scores, not for these; choose \
             another with `--target-false-reject` or `linewarden threshold`",
            before.threshold
        ));
    }
    if before.is_some() && request.dataset.anomalies().next().is_some() {
        advice.push(
            "an extended model knows only what is normal: the labelled anomalies only measured it; to learn from them \
             train again with all pictures"
                .to_owned(),
        );
    }
    let held_out = normal_scores(&made.samples, &made.held_out).collect();
    let (memory, remembered_held_out) = (made.memory, made.remembered_held_out);
    Ok(Trained {
        package,
        evaluation,
        held_out_false_rejects,
        threshold_choice,
        bank_sizes: made.bank_sizes,
        advice,
        held_out,
        remembered_held_out,
        memory,
    })
}

/// How the pictures are cut.
fn views(request: &TrainRequest, size: (usize, usize), progress: &dyn Progress) -> Result<Views, JobError> {
    let normals: Vec<&Sample> = request.dataset.normals().collect();
    let input = Size { width_px: INPUT_SIZE_PX, height_px: INPUT_SIZE_PX };
    let views = Views::plan(&request.framing, size_of(size), input, &normals, progress).map_err(TrainError::from)?;
    if views.count() > 1 {
        progress.note(&format!(
            "every picture is cut into {} tiles, each of which takes as long as a picture",
            views.count()
        ));
    }
    Ok(views)
}

fn ignored(views: &Views) -> Result<Option<Vec<bool>>, TrainError> {
    Ok(views.ignored()?)
}

pub(crate) fn size_of((width, height): (usize, usize)) -> Size {
    // Sides are at most 4096 pixels, as the data set was checked.
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Size { width_px: side(width), height_px: side(height) }
}

/// A model before it becomes a package.
struct Made<'a> {
    onnx: Vec<u8>,
    algorithm: &'static str,
    candidates: Vec<CandidateInfo>,
    calibration: Calibration,
    strides: Vec<u32>,
    /// What was learnt from.
    samples: Vec<&'a Sample>,
    /// What was found in pictures that were held out; their numbers are those of `samples`.
    held_out: Vec<Found>,
    /// How many pictures of an earlier training are in it, too.
    remembered: usize,
    /// The scores of those of them that were held out.
    remembered_held_out: Vec<Again>,
    memory: Option<Memory>,
    /// Nothing where anomalies were learnt from.
    bank_sizes: Vec<BankSize>,
}

/// Learns what is normal; anomalies are only looked at to say how well they are found.
fn from_normals<'a>(
    request: &'a TrainRequest,
    remembered: Option<&Memory>,
    backbone: &Backbone,
    views: &Views,
    progress: &dyn Progress,
) -> Result<Made<'a>, JobError> {
    let samples: Vec<&Sample> = request.dataset.normals().collect();
    let normals = Normals { remembered, samples: &samples };
    let fitted = fit_memory_bank(normals, backbone, views, request.seed, request.threads, progress)?;
    let found = |&(sample, score): &(usize, f64)| Found { sample, score, map: None, mask: None };
    Ok(Made {
        onnx: memory_bank_model(backbone, &fitted.bank, &fitted.calibration, ignored(views)?.as_deref())?,
        algorithm: "memory_bank",
        candidates: Vec::new(),
        calibration: fitted.calibration,
        strides: bank_strides(backbone),
        samples,
        held_out: fitted.held_out.iter().map(found).collect(),
        remembered: remembered.map_or(0, |memory| memory.pictures.len()),
        remembered_held_out: fitted.remembered_held_out,
        memory: fitted.memory,
        bank_sizes: fitted.bank_sizes,
    })
}

/// Learns from both classes, and from the masks of the anomalies where there are any.
fn from_labels<'a>(
    request: &'a TrainRequest,
    backbone: &Backbone,
    views: &Views,
    model_type: ModelType,
    progress: &dyn Progress,
) -> Result<Made<'a>, JobError> {
    let dataset = &request.dataset;
    let samples: Vec<&Sample> = dataset.normals().chain(dataset.anomalies()).collect();
    let with_masks = model_type == ModelType::Segmentation;
    let lessons = Lessons {
        samples: samples.clone(),
        labels: &dataset.labels,
        with_masks,
        backbone,
        views,
        seed: request.seed,
        threads: request.threads,
        wanted: None,
    };
    let learnt = learn(&lessons, progress)?;
    let candidate = |candidate: &Candidate| CandidateInfo {
        name: candidate.name.to_owned(),
        held_out_roc_auc: candidate.held_out_roc_auc,
        held_out_f1: candidate.held_out_f1,
        separation: candidate.separation,
    };
    Ok(Made {
        onnx: learnt_model(backbone, &learnt, with_masks, ignored(views)?.as_deref())?,
        algorithm: learnt.algorithm,
        candidates: learnt.candidates.iter().map(candidate).collect(),
        calibration: learnt.calibration,
        strides: strides(backbone, &learnt),
        samples,
        held_out: learnt.held_out,
        remembered: 0,
        remembered_held_out: Vec::new(),
        memory: None,
        bank_sizes: Vec::new(),
    })
}

/// What the model shall answer, and what the user should know about it.
struct Kind {
    model_type: ModelType,
    advice: Option<String>,
}

/// As the guide has it, the type follows from the labels: masks with enough pictures of each label make a segmentation
/// model, all else a classification model. What the user asks for goes first.
fn kind_of(request: &TrainRequest) -> Result<Kind, DatasetError> {
    if let Some(model_type) = request.model_type {
        return Ok(Kind { model_type, advice: None });
    }
    let dataset = &request.dataset;
    let classification = |advice| Kind { model_type: ModelType::Classification, advice };
    if dataset.labels.is_empty() || dataset.anomalies().all(|sample| sample.mask.is_none()) {
        return Ok(classification(None));
    }
    let fewest = if request.test.is_some() { FEWEST_WITH_TEST_SET } else { FEWEST_WITHOUT_TEST_SET };
    let counts = label_counts(dataset)?;
    let Some((label, count)) = dataset.labels.iter().zip(&counts).find(|(_, count)| **count < fewest) else {
        return Ok(Kind { model_type: ModelType::Segmentation, advice: None });
    };
    let name = &label.name;
    let advice = format!(
        "label `{name}` is on {count} masks; with {fewest} pictures of each label a segmentation model is trained, \
         `--type segmentation` trains one all the same"
    );
    Ok(classification(Some(advice)))
}

/// How many masks show each label.
fn label_counts(dataset: &Dataset) -> Result<Vec<usize>, DatasetError> {
    let mut counts = vec![0; dataset.labels.len()];
    let mut problems = Vec::new();
    for sample in dataset.anomalies().filter(|sample| sample.mask.is_some()) {
        match read_mask(sample, &dataset.labels) {
            Ok(mask) => mask.found().into_iter().for_each(|label| counts[usize::from(label) - 1] += 1),
            Err(error) => problems.push(problem_of(&error)),
        }
    }
    DatasetError::unless_empty(problems)?;
    Ok(counts)
}

/// The scores of the normal pictures among those that were held out.
fn normal_scores<'a>(samples: &'a [&Sample], held_out: &'a [Found]) -> impl Iterator<Item = f64> + 'a {
    let is_normal = |found: &&Found| samples[found.sample].class == Some(Class::Normal);
    held_out.iter().filter(is_normal).map(|found| found.score)
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
    let mut detector = open_for_evaluation(package, scale)?;
    let labels = evaluation_labels(info, dataset);
    let mut evaluator = Evaluator::new(info.threshold, &labels);
    let samples: Vec<&Sample> = dataset.samples.iter().filter(|sample| sample.class.is_some()).collect();
    progress.stage("evaluating", samples.len());
    judge_all(&samples, &mut detector, &mut evaluator, &labels, progress)?;
    Ok(evaluator.finish())
}

/// Who the model is, for the files of an evaluation.
pub fn identity(info: &ModelInfo, ended_at: Timestamp) -> ModelIdentity {
    // A model without candidates was trained on normal pictures alone.
    let anomalies = if info.candidates.is_empty() { 0 } else { info.dataset.anomaly };
    ModelIdentity {
        model_arn: format!("arn:aws:lookoutvision:local:000000000000:model/{}/{}", info.project, info.version),
        project_name: info.project.clone(),
        model_version: info.version.clone(),
        training_images: info.dataset.normal + anomalies,
        ended_at,
    }
}

/// The size of the training pictures, if training and evaluation can use every one of them. Otherwise one error that
/// names all that cannot be used, before any time is spent on training. What is odd about them is told.
pub(crate) fn check_pictures(
    request: &TrainRequest,
    minimum_normals: usize,
    progress: &dyn Progress,
) -> Result<(usize, usize), DatasetError> {
    let checked = check_sets(&request.dataset, request.test.as_ref(), minimum_normals, progress)?;
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
    before: Option<&ModelInfo>,
    made: &Made<'_>,
    views: &Views,
    model_type: ModelType,
) -> Result<Description, DatasetError> {
    let dataset = &request.dataset;
    let normal = dataset.normals().count();
    let (mut name, mut sha256) = (dataset.name.clone(), dataset.sha256()?);
    if let Some(before) = before {
        name = format!("{} + {name}", before.dataset.name);
        sha256 = sha256_hex(format!("{}\n{sha256}\n", before.dataset.sha256).as_bytes());
    }
    Ok(Description {
        project: request.project.clone(),
        version: request.version.clone(),
        model_type,
        labels: if model_type == ModelType::Segmentation { own_labels(dataset, made, normal) } else { Vec::new() },
        image_size: views.size(),
        framing: views.framing().clone(),
        framing_files: views.files().clone(),
        dataset: DatasetInfo { name, sha256, normal: normal + made.remembered, anomaly: dataset.anomalies().count() },
        seed: request.seed,
        time: format!("{:.6}", request.time),
        extended_from: before.map(|before| before.onnx_sha256.clone()),
        algorithm: made.algorithm.to_owned(),
        candidates: made.candidates.clone(),
        calibration: made.calibration,
        strides: made.strides.clone(),
    })
}

/// The labels of a segmentation model: what its masks taught it, or else the one for whatever is not normal.
fn own_labels(dataset: &Dataset, made: &Made<'_>, normal: usize) -> Vec<Label> {
    let learnt_masks = made.samples.len() > normal && made.samples.iter().any(|sample| sample.mask.is_some());
    if !learnt_masks || dataset.labels.is_empty() {
        return vec![Label { name: ANOMALY_LABEL.to_owned(), hex_color: ANOMALY_COLOR.to_owned() }];
    }
    let own = |label: &LabelColor| Label { name: label.name.clone(), hex_color: label.hex_color.clone() };
    dataset.labels.iter().map(own).collect()
}

/// The normal pictures that were held out with the middle and the highest score.
fn typical_and_odd(made: &Made<'_>) -> impl Iterator<Item = usize> + use<> {
    let is_normal = |found: &&Found| made.samples[found.sample].class == Some(Class::Normal);
    let mut by_score: Vec<(usize, f64)> =
        made.held_out.iter().filter(is_normal).map(|found| (found.sample, found.score)).collect();
    by_score.sort_by(|a, b| a.1.total_cmp(&b.1));
    let middle = by_score.get(by_score.len() / 2).map(|&(index, _)| index);
    let highest = by_score.last().map(|&(index, _)| index);
    middle.into_iter().chain(highest)
}

/// Without a test set: every picture by what was found in it while it was held out, and the data set's other anomalies,
/// of which nothing was learnt.
fn evaluate_held_out(
    package: &Package,
    samples: &[&Sample],
    held_out: &[Found],
    dataset: &Dataset,
    progress: &dyn Progress,
) -> Result<Evaluation, JobError> {
    let info = package.info();
    let labels = evaluation_labels(info, dataset);
    let mut evaluator = Evaluator::new(info.threshold, &labels);
    let mut problems = Vec::new();
    for found in held_out {
        let sample = samples[found.sample];
        let truth_mask = match sample.mask.as_ref().filter(|_| found.map.is_some()).map(|_| read_mask(sample, &labels))
        {
            Some(Ok(mask)) => Some(mask),
            None => None,
            Some(Err(error)) => {
                problems.push(problem_of(&error));
                continue;
            }
        };
        evaluator.add(&Judged {
            source_ref: sample.source_ref.clone(),
            labeled_at: sample.labeled_at,
            truth: sample.class.unwrap_or(Class::Normal),
            score: found.score,
            confidence: FrameResult::confidence_of(found.score, info.threshold),
            map: found.map.as_ref().map(score_map),
            truth_mask,
            found_mask: found.map.as_ref().and_then(|_| found_mask(info, found.mask.as_ref(), &labels)),
            size_px: (info.image_size.width_px as usize, info.image_size.height_px as usize),
            detection_time: Duration::ZERO,
        });
    }
    DatasetError::unless_empty(problems)?;
    let learnt: HashSet<&Path> = samples.iter().map(|sample| sample.path.as_path()).collect();
    let others: Vec<&Sample> = dataset.anomalies().filter(|sample| !learnt.contains(sample.path.as_path())).collect();
    if !others.is_empty() {
        let mut detector = open_for_evaluation(package, false)?;
        progress.stage("evaluating on the labelled anomalies", others.len());
        judge_all(&others, &mut detector, &mut evaluator, &labels, progress)?;
    }
    Ok(evaluator.finish())
}

fn score_map(map: &AnomalyMap) -> ScoreMap {
    ScoreMap { width: map.width, height: map.height, values: map.values.clone() }
}

/// The CPU scores evaluations, so that they say the same on every machine.
pub(crate) fn open_for_evaluation(package: &Package, scale: bool) -> Result<Detector, ModelError> {
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
            Err(JudgeError::Picture(problem)) => problems.push(sample.problem(&problem.place, problem.message)),
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
        found_mask: found_mask(detector.info(), detection.mask(), labels),
        map: Some(score_map(&detection.map)),
        truth_mask,
        size_px: (picture.width_px, picture.height_px),
        detection_time: detection.times.total(),
    })
}

/// What a segmentation model marks, in the data set's label numbers. A model that knows only "anomaly" is measured on
/// a data set with one label as if it were that label, and on none with several.
fn found_mask(info: &ModelInfo, mask: Option<&LabelMask>, labels: &[LabelColor]) -> Option<LabelPicture> {
    if info.model_type == ModelType::Classification {
        return None;
    }
    let number_of = |name: &str| labels.iter().position(|label| label.name == name).map(|index| index as u8 + 1);
    let numbers: Vec<Option<u8>> = match (info.labels.as_slice(), labels) {
        ([_], [_]) => vec![Some(1)],
        (own, _) => own.iter().map(|label| number_of(&label.name)).collect(),
    };
    // A picture without a mask is one in which nothing was found.
    let nothing = || LabelMask { width: 1, height: 1, labels: vec![0] };
    let LabelMask { width, height, labels: cells } = mask.cloned().unwrap_or_else(nothing);
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

fn advice(normals: usize, learnt_anomalies: bool, false_rejects: f64, evaluation: &Evaluation) -> Vec<String> {
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
    if !learnt_anomalies && evaluation.image.roc_auc.is_some_and(|auc| auc < 0.9) {
        advice.push(
            "normal and anomalous pictures are hard to tell apart from normals alone: ten labelled anomalies of each \
             kind, with masks, help far more than further normals"
                .to_owned(),
        );
    }
    advice
}
