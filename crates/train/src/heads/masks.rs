//! From probabilities to masks: where each label begins.

use linewarden_model::{AnomalyMap, LabelMask, label_mask};
use ndarray::{Array2, ArrayView1};

use super::folds::FOLDS;
use super::seen::MASK_SCALE;
use crate::dataset::LabelPicture;

/// Borders that are tried: the logarithms of their odds, from the first to the last.
const BORDERS: std::ops::RangeInclusive<i8> = -12..=24;
/// Borders for each unit of the logarithm.
const BORDERS_A_UNIT: f32 = 4.0;

/// A label whose highest probability stays below this share of the picture's highest is not seen, unless held-out pictures
/// say better. (Tiles, 100 normals and 20 of each defect, two draws: of 132 defects the label with the highest probability is
/// right in 128 and 130, that with the largest area above its border in 125 and 110.)
const USUAL_ECHO: f32 = 0.8;
/// Other shares that are tried: from every label being seen on.
const ECHOES: [f32; 6] = [0.0, 0.2, 0.35, 0.5, 0.65, 0.9];
/// Masked pictures of which so many are held out can say which share is better: two in each fold.
const FEWEST_FOR_ECHO: usize = 2 * FOLDS;

/// Turns a label's probability `p` into `p * odds / (p * odds + 1 - p)`, which is 0.5 where the label begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelCurve {
    /// Factor of the odds.
    pub odds: f32,
}

impl LabelCurve {
    /// The curve of one of [`BORDERS`]: it gives 0.5 where the odds have that logarithm.
    fn of_number(border: i8) -> Self {
        Self { odds: (-f32::from(border) / BORDERS_A_UNIT).exp() }
    }

    /// The shifted probability.
    pub(super) fn apply(self, probability: f32) -> f32 {
        let raised = probability * self.odds;
        raised / (raised + 1.0 - probability)
    }
}

/// Where labels begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Borders {
    /// For each label.
    pub curves: Vec<LabelCurve>,
    /// The least share of the most certain label's highest probability that a label's own must reach.
    pub echo: f32,
}

/// Which labels are seen at all: those whose highest probability (of all cells) comes near that of the view's most certain
/// label. What is less certain may be a fainter defect, but mostly is the other label seen a little wrong: a halo of crack
/// around a blowhole.
pub(super) fn without_echoes(probabilities: &mut Array2<f32>, echo: f32) {
    let peaks: Vec<f32> = probabilities.outer_iter().map(peak).collect();
    let least = echo * peaks.iter().copied().fold(0.0, f32::max);
    for (mut row, peak) in probabilities.outer_iter_mut().zip(peaks) {
        if peak < least {
            row.fill(0.0);
        }
    }
}

fn peak(row: ArrayView1<'_, f32>) -> f32 {
    row.iter().copied().fold(0.0, f32::max)
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

/// Whether no border makes any of these probabilities a label.
pub(super) fn is_silent(probabilities: &Array2<f32>) -> bool {
    let lowest = LabelCurve::of_number(*BORDERS.start());
    probabilities.iter().all(|&probability| lowest.apply(probability) < 0.5)
}

/// What all borders make of a picture: view by view, and in each label by label. Views in which [`is_silent`] holds and
/// nothing is to be drawn may be left out.
pub(super) type Tried = Vec<Vec<TriedLabel>>;

/// What all borders make of one label in one view.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TriedLabel {
    peak: f32,
    /// Pixels that show the label.
    truth: usize,
    /// For each of [`BORDERS`]: pixels that are marked rightly, and all that are marked.
    marked: Vec<(usize, usize)>,
}

/// Tries all borders in one view. `probabilities` has a row for each label.
pub(super) fn try_borders(probabilities: &Array2<f32>, truth: Option<&Truth>) -> Vec<TriedLabel> {
    (1..).zip(probabilities.outer_iter()).map(|(number, row)| try_label(row, truth, number)).collect()
}

