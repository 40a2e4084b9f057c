//! Options of `linewarden train` that say which part of a picture counts and how it is cut.

use std::path::PathBuf;

use linewarden_model::{MOST_OVERLAP, MOST_TILES_A_SIDE, Rect};
use linewarden_train::views::{FramingRequest, Tiling};

use super::{CallError, must_exist};

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Part of the picture")]
pub(super) struct FramingArgs {
    /// Only this part of the pictures counts, in their pixels
    #[arg(long, value_name = "X,Y,WIDTH,HEIGHT", value_parser = roi)]
    roi: Option<Rect>,
    /// What is not black in this picture is ignored; as large as the pictures
    #[arg(long, value_name = "FILE.png")]
    ignore_mask: Option<PathBuf>,
    /// Cut pictures into tiles, for defects that are small in large pictures: each tile takes as long as a whole picture
    /// would. `auto`: tiles of some 512 pixels, one alone along sides of up to 768
    #[arg(long, value_name = "COLUMNSxROWS|auto", default_value = "1x1", value_parser = tiling)]
    tiles: Tiling,
    /// Share of a tile's side that it has in common with its neighbour
    #[arg(long, value_name = "PERCENT", default_value = "12%", value_parser = overlap)]
    tile_overlap: f64,
    /// Turn and shift pictures so that parts lie as in a reference made of the normal pictures: up to 15 degrees, and 15 %
    /// of the sides
    #[arg(long)]
    register: bool,
}

impl FramingArgs {
    pub(super) fn check(&self) -> Result<(), CallError> {
        self.ignore_mask.as_deref().map_or(Ok(()), |path| must_exist("ignore mask", path))
    }

    pub(super) fn request(&self) -> FramingRequest {
        FramingRequest {
            roi: self.roi,
            ignore_mask: self.ignore_mask.clone(),
            tiling: self.tiles,
            overlap: self.tile_overlap,
            register: self.register,
        }
    }
}

fn roi(text: &str) -> Result<Rect, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    match numbers.as_deref() {
        Ok(&[x, y, width_px, height_px]) if width_px > 0 && height_px > 0 => Ok(Rect { x, y, width_px, height_px }),
        _ => Err("must be four whole numbers `x,y,width,height` with width and height above 0".to_owned()),
    }
}

fn tiling(text: &str) -> Result<Tiling, String> {
    if text == "auto" {
        return Ok(Tiling::Auto);
    }
    let number = |text: &str| text.parse().ok().filter(|number| (1..=MOST_TILES_A_SIDE).contains(number));
    let numbers = text.split_once('x').and_then(|(columns, rows)| number(columns).zip(number(rows)));
    match numbers {
        Some((1, 1)) => Ok(Tiling::Whole),
        Some((columns, rows)) => Ok(Tiling::Grid { columns, rows }),
        None => Err(format!("must be `auto`, or `COLUMNSxROWS` from 1x1 to {MOST_TILES_A_SIDE}x{MOST_TILES_A_SIDE}")),
    }
}

fn overlap(text: &str) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse(),
    };
    let wrong = || format!("must be a share from 0 to {MOST_OVERLAP}, or from 0% to {:.0}%", MOST_OVERLAP * 100.0);
    share.ok().filter(|share| (0.0..=MOST_OVERLAP).contains(share)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_tiles_and_overlaps_are_read_as_they_are_written() {
        assert_eq!(roi("1, 2,30,40"), Ok(Rect { x: 1, y: 2, width_px: 30, height_px: 40 }));
        assert_eq!(tiling("4x3"), Ok(Tiling::Grid { columns: 4, rows: 3 }));
        assert_eq!((tiling("1x1"), tiling("auto")), (Ok(Tiling::Whole), Ok(Tiling::Auto)));
        assert_eq!((overlap("12%"), overlap("0.3"), overlap("0")), (Ok(0.12), Ok(0.3), Ok(0.0)));
        for wrong in ["1,2,3", "1,2,0,4", "a,b,c,d", "-1,0,3,3", ""] {
            assert!(roi(wrong).is_err(), "{wrong}");
        }
        for wrong in ["4", "0x3", "17x1", "axb", "4x3x2", ""] {
            assert!(tiling(wrong).is_err(), "{wrong}");
        }
        for wrong in ["46%", "-1%", "12 of 100", "nan", ""] {
            assert!(overlap(wrong).is_err(), "{wrong}");
        }
    }
}
