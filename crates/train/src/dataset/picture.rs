//! Pictures from files: JPEG and PNG, turned upright, as 8-bit RGB.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read as _, Seek};
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};

/// The smallest width and height of a picture, as in the guide's quotas.
pub const MINIMUM_SIDE_PX: usize = 64;
/// The largest width and height of a picture, as in the guide's quotas.
pub const MAXIMUM_SIDE_PX: usize = 4096;

/// No honest picture within `MAXIMUM_SIDE_PX` has a larger file: 16-bit RGBA is 128 MiB before compression.
const MAXIMUM_FILE_BYTES: u64 = 160 << 20;
/// What a decoder may allocate for anything else than the pixels, such as a compressed colour profile.
const MAXIMUM_CHUNK_BYTES: u64 = 64 << 20;

/// A picture or a mask that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {fault}", path.display())]
pub struct PictureError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: PictureFault,
}

/// What is wrong with a picture or a mask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureFault {
    /// The file cannot be opened or read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The content is neither JPEG nor PNG.
    #[error("cannot read: neither JPEG nor PNG")]
    NotAPicture,
    /// A mask that is not a PNG, so that its colours are not exact.
    #[error("not a PNG; masks must be PNG, because their colours must be exact")]
    NotPng,
    /// Damaged, truncated or of an unknown variant: what the decoder said.
    #[error("cannot read: {0}")]
    Undecodable(String),
    /// More pixels or bytes than allowed; nothing was decoded.
    #[error("is {0}, the most allowed is {MAXIMUM_SIDE_PX}x{MAXIMUM_SIDE_PX} pixels")]
    TooLarge(String),
    /// The sample has no mask.
    #[error("has no mask")]
    NoMask,
    /// A colour of the mask that no label has.
    #[error(
        "colour {color} at ({x}, {y}) has no label, {pixels} such pixels in all; the labels' colours are {allowed}"
    )]
    UnknownColor {
        /// `#RRGGBB`.
        color: String,
        /// Column of the first such pixel.
        x: usize,
        /// Row of the first such pixel.
        y: usize,
        /// How many pixels have colours without a label.
        pixels: usize,
        /// The colours that have labels.
        allowed: String,
    },
    /// A label of the mask's colour map that the caller does not know.
    #[error("label `{label}` is not one of {allowed}")]
    UnknownLabel {
        /// The label.
        label: String,
        /// The labels that the caller knows.
        allowed: String,
    },
    /// Mask and picture are not of one size.
    #[error("the mask is {mask}, but its picture is {picture}")]
    SizeDiffers {
        /// Size of the mask, `WxH`.
        mask: String,
        /// Size of the picture, `WxH`.
        picture: String,
    },
}

impl PictureFault {
    /// The error of this file.
    pub(super) fn of(self, path: &Path) -> PictureError {
        PictureError { path: path.to_owned(), fault: self }
    }
}

/// A picture as the model wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Width.
    pub width_px: usize,
    /// Height.
    pub height_px: usize,
    /// `width_px * height_px * 3` bytes, row by row.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Reads a JPEG or PNG file (told by its content, not its name). Grey, palette and 16-bit pictures become 8-bit
    /// RGB, transparency is dropped, and a picture that EXIF says lies on its side is turned upright.
    pub fn read(path: &Path) -> Result<Self, PictureError> {
        let bytes = file_bytes(path)?;
        let (mut decoder, format) = decoder(path, Cursor::new(bytes.as_slice()))?;
        let orientation = orientation(&mut *decoder);
        let mut image = decode(path, decoder)?;
        if format == ImageFormat::Jpeg && !jpeg_is_complete(&bytes) {
            // The decoder fills what is missing with grey, and a half-copied photograph would train as a good part.
            return Err(PictureFault::Undecodable("the JPEG ends too early".to_owned()).of(path));
        }
        image.apply_orientation(orientation);
        let rgb = image.into_rgb8();
        Ok(Self { width_px: rgb.width() as usize, height_px: rgb.height() as usize, rgb: rgb.into_raw() })
    }
}

/// Width and height of an upright picture, from its header.
pub fn picture_size(path: &Path) -> Result<(usize, usize), PictureError> {
    let (mut decoder, _) = decoder(path, BufReader::new(open(path)?))?;
    let (width, height) = decoder.dimensions();
    let lies_on_its_side = matches!(
        orientation(&mut *decoder),
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    );
    let (width_px, height_px) = if lies_on_its_side { (height, width) } else { (width, height) };
    Ok((width_px as usize, height_px as usize))
}

