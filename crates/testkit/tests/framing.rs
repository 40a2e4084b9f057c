//! What a package says of regions, tiles and registration, seen through the detector: with the model whose score is
//! brightness, so that every answer is known beforehand.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

use std::path::{Path, PathBuf};

use linewarden_model::package::{Golden, ModelInfo, Size, sha256_hex};
use linewarden_model::{
    Detection, Detector, DetectorOptions, Device, DeviceRequest, FrameView, Framing, Grey, IgnoreMask, ModelError,
    ModelType, PackageFile, Preprocessor, Rect, Registration, TileGrid, small_grey,
};
use linewarden_testkit::model::{brightness_package, brightness_score};
use tempfile::TempDir;

/// The network's side.
const INPUT: u32 = 64;
const WIDTH: u32 = 256;
const HEIGHT: u32 = 192;
const EXACT: f64 = 1e-4;

struct Picture(Vec<u8>);

impl Picture {
    fn dark() -> Self {
        Self(vec![20; (WIDTH * HEIGHT * 3) as usize])
    }

    /// With a white rectangle.
    fn with(mut self, rect: Rect) -> Self {
        for y in rect.y..rect.y + rect.height_px {
            for x in rect.x..rect.x + rect.width_px {
                let at = ((y * WIDTH + x) * 3) as usize;
                self.0[at..at + 3].fill(255);
            }
        }
        self
    }

    fn view(&self) -> FrameView<'_> {
        FrameView::rgb(WIDTH, HEIGHT, &self.0).unwrap()
    }

    /// What the network would see of a part, and its score.
    fn score_of(&self, part: Rect) -> f64 {
        let mut rgb = Vec::new();
        Preprocessor::new(INPUT, INPUT).run(&self.view().cropped(part).unwrap(), &mut rgb).unwrap();
        brightness_score(&rgb)
    }
}

fn rect(x: u32, y: u32, width_px: u32, height_px: u32) -> Rect {
    Rect { x, y, width_px, height_px }
}

/// A package with this framing; `files` lie beside `model.json`.
fn package(folder: &Path, framing: Framing, files: &[(&str, Vec<u8>)]) -> PathBuf {
    let package = brightness_package(folder, INPUT, INPUT, ModelType::Segmentation).unwrap();
    let path = package.join("model.json");
    let mut info: ModelInfo = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    info.image_size = Size { width_px: WIDTH, height_px: HEIGHT };
    info.framing = framing;
    std::fs::write(path, serde_json::to_vec(&info).unwrap()).unwrap();
    let path = package.join("golden/golden.json");
    let mut golden: Vec<Golden> = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    golden[0].is_view = true;
    std::fs::write(path, serde_json::to_vec(&golden).unwrap()).unwrap();
    for (name, content) in files {
        std::fs::write(package.join(name), content).unwrap();
    }
    package
}

fn opened(package: &Path, threads: usize) -> Result<Detector, ModelError> {
    let options = DetectorOptions { device: DeviceRequest::Only(Device::Cpu), threads, ..Default::default() };
    Detector::open(package, &options)
}

fn detector(framing: Framing, files: &[(&str, Vec<u8>)], threads: usize) -> (TempDir, Detector) {
    let folder = tempfile::tempdir().unwrap();
    let detector = opened(&package(folder.path(), framing, files), threads).unwrap();
    (folder, detector)
}

/// The map's value at a pixel of the picture.
fn at(detection: &Detection, x: u32, y: u32) -> f32 {
    let map = &detection.map;
    let (column, row) = (x as usize * map.width / WIDTH as usize, y as usize * map.height / HEIGHT as usize);
    map.values[row * map.width + column]
}

fn tiles() -> TileGrid {
    TileGrid { columns: 3, rows: 2, overlap: 0.12 }
}

