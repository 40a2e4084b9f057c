//! Thresholds that are chosen, kept, honoured and taken back, and the page that shows what they do; on a model whose
//! scores follow from the pictures' brightness alone.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_package;
use serde_json::Value;

use crate::support::{assert_says, done, failed, json, keys, parts, temp, text};

const SIDE_PX: u32 = 64;

fn model(folder: &Path, model_type: ModelType) -> PathBuf {
    brightness_package(&folder.join("model"), SIDE_PX, SIDE_PX, model_type).unwrap()
}

/// A grey picture; the brighter, the more anomalous.
fn grey(path: &Path, level: u8) -> PathBuf {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    RgbImage::from_pixel(SIDE_PX, SIDE_PX, Rgb([level; 3])).save(path).unwrap();
    path.to_owned()
}

/// Normals from dark to nearly middle grey, anomalies from there to white.
fn graded(folder: &Path, normals: u8, anomalies: u8) -> PathBuf {
    for index in 0..normals {
        grey(&folder.join(format!("normal/{index:02}.png")), 40 + index);
    }
    for index in 0..anomalies {
        grey(&folder.join(format!("anomaly/{index:02}.png")), 95 + 10 * index);
    }
    folder.to_owned()
}

fn detection(model: &Path, picture: &Path) -> (bool, f64) {
    let answer = json(&["detect", "--model", text(model), "--json", text(picture)]);
    let result = &answer[0]["DetectAnomalyResult"];
    (result["IsAnomalous"].as_bool().unwrap(), result["AnomalyThreshold"].as_f64().unwrap())
}

#[test]
fn a_threshold_from_good_parts_is_honoured_and_can_be_taken_back() {
    let folder = temp();
    let model = model(folder.path(), ModelType::Classification);
    let good = graded(&folder.path().join("good"), 60, 0);
    let doubtful = grey(&folder.path().join("doubtful.png"), 124);
    let description = || fs::read(model.join("model.json")).unwrap();
    let before = description();
    let asked =
        ["threshold", "--model", text(&model), "--dataset", text(&good), "--target-false-reject", "0.5%", "--json"];

    let answer = json(&asked);
    let choice = &answer["choice"];
    assert_eq!((&choice["method"], &choice["normals_needed"]), (&"extrapolated".into(), &598.into()));
    assert_eq!((&choice["rejected"]["count"], &choice["rejected"]["of"]), (&0.into(), &60.into()));
    assert_eq!((&answer["written"], &answer["previous_threshold"]), (&false.into(), &0.5.into()));
    assert_eq!(description(), before, "nothing is changed without `--write`");
    let told = done(&asked[..asked.len() - 1]).stdout;
    assert_says(&told, &["60 held-out normals can only vouch for 4.9 %, not 0.5 %: collect about 600", "extrapolates"]);

    assert_eq!(detection(&model, &doubtful), (false, 0.5));
    let written = json(&[&asked[..], &["--write"]].concat());
    let threshold = written["threshold"].as_f64().unwrap();
    assert!(threshold > 0.39 && threshold < 0.49, "above the brightest good part, below the doubtful one: {threshold}");
    assert_eq!(detection(&model, &doubtful), (true, threshold));
    let shown = done(&["threshold", "--model", text(&model)]).stdout;
    assert_says(&shown, &[&format!("{threshold:.4}"), "instead of 0.5000", "can only vouch for 4.9 %"]);

    done(&["threshold", "--model", text(&model), "--undo"]);
    assert_eq!(description(), before);
    assert_eq!(detection(&model, &doubtful), (false, 0.5));
    done(&["threshold", "--model", text(&model), "--undo"]);
    assert_eq!(detection(&model, &doubtful), (true, threshold), "what was taken back is there again");
}

