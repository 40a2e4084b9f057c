//! What a picture tells at a glance: brightness, clipping, sharpness and a coarse grid of points.
//!
//! A grid of 64 by 64 points is read where it lies in the camera's own format, each with its four neighbours; nothing is
//! converted, scaled or copied. A glance costs a small, fixed time whatever the picture's size, so that every frame of
//! every camera can have one. [`Background`] is what a camera sees when nothing happens.

use crate::frame::{FrameError, FrameView, PixelFormat, Rect};

/// Points along each side of the grid.
pub const GRID: usize = 64;
const POINTS: usize = GRID * GRID;
/// Brightness up to which a point is nearly black, and from which it is clipped.
const DARK: u8 = 24;
const BRIGHT: u8 = 250;
/// With less contrast than this, in grey levels, there is no edge to be sharp.
const LEAST_CONTRAST: f32 = 6.0;
/// How many pictures of those that teach a background are kept.
const KEPT: usize = 31;
/// A point whose brightness usually differs by more than this from its middle does not stand still.
const STILL: u8 = 6;
/// Fewer still points than this share, or less contrast among them, tell nothing of where the camera looks.
const LEAST_STILL: f32 = 0.1;
/// How far a shift is searched, in points of the grid.
const REACH: isize = 12;

/// A glance at one picture. Brightness is luma from 0 to 255, whatever range the camera uses.
#[derive(Debug, Clone, PartialEq)]
pub struct Glance {
    /// Single pixels: they keep the camera's noise, which proves that a picture lives.
    points: Vec<u8>,
    /// Means of a pixel and its neighbours, in which there is less of it.
    smooth: Vec<u8>,
    mean: f32,
    deviation: f32,
    dark_share: f32,
    bright_share: f32,
    edges: f32,
}

/// Learns what a camera sees when nothing happens, from pictures in some of which something does.
#[derive(Debug, Clone, Default)]
pub struct BackgroundLearner {
    kept: Vec<Vec<u8>>,
    seen: usize,
}

/// What a camera sees when nothing happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    middle: Vec<u8>,
    is_still: Vec<bool>,
    still: usize,
}

/// Where a picture lies against a background, in shares of its width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shift {
    /// To the right.
    pub right: f32,
    /// Down.
    pub down: f32,
    /// How alike the two are when shifted back, up to 1.
    pub likeness: f32,
}

impl Glance {
    /// Looks at the region of the picture that counts, or at a smaller one.
    ///
    /// # Errors
    /// When `region` does not lie within the picture.
    pub fn of(view: &FrameView<'_>, region: Option<Rect>) -> Result<Self, FrameError> {
        let (crop, (width_px, height_px)) = (view.crop(), (view.width_px(), view.height_px()));
        let region = match region {
            None => crop,
            Some(region) if region.fits(crop.width_px, crop.height_px) => {
                Rect { x: crop.x + region.x, y: crop.y + region.y, ..region }
            }
            Some(crop) => return Err(FrameError::Crop { crop, width_px, height_px }),
        };
        let at = |row: &[u8], index: usize| row.get(index).copied().unwrap_or(0);
        let expand = !view.color().full_range;
        let luma = move |row: &[u8], index: usize| if expand { expanded(at(row, index)) } else { at(row, index) };
        let weighted = move |row: &[u8], red: usize, green: usize, blue: usize| {
            let [red, green, blue] = [at(row, red), at(row, green), at(row, blue)].map(u32::from);
            // Weights of 256 in all: the sum fits a byte.
            ((red * 77 + green * 150 + blue * 29) >> 8) as u8
        };
        Ok(match view.format() {
            PixelFormat::Gray8 => Self::sampled(view, region, at),
            PixelFormat::I420 | PixelFormat::Nv12 => Self::sampled(view, region, luma),
            PixelFormat::Yuy2 => Self::sampled(view, region, |row, x| luma(row, 2 * x)),
            PixelFormat::Uyvy => Self::sampled(view, region, |row, x| luma(row, 2 * x + 1)),
            PixelFormat::Rgb => Self::sampled(view, region, |row, x| weighted(row, 3 * x, 3 * x + 1, 3 * x + 2)),
            PixelFormat::Bgr => Self::sampled(view, region, |row, x| weighted(row, 3 * x + 2, 3 * x + 1, 3 * x)),
            PixelFormat::Rgbx => Self::sampled(view, region, |row, x| weighted(row, 4 * x, 4 * x + 1, 4 * x + 2)),
            PixelFormat::Bgrx => Self::sampled(view, region, |row, x| weighted(row, 4 * x + 2, 4 * x + 1, 4 * x)),
        })
    }

