//! `linewarden detect`.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::RgbImage;
use linewarden_model::overlay::{draw_on_rgb, mask_rgb};
use linewarden_model::{Detection, Detector, DetectorOptions, DeviceRequest, FrameView, ModelInfo, SizePolicy};
use linewarden_train::dataset::Picture;
use serde_json::{Value, json};

use super::{CallError, model_must_exist};
use crate::services::detect_anomaly_result;

const EXAMPLES: &str = "\
Examples:
  linewarden detect --model models/cap part.jpg
  linewarden detect --model models/cap --overlay overlays/ --mask masks/ parts/*.jpg
  linewarden detect --model models/cap --json parts/*.jpg | jq '.[] | select(.DetectAnomalyResult.IsAnomalous) | .file'";

/// How strongly overlays tint the picture.
const OVERLAY_ALPHA: f32 = 0.5;

/// What a model says of pictures.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DetectArgs {
    /// Model package
    #[arg(long, value_name = "MODEL_DIR")]
    model: PathBuf,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
    /// Folder for the pictures with mask and verdict drawn on them
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// Folder for the masks: PNG, labels in their colours on white
    #[arg(long, value_name = "DIR")]
    mask: Option<PathBuf>,
    /// Scale pictures of another size than the model was trained on, instead of refusing them
    #[arg(long)]
    scale: bool,
    /// Processor: auto, cpu, cuda, tensorrt or openvino
    #[arg(long, default_value = "auto")]
    device: DeviceRequest,
    /// Threads of one detection
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// JPEG or PNG files
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
}

/// Where pictures that were drawn are put, each under a name of its own.
struct Folder {
    path: PathBuf,
    taken: HashSet<String>,
}

pub(super) fn run(args: &DetectArgs) -> anyhow::Result<()> {
    model_must_exist(&args.model)?;
    let options = DetectorOptions {
        device: args.device,
        threads: usize::from(args.threads),
        sizes: if args.scale { SizePolicy::Scale } else { SizePolicy::Exact },
        ..DetectorOptions::default()
    };
    let mut detector = Detector::open(&args.model, &options)?;
    tracing::info!(device = %detector.device().device, "model ready");
    let mut overlays = args.overlay.as_deref().map(Folder::create).transpose()?;
    let mut masks = args.mask.as_deref().map(Folder::create).transpose()?;
    let mut entries = Vec::new();
    let mut failures = 0_usize;
    for path in &args.images {
        match one(&mut detector, path, overlays.as_mut(), masks.as_mut()) {
            Ok((detection, size)) if args.json => entries.push(entry(path, &detection, detector.info(), size)?),
            Ok((detection, _)) => print_line(path, &detection)?,
            Err(error) => {
                failures += 1;
                tracing::error!("`{}`: {error:#}", path.display());
                entries.push(json!({ "file": path, "Error": format!("{error:#}") }));
            }
        }
    }
    if args.json {
        let text = serde_json::to_string_pretty(&entries)? + "\n";
        io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    }
    anyhow::ensure!(failures == 0, "{failures} of {} pictures were not scored", args.images.len());
    Ok(())
}

fn one(
    detector: &mut Detector,
    path: &Path,
    overlays: Option<&mut Folder>,
    masks: Option<&mut Folder>,
) -> anyhow::Result<(Detection, (u32, u32))> {
    let mut picture = Picture::read(path)?;
    let (width_px, height_px) = (u32::try_from(picture.width_px)?, u32::try_from(picture.height_px)?);
    detector.check_size(width_px, height_px)?;
    let detection = detector.detect(&FrameView::rgb(width_px, height_px, &picture.rgb)?)?;
    let labels = &detector.info().labels;
    if let Some(folder) = masks {
        let mask = mask_rgb(&detection, labels, width_px, height_px);
        let mask = RgbImage::from_raw(width_px, height_px, mask).context("the mask lost its pixels")?;
        mask.save(folder.next(path)).context("cannot write the mask")?;
    }
    if let Some(folder) = overlays {
        draw_on_rgb(width_px, height_px, &mut picture.rgb, &detection, labels, OVERLAY_ALPHA, true)?;
        let drawn = RgbImage::from_raw(width_px, height_px, picture.rgb).context("the picture lost its pixels")?;
        drawn.save(folder.next(path)).context("cannot write the overlay")?;
    }
    Ok((detection, (width_px, height_px)))
}

/// The REST API's answer for one picture, with score, threshold and time.
fn entry(path: &Path, detection: &Detection, info: &ModelInfo, size: (u32, u32)) -> anyhow::Result<Value> {
    let result = &detection.result;
    let mut answer = detect_anomaly_result(detection, info, size.0, size.1)?;
    answer["AnomalyScore"] = result.anomaly_score.into();
    answer["AnomalyThreshold"] = result.anomaly_threshold.into();
    answer["Time"] = (detection.times.total().as_secs_f64() * 1e3).into();
    if let Some(pose) = &detection.pose {
        answer["Registration"] = json!({
            "Applied": pose.applied,
            "Confidence": pose.confidence,
            "AngleDegrees": pose.angle_deg,
            "ShiftX": pose.shift_x,
            "ShiftY": pose.shift_y,
        });
    }
    Ok(json!({ "file": path, "DetectAnomalyResult": answer }))
}

fn print_line(path: &Path, detection: &Detection) -> anyhow::Result<()> {
    let result = &detection.result;
    let verdict = if result.is_anomalous { "anomaly" } else { "normal" };
    let labels: Vec<String> = result
        .labels()
        .map(|anomaly| format!("{} {:.2} %", anomaly.name, anomaly.total_percentage_area * 100.0))
        .collect();
    let is_lost = detection.pose.is_some_and(|pose| !pose.applied);
    let place = if is_lost { "  not found where parts lie, taken as it is" } else { "" };
    let line = format!(
        "{verdict:<8} confidence {:.3}  score {:.3}  {:>5.1} ms  {}  {}{place}\n",
        result.confidence,
        result.anomaly_score,
        detection.times.total().as_secs_f64() * 1e3,
        path.display(),
        labels.join(", "),
    );
    let line = line.trim_end().to_owned() + "\n";
    io::stdout().write_all(line.as_bytes()).context("cannot write to standard output")
}

impl Folder {
    fn create(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path)
            .map_err(|error| CallError(format!("cannot create the folder `{}`: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), taken: HashSet::new() })
    }

    /// `<stem>.png`, with a number when another picture of this call has the same stem.
    fn next(&mut self, picture: &Path) -> PathBuf {
        let stem = picture.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut name = stem.clone();
        let mut number = 1;
        while !self.taken.insert(name.clone()) {
            number += 1;
            name = format!("{stem}-{number}");
        }
        self.path.join(format!("{name}.png"))
    }
}
