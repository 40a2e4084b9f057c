//! From a camera's frame to the pixels that the network sees, and only those.
//!
//! Every format is scaled in its own planes first and converted to RGB afterwards, at the network's small size: a
//! 1280x720 I420 frame never becomes a 1280x720 RGB frame. [`crate::scale`] works in bands of rows that stay in the
//! processor's nearest caches, which inference has emptied of everything else.

use crate::error::ModelError;
use crate::frame::{FrameView, PixelFormat, Plane, Rect, YuvColor, YuvMatrix};
#[cfg(target_arch = "x86_64")]
use crate::scale::avx2;
use crate::scale::{Band, Channel, LANES, Rows, Span, Steps, Sum, Taps, Weave, portable, unweave};

/// Scales and converts frames to one size of RGB888. Keeps its buffers and weights between frames.
#[derive(Debug)]
pub struct Preprocessor {
    width_px: u32,
    height_px: u32,
    geometry: Option<(Geometry, Weights)>,
    scratch: Scratch,
}

/// What the weights depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Geometry {
    width_px: u32,
    height_px: u32,
    crop: Rect,
}

/// Weights for planes of full size and for those of subsampled chroma.
#[derive(Debug)]
struct Weights {
    full: Axes,
    half: Axes,
}

#[derive(Debug)]
struct Axes {
    across: Taps,
    down: Taps,
    /// Samples of a row that are needed: from the first to before the second.
    columns: (usize, usize),
}

#[derive(Debug, Default)]
struct Scratch {
    band: Band,
    /// Luma and both chromas of a band, woven, in parts of 256: rounded only once they are RGB.
    yuv: [Vec<[u16; LANES]>; 3],
    /// The band's pixels, woven, and room to part them.
    pixels: Vec<[u8; LANES]>,
    other: Vec<u8>,
}

/// One frame on its way into the network's pixels.
struct Job<'a> {
    frame: &'a FrameView<'a>,
    weights: &'a Weights,
    width_px: usize,
    scratch: &'a mut Scratch,
    rgb: &'a mut [u8],
}

/// Chroma of grey, in parts of 256.
const NO_COLOR: u16 = 128 * 256;

/// YUV to RGB as `(y - offset) * luma + ...`, in whole numbers.
struct YuvToRgb {
    /// In parts of 128.
    luma_offset: u16,
    /// In parts of 2^14.
    luma: i16,
    /// These in parts of 2^13, as they exceed 2.
    red_v: i16,
    green_u: i16,
    green_v: i16,
    blue_u: i16,
}

impl Preprocessor {
    /// Scales to this size.
    pub fn new(width_px: u32, height_px: u32) -> Self {
        Self { width_px, height_px, geometry: None, scratch: Scratch::default() }
    }

    /// Scales the region that counts to the network's size and writes it as RGB888 into `rgb`.
    ///
    /// Scaling is a triangle filter as wide as the source pixels that one target pixel covers (bilinear when enlarging),
    /// rounded to whole levels after each direction; the graph does the very same with whole pictures.
    ///
    /// # Errors
    /// When the network's size is nothing.
    pub fn run(&mut self, frame: &FrameView<'_>, rgb: &mut Vec<u8>) -> Result<(), ModelError> {
        if self.width_px == 0 || self.height_px == 0 {
            return Err(ModelError::Resize(format!("to {}x{} pixels", self.width_px, self.height_px)));
        }
        rgb.resize(self.width_px as usize * self.height_px as usize * 3, 0);
        let geometry = Geometry { width_px: frame.width_px(), height_px: frame.height_px(), crop: frame.crop() };
        if self.geometry.as_ref().is_none_or(|(known, _)| *known != geometry) {
            self.geometry = None;
        }
        let size = (self.width_px, self.height_px);
        let (_, weights) = self.geometry.get_or_insert_with(|| (geometry, Weights::new(geometry, size)));
        let width_px = self.width_px as usize;
        dispatch(Job { frame, weights, width_px, scratch: &mut self.scratch, rgb });
        Ok(())
    }
}

/// Runs the job with the widest instructions that the processor has. Their results do not differ.
fn dispatch(job: Job<'_>) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[allow(unsafe_code)]
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { run_with_avx2(job) };
    }
    job.run(portable());
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_with_avx2(job: Job<'_>) {
    // Closures, because those within this function are compiled for what it is compiled for.
    job.run(Steps {
        sum: |data: &[u8], stride_bytes: usize, weights: &[u16], target: &mut [u8]| {
            avx2::weighted_rows(data, stride_bytes, weights, target);
        },
        weave: |rows: &mut [u8], other: &mut [u8], woven: &mut [u8]| avx2::weave(rows, other, woven),
    });
}

