//! What `--json` prints is one document of a fixed shape, and every command's help has examples.

use std::path::Path;

use serde_json::Value;

use crate::support::{done, json, keys, parts, temp, text};

#[test]
fn every_help_has_examples() {
    let commands: [&[&str]; 10] = [
        &["train"],
        &["evaluate"],
        &["threshold"],
        &["optimize"],
        &["detect"],
        &["dataset"],
        &["dataset", "check"],
        &["dataset", "from-csv"],
        &["dataset", "from-folder"],
        &["run"],
    ];
    for command in commands {
        let help = done(&[command, &["--help"]].concat()).stdout;
        let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{command:?} has none: {help}"));
        let call = format!("  linewarden {}", command.join(" "));
        assert!(examples.starts_with(&call), "{command:?}: {examples}");
    }
}

/// A promise whose test is gone, or sleeps, is none.
#[test]
fn every_test_that_the_documents_name_is_there_and_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for document in ["README.md", "ARCHITECTURE.md"] {
        let document = std::fs::read_to_string(root.join(document)).unwrap();
        let in_quotes = document.split('`').skip(1).step_by(2);
        for name in in_quotes.filter(|name| name.contains("tests/") && name.contains(".rs")) {
            let (file, test) = name.split_once("::").map_or((name, None), |(file, test)| (file, Some(test)));
            let source = std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(!source.contains("\n#[ignore"), "{file} skips a test");
            if let Some(test) = test {
                assert!(source.contains(&format!("#[test]\nfn {test}()")), "{file} has no test {test}");
                named += 1;
            }
        }
    }
    assert!(named >= 10, "{named}");
}

#[test]
fn the_report_of_a_training_has_this_shape() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("model");
    let (train, test, out) = (text(&parts.train), text(&parts.test), text(&out));
    let report = json(&["train", "--dataset", train, "--test", test, "--type", "segmentation", "--out", out, "--json"]);
    insta::assert_snapshot!(keys(&report));
    assert_eq!(report["type"], "segmentation");
    assert_eq!(report["evaluation"]["images"], 8);
}

#[test]
fn the_report_of_an_evaluation_has_this_shape() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("report");
    let arguments = ["evaluate", "--model", text(&parts.model), "--dataset", text(&parts.test), "--json"];
    let report = json(&[&arguments[..], &["--out", text(&out)]].concat());
    insta::assert_snapshot!(keys(&report));
    assert_eq!(report["labels"][0]["name"], "anomaly");
    let result: Value = serde_json::from_slice(&std::fs::read(out.join("EvaluationResult.json")).unwrap()).unwrap();
    assert!(result.is_object());
    let manifest = std::fs::read_to_string(out.join("EvaluationManifest.jsonl")).unwrap();
    assert_eq!(manifest.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count(), 8);
}

#[test]
fn the_answer_of_a_detection_has_this_shape() {
    let parts = parts();
    let picture = parts.test.join("anomaly/03.png");
    let answer = json(&["detect", "--model", text(&parts.model), "--json", text(&picture)]);
    insta::assert_snapshot!(keys(&answer));
    let result = &answer[0]["DetectAnomalyResult"];
    assert_eq!(result["IsAnomalous"], true);
    assert_eq!(answer[0]["file"], text(&picture));
    let names: Vec<&str> =
        result["Anomalies"].as_array().unwrap().iter().map(|anomaly| anomaly["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["background", "anomaly"]);
}

#[test]
fn the_report_of_a_check_has_this_shape() {
    let report = json(&["dataset", "check", text(&parts().test), "--json"]);
    insta::assert_snapshot!(keys(&report));
    assert_eq!((&report["normals"], &report["anomalies"], &report["masks"]), (&4.into(), &4.into(), &4.into()));
}
