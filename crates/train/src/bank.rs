//! The memory bank: a few hundred patches that stand for everything normal, and the distance of a patch to them.
//!
//! After PatchCore (Roth et al., "Towards Total Recall in Industrial Anomaly Detection", 2022): greedy k-center picks the
//! bank, the distance to the nearest member is the score of a patch.
//!
//! Members are kept by their [`DIMENSIONS`] principal components only, in which normal patches differ most. A patch that is
//! compared keeps all it has: what lies outside of those components counts as it is, as if no member had any of it. That
//! halves the cost of comparing whole patches. (ROC AUC with 48, 96 and all 176 components: tiles by 200 normals 0.862,
//! 0.858, 0.858; cookies 0.99, 1.00, 1.00. Fewer than 640 members cost tiles 0.01, and more time buys little.)
//!
//! Members may be eased: where normal pictures that no bank saw lie far from their nearest member, as at a rim that gleams
//! differently each time, a long distance means less than where they lie close.

use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::ArrayView2;

use crate::features::{Features, PATCHES};

/// Patches in the bank, at most.
pub const BANK_SIZE: usize = 640;
/// Principal components by which members of the bank are compared.
pub const DIMENSIONS: usize = 96;
/// Patches that the bank is picked from, at most.
pub const POOL_SIZE: usize = 20_000;
/// Share of what held-out patches near a member are farther away than usual that is taken off.
const EASED_SHARE: f64 = 0.5;
/// Held-out patches near a member that make it believed by half.
const EASING_PATCHES: f64 = 20.0;

/// Patches of all training pictures that a bank may be picked from: for each picture some, in random order.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    weights: Vec<f32>,
    pictures: Vec<Vec<f32>>,
}

/// Per-channel mean and deviation, by which patches are standardised, and with it how much each channel counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardiser {
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// The weight of each channel over its deviation.
    pub inverse_deviation: Vec<f32>,
}

/// Patches that stand for everything normal.
#[derive(Debug, Clone, PartialEq)]
pub struct Bank {
    /// How patches are standardised before they are compared.
    pub standardiser: Standardiser,
    /// Length of a patch before the projection.
    pub channels: usize,
    /// Length of a patch after it.
    pub dimensions: usize,
    /// From standardised patches to principal components: `channels` rows of `dimensions` values.
    pub projection: Vec<f32>,
    /// The members: `len() * dimensions` values.
    pub patches: Vec<f32>,
    /// What is taken off the squared distance to each member.
    pub allowances: Vec<f32>,
}

/// The member that is nearest to a patch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Nearest {
    member: usize,
    squared_distance: f32,
}

impl Pool {
    /// An empty pool for patches whose channels count as much as these weights say.
    pub fn new(weights: Vec<f32>) -> Self {
        Self { weights, pictures: Vec::new() }
    }

    /// Length of a patch.
    pub fn channels(&self) -> usize {
        self.weights.len()
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

    /// The drawn patches of a picture.
    pub fn of_picture(&self, picture: usize) -> &[f32] {
        &self.pictures[picture]
    }

    /// Up to [`POOL_SIZE`] patches of these pictures, the same number of each.
    fn select(&self, pictures: &[usize]) -> Vec<f32> {
        let share = POOL_SIZE.div_ceil(pictures.len().max(1)) * self.channels();
        let of_picture = |&picture: &usize| {
            let patches = &self.pictures[picture];
            &patches[..share.min(patches.len())]
        };
        let mut patches: Vec<f32> = pictures.iter().flat_map(of_picture).copied().collect();
        patches.truncate(POOL_SIZE * self.channels());
        patches
    }
}

impl Standardiser {
    /// Of all patches in the pool, one value for each weight.
    fn fit(pool: &[f32], weights: &[f32]) -> Self {
        let channels = weights.len().max(1);
        let count = (pool.len() / channels).max(1) as f64;
        let mut sums = vec![(0.0_f64, 0.0_f64); channels];
        for patch in pool.chunks_exact(channels) {
            for ((sum, squares), &value) in sums.iter_mut().zip(patch) {
                *sum += f64::from(value);
                *squares += f64::from(value) * f64::from(value);
            }
        }
        let mean = sums.iter().map(|(sum, _)| (sum / count) as f32).collect();
        let inverse = |(&(sum, squares), &weight): (&(f64, f64), &f32)| {
            let variance = (squares / count - (sum / count).powi(2)).max(0.0);
            // A channel that never changes must not explode when it does.
            (f64::from(weight) / (variance.sqrt() + 1e-4)) as f32
        };
        Self { mean, inverse_deviation: sums.iter().zip(weights).map(inverse).collect() }
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
        let channels = pool.channels();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut patches = pool.select(pictures);
        let standardiser = Standardiser::fit(&patches, &pool.weights);
        standardiser.apply(&mut patches);
        let dimensions = DIMENSIONS.min(channels);
        let projection = principal_components(&patches, channels, dimensions);
        let projected = multiply(&patches, &projection, channels, dimensions);
        let picked = greedy_k_center(&projected, dimensions, size, &mut random);
        let allowances = vec![0.0; picked.len()];
        let picked = picked.into_iter().flat_map(|index| &projected[index * dimensions..][..dimensions]).copied();
        Self { patches: picked.collect(), standardiser, channels, dimensions, projection, allowances }
    }