    fn sampled(view: &FrameView<'_>, region: Rect, read: impl Fn(&[u8], usize) -> u8) -> Self {
        let (mut points, mut smooth) = (Vec::with_capacity(POINTS), Vec::with_capacity(POINTS));
        let mut edge_energy = 0_u64;
        let columns = places(region.x, region.width_px);
        let plane = view.planes().first();
        let row = |y: usize| plane.and_then(|plane| plane.data.get(y * plane.stride_bytes..)).unwrap_or(&[]);
        for (above, y, below) in places(region.y, region.height_px) {
            let (above, here, below) = (row(above), row(y), row(below));
            for &(left, x, right) in &columns {
                let point = read(here, x);
                let around = [read(above, x), read(below, x), read(here, left), read(here, right)].map(i32::from);
                let around: i32 = around.iter().sum();
                let curvature = 4 * i32::from(point) - around;
                edge_energy += u64::from(curvature.unsigned_abs().pow(2));
                points.push(point);
                // Five bytes and their mean.
                smooth.push(((around + i32::from(point)) / 5) as u8);
            }
        }
        let share = |is: fn(u8) -> bool| points.iter().filter(|point| is(**point)).count() as f32 / POINTS as f32;
        let mean = points.iter().map(|point| f32::from(*point)).sum::<f32>() / POINTS as f32;
        let variance = points.iter().map(|point| (f32::from(*point) - mean).powi(2)).sum::<f32>() / POINTS as f32;
        Self {
            mean,
            deviation: variance.sqrt(),
            dark_share: share(|point| point <= DARK),
            bright_share: share(|point| point >= BRIGHT),
            // At most 4096 times 1020 squared: exact in a double.
            edges: (edge_energy as f64 / POINTS as f64) as f32,
            points,
            smooth,
        }
    }

    /// Mean brightness.
    pub fn mean(&self) -> f32 {
        self.mean
    }

    /// Contrast: the standard deviation of brightness.
    pub fn deviation(&self) -> f32 {
        self.deviation
    }

    /// Share of nearly black points.
    pub fn dark_share(&self) -> f32 {
        self.dark_share
    }

    /// Share of clipped points.
    pub fn bright_share(&self) -> f32 {
        self.bright_share
    }

    /// How much of the contrast lies in edges as fine as a pixel: falls when the picture gets soft, whatever its brightness.
    /// None when there is too little contrast to tell.
    pub fn sharpness(&self) -> Option<f32> {
        (self.deviation >= LEAST_CONTRAST).then(|| self.edges / (self.deviation * self.deviation))
    }

    /// Mean difference of single pixels, in grey levels. 0 is the very same picture.
    pub fn change(&self, before: &Self) -> f32 {
        mean_difference(&self.points, &before.points)
    }
}

impl BackgroundLearner {
    /// A picture that teaches.
    pub fn learn(&mut self, glance: &Glance) {
        // The kept pictures lie ever further apart, so that a part that stops for a while does not fill them.
        let spacing = self.seen / KEPT + 1;
        if self.kept.len() < KEPT {
            self.kept.push(glance.smooth.clone());
        } else if self.seen.is_multiple_of(spacing)
            && let Some(oldest) = self.kept.get_mut(self.seen / spacing % KEPT)
        {
            oldest.clone_from(&glance.smooth);
        }
        self.seen += 1;
    }

    /// How many pictures have taught.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// What most pictures showed, point by point; none without a picture.
    pub fn background(&self) -> Option<Background> {
        if self.kept.is_empty() {
            return None;
        }
        let (mut middle, mut is_still) = (Vec::with_capacity(POINTS), Vec::with_capacity(POINTS));
        let mut values = Vec::with_capacity(KEPT);
        for point in 0..POINTS {
            values.clear();
            values.extend(self.kept.iter().filter_map(|picture| picture.get(point)).copied());
            let usual = median(&mut values);
            values.iter_mut().for_each(|value| *value = value.abs_diff(usual));
            middle.push(usual);
            is_still.push(median(&mut values) <= STILL);
        }
        let still = is_still.iter().filter(|is_still| **is_still).count();
        Some(Background { middle, is_still, still })
    }
}

