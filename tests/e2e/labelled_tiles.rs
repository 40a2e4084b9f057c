//! Small labelled defects in large pictures: each tile learns from its own part of the mask, and a picture has one score.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use serde_json::Value;

use crate::score::element_score;
use crate::support::{done, files, json, say, scores, temp, text};

const SIZE: (u32, u32) = (1280, 960);
const EXACT: f64 = 1e-3;
const PIT: Rgb<u8> = Rgb([0x2c, 0xa0, 0x2c]);
const SCRATCH: Rgb<u8> = Rgb([0x1f, 0x77, 0xb4]);
/// Where the three columns and the two rows of tiles overlap.
const SEAMS: (u32, u32) = (436, 480);

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as u32 % limit
    }
}

/// What is wrong with a sheet, and where its middle lies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    Pit(u32, u32),
    Scratch(u32, u32),
}

impl Flaw {
    fn covers(self, x: u32, y: u32) -> bool {
        let off =
            |(middle_x, middle_y): (u32, u32)| (f64::from(x) - f64::from(middle_x), f64::from(y) - f64::from(middle_y));
        match self {
            Self::Pit(middle_x, middle_y) => {
                let (u, v) = off((middle_x, middle_y));
                u.hypot(v) < 7.0
            }
            Self::Scratch(middle_x, middle_y) => {
                let (u, v) = off((middle_x, middle_y));
                (0.8 * u - 0.6 * v).abs() < 2.5 && (0.6 * u + 0.8 * v).abs() < 50.0
            }
        }
    }
}

/// A grained sheet with dust, which does no harm, lies anywhere and is all that normal sheets have to be odd by.
fn sheet(number: u64, flaw: Option<Flaw>) -> RgbImage {
    let mut dice = Dice::new(number);
    let (phase_x, phase_y) = (f64::from(dice.below(60)), f64::from(dice.below(60)));
    let dust: Vec<[u32; 4]> =
        (0..2).map(|_| [dice.below(SIZE.0), dice.below(SIZE.1), 9 + dice.below(90), 30 + dice.below(80)]).collect();
    let mut picture = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| {
        let wave = ((f64::from(x) + phase_x) / 19.0).sin() * ((f64::from(y) + phase_y) / 27.0).cos();
        let value = 120.0 + 18.0 * wave + f64::from(dice.below(17));
        let value = match flaw.filter(|flaw| flaw.covers(x, y)) {
            Some(Flaw::Pit(..)) => value - 30.0,
            Some(Flaw::Scratch(..)) => value + 30.0,
            None => value,
        };
        Rgb([value.clamp(0.0, 255.0) as u8; 3])
    });
    for [middle_x, middle_y, squared, light] in dust {
        for y in middle_y.saturating_sub(10)..(middle_y + 11).min(SIZE.1) {
            for x in middle_x.saturating_sub(10)..(middle_x + 11).min(SIZE.0) {
                if x.abs_diff(middle_x).pow(2) + y.abs_diff(middle_y).pow(2) <= squared {
                    let level = picture.get_pixel(x, y).0[0].saturating_add(light as u8);
                    picture.put_pixel(x, y, Rgb([level; 3]));
                }
            }
        }
    }
    picture
}

fn save(picture: &RgbImage, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.save(path).unwrap();
}

/// Sheets, of which half of the flawed ones are flawed where tiles overlap.
fn write_sheets(folder: &Path, seed: u64, normals: u64, each: u64) {
    for number in 0..normals {
        save(&sheet(seed + number, None), &folder.join(format!("normal/{number:02}.png")));
    }
    let mut dice = Dice::new(seed);
    for number in 0..2 * each {
        let anywhere = (80 + dice.below(SIZE.0 - 160), 80 + dice.below(SIZE.1 - 160));
        let (x, y) = match number % 4 {
            0 => (SEAMS.0, anywhere.1),
            3 => (anywhere.0, SEAMS.1),
            _ => anywhere,
        };
        let (flaw, color) = if number % 2 == 0 { (Flaw::Pit(x, y), PIT) } else { (Flaw::Scratch(x, y), SCRATCH) };
        save(&sheet(seed + 500 + number, Some(flaw)), &folder.join(format!("anomaly/{number:02}.png")));
        let mask = RgbImage::from_fn(SIZE.0, SIZE.1, |x, y| if flaw.covers(x, y) { color } else { Rgb([0; 3]) });
        save(&mask, &folder.join(format!("masks/{number:02}.png")));
    }
    fs::write(folder.join("colors.json"), r##"{"pit": "#2CA02C", "scratch": "#1F77B4"}"##).unwrap();
}

fn evaluated(model: &Path, test: &Path) -> Value {
    json(&["evaluate", "--model", text(model), "--dataset", text(test), "--json"])
}

fn measure(evaluation: &Value, group: &str, name: &str) -> f64 {
    evaluation[group][name].as_f64().unwrap()
}

fn model_json(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("model.json")).unwrap()).unwrap()
}