    /// Number of patches.
    pub fn len(&self) -> usize {
        self.patches.len() / self.dimensions.max(1)
    }

    /// Whether the bank is empty, which a fitted one never is.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// Squared length of each member, less its allowance.
    pub fn squared_lengths(&self) -> Vec<f32> {
        let lengths = squared_lengths(&self.patches, self.dimensions);
        lengths.iter().zip(&self.allowances).map(|(length, allowance)| length - allowance).collect()
    }

    /// The same members, each with an allowance by what held-out patches say whose nearest it is. `held_out` has, for each
    /// picture of the pool, what a bank that never saw it made of its drawn patches; of these pictures count.
    pub(crate) fn eased(&self, pool: &Pool, held_out: &[Vec<Nearest>], pictures: &[usize]) -> Self {
        let mut sums = vec![(0.0_f64, 0.0_f64); self.len()];
        for &picture in pictures {
            let own = self.nearest(pool.of_picture(picture));
            for (own, held_out) in own.iter().zip(&held_out[picture]) {
                let (count, sum) = &mut sums[own.member];
                *count += 1.0;
                *sum += f64::from(held_out.squared_distance);
            }
        }
        let (count, sum) = sums.iter().fold((0.0, 0.0), |(counts, all), (count, sum)| (counts + count, all + sum));
        let usual = sum / f64::max(count, 1.0);
        let allowance = |(count, sum): &(f64, f64)| EASED_SHARE * (sum - count * usual) / (count + EASING_PATCHES);
        Self { allowances: sums.iter().map(|sums| allowance(sums) as f32).collect(), ..self.clone() }
    }

    /// For each of these patches the nearest member.
    pub(crate) fn nearest(&self, patches: &[f32]) -> Vec<Nearest> {
        let (query_lengths, products) = self.compare(patches);
        let lengths = self.squared_lengths();
        let of_row = |(row, query_length): (&[f32], f32)| {
            let mut nearest = Nearest { member: 0, squared_distance: f32::INFINITY };
            for (member, (product, length)) in row.iter().zip(&lengths).enumerate() {
                let squared_distance = length - 2.0 * product + query_length;
                if squared_distance < nearest.squared_distance {
                    nearest = Nearest { member, squared_distance };
                }
            }
            nearest
        };
        products.chunks_exact(self.len()).zip(query_lengths).map(of_row).collect()
    }

    /// The squared length of each standardised patch, and its products with all members.
    fn compare(&self, patches: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let mut queries = patches.to_vec();
        self.standardiser.apply(&mut queries);
        let projected = multiply(&queries, &self.projection, self.channels, self.dimensions);
        let products = multiply_transposed(&projected, &self.patches, self.dimensions);
        (squared_lengths(&queries, self.channels), products)
    }

    /// The bank that would have been picked with this size, or this one when it is no larger.
    #[must_use]
    pub fn first(&self, size: usize) -> Self {
        let patches = self.patches[..self.patches.len().min(size * self.dimensions)].to_vec();
        let allowances = self.allowances[..self.len().min(size)].to_vec();
        let (standardiser, projection) = (self.standardiser.clone(), self.projection.clone());
        Self { patches, standardiser, projection, allowances, ..*self }
    }

    /// The distance of each of a picture's patches to its nearest neighbour in the bank: `|q|^2 - 2 Pq.b + |b|^2` is
    /// least, with `P` the projection; less that member's allowance.
    pub fn distances(&self, features: &Features) -> Vec<f32> {
        self.distances_by_size(features, &[self.len()]).remove(0)
    }