/// The pixels of a PNG as they are, for masks.
pub(super) fn read_png(path: &Path) -> Result<DynamicImage, PictureError> {
    let bytes = file_bytes(path)?;
    if !matches!(image::guess_format(&bytes), Ok(ImageFormat::Png)) {
        return Err(PictureFault::NotPng.of(path));
    }
    let (decoder, _) = decoder(path, Cursor::new(bytes.as_slice()))?;
    decode(path, decoder)
}

/// `576x768`.
pub(super) fn size_text((width_px, height_px): (usize, usize)) -> String {
    format!("{width_px}x{height_px}")
}

/// Opens a file, unless it is so long that reading it would be an attack on the memory.
fn open(path: &Path) -> Result<File, PictureError> {
    let failed = |error| PictureFault::Io(error).of(path);
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.len() > MAXIMUM_FILE_BYTES {
        let what = format!("a file of {} MiB", metadata.len() >> 20);
        return Err(PictureFault::TooLarge(what).of(path));
    }
    Ok(file)
}

fn file_bytes(path: &Path) -> Result<Vec<u8>, PictureError> {
    let mut bytes = Vec::new();
    let failed = |error| PictureFault::Io(error).of(path);
    open(path)?.take(MAXIMUM_FILE_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

type Decoder<'a> = Box<dyn ImageDecoder + 'a>;

/// The decoder for a file's content, header read, limits set.
fn decoder<'a>(
    path: &Path,
    mut content: impl io::BufRead + Seek + 'a,
) -> Result<(Decoder<'a>, ImageFormat), PictureError> {
    let start = content.fill_buf().map_err(|error| PictureFault::Io(error).of(path))?;
    let format = image::guess_format(start).map_err(|_| PictureFault::NotAPicture.of(path))?;
    let broken = |error: ImageError| PictureFault::Undecodable(reason(&error)).of(path);
    let decoder: Decoder<'a> = match format {
        ImageFormat::Png => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAXIMUM_CHUNK_BYTES);
            Box::new(PngDecoder::with_limits(content, limits).map_err(broken)?)
        }
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(content).map_err(broken)?),
        _ => return Err(PictureFault::NotAPicture.of(path)),
    };
    Ok((decoder, format))
}

fn decode(path: &Path, decoder: Decoder<'_>) -> Result<DynamicImage, PictureError> {
    let (width, height) = decoder.dimensions();
    let size = (width as usize, height as usize);
    // Before anything is allocated: the header may claim any size.
    if size.0 > MAXIMUM_SIDE_PX || size.1 > MAXIMUM_SIDE_PX {
        return Err(PictureFault::TooLarge(format!("{} pixels", size_text(size))).of(path));
    }
    DynamicImage::from_decoder(decoder).map_err(|error| PictureFault::Undecodable(reason(&error)).of(path))
}

/// As EXIF has it. A picture with damaged EXIF data is taken as it lies.
fn orientation(decoder: &mut dyn ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

/// A decoder's message on one line.
fn reason(error: &ImageError) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether the end marker follows the first scan. Markers within earlier segments (an EXIF thumbnail has its own end)
/// do not count.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut position = 2;
    while let Some(&[0xff, marker, high, low]) = bytes.get(position..position + 4).and_then(|four| four.as_array()) {
        if marker == START_OF_SCAN {
            return bytes[position..].windows(2).any(|pair| pair == [0xff, 0xd9]);
        }
        // Any number of fill bytes may stand before a marker.
        position += if marker == 0xff { 1 } else { 2 + usize::from(u16::from_be_bytes([high, low])) };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_s_end_is_not_the_picture_s_end() {
        let with_thumbnail = [0xff, 0xd8, 0xff, 0xe1, 0, 4, 0xff, 0xd9, 0xff, 0xda, 0, 2, 1, 2, 3];
        assert!(!jpeg_is_complete(&with_thumbnail));
        assert!(jpeg_is_complete(&[with_thumbnail.as_slice(), &[0xff, 0xd9]].concat()));
        assert!(!jpeg_is_complete(&[0xff, 0xd8, 0xff]));
    }
}