fn try_label(probabilities: ArrayView1<'_, f32>, truth: Option<&Truth>, number: u8) -> TriedLabel {
    let own_side = (probabilities.len() as f64).sqrt().round() as usize;
    let side = truth.map_or(own_side * MASK_SCALE, |truth| truth.side);
    let peak = peak(probabilities);
    let marked = |border: i8| {
        let curve = LabelCurve::of_number(border);
        if curve.apply(peak) < 0.5 {
            return (0, 0);
        }
        let values = probabilities.iter().map(|&value| curve.apply(value)).collect();
        let map = AnomalyMap { width: own_side, height: own_side, values }.resized(side, side);
        let found = || map.values.iter().enumerate().filter(|(_, value)| **value >= 0.5).map(|(pixel, _)| pixel);
        let right = truth.map_or(0, |truth| found().filter(|&pixel| truth.labels[pixel] == number).count());
        (right, found().count())
    };
    let shown = |truth: &Truth| truth.labels.iter().filter(|&&own| own == number).count();
    TriedLabel { peak, truth: truth.map_or(0, shown), marked: BORDERS.map(marked).collect() }
}

/// How well labels are drawn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawing {
    pub(super) borders: Borders,
    /// Mean IoU of each label over the pictures that show it, 0 for a label that none shows.
    pub(super) ious: Vec<f64>,
}

/// For each label the border with the best mean IoU over the pictures that show it; and which echoes are left out, so that
/// labels are seen where they are and nowhere else.
pub(super) fn calibrate(pictures: &[Tried], labels: usize) -> Drawing {
    let (mut taken, usual) = draw_with(USUAL_ECHO, pictures, labels);
    if labels < 2 || pictures.len() < FEWEST_FOR_ECHO {
        return taken;
    }
    let mut most = 0.0;
    for echo in ECHOES {
        let (drawing, worth) = draw_with(echo, pictures, labels);
        let gains: Vec<f64> = worth.iter().zip(&usual).map(|(own, usual)| own - usual).collect();
        let (gain, chance) = mean_and_error(&gains);
        tracing::debug!(echo, gain, chance, "share below which labels are echoes");
        if gain > most && gain > chance {
            (taken, most) = (drawing, gain);
        }
    }
    taken
}

/// The best borders where these echoes are left out, and each picture's mean IoU of the labels that are shown or marked.
fn draw_with(echo: f32, pictures: &[Tried], labels: usize) -> (Drawing, Vec<f64>) {
    let best: Vec<(i8, f64)> = (0..labels).map(|label| best_border(echo, pictures, label)).collect();
    let worth = |picture: &Tried| {
        let overlaps = best.iter().enumerate().map(|(label, &(border, _))| Overlap::of(picture, label, border, echo));
        let ious: Vec<f64> = overlaps.filter(|overlap| overlap.either() > 0).map(|overlap| overlap.iou()).collect();
        ious.iter().sum::<f64>() / ious.len().max(1) as f64
    };
    let curves = best.iter().map(|&(border, _)| LabelCurve::of_number(border)).collect();
    let ious = best.iter().map(|&(_, iou)| iou).collect();
    (Drawing { borders: Borders { curves, echo }, ious }, pictures.iter().map(worth).collect())
}

fn best_border(echo: f32, pictures: &[Tried], label: usize) -> (i8, f64) {
    let shows = |picture: &&Tried| picture.iter().any(|view| view[label].truth > 0);
    let showing: Vec<&Tried> = pictures.iter().filter(shows).collect();
    let mean_iou = |border: i8| {
        let ious = showing.iter().map(|picture| Overlap::of(picture, label, border, echo).iou());
        (border, ious.sum::<f64>() / showing.len().max(1) as f64)
    };
    let best = |best: (i8, f64), next: (i8, f64)| if next.1 > best.1 { next } else { best };
    BORDERS.map(mean_iou).fold((0, 0.0), best)
}

/// Mean, and how far chance moves it.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}

/// Pixels of one label in one picture.
#[derive(Debug, Default)]
struct Overlap {
    right: usize,
    marked: usize,
    truth: usize,
}

