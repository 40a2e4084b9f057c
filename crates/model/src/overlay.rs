//! Drawing what a model found onto the picture in which it found it: a tint and a contour in each label's colour, and the
//! verdict with its score and areas as text.
//!
//! A [`Canvas`] is a picture in any of the supported formats, drawn on in place; an [`Overlay`] says what to draw.
//! Elements and command line draw through here, so that their pictures look the same.

use embedded_graphics::Pixel;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_8X13_BOLD;
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::prelude::{DrawTarget, Drawable};
use embedded_graphics::text::{Baseline, Text};
use linewarden_core::FrameResult;

use crate::detector::Detection;
use crate::frame::{FrameError, FrameView, PixelFormat, Plane, Rect, YuvColor, YuvMatrix};
use crate::map::LabelMask;
use crate::package::Label;

/// Colour of anomalies that have no label.
const UNLABELLED: [u8; 3] = [0xE6, 0x19, 0x4B];
const ANOMALOUS_BOX: [u8; 3] = [0xA0, 0x10, 0x20];
const NORMAL_BOX: [u8; 3] = [0x10, 0x70, 0x30];
const TEXT_COLOR: Rgb888 = Rgb888::WHITE;
/// How strongly the box behind the text covers the picture.
const BOX_ALPHA: f32 = 0.75;
/// Cell of the font.
const GLYPH_WIDTH: u32 = 8;
const GLYPH_HEIGHT: u32 = 13;
/// Pictures up to this many rows have text of the font's own size.
const ROWS_PER_TEXT_SCALE: u32 = 480;
/// One pixel of contour for so many rows of the picture.
const ROWS_PER_CONTOUR_PIXEL: u32 = 240;

/// One plane of a picture that is drawn on.
#[derive(Debug)]
pub struct CanvasPlane<'a> {
    /// Bytes of the plane, starting with its first row.
    pub data: &'a mut [u8],
    /// Bytes from the start of one row to the start of the next.
    pub stride_bytes: usize,
}

/// A checked picture that is drawn on in place.
#[derive(Debug)]
pub struct Canvas<'a> {
    format: PixelFormat,
    width_px: u32,
    height_px: u32,
    planes: Vec<CanvasPlane<'a>>,
    to_yuv: RgbToYuv,
}

/// What to draw.
#[derive(Debug, Clone, Copy)]
pub struct Overlay<'a> {
    /// The verdict.
    pub result: &'a FrameResult,
    /// Where the anomalies are, over `region`; see [`Detection::mask`].
    pub mask: Option<&'a LabelMask>,
    /// The model's labels, in the order in which the mask numbers them from 1. May be empty.
    pub labels: &'a [Label],
    /// The part of the picture that was scored.
    pub region: Rect,
    /// How strongly the tint covers the picture: 0 not at all, 1 completely.
    pub alpha: f32,
    /// Whether to write the verdict.
    pub text: bool,
}

/// Draws onto RGB888 without padding, such as a decoded file, of which everything was scored.
///
/// # Errors
/// When `rgb` is shorter than `width_px * height_px * 3`.
pub fn draw_on_rgb(
    width_px: u32,
    height_px: u32,
    rgb: &mut [u8],
    detection: &Detection,
    labels: &[Label],
    alpha: f32,
    text: bool,
) -> Result<(), FrameError> {
    let plane = CanvasPlane { data: rgb, stride_bytes: width_px as usize * 3 };
    let mut canvas = Canvas::new(PixelFormat::Rgb, width_px, height_px, vec![plane], YuvColor::default())?;
    let region = Rect::of_size(width_px, height_px);
    Overlay { result: &detection.result, mask: detection.mask(), labels, region, alpha, text }.draw(&mut canvas);
    Ok(())
}

/// The mask of a picture of which everything was scored, at its own size: labels in their colours on white, RGB888 without
/// padding. A normal picture's is white.
pub fn mask_rgb(detection: &Detection, labels: &[Label], width_px: u32, height_px: u32) -> Vec<u8> {
    let (width, height) = (width_px as usize, height_px as usize);
    let mut rgb = vec![u8::MAX; width * height * 3];
    if !detection.result.is_anomalous {
        return rgb;
    }
    let colors: Vec<[u8; 3]> = labels.iter().map(|label| parse_color(&label.hex_color).unwrap_or(UNLABELLED)).collect();
    let found = detection.map.resized(width, height).mask();
    for (pixel, &label) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(&found.labels) {
        if let Some(index) = usize::from(label).checked_sub(1) {
            *pixel = colors.get(index).copied().unwrap_or(UNLABELLED);
        }
    }
    rgb
}

