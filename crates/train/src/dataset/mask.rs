//! Masks: which pixels of a picture are anomalous, and with what label.

use std::path::{Path, PathBuf};

use image::DynamicImage;

use super::error::shown;
use super::picture::{PictureError, PictureFault, picture_size, read_png, size_text};
use super::{LabelColor, Sample};

/// From here on a pixel counts as drawn: half covered, for masks whose edges fade through transparency.
const VISIBLE_ALPHA: u8 = 128;
/// The guide's colour for what is not anomalous.
pub(super) const WHITE: [u8; 3] = [255, 255, 255];
const BLACK: [u8; 3] = [0, 0, 0];

/// A mask file and what its colours mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskSource {
    /// The PNG file.
    pub path: PathBuf,
    /// What its colours mean.
    pub colors: MaskColors,
}

/// What the colours of a mask mean. Transparent pixels are always background, and so are black ones unless a label
/// is black.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaskColors {
    /// Every pixel that is neither transparent nor black has this label.
    AnyVisible {
        /// The label.
        label: String,
    },
    /// Each colour has its label; a colour that has none is an error.
    Map {
        /// The colour of `BACKGROUND`, where the map has one.
        background: Option<[u8; 3]>,
        /// Colour and label. A label may have several colours.
        labels: Vec<([u8; 3], String)>,
    },
}

/// Which label each pixel has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelPicture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `width * height` numbers, row by row: 0 is background, `n` is label `n - 1`.
    pub labels: Vec<u8>,
}

impl LabelPicture {
    /// Whether there is a label for each pixel, and a pixel at all.
    pub fn is_whole(&self) -> bool {
        !self.labels.is_empty() && self.labels.len() == self.width * self.height
    }

    /// The label numbers that occur, without the background.
    pub fn found(&self) -> Vec<u8> {
        let mut seen = [false; 256];
        for &label in &self.labels {
            seen[usize::from(label)] = true;
        }
        (1..=u8::MAX).filter(|&label| seen[usize::from(label)]).collect()
    }
}

/// Reads a sample's mask, numbered by `labels`.
pub fn read_mask(sample: &Sample, labels: &[LabelColor]) -> Result<LabelPicture, PictureError> {
    let mask = sample.mask.as_ref().ok_or_else(|| PictureFault::NoMask.of(&sample.path))?;
    let numbers = mask.numbers(labels)?;
    let pixels = Pixels::of(read_png(&mask.path)?);
    let picture = picture_size(&sample.path)?;
    if (pixels.width, pixels.height) != picture {
        return Err(size_differs(&mask.path, (pixels.width, pixels.height), picture));
    }
    mask.labelled(&pixels, &numbers)
}

/// Up to `most` colours of a mask that are neither transparent nor black, sorted; `None` if there are more.
pub(super) fn drawn_colors(path: &Path, most: usize) -> Result<Option<Vec<[u8; 3]>>, PictureError> {
    let mut colors = Vec::new();
    for color in Pixels::of(read_png(path)?).colors.into_iter().flatten() {
        if color == BLACK || colors.last() == Some(&color) || colors.contains(&color) {
            continue;
        }
        if colors.len() == most {
            return Ok(None);
        }
        colors.push(color);
    }
    colors.sort_unstable();
    Ok(Some(colors))
}

/// `#RRGGBB` from its bytes.
pub(super) fn hex(color: [u8; 3]) -> String {
    format!("#{:02X}{:02X}{:02X}", color[0], color[1], color[2])
}

/// The bytes of `#RRGGBB`.
pub(super) fn parse_hex(text: &str) -> Option<[u8; 3]> {
    let digits = text.strip_prefix('#')?;
    if digits.len() != 6 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(digits, 16).ok()?;
    let [_, red, green, blue] = number.to_be_bytes();
    Some([red, green, blue])
}

impl MaskSource {
    /// Each colour with the number of its label. For any visible colour: one entry, whose colour means nothing.
    fn numbers(&self, labels: &[LabelColor]) -> Result<Vec<([u8; 3], u8)>, PictureError> {
        let wanted: Vec<([u8; 3], &str)> = match &self.colors {
            MaskColors::AnyVisible { label } => vec![(BLACK, label)],
            MaskColors::Map { labels, .. } => labels.iter().map(|(color, name)| (*color, name.as_str())).collect(),
        };
        let number_of = |name: &str| {
            let index = labels.iter().position(|label| label.name == name)?;
            u8::try_from(index + 1).ok()
        };
        let mut numbers = Vec::with_capacity(wanted.len());
        for (color, name) in wanted {
            let number = number_of(name).ok_or_else(|| {
                PictureFault::UnknownLabel { label: shown(name), allowed: names(labels) }.of(&self.path)
            })?;
            numbers.push((color, number));
        }
        Ok(numbers)
    }