    /// The same for the first members of the bank only, as many as each of these sizes says, the smallest first.
    pub fn distances_by_size(&self, features: &Features, sizes: &[usize]) -> Vec<Vec<f32>> {
        let bank_lengths = self.squared_lengths();
        let (query_lengths, products) = self.compare(&features.values);
        let mut distances = vec![Vec::with_capacity(PATCHES); sizes.len()];
        for (row, query_length) in products.chunks_exact(self.len()).zip(query_lengths) {
            let (mut nearest, mut seen) = (f32::INFINITY, 0);
            for (distances, &size) in distances.iter_mut().zip(sizes) {
                let size = size.clamp(seen, self.len());
                let further = row[seen..size].iter().zip(&bank_lengths[seen..size]);
                nearest = further.map(|(product, length)| length - 2.0 * product).fold(nearest, f32::min);
                seen = size;
                distances.push((nearest + query_length).max(0.0).sqrt());
            }
        }
        distances
    }
}

/// The directions in which standardised patches differ most, as the columns of `channels` rows.
fn principal_components(patches: &[f32], channels: usize, dimensions: usize) -> Vec<f32> {
    let patches = rows(patches, channels);
    let squares = patches.t().dot(&patches);
    let squares = DMatrix::from_fn(channels, channels, |row, column| f64::from(squares[(row, column)]));
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(squares);
    let mut order: Vec<usize> = (0..channels).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]).then(a.cmp(&b)));
    let row = |row: usize| order[..dimensions].iter().map(move |&column| (row, column));
    (0..channels).flat_map(row).map(|at| eigenvectors[at] as f32).collect()
}

/// Picks `size` patches, each the one farthest from all picked before it.
fn greedy_k_center(patches: &[f32], channels: usize, size: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let count = patches.len() / channels.max(1);
    if count <= size {
        return (0..count).collect();
    }
    let lengths: Vec<f32> = squared_lengths(patches, channels);
    let patches = rows(patches, channels);
    let mut picked = Vec::with_capacity(size);
    let mut nearest = vec![f32::INFINITY; count];
    let mut next = random.usize(..count);
    for _ in 0..size {
        picked.push(next);
        let products = patches.dot(&patches.row(next));
        let mut farthest = (f32::NEG_INFINITY, 0);
        for (index, (distance, (product, length))) in nearest.iter_mut().zip(products.iter().zip(&lengths)).enumerate()
        {
            *distance = distance.min(length - 2.0 * product + lengths[next]);
            if *distance > farthest.0 {
                farthest = (*distance, index);
            }
        }
        next = farthest.1;
    }
    picked
}

fn squared_lengths(patches: &[f32], channels: usize) -> Vec<f32> {
    patches.chunks_exact(channels).map(|patch| patch.iter().map(|value| value * value).sum()).collect()
}

/// The product of rows of `length` values with a matrix of as many rows and `columns` columns.
fn multiply(left: &[f32], right: &[f32], length: usize, columns: usize) -> Vec<f32> {
    rows(left, length).dot(&rows(right, columns)).into_raw_vec_and_offset().0
}

/// The product of each row with each column, both of `length` values: row by row, one value for each column.
fn multiply_transposed(left: &[f32], right: &[f32], length: usize) -> Vec<f32> {
    rows(left, length).dot(&rows(right, length).t()).into_raw_vec_and_offset().0
}

