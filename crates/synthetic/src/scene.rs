//! One part on the belt under the camera: where it lies, how it is lit, and the colour of every pixel.

use crate::defect::{DefectShape, Effect};
use crate::geometry::{Point, direction, mix, sixth_of_turn, smooth_step};
use crate::rng::SplitMix64;

// The flange, from outside to inside, in part units.
const RADIUS: f32 = 172.0;
const CHAMFER: f32 = 7.0;
const HUB_RADIUS: f32 = 74.0;
const BORE_RADIUS: f32 = 44.0;
const BORE_CHAMFER: f32 = 5.0;
const BOLT_CIRCLE_RADIUS: f32 = 118.0;
const HOLE_RADIUS: f32 = 16.0;
const HOLE_CHAMFER: f32 = 3.5;

const METAL: [f32; 3] = [0.97, 0.985, 1.0];
const BELT: [f32; 3] = [0.90, 1.0, 0.98];
const BELT_TONE: f32 = 58.0;
const SHADOW_LENGTH: f32 = 9.0;
const SHADOW_EDGE: f32 = 22.0;
const PATCH_PX: usize = 6;
const NOISE_SIZE: usize = 64;
const RINGS: usize = 256;

pub(crate) struct Scene {
    width_px: u32,
    height_px: u32,
    /// Pixels per part unit.
    scale: f32,
    centre_px: Point,
    turn: Point,
    /// Where the light comes from, in the part's own coordinates.
    light: Point,
    exposure: f32,
    /// Belt texture: which piece of the belt lies here.
    belt_offset: [usize; 2],
    noise: Vec<f32>,
    /// Marks of the lathe, by distance from the centre.
    rings: Vec<f32>,
    defect: Option<DefectShape>,
}

/// The colour of a point, before exposure and grain, and whether the defect is there.
type Shaded = ([f32; 3], bool);

impl Scene {
    pub(crate) fn new(width_px: u32, height_px: u32, chance: &mut SplitMix64, defect: Option<DefectShape>) -> Self {
        let scale = (width_px as f32 / 640.0).min(height_px as f32 / 480.0);
        let middle = Point::new(width_px as f32, height_px as f32) * 0.5;
        let jitter = Point::new(chance.between(-6.0, 6.0), chance.between(-4.0, 4.0));
        let turn = direction(chance.between(-0.015, 0.015));
        let exposure = chance.between(0.96, 1.04);
        let belt_offset = [0; 2].map(|_: usize| chance.below(4096) as usize);
        let noise = (0..NOISE_SIZE * NOISE_SIZE).map(|_| chance.between(-1.0, 1.0)).collect();
        let rings = (0..RINGS).map(|_| chance.between(-1.0, 1.0)).collect();
        let light = Point::new(-0.6, -0.8).turned_back(turn);
        let centre_px = middle + jitter * scale;
        Self { width_px, height_px, scale, centre_px, turn, light, exposure, belt_offset, noise, rings, defect }
    }

    /// The same belt with nothing on it.
    pub(crate) fn without_part(self) -> Self {
        let gone = Point::new(-1e6, -1e6);
        Self { centre_px: gone, defect: None, ..self }
    }

    /// The picture and the mask of the defect.
    pub(crate) fn render(&self, grain: &mut SplitMix64) -> (Vec<u8>, Vec<u8>) {
        let (width, height) = (self.width_px as usize, self.height_px as usize);
        let (mut rgb, mut mask) = (vec![0; width * height * 3], vec![0; width * height]);
        let mut belt_row = vec![0.0; width];
        let grain_of = grain_table();
        let step = Point::new(1.0, 0.0).turned_back(self.turn) * (1.0 / self.scale);
        for y in 0..height {
            self.draw_belt_row(y, &mut belt_row);
            let row_start = Point::new(0.5, y as f32 + 0.5) - self.centre_px;
            let row_start = row_start.turned_back(self.turn) * (1.0 / self.scale);
            let rgb_row = rgb[y * width * 3..][..width * 3].chunks_exact_mut(3);
            let mask_row = &mut mask[y * width..][..width];
            for (x, ((pixel, truth), belt_tone)) in rgb_row.zip(mask_row).zip(&belt_row).enumerate() {
                let (colour, is_defect) = self.shade(row_start + step * x as f32, *belt_tone);
                let bytes = grain.next_u64().to_le_bytes();
                for (channel, value) in pixel.iter_mut().enumerate() {
                    *value = (colour[channel] * self.exposure + grain_of[bytes[channel] as usize]) as u8;
                }
                *truth = if is_defect { 255 } else { 0 };
            }
        }
        (rgb, mask)
    }

    /// The colour at `point` of the part's coordinates, where the bare belt has `belt_tone`.
    #[inline]
    fn shade(&self, point: Point, belt_tone: f32) -> Shaded {
        const OPEN_BELT: f32 = RADIUS + SHADOW_LENGTH + SHADOW_EDGE;
        if point.dot(point) > OPEN_BELT * OPEN_BELT {
            return (BELT.map(|share| share * belt_tone), false);
        }
        let radius = point.length();
        let part = self.cover(radius - RADIUS);
        let bore = self.cover(radius - BORE_RADIUS);
        if part <= 0.0 || bore >= 1.0 {
            return (self.belt(point, radius, belt_tone), false);
        }
        let (metal, is_defect) = self.metal(point, radius);
        if part >= 1.0 && bore <= 0.0 {
            return (metal, is_defect);
        }
        let belt = self.belt(point, radius, belt_tone);
        let share = part * (1.0 - bore);
        (std::array::from_fn(|channel| mix(belt[channel], metal[channel], share)), false)
    }

    /// How much of a pixel lies inside, given its middle's signed distance from the edge.
    #[inline]
    fn cover(&self, distance: f32) -> f32 {
        (0.5 - distance * self.scale).clamp(0.0, 1.0)
    }

