//! The files of a part: its frames' pictures and masks, as they were when they were decided on.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ExtendedColorType, ImageEncoder as _};

use crate::key::sha256;

/// Good enough to train on; a fifth of the size of a PNG.
const JPEG_QUALITY: u8 = 92;

/// How pictures are kept. Masks are always PNG.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PictureFormat {
    /// As the camera gave them.
    #[default]
    Png,
    /// Smaller, a little changed.
    Jpeg,
}

/// Pixels to keep.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    /// File name without its ending: letters, digits, `-`, `_`.
    pub name: String,
    /// Width in pixels.
    pub width_px: u32,
    /// Height in pixels.
    pub height_px: u32,
    /// RGB888, rows one after the other without padding.
    pub rgb: Vec<u8>,
    /// Whether it is a mask, whose colours must stay exact.
    pub is_mask: bool,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// Writes a picture into a folder that is there. What cannot be written whole is removed again.
pub(crate) fn write(folder: &Path, picture: &Picture, format: PictureFormat) -> Result<Written, String> {
    let format = if picture.is_mask { PictureFormat::Png } else { format };
    let encoded = encode(picture, format).map_err(|error| format!("cannot encode `{}`: {error}", picture.name))?;
    let ending = match format {
        PictureFormat::Png => "png",
        PictureFormat::Jpeg => "jpg",
    };
    let path = folder.join(format!("{}.{ending}", picture.name));
    if let Err(error) = fs::write(&path, &encoded) {
        let _ = fs::remove_file(&path);
        return Err(format!("cannot write `{}`: {error}", path.display()));
    }
    Ok(Written { sha256: sha256(&encoded), bytes: encoded.len() as u64, path })
}

fn encode(picture: &Picture, format: PictureFormat) -> image::ImageResult<Vec<u8>> {
    let (width_px, height_px, colour) = (picture.width_px, picture.height_px, ExtendedColorType::Rgb8);
    let wanted_bytes = u64::from(width_px) * u64::from(height_px) * 3;
    if picture.rgb.len() as u64 != wanted_bytes {
        let problem = format!("{} bytes are no {width_px}x{height_px} pixels", picture.rgb.len());
        let kind = image::error::ParameterErrorKind::Generic(problem);
        return Err(image::ImageError::Parameter(image::error::ParameterError::from_kind(kind)));
    }
    let mut encoded = Cursor::new(Vec::new());
    match format {
        PictureFormat::Png => PngEncoder::new_with_quality(&mut encoded, CompressionType::Fast, FilterType::Adaptive)
            .write_image(&picture.rgb, width_px, height_px, colour)?,
        PictureFormat::Jpeg => JpegEncoder::new_with_quality(&mut encoded, JPEG_QUALITY).write_image(
            &picture.rgb,
            width_px,
            height_px,
            colour,
        )?,
    }
    Ok(encoded.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_its_colours_whatever_the_format_of_pictures() {
        let folder = tempfile::tempdir().unwrap();
        let rgb: Vec<u8> = (0..12_u8 * 3).map(|value| value.wrapping_mul(37)).collect();
        let mask =
            Picture { name: "top-1-mask".to_owned(), width_px: 4, height_px: 3, rgb: rgb.clone(), is_mask: true };
        let written = write(folder.path(), &mask, PictureFormat::Jpeg).unwrap();
        assert_eq!(image::open(&written.path).unwrap().into_rgb8().into_raw(), rgb);
        assert_eq!(sha256(&fs::read(&written.path).unwrap()), written.sha256);
        let picture = Picture { name: "top-1".to_owned(), is_mask: false, ..mask };
        assert!(write(folder.path(), &picture, PictureFormat::Jpeg).unwrap().path.ends_with("top-1.jpg"));
    }

    #[test]
    fn pixels_that_are_no_picture_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let picture =
            Picture { name: "x".to_owned(), width_px: u32::MAX, height_px: u32::MAX, rgb: vec![0; 3], is_mask: false };
        assert!(write(folder.path(), &picture, PictureFormat::Png).unwrap_err().contains("3 bytes are no"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
