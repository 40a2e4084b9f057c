//! From raw distances to probabilities, from normal pictures alone.
//!
//! Every normal picture is scored against a bank that never saw it. Their scores, on a logarithmic scale, say where
//! normal ends: the threshold is the higher of their 95th percentile and the point that a log-normal tail of 5 %
//! begins at. There is always a threshold well above the normals' median, whatever pictures are missing.

use linewarden_model::package::Calibration;

/// A one-sided 5 % tail of the normal distribution, in deviations.
const TAIL_DEVIATIONS: f64 = 1.65;
const TAIL_QUANTILE: f64 = 0.95;
/// Share of held-out normal pictures of which no cell may lie above the border of masks.
const PIXEL_QUANTILE: f64 = 0.95;
/// The threshold lies at least this far above the median, so that the slope stays finite when all scores are equal.
const LEAST_RANGE_LN: f64 = 0.02;
/// No curve is steeper. Between formats of the same picture, RGB and I420, raw scores of photographs differ by up to 0.7 %;
/// around the threshold, where a curve is steepest, that then moves a calibrated score by a quarter of 11 times as much: 0.019.
const GAIN_MOST: f64 = 11.0;
/// Added before the logarithm: distances are about 1 to 20.
pub const FLOOR: f64 = 1e-6;

/// `sigmoid(gain * ln(raw + FLOOR) + offset)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Curve {
    /// Factor of the logarithm.
    pub gain: f64,
    /// Added to the product.
    pub offset: f64,
}

impl Curve {
    /// The curve that gives 0.5 at `tau` and 0.1 at `exp(median_ln)`, or more where the two lie so close together that it
    /// would have to be steeper than conversions between formats allow.
    pub fn through(tau: f64, median_ln: f64) -> Self {
        let gain = (9.0_f64.ln() / (tau.ln() - median_ln)).min(GAIN_MOST);
        Self { gain, offset: -gain * tau.ln() }
    }

    /// The calibrated value of a raw one.
    pub fn apply(&self, raw: f64) -> f64 {
        1.0 / (1.0 + (-(self.gain * (raw + FLOOR).ln() + self.offset)).exp())
    }
}

/// Calibrates from the scores and the maps of held-out pictures; there must be at least one, with at least one cell.
pub fn calibrate<'a>(picture_scores: &[f64], maps: impl Iterator<Item = &'a [f32]> + Clone) -> Calibration {
    let logarithms = sorted(picture_scores.iter().map(|score| (score + FLOOR).ln()));
    let cell_logarithm = |&cell: &f32| (f64::from(cell) + FLOOR).ln();
    let cell_logarithms = sorted(maps.clone().flatten().map(cell_logarithm));
    let peaks = sorted(maps.map(|map| map.iter().map(cell_logarithm).fold(f64::NEG_INFINITY, f64::max)));
    let median_ln = quantile(&logarithms, 0.5);
    let (mean, deviation) = mean_and_deviation(&logarithms);
    let tail_ln = quantile(&logarithms, TAIL_QUANTILE).max(mean + TAIL_DEVIATIONS * deviation);
    let pixel_median_ln = quantile(&cell_logarithms, 0.5);
    let pixel_tail_ln = quantile(&peaks, PIXEL_QUANTILE);
    Calibration {
        tau: tail_ln.max(median_ln + LEAST_RANGE_LN).exp(),
        median_ln,
        pixel_tau: pixel_tail_ln.max(pixel_median_ln + LEAST_RANGE_LN).exp(),
        pixel_median_ln,
        held_out: picture_scores.len(),
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The value below which this share of the sorted values lies, interpolated between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * sorted.len().saturating_sub(1) as f64;
    let below = position as usize;
    let above = (below + 1).min(sorted.len().saturating_sub(1));
    let (Some(&low), Some(&high)) = (sorted.get(below), sorted.get(above)) else {
        return 0.0;
    };
    low + (high - low) * (position - below as f64)
}

/// Mean and sample deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_normal_gets_a_tenth_and_the_threshold_is_one_half() {
        let scores: Vec<f64> = (0..30).map(|index| 5.0 + 0.1 * f64::from(index)).collect();
        let calibration = calibrate(&scores, [[1.0, 1.5, 2.0].as_slice()].into_iter());
        let curve = Curve::through(calibration.tau, calibration.median_ln);
        assert!((curve.apply(calibration.tau) - 0.5).abs() < 1e-6);
        assert!((curve.apply(calibration.median_ln.exp()) - 0.1).abs() < 1e-6);
        let above = scores.iter().filter(|&&score| curve.apply(score) >= 0.5).count();
        assert!(above <= 1, "{above} of 30 normals are rejected");
    }

    #[test]
    fn masks_begin_above_what_normal_pictures_reach_anywhere() {
        let maps: Vec<Vec<f32>> = (0..20).map(|index| vec![1.0, 1.0, 1.0, 2.0 + 0.01 * index as f32]).collect();
        let calibration = calibrate(&[3.0; 20], maps.iter().map(Vec::as_slice));
        let above = maps.iter().filter(|map| f64::from(map[3]) > calibration.pixel_tau).count();
        assert_eq!(above, 1, "one of twenty normal pictures may have a mark");
        assert!((calibration.pixel_median_ln.exp() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn equal_scores_still_leave_room_above_them() {
        let calibration = calibrate(&[3.0; 12], std::iter::once([2.0; 50].as_slice()));
        let curve = Curve::through(calibration.tau, calibration.median_ln);
        assert!(curve.apply(3.0) < 0.45);
        assert!(curve.apply(3.5) > 0.8);
        assert!(curve.apply(3.0 * 1.007) - curve.apply(3.0) <= 0.021, "too steep");
        assert!(calibration.tau > 3.0 && calibration.pixel_tau > 2.0);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.5), 2.0);
        assert_eq!(quantile(&[0.0, 10.0], 0.95), 9.5);
        assert_eq!(quantile(&[4.0], 0.95), 4.0);
    }
}
