//! Measures against tables worked out by hand.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

mod forty;

use std::fs;
use std::time::Duration;

use forty::forty;
use linewarden_train::dataset::{Class, Dataset, LabelColor, LabelPicture};
use linewarden_train::evaluation::{
    Confusion, Evaluator, Interval, Judged, ModelIdentity, PixelScores, ScoreMap, TypeAccuracy, average_precision,
    confusion, intervals, percentile, precision_recall_curve, regions, reliability, roc_auc, roc_curve,
    write_evaluation_manifest, write_evaluation_result,
};
use serde_json::{Value, json};

fn close(one: Option<f64>, other: f64) -> bool {
    one.is_some_and(|one| (one - other).abs() < 1e-9)
}

#[test]
fn roc_auc_counts_won_pairs_and_halves_of_ties() {
    for (scores, truths, expected) in [
        (vec![0.1, 0.2, 0.8, 0.9], vec![false, false, true, true], 1.0),
        (vec![0.9, 0.8, 0.2, 0.1], vec![false, false, true, true], 0.0),
        (vec![0.1, 0.4, 0.35, 0.8], vec![false, false, true, true], 0.75),
        (vec![0.5, 0.5, 0.5, 0.5], vec![false, true, false, true], 0.5),
        // Pairs: 0.5 ties with 0.5 (a half), beats 0.2; 0.7 beats both.
        (vec![0.5, 0.2, 0.5, 0.7], vec![false, false, true, true], 3.5 / 4.0),
    ] {
        assert!(close(roc_auc(&scores, &truths), expected), "{scores:?}: {:?}", roc_auc(&scores, &truths));
    }
    assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
    assert_eq!(roc_auc(&[], &[]), None);
}

#[test]
fn average_precision_weighs_precision_by_gained_recall() {
    for (scores, truths, expected) in [
        (vec![0.1, 0.4, 0.35, 0.8], vec![false, false, true, true], 0.5 * 1.0 + 0.5 * (2.0 / 3.0)),
        (vec![0.9, 0.8, 0.7], vec![true, false, true], 0.5 * 1.0 + 0.5 * (2.0 / 3.0)),
        // One threshold for all: half of them are anomalies.
        (vec![0.5, 0.5, 0.5, 0.5], vec![false, true, false, true], 0.5),
    ] {
        assert!(close(average_precision(&scores, &truths), expected), "{scores:?}");
    }
    assert_eq!(average_precision(&[0.3], &[false]), None);
}

#[test]
fn verdicts_start_at_the_threshold_itself() {
    let table = confusion(&[0.5, 0.49, 0.9, 0.1, 0.7], &[true, true, true, false, false], 0.5);
    let expected = Confusion { true_positives: 2, false_positives: 1, true_negatives: 1, false_negatives: 1 };
    assert_eq!(table, expected);
    let two_thirds = 2.0 / 3.0;
    assert!([table.precision(), table.recall(), table.f1()].iter().all(|measure| close(Some(*measure), two_thirds)));
    assert!(close(Some(table.iou()), 0.5));
}

#[test]
fn empty_classes_have_measures_too() {
    let measures = |true_positives, false_positives, false_negatives| {
        let table = Confusion { true_positives, false_positives, true_negatives: 5, false_negatives };
        (table.precision(), table.recall(), table.f1())
    };
    assert_eq!(measures(0, 0, 0), (1.0, 1.0, 1.0), "nothing to find, nothing found");
    assert_eq!(measures(0, 3, 0), (0.0, 0.0, 0.0), "nothing to find, something found");
    assert_eq!(measures(0, 0, 3), (0.0, 0.0, 0.0), "something to find, nothing found");
}

/// Expected values: scikit-learn 1.9 (`roc_auc_score`, `average_precision_score`, `precision_score`, ...).
#[test]
fn measures_of_forty_pictures_agree_with_scikit_learn() {
    let (scores, truths) = forty();
    assert!(close(roc_auc(&scores, &truths), 0.933_593_75));
    assert!(close(average_precision(&scores, &truths), 0.884_083_721_629_677_5));
    let table = confusion(&scores, &truths, 0.5);
    let expected = Confusion { true_positives: 9, false_positives: 1, true_negatives: 23, false_negatives: 7 };
    assert_eq!(table, expected);
    assert!(close(Some(table.f1()), 0.692_307_692_307_692_3));
}

