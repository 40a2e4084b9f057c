//! Pictures from files: JPEG and PNG, turned upright, as 8-bit RGB.

use std::fmt;
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
    /// It is a folder, a pipe or a device.
    #[error("cannot read: not a file")]
    NotAFile,
    /// The content is neither JPEG nor PNG.
    #[error("cannot read: neither JPEG nor PNG{}", .0.map(|name| format!(", but {name}")).unwrap_or_default())]
    NotAPicture(
        /// What it is instead, where that is plain to see.
        Option<&'static str>,
    ),
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

/// What is odd about a picture that can be read all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Oddity {
    /// The file's name says another format than its content.
    OtherName {
        /// What the content is.
        is: &'static str,
    },
    /// An animation, of which the first picture is taken.
    Animated,
    /// Pixels that are transparent, whose hidden colour is taken.
    Transparent,
    /// 16 bits a channel, of which eight are used.
    Deep,
    /// Four inks, turned into RGB without a profile.
    Cmyk,
    /// EXIF says that it lies on its side or is mirrored.
    Turned,
    /// EXIF data that cannot be read.
    DamagedExif,
}

impl fmt::Display for Oddity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherName { is } => write!(out, "is a {is}, although its name says otherwise"),
            Self::Animated => write!(out, "is animated; only its first picture is used"),
            Self::Transparent => write!(out, "is partly transparent; transparency is dropped"),
            Self::Deep => write!(out, "has 16 bits a channel; only the upper eight are used"),
            Self::Cmyk => write!(out, "is in CMYK; its colours as RGB are approximate"),
            Self::Turned => write!(out, "is turned as its EXIF data say; frames of a camera have none and are not"),
            Self::DamagedExif => write!(out, "has damaged EXIF data; it is taken as it lies"),
        }
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
        Ok(Self::read_closely(path)?.0)
    }

    /// The picture in a file's content, as [`Picture::read`] takes it.
    ///
    /// # Errors
    /// As reading the file.
    pub fn from_bytes(bytes: impl AsRef<[u8]>) -> Result<Self, PictureFault> {
        match Self::decode(Path::new(""), bytes) {
            Ok((picture, _)) => Ok(picture),
            Err(error) => Err(error.fault),
        }
    }

    /// Reads a picture and says what is odd about it.
    pub(super) fn read_closely(path: &Path) -> Result<(Self, Vec<Oddity>), PictureError> {
        Self::decode(path, file_bytes(path)?)
    }

    /// The picture in a file's content.
    pub(super) fn decode(path: &Path, file: impl AsRef<[u8]>) -> Result<(Self, Vec<Oddity>), PictureError> {
        let bytes = file.as_ref();
        let (mut decoder, format) = decoder(path, Cursor::new(bytes))?;
        let mut oddities = header_oddities(path, format, bytes, &mut *decoder);
        let orientation = orientation(&mut *decoder);
        let mut image = decode(path, decoder)?;
        if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
            // The decoder fills what is missing with grey, and a half-copied photograph would train as a good part.
            return Err(PictureFault::Undecodable("the JPEG ends too early".to_owned()).of(path));
        }
        drop(file);
        if is_transparent(&image) {
            oddities.push(Oddity::Transparent);
        }
        image.apply_orientation(orientation);
        let rgb = image.into_rgb8();
        let picture = Self { width_px: rgb.width() as usize, height_px: rgb.height() as usize, rgb: rgb.into_raw() };
        Ok((picture, oddities))
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
    decode_png(path, &file_bytes(path)?)
}

/// The pixels of a PNG file's content.
pub(super) fn decode_png(path: &Path, bytes: &[u8]) -> Result<DynamicImage, PictureError> {
    if !matches!(image::guess_format(bytes), Ok(ImageFormat::Png)) {
        return Err(PictureFault::NotPng.of(path));
    }
    let (decoder, _) = decoder(path, Cursor::new(bytes))?;
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
    if !metadata.is_file() {
        return Err(PictureFault::NotAFile.of(path));
    }
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
    let format = image::guess_format(start).map_err(|_| PictureFault::NotAPicture(None).of(path))?;
    let broken = |error: ImageError| PictureFault::Undecodable(reason(&error)).of(path);
    let decoder: Decoder<'a> = match format {
        ImageFormat::Png => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAXIMUM_CHUNK_BYTES);
            Box::new(PngDecoder::with_limits(content, limits).map_err(broken)?)
        }
        ImageFormat::Jpeg => Box::new(JpegDecoder::new(content).map_err(broken)?),
        other => return Err(PictureFault::NotAPicture(name_of(other)).of(path)),
    };
    Ok((decoder, format))
}

/// The formats that people have instead.
fn name_of(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Gif => "GIF",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Avif => "AVIF",
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        _ => return None,
    })
}