#[test]
fn the_score_is_the_brightest_tile_s_and_the_map_has_each_thing_in_its_place() {
    let grid = tiles();
    let parts = grid.tiles(Rect::of_size(WIDTH, HEIGHT));
    // Across the seam of four tiles, within one, and in a corner.
    for blob in [rect(70, 80, 36, 36), rect(190, 120, 30, 40), rect(0, 0, 40, 20)] {
        let picture = Picture::dark().with(blob);
        let expected = parts.iter().map(|&part| picture.score_of(part)).fold(0.0, f64::max);
        for threads in [1, 2] {
            let (_folder, mut detector) = detector(Framing { tiles: Some(grid), ..Default::default() }, &[], threads);
            let detection = detector.detect(&picture.view()).unwrap();
            let score = detection.result.anomaly_score;
            assert!((score - expected).abs() < EXACT, "{blob:?}: {score}, not {expected}");
            assert!(at(&detection, blob.x + blob.width_px / 2, blob.y + blob.height_px / 2) > 0.8, "{blob:?}");
            assert!(at(&detection, 130, 170) < 0.2 && at(&detection, 250, 5) < 0.2, "{blob:?}");
        }
    }
    let even = Picture(vec![100; (WIDTH * HEIGHT * 3) as usize]);
    let (_folder, mut detector) = detector(Framing { tiles: Some(grid), ..Default::default() }, &[], 1);
    let map = detector.detect(&even.view()).unwrap().map;
    let (low, high) = map.values.iter().fold((1.0_f32, 0.0_f32), |(low, high), &v| (low.min(v), high.max(v)));
    assert!(high - low < 1e-5, "an even picture has seams: {low} to {high}");
}

#[test]
fn nothing_outside_the_region_counts() {
    let roi = rect(64, 48, 96, 80);
    let (_folder, mut detector) = detector(Framing { roi: Some(roi), ..Default::default() }, &[], 1);
    let dark = Picture::dark();
    let plain = detector.detect(&dark.view()).unwrap();
    assert!((plain.result.anomaly_score - dark.score_of(roi)).abs() < EXACT);
    let outside =
        detector.detect(&Picture::dark().with(rect(0, 0, 64, 192)).with(rect(160, 0, 90, 40)).view()).unwrap();
    assert_eq!(outside.result, plain.result);
    assert_eq!(outside.map, plain.map);
    assert_eq!((at(&outside, 20, 20), at(&outside, 200, 100)), (0.0, 0.0));
    let inside = detector.detect(&Picture::dark().with(roi).view()).unwrap();
    assert!(inside.result.is_anomalous && at(&inside, 100, 90) > 0.8);
    // Areas are shares of the whole picture.
    let area = inside.result.labels().next().unwrap().total_percentage_area;
    let expected = f64::from(96 * 80) / f64::from(WIDTH * HEIGHT);
    assert!((area - expected).abs() < 0.02, "{area}, not {expected}");
}

#[test]
fn the_caller_s_region_replaces_the_picture_in_which_the_package_s_region_lies() {
    let framing = Framing { roi: Some(rect(64, 48, 96, 80)), tiles: Some(tiles()), ..Default::default() };
    let (_folder, mut detector) = detector(framing, &[], 1);
    // The same picture, once alone and once within a larger frame.
    let picture = Picture::dark().with(rect(90, 60, 20, 30));
    let (wide, high) = (WIDTH + 50, HEIGHT + 30);
    let mut larger = vec![200; (wide * high * 3) as usize];
    for (y, row) in picture.0.chunks_exact(WIDTH as usize * 3).enumerate() {
        let at = ((y as u32 + 20) * wide + 30) as usize * 3;
        larger[at..at + row.len()].copy_from_slice(row);
    }
    let within = FrameView::rgb(wide, high, &larger).unwrap().cropped(rect(30, 20, WIDTH, HEIGHT)).unwrap();
    let (alone, within) = (detector.detect(&picture.view()).unwrap(), detector.detect(&within).unwrap());
    assert_eq!(alone.result, within.result);
    assert_eq!(alone.map, within.map);
}

/// A mask that ignores this part, and its entry in `model.json`.
fn ignoring(part: Rect) -> (Framing, Vec<u8>) {
    let pixel = |index: u32| {
        let (x, y) = (index % WIDTH, index / WIDTH);
        let inside = x >= part.x && x < part.x + part.width_px && y >= part.y && y < part.y + part.height_px;
        if inside { 255 } else { 0 }
    };
    let mask = IgnoreMask { width_px: WIDTH, height_px: HEIGHT, pixels: (0..WIDTH * HEIGHT).map(pixel).collect() };
    let png = mask.to_png().unwrap();
    let file = PackageFile { file: "ignore.png".to_owned(), sha256: sha256_hex(&png) };
    (Framing { ignore: Some(file), ..Default::default() }, png)
}