/// Expected values: scikit-learn's `roc_curve` and `precision_recall_curve` with every threshold kept.
#[test]
fn curves_have_a_point_for_each_distinct_score() {
    let (scores, truths) = forty();
    let roc = roc_curve(&scores, &truths);
    assert_eq!((roc.len(), roc[0], roc[5], *roc.last().unwrap()), (38, (0.0, 0.0), (0.0, 0.3125), (1.0, 1.0)));
    let area: f64 = roc.windows(2).map(|pair| (pair[1].0 - pair[0].0) * f64::midpoint(pair[0].1, pair[1].1)).sum();
    assert!(close(Some(area), 0.933_593_75));
    let steps = precision_recall_curve(&scores, &truths);
    // At the tie of a normal and an anomaly: 6 of 7 are anomalies.
    assert_eq!((steps.len(), steps[0], steps[4]), (37, (0.0625, 1.0), (0.3125, 1.0)));
    assert!((steps[5].0 - 0.375).abs() < 1e-9 && (steps[5].1 - 6.0 / 7.0).abs() < 1e-9);
    assert_eq!((roc_curve(&[0.5], &[true]), precision_recall_curve(&[0.5], &[false])), (vec![], vec![]));
}

/// Expected values: scikit-learn's `brier_score_loss` and `calibration_curve` with ten uniform bins.
#[test]
fn reliability_agrees_with_scikit_learn() {
    let (scores, truths) = forty();
    let reliability = reliability(&scores, &truths).unwrap();
    assert!(close(Some(reliability.brier), 0.117_036_75));
    assert!(close(Some(reliability.ece), 0.1512));
    let images: Vec<usize> = reliability.bins.iter().map(|bin| bin.images).collect();
    assert_eq!(images, [16, 4, 2, 4, 4, 3, 4, 2, 1]);
    let fifth = &reliability.bins[4];
    assert!(close(Some(fifth.mean_score), 0.448) && close(Some(fifth.anomalous), 0.5));
    assert!((fifth.from, fifth.to) == (0.4, 0.5));
}

/// Expected ends: 4000 stratified draws with numpy, measured by scikit-learn. Another generator of random numbers draws
/// other pictures, so that the ends agree up to a step or two of these few pictures.
#[test]
fn bootstrap_intervals_agree_with_an_independent_one() {
    let (scores, truths) = forty();
    let found = intervals(&scores, &truths, 0.5).unwrap();
    for (name, Interval { low, high }, expected) in [
        ("ROC AUC", found.roc_auc, (0.844, 0.995)),
        ("average precision", found.average_precision, (0.753, 0.993)),
        ("precision", found.precision, (0.7, 1.0)),
        ("recall", found.recall, (0.3125, 0.8125)),
        ("F1", found.f1, (0.4545, 0.8667)),
    ] {
        assert!((low - expected.0).abs() < 0.03 && (high - expected.1).abs() < 0.03, "{name}: {low} to {high}");
    }
    assert_eq!(intervals(&scores, &truths, 0.5), Some(found), "the same pictures have the same intervals");
    assert_eq!(intervals(&[0.1, 0.9], &[true, true], 0.5), None);
}

#[test]
fn percentiles_are_nearest_rank() {
    let values = [15.0, 20.0, 35.0, 40.0, 50.0];
    for (percent, expected) in [(0.0, 15.0), (5.0, 15.0), (30.0, 20.0), (40.0, 20.0), (50.0, 35.0), (100.0, 50.0)] {
        assert_eq!(percentile(&values, percent), Some(expected), "{percent}");
    }
    assert_eq!(percentile(&[], 50.0), None);
}

fn mask(width: usize, labels: &[u8]) -> LabelPicture {
    LabelPicture { width, height: labels.len() / width, labels: labels.to_vec() }
}

fn map(width: usize, values: &[f32]) -> ScoreMap {
    ScoreMap { width, height: values.len() / width, values: values.to_vec() }
}