impl<'a> Canvas<'a> {
    /// A canvas on these planes.
    ///
    /// # Errors
    /// When a plane is missing or too short for its stride.
    pub fn new(
        format: PixelFormat,
        width_px: u32,
        height_px: u32,
        planes: Vec<CanvasPlane<'a>>,
        color: YuvColor,
    ) -> Result<Self, FrameError> {
        let readable = planes.iter().map(|plane| Plane { data: plane.data, stride_bytes: plane.stride_bytes });
        FrameView::new(format, width_px, height_px, readable.collect(), color)?;
        // A grey picture is full range whatever its caps say of colours.
        let color = if format == PixelFormat::Gray8 { YuvColor { full_range: true, ..color } } else { color };
        Ok(Self { format, width_px, height_px, planes, to_yuv: RgbToYuv::of(color) })
    }

    /// Moves one pixel towards a colour; a pixel outside the picture is ignored.
    ///
    /// Where chroma is shared by several pixels, the one at even coordinates speaks for them all.
    pub fn blend(&mut self, x: u32, y: u32, rgb: [u8; 3], alpha: f32) {
        self.put(x, y, self.ink(rgb, alpha));
    }

    fn ink(&self, rgb: [u8; 3], alpha: f32) -> Ink {
        Ink { rgb, yuv: self.to_yuv.convert(rgb), share: share_of(alpha) }
    }

    fn put(&mut self, x: u32, y: u32, ink: Ink) {
        if x < self.width_px && y < self.height_px {
            self.apply(x as usize, y as usize, ink);
        }
    }

    fn fill(&mut self, area: Rect, rgb: [u8; 3], alpha: f32) {
        let ink = self.ink(rgb, alpha);
        let right = area.x.saturating_add(area.width_px).min(self.width_px);
        let bottom = area.y.saturating_add(area.height_px).min(self.height_px);
        for y in area.y..bottom {
            for x in area.x..right {
                self.apply(x as usize, y as usize, ink);
            }
        }
    }

    /// The pixel is inside the picture.
    fn apply(&mut self, x: usize, y: usize, ink: Ink) {
        let [red, green, blue] = ink.rgb;
        let [luma, u, v] = ink.yuv;
        let is_chroma_column = x.is_multiple_of(2);
        let is_chroma_pixel = is_chroma_column && y.is_multiple_of(2);
        match self.format {
            PixelFormat::Rgb => self.mix(0, x * 3, y, &[red, green, blue], ink.share),
            PixelFormat::Bgr => self.mix(0, x * 3, y, &[blue, green, red], ink.share),
            PixelFormat::Rgbx => self.mix(0, x * 4, y, &[red, green, blue], ink.share),
            PixelFormat::Bgrx => self.mix(0, x * 4, y, &[blue, green, red], ink.share),
            PixelFormat::Gray8 => self.mix(0, x, y, &[luma], ink.share),
            PixelFormat::I420 => {
                self.mix(0, x, y, &[luma], ink.share);
                if is_chroma_pixel {
                    self.mix(1, x / 2, y / 2, &[u], ink.share);
                    self.mix(2, x / 2, y / 2, &[v], ink.share);
                }
            }
            PixelFormat::Nv12 => {
                self.mix(0, x, y, &[luma], ink.share);
                if is_chroma_pixel {
                    self.mix(1, x, y / 2, &[u, v], ink.share);
                }
            }
            PixelFormat::Yuy2 => {
                self.mix(0, x * 2, y, &[luma], ink.share);
                if is_chroma_column {
                    self.mix(0, x * 2 + 1, y, &[u], ink.share);
                    self.mix(0, x * 2 + 3, y, &[v], ink.share);
                }
            }
            PixelFormat::Uyvy => {
                self.mix(0, x * 2 + 1, y, &[luma], ink.share);
                if is_chroma_column {
                    self.mix(0, x * 2, y, &[u], ink.share);
                    self.mix(0, x * 2 + 2, y, &[v], ink.share);
                }
            }
        }
    }

