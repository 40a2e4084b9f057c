//! What looks at single cells of the finest feature map: the arithmetic that the patch head and the mask head share, how
//! much of each cell a mask covers, and how rows are brought to one scale.

use ndarray::{Array2, Axis, Slice};

use super::logistic::softmax;
use super::taps::{Taps, grown};
use crate::dataset::LabelPicture;
use crate::features::Flip;

/// From a cell's features to one value a class: normal, then each label.
#[derive(Debug, Clone, PartialEq)]
pub struct CellHead {
    /// For each map, the finest first: `[units, channels]`.
    pub(crate) inner: Vec<Array2<f32>>,
    /// Added to the sum over the maps.
    pub(crate) inner_bias: Vec<f32>,
    /// `[classes, units]` and one bias a class behind a rectifier; without it the units are the classes.
    pub(crate) outer: Option<(Array2<f32>, Vec<f32>)>,
}

impl CellHead {
    /// From a first layer that was fitted to standardised rows. The standardisation goes into the weights, so that nobody
    /// has to do it again.
    pub(super) fn of_standardised(
        mut inner: Array2<f32>,
        mut inner_bias: Vec<f32>,
        outer: Option<(Array2<f32>, Vec<f32>)>,
        (mean, inverse_deviation): &(Vec<f32>, Vec<f32>),
        shapes: &[(usize, usize)],
    ) -> Self {
        for (mut unit, bias) in inner.outer_iter_mut().zip(&mut inner_bias) {
            for ((weight, mean), inverse) in unit.iter_mut().zip(mean).zip(inverse_deviation) {
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

    /// How many labels there are beside normal.
    pub(crate) fn labels(&self) -> usize {
        self.outer.as_ref().map_or(self.inner_bias.len(), |(_, bias)| bias.len()).saturating_sub(1)
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

/// For each class, the share of each cell that it covers.
pub(super) struct Cover {
    /// `labels` values for each cell.
    pub(super) shares: Vec<f32>,
}

impl Cover {
    pub(super) fn of(mask: &LabelPicture, side: usize, labels: usize) -> Self {
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

/// A mask as a picture shows it that was turned over.
pub(super) fn flipped(mask: &LabelPicture, flip: Flip) -> LabelPicture {
    let mut flipped = mask.clone();
    if flip.down {
        flipped.labels = mask.labels.chunks_exact(mask.width).rev().flatten().copied().collect();
    }
    if flip.across {
        flipped.labels.chunks_exact_mut(mask.width).for_each(<[u8]>::reverse);
    }
    flipped
}
