//! `linewarden evaluate`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_train::evaluation::{Evaluation, Interval, write_evaluation_manifest, write_evaluation_result};
use linewarden_train::job::{evaluate_package, identity};
use linewarden_train::report::{Report, exhibits, write_report};
use linewarden_train::threshold::{Choice, Rate, WhatIf, choose, percent};
use serde::Serialize;

use super::progress::Shown;
use super::threshold::{ThresholdArgs, sentences, table as threshold_table};
use super::{CallError, PlacesArgs, load_dataset_from, model_must_exist};

const EXAMPLES: &str = "\
Examples:
  linewarden evaluate --model models/cap --dataset test/
  linewarden evaluate --model models/cap --dataset test.manifest --out report/ --json > measures.json
      report/report.html has the curves, and the worst mistakes as pictures
  linewarden evaluate --model models/cap --dataset test/ --cost-miss 200 --cost-reject 4 --defect-rate 1%
      what other thresholds would have done, and which would have been the cheapest
  linewarden evaluate --model models/cap --dataset test/ --target-false-reject 0.5%";

/// Rows of the table of thresholds, beside the model's own.
const WHAT_IF_ROWS: usize = 12;

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
    #[command(flatten)]
    places: PlacesArgs,
    /// Folder for `EvaluationResult.json`, `EvaluationManifest.jsonl` and `report.html`
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Scale pictures of another size than the model was trained on, instead of refusing them
    #[arg(long)]
    scale: bool,
    #[command(flatten)]
    threshold: ThresholdArgs,
    /// Print one JSON document on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    model_must_exist(&args.model)?;
    let package = Package::read(&args.model)?;
    let dataset = load_dataset_from(&args.dataset, &args.places)?;
    if !dataset.samples.iter().any(|sample| sample.class.is_some()) {
        return Err(CallError(format!("`{}` has no labelled pictures", args.dataset.display())).into());
    }
    let (wish, costs) = (args.threshold.wish_for(&dataset, 0)?, args.threshold.costs());
    let shown = Shown::new();
    let evaluation = evaluate_package(&package, &dataset, args.scale, &shown)?;
    let (scores, truths) = evaluation.scores();
    let (choice, refusal) = match wish.map(|wish| choose(wish, &scores, &truths)) {
        Some(Ok(choice)) => (Some(choice), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    if let Some(folder) = &args.out {
        let ended_at = Timestamp::now();
        let identity = identity(package.info(), ended_at);
        let exhibits = exhibits(&package, &dataset, &evaluation, args.scale, &shown)?;
        let report = Report {
            model: package.info(),
            dataset: &dataset.name,
            evaluation: &evaluation,
            costs: costs.as_ref(),
            choice: choice.as_ref(),
            exhibits: &exhibits,
            with_times: true,
            ended_at,
        };
        std::fs::create_dir_all(folder)
            .and_then(|()| write_evaluation_result(&folder.join("EvaluationResult.json"), &evaluation, &identity))
            .and_then(|()| write_evaluation_manifest(&folder.join("EvaluationManifest.jsonl"), &evaluation, &identity))
            .and_then(|()| write_report(&folder.join("report.html"), &report))
            .with_context(|| format!("cannot write to `{}`", folder.display()))?;
    }
    drop(shown);
    let others: Vec<f64> = choice.iter().map(|choice| choice.threshold).collect();
    let what_if = wish.map(|_| evaluation.what_if(&others, costs.as_ref(), WHAT_IF_ROWS));
    let answer = Answer {
        evaluation: &evaluation,
        threshold_choice: choice.as_ref(),
        threshold_refusal: refusal.as_deref(),
        what_if: what_if.as_deref(),
    };
    let text = if args.json {
        serde_json::to_string_pretty(&answer)? + "\n"
    } else {
        let rows = what_if.map_or_else(String::new, |rows| format!("\n{}", threshold_table(&rows, costs.is_some())));
        let refusal = refusal.map_or_else(String::new, |refusal| format!("No threshold was chosen: {refusal}.\n"));
        table(&evaluation) + &rows + &sentences(choice.as_ref()) + &refusal
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// The evaluation, with what was asked about thresholds.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    evaluation: &'a Evaluation,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold_choice: Option<&'a Choice>,
    /// Why the pictures lead to no threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold_refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what_if: Option<&'a [WhatIf]>,
}

fn table(evaluation: &Evaluation) -> String {
    let measure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
    let image = &evaluation.image;
    let confusion = &evaluation.confusion;
    let mut text = format!(
        "{} pictures, threshold {:.4}\n\n\
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
    for (what, rate) in [("good parts rejected", evaluation.false_rejects), ("anomalies missed", evaluation.misses)] {
        if let Some(Rate { rate, upper_bound, .. }) = rate {
            let (rate, bound) = (percent(rate), percent(upper_bound));
            text += &format!("{what}: {rate}, at most {bound} with 95 % confidence\n");
        }
    }
    if let Some(intervals) = &evaluation.intervals {
        let range = |Interval { low, high }: Interval| format!("{low:.3} to {high:.3}");
        text += &format!(
            "95 % of {} draws: precision {}, recall {}, F1 {}, ROC AUC {}, average precision {}\n",
            intervals.resamples,
            range(intervals.precision),
            range(intervals.recall),
            range(intervals.f1),
            range(intervals.roc_auc),
            range(intervals.average_precision),
        );
    }
    if let Some(reliability) = &evaluation.reliability {
        text += &format!("Brier score {:.4}, calibration error {:.4}\n", reliability.brier, reliability.ece);
    }
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
    if let Some(types) = &evaluation.type_accuracy {
        text += &format!("right label: {} of {} anomalies found\n", types.right, types.found);
    }
    let time = &evaluation.time_ms;
    text + &format!("\ndetection: mean {:.1} ms, p50 {:.1} ms, p99 {:.1} ms\n", time.mean, time.p50, time.p99)
}