    fn mix(&mut self, plane: usize, at_byte: usize, row: usize, ink: &[u8], share: i32) {
        let plane = &mut self.planes[plane];
        let start = row * plane.stride_bytes + at_byte;
        for (sample, &ink) in plane.data[start..].iter_mut().zip(ink) {
            let old = i32::from(*sample);
            // The shift rounds downwards for either sign, and half of what it drops was added: to the nearest value, which
            // lies between two bytes and so is a byte.
            *sample = (old + (((i32::from(ink) - old) * share + 128) >> 8)) as u8;
        }
    }
}

impl Overlay<'_> {
    /// Draws it; whatever lies outside the picture is left out.
    pub fn draw(&self, canvas: &mut Canvas<'_>) {
        if let Some(mask) = self.mask {
            self.draw_mask(canvas, mask);
        }
        if self.text {
            self.draw_text(canvas);
        }
    }

    fn draw_mask(&self, canvas: &mut Canvas<'_>, mask: &LabelMask) {
        let Rect { x: left, y: top, width_px, height_px } = self.region;
        let thickness = (canvas.height_px / ROWS_PER_CONTOUR_PIXEL).max(1);
        let columns: Vec<usize> = (0..width_px).map(|x| cell(x, width_px, mask.width)).collect();
        let label_at =
            |x: u32, row: usize| mask.labels.get(row * mask.width + columns[x as usize]).copied().unwrap_or(0);
        let inks = |alpha| -> Vec<Ink> { (0..=u8::MAX).map(|label| canvas.ink(self.color_of(label), alpha)).collect() };
        let (tints, contours) = (inks(self.alpha), inks(1.0));
        for y in 0..height_px {
            let row = cell(y, height_px, mask.height);
            // Most rows of most pictures.
            if mask.labels.iter().skip(row * mask.width).take(mask.width).all(|&label| label == 0) {
                continue;
            }
            let above = cell(y.saturating_sub(thickness), height_px, mask.height);
            let below = cell((y + thickness).min(height_px - 1), height_px, mask.height);
            for x in 0..width_px {
                let label = label_at(x, row);
                if label == 0 {
                    continue;
                }
                let neighbours = [
                    label_at(x.saturating_sub(thickness), row),
                    label_at((x + thickness).min(width_px - 1), row),
                    label_at(x, above),
                    label_at(x, below),
                ];
                let is_contour = neighbours.iter().any(|&neighbour| neighbour != label);
                let inks = if is_contour { &contours } else { &tints };
                canvas.put(left + x, top + y, inks[usize::from(label)]);
            }
        }
    }

    fn color_of(&self, label: u8) -> [u8; 3] {
        let index = usize::from(label).checked_sub(1);
        let label = index.and_then(|index| self.labels.get(index));
        label.and_then(|label| parse_color(&label.hex_color)).unwrap_or(UNLABELLED)
    }

    /// The verdict, then one line for each label found.
    fn lines(&self) -> Vec<String> {
        let FrameResult { is_anomalous, anomaly_score, anomaly_threshold, .. } = *self.result;
        let verdict = if is_anomalous { "ANOMALY" } else { "NORMAL" };
        let first = format!("{verdict} {anomaly_score:.3} (from {anomaly_threshold:.3})");
        let labels = self.result.labels();
        let labels = labels.map(|found| format!("{} {:.2}%", found.name, found.total_percentage_area * 100.0));
        std::iter::once(first).chain(labels).collect()
    }

    fn draw_text(&self, canvas: &mut Canvas<'_>) {
        let scale = (canvas.height_px / ROWS_PER_TEXT_SCALE).max(1);
        let margin = 4 * scale;
        let lines = self.lines();
        let characters = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let characters = u32::try_from(characters).unwrap_or(u32::MAX);
        let width_px = characters.saturating_mul(GLYPH_WIDTH * scale).saturating_add(2 * margin);
        let line_px = (GLYPH_HEIGHT + 2) * scale;
        let height_px =
            u32::try_from(lines.len()).unwrap_or(u32::MAX).saturating_mul(line_px).saturating_add(2 * margin);
        let color = if self.result.is_anomalous { ANOMALOUS_BOX } else { NORMAL_BOX };
        canvas.fill(Rect { x: 0, y: 0, width_px, height_px }, color, BOX_ALPHA);
        let style = MonoTextStyle::new(&FONT_8X13_BOLD, TEXT_COLOR);
        for (line, top) in lines.iter().zip((margin..).step_by(line_px as usize)) {
            let mut glyphs = Magnified { canvas: &mut *canvas, left: margin, top, scale };
            // Drawing on a canvas cannot fail: its error type has no values.
            let Ok(_) = Text::with_baseline(line, Point::zero(), style, Baseline::Top).draw(&mut glyphs);
        }
    }
}