impl Weights {
    fn new(geometry: Geometry, (target_width, target_height): (u32, u32)) -> Self {
        let Geometry { width_px, height_px, crop } = geometry;
        let axes = |halves: u32, width: u32, height: u32| {
            let across = Span { start_halves: crop.x * halves, length_halves: crop.width_px * halves };
            let down = Span { start_halves: crop.y * halves, length_halves: crop.height_px * halves };
            Axes {
                columns: across.whole_samples(width),
                across: Taps::new(across, width, target_width),
                down: Taps::new(down, height, target_height),
            }
        };
        Self { full: axes(2, width_px, height_px), half: axes(1, width_px.div_ceil(2), height_px.div_ceil(2)) }
    }
}

/// The rows of a plane whose samples have `sample_bytes` each.
#[inline(always)]
fn rows<'a>(plane: &Plane<'a>, (from, to): (usize, usize), sample_bytes: usize) -> Rows<'a> {
    Rows {
        data: plane.data,
        stride_bytes: plane.stride_bytes,
        from_byte: from * sample_bytes,
        to_byte: to * sample_bytes,
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run<S: Sum, W: Weave>(self, steps: Steps<S, W>) {
        let Self { frame, weights, width_px, scratch, rgb } = self;
        let row_bytes = width_px * 3;
        scratch.pixels.resize(row_bytes, [0; LANES]);
        scratch.other.resize(row_bytes * LANES, 0);
        for channel in &mut scratch.yuv {
            channel.resize(width_px, [0; LANES]);
        }
        let to_rgb = YuvToRgb::of(frame.color());
        for (band, target) in rgb.chunks_mut(row_bytes * LANES).enumerate() {
            match frame.format() {
                PixelFormat::Rgb => scratch.packed::<3, _, _>(frame, weights, band, 3, [0, 1, 2], steps),
                PixelFormat::Bgr => scratch.packed::<3, _, _>(frame, weights, band, 3, [2, 1, 0], steps),
                PixelFormat::Rgbx => scratch.packed::<3, _, _>(frame, weights, band, 4, [0, 1, 2], steps),
                PixelFormat::Bgrx => scratch.packed::<3, _, _>(frame, weights, band, 4, [2, 1, 0], steps),
                PixelFormat::Gray8 => scratch.packed::<1, _, _>(frame, weights, band, 1, [0, 0, 0], steps),
                PixelFormat::I420 | PixelFormat::Nv12 => {
                    scratch.planar(frame, weights, band, steps);
                    scratch.convert(&to_rgb);
                }
                PixelFormat::Yuy2 => {
                    scratch.pairs(frame, weights, band, [0, 1, 3], steps);
                    scratch.convert(&to_rgb);
                }
                PixelFormat::Uyvy => {
                    scratch.pairs(frame, weights, band, [1, 0, 2], steps);
                    scratch.convert(&to_rgb);
                }
            }
            let pixels = scratch.pixels.as_flattened_mut();
            unweave(pixels, &mut scratch.other);
            target.copy_from_slice(&pixels[..target.len()]);
        }
    }
}

impl Scratch {
    /// A band of pixels whose red, green and blue lie at these of their first `CHANNELS` bytes.
    #[inline(always)]
    fn packed<const CHANNELS: usize, S: Sum, W: Weave>(
        &mut self,
        frame: &FrameView<'_>,
        weights: &Weights,
        band: usize,
        pixel_bytes: usize,
        order: [usize; 3],
        steps: Steps<S, W>,
    ) {
        let Axes { across, down, columns } = &weights.full;
        self.band.lower(&rows(&frame.planes()[0], *columns, pixel_bytes), down, band, steps);
        self.band.narrow_pixels::<CHANNELS>(pixel_bytes, order, across, &mut self.pixels);
    }

    /// A band of I420 or NV12.
    #[inline(always)]
    fn planar<S: Sum, W: Weave>(&mut self, frame: &FrameView<'_>, weights: &Weights, band: usize, steps: Steps<S, W>) {
        let Weights { full, half } = weights;
        let planes = frame.planes();
        self.band.lower(&rows(&planes[0], full.columns, 1), &full.down, band, steps);
        self.narrow_into(0, Channel { first: 0, step: 1 }, &full.across);
        if frame.format() == PixelFormat::Nv12 {
            self.band.lower(&rows(&planes[1], half.columns, 2), &half.down, band, steps);
            self.narrow_into(1, Channel { first: 0, step: 2 }, &half.across);
            self.narrow_into(2, Channel { first: 1, step: 2 }, &half.across);
        } else {
            for slot in [1, 2] {
                self.band.lower(&rows(&planes[slot], half.columns, 1), &half.down, band, steps);
                self.narrow_into(slot, Channel { first: 0, step: 1 }, &half.across);
            }
        }
    }

