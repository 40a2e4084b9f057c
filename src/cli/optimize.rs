//! `linewarden optimize`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use linewarden_model::package::Package;
use linewarden_train::package::{check_free, write};
use linewarden_train::precision::{Format, Optimized, Terms, USUAL_BOUND, convert, optimize};
use serde_json::json;

use super::progress::Shown;
use super::{CallError, PlacesArgs, load_dataset_from, model_must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden optimize --model models/cap --dataset test/ --out models/cap-int8
      test/normal/*.jpg and test/anomaly/*.jpg are pictures that the model was not trained on
  linewarden optimize --model models/cap --dataset test/ --bound 0.05 --threads 2 --out models/cap-int8
      for a line with `threads = 2`, where scores may move further
  linewarden optimize --model models/cap --dataset test/ --format float16 --out models/cap-gpu
      for a machine with a GPU";

/// What lies beside a package's own files and holds for every variant of it.
const BESIDE: [&str; 3] = ["EvaluationResult.json", "EvaluationManifest.jsonl", "report.html"];

/// A faster model in another number format, if there is one on this machine.
///
/// Tries whole numbers of 8 bits, from some to all layers, and real numbers of 16 bits. A package is written only when it
/// is faster here and no score moves further than the bound. With `--format` it is for another machine, and only scores
/// decide. The model itself stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct OptimizeArgs {
    /// Model package
    #[arg(long, value_name = "MODEL_DIR")]
    model: PathBuf,
    /// Pictures that the model was not trained on, as a folder or a manifest: their scores are compared
    #[arg(long, value_name = "DIR|FILE.manifest")]
    dataset: PathBuf,
    #[command(flatten)]
    places: PlacesArgs,
    /// Folder of the faster package; a package that lies there is kept as `<name>.previous`
    #[arg(long, value_name = "MODEL_DIR")]
    out: PathBuf,
    /// How far a score may move
    #[arg(long, value_name = "SCORE", default_value_t = USUAL_BOUND, value_parser = bound)]
    bound: f64,
    /// Only this format, though it may not be faster here: for another machine
    #[arg(long, value_name = "FORMAT", conflicts_with = "threads")]
    format: Option<Wanted>,
    /// Threads that the line will run the model with
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Wanted {
    /// Whole numbers of 8 bits, in as many layers as scores allow
    Int8,
    /// Real numbers of 16 bits
    Float16,
}

impl From<Wanted> for Format {
    fn from(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Int8 => Self::Int8,
            Wanted::Float16 => Self::Float16,
        }
    }
}

pub(super) fn run(args: &OptimizeArgs) -> anyhow::Result<()> {
    model_must_exist(&args.model)?;
    check_free(&args.out).map_err(|error| CallError(error.to_string()))?;
    let package = Package::read(&args.model)?;
    let dataset = load_dataset_from(&args.dataset, &args.places)?;
    if !dataset.samples.iter().any(|sample| sample.class.is_some()) {
        return Err(CallError(format!("`{}` has no labelled pictures", args.dataset.display())).into());
    }
    if dataset.sha256()? == package.info().dataset.sha256 {
        let path = args.dataset.display();
        let message =
            format!("`{path}` holds the pictures that the model was trained on, whose scores say little of others");
        if args.format.is_none() {
            return Err(CallError(format!("{message}: give other pictures")).into());
        }
        tracing::warn!("{message}");
    }
    let shown = Shown::new();
    let optimized = match args.format {
        Some(format) => convert(&package, &dataset, format.into(), args.bound, &shown)?,
        None => {
            let terms = Terms { bound: args.bound, threads: usize::from(args.threads) };
            optimize(&package, &dataset, terms, &shown)?
        }
    };
    drop(shown);
    if args.format.is_some() && optimized.package.is_none() {
        anyhow::bail!("no such format keeps the scores: {}", optimized.sentences().join("; "));
    }
    if let Some(faster) = &optimized.package {
        write(faster, &args.out, |folder| copy_beside(&args.model, folder))?;
    }
    let text = if args.json { document(args, &optimized)? } else { told(args, &optimized) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// What was measured while training still says how good the model is, within the bound.
fn copy_beside(model: &Path, folder: &Path) -> io::Result<()> {
    for name in BESIDE {
        match std::fs::copy(model.join(name), folder.join(name)) {
            // A package from an archive has nothing beside it.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            outcome => _ = outcome?,
        }
    }
    Ok(())
}

fn document(args: &OptimizeArgs, optimized: &Optimized) -> anyhow::Result<String> {
    let document = json!({
        "model": args.model,
        "out": optimized.package.as_ref().map(|_| &args.out),
        "views": optimized.views,
        "bound": optimized.bound,
        "threads": args.threads,
        "trials": optimized.trials,
        "onnx_sha256": optimized.package.as_ref().map(|package| &package.info().onnx_sha256),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn told(args: &OptimizeArgs, optimized: &Optimized) -> String {
    let mut text: String = optimized.sentences().into_iter().map(|sentence| sentence + ".\n").collect();
    let (model, out) = (args.model.display(), args.out.display());
    text += &match optimized.package {
        Some(_) if args.format.is_some() => format!("{out} is the turned one; {model} is as it was.\n"),
        Some(_) => format!("{out} is the faster one, for machines like this; {model} is as it was.\n"),
        None => format!("Nothing was written: {model} is the fastest here that keeps its scores.\n"),
    };
    text
}

fn bound(text: &str) -> Result<f64, String> {
    let bound: f64 = text.parse().map_err(|_| "it must be a number".to_owned())?;
    if bound > 0.0 && bound < 1.0 { Ok(bound) } else { Err("it must be above 0 and below 1".to_owned()) }
}