impl Background {
    /// Mean difference of a picture from the background, in grey levels.
    pub fn difference(&self, glance: &Glance) -> f32 {
        mean_difference(&self.middle, &glance.smooth)
    }

    /// How alike the still part of the picture is, from -1 to 1 whatever the light; none where too little stands still, or
    /// where what does is all the same.
    pub fn likeness(&self, glance: &Glance) -> Option<f32> {
        if (self.still as f32) < LEAST_STILL * POINTS as f32 {
            return None;
        }
        self.shifted_likeness(glance, 0, 0)
    }

    /// Where the picture would have to lie to be most alike.
    pub fn shift(&self, glance: &Glance) -> Option<Shift> {
        let shifts = (-REACH..=REACH).flat_map(|down| (-REACH..=REACH).map(move |right| (right, down)));
        let found = shifts.filter_map(|(right, down)| {
            let likeness = self.shifted_likeness(glance, right, down)?;
            Some(Shift { right: right as f32 / GRID as f32, down: down as f32 / GRID as f32, likeness })
        });
        found.max_by(|one, other| one.likeness.total_cmp(&other.likeness))
    }

    /// Correlation of the still points with the points that lie so far to the right and down in the picture.
    fn shifted_likeness(&self, glance: &Glance, right: isize, down: isize) -> Option<f32> {
        let (mut count, mut sum, mut other_sum) = (0_u64, 0_u64, 0_u64);
        let (mut squares, mut other_squares, mut products) = (0_u64, 0_u64, 0_u64);
        for row in 0..GRID {
            let Some(other_row) = row.checked_add_signed(down).filter(|row| *row < GRID) else { continue };
            for column in 0..GRID {
                let Some(other_column) = column.checked_add_signed(right).filter(|column| *column < GRID) else {
                    continue;
                };
                let (place, other_place) = (row * GRID + column, other_row * GRID + other_column);
                if !self.is_still[place] {
                    continue;
                }
                let (value, other) = (u64::from(self.middle[place]), u64::from(glance.smooth[other_place]));
                count += 1;
                sum += value;
                other_sum += other;
                squares += value * value;
                other_squares += other * other;
                products += value * other;
            }
        }
        // Sums of at most 4096 squares of bytes are exact in a double.
        let [count, sum, other_sum, squares, other_squares, products] =
            [count, sum, other_sum, squares, other_squares, products].map(|sum| sum as f64);
        let variance = squares / count - (sum / count).powi(2);
        let other_variance = other_squares / count - (other_sum / count).powi(2);
        let least = f64::from(LEAST_CONTRAST).powi(2) / 4.0;
        if count < f64::from(LEAST_STILL) * POINTS as f64 || variance < least {
            return None;
        }
        // A picture without any contrast is like nothing.
        if other_variance < 1.0 {
            return Some(0.0);
        }
        let covariance = products / count - sum / count * (other_sum / count);
        Some((covariance / (variance * other_variance).sqrt()) as f32)
    }
}

/// Where each point of the grid lies along one side, with its neighbours.
fn places(start: u32, length: u32) -> Vec<(usize, usize, usize)> {
    let (start, length) = (start as usize, (length as usize).max(1));
    let last = start + length - 1;
    (0..GRID)
        .map(|number| {
            let place = start + (2 * number + 1) * length / (2 * GRID);
            (place.saturating_sub(1).max(start), place, (place + 1).min(last))
        })
        .collect()
}

/// From 16 to 235 to the full range.
fn expanded(value: u8) -> u8 {
    // At most 255 by the clamp.
    ((i32::from(value) - 16) * 255 / 219).clamp(0, 255) as u8
}

fn mean_difference(one: &[u8], other: &[u8]) -> f32 {
    let sum: u32 = one.iter().zip(other).map(|(one, other)| u32::from(one.abs_diff(*other))).sum();
    sum as f32 / POINTS as f32
}

