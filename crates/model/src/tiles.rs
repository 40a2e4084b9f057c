//! A region cut into overlapping tiles, and the tiles' maps put together again without seams.

use serde::{Deserialize, Serialize};

use crate::frame::Rect;
use crate::map::AnomalyMap;

/// Tiles along one side, at most.
pub const MOST_TILES_A_SIDE: u32 = 16;
/// Tiles that overlap by half or more would be covered three times.
pub const MOST_OVERLAP: f64 = 0.45;
/// Cells along one side of a merged map, at most.
const MOST_CELLS: usize = 512;
/// Sides up to this length are not cut when the number of tiles is left to us.
const AUTO_WHOLE_PX: u32 = 768;
/// Length of a tile's side that is aimed at when the number of tiles is left to us.
const AUTO_TILE_PX: u32 = 512;

/// How a region is cut.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileGrid {
    /// Tiles in a row.
    pub columns: u32,
    /// Rows of tiles.
    pub rows: u32,
    /// Share of a tile's side that it has in common with its neighbour.
    pub overlap: f64,
}

impl TileGrid {
    /// What is one tile's share of the picture when nobody says otherwise.
    pub const DEFAULT_OVERLAP: f64 = 0.12;

    /// Tiles of some 512 pixels for a region of this size, and one alone along sides of up to 768.
    pub fn automatic(width_px: u32, height_px: u32, overlap: f64) -> Self {
        let along = |length: u32| match length {
            0..=AUTO_WHOLE_PX => 1,
            _ => ((length + AUTO_TILE_PX / 2) / AUTO_TILE_PX).clamp(2, MOST_TILES_A_SIDE),
        };
        Self { columns: along(width_px), rows: along(height_px), overlap }
    }

    /// Number of tiles.
    pub fn count(&self) -> usize {
        self.columns as usize * self.rows as usize
    }

    /// What is wrong with it, in words for who wrote it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sides = 1..=MOST_TILES_A_SIDE;
        if !sides.contains(&self.columns) || !sides.contains(&self.rows) {
            let Self { columns, rows, .. } = self;
            return Err(format!("tiles must be 1x1 to {MOST_TILES_A_SIDE}x{MOST_TILES_A_SIDE}, got {columns}x{rows}"));
        }
        if !(0.0..=MOST_OVERLAP).contains(&self.overlap) {
            return Err(format!("tiles may overlap by 0 to {MOST_OVERLAP} of their side, got {}", self.overlap));
        }
        Ok(())
    }

    /// The tiles of a region, row by row, all of one size.
    pub fn tiles(&self, region: Rect) -> Vec<Rect> {
        let columns = spans(region.x, region.width_px, self.columns, self.overlap);
        let rows = spans(region.y, region.height_px, self.rows, self.overlap);
        let row = |&(y, height_px): &(u32, u32)| {
            columns.iter().map(move |&(x, width_px)| Rect { x, y, width_px, height_px }).collect::<Vec<_>>()
        };
        rows.iter().flat_map(row).collect()
    }
}

/// Start and length of each tile along one side.
fn spans(start: u32, length: u32, count: u32, overlap: f64) -> Vec<(u32, u32)> {
    let tiles = f64::from(count);
    // All but the last tile give away what the next one covers too.
    let tile = (f64::from(length) / (tiles - (tiles - 1.0) * overlap)).ceil().min(f64::from(length)) as u32;
    let last = length - tile;
    let place = |index: u32| f64::from(last) * f64::from(index) / f64::from(count.max(2) - 1);
    (0..count).map(|index| (start + place(index).round() as u32, tile)).collect()
}

/// Puts the maps of the tiles of `region` together, to one map over a whole picture that is 0 outside the region.
///
/// Its cells are as large as the tiles' cells, unless there were more than 512 along a side. Where tiles overlap, the
/// weight of one falls as evenly as that of its neighbour rises: no seam is left. A tile without a map counts nowhere.
pub(crate) fn merge(
    picture: (u32, u32),
    tiles: &[Rect],
    columns: usize,
    maps: &[Option<AnomalyMap>],
) -> Option<AnomalyMap> {
    let first = maps.iter().flatten().next()?;
    let tile = tiles.first()?;
    let cells = |length: u32, tile: u32, cells: usize| {
        let exact = f64::from(length) * cells as f64 / f64::from(tile);
        (exact.round() as usize).clamp(1, MOST_CELLS)
    };
    let (width, height) =
        (cells(picture.0, tile.width_px, first.width), cells(picture.1, tile.height_px, first.height));
    let across: Vec<(u32, u32)> = tiles.iter().take(columns).map(|tile| (tile.x, tile.width_px)).collect();
    let down: Vec<(u32, u32)> = tiles.iter().step_by(columns.max(1)).map(|tile| (tile.y, tile.height_px)).collect();
    let across = shares(&across, picture.0, width, first.width);
    let down = shares(&down, picture.1, height, first.height);
    let mut values = Vec::with_capacity(width * height);
    for rows in &down {
        for columns_here in &across {
            let (mut sum, mut weights) = (0.0, 0.0);
            for row in rows {
                for column in columns_here {
                    let Some(Some(map)) = maps.get(row.tile * columns + column.tile) else { continue };
                    let weight = row.weight * column.weight;
                    sum += weight * sample(map, column, row);
                    weights += weight;
                }
            }
            values.push(if weights > 0.0 { sum / weights } else { 0.0 });
        }
    }
    Some(AnomalyMap { width, height, values })
}

/// How much a tile says of a cell along one side, and from which two cells of its own.
struct Share {
    tile: usize,
    weight: f32,
    first: usize,
    second: usize,
    towards_second: f32,
}

