//! Training from normal pictures, and from those that an earlier training remembers: features, held-out calibration, the
//! final bank.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use linewarden_model::package::Calibration;

use crate::backbone::Backbone;
use crate::bank::{BANK_SIZE, Bank, Nearest, Pool};
use crate::calibration::{Curve, calibrate};
use crate::dataset::{Picture, PictureError, Sample};
use crate::evaluation::percentile;
use crate::features::{FeatureError, FeatureExtractor, Features, bank_weights};
use crate::memory::{Memory, Remembered, WHOLE_PICTURES, hash_of};
use crate::parallel::{in_order, in_order_with};
use crate::progress::Progress;
use crate::scoring::{picture_score, smooth};
use crate::sizing::{self, BankSize, Pair, disturb, disturbances_of_each};
use crate::views::{Views, ViewsError};

/// Calibration folds. With half as many, banks of 30 pictures lack six of them, and scores that are held out too high put
/// the threshold above anomalies. (Cookies by 30 normals, 22 photographs: F1 1.00 instead of 0.93.)
const FOLDS: usize = 10;
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
    /// The sizes that the bank could have had, the smallest first.
    pub bank_sizes: Vec<BankSize>,
    /// The calibrated scores of the remembered pictures that were ever held out.
    pub remembered_held_out: Vec<Again>,
    /// What a later training needs of all these pictures. There is none of pictures that were cut into several views.
    pub memory: Option<Memory>,
}

/// A remembered picture under a new bank that it was held out from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Again {
    /// Its number among the remembered ones.
    pub picture: usize,
    /// Its score.
    pub score: f64,
    /// Whether it was scored. Otherwise it is what it was before, moved as far as those that were.
    pub is_measured: bool,
}

/// The pictures that are normal.
#[derive(Debug, Clone, Copy)]
pub struct Normals<'a> {
    /// What an earlier training remembers of its own.
    pub remembered: Option<&'a Memory>,
    /// Those to be read.
    pub samples: &'a [&'a Sample],
}

/// Fits a memory bank to normal pictures and calibrates it on held-out folds. The same samples and seed give the same
/// result, whatever the number of threads. Remembered pictures come first; the few of them that can be scored stand for
/// all of them.
///
/// # Errors
/// When pictures cannot be read (all of them are named) or features cannot be computed.
pub fn fit_memory_bank(
    normals: Normals<'_>,
    backbone: &Backbone,
    views: &Views,
    seed: u64,
    threads: NonZeroUsize,
    progress: &dyn Progress,
) -> Result<Fitted, TrainError> {
    let samples = normals.samples;
    let known = normals.remembered.map_or(0, |memory| memory.pictures.len());
    let total = known + samples.len();
    let calibrating = some_pictures(samples.len(), CALIBRATION_PICTURES, seed);
    let count = calibrating.iter().filter(|&&is_one| is_one).count();
    let remembers = count * views.count() <= REMEMBERED_VIEWS;
    let kept: Vec<bool> = calibrating.iter().map(|&is_one| is_one && remembers).collect();
    let extractors = extractors_of(threads.get().min(samples.len()), backbone, views)?;
    let before = remember(normals.remembered, Pool::new(bank_weights(backbone)), total, seed);
    let extracted = extract(samples, &kept, extractors, before, seed, progress)?;
    let folds = folds(total, seed);
    progress.stage("choosing the size of the memory bank", FOLDS);
    let banks = in_order(threads, folds.len(), |fold| {
        let rest: Vec<usize> = (0..total).filter(|index| !folds[fold].contains(index)).collect();
        let bank = Bank::fit(&extracted.pool, &rest, BANK_SIZE, seed);
        progress.advance(1);
        bank
    });
    let bank_sizes = bank_sizes(&extracted.pairs, &banks, &folds, threads)?;
    let size = bank_sizes.iter().find(|size| size.chosen).map_or(BANK_SIZE, |size| size.members);
    let easing = Easing::learn(&extracted, banks.iter().map(|bank| bank.first(size)).collect(), &folds, threads);
    let banks = easing.banks;
    progress.stage("calibrating on held-out pictures", FOLDS);
    let workers = threads.get().min(folds.len());
    let readers = if remembers {
        (0..workers).map(|_| None).collect()
    } else {
        extractors_of(workers, backbone, views)?.into_iter().map(Some).collect()
    };
    let scored = in_order_with(readers, folds.len(), |reader, fold| {
        let is_scored = |&picture: &usize| match picture.checked_sub(known) {
            Some(sample) => calibrating[sample],
            None => extracted.features[picture].is_some(),
        };
        let held_out: Vec<usize> = folds[fold].iter().copied().filter(is_scored).collect();
        let scored = score_fold(&held_out, &banks[fold], samples, &extracted, reader.as_mut());
        progress.advance(1);
        scored
    });
    let mut held_out: Vec<HeldOut> = sort_outcomes(scored)?.into_iter().flatten().collect();
    held_out.sort_unstable_by_key(|scored| scored.picture);
    let (remembered, read) = held_out.split_at(held_out.partition_point(|scored| scored.picture < known));
    let again = scored_again(normals.remembered, remembered);
    let calibration = calibrated(&again, remembered, known, read);
    let curve = Curve::through(calibration.tau, calibration.median_ln);
    let remembered_held_out = again.iter().map(|again| Again { score: curve.apply(again.score), ..*again }).collect();
    let held_out = read.iter().map(|scored| (scored.picture - known, curve.apply(scored.score))).collect();
    let of_read = read.iter().map(|scored| (scored.picture, scored.score));
    let raw: HashMap<usize, f64> = again.iter().map(|again| (again.picture, again.score)).chain(of_read).collect();

    progress.stage("picking the memory bank", 1);
    let everything: Vec<usize> = (0..total).collect();
    let bank = Bank::fit(&extracted.pool, &everything, size, seed);
    let bank = match &easing.held_out {
        Some(held_out) => bank.eased(&extracted.pool, held_out, &everything),
        None => bank,
    };
    progress.advance(1);
    let memory = (views.count() == 1).then(|| memory(normals.remembered, extracted, &raw, seed));
    Ok(Fitted { bank, calibration, held_out, bank_sizes, remembered_held_out, memory })
}

