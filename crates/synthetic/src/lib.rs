//! Synthetic parts on a belt: machined flanges seen from above, some with a scratch, a dent, a missing hole or a stain.
//!
//! A [`BeltSpec`] and a part number come in; a [`Part`] with its picture, its defect and the mask of that defect goes
//! out. Part N of a seed is always the same picture, byte for byte and on every machine: only IEEE additions,
//! multiplications, divisions and square roots are used, no function that a platform's maths library may round its own
//! way. Demo, tests and benchmarks share the pictures; this crate knows nothing of files, GStreamer or models.
//!
//! A picture of 640x480 takes less than 4 ms on one core of 2021.

#![forbid(unsafe_code)]

mod defect;
mod geometry;
mod rng;
mod scene;

pub use defect::Defect;
use defect::DefectShape;
use rng::SplitMix64;
use scene::Scene;

/// Training parts are numbered from here, so that none of them ever comes along the line.
pub const FIRST_TRAINING_PART: u64 = 1 << 40;

/// What comes along the belt.
#[derive(Debug, Clone, PartialEq)]
pub struct BeltSpec {
    /// Width of the picture.
    pub width_px: u32,
    /// Height of the picture.
    pub height_px: u32,
    /// Parts of another seed are other parts.
    pub seed: u64,
    /// The share of parts with a defect: 0 for none, 1 for all.
    pub defect_rate: f64,
}

impl Default for BeltSpec {
    fn default() -> Self {
        Self { width_px: 640, height_px: 480, seed: 1, defect_rate: 0.25 }
    }
}

/// One part, as the camera sees it and as it really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place on the belt.
    pub number: u64,
    /// What is wrong with it, if anything.
    pub defect: Option<Defect>,
    /// Width of the picture and of the mask.
    pub width_px: u32,
    /// Height of the picture and of the mask.
    pub height_px: u32,
    /// The picture: RGB, rows without padding.
    pub rgb: Vec<u8>,
    /// The truth: one byte a pixel, 255 on the defect and 0 elsewhere.
    pub mask: Vec<u8>,
}

/// What is wrong with part `number`, without rendering it.
pub fn defect_of(spec: &BeltSpec, number: u64) -> Option<Defect> {
    let mut fate = SplitMix64::for_part(spec.seed, number, Stream::Fate as u64);
    (fate.share_f64() < spec.defect_rate).then(|| *fate.pick(&Defect::ALL))
}

/// Part `number` of the belt.
pub fn render_part(spec: &BeltSpec, number: u64) -> Part {
    render(spec, number, defect_of(spec, number))
}

/// Part `number` as one of several cameras sees it. Each sees it in a place and light of its own, and a defect shows to one
/// of them only: [`view_of_defect`] tells to which. View 0 of 1 is [`render_part`].
pub fn render_view(spec: &BeltSpec, number: u64, view: u32, views: u32) -> Part {
    let defect = defect_of(spec, number).filter(|_| view_of_defect(spec, number, views) == view);
    render_from(spec, number, defect, view)
}

/// The camera, of so many, that sees what is wrong with part `number`.
pub fn view_of_defect(spec: &BeltSpec, number: u64, views: u32) -> u32 {
    SplitMix64::for_part(spec.seed, number, Stream::View as u64).below(views.max(1))
}

/// The belt between parts, as this camera sees it: RGB, rows without padding.
pub fn render_belt(spec: &BeltSpec, number: u64, view: u32) -> Vec<u8> {
    let mut placement = SplitMix64::for_part(spec.seed, number, Stream::Placement.seen_by(view));
    let mut grain = SplitMix64::for_part(spec.seed, number, Stream::Grain.seen_by(view));
    Scene::new(spec.width_px, spec.height_px, &mut placement, None).without_part().render(&mut grain).0
}

/// The same part, in the same place and light, before anything happened to it.
pub fn render_part_without_defect(spec: &BeltSpec, number: u64) -> Part {
    render(spec, number, None)
}

/// The same part with a defect of the caller's choice.
pub fn render_part_with_defect(spec: &BeltSpec, number: u64, defect: Defect) -> Part {
    render(spec, number, Some(defect))
}

/// `count` good parts to train on, none of which is ever part of the line (see [`FIRST_TRAINING_PART`]).
pub fn normals(spec: &BeltSpec, count: usize) -> impl Iterator<Item = Part> + '_ {
    (FIRST_TRAINING_PART..).take(count).map(|number| render_part_without_defect(spec, number))
}

/// Independent sources of chance for one part: a defect must not move the part that it is on.
#[derive(Clone, Copy)]
enum Stream {
    Fate = 1,
    Placement = 2,
    Shape = 3,
    Grain = 4,
    View = 5,
}

impl Stream {
    /// The stream of another camera; the first one's is the part's own.
    fn seen_by(self, view: u32) -> u64 {
        self as u64 + (u64::from(view) << 8)
    }
}

fn render(spec: &BeltSpec, number: u64, defect: Option<Defect>) -> Part {
    render_from(spec, number, defect, 0)
}

fn render_from(spec: &BeltSpec, number: u64, defect: Option<Defect>, view: u32) -> Part {
    let mut placement = SplitMix64::for_part(spec.seed, number, Stream::Placement.seen_by(view));
    let mut chance = SplitMix64::for_part(spec.seed, number, Stream::Shape.seen_by(view));
    let mut grain = SplitMix64::for_part(spec.seed, number, Stream::Grain.seen_by(view));
    let shape = defect.map(|kind| DefectShape::new(kind, &mut chance));
    let scene = Scene::new(spec.width_px, spec.height_px, &mut placement, shape);
    let (rgb, mask) = scene.render(&mut grain);
    Part { number, defect, width_px: spec.width_px, height_px: spec.height_px, rgb, mask }
}
