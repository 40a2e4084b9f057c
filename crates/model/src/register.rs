//! Finding out how a part lies compared with a reference, on a small grey picture: shift and rotation.
//!
//! Coarse to fine: every allowed angle and shift at a quarter of the size, the neighbourhood of the best at half of it,
//! and least squares on shift, angle, gain and offset of brightness to a fraction of a pixel. The correlation that
//! remains says how far the answer can be trusted. No Fourier transform: at 32 pixels trying everything is as fast, and
//! what left the picture is left out instead of coming in again on the other side.

use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::frame::FrameView;
use crate::framing::PackageFile;
use crate::preprocess::Preprocessor;

/// Longer side of the grey picture.
const LONG_SIDE_PX: u32 = 128;
/// The finest and the two coarser levels; sides divide by the coarsest.
const COARSEST: usize = 4;
/// Angles that are tried at the coarsest level, and half as far apart at the next, in degrees.
const COARSE_STEP_DEG: f64 = 5.0;
/// Candidates that are followed down to a fraction of a pixel.
const CANDIDATES: usize = 2;
const STEPS_AT_HALF: usize = 6;
const STEPS_AT_FULL: usize = 6;
/// A step that moves no pixel further than this is the last.
const SETTLED_PX: f64 = 0.02;

/// What is searched, and where the reference lies: as `model.json` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The reference: a small grey PNG in the package.
    pub reference: PackageFile,
    /// Rotations up to this are found, in degrees.
    pub most_angle_deg: f64,
    /// Shifts up to this share of the picture's sides are found.
    pub most_shift: f64,
    /// Below this correlation with the reference a picture is taken as it is.
    pub least_confidence: f64,
}

/// How a part lies compared with the reference.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pose {
    /// Rotation, clockwise, in degrees.
    pub angle_deg: f64,
    /// Shift to the right, as a share of the picture's width.
    pub shift_x: f64,
    /// Shift down, as a share of the picture's height.
    pub shift_y: f64,
    /// Correlation with the reference after moving, at most 1.
    pub confidence: f64,
    /// Whether the picture was moved; otherwise it was taken as it is, since the correlation was too low.
    pub applied: bool,
}

/// A small grey picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grey {
    /// Width.
    pub width: usize,
    /// Height.
    pub height: usize,
    /// Row by row.
    pub values: Vec<u8>,
}

/// Bounds of the search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// In degrees, both ways.
    pub angle_deg: f64,
    /// As a share of the sides, both ways.
    pub shift: f64,
}

/// Finds poses against one reference.
#[derive(Debug)]
pub(crate) struct Registrar {
    range: Range,
    least_confidence: f64,
    full: Image,
    half: Image,
    /// The reference turned by each angle of a level, and the angle in degrees.
    turned_quarter: Vec<(f64, Image)>,
    turned_half: Vec<(f64, Image)>,
    preprocessor: Preprocessor,
    rgb: Vec<u8>,
}

