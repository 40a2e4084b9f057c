//! The patch head: which label each cell of the finest feature map has, learnt from masks.

use ndarray::{Array2, Axis, Slice};

use super::logistic::{Lesson, Logistic, softmax};
use super::mlp::Mlp;
use super::taps::{Grid, Taps, grown};
use crate::dataset::LabelPicture;

/// Share of a cell that a label must cover for the cell to teach it.
const COVERED: f32 = 0.30;
/// Share of a cell that labels may cover together for the cell to teach what is normal.
const UNCOVERED: f32 = 0.01;
/// Cells that teach one label, at most.
const MOST_PER_LABEL: usize = 4_000;
/// Cells that teach all labels together, at most: with a hundred labels there are fewer of each.
const MOST_LABELLED: usize = 40_000;
/// Cells that teach what is normal, at most.
const MOST_NORMAL: usize = 16_000;
/// A picture may give this many times its even share, since many have less.
const OVERSUPPLY: usize = 4;
/// How much more than a normal cell a labelled one counts, at most.
const MOST_WEIGHT: f32 = 3.0;
const LOGISTIC_STRENGTH: f64 = 0.001;
const LOGISTIC_ITERATIONS: usize = 120;
/// Highest cells that make a picture's score.
pub(crate) const TOP_CELLS: usize = 20;

/// What the patch head is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// One linear function a label.
    Logistic,
    /// A network with one hidden layer.
    Mlp,
}

/// From a cell's features to one value a class: normal, then each label.
#[derive(Debug, Clone, PartialEq)]
pub struct PatchHead {
    /// For each map, the finest first: `[units, channels]`.
    pub(crate) inner: Vec<Array2<f32>>,
    /// Added to the sum over the maps.
    pub(crate) inner_bias: Vec<f32>,
    /// `[classes, units]` and one bias a class behind a rectifier; without it the units are the classes.
    pub(crate) outer: Option<(Array2<f32>, Vec<f32>)>,
}

/// Cells of one picture that teach, with their classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cells {
    classes: Vec<u8>,
    rows: Vec<f32>,
}

/// For each class, the share of each cell that it covers.
struct Cover {
    /// `labels` values for each cell.
    shares: Vec<f32>,
}

/// How many cells a picture may give.
#[derive(Debug, Clone, Copy)]
pub(super) struct Supply {
    normal: usize,
    each_label: usize,
}

impl Supply {
    /// For this many views of all pictures, of which `masked` show labels.
    pub(super) fn of(views: usize, masked: usize, labels: usize) -> Self {
        let each_label = most_per_label(labels).div_ceil(masked.max(1)) * OVERSUPPLY;
        Self { normal: MOST_NORMAL.div_ceil(views.max(1)), each_label }
    }
}

fn most_per_label(labels: usize) -> usize {
    (MOST_LABELLED / labels.max(1)).min(MOST_PER_LABEL)
}

impl Cells {
    /// Adds cells drawn from one picture. A picture without a mask is all normal.
    pub(super) fn draw(
        &mut self,
        taps: &Taps,
        grid: &Grid,
        mask: Option<&LabelPicture>,
        labels: usize,
        supply: Supply,
        random: &mut fastrand::Rng,
    ) {
        let mut by_class: Vec<Vec<usize>> = vec![Vec::new(); labels + 1];
        match mask {
            None => by_class[0].extend(0..grid.side * grid.side),
            Some(mask) => {
                let cover = Cover::of(mask, grid.side, labels);
                for (cell, shares) in cover.shares.chunks_exact(labels.max(1)).enumerate() {
                    if let Some(class) = class_of(shares) {
                        by_class[class].push(cell);
                    }
                }
            }
        }
        for (class, cells) in by_class.iter_mut().enumerate() {
            random.shuffle(cells);
            cells.truncate(if class == 0 { supply.normal } else { supply.each_label });
            grid.gather(taps, cells, &mut self.rows);
            self.classes.extend(std::iter::repeat_n(class as u8, cells.len()));
        }
    }
}

/// The class that a cell teaches, or none when it is at a border.
fn class_of(shares: &[f32]) -> Option<usize> {
    let (label, &most) = shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    if most > COVERED {
        return Some(label + 1);
    }
    (shares.iter().sum::<f32>() < UNCOVERED).then_some(0)
}