/// The scores of remembered pictures under the new bank. Those of which too little is kept to score them have moved as much
/// as the middle one of the others.
fn scored_again(memory: Option<&Memory>, measured: &[HeldOut]) -> Vec<Again> {
    let Some(memory) = memory else { return Vec::new() };
    let before = |picture: usize| memory.pictures[picture].held_out_raw;
    let moved = |scored: &HeldOut| Some(scored.score / before(scored.picture).filter(|&raw| raw > 0.0)?);
    let ratio = percentile(&measured.iter().filter_map(moved).collect::<Vec<_>>(), 50.0).unwrap_or(1.0);
    let is_measured = |picture: &usize| measured.iter().any(|scored| scored.picture == *picture);
    let others = (0..memory.pictures.len()).filter(|picture| !is_measured(picture));
    let carried =
        others.filter_map(|picture| Some(Again { picture, score: before(picture)? * ratio, is_measured: false }));
    let measured =
        measured.iter().map(|scored| Again { picture: scored.picture, score: scored.score, is_measured: true });
    measured.chain(carried).collect()
}

/// Calibrates from the pictures that were read and from `known` remembered ones, for which those of them that have a score,
/// or a map, stand in turn.
fn calibrated(again: &[Again], measured: &[HeldOut], known: usize, read: &[HeldOut]) -> Calibration {
    let scores = again.iter().map(|again| again.score).cycle().take(if again.is_empty() { 0 } else { known });
    let scores: Vec<f64> = scores.chain(read.iter().map(|scored| scored.score)).collect();
    let maps = measured.iter().cycle().take(if measured.is_empty() { 0 } else { known }).chain(read);
    let calibration = calibrate(&scores, maps.map(|scored| scored.map.as_slice()));
    Calibration { held_out: again.len() + read.len(), ..calibration }
}

/// What an earlier training remembers, as if its pictures had just been read.
fn remember(memory: Option<&Memory>, mut pool: Pool, total: usize, seed: u64) -> Extracted {
    let count = Pool::patches_per_picture(total);
    let (mut features, mut hashes) = (Vec::with_capacity(total), Vec::with_capacity(total));
    if let Some(memory) = memory {
        for (picture, seed) in memory.pictures.iter().zip(seed..) {
            pool.push(picture.drawn(memory.channels, count, seed));
            features.push(picture.features(memory.channels).map(|features| vec![features]));
            hashes.push(picture.sha256.clone());
        }
    }
    Extracted { pool, features, hashes, pairs: Vec::new() }
}

