//! From patch distances to a map and to one score for the picture. The exported graph computes the same; these functions
//! serve calibration, which scores many pictures against banks that are never exported.

use crate::features::{GRID_CELLS, PATCHES};

/// Highest cells that make the picture's score.
pub const TOP_CELLS: usize = 3;
/// Share of the map's median that is taken off again.
pub const MEDIAN_SHARE: f32 = 0.5;
/// Place of the median among a map's cells, highest first.
pub const MEDIAN_RANK: usize = PATCHES / 2;
/// Half the width of the smoothing window, in cells.
pub const SMOOTHING_RADIUS: usize = 3;
/// Deviation of the smoothing window, in cells.
const SMOOTHING_SIGMA: f64 = 1.0;

/// Weights of the smoothing window along one axis; they sum to 1.
pub fn smoothing_weights() -> Vec<f32> {
    let offsets = -(SMOOTHING_RADIUS as i32)..=SMOOTHING_RADIUS as i32;
    let weights: Vec<f64> =
        offsets.map(|offset| (-0.5 * (f64::from(offset) / SMOOTHING_SIGMA).powi(2)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| (weight / sum) as f32).collect()
}

/// Distances smoothed over their neighbours; beyond the edge the edge's value goes on.
pub fn smooth(distances: &[f32]) -> Vec<f32> {
    let weights = smoothing_weights();
    let along = |values: &[f32], step: usize, line: usize| -> Vec<f32> {
        let value = |cell: usize| {
            let position = cell / step % line;
            let start = cell - position * step;
            let neighbours = weights.iter().enumerate().map(|(tap, weight)| {
                let neighbour = (position + tap).saturating_sub(SMOOTHING_RADIUS).min(line - 1);
                weight * values[start + neighbour * step]
            });
            neighbours.sum()
        };
        (0..PATCHES).map(value).collect()
    };
    along(&along(distances, 1, GRID_CELLS), GRID_CELLS, GRID_CELLS)
}

/// The mean of a map's highest cells, less half the map's median: a texture that is unusual everywhere raises both, a
/// defect only the first.
pub fn picture_score(map: &[f32]) -> f32 {
    let mut sorted = map.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let top: f32 = sorted[..TOP_CELLS].iter().sum();
    top / TOP_CELLS as f32 - MEDIAN_SHARE * sorted[MEDIAN_RANK]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_an_even_map_and_spreads_a_peak() {
        assert!(smooth(&[2.0; PATCHES]).iter().all(|cell| (cell - 2.0).abs() < 1e-5));
        let mut peak = vec![0.0; PATCHES];
        peak[10 * GRID_CELLS + 7] = 1.0;
        let spread = smooth(&peak);
        assert!((spread.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        assert!(spread[10 * GRID_CELLS + 7] > spread[10 * GRID_CELLS + 8]);
        assert_eq!(spread[10 * GRID_CELLS + 8], spread[9 * GRID_CELLS + 7]);
    }

    #[test]
    fn a_peak_counts_and_an_even_rise_counts_half() {
        let mut map = vec![1.0; PATCHES];
        assert_eq!(picture_score(&map), 0.5);
        map[..TOP_CELLS].fill(4.0);
        assert_eq!(picture_score(&map), 3.5);
    }
}