#[test]
fn regions_connect_over_corners() {
    #[rustfmt::skip]
    let (numbers, sizes) = regions(&mask(5, &[
        1, 0, 0, 0, 2,
        0, 1, 0, 0, 2,
        0, 0, 0, 0, 0,
        1, 1, 1, 1, 1,
    ]));
    assert_eq!(sizes, [2, 2, 5]);
    assert_eq!(numbers[..10], [1, 0, 0, 0, 2, 0, 1, 0, 0, 2]);
}

#[test]
fn pixel_roc_auc_agrees_with_the_exact_one() {
    let mut pixels = PixelScores::default();
    let mut state = 7_u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let (mut scores, mut truths) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let labels: Vec<u8> = (0..64 * 64).map(|_| u8::from(random() % 10 == 0)).collect();
        let values: Vec<f32> =
            labels.iter().map(|&label| random() as f32 / (1 << 24) as f32 + f32::from(label) * 0.3).collect();
        scores.extend(values.iter().map(|&value| f64::from(value)));
        truths.extend(labels.iter().map(|&label| label != 0));
        pixels.add_masked(&map(64, &values), &mask(64, &labels));
    }
    let (binned, exact) = (pixels.roc_auc().unwrap(), roc_auc(&scores, &truths).unwrap());
    assert!((binned - exact).abs() < 1e-4, "{binned} {exact}");
    assert_eq!(PixelScores::default().roc_auc(), None);
}

#[test]
fn aupro_weighs_regions_not_pixels() {
    // Two regions, of one pixel and of four; ten normal pixels.
    let truth = mask(5, &[1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]);
    let scored = |small: f32, large: f32, normal: [f32; 10]| {
        let mut normal = normal.into_iter();
        let mut value = |index: usize| match index {
            0 => small,
            2 | 3 | 7 | 8 => large,
            _ => normal.next().unwrap(),
        };
        let mut pixels = PixelScores::default();
        pixels.add_masked(&map(5, &(0..15).map(&mut value).collect::<Vec<_>>()), &truth);
        pixels.aupro(0.3)
    };
    let low = [0.1; 10];
    // Both regions found before any normal pixel: 1 from the start.
    assert!(close(scored(0.9, 0.8, low), 1.0));
    // The large one alone: the curve starts at a half, then one tie of all ten normals and the small region takes it to
    // (1, 1). At 0.3 it has 0.65: the area is 0.3 * (0.5 + 0.65) / 2.
    assert!(close(scored(0.1, 0.8, low), f64::midpoint(0.5, 0.65)));
    // Two normals score above everything: (0.2, 0), then both regions: (0.2, 1), flat to 0.3.
    let mut two_high = low;
    two_high[..2].fill(0.95);
    assert!(close(scored(0.9, 0.9, two_high), 0.1 / 0.3));
    // Regions come last of all.
    assert!(close(scored(0.0, 0.0, low), 0.0));
}

#[test]
fn aupro_needs_regions_and_normal_pixels() {
    let mut pixels = PixelScores::default();
    pixels.add_normal(&map(2, &[0.1, 0.2]), 2, 1);
    assert_eq!(pixels.aupro(0.3), None);
    let mut pixels = PixelScores::default();
    pixels.add_masked(&map(1, &[0.5]), &mask(1, &[1]));
    assert_eq!(pixels.aupro(0.3), None);
}

fn labels() -> [LabelColor; 2] {
    ["scratch", "dent"].map(|name| LabelColor { name: name.to_owned(), hex_color: "#23A436".to_owned() })
}

fn judged(truth: Class, score: f64, time_ms: u64) -> Judged {
    Judged {
        source_ref: format!("s3://bucket/{time_ms}.jpg"),
        labeled_at: None,
        truth,
        score,
        confidence: score.max(1.0 - score),
        map: None,
        truth_mask: None,
        found_mask: None,
        size_px: (4, 2),
        detection_time: Duration::from_millis(time_ms),
    }
}

