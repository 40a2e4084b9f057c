//! `linewarden optimize`: what is written, what is not, and why.

use serde_json::Value;

use crate::support::{assert_says, done, failed, json, parts, scores, temp, text};

#[test]
fn a_model_whose_scores_may_not_move_stays_the_only_one() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("faster");
    let arguments = ["optimize", "--model", text(&parts.model), "--dataset", text(&parts.test), "--out", text(&out)];
    let told = done(&[&arguments[..], &["--bound", "0.000000001"]].concat()).stdout;
    assert_says(&told, &["int8 in", "float16 in", "scores move too far", "Nothing was written"]);
    assert!(!out.exists());
}

#[test]
fn a_faster_package_scores_like_the_model_it_is_from() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("faster");
    let bound = 0.3;
    let answer = json(&[
        "optimize",
        "--model",
        text(&parts.model),
        "--dataset",
        text(&parts.test),
        "--bound",
        "0.3",
        "--out",
        text(&out),
        "--json",
    ]);
    let trials = answer["trials"].as_array().unwrap();
    let kept = trials.iter().filter(|trial| trial["kept"] == true).count();
    // Which one is faster is the machine's to say.
    assert_eq!(kept, usize::from(out.exists()), "{answer}");
    assert_eq!(answer["out"] == Value::Null, kept == 0, "{answer}");
    if kept == 1 {
        let pictures = [parts.test.join("anomaly/03.png")];
        let change = scores(&out, &pictures)[0] - scores(&parts.model, &pictures)[0];
        assert!(change.abs() <= bound, "{change}");
        assert!(out.join("EvaluationResult.json").exists() && out.join("report.html").exists());
    }
}

#[test]
fn pictures_that_the_model_knows_prove_nothing() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("faster");
    let arguments = ["optimize", "--model", text(&parts.model), "--dataset", text(&parts.train), "--out", text(&out)];
    assert_says(&failed(2, &arguments), &["trained on", "give other"]);
    assert!(!out.exists());
}

#[test]
fn a_format_for_another_machine_is_a_matter_of_scores_alone() {
    let (folder, parts) = (temp(), parts());
    for format in ["float16", "int8"] {
        let out = folder.path().join(format);
        let arguments =
            ["optimize", "--model", text(&parts.model), "--dataset", text(&parts.test), "--format", format, "--out"];
        let strict = failed(1, &[&arguments[..], &[text(&out), "--bound", "0.000000001"]].concat());
        assert_says(&strict, &["no such format keeps the scores", &format!("{format} in"), "scores move too far"]);
        assert!(!out.exists());
        let answer = json(&[&arguments[..], &[text(&out), "--bound", "0.5", "--json"]].concat());
        let trials = answer["trials"].as_array().unwrap();
        assert!(trials.iter().all(|trial| trial["format"] == format && trial["time_ms"] == Value::Null), "{answer}");
        assert_eq!(trials.iter().filter(|trial| trial["kept"] == true).count(), 1, "{answer}");
        let pictures = [parts.test.join("anomaly/03.png")];
        let change = scores(&out, &pictures)[0] - scores(&parts.model, &pictures)[0];
        assert!(change.abs() <= 0.5, "{change}");
    }
    // Which pictures it knows is only told: scores of others are not what decides here.
    let out = folder.path().join("known");
    let known = ["optimize", "--model", text(&parts.model), "--dataset", text(&parts.train), "--format", "float16"];
    let told = done(&[&known[..], &["--bound", "0.5", "--out", text(&out)]].concat());
    assert_says(&told.stderr, &["trained on"]);
    assert_says(&told.stdout, &["kept, not timed", "is the turned one"]);
}