    /// A band of YUY2 or UYVY, whose pairs of pixels have their luma, U and V at these bytes.
    #[inline(always)]
    fn pairs<S: Sum, W: Weave>(
        &mut self,
        frame: &FrameView<'_>,
        weights: &Weights,
        band: usize,
        [luma, u, v]: [usize; 3],
        steps: Steps<S, W>,
    ) {
        let Weights { full, half } = weights;
        self.band.lower(&rows(&frame.planes()[0], half.columns, 4), &full.down, band, steps);
        self.narrow_into(0, Channel { first: luma, step: 2 }, &full.across);
        self.narrow_into(1, Channel { first: u, step: 4 }, &half.across);
        self.narrow_into(2, Channel { first: v, step: 4 }, &half.across);
    }

    #[inline(always)]
    fn narrow_into(&mut self, slot: usize, channel: Channel, across: &Taps) {
        self.band.narrow_finely(channel, across, &mut self.yuv[slot]);
    }

    #[inline(always)]
    fn convert(&mut self, to_rgb: &YuvToRgb) {
        let [luma, u, v] = &self.yuv;
        let (pixels, _) = self.pixels.as_chunks_mut::<3>();
        for (((pixel, luma), u), v) in pixels.iter_mut().zip(luma).zip(u).zip(v) {
            *pixel = to_rgb.convert(luma, u, v);
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
        let (luma_offset, luma, chroma) =
            if color.full_range { (0, 1.0, 1.0) } else { (16 * 128, 255.0 / 219.0, 255.0 / 224.0) };
        let parts = |factor: f32| (factor * 8192.0).round() as i16;
        Self {
            luma_offset,
            luma: parts(luma * 2.0),
            red_v: parts(2.0 * (1.0 - red) * chroma),
            green_u: parts(-2.0 * (1.0 - blue) * blue / green * chroma),
            green_v: parts(-2.0 * (1.0 - red) * red / green * chroma),
            blue_u: parts(2.0 * (1.0 - blue) * chroma),
        }
    }

    /// Red, green and blue of one pixel in each row of a band.
    #[inline(always)]
    fn convert(&self, luma: &[u16; LANES], u: &[u16; LANES], v: &[u16; LANES]) -> [[u8; LANES]; 3] {
        // Samples fill their 16 bits, so that products have five bits behind the point: no sum overflows.
        let product = |sample: i16, factor: i16| ((i32::from(sample) * i32::from(factor)) >> 16) as i16;
        let nearest = |value: i16| ((value + 16) >> 5).clamp(0, 255) as u8;
        let mut pixel = [[0; LANES]; 3];
        let [red, green, blue] = &mut pixel;
        for lane in 0..LANES {
            let y = product((luma[lane] >> 1).wrapping_sub(self.luma_offset).cast_signed(), self.luma);
            let (u, v) = (u[lane].wrapping_sub(NO_COLOR).cast_signed(), v[lane].wrapping_sub(NO_COLOR).cast_signed());
            red[lane] = nearest(y + product(v, self.red_v));
            green[lane] = nearest(y + product(u, self.green_u) + product(v, self.green_v));
            blue[lane] = nearest(y + product(u, self.blue_u));
        }
        pixel
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
        let to_rgb = YuvToRgb::of(YuvColor::default());
        for (luma, value) in [(16, 0), (235, 255), (0, 0), (255, 255)] {
            let grey = [NO_COLOR; LANES];
            assert_eq!(to_rgb.convert(&[luma * 256; LANES], &grey, &grey), [[value; LANES]; 3]);
        }
    }

    #[test]
    fn wide_instructions_give_the_same_pixels() {
        let rgb = rgb_plane();
        let view = FrameView::rgb(WIDTH as u32, HEIGHT as u32, &rgb).unwrap();
        let geometry = Geometry { width_px: WIDTH as u32, height_px: HEIGHT as u32, crop: view.crop() };
        let weights = Weights::new(geometry, (20, 16));
        let mut plain = vec![0; 20 * 16 * 3];
        let job =
            Job { frame: &view, weights: &weights, width_px: 20, scratch: &mut Scratch::default(), rgb: &mut plain };
        job.run(portable());
        assert_eq!(plain, scaled(PixelFormat::Rgb, vec![Plane { data: &rgb, stride_bytes: WIDTH * 3 }], None));
    }
}