/// Three pictures of 4x2 pixels: two with anomalies, one without.
fn evaluator() -> Evaluator {
    let mut evaluator = Evaluator::new(0.5, &labels());
    evaluator.add(&Judged {
        map: Some(map(4, &[0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.1, 0.1])),
        truth_mask: Some(mask(4, &[1, 1, 0, 0, 1, 1, 0, 0])),
        // Half of the columns of the picture: each cell is two pixels. Found where it is, and one cell too many.
        found_mask: Some(mask(2, &[1, 1, 1, 0])),
        ..judged(Class::Anomaly, 0.9, 10)
    });
    evaluator.add(&Judged {
        map: Some(map(4, &[0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])),
        truth_mask: Some(mask(4, &[0, 0, 0, 2, 0, 0, 0, 2])),
        found_mask: Some(mask(4, &[0, 0, 0, 2, 0, 0, 0, 0])),
        ..judged(Class::Anomaly, 0.4, 20)
    });
    evaluator.add(&Judged {
        map: Some(map(1, &[0.05])),
        found_mask: Some(mask(1, &[0])),
        ..judged(Class::Normal, 0.1, 30)
    });
    evaluator
}

#[test]
fn the_answer_of_evaluate_has_the_contract_s_shape_and_values() {
    let evaluation = evaluator().finish();
    // Pixels: 6 anomalous (4 at 0.9, 2 at 0.2) and 18 normal (4 at 0.1, 6 at 0.2, 8 at 0.05).
    let pixel_roc_auc = (4.0 * 18.0 + 2.0 * (12.0 + 6.0 / 2.0)) / (6.0 * 18.0);
    // The curve: (0, 1/2), then with the tie at 0.2 (6/18, 1); at 0.3 it has 0.95.
    let aupro = f64::midpoint(0.5, 0.95);
    let expected = json!({
        "images": 3,
        "threshold": 0.5,
        "image": {"roc_auc": 1.0, "average_precision": 1.0, "precision": 1.0, "recall": 0.5, "f1": 2.0 / 3.0},
        "pixel": {"roc_auc": pixel_roc_auc, "aupro": aupro},
        "labels": [
            {"name": "scratch", "images": 1, "precision": 4.0 / 6.0, "recall": 1.0, "f1": 0.8, "iou": 4.0 / 6.0},
            {"name": "dent", "images": 1, "precision": 1.0, "recall": 0.5, "f1": 2.0 / 3.0, "iou": 0.5}
        ],
        "time_ms": {"mean": 20.0, "p50": 20.0, "p99": 30.0},
        "confusion": {"true_positives": 1, "false_positives": 0, "true_negatives": 1, "false_negatives": 1},
        "false_rejects": {"count": 0, "of": 1, "rate": 0.0, "upper_bound": 0.95},
        // The square of the bound is 0.95: both would have been missed with that chance.
        "misses": {"count": 1, "of": 2, "rate": 0.5, "upper_bound": 0.95_f64.sqrt()},
        // One draw in four has no picture above the threshold, one in four has both.
        "intervals": {
            "method": "stratified percentile bootstrap over the pictures",
            "confidence": 0.95, "resamples": 1000, "seed": 1,
            "roc_auc": {"low": 1.0, "high": 1.0}, "average_precision": {"low": 1.0, "high": 1.0},
            "precision": {"low": 0.0, "high": 1.0}, "recall": {"low": 0.0, "high": 1.0}, "f1": {"low": 0.0, "high": 1.0}
        },
        "reliability": {
            "brier": (0.01 + 0.36 + 0.01) / 3.0,
            "ece": (0.1 + 0.6 + 0.1) / 3.0,
            "bins": [
                {"from": 0.1, "to": 0.2, "images": 1, "mean_score": 0.1, "anomalous": 0.0},
                {"from": 0.4, "to": 0.5, "images": 1, "mean_score": 0.4, "anomalous": 1.0},
                {"from": 0.9, "to": 1.0, "images": 1, "mean_score": 0.9, "anomalous": 1.0}
            ]
        },
        "type_accuracy": {"found": 1, "right": 1, "accuracy": 1.0}
    });
    let found = serde_json::to_value(&evaluation).unwrap();
    assert!(alike(&found, &expected), "{found:#}\n{expected:#}");
    let text = serde_json::to_string(&evaluation).unwrap();
    assert!(text.starts_with(r#"{"images":3,"threshold":0.5,"image":{"roc_auc":1.0,"average_precision":"#), "{text}");
}

/// Equal but for the last digits of numbers.
fn alike(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len() && one.iter().all(|(key, value)| other.get(key).is_some_and(|it| alike(value, it)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| alike(one, other))
        }
        (Value::Number(one), Value::Number(other)) => {
            one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| (one - other).abs() < 1e-9)
        }
        _ => one == other,
    }
}