/// Grey values for arithmetic.
#[derive(Debug, Clone)]
struct Image {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

/// A turn about the middle and a shift, in pixels of one level: a point of the reference lies at `turn(point) + shift`.
#[derive(Debug, Clone, Copy)]
struct Motion {
    angle: f64,
    x: f64,
    y: f64,
}

/// Width and height of the grey picture of a picture of this size.
pub(crate) fn grey_size(width_px: u32, height_px: u32) -> (u32, u32) {
    let long = width_px.max(height_px).max(1);
    let side = |length: u32| {
        let step = COARSEST as u32;
        let exact = f64::from(length) * f64::from(LONG_SIDE_PX) / f64::from(long) / f64::from(step);
        (exact.round() as u32).max(4) * step
    };
    (side(width_px), side(height_px))
}

/// A frame's small grey picture.
pub(crate) fn grey_of(
    frame: &FrameView<'_>,
    preprocessor: &mut Preprocessor,
    rgb: &mut Vec<u8>,
    (width, height): (u32, u32),
) -> Result<Grey, ModelError> {
    preprocessor.run(frame, rgb)?;
    let luma = |&[red, green, blue]: &[u8; 3]| {
        // Luma of ITU-R BT.601 in parts of 256.
        ((77 * u32::from(red) + 150 * u32::from(green) + 29 * u32::from(blue)) >> 8) as u8
    };
    let values = rgb.as_chunks::<3>().0.iter().map(luma).collect();
    Ok(Grey { width: width as usize, height: height as usize, values })
}

/// One reference for these pictures of one size: the one most like the others, averaged with all that it can be found in.
pub fn reference_of(pictures: &[Grey], range: Range, least_confidence: f64) -> Option<Grey> {
    let images: Vec<Image> = pictures.iter().map(Image::of).collect();
    let likeness = |image: &Image| -> f64 {
        images.iter().map(|other| correlation(image, other, &Motion { angle: 0.0, x: 0.0, y: 0.0 })).sum()
    };
    let (typical, _) = pictures.iter().zip(&images).max_by(|a, b| likeness(a.1).total_cmp(&likeness(b.1)))?;
    let registrar = Registrar::new(typical, range, least_confidence);
    let mut sums: Vec<f32> = vec![0.0; typical.values.len()];
    let mut count = 0.0;
    for image in &images {
        let (motion, confidence) = registrar.search(image);
        if !registrar.is_good(&motion, confidence) {
            continue;
        }
        count += 1.0;
        for (index, sum) in sums.iter_mut().enumerate() {
            let (x, y) = motion.apply((index % image.width) as f64, (index / image.width) as f64, image);
            *sum += image.at(x as f32, y as f32);
        }
    }
    let mean = |sum: &f32| if count > 0.0 { (sum / count).round() as u8 } else { 0 };
    let values = if count > 0.0 { sums.iter().map(mean).collect() } else { typical.values.clone() };
    Some(Grey { values, ..*typical })
}

impl Registrar {
    pub(crate) fn new(reference: &Grey, range: Range, least_confidence: f64) -> Self {
        let full = Image::of(reference);
        let half = full.halved();
        let quarter = half.halved();
        let steps = (range.angle_deg / COARSE_STEP_DEG).ceil().max(0.0) as i32;
        let turned = |image: &Image, step: f64, steps: i32| -> Vec<(f64, Image)> {
            (-steps..=steps).map(|index| (f64::from(index) * step, image.turned(f64::from(index) * step))).collect()
        };
        let (width, height) = (reference.width as u32, reference.height as u32);
        Self {
            range,
            least_confidence,
            turned_quarter: turned(&quarter, COARSE_STEP_DEG, steps),
            turned_half: turned(&half, COARSE_STEP_DEG / 2.0, steps * 2),
            full,
            half,
            preprocessor: Preprocessor::new(width, height),
            rgb: Vec::new(),
        }
    }

    /// How the part of a frame lies.
    pub(crate) fn pose(&mut self, frame: &FrameView<'_>) -> Result<Pose, ModelError> {
        let size = (self.full.width as u32, self.full.height as u32);
        let grey = grey_of(frame, &mut self.preprocessor, &mut self.rgb, size)?;
        let (motion, confidence) = self.search(&Image::of(&grey));
        let applied = self.is_good(&motion, confidence);
        Ok(Pose {
            angle_deg: motion.angle.to_degrees(),
            shift_x: motion.x / self.full.width as f64,
            shift_y: motion.y / self.full.height as f64,
            confidence,
            applied,
        })
    }

    /// Width and height of the reference.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.full.width, self.full.height)
    }

    fn is_good(&self, motion: &Motion, confidence: f64) -> bool {
        // Least squares may end a little outside of what was searched.
        let slack = 1.1;
        confidence >= self.least_confidence
            && motion.angle.to_degrees().abs() <= self.range.angle_deg * slack
            && motion.x.abs() <= self.range.shift * slack * self.full.width as f64
            && motion.y.abs() <= self.range.shift * slack * self.full.height as f64
    }

