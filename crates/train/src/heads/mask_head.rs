//! The mask head: how much of each cell of the finest feature map each label covers, learnt from masks.
//!
//! Outlines are learnt apart from verdicts. A mask is only right if its border is, so half of what teaches it lies at
//! borders, with the share that is covered as the target; the patch head, which tells pictures apart, is better off without
//! cells that are neither one nor the other.

use ndarray::Array2;

use super::cells::{CellHead, Cover, standardise};
use super::mlp::Mlp;
use super::taps::{Grid, Taps};
use crate::dataset::LabelPicture;

/// How far from what is covered a cell still lies beside it, in cells.
const BESIDE: usize = 2;
/// Cells with some of one label that teach, at most.
const MOST_PER_LABEL: usize = 12_000;
/// Cells with some of any label that teach, at most: with a hundred labels there are fewer of each.
const MOST_COVERED: usize = 24_000;
/// Cells beside them that teach, at most.
const MOST_BESIDE: usize = 12_000;
/// Other cells that teach, at most.
const MOST_PLAIN: usize = 16_000;
/// A picture may give this many times its even share, since many have less.
const OVERSUPPLY: usize = 4;

/// Where a cell lies; cells with labels come after these two by the label that covers most.
const PLAIN: usize = 0;
const BESIDE_COVERED: usize = 1;
const FIRST_LABEL: usize = 2;

/// Cells of one picture that teach, each with the share of it that each label covers.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MaskCells {
    kinds: Vec<u8>,
    shares: Vec<f32>,
    rows: Vec<f32>,
}

/// How many cells of each kind all pictures together may give.
fn most_of(kind: usize, labels: usize) -> usize {
    match kind {
        PLAIN => MOST_PLAIN,
        BESIDE_COVERED => MOST_BESIDE,
        _ => (MOST_COVERED / labels.max(1)).min(MOST_PER_LABEL),
    }
}

/// How many views of pictures share in what may be given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared {
    /// All views.
    pub(super) views: usize,
    /// Those with masks.
    pub(super) masked: usize,
}

impl Shared {
    /// The same for one of a picture's views, of which so many show labels.
    pub(super) fn among(self, showing: usize) -> Self {
        Self { masked: self.masked * showing.max(1), ..self }
    }
}

impl MaskCells {
    /// Adds cells drawn from one view of a picture. A picture without a mask is all plain.
    pub(super) fn draw(
        &mut self,
        taps: &Taps,
        grid: &Grid,
        mask: Option<&LabelPicture>,
        labels: usize,
        shared: Shared,
        random: &mut fastrand::Rng,
    ) {
        let mut by_kind: Vec<Vec<usize>> = vec![Vec::new(); FIRST_LABEL + labels];
        let shares = match mask {
            Some(mask) => Cover::of(mask, grid.side, labels).shares,
            None => vec![0.0; grid.side * grid.side * labels],
        };
        for (cell, kind) in kinds(&shares, grid.side, labels).into_iter().enumerate() {
            by_kind[kind].push(cell);
        }
        for (kind, cells) in by_kind.iter_mut().enumerate() {
            let most = match kind {
                PLAIN => most_of(kind, labels).div_ceil(shared.views.max(1)),
                _ => most_of(kind, labels).div_ceil(shared.masked.max(1)) * OVERSUPPLY,
            };
            random.shuffle(cells);
            cells.truncate(most);
            grid.gather(taps, cells, &mut self.rows);
            self.kinds.extend(std::iter::repeat_n(kind as u8, cells.len()));
            self.shares.extend(cells.iter().flat_map(|&cell| &shares[cell * labels..][..labels]));
        }
    }
}

/// Where each cell lies.
fn kinds(shares: &[f32], side: usize, labels: usize) -> Vec<usize> {
    let covering = |shares: &[f32]| {
        let (label, &most) = shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
        (most > 0.0).then_some(label)
    };
    let mut kinds: Vec<usize> = shares
        .chunks_exact(labels.max(1))
        .map(|shares| covering(shares).map_or(PLAIN, |label| FIRST_LABEL + label))
        .collect();
    for cell in 0..kinds.len() {
        if kinds[cell] < FIRST_LABEL {
            continue;
        }
        let (y, x) = (cell / side, cell % side);
        for row in y.saturating_sub(BESIDE)..(y + BESIDE + 1).min(side) {
            for near in &mut kinds[row * side..][x.saturating_sub(BESIDE)..(x + BESIDE + 1).min(side)] {
                *near = (*near).max(BESIDE_COVERED);
            }
        }
    }
    kinds
}

/// Fits a mask head to the cells of these pictures.
pub(super) fn fit<'a>(
    cells: impl Iterator<Item = &'a MaskCells>,
    shapes: &[(usize, usize)],
    labels: usize,
    seed: u64,
) -> CellHead {
    let channels: usize = shapes.iter().map(|&(channels, _)| channels).sum();
    let (mut rows, shares) = select(cells, channels, labels, seed);
    let scale = standardise(&mut rows);
    let network = Mlp::fit(rows.view(), shares.view(), seed);
    let outer = Some((network.outer, network.outer_bias.to_vec()));
    CellHead::of_standardised(network.inner, network.inner_bias.to_vec(), outer, &scale, shapes)
}

/// At most so many rows of each kind, drawn evenly from what the pictures give, and how far each belongs to each class:
/// normal, then each label.
fn select<'a>(
    cells: impl Iterator<Item = &'a MaskCells>,
    channels: usize,
    labels: usize,
    seed: u64,
) -> (Array2<f32>, Array2<f32>) {
    let mut by_kind: Vec<Vec<(&[f32], &[f32])>> = vec![Vec::new(); FIRST_LABEL + labels];
    for picture in cells {
        let pairs = picture.rows.chunks_exact(channels).zip(picture.shares.chunks_exact(labels.max(1)));
        for (&kind, pair) in picture.kinds.iter().zip(pairs) {
            by_kind[usize::from(kind)].push(pair);
        }
    }
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed_3a5c);
    let (mut rows, mut targets, mut count) = (Vec::new(), Vec::new(), 0);
    for (kind, of_kind) in by_kind.iter_mut().enumerate() {
        random.shuffle(of_kind);
        of_kind.truncate(most_of(kind, labels));
        count += of_kind.len();
        for (row, shares) in of_kind {
            rows.extend_from_slice(row);
            targets.push(1.0 - shares.iter().sum::<f32>());
            targets.extend_from_slice(shares);
        }
    }
    let rows = Array2::from_shape_vec((count, channels), rows).expect("whole rows were gathered");
    let targets = Array2::from_shape_vec((count, labels + 1), targets).expect("a share for each class");
    (rows, targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lie_under_beside_or_far_from_what_is_covered() {
        const SIDE: usize = 8;
        let mut shares = vec![0.0; SIDE * SIDE * 2];
        // A corner of the second label, barely touched.
        shares[1] = 0.01;
        let kinds = kinds(&shares, SIDE, 2);
        assert_eq!(kinds[0], FIRST_LABEL + 1);
        let beside: Vec<usize> = (0..SIDE * SIDE).filter(|&cell| kinds[cell] == BESIDE_COVERED).collect();
        assert_eq!(beside, [1, 2, 8, 9, 10, 16, 17, 18]);
        assert_eq!(kinds.iter().filter(|&&kind| kind == PLAIN).count(), SIDE * SIDE - 9);
    }
}
