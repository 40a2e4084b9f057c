//! The same pictures and seed give the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use linewarden_testkit::process::run;

use crate::support::{parts, program, temp, text, write_anomalies, write_normals};

/// Every file below a folder, with its content.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Trains on the normal parts at a moment that is told, and gives the package's files.
fn package(seed: &str, threads: &str) -> BTreeMap<String, Vec<u8>> {
    package_of(&parts().train, seed, threads)
}

fn package_of(dataset: &Path, seed: &str, threads: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = temp();
    // The project takes the folder's name, and must be the same each time.
    let out = folder.path().join("model");
    let arguments =
        ["train", "--dataset", text(dataset), "--type", "segmentation", "--out", text(&out), "--seed", seed];
    let mut command = program(&arguments);
    command.args(["--threads", threads]).env("SOURCE_DATE_EPOCH", "1700000000");
    let finished = run(&mut command).unwrap();
    assert!(finished.status.success(), "{}", finished.stderr);
    contents(&out)
}

#[test]
fn the_same_seed_gives_the_same_package_with_any_number_of_threads() {
    let (one_thread, two_threads) = (package("1", "1"), package("1", "2"));
    let names: Vec<&String> = one_thread.keys().collect();
    assert_eq!(
        names,
        [
            "EvaluationManifest.jsonl",
            "EvaluationResult.json",
            "golden/0.png",
            "golden/1.png",
            "golden/2.png",
            "golden/golden.json",
            "model.json",
            "model.onnx",
            "report.html",
            "training/patches.f16",
            "training/training.json"
        ]
    );
    assert_eq!(one_thread.keys().collect::<Vec<_>>(), two_threads.keys().collect::<Vec<_>>());
    for (name, bytes) in &one_thread {
        assert!(two_threads[name] == *bytes, "`{name}` differs");
    }
    let info = String::from_utf8_lossy(&one_thread["model.json"]);
    assert!(info.contains("2023-11-14T22:13:20"), "{info}");

    // At another moment only what tells the moment differs.
    let now = contents(&parts().model);
    for (name, bytes) in &one_thread {
        let tells_the_moment = name.starts_with("Evaluation") || name == "model.json" || name == "report.html";
        assert!(tells_the_moment || now[name] == *bytes, "`{name}` differs");
    }
    assert_ne!(now["model.json"], one_thread["model.json"]);
}

#[test]
fn learning_from_labelled_anomalies_gives_the_same_package_with_any_number_of_threads() {
    let dataset = temp();
    write_normals(dataset.path(), 10, 5);
    write_anomalies(dataset.path(), 4);
    let (one_thread, two_threads) = (package_of(dataset.path(), "1", "1"), package_of(dataset.path(), "1", "2"));
    assert!(String::from_utf8_lossy(&one_thread["model.json"]).contains("patch_head"), "no mask was learnt from");
    assert_eq!(one_thread.keys().collect::<Vec<_>>(), two_threads.keys().collect::<Vec<_>>());
    for (name, bytes) in &one_thread {
        assert!(two_threads[name] == *bytes, "`{name}` differs");
    }
}

#[test]
fn another_seed_gives_another_model() {
    let other = package("2", "2");
    assert_ne!(fs::read(parts().model.join("model.onnx")).unwrap(), other["model.onnx"]);
}
