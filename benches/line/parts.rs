//! A model trained on rendered parts, and frames of further parts to score.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use linewarden_model::ModelType;
use linewarden_model::package::Package;
use linewarden_synthetic::{BeltSpec, Part, normals, render_part};
use linewarden_train::backbone::BackboneSource;
use linewarden_train::dataset::Dataset;
use linewarden_train::job::{TrainRequest, train};
use linewarden_train::package::write;
use linewarden_train::progress::Silent;
use linewarden_train::views::FramingRequest;
use tempfile::TempDir;

pub(crate) const WIDTH: u32 = 1280;
pub(crate) const HEIGHT: u32 = 720;
const TRAINED_ON: usize = 30;
/// Enough that a frame is no longer in the processor's nearest cache when its turn comes again.
const FRAMES: u64 = 4;
const SEED: u64 = 1;

/// Everything that is measured on.
pub(crate) struct Parts {
    folder: TempDir,
    pub(crate) package: Package,
    pub(crate) training_seconds: f64,
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
        let frames: Vec<Part> = (0..FRAMES).map(|number| render_part(&belt, number)).collect();
        save(frames.iter().cloned(), &folder.path().join("pictures"))?;
        Ok(Self { folder, package, training_seconds, frames })
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
