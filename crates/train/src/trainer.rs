//! Training from normal pictures: features, held-out calibration, the final bank, the exported graph.

use std::num::NonZeroUsize;

use linewarden_model::package::Calibration;

use crate::backbone::Backbone;
use crate::bank::{BANK_SIZE, Bank, Pool};
use crate::calibration::{Curve, calibrate};
use crate::dataset::{Picture, PictureError, Sample};
use crate::features::{FeatureError, FeatureExtractor, Features, bank_weights};
use crate::parallel::in_order_with;
use crate::progress::Progress;
use crate::scoring::{picture_score, smooth};
use crate::views::{Views, ViewsError};

/// Calibration folds.
const FOLDS: usize = 5;
/// Pictures that are scored for calibration, at most.
const CALIBRATION_PICTURES: usize = 400;
/// Views whose features stay in memory until they are scored, 0.7 MB each. Pictures with more views in all are read
/// again when it comes to that.
const REMEMBERED_VIEWS: usize = 400;

/// Why training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A picture cannot be read.
    #[error("{}", list(.0))]
    Pictures(Vec<PictureError>),
    /// Features cannot be computed.
    #[error(transparent)]
    Features(#[from] FeatureError),
    /// The pictures cannot be cut as asked.
    #[error(transparent)]
    Views(#[from] ViewsError),
}

/// A fitted detector, not yet exported.
#[derive(Debug)]
pub struct Fitted {
    /// What is normal.
    pub bank: Bank,
    /// What scores mean.
    pub calibration: Calibration,
    /// For each picture that was held out: its index among the samples and its calibrated score.
    pub held_out: Vec<(usize, f64)>,
}

/// Fits a memory bank to normal pictures and calibrates it on held-out folds. The same samples and seed give the same
/// result, whatever the number of threads.
///
/// # Errors
/// When pictures cannot be read (all of them are named) or features cannot be computed.
pub fn fit_memory_bank(
    samples: &[&Sample],
    backbone: &Backbone,
    views: &Views,
    seed: u64,
    threads: NonZeroUsize,
    progress: &dyn Progress,
) -> Result<Fitted, TrainError> {
    let calibrating = calibration_pictures(samples.len(), seed);
    let count = calibrating.iter().filter(|&&is_one| is_one).count();
    let remembers = count * views.count() <= REMEMBERED_VIEWS;
    let kept: Vec<bool> = calibrating.iter().map(|&is_one| is_one && remembers).collect();
    let extractors = extractors_of(threads.get().min(samples.len()), backbone, views)?;
    let pool = Pool::new(bank_weights(backbone));
    let extracted = extract(samples, &kept, extractors, pool, seed, progress)?;
    progress.stage("calibrating on held-out pictures", FOLDS);
    let folds = folds(samples.len(), seed);
    let workers = threads.get().min(folds.len());
    let readers = if remembers {
        (0..workers).map(|_| None).collect()
    } else {
        extractors_of(workers, backbone, views)?.into_iter().map(Some).collect()
    };
    let scored = in_order_with(readers, folds.len(), |reader, fold| {
        let held_out: Vec<usize> = folds[fold].iter().copied().filter(|&sample| calibrating[sample]).collect();
        let scored = score_fold(&held_out, &folds[fold], samples, &extracted, reader.as_mut(), seed);
        progress.advance(1);
        scored
    });
    let mut held_out: Vec<HeldOut> = sort_outcomes(scored)?.into_iter().flatten().collect();
    held_out.sort_unstable_by_key(|scored| scored.sample);
    let scores: Vec<f64> = held_out.iter().map(|scored| scored.score).collect();
    let calibration = calibrate(&scores, held_out.iter().map(|scored| scored.map.as_slice()));
    let curve = Curve::through(calibration.tau, calibration.median_ln);
    let held_out = held_out.iter().map(|scored| (scored.sample, curve.apply(scored.score))).collect();

    progress.stage("picking the memory bank", 1);
    let everything: Vec<usize> = (0..samples.len()).collect();
    let bank = Bank::fit(&extracted.pool, &everything, BANK_SIZE, seed);
    progress.advance(1);
    Ok(Fitted { bank, calibration, held_out })
}

/// What is kept of the training pictures.
struct Extracted {
    pool: Pool,
    /// Whole features of each view, of the calibration pictures only, and only while they are few.
    features: Vec<Option<Vec<Features>>>,
}

/// A picture scored by a bank that never saw it.
struct HeldOut {
    sample: usize,
    score: f64,
    /// The cells of all its views.
    map: Vec<f32>,
}

/// Which pictures are scored for calibration: all, or a random sample of many.
fn calibration_pictures(count: usize, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_ca11).shuffle(&mut order);
    let mut kept = vec![false; count];
    for index in order.into_iter().take(CALIBRATION_PICTURES) {
        kept[index] = true;
    }
    kept
}

