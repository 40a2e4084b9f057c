//! More normal pictures for a model that there is already: without the old pictures, and with how scores moved.

use std::collections::HashSet;
use std::path::PathBuf;

use linewarden_model::package::Package;
use serde::Serialize;

use crate::backbone::Backbone;
use crate::calibration::Curve;
use crate::dataset::{Class, Picture, Sample};
use crate::evaluation::percentile;
use crate::features::{bank_weights, picture_view};
use crate::job::{
    JobError, TrainRequest, Trained, check_pictures, evaluate_package, open_for_evaluation, size_of, train_further,
};
use crate::memory::{Memory, hash_of};
use crate::progress::Progress;
use crate::trainer::{Again, TrainError};

/// An extended model.
#[derive(Debug)]
pub struct Extended {
    /// As a training gives it.
    pub trained: Trained,
    /// How scores moved.
    pub moved: Moved,
}

/// How scores moved from the model to the extended one. All scores are calibrated ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Moved {
    /// Normal pictures that the model had learnt from.
    pub old_pictures: usize,
    /// Normal pictures that were added.
    pub new_pictures: usize,
    /// Normal pictures of the new set that the model had learnt from already; they were left out.
    pub known_pictures: usize,
    /// The new pictures under the model as it was.
    pub new_before: Spread,
    /// The new pictures under the extended model, each held out.
    pub new_after: Spread,
    /// Some of the old pictures under the model as it was, each held out.
    pub old_before: Option<Spread>,
    /// The same pictures under the extended model, each held out.
    pub old_after: Option<Spread>,
    /// The raw distance that became 0.5, before.
    pub tau_before: f64,
    /// The raw distance that becomes 0.5 now.
    pub tau_after: f64,
    /// Both models on the test pictures, where there are some.
    pub test: Option<[OnTest; 2]>,
}

/// Scores of normal pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many pictures.
    pub pictures: usize,
    /// The middle one.
    pub median: f64,
    /// The worst one.
    pub highest: f64,
    /// Those that the model rejects.
    pub rejected: usize,
}

/// How well a model tells the test pictures apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OnTest {
    /// Absent where the pictures are all of one class.
    pub roc_auc: Option<f64>,
    /// At the model's threshold.
    pub f1: f64,
}

impl Spread {
    fn of(scores: &[f64], threshold: f64) -> Option<Self> {
        let mut sorted = scores.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            pictures: sorted.len(),
            median: percentile(&sorted, 50.0)?,
            highest: *sorted.last()?,
            rejected: sorted.iter().filter(|&&score| score >= threshold).count(),
        })
    }
}

/// Adds the request's normal pictures to a model that was trained from normal pictures alone. What the request says of how
/// pictures are cut does not count: they are cut as the model cuts them. Pictures that the model had learnt from leave the
/// request.
///
/// # Errors
/// When the model left nothing to begin with, has another backbone, or the pictures are of another size, unreadable, or all
/// known already.
pub fn extend(request: &mut TrainRequest, package: &Package, progress: &dyn Progress) -> Result<Extended, JobError> {
    let info = package.info();
    let memory = Memory::read(package.path(), info)?;
    let size = size_of(check_pictures(request, 1, progress)?);
    if size != info.image_size {
        let (new, old) = (size, info.image_size);
        return Err(JobError::Extend(format!(
            "it was trained on pictures of {}x{} pixels, those in `{}` are {}x{}",
            old.width_px, old.height_px, request.dataset.name, new.width_px, new.height_px
        )));
    }
    let backbone = Backbone::load(&request.backbone)?;
    if backbone.sha256() != info.backbone.sha256 {
        return Err(JobError::Extend(format!(
            "it looks with the backbone `{}`, not with `{}`: name the same one with `--backbone`",
            info.backbone.name,
            backbone.name()
        )));
    }
    // Checksums hold the patches, but not what is said of them.
    let channels = bank_weights(&backbone).len();
    if memory.channels != channels {
        return Err(JobError::Extend(format!(
            "its training data has patches of {} channels, the backbone gives {channels}; train again with all pictures",
            memory.channels
        )));
    }
    let Looked { scores, known } = look(request, package, &memory, progress)?;
    let Some(new_before) = Spread::of(&scores, info.threshold) else {
        return Err(JobError::Extend(format!(
            "it has learnt from each of the {} normal pictures in `{}` before",
            known.len(),
            request.dataset.name
        )));
    };
    for path in &known {
        progress.note(&format!("warning: `{}` was learnt from before and is left out", path.display()));
    }
    request.dataset.samples.retain(|sample| !known.contains(sample.path.as_path()));
    let trained = train_further(request, package, &memory, &backbone, progress)?;
    let threshold = trained.package.info().threshold;
    let measured = || trained.remembered_held_out.iter().filter(|again| again.is_measured);
    let curve = Curve::through(info.calibration.tau, info.calibration.median_ln);
    let before = |again: &Again| Some(curve.apply(memory.pictures[again.picture].held_out_raw?));
    let old_before: Vec<f64> = measured().filter_map(before).collect();
    let old_after: Vec<f64> = measured().map(|again| again.score).collect();
    let test = match &request.test {
        None => None,
        Some(test) => {
            let before = evaluate_package(package, test, false, progress)?.image;
            let after = &trained.evaluation.image;
            Some([(before.roc_auc, before.f1), (after.roc_auc, after.f1)].map(|(roc_auc, f1)| OnTest { roc_auc, f1 }))
        }
    };
    let moved = Moved {
        old_pictures: memory.pictures.len(),
        new_pictures: new_before.pictures,
        known_pictures: known.len(),
        new_before,
        new_after: Spread::of(&trained.held_out, threshold).unwrap_or(new_before),
        old_before: Spread::of(&old_before, info.threshold),
        old_after: Spread::of(&old_after, threshold),
        tau_before: info.calibration.tau,
        tau_after: trained.package.info().calibration.tau,
        test,
    };
    Ok(Extended { trained, moved })
}

/// The new pictures as the model sees them.
struct Looked {
    scores: Vec<f64>,
    /// Those that it had learnt from.
    known: HashSet<PathBuf>,
}

/// Every picture could be read a moment ago, when they were checked.
fn look(
    request: &TrainRequest,
    package: &Package,
    memory: &Memory,
    progress: &dyn Progress,
) -> Result<Looked, JobError> {
    let learnt: HashSet<&str> = memory.pictures.iter().map(|picture| picture.sha256.as_str()).collect();
    let normals: Vec<&Sample> =
        request.dataset.samples.iter().filter(|sample| sample.class == Some(Class::Normal)).collect();
    let mut detector = open_for_evaluation(package, false)?;
    let mut looked = Looked { scores: Vec::with_capacity(normals.len()), known: HashSet::new() };
    progress.stage("scoring the new pictures with the model as it is", normals.len());
    let mut own = HashSet::new();
    for sample in normals {
        let picture = Picture::read(&sample.path).map_err(|error| TrainError::Pictures(vec![error]))?;
        let hash = hash_of(&picture);
        if learnt.contains(hash.as_str()) || !own.insert(hash) {
            looked.known.insert(sample.path.clone());
        } else {
            looked.scores.push(detector.detect(&picture_view(&picture)?)?.result.anomaly_score);
        }
        progress.advance(1);
    }
    Ok(looked)
}
