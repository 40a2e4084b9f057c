//! From a camera's frame to the pixels that the network sees, and only those.
//!
//! Every format is scaled in its own planes first and converted to RGB afterwards, at the network's small size: a
//! 1280x720 I420 frame never becomes a 1280x720 RGB frame.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3, U8x4};
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
    low: LowRows,
    woven: Vec<u8>,
}

/// A plane's rows scaled to the network's number of rows, and to a whole number of quads; columns are as they were.
#[derive(Debug, Default)]
struct LowRows {
    bytes: Vec<u8>,
    row_bytes: usize,
    /// Where in the plane's rows these begin.
    from_byte: usize,
}

/// The part of a plane that counts, in the plane's own samples; parts of a sample arise where chroma is subsampled.
#[derive(Debug, Clone, Copy)]
struct Region {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// Where one channel lies in a plane's rows: every `step`th byte from `first` on, `width` of them.
#[derive(Clone, Copy)]
struct Channel {
    first: usize,
    step: usize,
    width: u32,
}

/// YUV to RGB as `(y - offset) * luma + ...`, in whole numbers.
struct YuvToRgb {
    luma_offset: i16,
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
        Self {
            width_px,
            height_px,
            resizer: Resizer::new(),
            rows: Vec::new(),
            scaled: Default::default(),
            low: LowRows::default(),
            woven: Vec::new(),
        }
    }