impl Overlap {
    fn of(picture: &Tried, label: usize, border: i8, echo: f32) -> Self {
        let mut overlap = Self::default();
        for view in picture {
            let tried = &view[label];
            overlap.truth += tried.truth;
            let highest = view.iter().map(|other| other.peak).fold(0.0, f32::max);
            if tried.peak >= echo * highest {
                let (right, marked) = tried.marked[(border - BORDERS.start()) as usize];
                overlap.right += right;
                overlap.marked += marked;
            }
        }
        overlap
    }

    fn either(&self) -> usize {
        self.marked + self.truth - self.right
    }

    fn iou(&self) -> f64 {
        self.right as f64 / self.either().max(1) as f64
    }
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
    label_mask(maps, MASK_SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDE: usize = 8;

    /// A view of two labels: the probability of each on its own side, left and right, and what is there to be drawn.
    fn tried(probabilities: [f32; 2], shown: [bool; 2]) -> Tried {
        let is_left = |index: usize, side: usize| index % side < side / 2;
        let value = |(label, cell): (usize, usize)| {
            if is_left(cell, SIDE) == (label == 0) { probabilities[label] } else { 0.001 }
        };
        let map = Array2::from_shape_fn((2, SIDE * SIDE), value);
        let side = SIDE * MASK_SCALE;
        let label = |pixel: usize| match is_left(pixel, side) {
            true => u8::from(shown[0]),
            false => 2 * u8::from(shown[1]),
        };
        let truth = Truth { side, labels: (0..side * side).map(label).collect() };
        vec![try_borders(&map, Some(&truth))]
    }

    #[test]
    fn which_labels_are_echoes_is_what_held_out_pictures_say() {
        let sure = || [tried([0.95, 0.02], [true, false]), tried([0.02, 0.95], [false, true])];
        // A second defect of the same picture, fainter than the first.
        let two = || [tried([0.95, 0.6], [true, true]), tried([0.6, 0.95], [true, true])];
        // The same probabilities, but only the first defect is there.
        let halo = || [tried([0.95, 0.6], [true, false]), tried([0.6, 0.95], [false, true])];
        let of = |kinds: &[(&dyn Fn() -> [Tried; 2], usize)]| -> Vec<Tried> {
            kinds.iter().flat_map(|(kind, count)| (0..*count).flat_map(|_| kind())).collect()
        };
        // What is taught, the range that the share lies in, and whether the fainter one of two is seen.
        let table = [
            ("fainter defects", of(&[(&sure, 10), (&two, 10)]), 0.0..=0.6, true),
            ("halos", of(&[(&sure, 10), (&halo, 10)]), 0.8..=0.8, false),
            ("mostly halos", of(&[(&halo, 30), (&two, 2)]), 0.8..=0.8, false),
            ("nothing that speaks for another share", of(&[(&sure, 20)]), 0.8..=0.8, false),
            ("too few to say", of(&[(&two, 5)]), 0.8..=0.8, false),
        ];
        for (name, pictures, expected, sees_fainter) in table {
            let drawing = calibrate(&pictures, 2);
            let echo = drawing.borders.echo;
            assert!(expected.contains(&echo), "{name}: {echo}");
            let mut map = Array2::from_shape_vec((2, 2), vec![0.95, 0.0, 0.0, 0.6]).unwrap();
            without_echoes(&mut map, echo);
            assert_eq!(map[(1, 1)] > 0.0, sees_fainter, "{name}");
            assert_eq!(calibrate(&pictures, 2), drawing, "{name}");
        }
    }

    #[test]
    fn a_picture_of_many_views_is_one_picture() {
        let (found, missed) = (tried([0.9, 0.001], [true, false]), tried([0.001, 0.001], [true, false]));
        let both: Tried = [found.clone(), missed].concat();
        let drawing = calibrate(&[both, found], 2);
        // Half of what the first picture shows was missed.
        assert!((drawing.ious[0] - 0.75).abs() < 0.1 && drawing.ious[1] == 0.0, "{drawing:?}");
        assert!(is_silent(&Array2::from_elem((2, 4), 0.04)) && !is_silent(&Array2::from_elem((2, 4), 0.05)));
    }
}