fn rows(values: &[f32], length: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((values.len() / length, length), values).expect("whole rows were passed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures of two kinds of patch, the second of which is rare.
    fn pool(seed: u64) -> (Pool, Vec<Features>) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pool = Pool::new(vec![1.0; 3]);
        let mut pictures = Vec::new();
        for picture in 0..4 {
            let patch = |index: usize| {
                let level = if index == 5 { 9.0 } else { 1.0 };
                [level, level * 2.0, picture as f32]
            };
            let noise = |value: f32| value + 0.01 * random.f32();
            let values: Vec<f32> = (0..PATCHES).flat_map(patch).map(noise).collect();
            let features = Features { channels: 3, values };
            pool.push(Pool::draw(&features, PATCHES, seed + picture));
            pictures.push(features);
        }
        (pool, pictures)
    }

    #[test]
    fn the_bank_holds_rare_patches_too_and_measures_from_them() {
        let (pool, pictures) = pool(3);
        let bank = Bank::fit(&pool, &[0, 1, 2, 3], 40, 3);
        assert_eq!((bank.len(), bank.is_empty()), (40, false));
        let known = bank.distances(&pictures[2]);
        assert!(known.iter().all(|&distance| distance < 0.5), "a patch that was seen is far away");
        let mut odd = pictures[2].clone();
        odd.values[300 * 3] = 30.0;
        assert!(bank.distances(&odd)[300] > 10.0 * known[300].max(0.1));
    }

    #[test]
    fn the_same_seed_gives_the_same_bank_and_another_seed_another() {
        let (pool, _) = pool(3);
        let fit = |pictures: &[usize], seed| Bank::fit(&pool, pictures, 40, seed);
        assert_eq!(fit(&[0, 1, 2], 1), fit(&[0, 1, 2], 1));
        assert_ne!(fit(&[0, 1, 2], 1).patches, fit(&[0, 1, 2], 2).patches);
        assert_ne!(fit(&[0, 1, 2], 1), fit(&[1, 2, 3], 1));
    }

    #[test]
    fn distances_are_euclidean_after_standardising() {
        let (pool, pictures) = pool(5);
        let bank = Bank::fit(&pool, &[0, 1], 10, 5);
        let mut query = pictures[3].values[..3].to_vec();
        bank.standardiser.apply(&mut query);
        // Three channels are fewer than there are components: the projection only turns the space.
        let query = multiply(&query, &bank.projection, 3, 3);
        let to = |patch: &[f32]| patch.iter().zip(&query).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
        let nearest = bank.patches.chunks_exact(3).map(to).fold(f32::INFINITY, f32::min);
        assert!((bank.distances(&pictures[3])[0] - nearest).abs() < 1e-2 * nearest.max(1.0));
    }

    #[test]
    fn a_small_bank_is_the_beginning_of_a_large_one() {
        let (pool, pictures) = pool(5);
        let large = Bank::fit(&pool, &[0, 1, 2], 40, 5);
        let small = Bank::fit(&pool, &[0, 1, 2], 15, 5);
        assert_eq!(large.first(15), small);
        assert_eq!(large.first(100), large);
        let by_size = large.distances_by_size(&pictures[3], &[15, 40, 100]);
        assert_eq!(by_size[0], small.distances(&pictures[3]));
        assert_eq!(by_size[1], large.distances(&pictures[3]));
        assert_eq!(by_size[2], by_size[1]);
    }

    #[test]
    fn a_member_near_which_held_out_patches_lie_far_away_allows_more() {
        let (pool, pictures) = pool(3);
        let bank = Bank::fit(&pool, &[0, 1, 2, 3], 40, 3);
        let mut held_out: Vec<Vec<Nearest>> = (0..4).map(|picture| bank.nearest(pool.of_picture(picture))).collect();
        let rough = bank.nearest(&pictures[2].values)[300].member;
        for nearest in held_out.iter_mut().flatten() {
            nearest.squared_distance = if nearest.member == rough { 5.0 } else { 1.0 };
        }
        let eased = bank.eased(&pool, &held_out, &[0, 1, 2, 3]);
        assert!(eased.allowances[rough] > 0.5, "{}", eased.allowances[rough]);
        assert!(eased.allowances.iter().enumerate().all(|(member, &allowed)| member == rough || allowed <= 0.0));
        let mut odd = pictures[2].clone();
        odd.values[300 * 3] += 3.0;
        assert!(eased.distances(&odd)[300] < bank.distances(&odd)[300]);
        assert_eq!(eased.first(15).allowances, eased.allowances[..15]);
    }

    #[test]
    fn what_the_components_leave_out_counts_whole() {
        // The last two channels, which differ least once what they share is taken off, are no component.
        const CHANNELS: usize = DIMENSIONS + 2;
        let mut random = fastrand::Rng::with_seed(4);
        let mut pool = Pool::new(vec![1.0; CHANNELS]);
        let mut picture = || {
            let mut common = 0.0;
            let value = |index: usize| {
                if index.is_multiple_of(CHANNELS) {
                    common = random.f32();
                }
                if index % CHANNELS < DIMENSIONS - 1 { random.f32() } else { common + 0.05 * random.f32() }
            };
            Features { channels: CHANNELS, values: (0..PATCHES * CHANNELS).map(value).collect() }
        };
        let pictures = [picture(), picture()];
        for (seed, features) in (0..).zip(&pictures) {
            pool.push(Pool::draw(features, PATCHES, seed));
        }
        let bank = Bank::fit(&pool, &[0, 1], 400, 1);
        assert_eq!((bank.dimensions, bank.channels), (DIMENSIONS, CHANNELS));
        let mut odd = pictures[0].clone();
        let before = bank.distances(&odd)[7];
        odd.values[8 * CHANNELS - 2] += 50.0;
        odd.values[8 * CHANNELS - 1] -= 50.0;
        assert!(bank.distances(&odd)[7] > 10.0 * before, "{before} to {}", bank.distances(&odd)[7]);
    }
}
