//! From a fitted detector to a model package: the graph, its description, and pictures with the scores they must get.

use std::io;
use std::path::{Path, PathBuf};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder as _};
use linewarden_model::package::{
    BackboneInfo, Calibration, CandidateInfo, DatasetInfo, Golden, Package, SCHEMA, Size, sha256_hex,
};
use linewarden_model::{
    Detector, DetectorOptions, Device, DeviceRequest, FrameView, Framer, Framing, FramingFiles, Label, ModelError,
    ModelInfo, ModelType, Preprocessor, SizePolicy,
};

use crate::backbone::{Backbone, BackboneError};
use crate::dataset::{Picture, PictureError};
use crate::features::{INPUT_SIZE_PX, picture_view};

/// What the package says of itself beside what was fitted.
#[derive(Debug, Clone)]
pub struct Description {
    /// Project that the model belongs to.
    pub project: String,
    /// Version within the project.
    pub version: String,
    /// What the model answers.
    pub model_type: ModelType,
    /// Labels, for segmentation models.
    pub labels: Vec<Label>,
    /// Size of the training pictures.
    pub image_size: Size,
    /// Which part of a picture counts, and how it is cut.
    pub framing: Framing,
    /// The files that the framing names.
    pub framing_files: FramingFiles,
    /// The training pictures.
    pub dataset: DatasetInfo,
    /// Seed of everything random.
    pub seed: u64,
    /// When the model was trained, RFC 3339.
    pub time: String,
    /// SHA-256 of the graph of the model that this one extends.
    pub extended_from: Option<String>,
    /// What was trained, such as `memory_bank`.
    pub algorithm: String,
    /// What else was tried, and how good it was.
    pub candidates: Vec<CandidateInfo>,
    /// What the memory bank's distances mean.
    pub calibration: Calibration,
    /// Strides of the feature maps in use.
    pub strides: Vec<u32>,
}

