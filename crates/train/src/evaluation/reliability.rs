//! Whether scores are what they claim: of the pictures that get 0.8, are 80 of 100 anomalous?

use serde::Serialize;

const BINS: usize = 10;

/// Pictures of nearly the same score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// Scores from here on.
    pub from: f64,
    /// To below here; the last bin holds 1 too.
    pub to: f64,
    /// Pictures.
    pub images: usize,
    /// Mean of their scores.
    pub mean_score: f64,
    /// Share of them that are anomalous.
    pub anomalous: f64,
}

/// How far scores are probabilities, for the share of anomalies that the data set has.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reliability {
    /// Mean of the squared distance between score and truth: 0 at best, 0.25 when every score is one half.
    pub brier: f64,
    /// Expected calibration error: the mean distance between score and share of anomalies over the bins, weighted by
    /// their pictures.
    pub ece: f64,
    /// The bins that hold pictures.
    pub bins: Vec<ReliabilityBin>,
}

/// The reliability of these scores. Nothing without pictures.
pub fn reliability(scores: &[f64], is_anomalous: &[bool]) -> Option<Reliability> {
    let mut bins = [(0_usize, 0.0, 0_usize); BINS];
    let mut squares = 0.0;
    for (&score, &truth) in scores.iter().zip(is_anomalous) {
        let (images, sum, anomalies) = &mut bins[((score * BINS as f64) as usize).min(BINS - 1)];
        *images += 1;
        *sum += score;
        *anomalies += usize::from(truth);
        squares += (score - f64::from(u8::from(truth))).powi(2);
    }
    let count = scores.len().min(is_anomalous.len());
    if count == 0 {
        return None;
    }
    let filled = bins.iter().enumerate().filter(|(_, (images, ..))| *images > 0);
    let bins: Vec<ReliabilityBin> = filled
        .map(|(index, &(images, sum, anomalies))| ReliabilityBin {
            from: index as f64 / BINS as f64,
            to: (index + 1) as f64 / BINS as f64,
            images,
            mean_score: sum / images as f64,
            anomalous: anomalies as f64 / images as f64,
        })
        .collect();
    let gap = |bin: &ReliabilityBin| bin.images as f64 * (bin.mean_score - bin.anomalous).abs();
    Some(Reliability { brier: squares / count as f64, ece: bins.iter().map(gap).sum::<f64>() / count as f64, bins })
}