#[test]
fn without_masks_there_are_no_pixel_measures_and_no_labels() {
    let mut evaluator = Evaluator::new(0.5, &labels());
    let map = Some(map(1, &[0.3]));
    evaluator.add(&Judged { map: map.clone(), ..judged(Class::Normal, 0.1, 1) });
    evaluator.add(&Judged { map, found_mask: Some(mask(1, &[1])), ..judged(Class::Anomaly, 0.9, 1) });
    let found = serde_json::to_value(evaluator.finish()).unwrap();
    assert_eq!((&found["pixel"], &found["labels"]), (&Value::Null, &json!([])));

    let empty = serde_json::to_value(Evaluator::new(0.5, &[]).finish()).unwrap();
    assert_eq!((&empty["images"], &empty["image"]["roc_auc"]), (&json!(0), &Value::Null));
}

#[test]
fn the_type_of_an_anomaly_is_its_largest_label() {
    let mut evaluator = Evaluator::new(0.5, &labels());
    for (score, truth, found) in [
        // More of the dent than of the scratch, in truth and as found, though not in the same place.
        (0.9, [1, 2, 2, 0], [2, 2, 1, 0]),
        // The wrong one.
        (0.9, [1, 1, 2, 0], [2, 2, 1, 0]),
        // Found, but nowhere.
        (0.9, [1, 1, 2, 0], [0, 0, 0, 0]),
        // Missed, so that its type does not count.
        (0.1, [1, 1, 2, 0], [0, 0, 0, 0]),
    ] {
        let (truth_mask, found_mask) = (Some(mask(2, &truth)), Some(mask(2, &found)));
        evaluator.add(&Judged { truth_mask, found_mask, ..judged(Class::Anomaly, score, 1) });
    }
    let expected = TypeAccuracy { found: 3, right: 1, accuracy: Some(1.0 / 3.0) };
    assert_eq!(evaluator.finish().type_accuracy, Some(expected));

    let mut single = Evaluator::new(0.5, &labels()[..1]);
    let (truth_mask, found_mask) = (Some(mask(1, &[1])), Some(mask(1, &[1])));
    single.add(&Judged { truth_mask, found_mask, ..judged(Class::Anomaly, 0.9, 1) });
    assert_eq!(single.finish().type_accuracy, None, "with one label there is nothing to tell apart");
}

#[test]
fn maps_and_masks_with_missing_cells_are_left_out() {
    let mut evaluator = Evaluator::new(0.5, &labels());
    let torn_mask = LabelPicture { width: 4, height: 2, labels: vec![1; 7] };
    let torn_map = ScoreMap { width: 4, height: 2, values: vec![0.5; 7] };
    for (map, truth_mask, found_mask) in [
        (torn_map, mask(4, &[1; 8]), torn_mask.clone()),
        (map(1, &[0.5]), torn_mask, mask(1, &[1])),
        (map(1, &[]), mask(4, &[]), mask(1, &[])),
    ] {
        evaluator.add(&Judged {
            map: Some(map),
            truth_mask: Some(truth_mask),
            found_mask: Some(found_mask),
            ..judged(Class::Anomaly, 0.9, 1)
        });
    }
    let evaluation = evaluator.finish();
    assert_eq!(evaluation.images, 3);
    assert!(evaluation.pixel.is_some_and(|pixel| pixel.roc_auc.is_none() && pixel.aupro.is_none()));
}

fn identity() -> ModelIdentity {
    ModelIdentity {
        model_arn: "arn:aws:lookoutvision:local:0:model/cookies/1".to_owned(),
        project_name: "cookies".to_owned(),
        model_version: "1".to_owned(),
        training_images: 63,
        ended_at: "2026-01-02T03:04:05Z".parse().unwrap(),
    }
}

