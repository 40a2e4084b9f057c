//! The network's feature maps of one picture, and how the coarser ones are brought to the cells of the finest.
//!
//! A map grows to the next finer one's size bilinearly, step by step. Each step is linear, and so is their chain: a cell's
//! value is a weighted mean of a few coarse cells, and a linear layer gives the same before growing as after it.

use ndarray::{Array2, ArrayView2};

/// One feature map.
#[derive(Debug, Clone, PartialEq)]
pub struct TapMap {
    /// Input pixels per cell, along a side.
    pub stride: u32,
    /// Values per cell.
    pub channels: usize,
    /// Cells per side.
    pub size: usize,
    /// `channels * size * size` values, channel by channel.
    pub values: Vec<f32>,
}

/// The feature maps of a picture, the finest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Taps {
    /// At least one.
    pub maps: Vec<TapMap>,
}

impl TapMap {
    /// `[channels, cells]`
    pub(super) fn matrix(&self) -> ArrayView2<'_, f32> {
        ArrayView2::from_shape((self.channels, self.size * self.size), &self.values).expect("a value for each cell")
    }
}

/// Along one axis: the coarse cells that each fine cell looks at, and how much it takes of each.
#[derive(Debug, Clone)]
struct Growth {
    shares: Vec<Vec<(usize, f32)>>,
}

/// The way from each map to the finest grid.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    /// Cells per side of the finest map.
    pub(super) side: usize,
    growths: Vec<Growth>,
}

impl Grid {
    /// For maps of these shapes (`(channels, cells per side)`, the finest first).
    pub(super) fn new(shapes: &[(usize, usize)]) -> Self {
        let side = shapes.first().map_or(0, |&(_, size)| size);
        let mut growths: Vec<Growth> = Vec::new();
        // The chain from the finest on: what is known for one map is what the next coarser one grows into.
        let mut chain = Array2::<f32>::eye(side);
        for (index, &(_, size)) in shapes.iter().enumerate() {
            if index > 0 {
                chain = chain.dot(&step(size, shapes[index - 1].1));
            }
            let shares = chain.outer_iter().map(|row| {
                let shares = row.iter().copied().enumerate();
                shares.filter(|&(_, share)| share != 0.0).collect()
            });
            growths.push(Growth { shares: shares.collect() });
        }
        Self { side, growths }
    }

    /// Appends the values of some cells of the finest grid, all maps' values for one cell after the other.
    pub(super) fn gather(&self, taps: &Taps, cells: &[usize], rows: &mut Vec<f32>) {
        for &cell in cells {
            let (y, x) = (cell / self.side, cell % self.side);
            for (map, growth) in taps.maps.iter().zip(&self.growths) {
                let area = map.size * map.size;
                let mut sources = Vec::with_capacity(16);
                for &(row, down) in &growth.shares[y] {
                    sources.extend(
                        growth.shares[x].iter().map(|&(column, across)| (row * map.size + column, down * across)),
                    );
                }
                let value =
                    |channel: &[f32]| sources.iter().map(|&(source, share)| share * channel[source]).sum::<f32>();
                rows.extend(map.values.chunks_exact(area).map(value));
            }
        }
    }
}

/// The bilinear step from `from` cells to `to` along one axis, cell centres aligned: `[to, from]`.
fn step(from: usize, to: usize) -> Array2<f32> {
    let mut step = Array2::zeros((to, from));
    for (index, mut row) in step.outer_iter_mut().enumerate() {
        let place = ((index as f32 + 0.5) * from as f32 / to as f32 - 0.5).clamp(0.0, (from - 1) as f32);
        let first = place as usize;
        let share = place - first as f32;
        row[first] += 1.0 - share;
        row[(first + 1).min(from - 1)] += share;
    }
    step
}

/// Brings square maps (`[maps, from * from]`) to another side.
pub(super) fn grown(maps: &Array2<f32>, from: usize, to: usize) -> Array2<f32> {
    if from == to {
        return maps.clone();
    }
    let step = step(from, to);
    let mut grown = Array2::zeros((maps.nrows(), to * to));
    for (map, mut target) in maps.outer_iter().zip(grown.outer_iter_mut()) {
        let map = map.to_shape((from, from)).expect("maps are square");
        let large = step.dot(&map).dot(&step.t());
        target.iter_mut().zip(&large).for_each(|(place, &value)| *place = value);
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_before_a_sum_is_growing_after_it() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut map = |channels: usize, size: usize| TapMap {
            stride: 64 / size as u32,
            channels,
            size,
            values: (0..channels * size * size).map(|_| random.f32()).collect(),
        };
        let taps = Taps { maps: vec![map(2, 16), map(3, 8), map(4, 2)] };
        let grid = Grid::new(&[(2, 16), (3, 8), (4, 2)]);
        assert_eq!(grid.side, 16);
        let mut rows = Vec::new();
        grid.gather(&taps, &(0..256).collect::<Vec<_>>(), &mut rows);
        // The sum of all channels, once by cell and once map by map from the coarsest on.
        let by_cell: Vec<f32> = rows.chunks_exact(9).map(|row| row.iter().sum()).collect();
        let sum = |map: &TapMap| map.matrix().sum_axis(ndarray::Axis(0)).insert_axis(ndarray::Axis(0));
        let coarse = grown(&sum(&taps.maps[2]), 2, 8) + sum(&taps.maps[1]);
        let by_map = grown(&coarse, 8, 16) + sum(&taps.maps[0]);
        let worst = by_cell.iter().zip(&by_map).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
    }
}
