//! The memory bank: a few hundred patches that stand for everything normal, and the distance of a patch to them.
//!
//! After PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", 2022): greedy k-center on a
//! random projection picks the bank, the distance to the nearest member is the score of a patch.

use ndarray::ArrayView2;

use crate::features::{Features, PATCHES};

/// Patches in the bank: twice as many cost 1.7 times the whole model and gain little.
pub const BANK_SIZE: usize = 800;
/// Patches that the bank is picked from, at most.
pub const POOL_SIZE: usize = 20_000;
/// Dimensions of the random projection on which patches are picked.
const PROJECTED: usize = 48;

/// Patches of all training pictures that a bank may be picked from: for each picture some, in random order.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    channels: usize,
    pictures: Vec<Vec<f32>>,
}

/// Per-channel mean and deviation, by which patches are standardised.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardiser {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// One over the deviation of each channel.
    pub inverse_deviation: Vec<f32>,
}

/// Standardised patches, `channels` values each.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    /// How patches are standardised before they are compared.
    pub standardiser: Standardiser,
    /// Length of a patch.
    pub channels: usize,
    /// `len() * channels` values.
    pub patches: Vec<f32>,
}

impl Pool {
    /// An empty pool for patches of this length.
    pub fn new(channels: usize) -> Self {
        Self { channels, pictures: Vec::new() }
    }

    /// Length of a patch.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// How many patches to keep of each of `count` pictures, so that any four fifths of them fill the pool.
    pub fn patches_per_picture(count: usize) -> usize {
        (POOL_SIZE * 5).div_ceil(count.max(1) * 4).min(PATCHES)
    }

    /// Some patches of a picture, drawn without repetition.
    pub fn draw(features: &Features, count: usize, seed: u64) -> Vec<f32> {
        let mut order: Vec<usize> = (0..PATCHES).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
        let drawn = order.into_iter().take(count);
        drawn.flat_map(|patch| &features.values[patch * features.channels..][..features.channels]).copied().collect()
    }

    /// Adds the drawn patches of the next picture.
    pub fn push(&mut self, patches: Vec<f32>) {
        self.pictures.push(patches);
    }

    /// Up to [`POOL_SIZE`] patches of these pictures, the same number of each.
    fn select(&self, pictures: &[usize]) -> Vec<f32> {
        let share = POOL_SIZE.div_ceil(pictures.len().max(1)) * self.channels;
        let of_picture = |&picture: &usize| {
            let patches = &self.pictures[picture];
            &patches[..share.min(patches.len())]
        };
        let mut patches: Vec<f32> = pictures.iter().flat_map(of_picture).copied().collect();
        patches.truncate(POOL_SIZE * self.channels);
        patches
    }
}

impl Standardiser {
    /// Of all patches in the pool, `channels` values each.
    fn fit(pool: &[f32], channels: usize) -> Self {
        let count = (pool.len() / channels).max(1) as f64;
        let mut sums = vec![(0.0_f64, 0.0_f64); channels];
        for patch in pool.chunks_exact(channels) {
            for ((sum, squares), &value) in sums.iter_mut().zip(patch) {
                *sum += f64::from(value);
                *squares += f64::from(value) * f64::from(value);
            }
        }
        let mean = sums.iter().map(|(sum, _)| (sum / count) as f32).collect();
        let inverse = |&(sum, squares): &(f64, f64)| {
            let variance = (squares / count - (sum / count).powi(2)).max(0.0);
            // A channel that never changes must not explode when it does.
            (1.0 / (variance.sqrt() + 1e-4)) as f32
        };
        Self { mean, inverse_deviation: sums.iter().map(inverse).collect() }
    }

    fn apply(&self, patches: &mut [f32]) {
        for patch in patches.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), inverse) in patch.iter_mut().zip(&self.mean).zip(&self.inverse_deviation) {
                *value = (*value - mean) * inverse;
            }
        }
    }
}

impl Bank {
    /// Picks a bank from some of the pool's pictures. The same pool, pictures and seed give the same bank.
    pub fn fit(pool: &Pool, pictures: &[usize], size: usize, seed: u64) -> Self {
        let channels = pool.channels;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut patches = pool.select(pictures);
        let standardiser = Standardiser::fit(&patches, channels);
        standardiser.apply(&mut patches);
        let projected = project(&patches, channels, &mut random);
        let picked = greedy_k_center(&projected, size, &mut random);
        let picked = picked.into_iter().flat_map(|index| &patches[index * channels..][..channels]).copied();
        Self { patches: picked.collect(), standardiser, channels }
    }

    /// Number of patches.
    pub fn len(&self) -> usize {
        self.patches.len() / self.channels.max(1)
    }

    /// Whether the bank is empty, which a fitted one never is.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Squared length of each patch.
    pub fn squared_lengths(&self) -> Vec<f32> {
        self.patches.chunks_exact(self.channels).map(|patch| patch.iter().map(|value| value * value).sum()).collect()
    }

    /// The distance of each of a picture's patches to its nearest neighbour in the bank.
    pub fn distances(&self, features: &Features) -> Vec<f32> {
        let mut queries = features.values.clone();
        self.standardiser.apply(&mut queries);
        let bank_lengths = self.squared_lengths();
        let products = multiply_transposed(&queries, &self.patches, self.channels);
        let rows = products.chunks_exact(self.len()).zip(queries.chunks_exact(self.channels));
        rows.map(|(row, query)| {
            let nearest = row.iter().zip(&bank_lengths).map(|(product, length)| length - 2.0 * product);
            let query_length: f32 = query.iter().map(|value| value * value).sum();
            (nearest.fold(f32::INFINITY, f32::min) + query_length).max(0.0).sqrt()
        })
        .collect()
    }
}

/// A sparse random projection, entries -1, 0, 0, 0, 0, 1 in equal shares (Achlioptas, 2003): distances survive it, and it
/// needs no transcendental function, so every machine gives the same one.
fn project(pool: &[f32], channels: usize, random: &mut fastrand::Rng) -> Vec<f32> {
    let entry = |_| match random.u8(..6) {
        0 => -1.0,
        1 => 1.0,
        _ => 0.0,
    };
    let matrix: Vec<f32> = (0..PROJECTED * channels).map(entry).collect();
    multiply_transposed(pool, &matrix, channels)
}

/// Picks `size` points, each the one farthest from all picked before it.
fn greedy_k_center(points: &[f32], size: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let count = points.len() / PROJECTED;
    if count <= size {
        return (0..count).collect();
    }
    let mut picked = Vec::with_capacity(size);
    let mut nearest = vec![f32::INFINITY; count];
    let mut next = random.usize(..count);
    for _ in 0..size {
        picked.push(next);
        let center = &points[next * PROJECTED..][..PROJECTED];
        let mut farthest = (f32::NEG_INFINITY, 0);
        for (index, (point, distance)) in points.chunks_exact(PROJECTED).zip(&mut nearest).enumerate() {
            let squared: f32 = point.iter().zip(center).map(|(a, b)| (a - b) * (a - b)).sum();
            *distance = distance.min(squared);
            if *distance > farthest.0 {
                farthest = (*distance, index);
            }
        }
        next = farthest.1;
    }
    picked
}

/// The product of each row with each column, both of `length` values: row by row, one value for each column.
fn multiply_transposed(rows: &[f32], columns: &[f32], length: usize) -> Vec<f32> {
    let view = |values| {
        ArrayView2::from_shape((<[f32]>::len(values) / length, length), values).expect("whole rows were passed")
    };
    view(rows).dot(&view(columns).t()).into_raw_vec_and_offset().0
}
