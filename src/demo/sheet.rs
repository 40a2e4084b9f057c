//! One picture to look at: parts with what the model saw drawn on them, wrong verdicts first.

use std::path::Path;

use anyhow::Context as _;
use image::RgbImage;
use image::imageops::{FilterType, overlay, resize};
use linewarden_model::overlay::draw_on_rgb;
use linewarden_model::{Detector, DetectorOptions, FrameView};
use linewarden_synthetic::{BeltSpec, render_part};

use super::score::Outcome;

const COLUMNS: usize = 4;
const ROWS: usize = 4;
const GAP_PX: u32 = 6;
const ALPHA: f32 = 0.45;
const PAPER: [u8; 3] = [24, 24, 28];

/// Draws up to sixteen parts: wrong verdicts, then defects, then good ones.
pub(super) fn draw(model: &Path, belt: &BeltSpec, outcomes: &[Outcome], path: &Path) -> anyhow::Result<()> {
    let mut chosen: Vec<&Outcome> = outcomes.iter().collect();
    chosen.sort_by_key(|outcome| (outcome.is_right(), outcome.truth.is_none(), outcome.seen.part));
    chosen.truncate(COLUMNS * ROWS);
    let mut detector = Detector::open(model, &DetectorOptions::default())?;
    let (width_px, height_px) = (belt.width_px / 2, belt.height_px / 2);
    let along = |count: usize, length: u32| count as u32 * (length + GAP_PX) + GAP_PX;
    let rows = chosen.len().div_ceil(COLUMNS).max(1);
    let mut sheet = RgbImage::from_pixel(along(COLUMNS, width_px), along(rows, height_px), PAPER.into());
    for (index, outcome) in chosen.into_iter().enumerate() {
        let drawn = draw_part(&mut detector, belt, outcome.seen.part)?;
        let small = resize(&drawn, width_px, height_px, FilterType::Triangle);
        let (column, row) = (index % COLUMNS, index / COLUMNS);
        overlay(&mut sheet, &small, i64::from(along(column, width_px)), i64::from(along(row, height_px)));
    }
    sheet.save(path).with_context(|| format!("cannot write `{}`", path.display()))
}

fn draw_part(detector: &mut Detector, belt: &BeltSpec, number: u64) -> anyhow::Result<RgbImage> {
    let mut part = render_part(belt, number);
    let detection = detector.detect(&FrameView::rgb(part.width_px, part.height_px, &part.rgb)?)?;
    let labels = &detector.info().labels;
    draw_on_rgb(part.width_px, part.height_px, &mut part.rgb, &detection, labels, ALPHA, true)?;
    RgbImage::from_raw(part.width_px, part.height_px, part.rgb).context("a part has pixels")
}
