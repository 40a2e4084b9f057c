//! How large a memory bank needs to be: the smallest that beyond doubt tells disturbed pictures from normal ones as well as
//! the largest that can be afforded.
//!
//! From normal pictures alone nobody can say how well real anomalies will be found. But a normal picture with a scar, a
//! spot or a piece of itself in the wrong place, barely stronger than its own texture, is an anomaly too, and how far such
//! pictures are from undisturbed ones moves with the size of the bank as real accuracy does. (Magnetic tiles, separation
//! and the test pictures' ROC AUC with 160, 320, 480, 640 members: by 30 normals 0.86 0.88 0.88 0.91 and 0.715 0.757 0.771
//! 0.773; by 200 normals 0.88 1.18 1.19 1.15 and 0.832 0.881 0.844 0.857. Cookies: 0.99 1.12 1.15 1.12, and 0.995 or more
//! with all of them.) It wavers by some 5 %, though, which is why doubt speaks for the largest.
//!
//! Greedy picks are nested, the first members of a large bank are the small one, so that all sizes are measured in one go.
//! What a size costs is counted, not timed: the same pictures give the same model.

use std::num::NonZeroUsize;
use std::time::Instant;

use linewarden_model::ModelError;
use linewarden_model::runtime;
use ort::value::TensorRef;
use serde::Serialize;

use crate::bank::{BANK_SIZE, Bank};
use crate::evaluation::roc_auc;
use crate::export::{FEATURES_INPUT, distances_model};
use crate::features::{Features, INPUT_SIZE_PX, PATCHES};
use crate::parallel::in_order;
use crate::scoring::{picture_score, smooth};

/// What is chosen from. More than the last would cost over 1.35 times what the bare feature network costs.
pub const SIZES: [usize; 4] = [160, 320, 480, BANK_SIZE];
/// How sure it must be that a smaller bank separates as well as the largest.
const CONFIDENCE: f64 = 0.95;
/// How often the pictures are drawn anew to say how sure that is.
const RESAMPLES: usize = 200;
/// Fewer pictures than this cannot take doubt away.
const FEWEST: usize = 10;
/// Pictures that are disturbed, at most.
pub(crate) const PICTURES: usize = 60;
/// Disturbed views that are wanted in all; few pictures give several each.
const WANTED: usize = 60;
const MOST_OF_EACH: usize = 3;
const TIMED_RUNS: usize = 9;
/// Of the separation; less gain than this is chance.
const LEAST_GAIN: f64 = 0.02;

/// A size of the bank, what it is good for and what it costs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BankSize {
    /// Patches.
    pub members: usize,
    /// Distance of disturbed from undisturbed held-out pictures, in deviations of the logarithm of their scores.
    pub separation: f64,
    /// ROC AUC between the two.
    pub roc_auc: f64,
    /// The share of the largest size's separation that this one reaches with a confidence of 95 %.
    pub at_least: f64,
    /// Multiplications for comparing one picture with the bank, in millions.
    pub million_products: f64,
    /// Whether the model has this size.
    pub chosen: bool,
    /// How long that takes on this machine, in milliseconds. For people: nothing is decided by it, and no model says it.
    #[serde(skip)]
    pub time_ms: f64,
}

/// A view as it is, and disturbed in several ways.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) normal: Features,
    pub(crate) disturbed: Vec<Features>,
}

/// How many disturbed views each of so many pictures gives.
pub(crate) fn disturbances_of_each(pictures: usize) -> usize {
    WANTED.div_ceil(pictures.max(1)).min(MOST_OF_EACH)
}

/// Puts something that does not belong there into the network's pixels: a scar, a spot, or a piece of the picture itself.
pub(crate) fn disturb(rgb: &mut [u8], random: &mut fastrand::Rng) {
    let contrast = deviation(rgb);
    let sign = if random.bool() { 1.0 } else { -1.0 };
    let side = INPUT_SIZE_PX as usize;
    match random.u8(..3) {
        0 => scar(rgb, side, sign * contrast * between(random, 1.0, 2.2), random),
        1 => spot(rgb, side, sign * contrast * between(random, 1.2, 2.5), random),
        _ => misplaced(rgb, side, sign * contrast * 0.6, random),
    }
}

