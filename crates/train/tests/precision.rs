//! Models in other number formats: what they do to scores, which of them are kept, and what a kept one is.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::num::NonZeroUsize;
use std::path::Path;

use jiff::Timestamp;
use linewarden_model::package::Package;
use linewarden_model::{Detector, DetectorOptions, FrameView};
use linewarden_synthetic::{BeltSpec, Part, normals, render_part};
use linewarden_train::backbone::BackboneSource;
use linewarden_train::dataset::Dataset;
use linewarden_train::job::{TrainRequest, train};
use linewarden_train::package::write;
use linewarden_train::precision::{Format, OptimizeError, Terms, cut_views, optimize, variants};
use linewarden_train::progress::Silent;
use linewarden_train::views::FramingRequest;

const BELT: BeltSpec = BeltSpec { width_px: 320, height_px: 240, seed: 5, defect_rate: 0.5 };

fn save(part: &Part, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(format!("{}.png", part.number));
    image::save_buffer(path, &part.rgb, part.width_px, part.height_px, image::ColorType::Rgb8).unwrap();
}

/// A model of good parts, and other parts of both classes.
fn model_and_parts(folder: &Path) -> (Package, Dataset) {
    normals(&BELT, 12).for_each(|part| save(&part, &folder.join("training/normal")));
    for number in 0..12 {
        let part = render_part(&BELT, number);
        save(&part, &folder.join("test").join(if part.defect.is_some() { "anomaly" } else { "normal" }));
    }
    let request = TrainRequest {
        dataset: Dataset::load(&folder.join("training")).unwrap(),
        test: None,
        model_type: None,
        threshold: None,
        seed: 1,
        backbone: BackboneSource::Bundled,
        threads: NonZeroUsize::MIN,
        project: "formats".to_owned(),
        version: "1".to_owned(),
        framing: FramingRequest::default(),
        time: Timestamp::UNIX_EPOCH,
    };
    (train(&request, &Silent).unwrap().package, Dataset::load(&folder.join("test")).unwrap())
}

#[test]
fn a_kept_variant_is_a_whole_package_whose_scores_are_near() {
    let folder = tempfile::tempdir().unwrap();
    let (package, parts) = model_and_parts(folder.path());
    let views = cut_views(&package, &parts, &Silent).unwrap();
    assert_eq!(views.len(), 12);
    let made = variants(&package, &views, &Silent).unwrap();
    let whole: Vec<usize> = made.iter().filter(|one| one.format == Format::Int8).map(|one| one.convolutions).collect();
    assert!(whole.len() >= 4 && whole.is_sorted_by(|a, b| a > b) && whole[0] == made[0].of, "{whole:?}");
    let again = variants(&package, &views, &Silent).unwrap();
    assert!(made.iter().zip(&again).all(|(one, other)| one.onnx() == other.onnx()), "other bytes");

    let half = made.last().unwrap();
    assert_eq!(half.format, Format::Float16);
    assert!(half.largest_change > 0.0 && half.largest_change < 0.02, "{}", half.largest_change);
    assert!(half.onnx().len() < package.onnx().len() * 3 / 4, "weights of 16 bits take less room");
    let few = &made[whole.len() - 1];
    assert!(few.largest_change > 0.0 && few.largest_change < 0.05, "{}", few.largest_change);
    assert!(made[0].onnx().len() < few.onnx().len(), "the more whole numbers, the smaller the file");

    let out = folder.path().join("int8");
    write(&few.package(&package).unwrap(), &out, |_| Ok(())).unwrap();
    let read = Package::read(&out).unwrap();
    assert_ne!(read.info().onnx_sha256, package.info().onnx_sha256);
    assert_eq!(read.golden().len(), package.golden().len());
    assert_eq!(read.info().threshold, package.info().threshold);
    // Opening it lets it score its golden pictures.
    let mut variant = Detector::open(&out, &DetectorOptions::default()).unwrap();
    let mut own = Detector::from_package(&package, &DetectorOptions::default()).unwrap();
    for view in &views {
        let view = FrameView::rgb(256, 256, view).unwrap();
        let change = variant.score_view(&view).unwrap() - own.score_view(&view).unwrap();
        assert!(change.abs() <= few.largest_change + 1e-6, "{change}");
    }

    let twice = variants(&made[0].package(&package).unwrap(), &views, &Silent).unwrap_err();
    assert!(matches!(twice, OptimizeError::Graph { .. }), "{twice}");
    assert!(twice.to_string().contains("turned already"), "{twice}");
}

#[test]
fn nothing_is_kept_that_moves_scores_too_far_or_is_not_faster() {
    let folder = tempfile::tempdir().unwrap();
    let (package, parts) = model_and_parts(folder.path());
    let strict = optimize(&package, &parts, Terms { bound: 1e-9, threads: 1 }, &Silent).unwrap();
    assert!(strict.package.is_none());
    assert!(strict.trials.iter().all(|trial| !trial.kept && trial.time_ratio.is_none()));
    assert!(strict.sentences().iter().all(|told| told.contains("scores move too far")), "{:?}", strict.sentences());

    let lenient = optimize(&package, &parts, Terms { bound: 0.9, threads: 1 }, &Silent).unwrap();
    let kept: Vec<_> = lenient.trials.iter().filter(|trial| trial.kept).collect();
    assert_eq!(kept.len(), usize::from(lenient.package.is_some()));
    for (trial, told) in lenient.trials.iter().zip(lenient.sentences()) {
        let is_fast = trial.time_ratio.is_some_and(|ratio| ratio <= 0.97);
        assert!(!trial.kept || is_fast, "{told}");
        assert_eq!(trial.kept, told.ends_with(": kept"), "{told}");
        assert!(trial.time_ratio.is_some() || trial.changed_verdicts > 0, "{told}");
    }
    if let Some(package) = &lenient.package {
        let measured = &package.info().metrics["precision"];
        assert_eq!(measured["trials"].as_array().unwrap().len(), lenient.trials.len());
        assert_eq!(measured["views"], 12);
    }
}