#[test]
fn what_is_ignored_may_change_as_it_likes() {
    let part = rect(128, 0, 128, 96);
    for tiles in [None, Some(tiles())] {
        let (framing, png) = ignoring(part);
        let (_folder, mut detector) = detector(Framing { tiles, ..framing }, &[("ignore.png", png)], 1);
        let plain = detector.detect(&Picture::dark().view()).unwrap();
        let changed = detector.detect(&Picture::dark().with(part).view()).unwrap();
        assert_eq!(changed.result, plain.result, "{tiles:?}");
        assert_eq!(changed.map, plain.map, "{tiles:?}");
        assert_eq!(at(&changed, 200, 40), 0.0);
        let elsewhere = detector.detect(&Picture::dark().with(rect(0, 100, 110, 92)).view()).unwrap();
        assert!(elsewhere.result.anomaly_score > plain.result.anomaly_score + 0.05, "{tiles:?}");
        assert!(at(&elsewhere, 40, 140) > 0.8);
    }
}

#[test]
fn a_package_whose_framing_is_wrong_is_refused_with_the_reason() {
    let refused = |framing: Framing, files: &[(&str, Vec<u8>)], reason: &str| {
        let folder = tempfile::tempdir().unwrap();
        let error = opened(&package(folder.path(), framing, files), 1).unwrap_err().to_string();
        assert!(error.contains(reason), "`{reason}` is not in: {error}");
    };
    refused(Framing { roi: Some(rect(200, 0, 100, 50)), ..Default::default() }, &[], "`200,0,100,50`");
    let many = TileGrid { columns: 17, rows: 1, overlap: 0.0 };
    refused(Framing { tiles: Some(many), ..Default::default() }, &[], "1x1 to 16x16");
    let wide = TileGrid { columns: 2, rows: 1, overlap: 0.6 };
    refused(Framing { tiles: Some(wide), ..Default::default() }, &[], "0.6");
    let small = TileGrid { columns: 12, rows: 1, overlap: 0.1 };
    refused(Framing { tiles: Some(small), ..Default::default() }, &[], "32x32");
    let (framing, png) = ignoring(rect(0, 0, 10, 10));
    refused(framing.clone(), &[], "ignore.png");
    refused(framing.clone(), &[("ignore.png", b"other".to_vec())], "SHA-256");
    let mut elsewhere = framing.clone();
    elsewhere.ignore.as_mut().unwrap().file = "../ignore.png".to_owned();
    refused(elsewhere, &[("ignore.png", png)], "no name of a file");
    let (framing, png) = ignoring(Rect::of_size(WIDTH, HEIGHT));
    refused(framing, &[("ignore.png", png)], "everything is ignored");
    let other = IgnoreMask { width_px: 64, height_px: 64, pixels: vec![0; 4096] }.to_png().unwrap();
    let file = PackageFile { file: "ignore.png".to_owned(), sha256: sha256_hex(&other) };
    refused(Framing { ignore: Some(file), ..Default::default() }, &[("ignore.png", other)], "64x64");
}

/// A part that lies anywhere: bright, with a dark hole off its middle, and a scratch if asked.
fn moved_part(angle_deg: f64, shift: (f64, f64), scratch: bool) -> Picture {
    let (sine, cosine) = angle_deg.to_radians().sin_cos();
    let mut picture = Picture::dark();
    for (index, pixel) in picture.0.chunks_exact_mut(3).enumerate() {
        let x = (index as u32 % WIDTH) as f64 + 0.5 - f64::from(WIDTH) / 2.0 - shift.0;
        let y = (index as u32 / WIDTH) as f64 + 0.5 - f64::from(HEIGHT) / 2.0 - shift.1;
        let (u, v) = (cosine * x + sine * y, cosine * y - sine * x);
        let body = u.abs() < 60.0 && v.abs() < 40.0;
        let hole = (u - 30.0).hypot(v + 12.0) < 14.0;
        let scratched = scratch && (u + 36.0).hypot(v - 20.0) < 9.0;
        pixel.fill(if scratched {
            255
        } else if body && !hole {
            110
        } else {
            30
        });
    }
    picture
}