#[test]
fn the_evaluation_result_has_the_guide_s_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("EvaluationResult.json");
    write_evaluation_result(&path, &evaluator().finish(), &identity()).unwrap();
    let found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let two_thirds = 2.0 / 3.0;
    let expected = json!({
        "Version": 1,
        "EvaluationDetails": {
            "ModelArn": "arn:aws:lookoutvision:local:0:model/cookies/1",
            "EvaluationEndTimestamp": "2026-01-02T03:04:05.000000",
            "NumberOfTrainingImages": 63,
            "NumberOfTestingImages": 3
        },
        "AggregatedEvaluationResults": {"Metrics": {
            "ROCAUC": 1.0, "AveragePrecision": 1.0, "Precision": 1.0, "Recall": 0.5, "F1Score": two_thirds,
            "PixelAnomalyClassMetrics": [
                {"Precision": two_thirds, "Recall": 1.0, "F1Score": 0.8, "AIIOU": two_thirds, "ClassName": "scratch"},
                {"Precision": 1.0, "Recall": 0.5, "F1Score": two_thirds, "AIIOU": 0.5, "ClassName": "dent"}
            ]
        }}
    });
    assert!(alike(&found, &expected), "{found:#}");

    // The guide lists the labels that the test pictures show: nobody has seen a dent here.
    let mut scratches = Evaluator::new(0.5, &labels());
    let (truth_mask, found_mask) = (Some(mask(1, &[1])), Some(mask(1, &[1])));
    scratches.add(&Judged { truth_mask, found_mask, ..judged(Class::Anomaly, 0.9, 1) });
    write_evaluation_result(&path, &scratches.finish(), &identity()).unwrap();
    let found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let classes = &found["AggregatedEvaluationResults"]["Metrics"]["PixelAnomalyClassMetrics"];
    assert_eq!((classes.as_array().unwrap().len(), &classes[0]["ClassName"]), (1, &json!("scratch")));

    let mut classification = Evaluator::new(0.5, &[]);
    classification.add(&judged(Class::Anomaly, 0.9, 1));
    write_evaluation_result(&path, &classification.finish(), &identity()).unwrap();
    let found: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let metrics = &found["AggregatedEvaluationResults"]["Metrics"];
    assert_eq!((metrics.get("PixelAnomalyClassMetrics"), &metrics["ROCAUC"]), (None, &Value::Null));
}

#[test]
fn the_evaluation_manifest_has_the_guide_s_lines_and_loads_as_a_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("EvaluationManifest.jsonl");
    let labeled_at = Some("2020-05-22T21:33:37.201882Z".parse().unwrap());
    let mut evaluator = Evaluator::new(0.5, &[]);
    evaluator.add(&Judged { labeled_at, ..judged(Class::Anomaly, 0.25, 1) });
    evaluator.add(&judged(Class::Normal, 0.125, 2));
    write_evaluation_manifest(&path, &evaluator.finish(), &identity()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let first = concat!(
        r#"{"source-ref":"s3://bucket/1.jpg","source-ref-metadata":{"creation-date":"2020-05-22T21:33:37.201882"},"#,
        r#""anomaly-label":1,"anomaly-label-metadata":{"class-name":"anomaly","type":"groundtruth/image-classification","#,
        r#""human-annotated":"yes","creation-date":"2020-05-22T21:33:37.201882","job-name":"labeling-job/anomaly-detection"},"#,
        r#""anomaly-label-detected":0,"anomaly-label-detected-metadata":{"class-name":"normal","confidence":0.75,"#,
        r#""type":"groundtruth/image-classification","human-annotated":"no","creation-date":"2026-01-02T03:04:05.000000","#,
        r#""job-name":"training-job/anomaly-detection","model-arn":"arn:aws:lookoutvision:local:0:model/cookies/1","#,
        r#""project-name":"cookies","model-version":"1"}}"#,
    );
    assert_eq!(text.lines().next(), Some(first));
    assert_eq!(text.lines().count(), 2);

    for name in ["1.jpg", "2.jpg"] {
        image::RgbImage::new(64, 64).save(folder.path().join(name)).unwrap();
    }
    let loaded = Dataset::load(&path).unwrap();
    assert_eq!((loaded.normals().count(), loaded.anomalies().count()), (1, 1), "the truth, not what was detected");
}
