//! `linewarden train`.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;
use jiff::Timestamp;
use linewarden_model::{ModelInfo, ModelType};
use linewarden_train::backbone::BackboneSource;
use linewarden_train::evaluation::{write_evaluation_manifest, write_evaluation_result};
use linewarden_train::job::{TrainRequest, Trained, identity, train};
use linewarden_train::package::{check_free, write};
use linewarden_train::report::{Report, write_report};
use serde_json::json;

use super::framing::FramingArgs;
use super::progress::Shown;
use super::threshold::{ThresholdArgs, sentences};
use super::{CallError, PlacesArgs, load_dataset_from, must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden train --dataset parts/ --out models/cap
      from parts/normal/*.jpg alone, or with parts/anomaly/*.jpg and parts/masks/*.png where there are such
  linewarden train --dataset train.manifest --test test.manifest --out models/cap --json > report.json
  linewarden train --dataset parts/ --type segmentation --seed 7 --out models/cap
  linewarden train --dataset parts/ --target-false-reject 0.5% --out models/cap
      chooses the threshold from good parts alone, and says how far they can vouch for it
  linewarden train --dataset parts/ --cost-miss 200 --cost-reject 4 --defect-rate 1% --out models/cap
  linewarden train --dataset boards/ --tiles auto --ignore-mask serial-number.png --out models/board
      large pictures with small defects; what is not black in the mask does not count";

/// A model package from pictures of good parts, and of bad ones where there are at least four.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TrainArgs {
    /// Training pictures: a folder with `normal/` (and `anomaly/`, `masks/`), or a Ground Truth manifest
    #[arg(long, value_name = "DIR|FILE.manifest")]
    dataset: PathBuf,
    /// Pictures to evaluate on, as a folder or a manifest; without it held-out normals and the set's own anomalies
    #[arg(long, value_name = "DIR|FILE.manifest")]
    test: Option<PathBuf>,
    #[command(flatten)]
    places: PlacesArgs,
    /// What the model answers; `auto` is segmentation where the masks show every label often enough, else classification
    #[arg(long = "type", value_enum, default_value_t)]
    model_type: TypeChoice,
    #[command(flatten)]
    threshold: ThresholdArgs,
    /// Folder of the new model package; a package that lies there is kept as `<name>.previous`
    #[arg(long, value_name = "MODEL_DIR")]
    out: PathBuf,
    /// Seed of everything random: the same pictures and seed give the same model
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another feature network: an ONNX file (opset 18 or later) with an image input `[N,3,H,W]` and feature-map outputs
    #[arg(long, value_name = "FILE.onnx")]
    backbone: Option<PathBuf>,
    /// Threads; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Project that results name; the name of the package's folder unless given
    #[arg(long)]
    project: Option<String>,
    /// Version that results name
    #[arg(long, default_value = "1")]
    model_version: String,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    framing: FramingArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum TypeChoice {
    /// Let the data set say
    #[default]
    Auto,
    /// Normal or anomalous
    Classification,
    /// Normal or anomalous, with a mask
    Segmentation,
}

pub(super) fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    check_free(&args.out).map_err(|error| CallError(error.to_string()))?;
    let request = request(args)?;
    let shown = Shown::new();
    let trained = train(&request, &shown)?;
    drop(shown);
    let info = trained.package.info();
    let identity = identity(info, request.time);
    let (costs, dataset) = (args.threshold.costs(), request.test.as_ref().unwrap_or(&request.dataset));
    let report = Report {
        model: info,
        dataset: &dataset.name,
        evaluation: &trained.evaluation,
        costs: costs.as_ref(),
        choice: trained.threshold_choice.as_ref(),
        exhibits: &[],
        with_times: false,
        ended_at: request.time,
    };
    write(&trained.package, &args.out, |folder| {
        write_evaluation_result(&folder.join("EvaluationResult.json"), &trained.evaluation, &identity)?;
        write_evaluation_manifest(&folder.join("EvaluationManifest.jsonl"), &trained.evaluation, &identity)?;
        write_report(&folder.join("report.html"), &report)
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let text = if args.json { document(&trained, &args.out, seconds)? } else { summary(&trained, &args.out, seconds) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn request(args: &TrainArgs) -> anyhow::Result<TrainRequest> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    if let Some(path) = &args.backbone {
        must_exist("backbone", path)?;
    }
    args.framing.check()?;
    let folder_name = args.out.file_name().map(|name| name.to_string_lossy().into_owned());
    let dataset = load_dataset_from(&args.dataset, &args.places)?;
    Ok(TrainRequest {
        threshold: args.threshold.wish_for(&dataset)?,
        dataset,
        test: args.test.as_deref().map(|test| load_dataset_from(test, &args.places)).transpose()?,
        model_type: match args.model_type {
            TypeChoice::Auto => None,
            TypeChoice::Classification => Some(ModelType::Classification),
            TypeChoice::Segmentation => Some(ModelType::Segmentation),
        },
        seed: args.seed,
        backbone: args.backbone.clone().map_or(BackboneSource::Bundled, BackboneSource::File),
        threads: NonZeroUsize::new(args.threads).unwrap_or(cores),
        project: args.project.clone().or(folder_name).unwrap_or_else(|| "linewarden".to_owned()),
        version: args.model_version.clone(),
        framing: args.framing.request(),
        time: build_time()?,
    })
}

/// Now, or the moment that `SOURCE_DATE_EPOCH` names, which makes whole packages reproducible.
fn build_time() -> anyhow::Result<Timestamp> {
    let Some(seconds) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Timestamp::now()) };
    let text = seconds.to_string_lossy().into_owned();
    let timestamp = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let wrong = || CallError(format!("`SOURCE_DATE_EPOCH` must be seconds since 1970, got `{text}`"));
    Ok(timestamp.ok_or_else(wrong)?)
}

fn document(trained: &Trained, out: &Path, seconds: f64) -> anyhow::Result<String> {
    let info = trained.package.info();
    let document = json!({
        "model": out,
        "type": info.model_type,
        "algorithm": info.algorithm,
        "candidates": info.candidates,
        "project": info.project,
        "version": info.version,
        "image_size": info.image_size,
        "normal_images": info.dataset.normal,
        "seed": info.seed,
        "threshold": info.threshold,
        "threshold_choice": trained.threshold_choice,
        "held_out_false_rejects": trained.held_out_false_rejects,
        "onnx_sha256": info.onnx_sha256,
        "evaluation": trained.evaluation,
        "advice": trained.advice,
        "seconds": seconds,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// What was compared, on pictures that each candidate had not seen.
fn candidates(info: &ModelInfo) -> String {
    let model_type = match info.model_type {
        ModelType::Classification => "classification",
        ModelType::Segmentation => "segmentation",
    };
    let mut text = format!("Type {model_type}, algorithm {}.\n", info.algorithm);
    for candidate in &info.candidates {
        text += &format!(
            "  {:12} held-out ROC AUC {:.4}, F1 {:.3}, classes {:.1} deviations apart\n",
            candidate.name, candidate.held_out_roc_auc, candidate.held_out_f1, candidate.separation
        );
    }
    text
}

fn summary(trained: &Trained, out: &Path, seconds: f64) -> String {
    let info = trained.package.info();
    let share = trained.held_out_false_rejects * 100.0;
    let anomalies = match info.candidates.as_slice() {
        [] => String::new(),
        _ => format!(" and {} anomalous", info.dataset.anomaly),
    };
    let mut text = format!(
        "Trained {} from {} normal{anomalies} pictures of {}x{} pixels in {seconds:.1} s.\n\
         {}\
         Of the normal pictures, each scored without having been seen, {share:.1} % would be rejected.\n",
        out.display(),
        info.dataset.normal,
        info.image_size.width_px,
        info.image_size.height_px,
        candidates(info),
    );
    let image = &trained.evaluation.image;
    if let Some(auc) = image.roc_auc {
        text += &format!(
            "On {} labelled pictures: ROC AUC {auc:.3}, precision {:.3}, recall {:.3}, F1 {:.3}.\n",
            trained.evaluation.images, image.precision, image.recall, image.f1
        );
    }
    text += &sentences(trained.threshold_choice.as_ref());
    for advice in &trained.advice {
        text += &format!("Advice: {advice}.\n");
    }
    text + &format!("Try it: linewarden detect --model {} --overlay /tmp/overlays PICTURE...\n", out.display())
}
