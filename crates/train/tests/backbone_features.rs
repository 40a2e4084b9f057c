//! The backbone's features through ONNX Runtime, held against an independent implementation (torch; see
//! `scripts/golden_features.py`) and against themselves after a walk through a file.

#![allow(clippy::unwrap_used, clippy::panic, reason = "also the helpers of a test may fail by panicking")]

use std::collections::BTreeMap;
use std::error::Error as _;

use linewarden_model::runtime;
use linewarden_train::backbone::{Backbone, BackboneSource, Tap};
use linewarden_train::onnx::{Dim, ElementType, GraphBuilder};
use ort::value::TensorRef;
use serde::Deserialize;

const STRIDES: [u32; 4] = [4, 8, 16, 32];
/// Features go up to about 100 here; a single wrong pad or epsilon is off by tenths.
const ERROR_MAX: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    size_px: u32,
    taps: Vec<GoldenTap>,
}

#[derive(Deserialize)]
struct GoldenTap {
    stride: u32,
    shape: [usize; 3],
    mean: f64,
    std: f64,
    /// Channel, row, column, value.
    samples: Vec<(usize, usize, usize, f64)>,
}

fn bundled() -> Backbone {
    Backbone::load(&BackboneSource::Bundled).unwrap_or_else(|error| match error.source() {
        Some(cause) => panic!("{error}: {cause}"),
        None => panic!("{error}"),
    })
}

/// The picture that `golden_features.py` draws with the same formula, scaled as a backbone wants it.
fn picture(size_px: u32) -> Vec<f32> {
    let mut values = Vec::new();
    for c in 0..3 {
        for y in 0..size_px {
            for x in 0..size_px {
                let grey = (x * 7 + y * 13 + c * 29 + x * y / 16) % 256;
                values.push((grey as f32 - 127.0) / 128.0);
            }
        }
    }
    values
}

/// A file with nothing in it but the backbone, its input and its taps as outputs.
fn bare_file(backbone: &Backbone, size_px: u32, strides: &[u32]) -> (Vec<u8>, Vec<Tap>) {
    let mut graph = GraphBuilder::new("bare");
    let side = Dim::Fixed(size_px.into());
    let input = graph.input("input", ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(3), side, side]);
    let taps = backbone.append(&mut graph, &input, size_px, strides).unwrap_or_else(|error| panic!("{error}"));
    for tap in &taps {
        let side = Dim::Fixed(tap.size.into());
        let dims = [Dim::Named("batch"), Dim::Fixed(tap.channels.into()), side, side];
        graph.output(&tap.name, ElementType::Float, &dims);
    }
    (graph.finish(), taps)
}

fn run(file: &[u8], size_px: u32, taps: &[Tap]) -> BTreeMap<u32, Vec<f32>> {
    let mut session = runtime::session_builder(1).unwrap().commit_from_memory(file).unwrap();
    let side = size_px as usize;
    let values = picture(size_px);
    let input = TensorRef::from_array_view(([1, 3, side, side], values.as_slice())).unwrap();
    let outputs = session.run(ort::inputs!["input" => input]).unwrap();
    let mut features = BTreeMap::new();
    for tap in taps {
        let (shape, values) = outputs[tap.name.as_str()].try_extract_tensor::<f32>().unwrap();
        assert_eq!(shape.to_vec(), [1, tap.channels.into(), tap.size.into(), tap.size.into()]);
        features.insert(tap.stride, values.to_vec());
    }
    features
}

#[test]
fn features_are_those_of_an_independent_implementation() {
    let cases: Vec<Golden> = serde_json::from_str(include_str!("golden/efficientnet_lite0.json")).unwrap();
    let backbone = bundled();
    let mut largest_error = 0.0_f64;
    for case in cases {
        let (file, taps) = bare_file(&backbone, case.size_px, &STRIDES);
        let features = run(&file, case.size_px, &taps);
        for (tap, golden) in taps.iter().zip(&case.taps) {
            let [channels, height, width] = golden.shape;
            assert_eq!((tap.stride, tap.channels as usize), (golden.stride, channels));
            assert_eq!((tap.size as usize, tap.size as usize), (height, width));

            let values = &features[&tap.stride];
            let count = values.len() as f64;
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
            let variance = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / count;
            let sampled = golden
                .samples
                .iter()
                .map(|&(c, y, x, expected)| (f64::from(values[(c * height + y) * width + x]) - expected).abs());
            let errors = sampled.chain([(mean - golden.mean).abs(), (variance.sqrt() - golden.std).abs()]);
            let error = errors.fold(0.0, f64::max);
            assert!(error <= ERROR_MAX, "stride {} at {} pixels is off by {error}", tap.stride, case.size_px);
            largest_error = largest_error.max(error);
        }
    }
    println!("largest error: {largest_error:.2e}");
}

#[test]
fn a_backbone_written_as_a_file_and_loaded_again_gives_the_same_features() {
    const SIZE_PX: u32 = 96;
    let bundled = bundled();
    let (file, taps) = bare_file(&bundled, SIZE_PX, &STRIDES);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.onnx");
    std::fs::write(&path, &file).unwrap();

    let again = Backbone::load(&BackboneSource::File(path)).unwrap();
    assert_eq!(again.name(), "again");
    assert_ne!(again.sha256(), bundled.sha256());
    assert_eq!(again.taps(), bundled.taps());

    let (file_again, taps_again) = bare_file(&again, SIZE_PX, &STRIDES);
    assert_eq!(run(&file_again, SIZE_PX, &taps_again), run(&file, SIZE_PX, &taps));
}

#[test]
fn a_file_holds_no_layer_deeper_than_the_deepest_stride() {
    let backbone = bundled();
    let (shallow, taps) = bare_file(&backbone, 256, &[16, 4]);
    let strides: Vec<u32> = taps.iter().map(|tap| tap.stride).collect();
    assert_eq!(strides, [16, 4]);
    // 2.8 MB up to stride 16, 13 MB in all.
    assert!(shallow.len() < 3_000_000, "{} bytes", shallow.len());
    let (deep, _) = bare_file(&backbone, 256, &STRIDES);
    assert!(deep.len() > 10_000_000, "{} bytes", deep.len());

    // Nor when the layers come from a file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep.onnx");
    std::fs::write(&path, &deep).unwrap();
    let foreign = Backbone::load(&BackboneSource::File(path)).unwrap();
    assert!(bare_file(&foreign, 256, &[4]).0.len() < shallow.len());
}

#[test]
fn the_same_backbone_gives_the_same_bytes() {
    assert_eq!(bare_file(&bundled(), 64, &[8]).0, bare_file(&bundled(), 64, &[8]).0);
}

#[test]
fn what_it_does_not_have_is_refused_by_name() {
    let backbone = bundled();
    let mut graph = GraphBuilder::new("test");
    let error = backbone.append(&mut graph, "input", 256, &[4, 64]).unwrap_err().to_string();
    assert_eq!(error, "backbone `efficientnet-lite0` has no features at stride 64: it has strides 4, 8, 16, 32");
    let error = backbone.append(&mut graph, "input", 16, &[4]).unwrap_err().to_string();
    assert_eq!(error, "backbone input must be at least 32 pixels wide, got 16");
}
