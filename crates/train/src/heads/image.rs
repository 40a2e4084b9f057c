//! The image head: what a whole picture's features say, learnt from labelled pictures.

use ndarray::{Array2, Axis};

use super::cells::standardise;
use super::logistic::Binary;
use super::taps::{TapMap, Taps};

const STRENGTH: f64 = 0.01;
const ITERATIONS: usize = 200;
/// How often the head is fitted, at most, until it finds the anomalies where it found them before.
const ROUNDS: usize = 5;
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

/// Pooled features that teach: of one view, or of several of which one shows the anomaly and nobody says which.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lesson {
    /// At least one row.
    pub(super) choices: Vec<Vec<f32>>,
    /// Whether one of them is anomalous; otherwise there is one, and it is normal.
    pub(super) is_anomalous: bool,
}

impl ImageHead {
    /// Fits a head to pooled features. Where there is a choice the oddest row is anomalous: first by the normal rows'
    /// means and deviations, then by the head itself, until that changes no more.
    pub(super) fn fit(lessons: &[&Lesson]) -> Self {
        let mut chosen: Vec<usize> = Vec::new();
        let mut next = first_choices(lessons);
        let mut head = Self { weights: Vec::new(), bias: 0.0 };
        for _ in 0..ROUNDS {
            if next == chosen {
                break;
            }
            chosen = next;
            let rows: Vec<&[f32]> =
                lessons.iter().zip(&chosen).map(|(lesson, &row)| lesson.choices[row].as_slice()).collect();
            let classes: Vec<bool> = lessons.iter().map(|lesson| lesson.is_anomalous).collect();
            head = Self::fit_rows(&rows, &classes);
            next = lessons.iter().map(|lesson| highest(&lesson.choices, |row| f64::from(head.score(row)))).collect();
        }
        head
    }

    fn fit_rows(pooled: &[&[f32]], is_anomalous: &[bool]) -> Self {
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

/// In each lesson the row that is farthest from what is normal.
fn first_choices(lessons: &[&Lesson]) -> Vec<usize> {
    if lessons.iter().all(|lesson| lesson.choices.len() == 1) {
        return vec![0; lessons.len()];
    }
    let normal: Vec<&[f32]> = lessons
        .iter()
        .filter(|lesson| !lesson.is_anomalous)
        .flat_map(|lesson| lesson.choices.iter().map(Vec::as_slice))
        .collect();
    let inputs = lessons.first().map_or(0, |lesson| lesson.choices[0].len());
    let mut rows = Array2::from_shape_vec((normal.len(), inputs), normal.concat()).expect("rows of one length");
    let (mean, inverse_deviation) = standardise(&mut rows);
    let oddness = |row: &[f32]| -> f64 {
        let value = |((&value, mean), gain): ((&f32, &f32), &f32)| f64::from((value - mean) * gain).powi(2);
        row.iter().zip(&mean).zip(&inverse_deviation).map(value).sum()
    };
    lessons.iter().map(|lesson| highest(&lesson.choices, oddness)).collect()
}

fn highest(rows: &[Vec<f32>], value: impl Fn(&[f32]) -> f64) -> usize {
    let mut most = (0, f64::NEG_INFINITY);
    for (place, row) in rows.iter().enumerate() {
        let value = value(row);
        if value > most.1 {
            most = (place, value);
        }
    }
    most.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_views_the_head_finds_the_one_with_the_anomaly() {
        const INPUTS: usize = 12;
        let mut random = fastrand::Rng::with_seed(2);
        let mut row = |defect: bool| -> Vec<f32> {
            let rise = if defect { 4.0 } else { 0.0 };
            (0..INPUTS).map(|input| random.f32() + if input < 3 { rise } else { 0.0 }).collect()
        };
        let mut lessons: Vec<Lesson> =
            (0..40).map(|_| Lesson { choices: vec![row(false)], is_anomalous: false }).collect();
        for defect in 0..8 {
            let choices = (0..8).map(|view| row(view == defect)).collect();
            lessons.push(Lesson { choices, is_anomalous: true });
        }
        let head = ImageHead::fit(&lessons.iter().collect::<Vec<_>>());
        for (defect, lesson) in lessons[40..].iter().enumerate() {
            assert_eq!(highest(&lesson.choices, |row| f64::from(head.score(row))), defect);
        }
        assert!(head.score(&row(true)) > 0.0 && head.score(&row(false)) < 0.0);
    }
}
