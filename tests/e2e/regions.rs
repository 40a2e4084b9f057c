//! Small defects, regions and parts that lie elsewhere: what `train` is told about the picture, `detect`, `evaluate` and the
//! element do alike.

use std::fs;
use std::path::{Path, PathBuf};

use image::{GrayImage, Rgb, RgbImage};
use linewarden_model::runtime;
use linewarden_synthetic::{BeltSpec, Defect, Part, normals, render_part_with_defect};
use linewarden_train::dataset::Picture;
use serde_json::Value;

use crate::score::{element_score, graph_score};
use crate::support::{assert_says, call, done, failed, files, json, say, scores, spec, temp, text, write_normals};

const EXACT: f64 = 1e-3;
/// What a picture of 4096x4096 pixels may cost at most, in training and in detection.
const MOST_BYTES: u64 = 2 << 30;

fn picture(part: &Part) -> RgbImage {
    RgbImage::from_raw(part.width_px, part.height_px, part.rgb.clone()).unwrap()
}

/// Turned about its middle and shifted; what comes in from outside is the edge.
fn moved(picture: &RgbImage, angle_deg: f64, shift: (f64, f64)) -> RgbImage {
    let (width, height) = picture.dimensions();
    let (sine, cosine) = angle_deg.to_radians().sin_cos();
    let (middle_x, middle_y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (f64::from(x) + 0.5 - middle_x - shift.0, f64::from(y) + 0.5 - middle_y - shift.1);
        let from_x = middle_x + cosine * u + sine * v - 0.5;
        let from_y = middle_y + cosine * v - sine * u - 0.5;
        let (left, top) = (from_x.floor(), from_y.floor());
        let at = |x: f64, y: f64| {
            let side = |place: f64, length: u32| place.clamp(0.0, f64::from(length - 1)) as u32;
            picture.get_pixel(side(x, width), side(y, height)).0.map(f64::from)
        };
        let (across, down) = (from_x - left, from_y - top);
        let (a, b) = (at(left, top), at(left + 1.0, top));
        let (c, d) = (at(left, top + 1.0), at(left + 1.0, top + 1.0));
        Rgb(std::array::from_fn(|channel| {
            let upper = a[channel] + (b[channel] - a[channel]) * across;
            let lower = c[channel] + (d[channel] - c[channel]) * across;
            (upper + (lower - upper) * down + 0.5) as u8
        }))
    })
}

fn save(picture: &RgbImage, path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.save(path).unwrap();
}

/// A bright speck that a whole picture, scaled down, all but loses.
fn with_speck(mut picture: RgbImage, (x, y): (u32, u32), radius: u32) -> RgbImage {
    for row in y - radius..=y + radius {
        for column in x - radius..=x + radius {
            picture.put_pixel(column, row, Rgb([250, 250, 250]));
        }
    }
    picture
}

fn model_json(model: &Path) -> Value {
    serde_json::from_slice(&fs::read(model.join("model.json")).unwrap()).unwrap()
}

/// A plate with holes, up to three pixels off its place and with grain of its own; and a fleck, if asked.
fn plate(number: u64, fleck: Option<(u32, u32)>) -> RgbImage {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut chance = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    };
    let (off_x, off_y) = (chance(7) as f32 - 3.0, chance(7) as f32 - 3.0);
    RgbImage::from_fn(1280, 960, |column, row| {
        let (x, y) = (column as f32 - off_x, row as f32 - off_y);
        let (u, v) = (x - 640.0, y - 480.0);
        let ground = 120.0 + 20.0 * (x / 17.0).sin() * (y / 23.0).cos();
        let is_hole = (0..6).any(|hole| {
            let (sine, cosine) = (hole as f32 * std::f32::consts::FRAC_PI_3).sin_cos();
            (u - 280.0 * cosine).hypot(v - 280.0 * sine) < 30.0
        });
        let surface = if is_hole {
            30.0
        } else if u.hypot(v) < 400.0 {
            ground + 40.0
        } else {
            ground - 30.0
        };
        let fleck = if fleck.is_some_and(|at| is_in_fleck(at, column, row)) { 60.0 } else { 0.0 };
        Rgb([(surface + fleck + chance(11) as f32 - 5.0).clamp(0.0, 255.0) as u8; 3])
    })
}