fn median(values: &mut [u8]) -> u8 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Plane, YuvColor};

    const WIDTH: usize = 320;
    const HEIGHT: usize = 240;

    /// A cheap hash as noise of a few grey levels.
    fn noise(x: usize, y: usize, seed: usize) -> i32 {
        let mixed = (x * 73_856_093) ^ (y * 19_349_663) ^ (seed * 83_492_791);
        ((mixed >> 7) % 5) as i32 - 2
    }

    /// A table with dark rails and a printed pattern, as grey pixels, seen `shift` pixels to the right.
    fn scene(shift: usize, seed: usize) -> Vec<u8> {
        let mut pixels = Vec::with_capacity(WIDTH * HEIGHT);
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let x_there = x + WIDTH - shift;
                let is_rail = !(30..210).contains(&y);
                let is_mark = (x_there / 23 + y / 17).is_multiple_of(4);
                let grey = if is_rail {
                    40 + (x_there * 7 / 64 % 30) as i32
                } else if is_mark {
                    60
                } else {
                    170
                };
                pixels.push((grey + noise(x, y, seed)).clamp(0, 255) as u8);
            }
        }
        pixels
    }

    /// Mean of a square around each pixel.
    fn blurred(pixels: &[u8], reach: usize) -> Vec<u8> {
        let mut soft = vec![0; pixels.len()];
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                let (mut sum, mut count) = (0_usize, 0);
                for row in y.saturating_sub(reach)..(y + reach + 1).min(HEIGHT) {
                    for column in x.saturating_sub(reach)..(x + reach + 1).min(WIDTH) {
                        sum += usize::from(pixels[row * WIDTH + column]);
                        count += 1;
                    }
                }
                soft[y * WIDTH + x] = (sum / count) as u8;
            }
        }
        soft
    }

    fn glance(pixels: &[u8]) -> Glance {
        let plane = Plane { data: pixels, stride_bytes: WIDTH };
        let view = FrameView::new(PixelFormat::Gray8, WIDTH as u32, HEIGHT as u32, vec![plane], YuvColor::default());
        Glance::of(&view.unwrap(), None).unwrap()
    }

    fn background() -> Background {
        let mut learner = BackgroundLearner::default();
        (0..60).for_each(|seed| learner.learn(&glance(&scene(0, seed))));
        learner.background().unwrap()
    }

    #[test]
    fn each_format_tells_the_same_of_the_same_grey() {
        let (width, height) = (70_usize, 66_usize);
        let full = YuvColor { full_range: true, ..YuvColor::default() };
        let grey = |x: usize, y: usize| ((x * 3 + y * 5) % 256) as u8;
        let packed = |bytes: fn(u8) -> Vec<u8>, stride: usize| {
            let mut data = Vec::new();
            for y in 0..height {
                let row: Vec<u8> = (0..width).flat_map(|x| bytes(grey(x, y))).collect();
                data.extend(&row);
                data.resize((y + 1) * stride, 99);
            }
            data
        };
        let chroma = vec![128; width * height];
        let look = |format, data: &[u8], stride_bytes| {
            let more = format == PixelFormat::I420;
            let mut planes = vec![Plane { data, stride_bytes }];
            let colour = Plane { data: &chroma, stride_bytes: width };
            planes.extend((more || format == PixelFormat::Nv12).then_some(colour));
            planes.extend(more.then_some(colour));
            Glance::of(&FrameView::new(format, width as u32, height as u32, planes, full).unwrap(), None).unwrap()
        };
        let reference = look(PixelFormat::Gray8, &packed(|grey| vec![grey], width + 3), width + 3);
        type Row = (PixelFormat, fn(u8) -> Vec<u8>, usize);
        let table: [Row; 8] = [
            (PixelFormat::I420, |grey| vec![grey], width),
            (PixelFormat::Nv12, |grey| vec![grey], width + 8),
            (PixelFormat::Rgb, |grey| vec![grey; 3], width * 3 + 2),
            (PixelFormat::Bgr, |grey| vec![grey; 3], width * 3),
            (PixelFormat::Rgbx, |grey| vec![grey, grey, grey, 7], width * 4),
            (PixelFormat::Bgrx, |grey| vec![grey, grey, grey, 7], width * 4),
            (PixelFormat::Yuy2, |grey| vec![grey, 128], width * 2),
            (PixelFormat::Uyvy, |grey| vec![128, grey], width * 2 + 4),
        ];
        for (format, bytes, stride) in table {
            let seen = look(format, &packed(bytes, stride), stride);
            assert_eq!(seen, reference, "{format:?}");
        }
        assert_eq!([expanded(0), expanded(16), expanded(235), expanded(255)], [0, 0, 255, 255]);
    }

    #[test]
    fn black_white_soft_and_still_pictures_show() {
        let sharp = glance(&scene(0, 1));
        assert!(sharp.deviation() > 30.0 && sharp.dark_share() < 0.05 && sharp.bright_share() < 0.05);
        let black = glance(&vec![3; WIDTH * HEIGHT]);
        assert_eq!((black.dark_share(), black.bright_share(), black.sharpness()), (1.0, 0.0, None));
        let white = glance(&vec![255; WIDTH * HEIGHT]);
        assert_eq!((white.mean(), white.bright_share()), (255.0, 1.0));
        let [sharpness, soft] = [&sharp, &glance(&blurred(&scene(0, 1), 3))].map(|seen| seen.sharpness().unwrap());
        assert!(soft < 0.2 * sharpness, "{soft} of {sharpness}");
        // Less light is not less sharp.
        let dim = glance(&scene(0, 1).iter().map(|grey| grey / 2).collect::<Vec<_>>()).sharpness().unwrap();
        assert!((0.8..1.2).contains(&(dim / sharpness)), "{dim} of {sharpness}");
        assert_eq!(sharp.change(&sharp.clone()), 0.0);
        assert!(glance(&scene(0, 2)).change(&sharp) > 0.5);
    }

    #[test]
    fn a_camera_that_was_moved_is_told_from_one_that_was_not() {
        let background = background();
        let likeness = |pixels: &[u8]| background.likeness(&glance(pixels)).unwrap();
        assert!(likeness(&scene(0, 99)) > 0.95);
        // Another light and a part in the middle are no move.
        let dim: Vec<u8> = scene(0, 98).iter().map(|grey| grey / 3 * 2).collect();
        assert!(likeness(&dim) > 0.95);
        let mut with_part = scene(0, 97);
        for y in 80..160 {
            with_part[y * WIDTH + 110..y * WIDTH + 210].fill(250);
        }
        assert!(likeness(&with_part) > 0.7, "{}", likeness(&with_part));
        let moved = scene(20, 96);
        assert!(likeness(&moved) < 0.5, "{}", likeness(&moved));
        let shift = background.shift(&glance(&moved)).unwrap();
        assert!((shift.right - 20.0 / WIDTH as f32).abs() < 0.01 && shift.down == 0.0, "{shift:?}");
        assert!(shift.likeness > 0.9, "{shift:?}");
    }

    #[test]
    fn a_part_differs_from_the_empty_belt_even_if_parts_passed_while_it_was_learnt() {
        let with_part = |seed: usize| {
            let mut pixels = scene(0, seed);
            for y in 60..180 {
                let start = y * WIDTH + seed * 37 % 200;
                pixels[start..start + 100].fill(240);
            }
            glance(&pixels)
        };
        let mut learner = BackgroundLearner::default();
        for seed in 0..90 {
            let passes = seed % 3 == 0;
            learner.learn(&if passes { with_part(seed) } else { glance(&scene(0, seed)) });
        }
        let background = learner.background().unwrap();
        let (empty, full) = (background.difference(&glance(&scene(0, 500))), background.difference(&with_part(501)));
        assert!(empty < 2.0 && full > 10.0 * empty, "{empty} and {full}");
    }

    #[test]
    fn a_region_is_looked_at_alone_and_must_lie_within() {
        let mut pixels = vec![10; WIDTH * HEIGHT];
        for y in 100..120 {
            pixels[y * WIDTH + 50..y * WIDTH + 90].fill(200);
        }
        let plane = Plane { data: &pixels, stride_bytes: WIDTH };
        let view = FrameView::new(PixelFormat::Gray8, WIDTH as u32, HEIGHT as u32, vec![plane], YuvColor::default());
        let view = view.unwrap();
        let region = Rect { x: 50, y: 100, width_px: 40, height_px: 20 };
        assert_eq!(Glance::of(&view, Some(region)).unwrap().mean(), 200.0);
        // And within the part that counts, from its corner.
        let cropped = view.clone().cropped(Rect { x: 50, y: 100, width_px: 100, height_px: 100 }).unwrap();
        let corner = Rect { x: 0, y: 0, width_px: 1, height_px: 1 };
        assert_eq!(Glance::of(&cropped, Some(corner)).unwrap().mean(), 200.0);
        assert!(Glance::of(&cropped, Some(Rect { x: 90, y: 0, width_px: 20, height_px: 5 })).is_err());
    }
}
