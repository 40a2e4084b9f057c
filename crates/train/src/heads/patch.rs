//! The patch head: which label each cell of the finest feature map has, learnt from masks, and from that how odd a
//! picture is.

use ndarray::{Array2, Axis};

use super::cells::{CellHead, Cover, standardise};
use super::logistic::{Lesson, Logistic};
use super::taps::{Grid, Taps};
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
const STRENGTH: f64 = 0.001;
const ITERATIONS: usize = 120;
/// Highest cells that make a picture's score: as many as a small defect has. (Tiles, 30 normals and 10 of each defect, five
/// draws, mean F1 at the threshold: 0.887, and 0.873 with 20 cells.)
pub(crate) const TOP_CELLS: usize = 8;

/// Cells of one picture that teach, with their classes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cells {
    classes: Vec<u8>,
    rows: Vec<f32>,
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

    /// The same for one of a picture's views, of which so many show labels.
    pub(super) fn among(self, showing: usize) -> Self {
        Self { each_label: self.each_label.div_ceil(showing.max(1)), ..self }
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

/// Fits a patch head to the cells of these pictures: one linear function a class.
///
/// A network with a hidden layer draws better outlines, but tells pictures apart less well, when it has few defects to go
/// by (tiles, 100 normals and 20 of each defect, three draws: ROC AUC 0.979 against 0.992).
pub(super) fn fit<'a>(
    cells: impl Iterator<Item = &'a Cells>,
    shapes: &[(usize, usize)],
    labels: usize,
    seed: u64,
) -> CellHead {
    let channels: usize = shapes.iter().map(|&(channels, _)| channels).sum();
    let (mut rows, classes) = select(cells, channels, labels, seed);
    let scale = standardise(&mut rows);
    let weights = class_weights(&classes, labels + 1);
    let lesson = Lesson { rows: rows.view(), classes: &classes, weights: &weights };
    let model = Logistic::fit(&lesson, labels + 1, STRENGTH, ITERATIONS);
    CellHead::of_standardised(model.weights, model.bias.to_vec(), None, &scale, shapes)
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
