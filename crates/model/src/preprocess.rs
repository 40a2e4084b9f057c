//! From a camera's frame to the pixels that the network sees, and only those.
//!
//! Every format is scaled in its own planes first and converted to RGB afterwards, at the network's small size: a
//! 1280x720 I420 frame never becomes a 1280x720 RGB frame.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x2, U8x3, U8x4};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::error::ModelError;
use crate::frame::{FrameView, PixelFormat, Plane, Rect, YuvColor, YuvMatrix};

/// Scales and converts frames to one size of RGB888. Keeps its buffers between frames.
#[derive(Debug)]
pub struct Preprocessor {
    width_px: u32,
    height_px: u32,
    resizer: Resizer,
    rows: Vec<u8>,
    scaled: [Vec<u8>; 3],
}

/// The part of a plane that counts, in the plane's own samples; parts of a sample arise where chroma is subsampled.
#[derive(Debug, Clone, Copy)]
struct Region {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// One channel among others: every `step`th byte from `first` on.
#[derive(Clone, Copy)]
struct Samples<'a> {
    bytes: &'a [u8],
    first: usize,
    step: usize,
}

/// YUV to RGB as `(y - offset) * luma + ...`, for values of 0 to 255.
struct YuvToRgb {
    luma_offset: f32,
    luma: f32,
    red_v: f32,
    green_u: f32,
    green_v: f32,
    blue_u: f32,
}

impl Preprocessor {
    /// Scales to this size.
    pub fn new(width_px: u32, height_px: u32) -> Self {
        Self { width_px, height_px, resizer: Resizer::new(), rows: Vec::new(), scaled: Default::default() }
    }

    /// Scales the region that counts to the network's size and writes it as RGB888 into `rgb`.
    ///
    /// Scaling is a triangle filter as wide as the source pixels that one target pixel covers (bilinear when enlarging),
    /// the same as ONNX `Resize` in linear mode with `antialias`.
    ///
    /// # Errors
    /// When the resizer refuses the region, which a checked frame does not cause.
    pub fn run(&mut self, frame: &FrameView<'_>, rgb: &mut Vec<u8>) -> Result<(), ModelError> {
        let pixels = self.width_px as usize * self.height_px as usize;
        rgb.resize(pixels * 3, 0);
        let planes = frame.planes();
        let full = Region::of(frame.crop(), 1.0, 1.0);
        let half = Region::of(frame.crop(), 0.5, 0.5);
        let (height, half_height) = (frame.height_px(), frame.height_px().div_ceil(2));
        let (width, half_width) = (frame.width_px(), frame.width_px().div_ceil(2));
        match frame.format() {
            PixelFormat::Rgb => self.scale_into::<U8x3>(&planes[0], width, height, full, rgb)?,
            PixelFormat::Bgr => {
                self.scale_into::<U8x3>(&planes[0], width, height, full, rgb)?;
                rgb.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
            }
            PixelFormat::Rgbx | PixelFormat::Bgrx => {
                self.scale::<U8x4>(0, &planes[0], width, height, full)?;
                pick_channels(&self.scaled[0], rgb, frame.format() == PixelFormat::Bgrx);
            }
            PixelFormat::Gray8 => {
                self.scale::<U8>(0, &planes[0], width, height, full)?;
                spread_grey(&self.scaled[0], rgb);
            }
            PixelFormat::I420 => {
                self.scale::<U8>(0, &planes[0], width, height, full)?;
                self.scale::<U8>(1, &planes[1], half_width, half_height, half)?;
                self.scale::<U8>(2, &planes[2], half_width, half_height, half)?;
                let [luma, u, v] = &self.scaled;
                yuv_to_rgb(frame.color(), [Samples::all(luma), Samples::all(u), Samples::all(v)], rgb);
            }
            PixelFormat::Nv12 => {
                self.scale::<U8>(0, &planes[0], width, height, full)?;
                self.scale::<U8x2>(1, &planes[1], half_width, half_height, half)?;
                let [luma, chroma, _] = &self.scaled;
                let [u, v] = [0, 1].map(|first| Samples { bytes: chroma, first, step: 2 });
                yuv_to_rgb(frame.color(), [Samples::all(luma), u, v], rgb);
            }
            PixelFormat::Yuy2 | PixelFormat::Uyvy => self.packed_yuv(frame, rgb)?,
        }
        Ok(())
    }