/// The cell of a row of `cells` over which pixel `index` of `pixels` lies.
fn cell(index: u32, pixels: u32, cells: usize) -> usize {
    (index as usize * cells / (pixels as usize).max(1)).min(cells.saturating_sub(1))
}

fn parse_color(hex: &str) -> Option<[u8; 3]> {
    let digits = hex.strip_prefix('#').filter(|digits| digits.len() == 6)?;
    let [_, red, green, blue] = u32::from_str_radix(digits, 16).ok()?.to_be_bytes();
    Some([red, green, blue])
}

/// A colour, ready for any format, and how much of it to take, from 0 to 256.
#[derive(Clone, Copy)]
struct Ink {
    rgb: [u8; 3],
    yuv: [u8; 3],
    share: i32,
}

fn share_of(alpha: f32) -> i32 {
    (alpha.clamp(0.0, 1.0) * 256.0 + 0.5) as i32
}

/// Text magnified by whole numbers: the font is made for small displays.
struct Magnified<'a, 'b> {
    canvas: &'a mut Canvas<'b>,
    left: u32,
    top: u32,
    scale: u32,
}

impl OriginDimensions for Magnified<'_, '_> {
    fn size(&self) -> Size {
        Size::new(self.canvas.width_px, self.canvas.height_px)
    }
}

impl DrawTarget for Magnified<'_, '_> {
    type Color = Rgb888;
    type Error = std::convert::Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Self::Color>>>(&mut self, pixels: I) -> Result<(), Self::Error> {
        for Pixel(point, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(point.x), u32::try_from(point.y)) else { continue };
            let x = x.saturating_mul(self.scale).saturating_add(self.left);
            let y = y.saturating_mul(self.scale).saturating_add(self.top);
            let dot = Rect { x, y, width_px: self.scale, height_px: self.scale };
            self.canvas.fill(dot, [color.r(), color.g(), color.b()], 1.0);
        }
        Ok(())
    }
}

/// Coefficients from RGB to YUV, the inverse of what scoring uses.
#[derive(Debug, Clone, Copy)]
struct RgbToYuv {
    red: f32,
    blue: f32,
    luma_offset: f32,
    luma: f32,
    chroma: f32,
}