/// Three pixels wide.
fn is_in_fleck((x, y): (u32, u32), column: u32, row: u32) -> bool {
    column.abs_diff(x) <= 1 && row.abs_diff(y) <= 1
}

#[test]
fn tiles_find_what_whole_pictures_lose_and_show_where_it_is() {
    let folder = temp();
    let (train, test) = (folder.path().join("train"), folder.path().join("test"));
    for index in 0..18 {
        let place = if index < 12 { &train } else { &test };
        save(&plate(index, None), &place.join(format!("normal/{index:02}.png")));
    }
    let flecks = [(520, 300), (760, 330), (640, 700), (430, 560), (830, 600), (600, 250)];
    for (index, fleck) in flecks.into_iter().enumerate() {
        save(&plate(100 + index as u64, Some(fleck)), &test.join(format!("anomaly/{index}.png")));
        let truth = |x, y| image::Luma([if is_in_fleck(fleck, x, y) { 255 } else { 0 }]);
        fs::create_dir_all(test.join("masks")).unwrap();
        GrayImage::from_fn(1280, 960, truth).save(test.join(format!("masks/{index}.png"))).unwrap();
    }
    let trained = |name: &str, tiles: &str| {
        let model = folder.path().join(name);
        done(&["train", "--dataset", text(&train), "--tiles", tiles, "--out", text(&model)]);
        let measures = json(&["evaluate", "--model", text(&model), "--dataset", text(&test), "--json"]);
        let measure = |group: &str, name: &str| measures[group][name].as_f64().unwrap();
        (model, measure("image", "roc_auc"), measure("pixel", "aupro"))
    };
    let (whole, whole_auc, whole_aupro) = trained("whole", "1x1");
    let (tiled, tiled_auc, tiled_aupro) = trained("tiled", "4x3");
    say(format_args!("flecks of 3 pixels: ROC AUC {whole_auc:.3} whole, {tiled_auc:.3} in 4x3 tiles"));
    say(format_args!("flecks of 3 pixels: AUPRO {whole_aupro:.3} whole, {tiled_aupro:.3} in 4x3 tiles"));
    assert!(tiled_auc >= 0.97 && tiled_auc > whole_auc, "{tiled_auc}, {whole_auc} whole");
    assert!(tiled_aupro >= 0.9 && tiled_aupro > whole_aupro, "{tiled_aupro}, {whole_aupro} whole");
    assert!(model_json(&whole).get("framing").is_none());
    let tiles = &model_json(&tiled)["framing"]["tiles"];
    assert_eq!((tiles["columns"].as_u64(), tiles["rows"].as_u64()), (Some(4), Some(3)));
    // One picture, one score: tiled packages too, on one thread and on two.
    let pictures = [files(&test.join("anomaly"))[0].clone(), files(&test.join("normal"))[0].clone()];
    for (picture, score) in pictures.iter().zip(scores(&tiled, &pictures)) {
        assert!((element_score(&tiled, picture, "RGB") - score).abs() < EXACT);
        let answer = json(&["detect", "--json", "--threads", "2", "--model", text(&tiled), text(picture)]);
        let on_two = answer[0]["DetectAnomalyResult"]["AnomalyScore"].as_f64().unwrap();
        assert!((on_two - score).abs() < EXACT, "{on_two} on two threads, {score} on one");
    }
}

