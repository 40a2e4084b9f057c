//! Forty scored pictures, for tables of evaluation and thresholds.

/// Scores of 24 normals and 16 anomalies, with ties within and across the classes.
const NORMALS: [f64; 24] = [
    0.038, 0.019, 0.074, 0.719, 0.038, 0.113, 0.051, 0.038, 0.227, 0.481, 0.136, 0.022, 0.031, 0.47, 0.126, 0.012,
    0.09, 0.024, 0.047, 0.055, 0.042, 0.185, 0.093, 0.049,
];
const ANOMALIES: [f64; 16] =
    [0.86, 0.92, 0.22, 0.693, 0.433, 0.719, 0.324, 0.774, 0.758, 0.678, 0.408, 0.647, 0.392, 0.303, 0.823, 0.386];

/// The scores, normals first, and which of them are anomalies.
pub(crate) fn forty() -> (Vec<f64>, Vec<bool>) {
    let truths = [vec![false; NORMALS.len()], vec![true; ANOMALIES.len()]].concat();
    ([NORMALS.as_slice(), ANOMALIES.as_slice()].concat(), truths)
}
