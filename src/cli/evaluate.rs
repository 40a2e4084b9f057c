//! `linewarden evaluate`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_train::evaluation::{Evaluation, write_evaluation_manifest, write_evaluation_result};
use linewarden_train::job::{evaluate_package, identity};

use super::progress::Shown;
use super::{CallError, load_dataset, model_must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden evaluate --model models/cap --dataset test/
  linewarden evaluate --model models/cap --dataset test.manifest --out report/ --json > measures.json";

/// How good a model is on labelled pictures.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EvaluateArgs {
    /// Model package
    #[arg(long, value_name = "MODEL_DIR")]
    model: PathBuf,
    /// Labelled pictures, as a folder or a manifest
    #[arg(long, value_name = "DIR|FILE.manifest")]
    dataset: PathBuf,
    /// Folder for `EvaluationResult.json` and `EvaluationManifest.jsonl`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Scale pictures of another size than the model was trained on, instead of refusing them
    #[arg(long)]
    scale: bool,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    model_must_exist(&args.model)?;
    let package = Package::read(&args.model)?;
    let dataset = load_dataset(&args.dataset)?;
    if !dataset.samples.iter().any(|sample| sample.class.is_some()) {
        return Err(CallError(format!("`{}` has no labelled pictures", args.dataset.display())).into());
    }
    let shown = Shown::new();
    let evaluation = evaluate_package(&package, &dataset, args.scale, &shown)?;
    drop(shown);
    if let Some(folder) = &args.out {
        let identity = identity(package.info(), Timestamp::now());
        std::fs::create_dir_all(folder)
            .and_then(|()| write_evaluation_result(&folder.join("EvaluationResult.json"), &evaluation, &identity))
            .and_then(|()| write_evaluation_manifest(&folder.join("EvaluationManifest.jsonl"), &evaluation, &identity))
            .with_context(|| format!("cannot write to `{}`", folder.display()))?;
    }
    let text = if args.json { serde_json::to_string_pretty(&evaluation)? + "\n" } else { table(&evaluation) };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn table(evaluation: &Evaluation) -> String {
    let measure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let image = &evaluation.image;
    let confusion = &evaluation.confusion;
    let mut text = format!(
        "{} pictures, threshold {}\n\n\
         precision  recall  F1      ROC AUC  average precision\n\
         {:<10.4} {:<7.4} {:<7.4} {:<8} {}\n\n\
         {:>24} {:>10} {:>10}\n{:>24} {:>10} {:>10}\n{:>24} {:>10} {:>10}\n",
        evaluation.images,
        evaluation.threshold,
        image.precision,
        image.recall,
        image.f1,
        measure(image.roc_auc),
        measure(image.average_precision),
        "",
        "normal",
        "anomaly",
        "called normal",
        confusion.true_negatives,
        confusion.false_negatives,
        "called anomaly",
        confusion.false_positives,
        confusion.true_positives,
    );
    if let Some(pixel) = &evaluation.pixel {
        text += &format!("\npixels: ROC AUC {}, AUPRO {}\n", measure(pixel.roc_auc), measure(pixel.aupro));
    }
    for label in &evaluation.labels {
        text += &format!(
            "{}: {} pictures, precision {:.4}, recall {:.4}, F1 {:.4}, IoU {}\n",
            label.name,
            label.images,
            label.precision,
            label.recall,
            label.f1,
            measure(label.iou)
        );
    }
    let time = &evaluation.time_ms;
    text + &format!("\ndetection: mean {:.1} ms, p50 {:.1} ms, p99 {:.1} ms\n", time.mean, time.p50, time.p99)
}
