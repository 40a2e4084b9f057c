//! `make bench-accuracy`: how good models are on real photographs, trained with default options, each figure beside the
//! floor that the project promises. No figure fails the run; one below its floor says so.

mod data;

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use linewarden_train::backbone::BackboneSource;
use linewarden_train::job::{TrainRequest, Trained, train};
use linewarden_train::progress::Silent;
use linewarden_train::views::FramingRequest;

use data::Split;

const SEEDS: [u64; 3] = [1, 2, 3];
const FOLDS: usize = 5;

fn main() -> Result<()> {
    say("test, measure, seeds: figure (floor)")?;
    let cookies = run("cookies, their manifest", data::cookies()?, 1)?;
    row("precision, seed 1", cookies.evaluation.image.precision, 1.0)?;
    row("recall, seed 1", cookies.evaluation.image.recall, 1.0)?;
    row("F1, seed 1", cookies.evaluation.image.f1, 1.0)?;
    cookies_by_folds()?;
    let cookies = run("cookies, 30 normals", data::thirty_cookies()?, 1)?;
    row("ROC AUC, seed 1", cookies.evaluation.image.roc_auc.unwrap_or(0.0), 0.99)?;
    row("F1, seed 1", cookies.evaluation.image.f1, 0.95)?;
    for (normals, floor) in [(30, 0.77), (200, 0.85)] {
        let mut aucs = Vec::new();
        for seed in SEEDS {
            let trained = run(&format!("tiles, {normals} normals, seed {seed}"), data::tiles(normals, 0)?, seed)?;
            aucs.push(trained.evaluation.image.roc_auc.unwrap_or(0.0));
        }
        row(&format!("mean ROC AUC, seeds {SEEDS:?}: {aucs:.4?}"), mean(&aucs), floor)?;
    }
    let trained = run("tiles, 30 normals and 10 of each defect, seed 1", data::tiles(30, 10)?, 1)?;
    labelled(&trained, [0.98, 0.90, 0.99, 0.97])?;
    let trained = run("tiles, 100 normals and 20 of each defect, seed 1", data::tiles(100, 20)?, 1)?;
    labelled(&trained, [0.99, 0.94, 0.995, 0.98])?;
    row("type accuracy", trained.evaluation.type_accuracy.and_then(|types| types.accuracy).unwrap_or(0.0), 0.96)?;
    for label in &trained.evaluation.labels {
        row(&format!("mean IoU of `{}`", label.name), label.iou.unwrap_or(0.0), 0.40)?;
    }
    Ok(())
}

/// Every masked cookie is found by a model that never saw it.
fn cookies_by_folds() -> Result<()> {
    let (mut sum, mut pictures) = (0.0, 0);
    for fold in 0..FOLDS {
        let trained = run(&format!("cookies, fold {} of {FOLDS}", fold + 1), data::cookies_fold(fold, FOLDS)?, 1)?;
        let label = trained.evaluation.labels.first().context("no label was measured")?;
        sum += label.iou.unwrap_or(0.0) * label.images as f64;
        pictures += label.images;
    }
    row("mean IoU of `cracked` over all folds, seed 1", sum / f64::from(u32::try_from(pictures.max(1))?), 0.62)
}

fn labelled(trained: &Trained, [auc, f1, pixel_auc, aupro]: [f64; 4]) -> Result<()> {
    let evaluation = &trained.evaluation;
    row("ROC AUC", evaluation.image.roc_auc.unwrap_or(0.0), auc)?;
    row("F1 at the calibrated threshold", evaluation.image.f1, f1)?;
    let pixel = evaluation.pixel.as_ref().context("no pixel was measured")?;
    row("pixel ROC AUC", pixel.roc_auc.unwrap_or(0.0), pixel_auc)?;
    row("AUPRO", pixel.aupro.unwrap_or(0.0), aupro)
}

/// Trains with default options and tests.
fn run(what: &str, split: Split, seed: u64) -> Result<Trained> {
    let start = Instant::now();
    let request = TrainRequest {
        dataset: split.train,
        test: Some(split.test),
        model_type: None,
        threshold: None,
        seed,
        backbone: BackboneSource::Bundled,
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        project: "accuracy".to_owned(),
        version: "1".to_owned(),
        framing: FramingRequest::default(),
        time: Timestamp::now(),
    };
    let trained = train(&request, &Silent)?;
    let (seconds, images) = (start.elapsed().as_secs_f64(), trained.evaluation.images);
    say(&format!("{what}: {}, {images} test pictures, {seconds:.0} s", trained.package.info().algorithm))?;
    Ok(trained)
}

fn row(what: &str, figure: f64, floor: f64) -> Result<()> {
    let verdict = if figure >= floor { "" } else { "  BELOW" };
    say(&format!("  {what}: {figure:.4} ({floor}){verdict}"))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn say(what: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{what}")?)
}