fn between(random: &mut fastrand::Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * random.f32()
}

/// Of all pixels and channels.
fn deviation(rgb: &[u8]) -> f32 {
    let count = rgb.len().max(1) as f64;
    let mean = rgb.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let squares = rgb.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>();
    // A uniform picture is disturbed by something that can be seen, too.
    ((squares / count).sqrt() as f32).max(4.0)
}

fn add(rgb: &mut [u8], pixel: usize, change: f32) {
    for value in &mut rgb[pixel * 3..][..3] {
        *value = (f32::from(*value) + change).round().clamp(0.0, 255.0) as u8;
    }
}

/// A straight line, two pixels wide. Its direction is drawn as a point, so that no function is needed that machines round
/// differently.
fn scar(rgb: &mut [u8], side: usize, change: f32, random: &mut fastrand::Rng) {
    let length = between(random, 20.0, 60.0);
    let (mut across, mut down) = (between(random, -1.0, 1.0), between(random, -1.0, 1.0));
    let norm = (across * across + down * down).sqrt().max(1e-3);
    (across, down) = (across / norm, down / norm);
    let (x, y) = (between(random, 0.1, 0.9) * side as f32, between(random, 0.1, 0.9) * side as f32);
    let mut marked = Vec::new();
    for step in 0..length as usize {
        let along = step as f32 - length / 2.0;
        let (left, top) = (x + along * across, y + along * down);
        for (dx, dy) in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)] {
            let (column, row) = (left + dx, top + dy);
            if column >= 0.0 && row >= 0.0 && (column as usize) < side && (row as usize) < side {
                marked.push(row as usize * side + column as usize);
            }
        }
    }
    marked.sort_unstable();
    marked.dedup();
    marked.into_iter().for_each(|pixel| add(rgb, pixel, change));
}

/// A round spot, strongest in its middle.
fn spot(rgb: &mut [u8], side: usize, change: f32, random: &mut fastrand::Rng) {
    let radius = between(random, 6.0, 14.0);
    let (x, y) = (between(random, 0.1, 0.9) * side as f32, between(random, 0.1, 0.9) * side as f32);
    for pixel in 0..side * side {
        let (dx, dy) = ((pixel % side) as f32 - x, (pixel / side) as f32 - y);
        let strength = 1.0 - (dx * dx + dy * dy) / (radius * radius);
        if strength > 0.0 {
            add(rgb, pixel, change * strength * strength);
        }
    }
}

/// A piece of the picture, turned round, half seen through, lighter or darker.
fn misplaced(rgb: &mut [u8], side: usize, change: f32, random: &mut fastrand::Rng) {
    let (width, height) = (random.usize(10..28), random.usize(10..28));
    let mut corner = || (random.usize(..side - width), random.usize(..side - height));
    let ((from_x, from_y), (to_x, to_y)) = (corner(), corner());
    let before = rgb.to_vec();
    for row in 0..height {
        for column in 0..width {
            let from = ((from_y + height - 1 - row) * side + from_x + width - 1 - column) * 3;
            let to = (to_y + row) * side + to_x + column;
            for channel in 0..3 {
                rgb[to * 3 + channel] = before[from + channel].midpoint(before[to * 3 + channel]);
            }
            add(rgb, to, change);
        }
    }
}