/// What a later training needs of these pictures, which were cut into one view each.
fn memory(before: Option<&Memory>, extracted: Extracted, raw: &HashMap<usize, f64>, seed: u64) -> Memory {
    let Extracted { pool, features, hashes, .. } = extracted;
    let known = before.map_or(0, |memory| memory.pictures.len());
    let is_whole = whole_pictures(&features, known, seed);
    let remembered = |((picture, features), sha256): ((usize, Option<Vec<Features>>), String)| {
        let held_out_raw = raw.get(&picture).copied();
        match features.as_deref() {
            Some([features]) if is_whole[picture] => Remembered::whole(sha256, features, held_out_raw),
            _ => Remembered::thinned(sha256, pool.of_picture(picture), held_out_raw),
        }
    };
    let pictures = features.into_iter().enumerate().zip(hashes).map(remembered).collect();
    Memory { channels: pool.channels(), pictures }
}

/// Which pictures are kept whole: some of the remembered ones and some of the others, as many as they are among all.
fn whole_pictures(features: &[Option<Vec<Features>>], known: usize, seed: u64) -> Vec<bool> {
    let mut available: Vec<usize> = (0..features.len()).filter(|&picture| features[picture].is_some()).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_3e3e).shuffle(&mut available);
    let (remembered, read): (Vec<usize>, Vec<usize>) = available.into_iter().partition(|&picture| picture < known);
    let share = (WHOLE_PICTURES * known).div_ceil(features.len().max(1));
    let of_remembered = share.max(WHOLE_PICTURES.saturating_sub(read.len())).min(remembered.len());
    let chosen = remembered.into_iter().take(of_remembered).chain(read).take(WHOLE_PICTURES);
    let mut is_whole = vec![false; features.len()];
    chosen.for_each(|picture| is_whole[picture] = true);
    is_whole
}

/// What is kept of the training pictures.
struct Extracted {
    pool: Pool,
    /// Whole features of each view, of the calibration pictures only, and only while they are few.
    features: Vec<Option<Vec<Features>>>,
    /// By which each picture is known again.
    hashes: Vec<String>,
    /// Of some pictures that were read, by their number: a view with its disturbed twins.
    pairs: Vec<(usize, Pair)>,
}

/// Whether members of the bank allow for how far held-out patches lie from them.
struct Easing {
    /// The folds' banks, eased or not.
    banks: Vec<Bank>,
    /// The drawn patches of every picture, compared with the bank that never saw it; where easing serves.
    held_out: Option<Vec<Vec<Nearest>>>,
}

impl Easing {
    /// Eases the folds' banks if disturbed pictures are then told from normal ones beyond doubt better. Each fold's bank
    /// is eased by what the other folds say.
    fn learn(extracted: &Extracted, banks: Vec<Bank>, folds: &[Vec<usize>], threads: NonZeroUsize) -> Self {
        let Extracted { pool, pairs, .. } = extracted;
        let bank_of = fold_of(folds);
        let held_out =
            in_order(threads, bank_of.len(), |picture| banks[bank_of[picture]].nearest(pool.of_picture(picture)));
        let eased = in_order(threads, banks.len(), |fold| {
            let rest: Vec<usize> = (0..bank_of.len()).filter(|&picture| bank_of[picture] != fold).collect();
            banks[fold].eased(pool, &held_out, &rest)
        });
        if sizing::is_better(pairs, &banks, &eased, &bank_of, threads) {
            Self { banks: eased, held_out: Some(held_out) }
        } else {
            Self { banks, held_out: None }
        }
    }
}

/// A picture scored by a bank that never saw it.
struct HeldOut {
    /// Its number among all, remembered ones first.
    picture: usize,
    score: f64,
    /// The cells of all its views.
    map: Vec<f32>,
}