    /// Packed 4:2:2 read twice: as pairs for its luma at full width, as quads for its chroma at half width.
    fn packed_yuv(&mut self, frame: &FrameView<'_>, rgb: &mut [u8]) -> Result<(), ModelError> {
        let plane = &frame.planes()[0];
        let half_width = frame.width_px().div_ceil(2);
        let (luma_at, u_at, v_at) = if frame.format() == PixelFormat::Yuy2 { (0, 1, 3) } else { (1, 0, 2) };
        let full = Region::of(frame.crop(), 1.0, 1.0);
        self.scale::<U8x2>(0, plane, half_width * 2, frame.height_px(), full)?;
        self.scale::<U8x4>(1, plane, half_width, frame.height_px(), Region::of(frame.crop(), 0.5, 1.0))?;
        let [pairs, quads, _] = &self.scaled;
        let luma = Samples { bytes: pairs, first: luma_at, step: 2 };
        let [u, v] = [u_at, v_at].map(|first| Samples { bytes: quads, first, step: 4 });
        yuv_to_rgb(frame.color(), [luma, u, v], rgb);
        Ok(())
    }

    /// Scales a plane into scratch buffer `slot`.
    fn scale<P: PixelTrait>(
        &mut self,
        slot: usize,
        plane: &Plane<'_>,
        width: u32,
        height: u32,
        region: Region,
    ) -> Result<(), ModelError> {
        let mut target = std::mem::take(&mut self.scaled[slot]);
        target.resize(self.width_px as usize * self.height_px as usize * P::size(), 0);
        let outcome = self.scale_into::<P>(plane, width, height, region, &mut target);
        self.scaled[slot] = target;
        outcome
    }

    fn scale_into<P: PixelTrait>(
        &mut self,
        plane: &Plane<'_>,
        width: u32,
        height: u32,
        region: Region,
        target: &mut [u8],
    ) -> Result<(), ModelError> {
        let failed = |error: String| ModelError::Resize(error);
        let stride_px = plane.stride_bytes / P::size();
        let whole_bytes = plane.stride_bytes * height as usize;
        let in_place = plane.stride_bytes.is_multiple_of(P::size()) && plane.data.len() >= whole_bytes;
        let (data, row_px) = if in_place {
            (&plane.data[..whole_bytes], u32::try_from(stride_px).map_err(|error| failed(error.to_string()))?)
        } else {
            // Rows whose padding is no whole number of pixels, or that end with the last pixel, are packed first.
            pack_rows(plane, width as usize * P::size(), height as usize, &mut self.rows);
            (self.rows.as_slice(), width)
        };
        let source =
            TypedImageRef::<P>::from_buffer(row_px, height, data).map_err(|error| failed(error.to_string()))?;
        // The filter reaches beyond its region; the view ends where the region does, so no pixel outside is seen.
        let (left, top, right, bottom) = region.whole_samples(width, height);
        let view = TypedCroppedImage::new(source, left, top, right - left, bottom - top)
            .map_err(|error| failed(error.to_string()))?;
        let mut target = TypedImage::<P>::from_buffer(self.width_px, self.height_px, target)
            .map_err(|error| failed(error.to_string()))?;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(region.left - f64::from(left), region.top - f64::from(top), region.width, region.height);
        self.resizer.resize_typed(&view, &mut target, &options).map_err(|error| failed(error.to_string()))
    }
}

impl Region {
    fn of(crop: Rect, across: f64, down: f64) -> Self {
        Self {
            left: f64::from(crop.x) * across,
            top: f64::from(crop.y) * down,
            width: f64::from(crop.width_px) * across,
            height: f64::from(crop.height_px) * down,
        }
    }

    /// The samples that the region touches: left, top, right and bottom, the last two exclusive.
    fn whole_samples(&self, width: u32, height: u32) -> (u32, u32, u32, u32) {
        let end = |start: f64, length: f64, limit: u32| ((start + length).ceil() as u32).min(limit);
        (self.left as u32, self.top as u32, end(self.left, self.width, width), end(self.top, self.height, height))
    }
}

fn pack_rows(plane: &Plane<'_>, row_bytes: usize, rows: usize, packed: &mut Vec<u8>) {
    packed.clear();
    for row in plane.data.chunks(plane.stride_bytes).take(rows) {
        packed.extend_from_slice(&row[..row_bytes]);
    }
}

fn pick_channels(pixels: &[u8], rgb: &mut [u8], blue_first: bool) {
    let (red, blue) = if blue_first { (2, 0) } else { (0, 2) };
    for (from, to) in pixels.chunks_exact(4).zip(rgb.chunks_exact_mut(3)) {
        to.copy_from_slice(&[from[red], from[1], from[blue]]);
    }
}

fn spread_grey(grey: &[u8], rgb: &mut [u8]) {
    for (&value, pixel) in grey.iter().zip(rgb.chunks_exact_mut(3)) {
        pixel.fill(value);
    }
}

/// Pixels that are converted together: loops over so many plain numbers become vector instructions.
const LANES: usize = 64;

