//! The per-position Gaussian: what is normal at each place of an object that always lies alike, after PaDiM (Defard et
//! al., 2021). A few channels, a mean and a covariance for each cell; the Mahalanobis distance is the score of a patch.

use ndarray::{Array2, ArrayView2};

use crate::features::{Features, PATCHES};

/// Channels that are looked at, drawn at random as in the paper.
const CHANNELS: usize = 24;
/// How many pictures the covariance of all cells together counts for, against that of the cell alone.
const SHARED_PICTURES: f64 = 40.0;
/// Added to each variance, as a share of the mean variance.
const LEAST_VARIANCE: f64 = 0.01;

/// What is normal at each cell.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    /// The channels that are looked at.
    pub(crate) channels: Vec<usize>,
    /// `[PATCHES, channels]`
    pub(crate) means: Vec<f32>,
    /// For each cell the upper triangular matrix `[channels, channels]`, row by row, that a centred patch is multiplied
    /// with to be measured.
    pub(crate) whitening: Vec<f32>,
}

impl Gaussian {
    /// Fits all cells; there must be a picture.
    pub(super) fn fit(pictures: &[&Features], seed: u64) -> Self {
        let available = pictures.first().map_or(0, |features| features.channels);
        let channels = drawn_channels(available, seed);
        let width = channels.len();
        let count = pictures.len() as f64;
        let mut means = Vec::with_capacity(PATCHES * width);
        let mut scatters = Vec::with_capacity(PATCHES);
        let mut shared = Array2::<f64>::zeros((width, width));
        for patch in 0..PATCHES {
            let mut values: Vec<f64> = Vec::with_capacity(pictures.len() * width);
            for features in pictures {
                let row = &features.values[patch * available..][..available];
                values.extend(channels.iter().map(|&channel| f64::from(row[channel])));
            }
            let mut rows = Array2::from_shape_vec((pictures.len(), width), values).expect("whole rows were gathered");
            let mean = rows.sum_axis(ndarray::Axis(0)) / count;
            rows -= &mean;
            means.extend(mean.iter().map(|&value| value as f32));
            let scatter = rows.t().dot(&rows);
            shared += &scatter;
            scatters.push(scatter);
        }
        shared /= count * PATCHES as f64;
        let floor =
            LEAST_VARIANCE * (0..width).map(|channel| shared[(channel, channel)]).sum::<f64>() / width.max(1) as f64;
        let mut whitening = Vec::with_capacity(PATCHES * width * width);
        for scatter in scatters {
            let mut covariance = (scatter + &shared * SHARED_PICTURES) / (count + SHARED_PICTURES);
            for channel in 0..width {
                covariance[(channel, channel)] += floor + f64::MIN_POSITIVE;
            }
            whitening.extend(inverse_factor(covariance.view()).iter().map(|&value| value as f32));
        }
        Self { channels, means, whitening }
    }

    /// The Mahalanobis distance of each of a picture's patches.
    pub(super) fn distances(&self, features: &Features) -> Vec<f32> {
        let width = self.channels.len();
        let cell = |patch: usize| {
            let row = &features.values[patch * features.channels..][..features.channels];
            let means = &self.means[patch * width..][..width];
            let centred: Vec<f32> =
                self.channels.iter().zip(means).map(|(&channel, mean)| row[channel] - mean).collect();
            let whitening = &self.whitening[patch * width * width..][..width * width];
            let mut squares = 0.0;
            for output in 0..width {
                let value: f32 = (0..=output).map(|input| centred[input] * whitening[input * width + output]).sum();
                squares += value * value;
            }
            squares.sqrt()
        };
        (0..PATCHES).map(cell).collect()
    }
}

/// Sorted, each once.
fn drawn_channels(available: usize, seed: u64) -> Vec<usize> {
    let mut channels: Vec<usize> = (0..available).collect();
    fastrand::Rng::with_seed(seed ^ 0x5eed_6a05).shuffle(&mut channels);
    channels.truncate(CHANNELS);
    channels.sort_unstable();
    channels
}

/// The transposed inverse of the Cholesky factor: `|x U|` is the Mahalanobis distance of `x`.
fn inverse_factor(covariance: ArrayView2<'_, f64>) -> Array2<f64> {
    let width = covariance.nrows();
    let mut lower = Array2::<f64>::zeros((width, width));
    for row in 0..width {
        for column in 0..=row {
            let known: f64 = (0..column).map(|index| lower[(row, index)] * lower[(column, index)]).sum();
            let rest = covariance[(row, column)] - known;
            lower[(row, column)] =
                if row == column { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / lower[(column, column)] };
        }
    }
    let mut inverse = Array2::<f64>::zeros((width, width));
    for column in 0..width {
        for row in column..width {
            let known: f64 = (column..row).map(|index| lower[(row, index)] * inverse[(index, column)]).sum();
            let unit = f64::from(u8::from(row == column));
            inverse[(row, column)] = (unit - known) / lower[(row, row)];
        }
    }
    inverse.reversed_axes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_measures_what_the_inverse_covariance_does() {
        let covariance = Array2::from_shape_vec((2, 2), vec![4.0, 1.0, 1.0, 2.0]).unwrap();
        let factor = inverse_factor(covariance.view());
        let point = Array2::from_shape_vec((1, 2), vec![1.0, -2.0]).unwrap();
        let white = point.dot(&factor);
        // x' inverse(C) x, by hand: inverse(C) = [2, -1; -1, 4] / 7.
        assert!(((white[(0, 0)].powi(2) + white[(0, 1)].powi(2)) - 22.0 / 7.0).abs() < 1e-9);
    }

    #[test]
    fn a_value_that_is_normal_elsewhere_is_odd_here() {
        let picture = |seed: u64| {
            let mut random = fastrand::Rng::with_seed(seed);
            let values = (0..PATCHES * 3).map(|index| (index / 3 % 2) as f32 * 4.0 + random.f32()).collect();
            Features { channels: 3, values }
        };
        let pictures: Vec<Features> = (0..12).map(picture).collect();
        let gaussian = Gaussian::fit(&pictures.iter().collect::<Vec<_>>(), 1);
        let mut odd = picture(50);
        let usual = gaussian.distances(&odd);
        odd.values[10 * 3] += 4.0;
        let distances = gaussian.distances(&odd);
        assert!(distances[10] > 2.0 * usual[10].max(2.0), "{} {}", distances[10], usual[10]);
        assert_eq!(distances[11], usual[11]);
    }
}