/// All pictures, or a random sample of many, which is part of every larger one.
fn some_pictures(count: usize, most: usize, seed: u64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..count).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_ca11).shuffle(&mut order);
    let mut kept = vec![false; count];
    for index in order.into_iter().take(most) {
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

/// The fold of each picture.
fn fold_of(folds: &[Vec<usize>]) -> Vec<usize> {
    let mut fold_of = vec![0; folds.iter().map(Vec::len).sum()];
    for (number, fold) in folds.iter().enumerate() {
        fold.iter().for_each(|&picture| fold_of[picture] = number);
    }
    fold_of
}

/// What each size of the bank is worth, by pictures that none of these banks saw.
fn bank_sizes(
    pairs: &[(usize, Pair)],
    banks: &[Bank],
    folds: &[Vec<usize>],
    threads: NonZeroUsize,
) -> Result<Vec<BankSize>, TrainError> {
    let mut sizes = sizing::measure(pairs, banks, &fold_of(folds), threads);
    if let Some(bank) = banks.first() {
        sizing::time(&mut sizes, bank).map_err(FeatureError::from)?;
    }
    Ok(sizes)
}

/// Scores pictures by a bank that never saw them. A picture's score is that of its highest view.
fn score_fold(
    held_out: &[usize],
    bank: &Bank,
    samples: &[&Sample],
    extracted: &Extracted,
    mut reader: Option<&mut FeatureExtractor>,
) -> Result<Vec<HeldOut>, OneError> {
    let total = extracted.features.len();
    let mut scored = Vec::with_capacity(held_out.len());
    for &picture in held_out {
        let read_again;
        let sample = (picture + samples.len()).checked_sub(total).map(|sample| samples[sample]);
        let views = match (&extracted.features[picture], reader.as_deref_mut().zip(sample)) {
            (Some(views), _) => views,
            (None, Some((reader, sample))) => {
                read_again = one_picture(sample, reader)?;
                &read_again
            }
            (None, None) => continue,
        };
        let mut held_out = HeldOut { picture, score: f64::NEG_INFINITY, map: Vec::new() };
        for features in views {
            let map = smooth(&bank.distances(features));
            held_out.score = held_out.score.max(f64::from(picture_score(&map)));
            held_out.map.extend(map);
        }
        scored.push(held_out);
    }
    Ok(scored)
}

fn extractors_of(count: usize, backbone: &Backbone, views: &Views) -> Result<Vec<FeatureExtractor>, TrainError> {
    let extractor = |_| Ok(FeatureExtractor::new(backbone)?.framed(views.framer()?));
    (0..count).map(extractor).collect()
}

/// Patches of all of a picture's views, as many of each, in random order.
pub(crate) fn drawn_patches(views: &[Features], count: usize, seed: u64) -> Vec<f32> {
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
    before: Extracted,
    seed: u64,
    progress: &dyn Progress,
) -> Result<Extracted, TrainError> {
    progress.stage("computing features", samples.len());
    let mut extracted = before;
    let known = extracted.features.len();
    let drawn = Pool::patches_per_picture(known + samples.len());
    let disturbed = some_pictures(samples.len(), sizing::PICTURES, seed);
    let changes = disturbances_of_each(samples.len());
    let outcomes = in_order_with(extractors, samples.len(), |extractor, index| {
        let own_seed = seed.wrapping_add((known + index) as u64);
        let mut look = || -> Result<_, OneError> {
            let picture = Picture::read(&samples[index].path).map_err(OneError::Picture)?;
            let views = extractor.run_views(&picture).map_err(OneError::Features)?;
            let pair = match disturbed[index] {
                true => pair_of(&picture, &views, extractor, changes, own_seed).map_err(OneError::Features)?,
                false => None,
            };
            Ok((drawn_patches(&views, drawn, own_seed), pair, kept[index].then_some(views), hash_of(&picture)))
        };
        let outcome = look();
        progress.advance(1);
        outcome
    });
    for (number, (patches, pair, features, hash)) in (known..).zip(sort_outcomes(outcomes)?) {
        extracted.pool.push(patches);
        extracted.pairs.extend(pair.map(|pair| (number, pair)));
        extracted.features.push(features);
        extracted.hashes.push(hash);
    }
    Ok(extracted)
}

/// One of a picture's views, which are all known, and what became of it.
fn pair_of(
    picture: &Picture,
    views: &[Features],
    extractor: &mut FeatureExtractor,
    changes: usize,
    seed: u64,
) -> Result<Option<Pair>, FeatureError> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed_d157);
    if views.is_empty() {
        return Ok(None);
    }
    let place = random.usize(..views.len());
    let disturbed = extractor.run_changed(picture, place, changes, |rgb| disturb(rgb, &mut random))?;
    Ok(Some(Pair { normal: views[place].clone(), disturbed }))
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