fn yuv_to_rgb(color: YuvColor, [luma, u, v]: [Samples<'_>; 3], rgb: &mut [u8]) {
    let to = YuvToRgb::of(color);
    let mut loaded = [[0_u8; LANES]; 3];
    for (index, pixels) in rgb.chunks_mut(LANES * 3).enumerate() {
        for (lanes, samples) in loaded.iter_mut().zip([luma, u, v]) {
            samples.load(index * LANES, pixels.len() / 3, lanes);
        }
        let converted = to.convert(&loaded);
        for (lane, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[converted[0][lane], converted[1][lane], converted[2][lane]]);
        }
    }
}

/// Rounded and held within 0 to 255, without the cast whose care for infinities keeps the loop around it scalar: beyond 2^23
/// floats are whole numbers, so adding it rounds, and leaves the number in the lowest bits.
fn nearest(value: f32) -> u8 {
    const WHOLE_FROM: f32 = 8_388_608.0;
    (value.clamp(0.0, 255.0) + WHOLE_FROM).to_bits() as u8
}

impl<'a> Samples<'a> {
    /// A plane of this channel alone.
    fn all(bytes: &'a [u8]) -> Self {
        Self { bytes, first: 0, step: 1 }
    }

    fn load(&self, start: usize, count: usize, lanes: &mut [u8; LANES]) {
        if self.step == 1 {
            lanes[..count].copy_from_slice(&self.bytes[self.first + start..][..count]);
            return;
        }
        let samples = self.bytes[start * self.step..].chunks_exact(self.step);
        for (lane, sample) in lanes.iter_mut().zip(samples.take(count)) {
            *lane = sample[self.first];
        }
    }
}

impl YuvToRgb {
    /// From the luma weights of ITU-R BT.601, BT.709 and BT.2020.
    fn of(color: YuvColor) -> Self {
        let (red, blue) = match color.matrix {
            YuvMatrix::Bt601 => (0.299, 0.114),
            YuvMatrix::Bt709 => (0.2126, 0.0722),
            YuvMatrix::Bt2020 => (0.2627, 0.0593),
        };
        let green = 1.0 - red - blue;
        let (luma_offset, luma, chroma): (f32, f32, f32) =
            if color.full_range { (0.0, 1.0, 1.0) } else { (16.0, 255.0 / 219.0, 255.0 / 224.0) };
        Self {
            luma_offset,
            luma,
            red_v: 2.0 * (1.0 - red) * chroma,
            green_u: -2.0 * (1.0 - blue) * blue / green * chroma,
            green_v: -2.0 * (1.0 - red) * red / green * chroma,
            blue_u: 2.0 * (1.0 - blue) * chroma,
        }
    }

    fn convert(&self, [luma, u, v]: &[[u8; LANES]; 3]) -> [[u8; LANES]; 3] {
        let mut rgb = [[0; LANES]; 3];
        for lane in 0..LANES {
            let y = (f32::from(luma[lane]) - self.luma_offset) * self.luma;
            let (u, v) = (f32::from(u[lane]) - 128.0, f32::from(v[lane]) - 128.0);
            rgb[0][lane] = nearest(y + self.red_v * v);
            rgb[1][lane] = nearest(y + self.green_u * u + self.green_v * v);
            rgb[2][lane] = nearest(y + self.blue_u * u);
        }
        rgb
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 66;
    const HEIGHT: usize = 50;

    /// A smooth coloured picture, so that subsampled chroma loses little.
    fn picture() -> Vec<[u8; 3]> {
        let pixel = |index: usize| {
            let (x, y) = (index % WIDTH, index / WIDTH);
            [(40 + x * 2) as u8, (60 + y * 3) as u8, (200 - x - y) as u8]
        };
        (0..WIDTH * HEIGHT).map(pixel).collect()
    }

    fn scaled(format: PixelFormat, planes: Vec<Plane<'_>>, crop: Option<Rect>) -> Vec<u8> {
        let color = YuvColor { matrix: YuvMatrix::Bt601, full_range: true };
        let mut frame = FrameView::new(format, WIDTH as u32, HEIGHT as u32, planes, color).unwrap();
        if let Some(crop) = crop {
            frame = frame.cropped(crop).unwrap();
        }
        let mut rgb = Vec::new();
        Preprocessor::new(20, 16).run(&frame, &mut rgb).unwrap();
        rgb
    }

    fn rgb_plane() -> Vec<u8> {
        picture().concat()
    }

    fn yuv(pixel: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = pixel.map(f32::from);
        let y = 0.299 * r + 0.587 * g + 0.114 * b;
        [y, (b - y) / 1.772 + 128.0, (r - y) / 1.402 + 128.0].map(|value| (value + 0.5) as u8)
    }

    fn assert_close(left: &[u8], right: &[u8], tolerance: u8) {
        let worst = left.iter().zip(right).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(tolerance), "differ by {worst:?}");
        assert_eq!(left.len(), right.len());
    }

