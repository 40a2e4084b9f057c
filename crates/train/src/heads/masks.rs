//! From probabilities to masks: where each label begins.

use linewarden_model::{AnomalyMap, LabelMask, label_mask};
use ndarray::{Array2, ArrayView1};

use crate::dataset::LabelPicture;

/// Borders that are tried: the logarithms of their odds, from the first to the last.
const BORDERS: std::ops::RangeInclusive<i8> = -12..=24;
/// Borders for each unit of the logarithm.
const BORDERS_A_UNIT: f32 = 4.0;

/// A label whose highest probability stays below this share of the picture's highest is not seen.
pub(crate) const ECHO: f32 = 0.8;

/// Turns a label's probability `p` into `p * odds / (p * odds + 1 - p)`, which is 0.5 where the label begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelCurve {
    /// Factor of the odds.
    pub odds: f32,
}

impl LabelCurve {
    /// The curve that gives 0.5 where the odds have this logarithm.
    fn through(border: f32) -> Self {
        Self { odds: (-border).exp() }
    }

    /// The shifted probability.
    pub(super) fn apply(self, probability: f32) -> f32 {
        let raised = probability * self.odds;
        raised / (raised + 1.0 - probability)
    }
}

/// Which labels are seen at all: those whose highest probability (of all cells) comes near that of the picture's most
/// certain label. What is less certain is mostly the other label seen a little wrong: a halo of crack around a blowhole.
/// (Tiles, 100 normals and 20 of each defect, two draws: of 132 defects the label with the highest probability is right in
/// 128 and 130, that with the largest area above its border in 125 and 110.)
pub(super) fn without_echoes(probabilities: &mut Array2<f32>) {
    let peak = |row: ArrayView1<'_, f32>| row.iter().copied().fold(0.0, f32::max);
    let peaks: Vec<f32> = probabilities.outer_iter().map(peak).collect();
    let least = ECHO * peaks.iter().copied().fold(0.0, f32::max);
    for (mut row, peak) in probabilities.outer_iter_mut().zip(peaks) {
        if peak < least {
            row.fill(0.0);
        }
    }
}

/// A mask at the size of the product's own masks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Truth {
    pub(super) side: usize,
    pub(super) labels: Vec<u8>,
}

impl Truth {
    /// Of the pixels at the centres of `side * side` cells.
    pub(super) fn of(mask: &LabelPicture, side: usize) -> Self {
        let place = |cell: usize, pixels: usize| (2 * cell + 1) * pixels / (2 * side);
        let row = |y: usize| (0..side).map(move |x| (place(y, mask.height), place(x, mask.width)));
        let label = |(y, x): (usize, usize)| mask.labels[y * mask.width + x];
        Self { side, labels: (0..side).flat_map(row).map(label).collect() }
    }
}

/// For each label the curve with the best mean IoU over the pictures that show it, and that mean (0 for a label that
/// none shows). `probabilities` has a row for each label.
pub(super) fn calibrate(pictures: &[(&Array2<f32>, &Truth)], labels: usize) -> Vec<(LabelCurve, f64)> {
    (0..labels).map(|label| calibrate_label(pictures, label)).collect()
}

fn calibrate_label(pictures: &[(&Array2<f32>, &Truth)], label: usize) -> (LabelCurve, f64) {
    let number = label as u8 + 1;
    let showing: Vec<_> = pictures.iter().filter(|(_, truth)| truth.labels.contains(&number)).collect();
    let mean_iou = |border: i8| {
        let border = f32::from(border) / BORDERS_A_UNIT;
        let curve = LabelCurve::through(border);
        let iou = |(probabilities, truth): &&(&Array2<f32>, &Truth)| {
            let values: Vec<f32> = probabilities.row(label).iter().map(|&value| curve.apply(value)).collect();
            let side = (values.len() as f64).sqrt().round() as usize;
            let map = AnomalyMap { width: side, height: side, values }.resized(truth.side, truth.side);
            iou(map.values.iter().map(|&value| value >= 0.5), truth.labels.iter().map(|&own| own == number))
        };
        (border, showing.iter().map(iou).sum::<f64>() / showing.len().max(1) as f64)
    };
    let best = |best: (f32, f64), next: (f32, f64)| if next.1 > best.1 { next } else { best };
    let (border, iou) = BORDERS.map(mean_iou).fold((0.0, 0.0), best);
    (LabelCurve::through(border), iou)
}

fn iou(found: impl Iterator<Item = bool>, truth: impl Iterator<Item = bool>) -> f64 {
    let (mut both, mut either) = (0_usize, 0_usize);
    for (found, truth) in found.zip(truth) {
        both += usize::from(found && truth);
        either += usize::from(found || truth);
    }
    both as f64 / either.max(1) as f64
}

/// Each label's map as the exported graph gives it.
pub(super) fn label_maps(probabilities: &Array2<f32>, curves: &[LabelCurve]) -> Vec<AnomalyMap> {
    let map = |(row, curve): (ArrayView1<'_, f32>, &LabelCurve)| {
        let side = (row.len() as f64).sqrt().round() as usize;
        AnomalyMap { width: side, height: side, values: row.iter().map(|&value| curve.apply(value)).collect() }
    };
    probabilities.outer_iter().zip(curves).map(map).collect()
}

/// The mask that the product draws.
pub(super) fn mask(maps: &[AnomalyMap]) -> Option<LabelMask> {
    label_mask(maps, super::learn::MASK_SCALE)
}