#[test]
fn pictures_of_4096_pixels_are_trained_and_detected_in_two_gigabytes() {
    let folder = temp();
    let part = normals(&BeltSpec { width_px: 1024, height_px: 1024, ..spec() }, 1).next().unwrap();
    let huge = image::imageops::resize(&picture(&part), 4096, 4096, image::imageops::FilterType::Triangle);
    let train = folder.path().join("train");
    for index in 0..10_u32 {
        // Each a little brighter than the one before.
        let brighter =
            RgbImage::from_raw(4096, 4096, huge.iter().map(|&value| value.saturating_add(index as u8)).collect());
        let path = train.join(format!("normal/{index}.jpg"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        brighter.unwrap().save(path).unwrap();
    }
    let model = folder.path().join("model");
    let training = done(&["train", "--dataset", text(&train), "--tiles", "3x3", "--out", text(&model)]);
    let speck = folder.path().join("speck.png");
    with_speck(huge, (2000, 1400), 12).save(&speck).unwrap();
    let detection = done(&["detect", "--model", text(&model), text(&speck)]);
    let megabytes = |bytes: u64| bytes >> 20;
    say(format_args!(
        "4096x4096 in 3x3 tiles: training {} MiB in {:.1} s, detection {} MiB",
        megabytes(training.peak_memory_bytes),
        training.elapsed.as_secs_f64(),
        megabytes(detection.peak_memory_bytes)
    ));
    assert!(training.peak_memory_bytes < MOST_BYTES, "{} MiB", megabytes(training.peak_memory_bytes));
    assert!(detection.peak_memory_bytes < MOST_BYTES, "{} MiB", megabytes(detection.peak_memory_bytes));
    assert_says(&detection.stdout, &["anomaly"]);
}

/// A mask that ignores the left 160 pixels.
fn mask_of_the_left(path: &Path) {
    GrayImage::from_fn(640, 480, |x, _| image::Luma([if x < 160 { 255 } else { 0 }])).save(path).unwrap();
}

/// The picture with something in its upper left corner.
fn scribbled(from: &Path, to: &Path) {
    let mut picture = image::open(from).unwrap().into_rgb8();
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        if x < 80 && y < 300 {
            *pixel = Rgb([if (x / 7 + y / 5) % 2 == 0 { 250 } else { 10 }, 40, 200]);
        }
    }
    picture.save(to).unwrap();
}

#[test]
fn what_lies_outside_the_region_or_under_the_mask_does_not_matter() {
    let folder = temp();
    let train = folder.path().join("train");
    write_normals(&train, 12, 1);
    let mask = folder.path().join("mask.png");
    mask_of_the_left(&mask);
    let (plain, changed) = (files(&train.join("normal"))[3].clone(), folder.path().join("changed.png"));
    scribbled(&plain, &changed);
    let defect = folder.path().join("defect.png");
    save(&picture(&render_part_with_defect(&spec(), 5, Defect::Stain)), &defect);
    let pictures = [plain, changed, defect];
    let cases: [(&str, Vec<&str>); 3] = [
        ("roi", vec!["--roi", "100,30,440,420"]),
        ("mask", vec!["--ignore-mask", text(&mask)]),
        (
            "both",
            vec!["--roi", "60,30,520,420", "--ignore-mask", text(&mask), "--tiles", "2x2", "--tile-overlap", "20%"],
        ),
    ];
    for (name, options) in cases {
        let model = folder.path().join(name);
        let out = ["train", "--dataset", text(&train), "--out", text(&model)];
        done(&[out.as_slice(), options.as_slice()].concat());
        let found = scores(&model, &pictures);
        assert!((found[0] - found[1]).abs() < 1e-6, "{name}: {found:?}");
        assert!(found[0] < 0.5 && found[2] > 0.5, "{name}: {found:?}");
        for (picture, score) in pictures.iter().zip(found) {
            assert!((element_score(&model, picture, "RGB") - score).abs() < EXACT, "{name}: {}", picture.display());
        }
    }
    // The graph on its own ignores it too.
    let onnx = folder.path().join("mask/model.onnx");
    let mut graph = runtime::session_builder(1).unwrap().commit_from_file(onnx).unwrap();
    for (picture, score) in pictures.iter().zip(scores(&folder.path().join("mask"), &pictures)) {
        let Picture { width_px, height_px, rgb } = Picture::read(picture).unwrap();
        assert!((graph_score(&mut graph, width_px, height_px, &rgb) - score).abs() < EXACT, "{}", picture.display());
    }
    // A package whose mask was exchanged is refused.
    let other = GrayImage::from_pixel(640, 480, image::Luma([0]));
    other.save(folder.path().join("mask/ignore.png")).unwrap();
    let model = folder.path().join("mask");
    assert_says(&failed(1, &["detect", "--model", text(&model), text(&pictures[0])]), &["ignore.png", "SHA-256"]);
}

#[test]
fn a_region_or_mask_that_does_not_fit_is_refused_in_plain_words() {
    let folder = temp();
    let train = folder.path().join("train");
    write_normals(&train, 10, 1);
    let out = folder.path().join("model");
    let (small, text_file) = (folder.path().join("small.png"), folder.path().join("mask.txt"));
    GrayImage::new(64, 64).save(&small).unwrap();
    fs::write(&text_file, "no picture").unwrap();
    let all = folder.path().join("all.png");
    GrayImage::from_pixel(640, 480, image::Luma([255])).save(&all).unwrap();
    let refused = |code: i32, options: &[&str], words: &[&str]| {
        let arguments = [&["train", "--dataset", text(&train), "--out", text(&out)], options].concat();
        if code == 2 {
            // Clap's own errors come before ours.
            let finished = call(&arguments);
            assert_eq!(finished.status.code(), Some(2), "{options:?}: {}", finished.stderr);
            assert_says(&finished.stderr, words);
        } else {
            assert_says(&failed(code, &arguments), words);
        }
        assert!(!out.exists(), "{options:?}");
    };
    refused(1, &["--roi", "600,0,100,100"], &["600,0,100,100", "640x480"]);
    refused(2, &["--roi", "1,2,3"], &["--roi", "four whole numbers"]);
    refused(2, &["--tiles", "17x1"], &["--tiles", "16x16"]);
    refused(2, &["--tile-overlap", "60%"], &["--tile-overlap", "45%"]);
    refused(1, &["--roi", "0,0,100,100", "--tiles", "8x8"], &["32x32"]);
    refused(1, &["--ignore-mask", text(&small)], &["small.png", "64x64", "640x480"]);
    refused(1, &["--ignore-mask", text(&text_file)], &["mask.txt", "PNG"]);
    refused(1, &["--ignore-mask", text(&all)], &["everything is ignored"]);
    refused(2, &["--ignore-mask", "nowhere.png"], &["nowhere.png"]);
}

#[test]
fn parts_that_lie_elsewhere_are_turned_and_shifted_before_they_are_scored() {
    let folder = temp();
    let train = folder.path().join("train");
    write_normals(&train, 14, 1);
    let places = [(4.0, (24.0, -14.0)), (-6.0, (-30.0, 18.0)), (9.0, (12.0, 26.0)), (-11.0, (40.0, 8.0))];
    let mut good: Vec<PathBuf> = Vec::new();
    let mut bad: Vec<PathBuf> = Vec::new();
    for (index, (part, (angle, shift))) in normals(&BeltSpec { seed: 3, ..spec() }, 4).zip(places).enumerate() {
        good.push(folder.path().join(format!("good-{index}.png")));
        save(&moved(&picture(&part), angle, shift), &good[index]);
        let part = render_part_with_defect(&spec(), 70 + index as u64, Defect::Stain);
        bad.push(folder.path().join(format!("bad-{index}.png")));
        save(&moved(&picture(&part), angle, shift), &bad[index]);
    }
    // The part with a margin; the belt around it has no place of its own.
    let roi = ["--roi", "140,60,360,360"];
    let trained = |name: &str, options: &[&str]| {
        let model = folder.path().join(name);
        done(&[&["train", "--dataset", text(&train), "--out", text(&model)], roi.as_slice(), options].concat());
        (scores(&model, &good), scores(&model, &bad), model)
    };
    let (as_it_lies, _, _) = trained("as-it-lies", &[]);
    let (registered, defects, model) = trained("registered", &["--register"]);
    say(format_args!(
        "good parts elsewhere: {as_it_lies:.2?} as they lie, {registered:.2?} registered; bad {defects:.2?}"
    ));
    let highest = registered.iter().copied().fold(0.0, f64::max);
    let lowest = defects.iter().copied().fold(1.0, f64::min);
    assert!(registered.iter().zip(&as_it_lies).all(|(after, before)| after < before), "{registered:?} {as_it_lies:?}");
    assert!(highest < lowest, "good {registered:?}, bad {defects:?}");
    // The answer says how the part lay, and the element comes to the same.
    let answer = json(&["detect", "--json", "--model", text(&model), text(&good[0])]);
    let pose = &answer[0]["DetectAnomalyResult"]["Registration"];
    // Part and reference lie up to 0.9 degrees off by themselves.
    assert!((pose["AngleDegrees"].as_f64().unwrap() - 4.0).abs() < 2.0 && pose["Applied"] == true, "{pose}");
    assert!((element_score(&model, &good[0], "RGB") - registered[0]).abs() < EXACT);
    let empty = folder.path().join("empty.png");
    save(&RgbImage::from_pixel(640, 480, Rgb([90, 90, 90])), &empty);
    let answer = json(&["detect", "--json", "--model", text(&model), text(&empty)]);
    assert_eq!(answer[0]["DetectAnomalyResult"]["Registration"]["Applied"], false);
}