impl Cover {
    fn of(mask: &LabelPicture, side: usize, labels: usize) -> Self {
        let mut counts = vec![0_u32; side * side * labels.max(1)];
        let mut totals = vec![0_u32; side * side];
        // A pixel belongs to the cell that its centre lies in.
        let cell_of = |pixel: usize, pixels: usize| (2 * pixel + 1) * side / (2 * pixels);
        for (y, row) in mask.labels.chunks_exact(mask.width).enumerate() {
            let cells = cell_of(y, mask.height) * side;
            for (x, &label) in row.iter().enumerate() {
                let cell = cells + cell_of(x, mask.width);
                totals[cell] += 1;
                if let Some(label) = usize::from(label).checked_sub(1).filter(|&label| label < labels) {
                    counts[cell * labels + label] += 1;
                }
            }
        }
        let share = |(index, &count): (usize, &u32)| count as f32 / totals[index / labels.max(1)].max(1) as f32;
        Self { shares: counts.iter().enumerate().map(share).collect() }
    }
}

/// A mask as its mirror image shows it.
pub(super) fn mirrored(mask: &LabelPicture) -> LabelPicture {
    let mut mirrored = mask.clone();
    mirrored.labels.chunks_exact_mut(mask.width).for_each(<[u8]>::reverse);
    mirrored
}

impl PatchHead {
    /// Fits a head to the cells of these pictures.
    pub(super) fn fit<'a>(
        cells: impl Iterator<Item = &'a Cells>,
        shapes: &[(usize, usize)],
        labels: usize,
        kind: PatchKind,
        seed: u64,
    ) -> Self {
        let channels: usize = shapes.iter().map(|&(channels, _)| channels).sum();
        let (mut rows, classes) = select(cells, channels, labels, seed);
        let (mean, inverse_deviation) = standardise(&mut rows);
        let weights = class_weights(&classes, labels + 1);
        let lesson = Lesson { rows: rows.view(), classes: &classes, weights: &weights };
        let (mut inner, mut inner_bias, outer) = match kind {
            PatchKind::Logistic => {
                let model = Logistic::fit(&lesson, labels + 1, LOGISTIC_STRENGTH, LOGISTIC_ITERATIONS);
                (model.weights, model.bias.to_vec(), None)
            }
            PatchKind::Mlp => {
                let network = Mlp::fit(&lesson, labels + 1, seed);
                (network.inner, network.inner_bias.to_vec(), Some((network.outer, network.outer_bias.to_vec())))
            }
        };
        // The standardisation goes into the weights, so that nobody has to do it again.
        for (mut unit, bias) in inner.outer_iter_mut().zip(&mut inner_bias) {
            for ((weight, mean), inverse) in unit.iter_mut().zip(&mean).zip(&inverse_deviation) {
                *weight *= inverse;
                *bias -= *weight * mean;
            }
        }
        let mut first = 0;
        let of_map = |&(channels, _): &(usize, usize)| {
            let part = inner.slice_axis(Axis(1), Slice::from(first..first + channels)).to_owned();
            first += channels;
            part
        };
        Self { inner: shapes.iter().map(of_map).collect(), inner_bias, outer }
    }

    /// The same head with one value a label: how much more a cell looks like it than like a normal one.
    pub(crate) fn against_normal(&self) -> Self {
        let mut head = self.clone();
        let relative_bias = |bias: &[f32]| bias[1..].iter().map(|value| value - bias[0]).collect::<Vec<f32>>();
        let relative = |weights: &Array2<f32>| {
            let normal = weights.row(0);
            &weights.slice_axis(Axis(0), Slice::from(1..)) - &normal
        };
        match &mut head.outer {
            Some((weights, bias)) => {
                *weights = relative(weights);
                *bias = relative_bias(bias);
            }
            None => {
                head.inner.iter_mut().for_each(|weights| *weights = relative(weights));
                head.inner_bias = relative_bias(&head.inner_bias);
            }
        }
        head
    }

    /// One value a class (rows) for each cell of the finest map.
    pub(super) fn values(&self, taps: &Taps) -> Array2<f32> {
        let mut sum: Option<(Array2<f32>, usize)> = None;
        for (map, weights) in taps.maps.iter().zip(&self.inner).rev() {
            let own = weights.dot(&map.matrix());
            let with_coarser = match sum {
                Some((coarser, size)) => own + grown(&coarser, size, map.size),
                None => own,
            };
            sum = Some((with_coarser, map.size));
        }
        let (mut units, _) = sum.unwrap_or_default();
        add_bias(&mut units, &self.inner_bias);
        let Some((weights, bias)) = &self.outer else { return units };
        units.mapv_inplace(|value| value.max(0.0));
        let mut values = weights.dot(&units);
        add_bias(&mut values, bias);
        values
    }
}

