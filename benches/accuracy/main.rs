//! `make bench-accuracy`: how good models are on real photographs, trained with default options, each figure beside the
//! floor that the project promises, and what training costs. No figure fails the run; one below its floor says so. `-- --only PART` keeps the
//! tests whose name has that part.

mod cost;
mod data;

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_train::backbone::BackboneSource;
use linewarden_train::dataset::Dataset;
use linewarden_train::evaluation::Evaluation;
use linewarden_train::job::{TrainRequest, Trained, evaluate_package, train};
use linewarden_train::progress::Silent;
use linewarden_train::views::FramingRequest;

use data::Split;

const SEEDS: [u64; 3] = [1, 2, 3];
const FOLDS: usize = 5;
/// Floors of a test with labelled tiles: ROC AUC, F1 at the calibrated threshold, pixel ROC AUC, AUPRO.
type LabelledFloors = [f64; 4];

/// What is measured under a name.
type Test = (&'static str, fn() -> Result<()>);

const TESTS: [Test; 8] = [
    ("cookies, their manifest, the 22 test photographs", cookies),
    ("cookies, 5-fold", cookies_by_folds),
    ("cookies, normals alone", normal_cookies),
    ("tiles, normals alone", normal_tiles),
    ("tiles, 30 normals and 10 of each defect", few_labelled_tiles),
    ("tiles, 100 normals and 20 of each defect", labelled_tiles),
    ("cost of training on cookies", cost::cookies),
    ("cost of training on 2,000 tiles", cost::two_thousand_tiles),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.iter().position(|argument| argument == "--only");
    let only = only.and_then(|at| arguments.get(at + 1)).map_or("", String::as_str);
    say("test, measure, seeds: figure (floor)")?;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(only)) {
        say(name)?;
        test()?;
    }
    Ok(())
}

fn cookies() -> Result<()> {
    for seed in SEEDS {
        let Split { train, test } = data::cookies()?;
        let image = run(train, test, seed)?.evaluation.image;
        row(&format!("precision, seed {seed}"), image.precision, 1.0)?;
        row(&format!("recall, seed {seed}"), image.recall, 1.0)?;
        row(&format!("F1, seed {seed}"), image.f1, 1.0)?;
    }
    Ok(())
}

/// Every masked cookie is found by a model that never saw it.
fn cookies_by_folds() -> Result<()> {
    let (mut sum, mut pictures) = (0.0, 0);
    for fold in 0..FOLDS {
        let Split { train, test } = data::cookies_fold(fold, FOLDS)?;
        let trained = run(train, test, 1)?;
        let label = trained.evaluation.labels.first().context("no label was measured")?;
        sum += label.iou.unwrap_or(0.0) * label.images as f64;
        pictures += label.images;
    }
    row("mean IoU of `cracked` over all folds, seed 1", sum / f64::from(u32::try_from(pictures.max(1))?), 0.62)
}

/// The study's F1 of 0.987 has no fraction over 22 pictures of which 8 are cracked, but over 54 of which 40 are: all that
/// the manifest's 31 normals leave. The stricter sets are told beside it: the 22 alone, and what exactly 30 normals leave.
///
/// The first 30 by file name, as with tiles, lack `normal-9`; the manifest's first 30 lack `normal-31`. That is the only
/// photograph to learn from with the tray's lower rim in it, which one good cookie among the 22 shows, too: nothing that
/// saw neither can know that the rim is normal. The others are drawn at random.
fn normal_cookies() -> Result<()> {
    for without in [None, Some("normal-9.jpg"), Some("normal-25.jpg"), Some("normal-19.jpg"), Some("normal-31.jpg")] {
        let mut means = [0.0; 4];
        for seed in SEEDS {
            let trained = run(data::normal_cookies(without)?, data::unseen_cookies(without)?, seed)?;
            let on_all = trained.evaluation.image;
            let on_photographs = evaluate(&trained.package, &data::cookies()?.test)?.image;
            let aucs = [&on_all, &on_photographs].map(|image| image.roc_auc.unwrap_or(0.0));
            let figures = [aucs[0], on_all.f1, aucs[1], on_photographs.f1];
            means.iter_mut().zip(figures).for_each(|(mean, figure)| *mean += figure / SEEDS.len() as f64);
        }
        let (normals, left) = if without.is_some() { (30, 55) } else { (31, 54) };
        if let Some(name) = without {
            say(&format!("  all normals but `{name}`"))?;
        }
        row(&format!("{normals} normals, the {left} others, mean ROC AUC, seeds {SEEDS:?}"), means[0], 0.99)?;
        row(&format!("{normals} normals, the {left} others, mean F1, seeds {SEEDS:?}"), means[1], 0.95)?;
        row(&format!("{normals} normals, the 22 photographs, mean ROC AUC, seeds {SEEDS:?}"), means[2], 0.99)?;
        row(&format!("{normals} normals, the 22 photographs, mean F1, seeds {SEEDS:?}"), means[3], 0.95)?;
    }
    Ok(())
}

