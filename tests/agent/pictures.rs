//! Pictures of every size, by bytes and by shared memory, and their masks both ways.

use anyhow::{Result, ensure};
use linewarden_model::ModelType;
use linewarden_testkit::model::brightness_score;
use serde_json::{Value, json};

use crate::{Component, Site};

/// The message has single precision.
const EXACT: f64 = 1e-3;
/// And a picture's edges count for less where it is made smaller for the network.
const SCALED: f64 = 5e-3;

fn score_of(answer: &Value) -> f64 {
    answer["score"].as_f64().unwrap()
}

#[test]
fn pictures_of_every_size_have_one_score_however_they_come_and_their_masks_are_the_same_both_ways() -> Result<()> {
    let sizes = [(64, 64), (101, 77), (640, 480), (4096, 4096)];
    let names = ["least", "odd", "common", "largest"];
    let components: Vec<Component> = names
        .into_iter()
        .zip(sizes)
        .map(|(name, (width_px, height_px))| Component(name, width_px, height_px, ModelType::Segmentation))
        .collect();
    let mut site = Site::new(&components, "")?;
    for (name, (width, height)) in names.into_iter().zip(sizes) {
        site.start(name)?;
        let mut answers = Vec::new();
        for picture in ["bytes", "memory"] {
            for (padded, mask) in [(false, "bytes"), (false, "memory"), (true, "memory")] {
                let order = json!({
                    "component": name, "width": width, "height": height, "grey": 20, "grey_share": 0.25, "padded": padded,
                    "picture": picture, "offset": 4096, "mask": mask,
                });
                let answer = site.detect(order)?;
                let way = if mask == "memory" { "shared_memory_handle" } else { "byte_data" };
                assert_eq!(answer["mask"], way, "{answer}");
                assert_ne!(answer["is_untouched_around"], false, "{answer}");
                answers.push(answer);
            }
        }
        let first = &answers[0];
        let grey = (f64::from(width) * 0.25).round() as usize;
        let row = [vec![20; grey * 3], vec![255; (width as usize - grey) * 3]].concat();
        let expected = brightness_score(&row);
        ensure!((score_of(first) - expected).abs() < SCALED, "{name}: {}, not {expected}", score_of(first));
        assert_eq!(first["is_anomalous"], true, "{first}");
        assert_eq!(first["mask_size"], json!([width, height]));
        assert_eq!(first["mask_bytes"], width * height * 3);
        let (background, bright) = (&first["anomalies"][0], &first["anomalies"][1]);
        assert_eq!((&background[0], &background[2]), (&json!("background"), &json!("#FFFFFF")));
        assert_eq!((&bright[0], &bright[2]), (&json!("bright"), &json!("#FF0000")));
        let (dark, bright) = (background[1].as_f64().unwrap(), bright[1].as_f64().unwrap());
        ensure!((dark + bright - 1.0).abs() < 1e-3 && (bright - 0.75).abs() < 0.1, "{dark} {bright}");
        let red_share = first["red_share"].as_f64().unwrap();
        ensure!((red_share - bright).abs() < 0.03, "{red_share} of the mask is red, {bright} was told");
        for answer in &answers[1..] {
            assert_eq!(answer["mask_sha256"], first["mask_sha256"], "{name}");
            ensure!((score_of(answer) - score_of(first)).abs() < 1e-6, "{answer} {first}");
        }
        assert_eq!(site.call("stop", name)?, json!({ "answer": "STOPPED" }));
    }
    site.end()
}

#[test]
fn a_classification_model_answers_without_mask_and_labels() -> Result<()> {
    let mut site = Site::new(&[Component("cap", 64, 64, ModelType::Classification)], "start = [\"cap\"]\n")?;
    site.settled("cap")?;
    for (grey, is_anomalous) in [(20, false), (230, true)] {
        let answer =
            site.detect(json!({ "component": "cap", "width": 64, "height": 64, "grey": grey, "mask": "memory" }))?;
        let expected = brightness_score(&[grey; 3]);
        ensure!((score_of(&answer) - expected).abs() < EXACT, "{answer}, not {expected}");
        assert_eq!(answer["is_anomalous"], is_anomalous, "{answer}");
        assert_eq!((&answer["mask"], &answer["anomalies"]), (&Value::Null, &json!([])), "{answer}");
        assert_eq!(answer["threshold"], 0.5);
        ensure!((0.5..=1.0).contains(&answer["confidence"].as_f64().unwrap()), "{answer}");
    }
    let processed =
        "linewarden_processed_image_total{camera=\"cap\",line=\"agent\",model_version=\"1\",project=\"brightness\"}";
    assert_eq!(site.daemon.metric(processed)?, 2.0);
    site.end()
}

#[test]
fn ten_clients_at_once_each_get_their_own_answers() -> Result<()> {
    let mut site =
        Site::new(&[Component("cap", 320, 240, ModelType::Segmentation)], "queue = 64\nstart = [\"cap\"]\n")?;
    site.settled("cap")?;
    let greys: Vec<u8> = (0..10).map(|client| 20 + client * 22).collect();
    let order = |(index, grey): (usize, &u8)| {
        let picture = if index % 2 == 0 { "bytes" } else { "memory" };
        json!({
            "call": "detect", "component": "cap", "width": 320, "height": 240, "grey": grey, "picture": picture,
            "mask": if index % 3 == 0 { "memory" } else { "bytes" }, "times": 20,
        })
    };
    let orders: Vec<Value> = greys.iter().enumerate().map(order).collect();
    let answers = site.ask(&json!({ "call": "at_once", "orders": orders }))?;
    for (grey, answers) in greys.iter().zip(answers["answer"].as_array().unwrap()) {
        let expected = brightness_score(&[*grey; 3]);
        assert_eq!(answers.as_array().unwrap().len(), 20);
        for answer in answers.as_array().unwrap() {
            let score = score_of(&answer["answer"]);
            ensure!((score - expected).abs() < EXACT, "{grey}: {answer}, not {expected}");
        }
    }
    site.end()
}
