//! `linewarden train --extend`: more normal pictures, without the old ones.

use std::fs;
use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use serde_json::Value;

use crate::support::{
    PART_NORMALS, assert_says, done, failed, files, json, parts, program, scores, temp, text, workshop,
    write_anomalies, write_normals,
};

/// Good parts that the model of [`parts`] has not seen.
const NEW: usize = 6;

fn new_parts(folder: &Path) -> PathBuf {
    let new = folder.join("new");
    write_normals(&new, NEW, 3);
    new
}

fn normals_in(model: &Path) -> u64 {
    let info: Value = serde_json::from_slice(&fs::read(model.join("model.json")).unwrap()).unwrap();
    info["dataset"]["normal"].as_u64().unwrap()
}

/// What a line's scores are compared with.
fn normal_scores_in(model: &Path) -> Vec<f64> {
    let info: Value = serde_json::from_slice(&fs::read(model.join("model.json")).unwrap()).unwrap();
    info["normal_scores"].as_array().unwrap().iter().map(|score| score.as_f64().unwrap()).collect()
}

/// A package with all that lies beside its own files.
fn copy_of(model: &Path, copy: &Path) {
    fs::create_dir_all(copy).unwrap();
    for entry in files(model) {
        let target = copy.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_of(&entry, &target);
        } else {
            fs::copy(&entry, &target).unwrap();
        }
    }
}