#[test]
fn a_part_that_lies_elsewhere_is_scored_as_if_it_lay_in_its_place() {
    let reference = small_grey(&moved_part(0.0, (0.0, 0.0), false).view()).unwrap();
    let png = reference.to_png().unwrap();
    assert_eq!(Grey::from_png(&png).unwrap(), reference);
    let file = PackageFile { file: "reference.png".to_owned(), sha256: sha256_hex(&png) };
    let registration = Registration { reference: file, most_angle_deg: 15.0, most_shift: 0.15, least_confidence: 0.5 };
    // Only the part itself: a part elsewhere would bring its surroundings in.
    let roi = rect(68, 56, 120, 80);
    let framing = Framing { roi: Some(roi), registration: Some(registration), ..Default::default() };
    let (_folder, mut detector) = detector(framing, &[("reference.png", png)], 1);
    let in_place = detector.detect(&moved_part(0.0, (0.0, 0.0), false).view()).unwrap();
    assert!(in_place.pose.unwrap().applied);
    for (angle, shift) in [(8.0, (20.0, -12.0)), (-12.0, (-25.0, 18.0)), (3.0, (0.0, 25.0))] {
        let moved = detector.detect(&moved_part(angle, shift, false).view()).unwrap();
        let pose = moved.pose.unwrap();
        assert!((pose.angle_deg - angle).abs() < 0.5 && pose.applied, "{pose:?}");
        assert!((pose.shift_x * f64::from(WIDTH) - shift.0).abs() < 1.5, "{pose:?}");
        assert!((pose.shift_y * f64::from(HEIGHT) - shift.1).abs() < 1.5, "{pose:?}");
        let difference = (moved.result.anomaly_score - in_place.result.anomaly_score).abs();
        assert!(difference < 5e-3, "{angle} {shift:?}: {difference}");
        // What is found is shown where it lies in the picture, not where it would lie in the reference.
        let scratched = detector.detect(&moved_part(angle, shift, true).view()).unwrap();
        let (sine, cosine) = angle.to_radians().sin_cos();
        let (u, v) = (-36.0, 20.0);
        let x = f64::from(WIDTH) / 2.0 + cosine * u - sine * v + shift.0;
        let y = f64::from(HEIGHT) / 2.0 + sine * u + cosine * v + shift.1;
        let (with, without) = (at(&scratched, x as u32, y as u32), at(&moved, x as u32, y as u32));
        assert!(with > without + 0.1, "{angle} {shift:?} at {x} {y}: {with}, {without} without");
    }
    let elsewhere = detector.detect(&Picture(vec![90; (WIDTH * HEIGHT * 3) as usize]).view()).unwrap();
    assert!(!elsewhere.pose.unwrap().applied, "{:?}", elsewhere.pose);
}

#[test]
fn a_batch_answers_each_frame_as_if_it_were_alone() {
    for framing in [Framing::default(), Framing { tiles: Some(tiles()), ..Default::default() }] {
        for threads in [1, 2] {
            let (_folder, mut detector) = detector(framing.clone(), &[], threads);
            let pictures: Vec<Picture> =
                (0..9).map(|index| Picture::dark().with(rect(index * 20, index * 10, 60, 50))).collect();
            let small = vec![0; 64 * 64 * 3];
            let mut frames: Vec<FrameView<'_>> = pictures.iter().map(Picture::view).collect();
            frames.insert(3, FrameView::rgb(64, 64, &small).unwrap());
            let together = detector.detect_batch(&frames);
            assert_eq!(together.len(), 10);
            for (index, (answer, frame)) in together.iter().zip(&frames).enumerate() {
                if index == 3 {
                    assert!(matches!(answer, Err(ModelError::Size { width_px: 64, .. })), "{answer:?}");
                    continue;
                }
                let (answer, alone) = (answer.as_ref().unwrap(), detector.detect(frame).unwrap());
                let difference = (answer.result.anomaly_score - alone.result.anomaly_score).abs();
                assert!(difference < EXACT, "{index}: {difference}");
                let worst = answer.map.values.iter().zip(&alone.map.values).map(|(a, b)| (a - b).abs());
                assert!(worst.fold(0.0, f32::max) < EXACT as f32);
            }
            assert!(detector.detect_batch(&[]).is_empty());
        }
    }
}