/// For each of the merged map's cells along one side: the tiles that cover its centre.
fn shares(spans: &[(u32, u32)], length: u32, cells: usize, tile_cells: usize) -> Vec<Vec<Share>> {
    let mut all = Vec::with_capacity(cells);
    for cell in 0..cells {
        let centre = (cell as f64 + 0.5) / cells as f64 * f64::from(length);
        let covering = spans.iter().enumerate().filter_map(|(tile, &(start, side))| {
            let (start, side) = (f64::from(start), f64::from(side));
            let offset = centre - start;
            if !(0.0..=side).contains(&offset) {
                return None;
            }
            let before = tile.checked_sub(1).and_then(|tile| spans.get(tile));
            let common_before = before.map_or(0.0, |&(other, length)| f64::from(other + length) - start);
            let common_after = spans.get(tile + 1).map_or(0.0, |&(other, _)| start + side - f64::from(other));
            let rising = if common_before > 0.0 { offset / common_before } else { 1.0 };
            let falling = if common_after > 0.0 { (side - offset) / common_after } else { 1.0 };
            // Never nothing: a cell on the very edge of two tiles must belong to one.
            let weight = rising.min(falling).clamp(1e-6, 1.0) as f32;
            let position = (offset / side * tile_cells as f64 - 0.5).clamp(0.0, tile_cells.saturating_sub(1) as f64);
            let first = position as usize;
            let second = (first + 1).min(tile_cells.saturating_sub(1));
            Some(Share { tile, weight, first, second, towards_second: (position - first as f64) as f32 })
        });
        all.push(covering.collect());
    }
    all
}

fn sample(map: &AnomalyMap, column: &Share, row: &Share) -> f32 {
    let along = |line: usize| {
        let line = &map.values[line * map.width..];
        line[column.first] + (line[column.second] - line[column.first]) * column.towards_second
    };
    let (upper, lower) = (along(row.first), along(row.second));
    upper + (lower - upper) * row.towards_second
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGION: Rect = Rect { x: 100, y: 40, width_px: 1000, height_px: 700 };

    #[test]
    fn tiles_cover_the_region_and_overlap_as_asked() {
        let grid = TileGrid { columns: 4, rows: 3, overlap: 0.12 };
        let tiles = grid.tiles(REGION);
        assert_eq!((tiles.len(), tiles[0].x, tiles[0].y), (12, 100, 40));
        let last = tiles[11];
        assert_eq!((last.x + last.width_px, last.y + last.height_px), (1100, 740));
        assert!(tiles.iter().all(|tile| (tile.width_px, tile.height_px) == (last.width_px, last.height_px)));
        for pair in tiles[..4].windows(2) {
            let common = f64::from(pair[0].x + pair[0].width_px - pair[1].x) / f64::from(last.width_px);
            assert!((common - 0.12).abs() < 0.01, "{common}");
        }
        assert_eq!(TileGrid { columns: 1, rows: 1, overlap: 0.3 }.tiles(REGION), [REGION]);
    }

    #[test]
    fn the_number_of_tiles_follows_the_picture() {
        let automatic = |width, height| {
            let grid = TileGrid::automatic(width, height, 0.12);
            (grid.columns, grid.rows)
        };
        assert_eq!(automatic(256, 256), (1, 1));
        assert_eq!(automatic(768, 576), (1, 1));
        assert_eq!(automatic(1280, 720), (3, 1));
        assert_eq!(automatic(4096, 4096), (8, 8));
    }

    #[test]
    fn a_smooth_field_cut_and_merged_has_no_seam() {
        let grid = TileGrid { columns: 3, rows: 2, overlap: 0.12 };
        let tiles = grid.tiles(REGION);
        let field = |x: f64, y: f64| (x * 0.002 + y * 0.001) as f32;
        let map = |tile: &Rect| {
            let value = |cell: usize| {
                let (x, y) = ((cell % 32) as f64 + 0.5, (cell / 32) as f64 + 0.5);
                let at = |start: u32, length: u32, cell: f64| f64::from(start) + f64::from(length) * cell / 32.0;
                field(at(tile.x, tile.width_px, x), at(tile.y, tile.height_px, y))
            };
            Some(AnomalyMap { width: 32, height: 32, values: (0..1024).map(value).collect() })
        };
        let maps: Vec<_> = tiles.iter().map(map).collect();
        let merged = merge((1200, 800), &tiles, 3, &maps).unwrap();
        let mut inside = 0;
        for (index, &value) in merged.values.iter().enumerate() {
            let x = ((index % merged.width) as f64 + 0.5) / merged.width as f64 * 1200.0;
            let y = ((index / merged.width) as f64 + 0.5) / merged.height as f64 * 800.0;
            let within = (100.0..=1100.0).contains(&x) && (40.0..=740.0).contains(&y);
            if within {
                inside += 1;
                assert!((value - field(x, y)).abs() < 0.02, "{value} at {x} {y}");
            } else {
                assert_eq!(value, 0.0, "{x} {y}");
            }
        }
        assert!(inside > merged.values.len() / 2);
    }

    #[test]
    fn merged_maps_stay_small() {
        let tiles = [Rect { x: 0, y: 0, width_px: 64, height_px: 64 }];
        let map = AnomalyMap { width: 32, height: 32, values: vec![1.0; 1024] };
        let merged = merge((4096, 128), &tiles, 1, &[Some(map)]).unwrap();
        assert_eq!((merged.width, merged.height), (512, 64));
    }

    #[test]
    fn one_tile_over_everything_is_its_own_map() {
        let map = AnomalyMap { width: 32, height: 32, values: (0..1024).map(|cell| cell as f32).collect() };
        let merged = merge((640, 480), &[Rect::of_size(640, 480)], 1, &[Some(map.clone())]).unwrap();
        assert_eq!(merged, map);
    }
}