    fn search(&self, picture: &Image) -> (Motion, f64) {
        let half = picture.halved();
        let quarter = half.halved();
        // The best shift of each angle.
        let coarse: Vec<(i32, i32)> = self
            .turned_quarter
            .iter()
            .map(|(_, turned)| best_shift(turned, &quarter, (0, 0), self.reach(&quarter)).0)
            .collect();
        let mut found: Vec<(f64, Motion)> = Vec::new();
        for (index, (angle, turned)) in self.turned_half.iter().enumerate() {
            // Every other angle was tried before; the others lie between two that were.
            for near in index / 2..=index.div_ceil(2) {
                let Some(&(x, y)) = coarse.get(near) else { continue };
                let ((x, y), correlation) = best_shift(turned, &half, (x * 2, y * 2), (2, 2));
                found.push((correlation, Motion { angle: angle.to_radians(), x: f64::from(x), y: f64::from(y) }));
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let refined = found.into_iter().take(CANDIDATES).map(|(_, motion)| {
            let motion = refined(&self.half, &half, motion, STEPS_AT_HALF);
            (motion, correlation(&self.half, &half, &motion))
        });
        let best = refined.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(motion, _)| motion);
        let best = best.unwrap_or(Motion { angle: 0.0, x: 0.0, y: 0.0 });
        let motion = refined_at_full(&self.full, picture, best);
        (motion, correlation(&self.full, picture, &motion))
    }

    fn reach(&self, image: &Image) -> (i32, i32) {
        let reach = |length: usize| (self.range.shift * length as f64).ceil() as i32;
        (reach(image.width), reach(image.height))
    }
}

fn refined_at_full(reference: &Image, picture: &Image, at_half: Motion) -> Motion {
    let start = Motion { angle: at_half.angle, x: at_half.x * 2.0, y: at_half.y * 2.0 };
    refined(reference, picture, start, STEPS_AT_FULL)
}

/// The shift by whole pixels, near `around`, at which the picture is most like the turned reference.
fn best_shift(turned: &Image, picture: &Image, around: (i32, i32), reach: (i32, i32)) -> ((i32, i32), f64) {
    let mut best = (around, f64::NEG_INFINITY);
    for y in around.1 - reach.1..=around.1 + reach.1 {
        for x in around.0 - reach.0..=around.0 + reach.0 {
            let correlation = shifted_correlation(turned, picture, x, y);
            if correlation > best.1 {
                best = ((x, y), correlation);
            }
        }
    }
    best
}

/// The correlation of what a shifted reference and a picture have in common.
fn shifted_correlation(reference: &Image, picture: &Image, x: i32, y: i32) -> f64 {
    let (width, height) = (picture.width as i32, picture.height as i32);
    let columns = 0.max(-x)..width.min(width - x);
    if columns.is_empty() {
        return f64::NEG_INFINITY;
    }
    let mut sums = Sums::default();
    for row in 0.max(-y)..height.min(height - y) {
        let reference_row =
            &reference.values[(row * width + columns.start) as usize..(row * width + columns.end) as usize];
        let start = ((row + y) * width + columns.start + x) as usize;
        let picture_row = &picture.values[start..start + reference_row.len()];
        sums.add_rows(reference_row, picture_row);
    }
    sums.correlation()
}

/// The correlation of reference and picture where the moved reference lies within the picture.
fn correlation(reference: &Image, picture: &Image, motion: &Motion) -> f64 {
    let mut sums = Sums::default();
    for y in 0..reference.height {
        for x in 0..reference.width {
            let (to_x, to_y) = motion.apply(x as f64, y as f64, reference);
            if picture.holds(to_x, to_y) {
                let value = picture.at(to_x as f32, to_y as f32);
                sums.add_rows(&[reference.values[y * reference.width + x]], &[value]);
            }
        }
    }
    // A match of less than half the picture is none.
    if sums.count * 2.0 < reference.values.len() as f64 { 0.0 } else { sums.correlation() }
}

#[derive(Default)]
struct Sums {
    count: f64,
    left: f64,
    right: f64,
    left_squares: f64,
    right_squares: f64,
    products: f64,
}

impl Sums {
    fn add_rows(&mut self, left: &[f32], right: &[f32]) {
        const LANES: usize = 8;
        let mut sums = [[0.0_f32; LANES]; 5];
        let (left_blocks, left_rest) = left.as_chunks::<LANES>();
        let (right_blocks, right_rest) = right.as_chunks::<LANES>();
        let mut add = |lane: usize, a: f32, b: f32| {
            sums[0][lane] += a;
            sums[1][lane] += b;
            sums[2][lane] += a * a;
            sums[3][lane] += b * b;
            sums[4][lane] += a * b;
        };
        for (a, b) in left_blocks.iter().zip(right_blocks) {
            for lane in 0..LANES {
                add(lane, a[lane], b[lane]);
            }
        }
        for (&a, &b) in left_rest.iter().zip(right_rest) {
            add(0, a, b);
        }
        let [left_sum, right_sum, left_squares, right_squares, products] =
            sums.map(|lanes| f64::from(lanes.iter().sum::<f32>()));
        self.count += left.len() as f64;
        self.left += left_sum;
        self.right += right_sum;
        self.left_squares += left_squares;
        self.right_squares += right_squares;
        self.products += products;
    }