#[test]
fn an_extended_model_knows_old_and_new_pictures_and_says_how_scores_moved() {
    let folder = temp();
    let (new, out) = (new_parts(folder.path()), folder.path().join("wider"));
    // One of the old pictures under another name.
    fs::copy(parts().train.join("normal/03.png"), new.join("normal/again.png")).unwrap();
    let model = parts().model.clone();
    let (test, before) = (text(&parts().test), fs::read(model.join("model.json")).unwrap());
    let answer = json(&[
        "train",
        "--extend",
        text(&model),
        "--dataset",
        text(&new),
        "--test",
        test,
        "--out",
        text(&out),
        "--json",
    ]);
    let moved = &answer["moved"];
    assert_eq!(moved["old_pictures"], PART_NORMALS);
    assert_eq!(moved["new_pictures"], NEW);
    assert_eq!(moved["known_pictures"], 1);
    assert_eq!(moved["old_before"]["pictures"], PART_NORMALS);
    assert_eq!(moved["old_after"]["pictures"], PART_NORMALS);
    assert_eq!(moved["new_after"]["pictures"], NEW);
    assert!(moved["new_before"]["median"].as_f64() <= moved["new_before"]["highest"].as_f64(), "{moved}");
    assert_eq!(moved["test"][1]["roc_auc"].as_f64(), answer["evaluation"]["image"]["roc_auc"].as_f64());
    assert_eq!(normals_in(&out), (PART_NORMALS + NEW) as u64);
    for (package, pictures) in [(&model, PART_NORMALS), (&out, PART_NORMALS + NEW)] {
        let scores = normal_scores_in(package);
        assert_eq!(scores.len(), pictures, "each normal picture was held out once");
        assert!(scores.is_sorted() && scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    }
    let info: Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(answer["extended_from"], info["onnx_sha256"]);
    assert_eq!(answer["version"], "2");
    assert_eq!(answer["project"], info["project"]);
    assert_eq!(fs::read(model.join("model.json")).unwrap(), before, "the model itself must stay as it is");

    // It has not forgotten what the old pictures were like, and still finds defects.
    let (old, defects) = (files(&parts().train.join("normal")), files(&parts().test.join("anomaly")));
    assert!(scores(&out, &old).iter().all(|&score| score < 0.5), "old parts are rejected");
    assert!(scores(&out, &defects).iter().all(|&score| score >= 0.5), "defects pass");

    // And can be extended in turn.
    let more = folder.path().join("more");
    write_normals(&more, 3, 4);
    let words =
        done(&["train", "--extend", text(&out), "--dataset", text(&more), "--out", text(&folder.path().join("w"))]);
    assert_says(&words.stdout, &["To 18 normal pictures 3 were added", "new pictures, before", "old pictures, now"]);
    assert_eq!(normals_in(&folder.path().join("w")), (PART_NORMALS + NEW + 3) as u64);
}

#[test]
fn what_does_not_come_along_into_the_extended_model_is_said() {
    let folder = temp();
    let (new, model) = (new_parts(folder.path()), folder.path().join("model"));
    write_anomalies(&new, 2);
    copy_of(&parts().model, &model);
    done(&["threshold", "--model", text(&model), "--set", "0.62", "--write"]);
    let extend = ["train", "--extend", text(&model), "--dataset", text(&new), "--out"];
    let words = done(&[&extend[..], &[text(&folder.path().join("a"))]].concat()).stdout;
    assert_says(&words, &["threshold is 0.5 again", "0.62", "labelled anomalies only measured it"]);
    // The old pictures count among those that vouch for a threshold: the new ones alone are too few.
    let other = folder.path().join("b");
    let wish = [text(&other), "--target-false-reject", "20%"];
    let words = done(&[&extend[..], &wish].concat()).stdout;
    assert!(!words.contains("threshold is 0.5 again"), "{words}");
}

#[test]
fn extending_is_like_training_with_all_pictures_at_once() {
    let folder = temp();
    let (new, all) = (new_parts(folder.path()), folder.path().join("all"));
    for (prefix, from) in [("a", parts().train.join("normal")), ("b", new.join("normal"))] {
        fs::create_dir_all(all.join("normal")).unwrap();
        for file in files(&from) {
            let name = format!("{prefix}{}", file.file_name().unwrap().to_str().unwrap());
            fs::copy(&file, all.join("normal").join(name)).unwrap();
        }
    }
    let (extended, at_once) = (folder.path().join("extended"), folder.path().join("at-once"));
    done(&["train", "--extend", text(&parts().model), "--dataset", text(&new), "--out", text(&extended)]);
    done(&["train", "--dataset", text(&all), "--type", "segmentation", "--out", text(&at_once)]);
    let pictures: Vec<PathBuf> =
        ["normal", "anomaly"].iter().flat_map(|class| files(&parts().test.join(class))).collect();
    for ((picture, one), other) in pictures.iter().zip(scores(&extended, &pictures)).zip(scores(&at_once, &pictures)) {
        // Patches kept in 16 bits lead the bank to other members, which measure the same.
        assert!(
            (one - other).abs() < 0.1 && (one < 0.5) == (other < 0.5),
            "{}: {one} extended, {other} at once",
            picture.display()
        );
    }
}

#[test]
fn the_same_pictures_extend_to_the_same_bytes() {
    let folder = temp();
    let new = new_parts(folder.path());
    let extended = |threads: &str| {
        let out = folder.path().join(format!("threads-{threads}/model"));
        let mut command = program(&[
            "train",
            "--extend",
            text(&parts().model),
            "--dataset",
            text(&new),
            "--out",
            text(&out),
            "--threads",
            threads,
        ]);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        assert!(command.output().unwrap().status.success());
        ["model.onnx", "model.json", "training/training.json", "training/patches.f16"]
            .map(|name| fs::read(out.join(name)).unwrap())
    };
    assert!(extended("1") == extended("2"), "the number of threads shows");
}

#[test]
fn what_cannot_be_extended_is_refused_with_the_way_out() {
    let folder = temp();
    let new = new_parts(folder.path());
    let refused = |code: i32, model: &Path, dataset: &Path, words: &[&str]| {
        let out = folder.path().join("never");
        let message =
            failed(code, &["train", "--extend", text(model), "--dataset", text(dataset), "--out", text(&out)]);
        assert_says(&message, words);
        assert!(!out.exists(), "something was written");
    };
    let model = parts().model.clone();
    refused(1, &model, &parts().train, &["learnt from each of the 12 normal pictures"]);
    refused(2, &folder.path().join("nowhere"), &new, &["no model package", "nowhere"]);

    let small = folder.path().join("small");
    fs::create_dir_all(small.join("normal")).unwrap();
    let picture = image::open(new.join("normal/00.png")).unwrap();
    picture.resize_exact(320, 240, FilterType::Triangle).save(small.join("normal/0.png")).unwrap();
    refused(1, &model, &small, &["640x480", "320x240"]);

    let damaged = folder.path().join("damaged");
    copy_of(&model, &damaged);
    let patches = damaged.join("training/patches.f16");
    let mut bytes = fs::read(&patches).unwrap();
    bytes[1000] ^= 1;
    fs::write(&patches, &bytes).unwrap();
    refused(1, &damaged, &new, &["patches.f16", "SHA-256", "train again"]);
    fs::copy(model.join("training/patches.f16"), &patches).unwrap();
    let index = fs::read_to_string(model.join("training/training.json")).unwrap();
    let mut wrong: Value = serde_json::from_str(&index).unwrap();
    wrong["pictures"][0]["patches"] = (u64::MAX / 2).into();
    fs::write(damaged.join("training/training.json"), wrong.to_string()).unwrap();
    refused(1, &damaged, &new, &["training.json", "does not describe", "train again"]);
    // Twice as many pictures of half as many channels are as many bytes.
    let mut wrong: Value = serde_json::from_str(&index).unwrap();
    wrong["channels"] = (wrong["channels"].as_u64().unwrap() / 2).into();
    let pictures = wrong["pictures"].as_array().unwrap().clone();
    wrong["pictures"] = [pictures.clone(), pictures].concat().into();
    fs::write(damaged.join("training/training.json"), wrong.to_string()).unwrap();
    refused(1, &damaged, &new, &["channels", "train again"]);
    fs::write(damaged.join("training/training.json"), "{}").unwrap();
    refused(1, &damaged, &new, &["training.json", "missing field", "train again"]);
    fs::remove_dir_all(damaged.join("training")).unwrap();
    refused(1, &damaged, &new, &["training` is missing", "train again with all pictures"]);

    let message = failed(2, &["train", "--extend", text(&model), "--dataset", text(&new), "--out", text(&model)]);
    assert_says(&message, &["--out", "another folder"]);
    let message = failed(
        2,
        &["train", "--extend", text(&model), "--dataset", text(&new), "--tiles", "2x2", "--out", text(&damaged)],
    );
    assert_says(&message, &["--extend", "--tiles"]);
}

#[test]
fn a_model_with_tiles_is_not_extended() {
    let folder = temp();
    let model = folder.path().join("tiled");
    done(&["train", "--dataset", text(&parts().train), "--tiles", "2x1", "--out", text(&model)]);
    assert!(!model.join("training").exists());
    let (new, out) = (new_parts(folder.path()), folder.path().join("never"));
    let message = failed(1, &["train", "--extend", text(&model), "--dataset", text(&new), "--out", text(&out)]);
    assert_says(&message, &["tiles cannot be extended", "train again with all pictures"]);
}

#[test]
fn a_model_that_learnt_from_anomalies_is_not_extended() {
    let folder = temp();
    let labelled = folder.path().join("labelled");
    write_normals(&labelled, 12, 5);
    write_anomalies(&labelled, 6);
    let model = folder.path().join("model");
    done(&["train", "--dataset", text(&labelled), "--out", text(&model)]);
    assert!(!model.join("training").exists());
    let new = new_parts(folder.path());
    let out = workshop().join("never");
    let message = failed(1, &["train", "--extend", text(&model), "--dataset", text(&new), "--out", text(&out)]);
    assert_says(&message, &["training", "labelled anomalies", "train again with all pictures"]);
}
