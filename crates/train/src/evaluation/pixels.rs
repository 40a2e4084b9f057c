//! Measures over pixels, in memory that does not grow with the pictures.
//!
//! Every pixel's score is counted in one of 2^20 bins, which are the leading 20 bits of its `f32`: two scores share a
//! bin only if they differ by less than 1 part in 2048. Within a bin scores count as equal (ties by mid-rank), so a
//! measure is exact up to half of what its bins hold of both kinds; on maps of distinct values that is below 1e-3, and
//! on maps whose values differ by more than a bin it is exact.

use crate::dataset::LabelPicture;

const BIN_BITS: u32 = 20;

/// A score for each cell of a grid over a picture, the higher the more anomalous.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreMap {
    /// Cells in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` scores, row by row.
    pub values: Vec<f32>,
}

impl ScoreMap {
    /// Whether there is a value for each cell, and a cell at all.
    pub(super) fn is_whole(&self) -> bool {
        !self.values.is_empty() && self.values.len() == self.width * self.height
    }

    /// Calls `each` with every row of the map at another size: bilinear, cell centres aligned, the edge repeated.
    fn each_row(&self, width: usize, height: usize, mut each: impl FnMut(usize, &[f32])) {
        let columns = positions(self.width, width);
        let mut row = vec![0.0; width];
        for (index, (top, bottom, down)) in positions(self.height, height).into_iter().enumerate() {
            let (upper, lower) = (&self.values[top * self.width..], &self.values[bottom * self.width..]);
            for (cell, &(left, right, across)) in row.iter_mut().zip(&columns) {
                let above = upper[left] + (upper[right] - upper[left]) * across;
                let below = lower[left] + (lower[right] - lower[left]) * across;
                *cell = above + (below - above) * down;
            }
            each(index, &row);
        }
    }
}

/// For each of `to` samples: the two cells around it, and how far it lies towards the second.
fn positions(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let last = from - 1;
    let position = |index: usize| {
        let place = ((index as f64 + 0.5) * from as f64 / to as f64 - 0.5).clamp(0.0, last as f64);
        let first = place as usize;
        (first, (first + 1).min(last), (place - first as f64) as f32)
    };
    (0..to).map(position).collect()
}

/// Counts of pixel scores, from as many pictures as there are.
#[derive(Debug, Clone)]
pub struct PixelScores {
    normal: Vec<u64>,
    anomalous: Vec<u64>,
    /// Anomalous pixels, each weighing 1 / pixels of its region, so that a region weighs 1.
    regional: Vec<f64>,
    regions: u64,
}

impl Default for PixelScores {
    fn default() -> Self {
        let bins = 1 << BIN_BITS;
        Self { normal: vec![0; bins], anomalous: vec![0; bins], regional: vec![0.0; bins], regions: 0 }
    }
}

impl PixelScores {
    /// Counts a picture all of whose pixels are normal. A map that has not a value for each cell is left out.
    pub fn add_normal(&mut self, map: &ScoreMap, width: usize, height: usize) {
        if !map.is_whole() {
            return;
        }
        map.each_row(width, height, |_, row| {
            for &score in row {
                self.normal[bin(score)] += 1;
            }
        });
    }

    /// Counts a picture with a mask; the map is brought to the mask's size.
    pub fn add_masked(&mut self, map: &ScoreMap, truth: &LabelPicture) {
        if !map.is_whole() || !truth.is_whole() {
            return;
        }
        let (regions, sizes) = regions(truth);
        self.regions += sizes.len() as u64;
        map.each_row(truth.width, truth.height, |row, scores| {
            let regions = &regions[row * truth.width..];
            for (&score, &region) in scores.iter().zip(regions) {
                let bin = bin(score);
                match region.checked_sub(1) {
                    None => self.normal[bin] += 1,
                    Some(region) => {
                        self.anomalous[bin] += 1;
                        self.regional[bin] += 1.0 / f64::from(sizes[region as usize]);
                    }
                }
            }
        });
    }

