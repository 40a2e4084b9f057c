//! How far measures may be from what other pictures of the same kind would give: a bootstrap over the pictures.
//!
//! Normals and anomalies are drawn anew, each from their own kind and as many as there are, so that every draw has both.
//! An interval holds the middle 95 % of what the draws give. Where a measure is perfect every draw is perfect too, and
//! the interval is a point: then the bounds on the rates of mistakes say more.

use serde::Serialize;

use super::scores::Confusion;

const CONFIDENCE: f64 = 0.95;
const RESAMPLES: usize = 1000;
const SEED: u64 = 1;

/// Where a measure lies with a confidence of 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Intervals of the measures over pictures.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Intervals {
    /// How they were made.
    pub method: &'static str,
    /// Share of the draws within an interval.
    pub confidence: f64,
    /// Draws.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Of the area under the ROC curve.
    pub roc_auc: Interval,
    /// Of the average precision.
    pub average_precision: Interval,
    /// Of the precision at the threshold.
    pub precision: Interval,
    /// Of the recall at the threshold.
    pub recall: Interval,
    /// Of F1 at the threshold.
    pub f1: Interval,
}

/// Intervals for these pictures and this threshold. Nothing unless there are normals and anomalies.
pub fn intervals(scores: &[f64], is_anomalous: &[bool], threshold: f64) -> Option<Intervals> {
    let mut pictures: Vec<(f64, bool)> = scores.iter().copied().zip(is_anomalous.iter().copied()).collect();
    pictures.sort_by(|one, other| other.0.total_cmp(&one.0));
    let of_class = |class: bool| -> Vec<usize> {
        pictures.iter().enumerate().filter(|(_, (_, truth))| *truth == class).map(|(index, _)| index).collect()
    };
    let classes = [of_class(false), of_class(true)];
    if classes.iter().any(Vec::is_empty) {
        return None;
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut measures: [Vec<f64>; 5] = Default::default();
    let mut drawn = vec![0_u64; pictures.len()];
    for _ in 0..RESAMPLES {
        drawn.fill(0);
        for class in &classes {
            for _ in 0..class.len() {
                drawn[class[random.usize(..class.len())]] += 1;
            }
        }
        for (values, value) in measures.iter_mut().zip(measure(&pictures, &drawn, threshold)) {
            values.push(value);
        }
    }
    let [roc_auc, average_precision, precision, recall, f1] = measures.map(middle);
    Some(Intervals {
        method: "stratified percentile bootstrap over the pictures",
        confidence: CONFIDENCE,
        resamples: RESAMPLES,
        seed: SEED,
        roc_auc,
        average_precision,
        precision,
        recall,
        f1,
    })
}

/// ROC AUC, average precision, precision, recall and F1 of pictures, highest score first, of which each was drawn so
/// many times.
fn measure(pictures: &[(f64, bool)], drawn: &[u64], threshold: f64) -> [f64; 5] {
    let (mut normals, mut anomalies) = (0_u64, 0_u64);
    let (mut lost_pairs, mut precision_sum) = (0.0, 0.0);
    let mut at_threshold = (0, 0);
    let mut start = 0;
    for tie in pictures.chunk_by(|one, other| one.0 == other.0) {
        let (mut tied_normals, mut tied_anomalies) = (0, 0);
        for (&(_, is_anomalous), &times) in tie.iter().zip(&drawn[start..]) {
            *(if is_anomalous { &mut tied_anomalies } else { &mut tied_normals }) += times;
        }
        start += tie.len();
        lost_pairs += tied_anomalies as f64 * (normals as f64 + tied_normals as f64 / 2.0);
        normals += tied_normals;
        anomalies += tied_anomalies;
        precision_sum += tied_anomalies as f64 * anomalies as f64 / (normals + anomalies).max(1) as f64;
        if tie[0].0 >= threshold {
            at_threshold = (normals, anomalies);
        }
    }
    let (false_positives, true_positives) = at_threshold;
    let confusion = Confusion {
        true_positives,
        false_positives,
        true_negatives: normals - false_positives,
        false_negatives: anomalies - true_positives,
    };
    let roc_auc = 1.0 - lost_pairs / (normals as f64 * anomalies as f64);
    let average_precision = precision_sum / anomalies as f64;
    [roc_auc, average_precision, confusion.precision(), confusion.recall(), confusion.f1()]
}

/// The middle 95 % of the values, their ends interpolated between neighbours.
fn middle(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (values.len() - 1) as f64;
        let below = position as usize;
        let above = (below + 1).min(values.len() - 1);
        values[below] + (values[above] - values[below]) * (position - below as f64)
    };
    let outside = (1.0 - CONFIDENCE) / 2.0;
    Interval { low: at(outside), high: at(1.0 - outside) }
}
