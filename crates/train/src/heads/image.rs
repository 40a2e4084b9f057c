//! The image head: what a whole picture's features say, learnt from labelled pictures.

use ndarray::{Array2, Axis};

use super::cells::standardise;
use super::logistic::Binary;
use super::taps::{TapMap, Taps};

const STRENGTH: f64 = 0.01;
const ITERATIONS: usize = 200;
/// Coarse maps speak for the picture; the finest ones only of texture.
const FINEST_STRIDE: u32 = 8;
/// Below this a channel is the same everywhere.
pub(crate) const LEAST_VARIANCE: f32 = 1e-6;

/// A linear function of a picture's pooled features, positive for anomalies.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageHead {
    /// For mean, maximum and deviation of each channel, map after map.
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: f32,
}

/// Whether a map at this stride is pooled. `finest` is the finest there is: a lone map is always pooled.
pub(crate) fn is_pooled(stride: u32, deepest: u32) -> bool {
    stride >= FINEST_STRIDE.min(deepest)
}

/// Mean, maximum and deviation of each channel, map after map.
pub(super) fn pooled(taps: &Taps) -> Vec<f32> {
    let deepest = taps.maps.iter().map(|map| map.stride).max().unwrap_or(0);
    taps.maps.iter().filter(|map| is_pooled(map.stride, deepest)).flat_map(pooled_map).collect()
}

fn pooled_map(map: &TapMap) -> Vec<f32> {
    let cells = (map.size * map.size) as f32;
    let channels = || map.values.chunks_exact(map.size * map.size);
    let mean = |channel: &[f32]| channel.iter().sum::<f32>() / cells;
    let maximum = |channel: &[f32]| channel.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let deviation = |channel: &[f32]| {
        let mean = mean(channel);
        let squares: f32 = channel.iter().map(|value| (value - mean) * (value - mean)).sum();
        (squares / cells + LEAST_VARIANCE).sqrt()
    };
    channels().map(mean).chain(channels().map(maximum)).chain(channels().map(deviation)).collect()
}

impl ImageHead {
    /// Fits a head to pooled features.
    pub(super) fn fit(pooled: &[&[f32]], is_anomalous: &[bool]) -> Self {
        let inputs = pooled.first().map_or(0, |row| row.len());
        let mut rows = Array2::from_shape_vec((pooled.len(), inputs), pooled.concat()).expect("rows of one length");
        let (mean, inverse_deviation) = standardise(&mut rows);
        let model = Binary::fit_balanced(rows.view(), is_anomalous, STRENGTH, ITERATIONS);
        let weights: Vec<f32> =
            model.weights.iter().zip(&inverse_deviation).map(|(weight, gain)| weight * gain).collect();
        let shift: f32 = weights.iter().zip(&mean).map(|(weight, mean)| weight * mean).sum();
        debug_assert_eq!(rows.len_of(Axis(1)), weights.len());
        Self { weights, bias: model.bias - shift }
    }

    /// Positive for anomalies.
    pub(super) fn score(&self, pooled: &[f32]) -> f32 {
        self.bias + self.weights.iter().zip(pooled).map(|(weight, value)| weight * value).sum::<f32>()
    }
}