    /// Of Pearson; 0 where one of them is even.
    fn correlation(&self) -> f64 {
        let count = self.count.max(1.0);
        let covariance = self.products - self.left * self.right / count;
        let left = self.left_squares - self.left * self.left / count;
        let right = self.right_squares - self.right * self.right / count;
        let scale = (left.max(0.0) * right.max(0.0)).sqrt();
        if scale > 1e-3 { covariance / scale } else { 0.0 }
    }
}

/// Least squares (Gauss and Newton) on angle and shift, and on gain and offset of brightness, from a motion nearby.
fn refined(reference: &Image, picture: &Image, start: Motion, steps: usize) -> Motion {
    let mut motion = start;
    let (mut gain, mut offset) = (1.0_f64, 0.0_f64);
    let (centre_x, centre_y) = reference.centre();
    for step in 0..steps {
        let mut normal = [[0.0_f64; 6]; 5];
        let (sine, cosine) = motion.angle.sin_cos();
        for y in 0..reference.height {
            let (mut row_sums, v) = ([[0.0_f32; 6]; 5], y as f64 - centre_y);
            for x in 0..reference.width {
                let u = x as f64 - centre_x;
                let to_x = centre_x + cosine * u - sine * v + motion.x;
                let to_y = centre_y + sine * u + cosine * v + motion.y;
                let Some((value, slope_x, slope_y)) = picture.with_slope(to_x as f32, to_y as f32) else { continue };
                let known = reference.values[y * reference.width + x];
                let by_angle = slope_x * (-sine * u - cosine * v) as f32 + slope_y * (cosine * u - sine * v) as f32;
                let residual = value - (gain as f32 * known + offset as f32);
                let terms = [by_angle, slope_x, slope_y, -known, -1.0, -residual];
                // The other half of the products is the same again.
                for (place, row) in row_sums.iter_mut().enumerate() {
                    for (sum, &right) in row[place..].iter_mut().zip(&terms[place..]) {
                        *sum += terms[place] * right;
                    }
                }
            }
            for (sums, row) in normal.iter_mut().zip(&row_sums) {
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
            }
        }
        let upper = normal;
        for (row, values) in normal.iter_mut().enumerate() {
            for (value, other) in values.iter_mut().zip(&upper).take(row) {
                *value = other[row];
            }
        }
        let Some(change) = solved(normal) else { return motion };
        if step > 0 {
            // The first step only finds the brightness: from a wrong one, the motion would run away.
            motion = Motion { angle: motion.angle + change[0], x: motion.x + change[1], y: motion.y + change[2] };
        }
        gain += change[3];
        offset += change[4];
        let moved = change[0].abs() * centre_x.max(centre_y) + change[1].abs() + change[2].abs();
        if step > 0 && moved < SETTLED_PX {
            break;
        }
    }
    motion
}

/// Solves five equations; nothing when they do not determine an answer.
fn solved(mut rows: [[f64; 6]; 5]) -> Option<[f64; 5]> {
    for pivot in 0..5 {
        let best = (pivot..5).max_by(|&a, &b| rows[a][pivot].abs().total_cmp(&rows[b][pivot].abs()))?;
        rows.swap(pivot, best);
        let lead = rows[pivot];
        if lead[pivot].abs() < 1e-9 {
            return None;
        }
        for (index, row) in rows.iter_mut().enumerate() {
            if index != pivot {
                let factor = row[pivot] / lead[pivot];
                row.iter_mut().zip(&lead).for_each(|(value, &other)| *value -= factor * other);
            }
        }
    }
    let mut answer = [0.0; 5];
    for (index, value) in answer.iter_mut().enumerate() {
        *value = rows[index][5] / rows[index][index];
    }
    answer.iter().all(|value| value.is_finite()).then_some(answer)
}

impl Motion {
    /// Where a point of the reference lies in the picture.
    fn apply(&self, x: f64, y: f64, image: &Image) -> (f64, f64) {
        let (centre_x, centre_y) = image.centre();
        let (sine, cosine) = self.angle.sin_cos();
        let (u, v) = (x - centre_x, y - centre_y);
        (centre_x + cosine * u - sine * v + self.x, centre_y + sine * u + cosine * v + self.y)
    }
}

impl Image {
    fn of(grey: &Grey) -> Self {
        let values = grey.values.iter().map(|&value| f32::from(value)).collect();
        Self { width: grey.width, height: grey.height, values }
    }