/// Shuffled folds whose sizes differ by one at most.
fn folds(count: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_f01d).shuffle(&mut order);
    (0..FOLDS).map(|fold| order.iter().copied().skip(fold).step_by(FOLDS).collect()).collect()
}

/// Scores pictures that were held out by a bank fitted to all others. A picture's score is that of its highest view.
fn score_fold(
    held_out: &[usize],
    fold: &[usize],
    samples: &[&Sample],
    extracted: &Extracted,
    mut reader: Option<&mut FeatureExtractor>,
    seed: u64,
) -> Result<Vec<HeldOut>, OneError> {
    let rest: Vec<usize> = (0..samples.len()).filter(|index| !fold.contains(index)).collect();
    let bank = Bank::fit(&extracted.pool, &rest, BANK_SIZE, seed);
    let mut scored = Vec::with_capacity(held_out.len());
    for &sample in held_out {
        let read_again;
        let views = match (&extracted.features[sample], reader.as_deref_mut()) {
            (Some(views), _) => views,
            (None, Some(reader)) => {
                read_again = one_picture(samples[sample], reader)?;
                &read_again
            }
            (None, None) => continue,
        };
        let mut picture = HeldOut { sample, score: f64::NEG_INFINITY, map: Vec::new() };
        for features in views {
            let map = smooth(&bank.distances(features));
            picture.score = picture.score.max(f64::from(picture_score(&map)));
            picture.map.extend(map);
        }
        scored.push(picture);
    }
    Ok(scored)
}

fn extractors_of(count: usize, backbone: &Backbone, views: &Views) -> Result<Vec<FeatureExtractor>, TrainError> {
    let extractor = |_| Ok(FeatureExtractor::new(backbone)?.framed(views.framer()?));
    (0..count).map(extractor).collect()
}

/// Patches of all of a picture's views, as many of each, in random order.
fn drawn_patches(views: &[Features], count: usize, seed: u64) -> Vec<f32> {
    if let [only] = views {
        return Pool::draw(only, count, seed);
    }
    let channels = views.first().map_or(1, |features| features.channels);
    let of_each = count.div_ceil(views.len().max(1));
    let drawn = views.iter().zip(seed..).map(|(features, seed)| Pool::draw(features, of_each, seed));
    let drawn: Vec<f32> = drawn.flatten().collect();
    let mut patches: Vec<&[f32]> = drawn.chunks_exact(channels).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut patches);
    patches.into_iter().take(count).flatten().copied().collect()
}

/// Reads every picture and runs the backbone on it, on several threads, in the samples' order.
fn extract(
    samples: &[&Sample],
    kept: &[bool],
    extractors: Vec<FeatureExtractor>,
    pool: Pool,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Extracted, TrainError> {
    progress.stage("computing features", samples.len());
    let drawn = Pool::patches_per_picture(samples.len());
    let outcomes = in_order_with(extractors, samples.len(), |extractor, index| {
        let outcome = one_picture(samples[index], extractor).map(|views| {
            let patches = drawn_patches(&views, drawn, seed.wrapping_add(index as u64));
            (patches, kept[index].then_some(views))
        });
        progress.advance(1);
        outcome
    });
    let mut extracted = Extracted { pool, features: Vec::with_capacity(samples.len()) };
    for (patches, features) in sort_outcomes(outcomes)? {
        extracted.pool.push(patches);
        extracted.features.push(features);
    }
    Ok(extracted)
}

/// Why one picture gave nothing.
pub(crate) enum OneError {
    Picture(PictureError),
    Features(FeatureError),
}

fn one_picture(sample: &Sample, extractor: &mut FeatureExtractor) -> Result<Vec<Features>, OneError> {
    let picture = Picture::read(&sample.path).map_err(OneError::Picture)?;
    extractor.run_views(&picture).map_err(OneError::Features)
}

/// What every picture gave; every unreadable one is named at once.
pub(crate) fn sort_outcomes<T>(outcomes: Vec<Result<T, OneError>>) -> Result<Vec<T>, TrainError> {
    let (mut sorted, mut unreadable) = (Vec::with_capacity(outcomes.len()), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(one) => sorted.push(one),
            Err(OneError::Picture(error)) => unreadable.push(error),
            Err(OneError::Features(error)) => return Err(error.into()),
        }
    }
    if unreadable.is_empty() { Ok(sorted) } else { Err(TrainError::Pictures(unreadable)) }
}

fn list(errors: &[PictureError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    format!("{} pictures cannot be read:\n{}", errors.len(), lines.join("\n"))
}