impl RgbToYuv {
    fn of(color: YuvColor) -> Self {
        let (red, blue) = match color.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
            YuvMatrix::Bt2020 => (0.2627, 0.0593),
        };
        let (luma_offset, luma, chroma) =
            if color.full_range { (0.0, 1.0, 1.0) } else { (16.0, 219.0 / 255.0, 224.0 / 255.0) };
        Self { red, blue, luma_offset, luma, chroma }
    }

    fn convert(&self, rgb: [u8; 3]) -> [u8; 3] {
        let [red, green, blue] = rgb.map(f32::from);
        let y = self.red * red + (1.0 - self.red - self.blue) * green + self.blue * blue;
        let u = (blue - y) / (2.0 * (1.0 - self.blue)) * self.chroma + 128.0;
        let v = (red - y) / (2.0 * (1.0 - self.red)) * self.chroma + 128.0;
        // Adding a half before the saturating cast rounds to the nearest value.
        [y * self.luma + self.luma_offset, u, v].map(|value| (value + 0.5) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::Preprocessor;
    use linewarden_core::Anomaly;

    const WIDTH: u32 = 64;
    const HEIGHT: u32 = 48;
    const FORMATS: [PixelFormat; 9] = [
        PixelFormat::Rgb,
        PixelFormat::Bgr,
        PixelFormat::Rgbx,
        PixelFormat::Bgrx,
        PixelFormat::Gray8,
        PixelFormat::I420,
        PixelFormat::Nv12,
        PixelFormat::Yuy2,
        PixelFormat::Uyvy,
    ];

    fn anomalous() -> FrameResult {
        let dent = Anomaly { name: "dent".to_owned(), total_percentage_area: 0.5, hex_color: "#0000FF".to_owned() };
        FrameResult {
            is_anomalous: true,
            confidence: 0.9,
            anomaly_score: 0.9,
            anomaly_threshold: 0.5,
            anomalies: vec![dent],
        }
    }

    /// The left half is label 1.
    fn left_half() -> LabelMask {
        LabelMask { width: 2, height: 1, labels: vec![1, 0] }
    }

    /// A grey picture (every sample 128), drawn on and read back as RGB by the code that scores.
    fn drawn(format: PixelFormat, alpha: f32, text: bool) -> Vec<[u8; 3]> {
        let color = YuvColor { matrix: YuvMatrix::Bt709, full_range: true };
        let sizes = format.plane_sizes(WIDTH, HEIGHT);
        let mut planes: Vec<Vec<u8>> = sizes.iter().map(|&(row, rows)| vec![128; (row + 5) * rows]).collect();
        let canvas_planes = planes.iter_mut().zip(&sizes);
        let canvas_planes = canvas_planes.map(|(data, (row, _))| CanvasPlane { data, stride_bytes: row + 5 });
        let mut canvas = Canvas::new(format, WIDTH, HEIGHT, canvas_planes.collect(), color).unwrap();
        let (result, mask) = (anomalous(), left_half());
        let labels = [Label { name: "dent".to_owned(), hex_color: "#0000FF".to_owned() }];
        let region = Rect { x: 16, y: 24, width_px: 32, height_px: 16 };
        Overlay { result: &result, mask: Some(&mask), labels: &labels, region, alpha, text }.draw(&mut canvas);

        let planes = planes.iter().zip(&sizes).map(|(data, (row, _))| Plane { data, stride_bytes: row + 5 });
        let view = FrameView::new(format, WIDTH, HEIGHT, planes.collect(), color).unwrap();
        let mut rgb = Vec::new();
        Preprocessor::new(WIDTH, HEIGHT).run(&view, &mut rgb).unwrap();
        rgb.as_chunks::<3>().0.to_vec()
    }

    fn at(picture: &[[u8; 3]], x: u32, y: u32) -> [u8; 3] {
        picture[(y * WIDTH + x) as usize]
    }

    #[test]
    fn the_mask_is_tinted_and_outlined_within_its_region_in_every_format() {
        for format in FORMATS {
            let picture = drawn(format, 0.5, false);
            let close = |point: [u8; 3], expected: [u8; 3]| {
                let worst = point.iter().zip(expected).map(|(a, b)| a.abs_diff(b)).max().unwrap();
                assert!(worst <= 10, "{format:?}: {point:?} is not {expected:?}");
            };
            // Blue at half strength over grey; in a grey picture blue is as dark as its luma.
            let grey = format == PixelFormat::Gray8;
            let tint = if grey { [73; 3] } else { [64, 64, 192] };
            let line = if grey { [18; 3] } else { [0, 0, 255] };
            close(at(&picture, 22, 30), tint);
            close(at(&picture, 42, 30), [128; 3]);
            close(at(&picture, 8, 30), [128; 3]);
            close(at(&picture, 22, 10), [128; 3]);
            if !matches!(format, PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::Yuy2 | PixelFormat::Uyvy) {
                close(at(&picture, 31, 30), line);
            }
        }
    }

    #[test]
    fn the_verdict_is_written_in_white_on_red_when_anomalous() {
        let picture = drawn(PixelFormat::Rgb, 0.0, true);
        let text = picture.iter().filter(|&&pixel| pixel == [255; 3]).count();
        assert!(text > 50, "{text} white pixels");
        let [red, green, blue] = at(&picture, 1, 1);
        assert!(red > 130 && green < 60 && blue < 80, "{red} {green} {blue}");
    }

    #[test]
    fn nothing_to_draw_leaves_every_pixel() {
        for format in FORMATS {
            let untouched = drawn(format, 0.0, false);
            assert_eq!(at(&untouched, 22, 30), at(&untouched, 60, 44), "{format:?}");
        }
    }

    #[test]
    fn drawing_beyond_the_picture_is_left_out() {
        let mut rgb = vec![0; 33 * 5 * 3];
        let result = anomalous();
        let plane = CanvasPlane { data: &mut rgb, stride_bytes: 99 };
        let mut canvas = Canvas::new(PixelFormat::Rgb, 33, 5, vec![plane], YuvColor::default()).unwrap();
        let region = Rect { x: 20, y: 3, width_px: 40, height_px: 40 };
        let mask = left_half();
        Overlay { result: &result, mask: Some(&mask), labels: &[], region, alpha: 0.5, text: true }.draw(&mut canvas);
        assert_ne!(rgb[0], 0);
    }
}
