//! What can be wrong with a part, where it sits, and how it changes the metal under it.

use std::fmt;

use crate::geometry::{Point, direction, mix, sixth_of_turn, smooth_step};
use crate::rng::SplitMix64;

/// A kind of defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Defect {
    /// A thin bright groove across the face.
    Scratch,
    /// A shallow hollow, dark on the side of the light and bright on the other.
    Dent,
    /// One of the six bolt holes was never drilled.
    MissingHole,
    /// A brownish spot of dried coolant.
    Stain,
}

impl Defect {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Scratch, Self::Dent, Self::MissingHole, Self::Stain];

    /// The label used in data sets and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scratch => "scratch",
            Self::Dent => "dent",
            Self::MissingHole => "missing_hole",
            Self::Stain => "stain",
        }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// One defect of one part, in the part's own coordinates.
pub(crate) enum DefectShape {
    Scratch(Scratch),
    Dent(Dent),
    MissingHole { index: u32 },
    Stain(Stain),
}

/// A bent line: straight pieces, close enough to a curve at this size.
pub(crate) struct Scratch {
    corners: [Point; 9],
    half_width: f32,
    low: Point,
    high: Point,
}

/// A bowl: circular when seen along its own long axis.
pub(crate) struct Dent {
    centre: Point,
    axis: Point,
    radius: f32,
    flatness: f32,
    depth: f32,
}

/// Drops that ran together.
pub(crate) struct Stain {
    centre: Point,
    drops: [Drop; 7],
    strength: f32,
}

struct Drop {
    centre: Point,
    radius: f32,
}

/// How a defect changes a point of metal.
#[derive(Clone, Copy)]
pub(crate) struct Effect {
    /// Factor per colour on the metal's tone.
    pub(crate) tint: [f32; 3],
    /// Whether the truth says that the defect is here.
    pub(crate) is_here: bool,
}

impl Effect {
    pub(crate) const NONE: Self = Self { tint: [1.0; 3], is_here: false };
}

impl DefectShape {
    pub(crate) fn new(kind: Defect, chance: &mut SplitMix64) -> Self {
        match kind {
            Defect::Scratch => Self::Scratch(Scratch::new(chance)),
            Defect::Dent => Self::Dent(Dent::new(chance)),
            Defect::MissingHole => Self::MissingHole { index: chance.below(6) },
            Defect::Stain => Self::Stain(Stain::new(chance)),
        }
    }

    /// The effect on the metal at `point`, where the light comes from `light`.
    #[inline]
    pub(crate) fn effect(&self, point: Point, light: Point) -> Effect {
        match self {
            Self::Scratch(scratch) => scratch.effect(point, light),
            Self::Dent(dent) => dent.effect(point, light),
            Self::MissingHole { .. } => Effect::NONE,
            Self::Stain(stain) => stain.effect(point),
        }
    }
}

/// A place on the open face, between two holes.
fn place_on_face(chance: &mut SplitMix64) -> Point {
    let between_holes = sixth_of_turn(chance.below(6)).turned(Point::new(0.866_025_4, 0.5));
    let outward = between_holes.turned(direction(chance.between(-0.07, 0.07)));
    outward * chance.between(96.0, 140.0)
}

/// Any direction: a sixth of a turn, and up to another sixth.
fn any_direction(chance: &mut SplitMix64) -> Point {
    const TANGENT_30: f32 = 0.577_350_26;
    sixth_of_turn(chance.below(6)).turned(direction(chance.between(0.0, TANGENT_30)))
}

impl Scratch {
    fn new(chance: &mut SplitMix64) -> Self {
        let middle = place_on_face(chance);
        let along = any_direction(chance) * chance.between(26.0, 52.0);
        let bend = Point::new(-along.y, along.x) * chance.between(-0.35, 0.35);
        let half_width = chance.between(1.2, 1.9);
        let corners = std::array::from_fn(|index| {
            let t = index as f32 / 4.0 - 1.0;
            middle + along * t + bend * (1.0 - t * t)
        });
        // The groove throws its shade a little beyond its edge.
        let reach = half_width + 4.0;
        let low = corners.iter().fold(middle, |low: Point, at| Point::new(low.x.min(at.x), low.y.min(at.y)));
        let high = corners.iter().fold(middle, |high: Point, at| Point::new(high.x.max(at.x), high.y.max(at.y)));
        Self { corners, half_width, low: low - Point::new(reach, reach), high: high + Point::new(reach, reach) }
    }

