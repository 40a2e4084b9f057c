//! Pictures worth looking at: the worst mistakes, or the closest calls where there are none.

use image::codecs::jpeg::JpegEncoder;
use image::imageops::thumbnail;
use image::{ExtendedColorType, RgbImage};
use linewarden_model::overlay::{Canvas, CanvasPlane, Overlay};
use linewarden_model::package::Package;
use linewarden_model::{Detection, Detector, Label, LabelMask, ModelError, PixelFormat, Rect, YuvColor};

use super::plots::ANOMALY;
use crate::dataset::{Class, Dataset, Picture, PictureError, Problem, Sample, read_mask};
use crate::evaluation::{Evaluation, Verdict};
use crate::features::picture_view;
use crate::job::{JobError, open_for_evaluation};
use crate::progress::Progress;

/// Of each kind.
const MOST: usize = 8;
const MOST_CLOSE_CALLS: usize = 4;
/// Longer side of a picture.
const SIDE_PX: u32 = 320;
const JPEG_QUALITY: u8 = 82;
/// All pictures together; those that would exceed it are left out.
const MOST_BYTES: usize = 2 << 20;
/// How much the map may cover of the picture.
const HEAT: f32 = 0.7;
/// Below this the map shows nothing: a normal cell has 0.1.
const COLD: f32 = 0.2;

/// Why a picture is worth looking at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExhibitKind {
    /// A normal picture that was called anomalous.
    FalseReject,
    /// An anomaly that was called normal.
    Miss,
    /// A right verdict that nearly was a wrong one.
    CloseCall,
}

/// One small picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExhibitPicture {
    /// What it shows.
    pub caption: &'static str,
    /// JPEG.
    pub jpeg: Vec<u8>,
}

/// A picture worth looking at.
#[derive(Debug, Clone, PartialEq)]
pub struct Exhibit {
    /// Why.
    pub kind: ExhibitKind,
    /// How the data set calls it.
    pub source_ref: String,
    /// What is true.
    pub truth: Class,
    /// Its score.
    pub score: f64,
    /// The picture with what is true, and with what the model saw.
    pub pictures: Vec<ExhibitPicture>,
}

/// The false rejects and the misses that are farthest from the threshold, at most eight each; the four closest right
/// verdicts where all are right. They are scored once more for their maps.
///
/// # Errors
/// When a picture or mask cannot be read any more, or the model cannot be run.
pub fn exhibits(
    package: &Package,
    dataset: &Dataset,
    evaluation: &Evaluation,
    scale: bool,
    progress: &dyn Progress,
) -> Result<Vec<Exhibit>, JobError> {
    let worst = worst(evaluation);
    progress.stage("drawing the worst mistakes", worst.len());
    let mut detector = None;
    let (mut exhibits, mut bytes) = (Vec::new(), 0);
    for (kind, verdict) in worst {
        let is_it = |sample: &&Sample| sample.source_ref == verdict.source_ref && sample.class == Some(verdict.truth);
        let Some(sample) = dataset.samples.iter().find(is_it) else { continue };
        let detector = match &mut detector {
            Some(detector) => detector,
            none => none.insert(open_for_evaluation(package, scale)?),
        };
        let pictures = draw(sample, detector, dataset)?;
        bytes += pictures.iter().map(|picture| picture.jpeg.len()).sum::<usize>();
        if bytes > MOST_BYTES {
            break;
        }
        let Verdict { source_ref, truth, score, .. } = verdict.clone();
        exhibits.push(Exhibit { kind, source_ref, truth, score, pictures });
        progress.advance(1);
    }
    Ok(exhibits)
}

/// Which verdicts to show, the worst of each kind first.
fn worst(evaluation: &Evaluation) -> Vec<(ExhibitKind, &Verdict)> {
    let margin = |verdict: &Verdict| (verdict.score - evaluation.threshold).abs();
    let mut by_margin: Vec<&Verdict> = evaluation.verdicts.iter().collect();
    by_margin.sort_by(|one, other| margin(other).total_cmp(&margin(one)));
    let of_kind = |kind: ExhibitKind, truth: Class| {
        let wrong = by_margin.iter().filter(move |verdict| verdict.truth == truth && verdict.found != truth);
        wrong.take(MOST).map(move |&verdict| (kind, verdict))
    };
    let mistakes: Vec<_> =
        of_kind(ExhibitKind::Miss, Class::Anomaly).chain(of_kind(ExhibitKind::FalseReject, Class::Normal)).collect();
    if !mistakes.is_empty() {
        return mistakes;
    }
    by_margin.iter().rev().take(MOST_CLOSE_CALLS).map(|&verdict| (ExhibitKind::CloseCall, verdict)).collect()
}