/// How much more a cell looks like any label than like a normal one.
pub(super) fn oddness(values: &Array2<f32>) -> Vec<f32> {
    let odd = |cell: ndarray::ArrayView1<'_, f32>| {
        let labels = cell.iter().skip(1).copied();
        labels.fold(f32::NEG_INFINITY, f32::max) - cell[0]
    };
    values.axis_iter(Axis(1)).map(odd).collect()
}

/// A picture's score: the mean of the oddest cells.
pub(super) fn picture_score(oddness: &[f32], top: usize) -> f32 {
    let mut sorted = oddness.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    sorted.truncate(top);
    sorted.iter().sum::<f32>() / sorted.len().max(1) as f32
}

/// The probability of each label (rows) for each cell.
pub(super) fn label_probabilities(values: &Array2<f32>) -> Array2<f32> {
    let mut probabilities = Array2::zeros((values.nrows() - 1, values.ncols()));
    for (cell, mut target) in values.axis_iter(Axis(1)).zip(probabilities.axis_iter_mut(Axis(1))) {
        let mut shares = cell.to_owned();
        softmax(&mut shares.view_mut());
        target.iter_mut().zip(shares.iter().skip(1)).for_each(|(place, &share)| *place = share);
    }
    probabilities
}

fn add_bias(values: &mut Array2<f32>, bias: &[f32]) {
    for (mut row, bias) in values.outer_iter_mut().zip(bias) {
        row += *bias;
    }
}

/// At most so many rows of each class, drawn evenly from what the pictures give.
fn select<'a>(
    cells: impl Iterator<Item = &'a Cells>,
    channels: usize,
    labels: usize,
    seed: u64,
) -> (Array2<f32>, Vec<usize>) {
    let mut by_class: Vec<Vec<&[f32]>> = vec![Vec::new(); labels + 1];
    for picture in cells {
        for (&class, row) in picture.classes.iter().zip(picture.rows.chunks_exact(channels)) {
            by_class[usize::from(class)].push(row);
        }
    }
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed_ce11);
    let (mut rows, mut classes) = (Vec::new(), Vec::new());
    for (class, of_class) in by_class.iter_mut().enumerate() {
        random.shuffle(of_class);
        of_class.truncate(if class == 0 { MOST_NORMAL } else { most_per_label(labels) });
        classes.extend(std::iter::repeat_n(class, of_class.len()));
        rows.extend(of_class.iter().flat_map(|row| row.iter().copied()));
    }
    let rows = Array2::from_shape_vec((classes.len(), channels), rows).expect("whole rows were gathered");
    (rows, classes)
}

/// Brings every column to mean 0 and deviation 1; gives the means and one over the deviations.
pub(super) fn standardise(rows: &mut Array2<f32>) -> (Vec<f32>, Vec<f32>) {
    let count = rows.nrows().max(1) as f64;
    let (mut mean, mut inverse) = (Vec::new(), Vec::new());
    for mut column in rows.axis_iter_mut(Axis(1)) {
        let sum: f64 = column.iter().map(|&value| f64::from(value)).sum();
        let centre = sum / count;
        let squares: f64 = column.iter().map(|&value| (f64::from(value) - centre).powi(2)).sum();
        // A channel that never changes must not explode when it does.
        let gain = 1.0 / ((squares / count).sqrt() + 1e-4);
        column.mapv_inplace(|value| ((f64::from(value) - centre) * gain) as f32);
        mean.push(centre as f32);
        inverse.push(gain as f32);
    }
    (mean, inverse)
}

/// A row's weight: labels that are rare count more, up to [`MOST_WEIGHT`].
fn class_weights(classes: &[usize], count: usize) -> Vec<f32> {
    let mut rows = vec![0_usize; count];
    classes.iter().for_each(|&class| rows[class] += 1);
    let normal = rows[0] as f32;
    let weight = |class: usize| match class {
        0 => 1.0,
        _ => (normal / rows[class].max(1) as f32).clamp(1.0, MOST_WEIGHT),
    };
    classes.iter().map(|&class| weight(class)).collect()
}