    fn centre(&self) -> (f64, f64) {
        ((self.width as f64 - 1.0) / 2.0, (self.height as f64 - 1.0) / 2.0)
    }

    fn holds(&self, x: f64, y: f64) -> bool {
        x >= 0.0 && y >= 0.0 && x <= self.width as f64 - 1.0 && y <= self.height as f64 - 1.0
    }

    /// Half as wide and high; sides are even.
    fn halved(&self) -> Self {
        let (width, height) = (self.width / 2, self.height / 2);
        let value = |index: usize| {
            let (x, y) = (index % width * 2, index / width * 2);
            let at = |x: usize, y: usize| self.values[y * self.width + x];
            (at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4.0
        };
        Self { width, height, values: (0..width * height).map(value).collect() }
    }

    /// Turned about its middle; what comes in from outside is the edge.
    fn turned(&self, angle_deg: f64) -> Self {
        let back = Motion { angle: -angle_deg.to_radians(), x: 0.0, y: 0.0 };
        let value = |index: usize| {
            let (x, y) = back.apply((index % self.width) as f64, (index / self.width) as f64, self);
            self.at(x as f32, y as f32)
        };
        Self { values: (0..self.values.len()).map(value).collect(), ..*self }
    }

    /// Between pixels, bilinear; outside, the edge.
    fn at(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x.clamp(0.0, self.width as f32 - 1.0), y.clamp(0.0, self.height as f32 - 1.0));
        let (left, top) = ((x as usize).min(self.width - 2), (y as usize).min(self.height - 2));
        let (across, down) = (x - left as f32, y - top as f32);
        let [a, b, c, d] = self.corners(left, top);
        let (upper, lower) = (a + (b - a) * across, c + (d - c) * across);
        upper + (lower - upper) * down
    }

    /// Value and slope between pixels; nothing outside.
    fn with_slope(&self, x: f32, y: f32) -> Option<(f32, f32, f32)> {
        let inside = x >= 0.0 && y >= 0.0 && x < self.width as f32 - 1.0 && y < self.height as f32 - 1.0;
        if !inside {
            return None;
        }
        let (left, top) = (x as usize, y as usize);
        let (across, down) = (x - left as f32, y - top as f32);
        let [a, b, c, d] = self.corners(left, top);
        let (upper, lower) = (a + (b - a) * across, c + (d - c) * across);
        let slope_x = (b - a) + ((d - c) - (b - a)) * down;
        Some((upper + (lower - upper) * down, slope_x, lower - upper))
    }