fn draw(sample: &Sample, detector: &mut Detector, dataset: &Dataset) -> Result<Vec<ExhibitPicture>, JobError> {
    let picture = Picture::read(&sample.path).map_err(|error| unreadable(&error))?;
    let detection = detector.detect(&picture_view(&picture)?)?;
    let (width_px, height_px) = small(picture.width_px as u32, picture.height_px as u32);
    let Some(whole) = RgbImage::from_raw(picture.width_px as u32, picture.height_px as u32, picture.rgb) else {
        return Ok(Vec::new());
    };
    let mut plain = thumbnail(&whole, width_px, height_px);
    let mut seen = plain.clone();
    if sample.mask.is_some() {
        let truth = read_mask(sample, &dataset.labels).map_err(|error| unreadable(&error))?;
        let mask = LabelMask { width: truth.width, height: truth.height, labels: truth.labels };
        let label =
            |label: &crate::dataset::LabelColor| Label { name: label.name.clone(), hex_color: label.hex_color.clone() };
        let labels: Vec<Label> = dataset.labels.iter().map(label).collect();
        outline(&mut plain, &detection, &mask, &labels)?;
    }
    heat(&mut seen, &detection);
    if let Some(mask) = detection.mask() {
        outline(&mut seen, &detection, mask, &detector.info().labels)?;
    }
    let truth_caption = if sample.mask.is_some() { "labelled" } else { "picture" };
    [(truth_caption, plain), ("what the model saw", seen)]
        .into_iter()
        .map(|(caption, image)| Ok(ExhibitPicture { caption, jpeg: encode(&image)? }))
        .collect()
}

/// The same shape with the longer side at most [`SIDE_PX`].
fn small(width_px: u32, height_px: u32) -> (u32, u32) {
    let longer = width_px.max(height_px).max(SIDE_PX);
    let side = |length: u32| (u64::from(length) * u64::from(SIDE_PX) / u64::from(longer)).max(1) as u32;
    (side(width_px), side(height_px))
}

fn outline(image: &mut RgbImage, detection: &Detection, mask: &LabelMask, labels: &[Label]) -> Result<(), ModelError> {
    let (width_px, height_px) = image.dimensions();
    let plane = CanvasPlane { data: image, stride_bytes: width_px as usize * 3 };
    let mut canvas = Canvas::new(PixelFormat::Rgb, width_px, height_px, vec![plane], YuvColor::default())?;
    let region = Rect::of_size(width_px, height_px);
    Overlay { result: &detection.result, mask: Some(mask), labels, region, alpha: 0.0, text: false }.draw(&mut canvas);
    Ok(())
}

/// Tints the picture the more the higher the map is.
fn heat(image: &mut RgbImage, detection: &Detection) {
    let (width_px, height_px) = image.dimensions();
    let map = detection.map.resized(width_px as usize, height_px as usize);
    let color = [ANOMALY.0, ANOMALY.1, ANOMALY.2];
    for (pixel, value) in image.pixels_mut().zip(&map.values) {
        let share = ((value - COLD) / (1.0 - COLD)).clamp(0.0, 1.0) * HEAT;
        for (channel, ink) in pixel.0.iter_mut().zip(color) {
            *channel = (f32::from(*channel) * (1.0 - share) + f32::from(ink) * share).round() as u8;
        }
    }
}

fn encode(image: &RgbImage) -> Result<Vec<u8>, JobError> {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY)
        .encode(image, image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(crate::package::PackageError::Encode)?;
    Ok(jpeg)
}

fn unreadable(error: &PictureError) -> JobError {
    JobError::Dataset(Problem::new(&error.path, error.fault.to_string()).into())
}