/// What a file's header tells that a user would want to know.
fn header_oddities(path: &Path, format: ImageFormat, bytes: &[u8], decoder: &mut dyn ImageDecoder) -> Vec<Oddity> {
    let mut oddities = Vec::new();
    let extension = path.extension().and_then(ImageFormat::from_extension);
    if extension.is_some_and(|extension| extension != format) {
        oddities.extend(name_of(format).map(|is| Oddity::OtherName { is }));
    }
    match format {
        ImageFormat::Png if png_is_animated(bytes) => oddities.push(Oddity::Animated),
        ImageFormat::Jpeg if jpeg_segments(bytes).any(|segment| segment.is_cmyk_frame()) => {
            oddities.push(Oddity::Cmyk);
        }
        _ => {}
    }
    let color = decoder.color_type();
    if color.bytes_per_pixel() / color.channel_count() == 2 {
        oddities.push(Oddity::Deep);
    }
    if let Ok(Some(exif)) = decoder.exif_metadata() {
        match Orientation::from_exif_chunk(&exif) {
            Some(Orientation::NoTransforms) => {}
            Some(_) => oddities.push(Oddity::Turned),
            // Sound data need not say how the picture lies.
            None if exif_is_sound(&exif) => {}
            None => oddities.push(Oddity::DamagedExif),
        }
    }
    oddities
}

/// Whether EXIF data begin as they must: byte order, 42, and a list of entries that is all there.
fn exif_is_sound(exif: &[u8]) -> bool {
    let big = match exif.first_chunk::<4>() {
        Some(b"II*\0") => false,
        Some(b"MM\0*") => true,
        _ => return false,
    };
    let Some(offset) = exif.get(4..8).and_then(|four| four.first_chunk::<4>().copied()) else { return false };
    let offset = if big { u32::from_be_bytes(offset) } else { u32::from_le_bytes(offset) } as usize;
    let Some(list) = exif.get(offset..) else { return false };
    let Some(&count) = list.first_chunk::<2>() else { return false };
    let entries = if big { u16::from_be_bytes(count) } else { u16::from_le_bytes(count) };
    list.len() >= 2 + 12 * usize::from(entries)
}

fn is_transparent(image: &DynamicImage) -> bool {
    match image {
        DynamicImage::ImageRgba8(image) => image.pixels().any(|pixel| pixel.0[3] < u8::MAX),
        DynamicImage::ImageLumaA8(image) => image.pixels().any(|pixel| pixel.0[1] < u8::MAX),
        DynamicImage::ImageRgba16(image) => image.pixels().any(|pixel| pixel.0[3] < u16::MAX),
        DynamicImage::ImageLumaA16(image) => image.pixels().any(|pixel| pixel.0[1] < u16::MAX),
        _ => false,
    }
}

/// Whether a chunk `acTL` comes before the pixels.
fn png_is_animated(bytes: &[u8]) -> bool {
    let mut position = 8;
    while let Some(head) = bytes.get(position..).and_then(|rest| rest.first_chunk::<8>()) {
        let [a, b, c, d, kind @ ..] = *head;
        match &kind {
            b"acTL" => return true,
            b"IDAT" | b"IEND" => return false,
            // Length, name, data, checksum.
            _ => position = position.saturating_add(12 + u32::from_be_bytes([a, b, c, d]) as usize),
        }
    }
    false
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

const START_OF_SCAN: u8 = 0xda;

/// A segment of a JPEG before its pixels.
struct Segment<'a> {
    marker: u8,
    /// From the marker to the end of the file.
    rest: &'a [u8],
}

impl Segment<'_> {
    /// A frame header, of whatever compression, that names four components.
    fn is_cmyk_frame(&self) -> bool {
        let is_frame = matches!(self.marker, 0xc0..=0xcf) && !matches!(self.marker, 0xc4 | 0xc8 | 0xcc);
        is_frame && self.rest.get(9) == Some(&4)
    }
}

/// The segments of a JPEG up to the first scan. Markers within them (an EXIF thumbnail has its own) are not looked at.
fn jpeg_segments(bytes: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut position = 2;
    let mut in_header = true;
    std::iter::from_fn(move || {
        while in_header {
            let rest = bytes.get(position..)?;
            let &[0xff, marker, high, low] = rest.first_chunk::<4>()? else { return None };
            // Any number of fill bytes may stand before a marker.
            if marker == 0xff {
                position += 1;
                continue;
            }
            position += 2 + usize::from(u16::from_be_bytes([high, low]));
            in_header = marker != START_OF_SCAN;
            return Some(Segment { marker, rest });
        }
        None
    })
}

/// Whether the end marker follows the first scan.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let scan = jpeg_segments(bytes).find(|segment| segment.marker == START_OF_SCAN);
    scan.is_some_and(|scan| scan.rest.windows(2).any(|pair| pair == [0xff, 0xd9]))
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