    /// Scales the region that counts to the network's size and writes it as RGB888 into `rgb`.
    ///
    /// Scaling is a triangle filter as wide as the source pixels that one target pixel covers (bilinear when enlarging),
    /// rounded to whole levels after each direction; the graph does the very same with whole pictures.
    ///
    /// # Errors
    /// When the resizer refuses the region, which a checked frame does not cause.
    pub fn run(&mut self, frame: &FrameView<'_>, rgb: &mut Vec<u8>) -> Result<(), ModelError> {
        let pixels = self.width_px as usize * self.height_px as usize;
        rgb.resize(pixels * 3, 0);
        let planes = frame.planes();
        let full = Region::of(frame.crop(), 1.0, 1.0);
        let (width, height) = (frame.width_px(), frame.height_px());
        let size = (self.width_px, self.height_px);
        match frame.format() {
            PixelFormat::Rgb => self.scale_into::<U8x3>(&planes[0], (width, height), full, size, rgb)?,
            PixelFormat::Bgr => {
                self.scale_into::<U8x3>(&planes[0], (width, height), full, size, rgb)?;
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
            PixelFormat::I420 | PixelFormat::Nv12 | PixelFormat::Yuy2 | PixelFormat::Uyvy => {
                self.run_yuv(frame, rgb)?
            }
        }
        Ok(())
    }

    /// Rows first here: scaling down rows is cheap, and leaves fewer of them for the other direction.
    fn run_yuv(&mut self, frame: &FrameView<'_>, rgb: &mut [u8]) -> Result<(), ModelError> {
        let planes = frame.planes();
        let (width, height) = (frame.width_px(), frame.height_px());
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let full = Region::of(frame.crop(), 1.0, 1.0);
        let half = Region::of(frame.crop(), 0.5, 0.5);
        let channel = |first, step, width| Channel { first, step, width };
        match frame.format() {
            PixelFormat::Yuy2 | PixelFormat::Uyvy => {
                let (luma_at, u_at, v_at) = if frame.format() == PixelFormat::Yuy2 { (0, 1, 3) } else { (1, 0, 2) };
                self.lower(&planes[0], 4, half_width, height, Region::of(frame.crop(), 0.5, 1.0))?;
                self.narrow(0, channel(luma_at, 2, half_width * 2), full)?;
                self.narrow(1, channel(u_at, 4, half_width), half)?;
                self.narrow(2, channel(v_at, 4, half_width), half)?;
            }
            PixelFormat::Nv12 => {
                self.lower(&planes[0], 1, width, height, full)?;
                self.narrow(0, channel(0, 1, width), full)?;
                self.lower(&planes[1], 2, half_width, half_height, half)?;
                self.narrow(1, channel(0, 2, half_width), half)?;
                self.narrow(2, channel(1, 2, half_width), half)?;
            }
            _ => {
                self.lower(&planes[0], 1, width, height, full)?;
                self.narrow(0, channel(0, 1, width), full)?;
                for slot in [1, 2] {
                    self.lower(&planes[slot], 1, half_width, half_height, half)?;
                    self.narrow(slot, channel(0, 1, half_width), half)?;
                }
            }
        }
        let [luma, u, v] = &self.scaled;
        yuv_to_rgb(frame.color(), [luma, u, v], self.width_px as usize, rgb);
        Ok(())
    }

    /// Scales a plane's rows, whatever their bytes mean, to the network's number of them.
    fn lower(
        &mut self,
        plane: &Plane<'_>,
        sample_bytes: u32,
        width: u32,
        height: u32,
        region: Region,
    ) -> Result<(), ModelError> {
        let (left, _, right, _) = region.whole_samples(width, height);
        let columns =
            Region { left: f64::from(left * sample_bytes), width: f64::from((right - left) * sample_bytes), ..region };
        let mut bytes = std::mem::take(&mut self.low.bytes);
        let row_bytes = (right - left) * sample_bytes;
        bytes.resize(row_bytes as usize * self.height_px.next_multiple_of(QUAD) as usize, 0);
        let target = &mut bytes[..row_bytes as usize * self.height_px as usize];
        let size = (row_bytes, self.height_px);
        let outcome = self.scale_into::<U8>(plane, (width * sample_bytes, height), columns, size, target);
        self.low = LowRows { bytes, row_bytes: row_bytes as usize, from_byte: (left * sample_bytes) as usize };
        outcome
    }

    /// Scales one channel of the lowered rows to the network's width, four rows side by side as if they were the channels of
    /// one picture, for which the resizer is fastest. The result stays woven like that.
    fn narrow(&mut self, slot: usize, channel: Channel, region: Region) -> Result<(), ModelError> {
        let quads = self.height_px.div_ceil(QUAD);
        let (left, _, right, _) = region.whole_samples(channel.width, 0);
        let width = right - left;
        let first = left as usize * channel.step + channel.first - self.low.from_byte;
        let mut woven = std::mem::take(&mut self.woven);
        self.low.weave(first, channel.step, width as usize, &mut woven);
        let mut target = std::mem::take(&mut self.scaled[slot]);
        target.resize((self.width_px * quads * QUAD) as usize, 0);
        let plane = Plane { data: &woven, stride_bytes: (width * QUAD) as usize };
        let all_rows = Region { left: region.left - f64::from(left), top: 0.0, height: f64::from(quads), ..region };
        let size = (self.width_px, quads);
        let outcome = self.scale_into::<U8x4>(&plane, (width, quads), all_rows, size, &mut target);
        self.woven = woven;
        self.scaled[slot] = target;
        outcome
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
        let size = (self.width_px, self.height_px);
        let outcome = self.scale_into::<P>(plane, (width, height), region, size, &mut target);
        self.scaled[slot] = target;
        outcome
    }

    fn scale_into<P: PixelTrait>(
        &mut self,
        plane: &Plane<'_>,
        (width, height): (u32, u32),
        region: Region,
        (target_width, target_height): (u32, u32),
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
        let mut target = TypedImage::<P>::from_buffer(target_width, target_height, target)
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

/// Rows that are woven together.
const QUAD: u32 = 4;

impl LowRows {
    /// One channel out of each row, byte by byte of four rows side by side.
    fn weave(&self, first: usize, step: usize, width: usize, woven: &mut Vec<u8>) {
        woven.resize(self.bytes.len() / self.row_bytes.max(1) * width, 0);
        let quads = self.bytes.chunks_exact((self.row_bytes * 4).max(1));
        for (quad, woven) in quads.zip(woven.chunks_exact_mut((width * 4).max(1))) {
            let rows = [0, 1, 2, 3].map(|row| &quad[row * self.row_bytes + first..(row + 1) * self.row_bytes]);
            match step {
                1 => weave_rows::<1>(rows, woven),
                2 => weave_rows::<2>(rows, woven),
                _ => weave_rows::<4>(rows, woven),
            }
        }
    }
}

fn weave_rows<const STEP: usize>(rows: [&[u8]; 4], woven: &mut [u8]) {
    let (woven, _) = woven.as_chunks_mut::<4>();
    // Of equal length, so that the loop needs no checks.
    let [a, b, c, d] = rows.map(|row| &row[..(woven.len() * STEP + 1).saturating_sub(STEP)]);
    for (index, samples) in woven.iter_mut().enumerate() {
        let at = index * STEP;
        *samples = [a[at], b[at], c[at], d[at]];
    }
}

/// Samples that are converted together: four pixels of four rows.
const LANES: usize = 16;

/// Converts channels that are woven by four rows, and sorts the pixels into their rows.
fn yuv_to_rgb(color: YuvColor, woven: [&[u8]; 3], width: usize, rgb: &mut [u8]) {
    let to = YuvToRgb::of(color);
    let row_bytes = (width * 3).max(1);
    for (quad, rows) in rgb.chunks_mut(row_bytes * 4).enumerate() {
        let channels = woven.map(|bytes| &bytes[quad * width * 4..][..width * 4]);
        for (block, start) in (0..width * 4).step_by(LANES).enumerate() {
            let loaded = channels.map(|bytes| load(&bytes[start..]));
            let pixels = to.convert(&loaded);
            for (row, bytes) in rows.chunks_exact_mut(row_bytes).enumerate() {
                let pixels = packed([0, 4, 8, 12].map(|first| pixels[(first + row) % LANES]));
                let target = &mut bytes[block * pixels.len()..];
                match target.first_chunk_mut() {
                    Some(target) => *target = pixels,
                    None => target.copy_from_slice(&pixels[..target.len()]),
                }
            }
        }
    }
}

/// The first samples, and zeros where there are no more.
fn load(samples: &[u8]) -> [u8; LANES] {
    samples.first_chunk().copied().unwrap_or_else(|| {
        let mut lanes = [0; LANES];
        lanes[..samples.len()].copy_from_slice(samples);
        lanes
    })
}

/// Four pixels without the byte that is not used.
fn packed([a, b, c, d]: [u32; 4]) -> [u8; 12] {
    let low = u64::from(a) | u64::from(b) << 24 | u64::from(c) << 48;
    let high = c >> 16 | d << 8;
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&low.to_le_bytes());
    bytes[8..].copy_from_slice(&high.to_le_bytes());
    bytes
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
            if color.full_range { (0, 1.0, 1.0) } else { (16, 255.0 / 219.0, 255.0 / 224.0) };
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

    /// Red, green and blue in the three lowest bytes.
    fn convert(&self, [luma, u, v]: &[[u8; LANES]; 3]) -> [u32; LANES] {
        // Samples fill their 16 bits, so that products have five bits behind the point: no sum overflows.
        let product = |sample: i16, factor: i16| ((i32::from(sample) * i32::from(factor)) >> 16) as i16;
        let nearest = |value: i16| u32::from(((value + 16) >> 5).clamp(0, 255) as u8);
        let mut pixels = [0; LANES];
        for lane in 0..LANES {
            let y = product((i16::from(luma[lane]) - self.luma_offset) << 7, self.luma);
            let (u, v) = ((i16::from(u[lane]) - 128) << 8, (i16::from(v[lane]) - 128) << 8);
            let red = nearest(y + product(v, self.red_v));
            let green = nearest(y + product(u, self.green_u) + product(v, self.green_v));
            let blue = nearest(y + product(u, self.blue_u));
            pixels[lane] = red | green << 8 | blue << 16;
        }
        pixels
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
            let woven = [luma, 128, 128].map(|sample| [sample; 4]);
            yuv_to_rgb(YuvColor::default(), [&woven[0], &woven[1], &woven[2]], 1, &mut rgb);
            assert_eq!(rgb, [value; 3]);
        }
    }
}