    #[test]
    fn every_format_gives_the_same_pixels() {
        let rgb = rgb_plane();
        let expected = scaled(PixelFormat::Rgb, vec![Plane { data: &rgb, stride_bytes: WIDTH * 3 }], None);
        let one = |format, data: Vec<u8>, stride_bytes, tolerance| {
            assert_close(&scaled(format, vec![Plane { data: &data, stride_bytes }], None), &expected, tolerance);
        };
        one(PixelFormat::Bgr, picture().iter().flat_map(|&[r, g, b]| [b, g, r]).collect(), WIDTH * 3, 0);
        one(PixelFormat::Rgbx, picture().iter().flat_map(|&[r, g, b]| [r, g, b, 9]).collect(), WIDTH * 4, 0);
        one(PixelFormat::Bgrx, picture().iter().flat_map(|&[r, g, b]| [b, g, r, 9]).collect(), WIDTH * 4, 0);

        let yuv: Vec<[u8; 3]> = picture().into_iter().map(yuv).collect();
        let pairs = || yuv.chunks_exact(2);
        one(PixelFormat::Yuy2, pairs().flat_map(|p| [p[0][0], p[0][1], p[1][0], p[0][2]]).collect(), WIDTH * 2, 4);
        one(PixelFormat::Uyvy, pairs().flat_map(|p| [p[0][1], p[0][0], p[0][2], p[1][0]]).collect(), WIDTH * 2, 4);

        let luma: Vec<u8> = yuv.iter().map(|p| p[0]).collect();
        let quarter = |channel: usize| -> Vec<u8> {
            let rows = yuv.chunks_exact(WIDTH).step_by(2);
            rows.flat_map(|row| row.iter().step_by(2).map(move |pixel| pixel[channel])).collect()
        };
        let (u, v) = (quarter(1), quarter(2));
        let plane = |data, stride_bytes| Plane { data, stride_bytes };
        let i420 = vec![plane(&luma, WIDTH), plane(&u, WIDTH / 2), plane(&v, WIDTH / 2)];
        assert_close(&scaled(PixelFormat::I420, i420, None), &expected, 6);
        let uv: Vec<u8> = u.iter().zip(&v).flat_map(|(&u, &v)| [u, v]).collect();
        let nv12 = vec![plane(&luma, WIDTH), plane(&uv, WIDTH)];
        assert_close(&scaled(PixelFormat::Nv12, nv12, None), &expected, 6);
    }

    #[test]
    fn padding_is_never_seen() {
        let rgb = rgb_plane();
        let expected = scaled(PixelFormat::Rgb, vec![Plane { data: &rgb, stride_bytes: WIDTH * 3 }], None);
        // One stride that holds whole pixels, one that does not, and one that ends with the last pixel.
        for (padding, cut) in [(6, 0), (2, 0), (6, 6)] {
            let mut padded: Vec<u8> =
                rgb.chunks_exact(WIDTH * 3).flat_map(|row| [row, &vec![255; padding]].concat()).collect();
            padded.truncate(padded.len() - cut);
            let plane = Plane { data: &padded, stride_bytes: WIDTH * 3 + padding };
            assert_eq!(scaled(PixelFormat::Rgb, vec![plane], None), expected, "padding {padding}, cut {cut}");
        }
    }

    #[test]
    fn a_region_is_scored_as_if_it_were_the_picture() {
        let crop = Rect { x: 10, y: 8, width_px: 40, height_px: 32 };
        let rgb = rgb_plane();
        let region: Vec<u8> =
            rgb.chunks_exact(WIDTH * 3).skip(8).take(32).flat_map(|row| row[30..150].to_vec()).collect();
        let mut expected = Vec::new();
        Preprocessor::new(20, 16).run(&FrameView::rgb(40, 32, &region).unwrap(), &mut expected).unwrap();
        let plane = Plane { data: &rgb, stride_bytes: WIDTH * 3 };
        assert_eq!(scaled(PixelFormat::Rgb, vec![plane], Some(crop)), expected);
    }

    #[test]
    fn limited_range_white_and_black_are_white_and_black() {
        for (luma, value) in [(16, 0), (235, 255), (0, 0), (255, 255)] {
            let mut rgb = [7; 3];
            yuv_to_rgb(YuvColor::default(), [&[luma], &[128], &[128]].map(|bytes| Samples::all(bytes)), &mut rgb);
            assert_eq!(rgb, [value; 3]);
        }
    }
}