#[test]
fn tiles_learn_from_labelled_defects_with_masks_and_without() {
    let folder = temp();
    let (train, test) = (folder.path().join("train"), folder.path().join("test"));
    write_sheets(&train, 1_000, 16, 8);
    write_sheets(&test, 2_000, 10, 6);
    let normals = folder.path().join("normals");
    for path in files(&train.join("normal")) {
        fs::create_dir_all(normals.join("normal")).unwrap();
        fs::copy(&path, normals.join("normal").join(path.file_name().unwrap())).unwrap();
    }
    let trained = |name: &str, dataset: &Path, model_type: &str| {
        let model = folder.path().join(format!("model-{name}"));
        let arguments = ["train", "--dataset", text(dataset), "--tiles", "auto", "--type", model_type];
        let finished = done(&[arguments.as_slice(), &["--out", text(&model), "--json"]].concat());
        let report: Value = serde_json::from_str(&finished.stdout).unwrap();
        let evaluation = evaluated(&model, &test);
        say(format_args!(
            "{name}: {} in {:.1} s and {} MiB, held-out F1 {:.3}; test ROC AUC {:.3}, F1 {:.3}, labels {}",
            report["algorithm"],
            finished.elapsed.as_secs_f64(),
            finished.peak_memory_bytes >> 20,
            measure(&report["evaluation"], "image", "f1"),
            measure(&evaluation, "image", "roc_auc"),
            measure(&evaluation, "image", "f1"),
            evaluation["labels"]
        ));
        (model, report, evaluation)
    };
    let (_, _, by_normals) = trained("normals", &normals, "classification");
    let (model, report, by_masks) = trained("masks", &train, "segmentation");

    let tiles = &model_json(&model)["framing"]["tiles"];
    assert_eq!((tiles["columns"].as_u64(), tiles["rows"].as_u64()), (Some(3), Some(2)));
    let f1 = measure(&by_masks, "image", "f1");
    assert!(f1 >= 0.95 && f1 >= measure(&by_normals, "image", "f1") + 0.1, "{by_masks}\n{by_normals}");
    // What was said of pictures that were held out holds for new ones.
    assert!(measure(&report["evaluation"], "image", "f1") >= 0.9, "{}", report["evaluation"]);
    assert!(measure(&by_masks, "pixel", "aupro") >= 0.95, "{by_masks}");
    let labels = by_masks["labels"].as_array().unwrap();
    assert_eq!(labels.iter().map(|label| &label["name"]).collect::<Vec<_>>(), ["pit", "scratch"]);
    assert!(labels.iter().all(|label| label["iou"].as_f64().unwrap() >= 0.5), "{labels:?}");
    assert!(measure(&by_masks, "type_accuracy", "accuracy") >= 0.9, "{by_masks}");

    // One picture, one score, in `detect`, in `evaluate` and in the element.
    let pictures: Vec<PathBuf> = [files(&test.join("anomaly")), files(&test.join("normal"))]
        .iter()
        .flat_map(|files| files[..4].to_vec())
        .collect();
    let found = scores(&model, &pictures);
    assert!((element_score(&model, &pictures[0], "RGB") - found[0]).abs() < EXACT);
    assert!(found[..4].iter().all(|&score| score >= 0.5), "{found:?}");
    // A defect on a seam is drawn once and whole: its area is that of its mask, within what borders may differ.
    let mut arguments = vec!["detect", "--json", "--model", text(&model)];
    arguments.extend(pictures.iter().map(|path| text(path)));
    let answers = json(&arguments);
    for (number, kind) in [(0, "pit"), (3, "scratch")] {
        let anomalies = answers[number]["DetectAnomalyResult"]["Anomalies"].as_array().unwrap();
        let area = |name: &str| {
            let of_label = anomalies.iter().find(|anomaly| anomaly["Name"] == name);
            of_label.map_or(0.0, |anomaly| anomaly["PixelAnomaly"]["TotalPercentageArea"].as_f64().unwrap())
        };
        let mask = image::open(test.join(format!("masks/{number:02}.png"))).unwrap().into_rgb8();
        let truth = mask.pixels().filter(|pixel| pixel.0 != [0; 3]).count() as f64 / f64::from(SIZE.0 * SIZE.1);
        let ratio = area(kind) / truth;
        assert!((0.4..2.5).contains(&ratio), "picture {number}: {anomalies:?}, of {truth}");
        assert!((area("background") + area("pit") + area("scratch") - 1.0).abs() < 1e-6, "{anomalies:?}");
    }

    // Without masks nobody says which tile it is.
    fs::remove_dir_all(train.join("masks")).unwrap();
    fs::remove_file(train.join("colors.json")).unwrap();
    let (model, _, by_classes) = trained("classes", &train, "classification");
    assert!(!model_json(&model)["candidates"].as_array().unwrap().is_empty());
    let f1 = measure(&by_classes, "image", "f1");
    assert!(f1 >= 0.8 && f1 > measure(&by_normals, "image", "f1"), "{by_classes}\n{by_normals}");
}
