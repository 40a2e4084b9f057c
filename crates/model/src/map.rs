//! Where in the picture the model sees anomalies.

/// A small map over the scored region: 0 is normal, 1 is anomalous, and 0.5 is the border between them.
#[derive(Debug, Clone, PartialEq)]
pub struct AnomalyMap {
    /// Cells in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` values, row by row.
    pub values: Vec<f32>,
}

/// Which label each cell of a grid over the scored region has: 0 is background, `n` is the model's label `n - 1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMask {
    /// Cells in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` label numbers, row by row.
    pub labels: Vec<u8>,
}

impl AnomalyMap {
    /// The map at another size, bilinear, cell centres aligned.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let columns = sample_positions(self.width, width);
        let rows = sample_positions(self.height, height);
        // Across first, once for each row; then both loops run over rows as they lie.
        let wide: Vec<f32> = self
            .values
            .chunks_exact(self.width.max(1))
            .flat_map(|row| columns.iter().map(|&(left, right, across)| row[left] + (row[right] - row[left]) * across))
            .collect();
        let mut values = Vec::with_capacity(width * height);
        for &(top, bottom, down) in &rows {
            let (upper, lower) = (&wide[top * width..][..width], &wide[bottom * width..][..width]);
            values.extend(upper.iter().zip(lower).map(|(upper, lower)| upper + (lower - upper) * down));
        }
        Self { width, height, values }
    }

    /// The value at a place between cells, counted from the middle of the first one; beyond the edge the edge's.
    pub(crate) fn between(&self, x: f32, y: f32) -> f32 {
        let place = |position: f32, length: usize| {
            let last = length.saturating_sub(1);
            let position = position.clamp(0.0, last as f32);
            let first = position as usize;
            (first, (first + 1).min(last), position - first as f32)
        };
        let ((left, right, across), (top, bottom, down)) = (place(x, self.width), place(y, self.height));
        let along = |row: usize| {
            let row = &self.values[row * self.width..];
            row[left] + (row[right] - row[left]) * across
        };
        let (upper, lower) = (along(top), along(bottom));
        upper + (lower - upper) * down
    }

    /// The cells from 0.5 on as label 1.
    pub fn mask(&self) -> LabelMask {
        let labels = self.values.iter().map(|&value| u8::from(value >= 0.5)).collect();
        LabelMask { width: self.width, height: self.height, labels }
    }
}

impl LabelMask {
    /// The share of cells with each label number, from 0 (background) to `label_count`.
    pub fn areas(&self, label_count: usize) -> Vec<f64> {
        let mut cells = vec![0_usize; label_count + 1];
        for &label in &self.labels {
            if let Some(count) = cells.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        let total = self.labels.len().max(1) as f64;
        cells.into_iter().map(|count| count as f64 / total).collect()
    }

    /// The label at a point of the region, both coordinates from 0 to below 1.
    pub fn at(&self, x: f64, y: f64) -> u8 {
        let column = ((x * self.width as f64) as usize).min(self.width.saturating_sub(1));
        let row = ((y * self.height as f64) as usize).min(self.height.saturating_sub(1));
        self.labels.get(row * self.width + column).copied().unwrap_or(0)
    }
}

/// Which label each cell has when the labels' maps are enlarged by `scale`: the highest of those that reach 0.5. Nothing
/// where no label is seen at all.
pub fn label_mask(maps: &[AnomalyMap], scale: usize) -> Option<LabelMask> {
    let (first, _) = maps.split_first()?;
    // Between two cells nothing is higher than the higher of them.
    let seen = |map: &AnomalyMap| map.values.iter().any(|&value| value >= 0.5);
    if !maps.iter().any(seen) {
        return None;
    }
    let (width, height) = (first.width * scale, first.height * scale);
    let mut labels = vec![0_u8; width * height];
    let mut highest = vec![0.0_f32; width * height];
    for (number, map) in (1_u8..).zip(maps).filter(|(_, map)| seen(map)) {
        let large = map.resized(width, height);
        for ((label, most), &value) in labels.iter_mut().zip(&mut highest).zip(&large.values) {
            if value >= 0.5 && value > *most {
                (*label, *most) = (number, value);
            }
        }
    }
    Some(LabelMask { width, height, labels })
}

/// For each of `to` samples: the two source cells around it and how far it lies towards the second.
fn sample_positions(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let last = from.saturating_sub(1);
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|index| {
            let position = ((index as f32 + 0.5) * scale - 0.5).clamp(0.0, last as f32);
            let first = position as usize;
            (first, (first + 1).min(last), position - first as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_grows_smoothly_and_keeps_its_corners() {
        let map = AnomalyMap { width: 2, height: 1, values: vec![0.0, 1.0] };
        assert_eq!(map.resized(4, 2).values, [0.0, 0.25, 0.75, 1.0, 0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn the_highest_label_wins_where_any_is_seen() {
        let map = |values: [f32; 4]| AnomalyMap { width: 2, height: 2, values: values.to_vec() };
        assert_eq!(label_mask(&[map([0.4; 4]), map([0.0; 4])], 1), None);
        assert_eq!(label_mask(&[], 1), None);
        let mask = label_mask(&[map([0.9, 0.6, 0.0, 0.1]), map([0.0, 0.7, 0.5, 0.1])], 1).unwrap();
        assert_eq!(mask.labels, [1, 2, 2, 0]);
        assert_eq!(label_mask(&[map([1.0, 0.0, 0.0, 0.0])], 2).unwrap().areas(1), [0.75, 0.25]);
    }

    #[test]
    fn areas_are_shares_with_the_background_first() {
        let mask = AnomalyMap { width: 2, height: 2, values: vec![0.1, 0.5, 0.2, 0.3] }.mask();
        assert_eq!(mask.areas(1), [0.75, 0.25]);
        assert_eq!(mask.at(0.99, 0.0), 1);
        assert_eq!(mask.at(0.0, 0.99), 0);
    }
}