#[test]
fn wrong_calls_name_the_option_and_what_is_allowed() {
    let folder = temp();
    let model = model(folder.path(), ModelType::Classification);
    let good = graded(&folder.path().join("good"), 12, 0);
    let few = graded(&folder.path().join("few"), 9, 1);
    let (good, few) = (text(&good), text(&few));
    for (arguments, words) in [
        (vec!["--write"], &["--write", "--set", "--target-false-reject"][..]),
        (vec!["--target-false-reject", "1%"], &["--dataset"]),
        (vec!["--dataset", good, "--target-false-reject", "0.5"], &["--target-false-reject", "20%", "this is 50 %"]),
        (vec!["--dataset", good, "--target-false-reject", "zero"], &["`0.5%` or `0.005`"]),
        (
            vec!["--dataset", few, "--target-false-reject", "1%"],
            &["--target-false-reject", "at least 10", "there are 9"],
        ),
        (vec!["--dataset", good, "--cost-miss", "5"], &["--cost-reject"]),
        (vec!["--dataset", good, "--cost-reject", "5"], &["--cost-miss"]),
        (vec!["--dataset", good, "--cost-miss", "0", "--cost-reject", "1"], &["--cost-miss", "above 0"]),
        (vec!["--dataset", good, "--cost-miss", "5", "--cost-reject", "1"], &["--cost-miss", "0 anomalous"]),
        (vec!["--dataset", good, "--defect-rate", "1%"], &["--cost-miss"]),
        (vec!["--dataset", good, "--target-false-reject", "1%", "--defect-rate", "1%"], &["--defect-rate"]),
        (
            vec!["--dataset", good, "--target-false-reject", "1%", "--cost-miss", "5", "--cost-reject", "1"],
            &["--target-false-reject", "--cost-miss"],
        ),
        (vec!["--set", "0"], &["--set", "above 0 and below 1"]),
        (vec!["--set", "0.4", "--target-false-reject", "1%"], &["--set"]),
        (vec!["--undo", "--write"], &["--undo", "--write"]),
    ] {
        let message = failed(2, &[&["threshold", "--model", text(&model)], &arguments[..]].concat());
        assert_says(&message, words);
    }
    let message = failed(1, &["threshold", "--model", text(&model), "--undo"]);
    assert_says(&message, &["keeps no earlier threshold"]);
    let message =
        failed(2, &["evaluate", "--model", text(&model), "--dataset", good, "--cost-miss", "5", "--cost-reject", "1"]);
    assert_says(&message, &["--cost-miss", "0 anomalous"]);
}

#[test]
fn pictures_that_a_model_was_trained_on_choose_no_threshold() {
    let parts = parts();
    let arguments = ["--model", text(&parts.model), "--dataset", text(&parts.train), "--target-false-reject", "5%"];
    let message = failed(2, &[&["threshold"], &arguments[..]].concat());
    assert_says(&message, &["holds the pictures that the model was trained on", "--target-false-reject"]);
}

#[test]
fn training_chooses_the_threshold_from_pictures_that_were_held_out() {
    let (folder, parts) = (temp(), parts());
    let out = folder.path().join("model");
    let arguments = ["train", "--dataset", text(&parts.train), "--out", text(&out)];
    let refused = failed(2, &[&arguments[..], &["--cost-miss", "200", "--cost-reject", "4"]].concat());
    assert_says(&refused, &["--cost-miss", "12 normal and 0 anomalous", "ask for a rate of false rejects"]);
    assert!(!out.exists(), "a wrong call is told before anything is done");

    let report = json(&[&arguments[..], &["--target-false-reject", "1%", "--json"]].concat());
    let (threshold, choice) = (report["threshold"].as_f64().unwrap(), &report["threshold_choice"]);
    assert_eq!((&choice["method"], choice["threshold"].as_f64()), (&"extrapolated".into(), Some(threshold)));
    assert_eq!((&choice["rejected"]["count"], &choice["rejected"]["of"]), (&0.into(), &12.into()));
    assert_eq!(
        (&report["held_out_false_rejects"], &report["evaluation"]["threshold"]),
        (&0.0.into(), &threshold.into())
    );
    assert!(threshold > 0.5, "the usual threshold of 0.5 stands for some 5 %: {threshold}");
    assert_eq!(detection(&out, &parts.test.join("anomaly/03.png")), (true, threshold));
    let shown = done(&["threshold", "--model", text(&out)]).stdout;
    assert_says(
        &shown,
        &["instead of 0.5000", "12 held-out normals can only vouch for 22 %, not 1 %: collect about 300"],
    );
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert_says(&page, &["12 held-out normals can only vouch for 22 %"]);
}