/// What each size is worth. `bank_of` says which bank has never seen the picture that a pair is from.
pub(crate) fn measure(
    pairs: &[(usize, Pair)],
    banks: &[Bank],
    bank_of: &[usize],
    threads: NonZeroUsize,
) -> Vec<BankSize> {
    let scores = in_order(threads, pairs.len(), |index| {
        let (sample, pair) = &pairs[index];
        let bank = &banks[bank_of[*sample]];
        let of_view = |features: &Features| -> Vec<f64> {
            let distances = bank.distances_by_size(features, &SIZES);
            distances.iter().map(|distances| f64::from(picture_score(&smooth(distances))).max(1e-6).ln()).collect()
        };
        (of_view(&pair.normal), pair.disturbed.iter().map(of_view).collect::<Vec<_>>())
    });
    let everything: Vec<usize> = (0..scores.len()).collect();
    let of_pictures = |place: usize, pictures: &[usize]| -> (Vec<f64>, Vec<f64>) {
        let normal = pictures.iter().map(|&picture| scores[picture].0[place]).collect();
        let disturbed = pictures.iter().flat_map(|&picture| scores[picture].1.iter().map(|one| one[place])).collect();
        (normal, disturbed)
    };
    let mut random = fastrand::Rng::with_seed(0x5eed_b007);
    let drawn: Vec<Vec<usize>> =
        (0..RESAMPLES).map(|_| everything.iter().map(|_| random.usize(..everything.len().max(1))).collect()).collect();
    let separations = |place: usize| -> Vec<f64> {
        drawn.iter().map(|pictures| of_pictures(place, pictures)).map(|(a, b)| separation(&a, &b)).collect()
    };
    let largest = separations(SIZES.len() - 1);
    let (channels, dimensions) = banks.first().map_or((0, 0), |bank| (bank.channels, bank.dimensions));
    let of_size = |(place, &members): (usize, &usize)| {
        let (normal, disturbed) = of_pictures(place, &everything);
        let both: Vec<f64> = normal.iter().chain(&disturbed).copied().collect();
        let truth: Vec<bool> = (0..both.len()).map(|at| at >= normal.len()).collect();
        let mut shares: Vec<f64> =
            separations(place).iter().zip(&largest).map(|(own, most)| share(*own, *most)).collect();
        shares.sort_unstable_by(f64::total_cmp);
        BankSize {
            members,
            separation: separation(&normal, &disturbed),
            roc_auc: roc_auc(&both, &truth).unwrap_or(0.5),
            at_least: shares[((1.0 - CONFIDENCE) * RESAMPLES as f64) as usize],
            million_products: (PATCHES * dimensions * (channels + members)) as f64 / 1e6,
            chosen: false,
            time_ms: 0.0,
        }
    };
    let mut sizes: Vec<BankSize> = SIZES.iter().enumerate().map(of_size).collect();
    let chosen = if scores.len() < FEWEST { sizes.len() - 1 } else { choose(&sizes) };
    sizes[chosen].chosen = true;
    sizes
}

/// Whether other banks tell disturbed pictures from normal ones better than these, beyond chance.
///
/// For easing, in ten folds, seeds 1 to 3: separation by cookies' normals 0.84 1.06 1.01 without and 0.88 1.13 1.05 with it,
/// and mean ROC AUC of the 22 photographs 0.988 and 1.00; by 30 tiles 0.59 0.89 0.99 and 0.57 0.88 0.99, ROC AUC 0.773 and
/// 0.763; by 200 tiles 0.71 and 0.74, ROC AUC 0.849 and 0.858.
pub(crate) fn is_better(
    pairs: &[(usize, Pair)],
    banks: &[Bank],
    others: &[Bank],
    bank_of: &[usize],
    threads: NonZeroUsize,
) -> bool {
    let log_score = |bank: &Bank, features: &Features| -> f64 {
        f64::from(picture_score(&smooth(&bank.distances(features)))).max(1e-6).ln()
    };
    let separation_by = |banks: &[Bank]| -> f64 {
        let scores = in_order(threads, pairs.len(), |index| {
            let (sample, pair) = &pairs[index];
            let bank = &banks[bank_of[*sample]];
            let disturbed: Vec<f64> = pair.disturbed.iter().map(|view| log_score(bank, view)).collect();
            (log_score(bank, &pair.normal), disturbed)
        });
        let (normal, disturbed): (Vec<f64>, Vec<Vec<f64>>) = scores.into_iter().unzip();
        separation(&normal, &disturbed.concat())
    };
    pairs.len() >= FEWEST && separation_by(others) > (1.0 + LEAST_GAIN) * separation_by(banks).max(0.0)
}

/// How much of one separation another is; nothing where disturbed pictures are not found at all.
fn share(own: f64, most: f64) -> f64 {
    if most > 0.0 { own / most } else { 0.0 }
}