/// Why a package cannot be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The graph cannot be written.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// The new model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A golden picture cannot be read again.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// A golden picture cannot be encoded.
    #[error("cannot encode a golden picture: {0}")]
    Encode(#[from] image::ImageError),
    /// Something that is no model package lies where the new one should go.
    #[error("`{0}` exists and is no model package: name another folder with `--out`")]
    Occupied(PathBuf),
    /// The package that lies there cannot be kept, since something that is none has its place.
    #[error("`{0}` exists and is no model package, but the package that `--out` names would be kept there: move it")]
    PreviousOccupied(PathBuf),
    /// The path does not end with a name, so that nothing can be put beside it.
    #[error("`{0}` has no name of its own: name the new folder itself with `--out`, as in `models/cap`")]
    Nameless(PathBuf),
    /// The files cannot be written.
    #[error("cannot write the package to `{path}`: {error}")]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Makes the package, runs it, and stores golden pictures: the given normal ones, and the first of them with a part of
/// it painted over, which must score high.
///
/// # Errors
/// When the graph cannot be written or run.
pub fn build(
    onnx: Vec<u8>,
    backbone: &Backbone,
    description: Description,
    golden_pictures: &[&Path],
) -> Result<Package, PackageError> {
    let info = ModelInfo {
        schema: SCHEMA,
        project: description.project,
        version: description.version,
        model_type: description.model_type,
        algorithm: description.algorithm,
        candidates: description.candidates,
        image_size: description.image_size,
        input_size: Size { width_px: INPUT_SIZE_PX, height_px: INPUT_SIZE_PX },
        framing: description.framing,
        labels: description.labels,
        threshold: 0.5,
        calibration: description.calibration,
        normal_scores: Vec::new(),
        backbone: BackboneInfo {
            name: backbone.name().to_owned(),
            sha256: backbone.sha256().to_owned(),
            strides: description.strides,
        },
        dataset: description.dataset,
        seed: description.seed,
        onnx_sha256: sha256_hex(&onnx),
        metrics: serde_json::Map::new(),
        time: description.time,
        extended_from: description.extended_from,
    };
    let package = |golden| {
        Package::from_parts(PathBuf::from("new model"), info.clone(), onnx.clone(), golden)
            .with_framing_files(description.framing_files.clone())
    };
    let golden = golden(&package(Vec::new()), golden_pictures)?;
    Ok(package(golden))
}

/// Writes the package and what `beside` adds to its folder, and only then puts it where it was asked for. A package that lies there
/// already is kept as `<name>.previous`.
///
/// # Errors
/// When something else lies there, or a file cannot be written.
pub fn write(package: &Package, out: &Path, beside: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), PackageError> {
    let failed = |error| PackageError::Write { path: out.to_owned(), error };
    check_free(out)?;
    let building = with_suffix(out, "building");
    remove_if_there(&building).map_err(failed)?;
    std::fs::create_dir_all(&building).map_err(failed)?;
    package.write_to(&building).map_err(failed)?;
    beside(&building).map_err(failed)?;
    if is_package(out) {
        let previous = with_suffix(out, "previous");
        remove_if_there(&previous).map_err(failed)?;
        std::fs::rename(out, &previous).map_err(failed)?;
    } else if out.exists() {
        std::fs::remove_dir(out).map_err(failed)?;
    }
    std::fs::rename(&building, out).map_err(failed)
}

/// Whether a package may be written to this path: it is free, empty, or holds a package that can be kept.
///
/// # Errors
/// When something else lies there, or where the package that lies there would be kept.
pub fn check_free(out: &Path) -> Result<(), PackageError> {
    if out.file_name().is_none() {
        return Err(PackageError::Nameless(out.to_owned()));
    }
    if !is_free(out) {
        return Err(PackageError::Occupied(out.to_owned()));
    }
    let previous = with_suffix(out, "previous");
    if is_package(out) && !is_free(&previous) {
        return Err(PackageError::PreviousOccupied(previous));
    }
    Ok(())
}

/// Whether nothing would be lost with what lies here, except for a package.
fn is_free(path: &Path) -> bool {
    let is_empty = || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    !path.exists() || is_package(path) || is_empty()
}

fn is_package(path: &Path) -> bool {
    path.join("model.json").exists()
}

fn golden(unproven: &Package, pictures: &[&Path]) -> Result<Vec<(Golden, Vec<u8>)>, PackageError> {
    // The CPU is the device that every machine has; what others compute is held against it.
    let options =
        DetectorOptions { device: DeviceRequest::Only(Device::Cpu), sizes: SizePolicy::Scale, ..Default::default() };
    let mut detector = Detector::from_package(unproven, &options)?;
    let mut framer = unproven.framer()?;
    let is_view = !unproven.info().framing.is_whole();
    let mut inputs = Vec::new();
    for path in pictures {
        inputs.push((most_telling_view(&Picture::read(path)?, &mut framer, &mut detector)?, is_view));
    }
    if let Some((first, _)) = inputs.first() {
        inputs.push((painted_over(first), is_view));
    }
    if is_view && let Some(path) = pictures.first() {
        // How pictures are cut is proved too, on a small one.
        let mut rgb = Vec::new();
        Preprocessor::new(INPUT_SIZE_PX, INPUT_SIZE_PX).run(&picture_view(&Picture::read(path)?)?, &mut rgb)?;
        inputs.push((rgb, false));
    }
    let mut golden = Vec::new();
    for (number, (rgb, is_view)) in inputs.iter().enumerate() {
        let view = FrameView::rgb(INPUT_SIZE_PX, INPUT_SIZE_PX, rgb).map_err(ModelError::from)?;
        let anomaly_score =
            if *is_view { detector.score_view(&view)? } else { detector.detect(&view)?.result.anomaly_score };
        golden.push((Golden { file: format!("{number}.png"), anomaly_score, is_view: *is_view }, encode(rgb)?));
    }
    Ok(golden)
}

/// The network's pixels of the view that makes the picture's score.
fn most_telling_view(picture: &Picture, framer: &mut Framer, detector: &mut Detector) -> Result<Vec<u8>, ModelError> {
    let frame = picture_view(picture)?;
    framer.place(&frame)?;
    let mut best = (f64::NEG_INFINITY, Vec::new());
    for view in (0..framer.views()).filter(|&view| !framer.is_blind(view)).collect::<Vec<_>>() {
        let mut rgb = Vec::new();
        framer.cut(&frame, view, &mut rgb)?;
        let score = detector.score_view(&FrameView::rgb(INPUT_SIZE_PX, INPUT_SIZE_PX, &rgb)?)?;
        if score > best.0 {
            best = (score, rgb);
        }
    }
    Ok(best.1)
}

/// The picture with a striped square in its middle, a defect that no camera line shows.
fn painted_over(rgb: &[u8]) -> Vec<u8> {
    let side = INPUT_SIZE_PX as usize;
    let middle = side * 2 / 5..side * 3 / 5;
    let mut painted = rgb.to_vec();
    for (index, pixel) in painted.chunks_exact_mut(3).enumerate() {
        let (x, y) = (index % side, index / side);
        if middle.contains(&x) && middle.contains(&y) {
            pixel.fill(if (x + y) / 4 % 2 == 0 { 235 } else { 20 });
        }
    }
    painted
}

fn encode(rgb: &[u8]) -> Result<Vec<u8>, image::ImageError> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(rgb, INPUT_SIZE_PX, INPUT_SIZE_PX, ExtendedColorType::Rgb8)?;
    Ok(png)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.{suffix}"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    if path.exists() { std::fs::remove_dir_all(path) } else { Ok(()) }
}
