//! Pictures that [`crate::model::brightness_package`] tells apart.

use std::path::Path;

use anyhow::Result;
use image::{Rgb, RgbImage};

/// Writes `0.png`, `1.png` and so on of 64x48 pixels, white or black, into a folder, which is made.
///
/// # Errors
/// When they cannot be written.
pub fn write_pictures(folder: &Path, are_white: &[bool]) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (number, &is_white) in are_white.iter().enumerate() {
        let grey = if is_white { 255 } else { 0 };
        RgbImage::from_pixel(64, 48, Rgb([grey; 3])).save(folder.join(format!("{number}.png")))?;
    }
    Ok(())
}