    fn labelled(&self, pixels: &Pixels, numbers: &[([u8; 3], u8)]) -> Result<LabelPicture, PictureError> {
        let labels = match &self.colors {
            MaskColors::AnyVisible { .. } => {
                let number = numbers.first().map_or(1, |&(_, number)| number);
                pixels.colors.iter().map(|color| if is_drawn(*color) { number } else { 0 }).collect()
            }
            MaskColors::Map { background, .. } => self.numbered(pixels, *background, numbers)?,
        };
        Ok(LabelPicture { width: pixels.width, height: pixels.height, labels })
    }

    fn numbered(
        &self,
        pixels: &Pixels,
        background: Option<[u8; 3]>,
        numbers: &[([u8; 3], u8)],
    ) -> Result<Vec<u8>, PictureError> {
        let number_of = |color: [u8; 3]| {
            let label = numbers.iter().find(|&&(labelled, _)| labelled == color).map(|&(_, number)| number);
            let is_background = color == BLACK || Some(color) == background;
            label.or(is_background.then_some(0))
        };
        let mut result = Vec::with_capacity(pixels.colors.len());
        let mut first_unknown = None;
        let mut unknown = 0;
        // Masks are large areas of one colour: the last answer is nearly always the next.
        let mut last = (BLACK, number_of(BLACK));
        for (index, color) in pixels.colors.iter().enumerate() {
            let Some(color) = *color else {
                result.push(0);
                continue;
            };
            if color != last.0 {
                last = (color, number_of(color));
            }
            if last.1.is_none() {
                unknown += 1;
                first_unknown.get_or_insert((index, color));
            }
            result.push(last.1.unwrap_or(0));
        }
        let Some((index, color)) = first_unknown else { return Ok(result) };
        let fault = PictureFault::UnknownColor {
            color: hex(color),
            x: index % pixels.width,
            y: index / pixels.width,
            pixels: unknown,
            allowed: self.allowed(),
        };
        Err(fault.of(&self.path))
    }

    /// The colours that have labels, for a message.
    fn allowed(&self) -> String {
        match &self.colors {
            MaskColors::AnyVisible { label } => format!("any (`{label}`)"),
            MaskColors::Map { labels, background } => {
                let background = background.map(|color| format!("{} (background)", hex(color)));
                let labels = labels.iter().map(|(color, name)| format!("{} (`{}`)", hex(*color), shown(name)));
                labels.chain(background).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn size_differs(mask: &Path, size: (usize, usize), picture_size: (usize, usize)) -> PictureError {
    PictureFault::SizeDiffers { mask: size_text(size), picture: size_text(picture_size) }.of(mask)
}

fn names(labels: &[LabelColor]) -> String {
    labels.iter().map(|label| format!("`{}`", shown(&label.name))).collect::<Vec<_>>().join(", ")
}

fn is_drawn(color: Option<[u8; 3]>) -> bool {
    color.is_some_and(|color| color != BLACK)
}

/// A mask's colours; `None` where it is transparent.
struct Pixels {
    width: usize,
    height: usize,
    colors: Vec<Option<[u8; 3]>>,
}

impl Pixels {
    fn of(image: DynamicImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let colors = match image {
            DynamicImage::ImageLuma16(_)
            | DynamicImage::ImageLumaA16(_)
            | DynamicImage::ImageRgb16(_)
            | DynamicImage::ImageRgba16(_) => {
                image.into_rgba16().pixels().map(|pixel| color(pixel.0.map(to_8_bit))).collect()
            }
            _ => image.into_rgba8().pixels().map(|pixel| color(pixel.0)).collect(),
        };
        Self { width, height, colors }
    }
}

fn color([red, green, blue, alpha]: [u8; 4]) -> Option<[u8; 3]> {
    (alpha >= VISIBLE_ALPHA).then_some([red, green, blue])
}

/// Rounds, but never to zero: a 16-bit mask may number its labels 1, 2, 3.
fn to_8_bit(value: u16) -> u8 {
    match value {
        0 => 0,
        1..=385 => 1,
        _ => u8::try_from((u32::from(value) + 128) / 257).unwrap_or(u8::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_colours_go_back_and_forth() {
        assert_eq!(parse_hex("#23a436"), Some([0x23, 0xa4, 0x36]));
        assert_eq!(hex([0x23, 0xa4, 0x36]), "#23A436");
        for wrong in ["23A436", "#23A43", "#23A4366", "#23A43g", "#+3A436", ""] {
            assert_eq!(parse_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sixteen_bits_round_but_never_to_background() {
        assert_eq!([0, 1, 257, 514, 32_896, 65_535].map(to_8_bit), [0, 1, 1, 2, 128, 255]);
    }
}
