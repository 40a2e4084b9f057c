//! A real model package that runs in microseconds: its score is a smooth function of the picture's mean brightness.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use linewarden_model::package::{
    BackboneInfo, Calibration, DatasetInfo, Golden, INPUT, MAP_OUTPUT, ModelInfo, ModelType, SCHEMA, SCORE_OUTPUT,
    Size, sha256_hex,
};
use linewarden_model::{Framing, Label};
use linewarden_train::onnx::{Attr, Dim, ElementType, GraphBuilder};

/// How steeply the score rises with brightness: 0.12 for black, 0.5 for middle grey, 0.88 for white.
const STEEPNESS: f64 = 4.0;
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
/// Pixels of the picture for one cell of the map.
const CELL_PX: i64 = 8;
/// ONNX's number for `float`.
const FLOAT: i64 = 1;

/// The score that [`brightness_package`] gives to RGB pixels: brighter than middle grey is anomalous.
pub fn brightness_score(rgb: &[u8]) -> f64 {
    let luma = |pixel: &[u8; 3]| pixel.iter().zip(LUMA).map(|(&value, weight)| f64::from(value) * weight).sum::<f64>();
    let pixels = rgb.as_chunks::<3>().0;
    let mean = pixels.iter().map(luma).sum::<f64>() / pixels.len().max(1) as f64 / 255.0;
    1.0 / (1.0 + (-STEEPNESS * (mean - 0.5)).exp())
}

/// Writes a package that was "trained" on pictures of this size, which is its network's size too, and gives its folder.
///
/// Score and map follow brightness alone (see [`brightness_score`]), so that a test can tell what they must be; the label
/// of a segmentation package is `bright`, its colour `#FF0000`. Sizes must be 32 to 4096.
///
/// # Errors
/// When `dir` cannot be written.
pub fn brightness_package(dir: &Path, width_px: u32, height_px: u32, model_type: ModelType) -> Result<PathBuf> {
    let golden_dir = dir.join("golden");
    std::fs::create_dir_all(&golden_dir).with_context(|| format!("cannot make `{}`", golden_dir.display()))?;
    let picture = image::RgbImage::from_fn(width_px, height_px, |x, y| {
        image::Rgb([(x * 255 / width_px) as u8, (y * 255 / height_px) as u8, 90])
    });
    picture.save(golden_dir.join("gradient.png")).context("cannot write the golden picture")?;
    let golden =
        [Golden { file: "gradient.png".to_owned(), anomaly_score: brightness_score(&picture), is_view: false }];
    let onnx = brightness_graph();
    let info = model_info(Size { width_px, height_px }, model_type, sha256_hex(&onnx));
    std::fs::write(golden_dir.join("golden.json"), serde_json::to_vec_pretty(&golden)?)?;
    std::fs::write(dir.join("model.onnx"), onnx)?;
    std::fs::write(dir.join("model.json"), serde_json::to_vec_pretty(&info)?)?;
    Ok(dir.to_owned())
}

fn brightness_graph() -> Vec<u8> {
    let mut graph = GraphBuilder::new("brightness");
    let picture = [Dim::Named("batch"), Dim::Named("height"), Dim::Named("width"), Dim::Fixed(3)];
    let image = graph.input(INPUT, ElementType::Uint8, &picture);
    let values = graph.node("Cast", &[&image], &[Attr::int("to", FLOAT)]);
    let weights = LUMA.map(|weight| (weight / 255.0) as f32).to_vec();
    let weights = graph.constant_f32("luma", &[3], weights);
    let weighted = graph.node("Mul", &[&values, &weights], &[]);
    let channels = graph.constant_i64("channels", &[1], vec![3]);
    let luma = graph.node("ReduceSum", &[&weighted, &channels], &[Attr::int("keepdims", 0)]);

    let rows_and_columns = graph.constant_i64("rows_and_columns", &[2], vec![1, 2]);
    let mean = graph.node("ReduceMean", &[&luma, &rows_and_columns], &[Attr::int("keepdims", 0)]);
    calibrated(&mut graph, &mean, SCORE_OUTPUT);
    graph.output(SCORE_OUTPUT, ElementType::Float, &[Dim::Named("batch")]);

    let one = graph.constant_i64("one", &[1], vec![1]);
    let with_channel = graph.node("Unsqueeze", &[&luma, &one], &[]);
    let cell = [CELL_PX, CELL_PX];
    let pooling = [Attr::ints("kernel_shape", &cell), Attr::ints("strides", &cell)];
    let pooled = graph.node("AveragePool", &[&with_channel], &pooling);
    let cells = graph.node("Squeeze", &[&pooled, &one], &[]);
    calibrated(&mut graph, &cells, MAP_OUTPUT);
    let map = [Dim::Named("batch"), Dim::Named("map_height"), Dim::Named("map_width")];
    graph.output(MAP_OUTPUT, ElementType::Float, &map);
    graph.finish()
}

/// Brightness to score.
fn calibrated(graph: &mut GraphBuilder, brightness: &str, output: &str) {
    let middle = graph.constant_f32("middle", &[], vec![0.5]);
    let above = graph.node("Sub", &[brightness, &middle], &[]);
    let steepness = graph.constant_f32("steepness", &[], vec![STEEPNESS as f32]);
    let steep = graph.node("Mul", &[&above, &steepness], &[]);
    graph.node_named("Sigmoid", &[&steep], output, &[]);
}

fn model_info(size: Size, model_type: ModelType, onnx_sha256: String) -> ModelInfo {
    let labels = match model_type {
        ModelType::Classification => Vec::new(),
        ModelType::Segmentation => vec![Label { name: "bright".to_owned(), hex_color: "#FF0000".to_owned() }],
    };
    ModelInfo {
        schema: SCHEMA,
        project: "brightness".to_owned(),
        version: "1".to_owned(),
        model_type,
        algorithm: "brightness".to_owned(),
        candidates: Vec::new(),
        image_size: size,
        input_size: size,
        framing: Framing::default(),
        labels,
        threshold: 0.5,
        calibration: Calibration { tau: 0.5, median_ln: -1.0, pixel_tau: 0.5, pixel_median_ln: -1.0, held_out: 1 },
        backbone: BackboneInfo { name: "none".to_owned(), sha256: sha256_hex(b""), strides: vec![8] },
        dataset: DatasetInfo { name: "none".to_owned(), sha256: sha256_hex(b""), normal: 0, anomaly: 0 },
        seed: 0,
        onnx_sha256,
        metrics: serde_json::Map::new(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        extended_from: None,
    }
}