/// The place of the smallest size that is as good as the largest beyond doubt, with every size between the two.
///
/// In doubt the largest is taken: what a small bank gains by chance it loses with the next pictures, and the fewer members
/// there are, the more the formats of one picture differ. (Cookies with 320 members instead of 640: 0.023 instead of 0.019.)
fn choose(sizes: &[BankSize]) -> usize {
    let last = sizes.len() - 1;
    sizes[..last].iter().rposition(|size| size.at_least < 1.0).map_or(0, |poor| poor + 1)
}

fn separation(normal: &[f64], disturbed: &[f64]) -> f64 {
    let moments = |values: &[f64]| {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count)
    };
    let ((normal, normal_variance), (odd, odd_variance)) = (moments(normal), moments(disturbed));
    (odd - normal) / f64::midpoint(normal_variance, odd_variance).sqrt().max(f64::MIN_POSITIVE)
}

/// Times each size on this machine: the smallest and the largest, between which time grows evenly.
///
/// # Errors
/// When ONNX Runtime fails.
pub(crate) fn time(sizes: &mut [BankSize], largest: &Bank) -> Result<(), ModelError> {
    let failed = |error: ort::Error| ModelError::Inference(error.to_string());
    let values = vec![0.5_f32; PATCHES * largest.channels];
    let ends = [SIZES[0], BANK_SIZE];
    let mut timed = Vec::with_capacity(ends.len());
    for members in ends {
        let onnx = distances_model(&largest.first(members));
        let session = runtime::session_builder(1)?.commit_from_memory(&onnx).map_err(failed)?;
        timed.push((session, Vec::with_capacity(TIMED_RUNS)));
    }
    for _ in 0..TIMED_RUNS {
        for (session, times) in &mut timed {
            let shape = [1, largest.channels, PATCHES];
            let input = TensorRef::from_array_view((shape, values.as_slice())).map_err(failed)?;
            let start = Instant::now();
            session.run(ort::inputs![FEATURES_INPUT => input]).map_err(failed)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let medians = timed.into_iter().map(|(_, mut times)| {
        times.sort_unstable_by(f64::total_cmp);
        times[TIMED_RUNS / 2]
    });
    let medians: Vec<f64> = medians.collect();
    let of_one = (medians[1] - medians[0]) / (ends[1] - ends[0]) as f64;
    for size in sizes {
        size.time_ms = medians[0] + of_one * (size.members - ends[0]) as f64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_size_that_is_as_good_beyond_doubt_is_taken() {
        let size = |(place, at_least): (usize, f64)| BankSize {
            members: SIZES[place],
            separation: 1.0,
            roc_auc: 0.8,
            at_least,
            million_products: 0.0,
            chosen: false,
            time_ms: 0.0,
        };
        for (at_least, expected) in [
            ([0.80, 0.90, 0.99, 1.0], 3),
            ([0.80, 0.90, 1.00, 1.0], 2),
            ([1.05, 0.90, 1.01, 1.0], 2),
            ([1.00, 1.00, 1.01, 1.0], 0),
            // No disturbed picture is found by any of them.
            ([0.0, 0.0, 0.0, 0.0], 3),
        ] {
            let sizes: Vec<BankSize> = at_least.into_iter().enumerate().map(size).collect();
            assert_eq!(choose(&sizes), expected, "{at_least:?}");
        }
    }

    #[test]
    fn disturbances_are_local_and_the_same_for_a_seed() {
        let side = INPUT_SIZE_PX as usize;
        let picture: Vec<u8> = (0..side * side * 3).map(|at| 100 + (at * 7 % 50) as u8).collect();
        for seed in 0..30 {
            let disturbed = |seed: u64| {
                let mut rgb = picture.clone();
                disturb(&mut rgb, &mut fastrand::Rng::with_seed(seed));
                rgb
            };
            let changed = disturbed(seed).iter().zip(&picture).filter(|(a, b)| a != b).count();
            assert!(changed > 0 && changed < picture.len() / 50, "{changed}");
            assert_eq!(disturbed(seed), disturbed(seed));
        }
    }
}