    /// Area under the ROC curve over all pixels. Nothing unless there are normal and anomalous ones.
    pub fn roc_auc(&self) -> Option<f64> {
        let (mut normals_below, mut anomalies_below, mut wins) = (0_u64, 0_u64, 0.0);
        for (&normals, &anomalies) in self.normal.iter().zip(&self.anomalous) {
            wins += anomalies as f64 * (normals_below as f64 + normals as f64 / 2.0);
            normals_below += normals;
            anomalies_below += anomalies;
        }
        let pairs = normals_below as f64 * anomalies_below as f64;
        (pairs > 0.0).then(|| wins / pairs)
    }

    /// Area under the per-region overlap curve (AUPRO) up to a false-positive rate, divided by that rate: for every
    /// threshold, the mean over the regions of the share of the region that is found, against the share of normal
    /// pixels that is found too. Regions are 8-connected parts of a mask, whatever their labels. Nothing unless there
    /// are regions and normal pixels.
    pub fn aupro(&self, most_false_positives: f64) -> Option<f64> {
        let normals: u64 = self.normal.iter().sum();
        if normals == 0 || self.regions == 0 || most_false_positives <= 0.0 {
            return None;
        }
        let (mut found, mut overlap, mut area) = (0_u64, 0.0, 0.0);
        let (mut last_rate, mut last_overlap) = (0.0, 0.0);
        for (&normal, &regional) in self.normal.iter().zip(&self.regional).rev() {
            if normal == 0 && regional == 0.0 {
                continue;
            }
            found += normal;
            overlap += regional;
            let (rate, mean) = (found as f64 / normals as f64, overlap / self.regions as f64);
            if rate >= most_false_positives {
                let way = if rate > last_rate { (most_false_positives - last_rate) / (rate - last_rate) } else { 0.0 };
                let mean_there = last_overlap + (mean - last_overlap) * way;
                area += (most_false_positives - last_rate) * f64::midpoint(last_overlap, mean_there);
                break;
            }
            area += (rate - last_rate) * f64::midpoint(last_overlap, mean);
            (last_rate, last_overlap) = (rate, mean);
        }
        Some(area / most_false_positives)
    }
}

/// The bin of a score: leading bits of the number that sorts as the score does.
fn bin(score: f32) -> usize {
    // Adding 0 makes one zero of both.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> (32 - BIN_BITS)) as usize
}

/// The region of each pixel (0: none, else its number from 1) and the regions' sizes. Regions are 8-connected. A mask
/// that has not a label for each pixel has no regions.
pub fn regions(truth: &LabelPicture) -> (Vec<u32>, Vec<u32>) {
    let (width, height) = (truth.width, truth.height);
    let mut region_of = vec![0_u32; truth.labels.len()];
    let mut sizes = Vec::new();
    let mut waiting = Vec::new();
    if !truth.is_whole() {
        return (region_of, sizes);
    }
    for start in 0..truth.labels.len() {
        if truth.labels[start] == 0 || region_of[start] != 0 {
            continue;
        }
        let number = sizes.len() as u32 + 1;
        let mut size = 0;
        region_of[start] = number;
        waiting.push(start);
        while let Some(pixel) = waiting.pop() {
            size += 1;
            let (x, y) = (pixel % width, pixel / width);
            for neighbour_y in y.saturating_sub(1)..=(y + 1).min(height - 1) {
                for neighbour_x in x.saturating_sub(1)..=(x + 1).min(width - 1) {
                    let neighbour = neighbour_y * width + neighbour_x;
                    if truth.labels[neighbour] != 0 && region_of[neighbour] == 0 {
                        region_of[neighbour] = number;
                        waiting.push(neighbour);
                    }
                }
            }
        }
        sizes.push(size);
    }
    (region_of, sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_sort_as_scores_do() {
        let scores = [f32::NEG_INFINITY, -2.0, -1.0, -1e-6, 0.0, 1e-6, 0.5, 0.501, 1.0, 7.0, f32::INFINITY];
        assert!(scores.map(bin).is_sorted_by(|one, other| one < other));
        assert_eq!(bin(-0.0), bin(0.0));
    }

    #[test]
    fn rows_grow_smoothly_and_keep_their_corners() {
        let map = ScoreMap { width: 2, height: 2, values: vec![0.0, 1.0, 2.0, 3.0] };
        let mut rows = Vec::new();
        map.each_row(4, 2, |_, row| rows.push(row.to_vec()));
        assert_eq!(rows, [[0.0, 0.25, 0.75, 1.0], [2.0, 2.25, 2.75, 3.0]]);
    }
}