#[test]
fn an_evaluation_says_what_other_thresholds_would_have_cost() {
    let folder = temp();
    let model = model(folder.path(), ModelType::Classification);
    let test = graded(&folder.path().join("test"), 60, 16);
    let arguments = ["evaluate", "--model", text(&model), "--dataset", text(&test), "--json"];
    let report = json(&[&arguments[..], &["--cost-miss", "200", "--cost-reject", "4", "--defect-rate", "2%"]].concat());
    insta::assert_snapshot!(keys(&report));
    let rows = report["what_if"].as_array().unwrap();
    let cost = |row: &Value| row["cost_per_part"].as_f64().unwrap();
    let own = rows.iter().find(|row| row["is_current"] == true).unwrap();
    // From 128 on a picture is brighter than the model's threshold: 95, 105, 115 and 125 are missed.
    assert_eq!((&own["missed"]["count"], &own["rejected"]["count"]), (&4.into(), &0.into()));
    assert!((cost(own) - 0.02 * 200.0 * 4.0 / 16.0).abs() < 1e-9, "{own}");
    let least = rows.iter().map(cost).fold(f64::INFINITY, f64::min);
    let choice = &report["threshold_choice"];
    assert!((cost(choice) - least).abs() < 1e-9, "{choice}");
    // The dimmest anomaly is no brighter than five normals: missing one of 16 (0.25 a part) is cheaper than rejecting
    // five of 60 (0.33).
    assert_eq!((&choice["missed"]["count"], &choice["rejected"]["count"]), (&1.into(), &0.into()));
    // A picture that is right only by luck costs more than it saves: the answer is the evaluation, and why not.
    let pointless = ["--cost-miss", "1", "--cost-reject", "1000", "--defect-rate", "0.01%"];
    grey(&test.join("normal/bright.png"), 255);
    let refused = json(&[&arguments[..], &pointless[..]].concat());
    assert_says(refused["threshold_refusal"].as_str().unwrap(), &["cheapest to pass every part"]);
    assert_eq!((refused.get("threshold_choice"), &refused["images"]), (None, &77.into()));
    let refused = done(&[&arguments[..5], &pointless[..]].concat()).stdout;
    assert_says(&refused, &["No threshold was chosen", "normals rejected"]);
    let told = done(&[&arguments[..5], &["--target-false-reject", "10%"]].concat()).stdout;
    assert_says(&told, &["normals rejected", "the model's own", "The threshold", "which vouches for at most"]);
}

/// Every place in the page from which a browser would load something.
fn loads(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for beginning in [" src=", "href=", "url(", "@import", "http:", "https:", "srcset=", "<script", "<link", "<iframe"]
    {
        found.extend(page.match_indices(beginning).map(|(at, _)| &page[at..page.len().min(at + 60)]));
    }
    let is_harmless = |place: &&str| {
        !place.starts_with(" src=\"data:image/jpeg;base64,") && !place.starts_with("http://www.w3.org/2000/svg\"")
    };
    found.into_iter().filter(is_harmless).collect()
}

#[test]
fn the_page_of_an_evaluation_loads_nothing_and_shows_the_worst_mistakes() {
    let folder = temp();
    let model = model(folder.path(), ModelType::Segmentation);
    let test = graded(&folder.path().join("a <b>test"), 20, 16);
    // As hostile as a file name can be.
    grey(&test.join("normal/<img onerror=alert(1)>&\"'.png"), 250);
    for index in 0..16 {
        let mask = RgbImage::from_fn(SIDE_PX, SIDE_PX, |x, _| if x < 20 { Rgb([200, 0, 0]) } else { Rgb([0; 3]) });
        fs::create_dir_all(test.join("masks")).unwrap();
        mask.save(test.join(format!("masks/{index:02}.png"))).unwrap();
    }
    fs::write(test.join("colors.json"), r##"{"<i>scratch</i> & more": "#C80000"}"##).unwrap();
    let out = folder.path().join("out");
    done(&["evaluate", "--model", text(&model), "--dataset", text(&test), "--out", text(&out)]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert!(!page.contains("<img onerror") && !page.contains("<i>scratch"), "text is escaped");
    assert_says(
        &page,
        &[
            "&lt;img onerror=alert(1)&gt;&amp;&quot;&#39;.png",
            "&lt;i&gt;scratch&lt;/i&gt; &amp; more",
            "Misses: anomalies called normal",
            "False rejects: normals called anomalous",
            "anomaly/00.png",
            "ROC curve",
            "Brier score",
            "average IoU",
            "1000 draws",
            "the model's own",
            "@media print",
            "color-scheme: light dark",
        ],
    );
    assert_eq!(page.matches("<svg ").count(), 4);
    // Four misses and one false reject, each with two pictures.
    assert_eq!(page.matches("<img ").count(), 10);
    assert!(page.len() < 3 << 20, "{} bytes", page.len());
    assert!(page.trim_end().ends_with("</html>"));
}

#[test]
fn a_page_without_mistakes_shows_the_closest_calls_and_one_class_has_no_curves() {
    let folder = temp();
    let model = model(folder.path(), ModelType::Classification);
    let test = graded(&folder.path().join("test"), 30, 0);
    let out = folder.path().join("out");
    let report = json(&["evaluate", "--model", text(&model), "--dataset", text(&test), "--out", text(&out), "--json"]);
    assert_eq!((&report["intervals"], &report["misses"]), (&Value::Null, &Value::Null));
    assert_eq!(report["false_rejects"]["of"], 30);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(loads(&page), Vec::<&str>::new());
    assert_says(&page, &["No mistakes; these were the closest calls", "normal/29.png"]);
    assert!(!page.contains("ROC curve"));
    assert_eq!(page.matches("<img ").count(), 8);
}
