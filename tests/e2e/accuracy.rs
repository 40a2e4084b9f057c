//! How good models are on real photographs, and what training them takes.

use std::path::Path;

use serde_json::Value;

use crate::support::{cookies, done, files, json, link_into, say, shared, temp, text};

/// Memory of the machine that training must do with.
const TRAINING_MEMORY_BYTES: u64 = 2 << 30;

fn roc_auc(evaluation: &Value) -> f64 {
    evaluation["image"]["roc_auc"].as_f64().unwrap()
}

#[test]
fn thirty_one_normal_cookies_tell_the_test_photographs_apart() {
    let Some(cookies) = cookies() else { return };
    let evaluation = json(&["evaluate", "--model", text(&cookies.model), "--dataset", text(&cookies.test), "--json"]);
    let (auc, f1) = (roc_auc(&evaluation), evaluation["image"]["f1"].as_f64().unwrap());
    let (seconds, memory) = (cookies.training.elapsed.as_secs_f64(), cookies.training.peak_memory_bytes);
    say(format_args!(
        "cookies: ROC AUC {auc:.4}, F1 {f1:.4}; trained in {seconds:.1} s (60 s allowed) with {} MB",
        memory >> 20
    ));
    assert_eq!(evaluation["images"], 22);
    assert!(auc >= 0.98, "{evaluation}");
    assert!(f1 >= 0.93, "{evaluation}");
    assert!(memory > 0 && memory <= TRAINING_MEMORY_BYTES, "{memory} bytes");
}

#[test]
fn the_cookies_own_manifest_needs_no_option_and_leaves_no_mistake() {
    let (Some(manifest), Some(cookies)) = (shared("cookies/train.manifest"), cookies()) else { return };
    let folder = temp();
    let model = folder.path().join("cookies");
    let report = json(&["train", "--dataset", text(&manifest), "--out", text(&model), "--json"]);
    assert_eq!((&report["type"], &report["normal_images"]), (&"segmentation".into(), &31.into()));
    let names: Vec<&str> =
        report["candidates"].as_array().unwrap().iter().map(|candidate| candidate["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["memory_bank", "gaussian", "image_head", "patch_head", "stack"]);
    assert!(names.contains(&report["algorithm"].as_str().unwrap()), "{report}");
    let held_out = &report["evaluation"];
    assert_eq!(held_out["images"], 63, "every picture is judged by parts that never saw it");
    let (pixel_auc, label) = (held_out["pixel"]["roc_auc"].as_f64().unwrap(), &held_out["labels"][0]);
    assert_eq!((&label["name"], &label["images"]), (&"cracked".into(), &32.into()));
    let evaluation = json(&["evaluate", "--model", text(&model), "--dataset", text(&cookies.test), "--json"]);
    let image = &evaluation["image"];
    say(format_args!(
        "cookies' manifest: {}; held-out pixel ROC AUC {pixel_auc:.4}, {label}; test {image}",
        report["algorithm"]
    ));
    assert!(roc_auc(held_out) >= 0.98 && pixel_auc >= 0.98 && label["iou"].as_f64().unwrap() >= 0.55, "{held_out}");
    for measure in ["precision", "recall", "f1"] {
        assert_eq!(image[measure], 1.0, "{evaluation}");
    }
}

/// The mean over seeds of the ROC AUC on the tiles' test pictures after training on the first `count` normals.
fn tiles(data: &Path, count: usize, seeds: &[&str]) -> f64 {
    let folder = temp();
    let train = folder.path().join("train");
    link_into(&train.join("normal"), &files(&data.join("train/normal"))[..count]);
    let aucs: Vec<f64> = seeds
        .iter()
        .map(|seed| {
            let model = folder.path().join(format!("model-{seed}"));
            done(&["train", "--dataset", text(&train), "--out", text(&model), "--seed", seed]);
            let test = data.join("test");
            roc_auc(&json(&["evaluate", "--model", text(&model), "--dataset", text(&test), "--json"]))
        })
        .collect();
    let mean = aucs.iter().sum::<f64>() / aucs.len() as f64;
    say(format_args!("tiles, {count} normals: ROC AUC {aucs:.4?}, mean {mean:.4}"));
    mean
}

#[test]
fn thirty_tiles_are_enough_for_a_start() {
    let Some(data) = shared("magnetic-tile") else { return };
    let mean = tiles(&data, 30, &["1", "2", "3"]);
    assert!(mean >= 0.76, "{mean}");
}

#[test]
fn two_hundred_tiles_are_better() {
    let Some(data) = shared("magnetic-tile") else { return };
    let mean = tiles(&data, 200, &["1"]);
    assert!(mean >= 0.83, "{mean}");
}
