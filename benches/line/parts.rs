//! Models trained on rendered parts, how well they tell further parts apart, and frames to score.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use linewarden_model::package::{DatasetInfo, Package, Size};
use linewarden_model::{Label, ModelType};
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part, render_part_with_defect};
use linewarden_train::backbone::{Backbone, BackboneSource};
use linewarden_train::dataset::{Dataset, Sample};
use linewarden_train::evaluation::Evaluation;
use linewarden_train::export::{learnt_model, strides};
use linewarden_train::features::INPUT_SIZE_PX;
use linewarden_train::heads::{Lessons, learn};
use linewarden_train::job::{TrainRequest, evaluate_package, train};
use linewarden_train::package::{Description, build, write};
use linewarden_train::progress::Silent;
use linewarden_train::views::{FramingRequest, Views};
use tempfile::TempDir;

pub(crate) const WIDTH: u32 = 1280;
pub(crate) const HEIGHT: u32 = 720;
const TRAINED_ON: usize = 30;
/// Enough that a frame is no longer in the processor's nearest cache when its turn comes again.
const FRAMES: u64 = 4;
const SEED: u64 = 1;
/// Parts of each defect that the hybrid learns from, beside the normal ones.
const EACH_DEFECT: usize = 5;
/// Parts that accuracy is measured on, half of them with a defect.
const TESTED_ON: u64 = 60;
/// They are none of those that are timed or learnt from.
const FIRST_TEST_PART: u64 = 1000;
const FIRST_LEARNT_DEFECT: u64 = 2000;

/// Everything that is measured on.
pub(crate) struct Parts {
    folder: TempDir,
    pub(crate) package: Package,
    pub(crate) training_seconds: f64,
    /// Of the model from normals alone.
    pub(crate) evaluation: Evaluation,
    /// Everything at once: bank, patch head and image head, with masks.
    pub(crate) hybrid: Package,
    pub(crate) hybrid_evaluation: Evaluation,
    frames: Vec<Part>,
}

impl Parts {
    pub(crate) fn prepare() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a folder for the model")?;
        let belt = BeltSpec { width_px: WIDTH, height_px: HEIGHT, seed: SEED, defect_rate: 0.5 };
        let normal = folder.path().join("training/normal");
        save(normals(&belt, TRAINED_ON), &normal)?;
        let start = Instant::now();
        let package = trained(&folder.path().join("training"))?;
        let training_seconds = start.elapsed().as_secs_f64();
        write(&package, &folder.path().join("model"), |_| Ok(()))?;
        let test = test_set(&belt, &folder.path().join("test"))?;
        let evaluation = evaluate_package(&package, &test, false, &Silent)?;
        let hybrid = hybrid(&belt, &folder.path().join("training"))?;
        let hybrid_evaluation = evaluate_package(&hybrid, &test, false, &Silent)?;
        let frames: Vec<Part> = (0..FRAMES).map(|number| render_part(&belt, number)).collect();
        save(frames.iter().cloned(), &folder.path().join("pictures"))?;
        Ok(Self { folder, package, training_seconds, evaluation, hybrid, hybrid_evaluation, frames })
    }

    /// Folder of the model package.
    pub(crate) fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    /// Folder of the frames as PNG files.
    pub(crate) fn pictures(&self) -> PathBuf {
        self.folder.path().join("pictures")
    }

    pub(crate) fn first_rgb(&self) -> &[u8] {
        &self.frames[0].rgb
    }

    /// The frames as buffers of a format.
    pub(crate) fn buffers(&self, format: gst_video::VideoFormat) -> Result<Vec<gst::Buffer>> {
        self.frames.iter().map(|part| converted(part, format)).collect()
    }
}

/// Video of the size that everything here has.
pub(crate) fn caps(format: gst_video::VideoFormat) -> gst::Caps {
    let caps = gst_video::VideoCapsBuilder::new().format(format).width(WIDTH as i32).height(HEIGHT as i32);
    caps.framerate(gst::Fraction::new(30, 1)).pixel_aspect_ratio(gst::Fraction::new(1, 1)).build()
}

