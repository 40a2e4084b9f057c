//! Training from normal pictures: features, held-out calibration, the final bank, the exported graph.

use std::num::NonZeroUsize;

use linewarden_model::package::Calibration;

use crate::backbone::Backbone;
use crate::bank::{BANK_SIZE, Bank, Pool};
use crate::calibration::{Curve, calibrate};
use crate::dataset::{Picture, PictureError, Sample};
use crate::features::{FeatureError, FeatureExtractor, Features, bank_weights};
use crate::parallel::{in_order, in_order_with};
use crate::progress::Progress;
use crate::scoring::{picture_score, smooth};

/// Calibration folds.
const FOLDS: usize = 5;
/// Pictures that are scored for calibration, at most; their features stay in memory, 0.7 MB each.
const CALIBRATION_PICTURES: usize = 400;

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
    seed: u64,
    threads: NonZeroUsize,
    progress: &dyn Progress,
) -> Result<Fitted, TrainError> {
    let kept = calibration_pictures(samples.len(), seed);
    let extracted = extract(samples, &kept, backbone, seed, threads, progress)?;
    progress.stage("calibrating on held-out pictures", FOLDS);
    let folds = folds(samples.len(), seed);
    let scored = in_order(threads, folds.len(), |fold| {
        let scored = score_fold(&folds[fold], samples.len(), &extracted, seed);
        progress.advance(1);
        scored
    });
    let mut held_out: Vec<HeldOut> = scored.into_iter().flatten().collect();
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
    /// Whole features, of the calibration pictures only.
    features: Vec<Option<Features>>,
}

/// A picture scored by a bank that never saw it.
struct HeldOut {
    sample: usize,
    score: f64,
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

fn score_fold(fold: &[usize], count: usize, extracted: &Extracted, seed: u64) -> Vec<HeldOut> {
    let rest: Vec<usize> = (0..count).filter(|index| !fold.contains(index)).collect();
    let bank = Bank::fit(&extracted.pool, &rest, BANK_SIZE, seed);
    let scored = fold.iter().filter_map(|&sample| {
        let features = extracted.features[sample].as_ref()?;
        let map = smooth(&bank.distances(features));
        Some(HeldOut { sample, score: f64::from(picture_score(&map)), map })
    });
    scored.collect()
}

/// Reads every picture and runs the backbone on it, on several threads, in the samples' order.
fn extract(
    samples: &[&Sample],
    kept: &[bool],
    backbone: &Backbone,
    seed: u64,
    threads: NonZeroUsize,
    progress: &dyn Progress,
) -> Result<Extracted, TrainError> {
    progress.stage("computing features", samples.len());
    let extractors: Vec<FeatureExtractor> =
        (0..threads.get().min(samples.len())).map(|_| FeatureExtractor::new(backbone)).collect::<Result<_, _>>()?;
    let drawn = Pool::patches_per_picture(samples.len());
    let outcomes = in_order_with(extractors, samples.len(), |extractor, index| {
        let outcome = one_picture(samples[index], extractor).map(|features| {
            let patches = Pool::draw(&features, drawn, seed.wrapping_add(index as u64));
            (patches, kept[index].then_some(features))
        });
        progress.advance(1);
        outcome
    });
    let mut extracted = Extracted { pool: Pool::new(bank_weights(backbone)), features: Vec::with_capacity(samples.len()) };
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

fn one_picture(sample: &Sample, extractor: &mut FeatureExtractor) -> Result<Features, OneError> {
    let picture = Picture::read(&sample.path).map_err(OneError::Picture)?;
    extractor.run(&picture).map_err(OneError::Features)
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
