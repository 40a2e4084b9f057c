//! Measures over scores and truths, one pair a picture.

use serde::Serialize;

/// Verdicts against truths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Confusion {
    /// Anomalies that were found.
    pub true_positives: u64,
    /// Normals that were called anomalous.
    pub false_positives: u64,
    /// Normals that were left alone.
    pub true_negatives: u64,
    /// Anomalies that were missed.
    pub false_negatives: u64,
}

impl Confusion {
    /// Counts one verdict.
    pub fn add(&mut self, is_anomalous: bool, found: bool) {
        let count = match (is_anomalous, found) {
            (true, true) => &mut self.true_positives,
            (false, true) => &mut self.false_positives,
            (false, false) => &mut self.true_negatives,
            (true, false) => &mut self.false_negatives,
        };
        *count += 1;
    }

    /// How many of those found are anomalies. Where none was found: 1 if there was none to find, else 0.
    pub fn precision(&self) -> f64 {
        let found = self.true_positives + self.false_positives;
        share(self.true_positives, found).unwrap_or(if self.false_negatives == 0 { 1.0 } else { 0.0 })
    }

    /// How many of the anomalies were found. Where there were none: 1 if none was found, else 0.
    pub fn recall(&self) -> f64 {
        let anomalies = self.true_positives + self.false_negatives;
        share(self.true_positives, anomalies).unwrap_or(if self.false_positives == 0 { 1.0 } else { 0.0 })
    }

    /// Harmonic mean of precision and recall. 1 where there was nothing to find and nothing was found.
    pub fn f1(&self) -> f64 {
        let twice = 2 * self.true_positives;
        share(twice, twice + self.false_positives + self.false_negatives).unwrap_or(1.0)
    }

    /// Intersection over union of what was found and what there was. 1 where both are empty.
    pub fn iou(&self) -> f64 {
        share(self.true_positives, self.true_positives + self.false_positives + self.false_negatives).unwrap_or(1.0)
    }
}

/// A share, unless it is a share of nothing.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Verdicts of a threshold: scores from it on are anomalous.
pub fn confusion(scores: &[f64], is_anomalous: &[bool], threshold: f64) -> Confusion {
    let mut confusion = Confusion::default();
    for (&score, &truth) in scores.iter().zip(is_anomalous) {
        confusion.add(truth, score >= threshold);
    }
    confusion
}

/// Area under the ROC curve: how often an anomaly scores above a normal, ties counting half. Nothing unless there are
/// both.
pub fn roc_auc(scores: &[f64], is_anomalous: &[bool]) -> Option<f64> {
    let (mut normals_below, mut anomalies_below, mut wins) = (0_u64, 0_u64, 0.0);
    for (normals, anomalies) in ties(scores, is_anomalous) {
        wins += anomalies as f64 * (normals_below as f64 + normals as f64 / 2.0);
        normals_below += normals;
        anomalies_below += anomalies;
    }
    let pairs = normals_below as f64 * anomalies_below as f64;
    (pairs > 0.0).then(|| wins / pairs)
}

/// Average precision: the precision at each score's threshold, weighted by the recall that it adds. Equal scores are
/// one threshold. Nothing unless there are anomalies.
pub fn average_precision(scores: &[f64], is_anomalous: &[bool]) -> Option<f64> {
    let mut groups = ties(scores, is_anomalous);
    groups.reverse();
    let all_anomalies: u64 = groups.iter().map(|&(_, anomalies)| anomalies).sum();
    let (mut found, mut anomalies_found, mut sum) = (0_u64, 0_u64, 0.0);
    for (normals, anomalies) in groups {
        found += normals + anomalies;
        anomalies_found += anomalies;
        sum += anomalies as f64 * (anomalies_found as f64 / found as f64);
    }
    (all_anomalies > 0).then(|| sum / all_anomalies as f64)
}

/// Normals and anomalies of each distinct score, lowest first.
fn ties(scores: &[f64], is_anomalous: &[bool]) -> Vec<(u64, u64)> {
    let mut pairs: Vec<(f64, bool)> = scores.iter().copied().zip(is_anomalous.iter().copied()).collect();
    pairs.sort_by(|one, other| one.0.total_cmp(&other.0));
    let count = |group: &[(f64, bool)]| {
        let anomalies = group.iter().filter(|(_, is_anomalous)| *is_anomalous).count() as u64;
        (group.len() as u64 - anomalies, anomalies)
    };
    pairs.chunk_by(|one, other| one.0 == other.0).map(count).collect()
}

/// The nearest-rank percentile: the smallest value that at least `percent` of 100 of the values do not exceed. Always
/// one of the values; nothing only where there are none.
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}