fn converted(part: &Part, format: gst_video::VideoFormat) -> Result<gst::Buffer> {
    // Rows of 1280 pixels need no padding.
    let buffer = gst::Buffer::from_slice(part.rgb.clone());
    let sample = gst::Sample::builder().buffer(&buffer).caps(&caps(gst_video::VideoFormat::Rgb)).build();
    let sample = gst_video::convert_sample(&sample, &caps(format), Some(gst::ClockTime::from_seconds(30)))?;
    sample.buffer_owned().context("a converted frame has no buffer")
}

fn save(parts: impl Iterator<Item = Part>, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for part in parts {
        let path = folder.join(format!("{}.png", part.number));
        image::save_buffer(path, &part.rgb, part.width_px, part.height_px, image::ColorType::Rgb8)?;
    }
    Ok(())
}

fn trained(folder: &Path) -> Result<Package> {
    let request = TrainRequest {
        dataset: Dataset::load(folder)?,
        test: None,
        model_type: Some(ModelType::Segmentation),
        threshold: None,
        seed: SEED,
        backbone: BackboneSource::Bundled,
        threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        project: "bench".to_owned(),
        version: "1".to_owned(),
        framing: FramingRequest::default(),
        time: Timestamp::UNIX_EPOCH,
    };
    Ok(train(&request, &Silent)?.package)
}

/// Further parts, of which the truth is known.
fn test_set(belt: &BeltSpec, folder: &Path) -> Result<Dataset> {
    let rendered = (FIRST_TEST_PART..).take(TESTED_ON as usize).map(|number| render_part(belt, number));
    for part in rendered {
        let class = if part.defect.is_some() { "anomaly" } else { "normal" };
        save(std::iter::once(part), &folder.join(class))?;
    }
    Ok(Dataset::load(folder)?)
}

/// The stack of all candidates with masks, whatever candidate is the best here: its cost is to be known.
fn hybrid(belt: &BeltSpec, folder: &Path) -> Result<Package> {
    let (anomalies, masks) = (folder.join("anomaly"), folder.join("masks"));
    std::fs::create_dir_all(&masks)?;
    let kinds = Defect::ALL.into_iter().cycle().take(Defect::ALL.len() * EACH_DEFECT);
    for (number, defect) in (FIRST_LEARNT_DEFECT..).zip(kinds) {
        let part = render_part_with_defect(belt, number, defect);
        let mask = masks.join(format!("{number}.png"));
        image::save_buffer(mask, &part.mask, part.width_px, part.height_px, image::ColorType::L8)?;
        save(std::iter::once(part), &anomalies)?;
    }
    let dataset = Dataset::load(folder)?;
    let samples: Vec<&Sample> = dataset.normals().chain(dataset.anomalies()).collect();
    let backbone = Backbone::load(&BackboneSource::Bundled)?;
    let image_size = Size { width_px: WIDTH, height_px: HEIGHT };
    let views = Views::whole(image_size, Size { width_px: INPUT_SIZE_PX, height_px: INPUT_SIZE_PX });
    let lessons = Lessons {
        samples: samples.clone(),
        labels: &dataset.labels,
        with_masks: true,
        backbone: &backbone,
        views: &views,
        seed: SEED,
        threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        wanted: Some("stack"),
    };
    let learnt = learn(&lessons, &Silent)?;
    let labels =
        dataset.labels.iter().map(|label| Label { name: label.name.clone(), hex_color: label.hex_color.clone() });
    let description = Description {
        project: "bench".to_owned(),
        version: "1".to_owned(),
        model_type: ModelType::Segmentation,
        labels: labels.collect(),
        image_size,
        framing: views.framing().clone(),
        framing_files: views.files().clone(),
        dataset: DatasetInfo {
            name: dataset.name.clone(),
            sha256: dataset.sha256()?,
            normal: dataset.normals().count(),
            anomaly: dataset.anomalies().count(),
        },
        seed: SEED,
        time: Timestamp::UNIX_EPOCH.to_string(),
        extended_from: None,
        algorithm: learnt.algorithm.to_owned(),
        candidates: Vec::new(),
        calibration: learnt.calibration,
        strides: strides(&backbone, &learnt),
    };
    Ok(build(learnt_model(&backbone, &learnt, true, None)?, &backbone, description, &[&samples[0].path])?)
}