fn normal_tiles() -> Result<()> {
    for (normals, floor) in [(30, 0.77), (200, 0.85)] {
        let mut aucs = Vec::new();
        for seed in SEEDS {
            let Split { train, test } = data::tiles(normals, 0)?;
            aucs.push(run(train, test, seed)?.evaluation.image.roc_auc.unwrap_or(0.0));
        }
        let mean = aucs.iter().sum::<f64>() / aucs.len() as f64;
        row(&format!("mean ROC AUC, {normals} normals, seeds {SEEDS:?}: {aucs:.4?}"), mean, floor)?;
    }
    Ok(())
}

fn few_labelled_tiles() -> Result<()> {
    for seed in SEEDS {
        labelled(30, 10, seed, [0.98, 0.90, 0.99, 0.97])?;
    }
    Ok(())
}

fn labelled_tiles() -> Result<()> {
    for seed in SEEDS {
        let evaluation = labelled(100, 20, seed, [0.99, 0.94, 0.995, 0.98])?;
        let types = evaluation.type_accuracy.and_then(|types| types.accuracy).unwrap_or(0.0);
        row(&format!("type accuracy, seed {seed}"), types, 0.96)?;
        let ious: Vec<f64> = evaluation.labels.iter().map(|label| label.iou.unwrap_or(0.0)).collect();
        let mean = ious.iter().sum::<f64>() / ious.len().max(1) as f64;
        row(&format!("mean IoU of blowhole, crack: {ious:.4?}, seed {seed}"), mean, 0.40)?;
    }
    Ok(())
}

fn labelled(normals: usize, each: usize, seed: u64, floors: LabelledFloors) -> Result<Evaluation> {
    let Split { train, test } = data::tiles(normals, each)?;
    let evaluation = run(train, test, seed)?.evaluation;
    let pixel = evaluation.pixel.as_ref().context("no pixel was measured")?;
    let figures = [
        ("ROC AUC", evaluation.image.roc_auc.unwrap_or(0.0)),
        ("F1 at the calibrated threshold", evaluation.image.f1),
        ("pixel ROC AUC", pixel.roc_auc.unwrap_or(0.0)),
        ("AUPRO", pixel.aupro.unwrap_or(0.0)),
    ];
    for ((what, figure), floor) in figures.into_iter().zip(floors) {
        row(&format!("{what}, seed {seed}"), figure, floor)?;
    }
    Ok(evaluation)
}

/// Trains with default options and tests.
fn run(dataset: Dataset, test: Dataset, seed: u64) -> Result<Trained> {
    let start = Instant::now();
    let request = TrainRequest {
        dataset,
        test: Some(test),
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
    let algorithm = &trained.package.info().algorithm;
    say(&format!("  {algorithm}, seed {seed}, {images} test pictures, {seconds:.0} s to train and test"))?;
    Ok(trained)
}

fn evaluate(package: &Package, test: &Dataset) -> Result<Evaluation> {
    Ok(evaluate_package(package, test, false, &Silent)?)
}

fn row(what: &str, figure: f64, floor: f64) -> Result<()> {
    let verdict = if figure >= floor { "" } else { "  BELOW" };
    say(&format!("    {what}: {figure:.4} ({floor}){verdict}"))
}

fn say(what: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{what}")?)
}
