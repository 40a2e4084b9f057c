//! `linewarden train`.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;
use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_model::{ModelInfo, ModelType};
use linewarden_train::backbone::BackboneSource;
use linewarden_train::evaluation::{write_evaluation_manifest, write_evaluation_result};
use linewarden_train::extend::{Extended, Moved, Spread, extend};
use linewarden_train::job::{TrainRequest, Trained, identity, train};
use linewarden_train::package::{check_free, write};
use linewarden_train::report::{Report, write_report};
use linewarden_train::sizing::BankSize;
use serde_json::{Value, json};

use super::framing::FramingArgs;
use super::progress::Shown;
use super::threshold::{ThresholdArgs, sentences};
use super::{CallError, PlacesArgs, load_dataset_from, model_must_exist, must_exist};

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
      large pictures with small defects; what is not black in the mask does not count
  linewarden train --extend models/cap --dataset more-parts/ --out models/cap-2
      adds more-parts/normal/*.jpg to what models/cap knows as normal, and says how scores moved";

/// A model package from pictures of good parts, and of bad ones where there are at least four.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TrainArgs {
    /// Training pictures: a folder with `normal/` (and `anomaly/`, `masks/`), or a Ground Truth manifest
    #[arg(long, value_name = "DIR|FILE.manifest")]
    dataset: PathBuf,
    /// Add the data set's normal pictures to what this model knows, without the pictures that it was trained on. The model
    /// itself stays as it is, and says how pictures are cut
    #[arg(
        long,
        value_name = "MODEL_DIR",
        conflicts_with_all = ["model_type", "roi", "ignore_mask", "tiles", "tile_overlap", "register"]
    )]
    extend: Option<PathBuf>,
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
    /// Project that results name; the name of the package's folder, or that of the extended model, unless given
    #[arg(long)]
    project: Option<String>,
    /// Version that results name; 1, or one more than that of the extended model, unless given
    #[arg(long)]
    model_version: Option<String>,
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
    let Taught { request, trained, moved } = teach(args)?;
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
        write_report(&folder.join("report.html"), &report)?;
        trained.memory.as_ref().map_or(Ok(()), |memory| memory.write(folder, &info.onnx_sha256))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let text = if args.json {
        document(&trained, moved.as_ref(), &args.out, seconds)?
    } else {
        summary(&trained, moved.as_ref(), &args.out, seconds)
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// A model with what it was made from.
struct Taught {
    request: TrainRequest,
    trained: Trained,
    moved: Option<Moved>,
}

fn teach(args: &TrainArgs) -> anyhow::Result<Taught> {
    let Some(model) = &args.extend else {
        let request = request(args, None)?;
        let trained = train(&request, &Shown::new())?;
        return Ok(Taught { request, trained, moved: None });
    };
    model_must_exist(model)?;
    let is_same = |(a, b): (PathBuf, PathBuf)| a == b;
    if model.canonicalize().ok().zip(args.out.canonicalize().ok()).is_some_and(is_same) {
        return Err(CallError("`--out` must be another folder than `--extend`".to_owned()).into());
    }
    let package = Package::read(model)?;
    let mut request = request(args, Some(package.info()))?;
    let Extended { trained, moved } = extend(&mut request, &package, &Shown::new())?;
    Ok(Taught { request, trained, moved: Some(moved) })
}

fn request(args: &TrainArgs, before: Option<&ModelInfo>) -> anyhow::Result<TrainRequest> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    if let Some(path) = &args.backbone {
        must_exist("backbone", path)?;
    }
    args.framing.check()?;
    let folder_name = args.out.file_name().map(|name| name.to_string_lossy().into_owned());
    let dataset = load_dataset_from(&args.dataset, &args.places)?;
    Ok(TrainRequest {
        threshold: args.threshold.wish_for(&dataset, before.map_or(0, |before| before.dataset.normal))?,
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
        project: args
            .project
            .clone()
            .or_else(|| before.map(|before| before.project.clone()))
            .or(folder_name)
            .unwrap_or_else(|| "linewarden".to_owned()),
        version: args.model_version.clone().map_or_else(|| next_version(before), Ok)?,
        framing: args.framing.request(),
        time: build_time()?,
    })
}

fn next_version(before: Option<&ModelInfo>) -> Result<String, CallError> {
    let Some(ModelInfo { version, .. }) = before else { return Ok("1".to_owned()) };
    let next = version.parse::<u64>().ok().and_then(|number| number.checked_add(1));
    let unknown = || CallError(format!("version `{version}` has no next one: name it with `--model-version`"));
    Ok(next.ok_or_else(unknown)?.to_string())
}

/// Now, or the moment that `SOURCE_DATE_EPOCH` names, which makes whole packages reproducible.
fn build_time() -> anyhow::Result<Timestamp> {
    let Some(seconds) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(Timestamp::now()) };
    let text = seconds.to_string_lossy().into_owned();
    let timestamp = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    let wrong = || CallError(format!("`SOURCE_DATE_EPOCH` must be seconds since 1970, got `{text}`"));
    Ok(timestamp.ok_or_else(wrong)?)
}

fn document(trained: &Trained, moved: Option<&Moved>, out: &Path, seconds: f64) -> anyhow::Result<String> {
    let info = trained.package.info();
    let size = |size: &BankSize| {
        let mut value = json!(size);
        value["time_ms"] = json!(size.time_ms);
        value
    };
    let sizes: Vec<Value> = trained.bank_sizes.iter().map(size).collect();
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
        "bank_sizes": sizes,
        "onnx_sha256": info.onnx_sha256,
        "evaluation": trained.evaluation,
        "extended_from": info.extended_from,
        "moved": moved,
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

/// How scores moved from the extended model to the new one.
fn movement(moved: &Moved) -> String {
    let Moved { old_pictures, new_pictures, known_pictures, .. } = moved;
    let mut text = format!("To {old_pictures} normal pictures {new_pictures} were added");
    text += &if *known_pictures > 0 { format!("; {known_pictures} were known already.\n") } else { ".\n".to_owned() };
    let mut line = |who: &str, spread: &Spread| {
        let Spread { pictures, median, highest, rejected } = spread;
        text +=
            &format!("  {who:26} {pictures:4} scored: median {median:.3}, worst {highest:.3}, {rejected} rejected\n");
    };
    line("new pictures, before:", &moved.new_before);
    line("new pictures, now:", &moved.new_after);
    if let (Some(before), Some(after)) = (&moved.old_before, &moved.old_after) {
        line("old pictures, before:", before);
        line("old pictures, now:", after);
    }
    text += &format!("  the distance that becomes 0.5: {:.3} before, {:.3} now\n", moved.tau_before, moved.tau_after);
    if let Some([before, after]) = &moved.test {
        let auc = |auc: Option<f64>| auc.map_or("-".to_owned(), |auc| format!("{auc:.3}"));
        text += &format!(
            "  test pictures: ROC AUC {} before, {} now; F1 {:.3} before, {:.3} now\n",
            auc(before.roc_auc),
            auc(after.roc_auc),
            before.f1,
            after.f1
        );
    }
    text
}

/// What sizes of the memory bank are worth, on normal pictures that the banks had not seen and that were disturbed.
fn bank_sizes(sizes: &[BankSize]) -> String {
    if sizes.is_empty() {
        return String::new();
    }
    let mut text = "Memory bank, by held-out pictures with small disturbances:\n\
                    members  deviations apart  ROC AUC  of the largest, 95 % sure  million products  ms here\n"
        .to_owned();
    for size in sizes {
        text += &format!(
            "{:>7}  {:>16.2}  {:>7.3}  {:>25.2}  {:>16.1}  {:>7.2}{}\n",
            size.members,
            size.separation,
            size.roc_auc,
            size.at_least,
            size.million_products,
            size.time_ms,
            if size.chosen { "  taken" } else { "" }
        );
    }
    text
}

fn summary(trained: &Trained, moved: Option<&Moved>, out: &Path, seconds: f64) -> String {
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
    text += &bank_sizes(&trained.bank_sizes);
    let image = &trained.evaluation.image;
    if let Some(auc) = image.roc_auc {
        text += &format!(
            "On {} labelled pictures: ROC AUC {auc:.3}, precision {:.3}, recall {:.3}, F1 {:.3}.\n",
            trained.evaluation.images, image.precision, image.recall, image.f1
        );
    }
    text += &moved.map(movement).unwrap_or_default();
    text += &sentences(trained.threshold_choice.as_ref());
    for advice in &trained.advice {
        text += &format!("Advice: {advice}.\n");
    }
    text + &format!("Try it: linewarden detect --model {} --overlay /tmp/overlays PICTURE...\n", out.display())
}