    fn metal(&self, point: Point, radius: f32) -> Shaded {
        let outward = point * (1.0 / radius);
        let facing_light = outward.dot(self.light);
        let mut tone = self.face(radius, facing_light);
        // Edges turned away from the axis catch the light on its side; those turned inwards, on the other.
        let rim = self.cover(RADIUS - CHAMFER - radius);
        let hub_step = self.cover((radius - HUB_RADIUS).abs() - 2.0);
        let bore_edge = self.cover(radius - BORE_RADIUS - BORE_CHAMFER);
        tone = mix(tone, 132.0 + 78.0 * facing_light, rim);
        tone = mix(tone, 140.0 + 70.0 * facing_light, hub_step);
        tone = mix(tone, 128.0 - 80.0 * facing_light, bore_edge);
        let effect = self.defect.as_ref().map_or(Effect::NONE, |defect| defect.effect(point, self.light));
        let surface = METAL.map(|share| share * tone);
        let marked = std::array::from_fn(|channel| surface[channel] * effect.tint[channel]);
        self.holes(point, radius, marked, effect.is_here)
    }

    /// A turned face mirrors the light in a bow tie through the axis; the lathe left fine rings.
    #[inline]
    fn face(&self, radius: f32, facing_light: f32) -> f32 {
        let ring = radius * 1.3;
        let (index, share) = (ring as usize, ring - (ring as usize) as f32);
        let mark = mix(self.rings[index % RINGS], self.rings[(index + 1) % RINGS], share);
        let bow = facing_light * facing_light;
        let hub_light = if radius < HUB_RADIUS { 8.0 } else { 0.0 };
        126.0 + 44.0 * bow * bow + 4.5 * mark + hub_light
    }

    fn holes(&self, point: Point, radius: f32, surface: [f32; 3], is_defect: bool) -> Shaded {
        let reach = HOLE_RADIUS + HOLE_CHAMFER + 2.0 / self.scale;
        if (radius - BOLT_CIRCLE_RADIUS).abs() > reach {
            return (surface, is_defect);
        }
        for index in 0..6 {
            let off = point - sixth_of_turn(index) * BOLT_CIRCLE_RADIUS;
            let distance = off.length();
            if distance < reach {
                return self.hole(index, off, distance, surface, is_defect);
            }
        }
        (surface, is_defect)
    }

    fn hole(&self, index: u32, off: Point, distance: f32, surface: [f32; 3], is_defect: bool) -> Shaded {
        let edge = self.cover(distance - HOLE_RADIUS - HOLE_CHAMFER);
        if matches!(self.defect, Some(DefectShape::MissingHole { index: missing }) if missing == index) {
            return (surface, edge > 0.5);
        }
        let facing_light = off.dot(self.light) / distance.max(1.0);
        let depth = self.cover(distance - HOLE_RADIUS);
        // Light falls into the hole on the wall away from it.
        let inside = 24.0 - 26.0 * (facing_light * distance / HOLE_RADIUS).min(0.0);
        let colour = std::array::from_fn(|channel| {
            let chamfer = METAL[channel] * (134.0 - 72.0 * facing_light);
            mix(mix(surface[channel], chamfer, edge), inside, depth)
        });
        (colour, is_defect && edge <= 0.0)
    }

    /// The belt under the part's shadow, or seen through its bore.
    #[inline]
    fn belt(&self, point: Point, radius: f32, belt_tone: f32) -> [f32; 3] {
        let light = if radius < BORE_RADIUS + 1.0 {
            // The wall on the light's side shades what is seen through the bore.
            0.42 - 0.30 * point.dot(self.light) / BORE_RADIUS
        } else {
            let away = (point + self.light * SHADOW_LENGTH).length() - RADIUS;
            0.45 + 0.55 * smooth_step(-6.0, SHADOW_EDGE, away)
        };
        BELT.map(|share| share * belt_tone * light)
    }

    /// One row of bare belt: a weave, and rubber worn in soft patches. Done by the row, since most pixels are belt.
    fn draw_belt_row(&self, y: usize, row: &mut [f32]) {
        let v = y + self.belt_offset[1];
        let (above, below) = ((v / PATCH_PX) % NOISE_SIZE, (v / PATCH_PX + 1) % NOISE_SIZE);
        let down = (v % PATCH_PX) as f32 / PATCH_PX as f32;
        let across_weave = 5.0 * triangle(v);
        let worn = |column: usize| {
            let at = |line: usize| self.noise[line * NOISE_SIZE + column % NOISE_SIZE];
            5.0 * mix(at(above), at(below), down)
        };
        for (patch, pixels) in row.chunks_mut(PATCH_PX).enumerate() {
            let column = self.belt_offset[0] + patch;
            let (left, right) = (worn(column), worn(column + 1));
            for (index, tone) in pixels.iter_mut().enumerate() {
                let weave = across_weave * triangle(patch * PATCH_PX + index + self.belt_offset[0]);
                *tone = BELT_TONE + weave + mix(left, right, index as f32 / PATCH_PX as f32);
            }
        }
    }
}

/// The sensor's noise by random byte: a triangular spread of some 3 grey levels, and the half that rounding needs.
fn grain_table() -> [f32; 256] {
    std::array::from_fn(|byte| {
        let share = (byte as f32 + 0.5) / 128.0;
        let spread = if share < 1.0 { share.sqrt() - 1.0 } else { 1.0 - (2.0 - share).sqrt() };
        0.5 + 3.5 * spread
    })
}

/// A wave of period 12 from -1 to 1.
#[inline]
fn triangle(position: usize) -> f32 {
    ((position % 12) as f32 - 6.0).abs() / 3.0 - 1.0
}