    fn corners(&self, left: usize, top: usize) -> [f32; 4] {
        let index = top * self.width + left;
        [
            self.values[index],
            self.values[index + 1],
            self.values[index + self.width],
            self.values[index + self.width + 1],
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range { angle_deg: 15.0, shift: 0.15 };

    /// A part without symmetry, on a textured ground.
    fn part(angle_deg: f64, shift: (f64, f64)) -> Grey {
        let (width, height) = (128, 96);
        let still = Image { width, height, values: vec![0.0; width * height] };
        let back = Motion { angle: -angle_deg.to_radians(), x: 0.0, y: 0.0 };
        let value = |index: usize| {
            let (x, y) = ((index % width) as f64 - shift.0, (index / width) as f64 - shift.1);
            let (x, y) = back.apply(x, y, &still);
            let (u, v) = (x - 63.5, y - 47.5);
            let body = if u.abs() < 30.0 && v.abs() < 18.0 { 120.0 } else { 40.0 };
            let hole = if (u - 14.0).hypot(v + 6.0) < 7.0 { -70.0 } else { 0.0 };
            let ground = 6.0 * ((x * 0.9).sin() + (y * 1.3).cos());
            (body + hole + ground) as u8
        };
        Grey { width, height, values: (0..width * height).map(value).collect() }
    }

    #[test]
    fn shift_and_rotation_are_found_to_a_fraction_of_a_pixel() {
        let registrar = Registrar::new(&part(0.0, (0.0, 0.0)), RANGE, 0.5);
        for (angle, x, y) in
            [(0.0, 0.0, 0.0), (3.0, 5.5, -4.0), (-11.0, -12.0, 9.0), (14.0, 17.0, -12.0), (7.3, 0.0, 10.0)]
        {
            let (motion, confidence) = registrar.search(&Image::of(&part(angle, (x, y))));
            let off = (motion.angle.to_degrees() - angle).abs();
            assert!(off < 0.5, "{angle} {x} {y}: {motion:?} {confidence}");
            assert!((motion.x - x).abs() < 0.7 && (motion.y - y).abs() < 0.7, "{angle} {x} {y}: {motion:?}");
            assert!(confidence > 0.8 && registrar.is_good(&motion, confidence), "{confidence}");
        }
    }

    #[test]
    fn a_darker_picture_is_found_too_and_another_picture_is_not() {
        let registrar = Registrar::new(&part(0.0, (0.0, 0.0)), RANGE, 0.5);
        let mut darker = part(5.0, (4.0, 3.0));
        darker.values.iter_mut().for_each(|value| *value = *value / 2 + 3);
        let (motion, confidence) = registrar.search(&Image::of(&darker));
        assert!((motion.angle.to_degrees() - 5.0).abs() < 0.5 && confidence > 0.8, "{motion:?} {confidence}");
        let mut noise = part(0.0, (0.0, 0.0));
        let mut state = 7_u32;
        for value in &mut noise.values {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *value = (state >> 24) as u8;
        }
        let (motion, confidence) = registrar.search(&Image::of(&noise));
        assert!(!registrar.is_good(&motion, confidence), "{confidence}");
        noise.values.fill(90);
        let (motion, confidence) = registrar.search(&Image::of(&noise));
        assert!(!registrar.is_good(&motion, confidence), "{confidence}");
    }

    #[test]
    fn the_reference_is_as_sharp_as_its_pictures() {
        let poses = [(0.0, (0.0, 0.0)), (4.0, (6.0, 2.0)), (-6.0, (-3.0, 5.0)), (2.0, (1.0, -4.0))];
        let pictures: Vec<Grey> = poses.map(|(angle, shift)| part(angle, shift)).to_vec();
        let reference = reference_of(&pictures, RANGE, 0.5).unwrap();
        let registrar = Registrar::new(&reference, RANGE, 0.5);
        for picture in &pictures {
            let (_, confidence) = registrar.search(&Image::of(picture));
            assert!(confidence > 0.85, "{confidence}");
        }
        assert!(reference_of(&[], RANGE, 0.5).is_none());
    }

    #[test]
    fn small_pictures_keep_their_shape() {
        assert_eq!(grey_size(640, 480), (128, 96));
        assert_eq!(grey_size(4096, 4096), (128, 128));
        assert_eq!(grey_size(64, 4096), (16, 128));
    }
}