    fn distance(&self, point: Point) -> f32 {
        let mut nearest_square = f32::INFINITY;
        for pair in self.corners.windows(2) {
            let (from, piece) = (point - pair[0], pair[1] - pair[0]);
            let along = (from.dot(piece) / piece.dot(piece)).clamp(0.0, 1.0);
            let off = from - piece * along;
            nearest_square = nearest_square.min(off.dot(off));
        }
        nearest_square.sqrt()
    }

    fn effect(&self, point: Point, light: Point) -> Effect {
        let is_near = point.x > self.low.x && point.x < self.high.x && point.y > self.low.y && point.y < self.high.y;
        if !is_near {
            return Effect::NONE;
        }
        let distance = self.distance(point);
        let groove = smooth_step(self.half_width + 0.7, self.half_width - 0.7, distance);
        let shade = smooth_step(self.half_width + 1.0, 0.0, self.distance(point + light * 2.2)) * (1.0 - groove);
        let factor = mix(1.0 - 0.38 * shade, 1.42, groove);
        Effect { tint: [factor; 3], is_here: distance < self.half_width + 0.5 }
    }
}

impl Dent {
    fn new(chance: &mut SplitMix64) -> Self {
        Self {
            centre: place_on_face(chance),
            axis: any_direction(chance),
            radius: chance.between(13.0, 20.0),
            flatness: chance.between(1.0, 1.35),
            depth: chance.between(0.75, 1.0),
        }
    }

    fn effect(&self, point: Point, light: Point) -> Effect {
        let from_centre = (point - self.centre).turned_back(self.axis);
        let scaled = Point::new(from_centre.x, from_centre.y * self.flatness) * (1.0 / self.radius);
        let distance_square = scaled.dot(scaled);
        if distance_square >= 1.0 {
            return Effect::NONE;
        }
        // The wall is steepest half-way down; the bottom lies deeper and gets less light.
        let wall = (1.0 - distance_square) * self.depth;
        let facing_light = scaled.dot(light.turned_back(self.axis));
        let factor = 1.0 - 0.95 * wall * facing_light - 0.22 * wall * wall;
        Effect { tint: [factor; 3], is_here: distance_square < 0.85 }
    }
}

impl Stain {
    /// No drop reaches further from the middle: the widest spread and the largest drop.
    const REACH: f32 = 14.0 + 14.0;

    fn new(chance: &mut SplitMix64) -> Self {
        let centre = place_on_face(chance);
        let drops = std::array::from_fn(|index| {
            let spread = if index == 0 { 0.0 } else { chance.between(5.0, 14.0) };
            let radius = if index == 0 { 16.0 } else { chance.between(8.0, 14.0) };
            Drop { centre: centre + any_direction(chance) * spread, radius }
        });
        Self { centre, drops, strength: chance.between(0.75, 1.0) }
    }

    fn effect(&self, point: Point) -> Effect {
        let from_centre = point - self.centre;
        if from_centre.dot(from_centre) > Self::REACH * Self::REACH {
            return Effect::NONE;
        }
        let thickness: f32 = (self.drops.iter())
            .map(|drop| {
                let off = point - drop.centre;
                let height = (1.0 - off.dot(off) / (drop.radius * drop.radius)).max(0.0);
                height * height
            })
            .sum();
        if thickness <= 0.0 {
            return Effect::NONE;
        }
        // A dried drop leaves most at its rim.
        let film = smooth_step(0.0, 0.16, thickness);
        let rim = film * smooth_step(0.6, 0.1, thickness);
        let strength = self.strength * (0.75 * film + 0.25 * rim);
        let tint = [0.34, 0.44, 0.58].map(|absorbed| 1.0 - absorbed * strength);
        Effect { tint, is_here: thickness > 0.04 }
    }
}
