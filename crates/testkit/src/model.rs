//! A real model package that runs in microseconds: its score is a smooth function of the picture's mean brightness.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use linewarden_model::package::{
    BackboneInfo, Calibration, DatasetInfo, Golden, INPUT, MAP_OUTPUT, ModelInfo, ModelType, Package, SCHEMA,
    SCORE_OUTPUT, Size, sha256_hex,
};
use linewarden_model::{Framing, Label};
use linewarden_train::onnx::{Attr, Dim, ElementType, GraphBuilder};
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// How steeply the score rises with brightness: 0.12 for black, 0.5 for middle grey, 0.88 for white.
const STEEPNESS: f64 = 4.0;
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
/// Pixels of the picture for one cell of the map.
const CELL_PX: i64 = 8;
/// Rows and columns of the matrices of a slow model.
const SIDE: i64 = 512;
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
    package(dir, width_px, height_px, model_type, 0)
}

/// The same package with a model that takes its time: each unit of `work` is a product of two matrices of 512 by 512, some
/// 10 ms on one core of 2021.
///
/// # Errors
/// When `dir` cannot be written.
pub fn slow_package(dir: &Path, width_px: u32, height_px: u32, work: usize) -> Result<PathBuf> {
    package(dir, width_px, height_px, ModelType::Classification, work)
}

/// Writes the package `model` once more at `dir`, with the same scores and a graph that takes its time, as that of
/// [`slow_package`].
///
/// # Errors
/// When there is no package, or `dir` cannot be written.
pub fn slowed_package(model: &Path, dir: &Path, work: usize) -> Result<PathBuf> {
    let package = Package::read(model)?;
    let onnx = slowed(package.onnx(), work)?;
    // One picture for its self-test: each takes its time, too.
    package.with_graph(onnx, package.golden().iter().take(1).cloned().collect()).write_to(dir)?;
    Ok(dir.to_owned())
}

/// The same graph, with work between its score and the score that it gives.
fn slowed(onnx: &[u8], work: usize) -> Result<Vec<u8>> {
    const QUICK: &str = "quick_score";
    let mut more = GraphBuilder::new("work");
    let quick = more.input(QUICK, ElementType::Float, &[Dim::Named("batch")]);
    let slow = more.scoped("work", |more| worked_over(more, quick, work));
    more.node_named("Identity", &[&slow], SCORE_OUTPUT, &[]);
    more.output(SCORE_OUTPUT, ElementType::Float, &[Dim::Named("batch")]);
    let more = more.finish();
    let (_, more) = fields(&more)?.into_iter().find(|(tag, _)| *tag == GRAPH).context("a graph")?;
    let (mut model, mut graph) = (Vec::new(), Vec::new());
    for (tag, content) in fields(onnx)? {
        match tag {
            GRAPH => {
                for (tag, content) in fields(content.bytes)? {
                    match tag {
                        NODE => put_bytes(&mut graph, NODE, &renamed(content.bytes, SCORE_OUTPUT, QUICK)?),
                        _ => graph.extend(content.whole),
                    }
                }
            }
            _ => model.extend(content.whole),
        }
    }
    // They rest on what the graph made, and so come last.
    fields(more.bytes)?
        .iter()
        .filter(|(tag, _)| [NODE, CONSTANT].contains(tag))
        .for_each(|(_, one)| graph.extend(one.whole));
    put_bytes(&mut model, GRAPH, &graph);
    Ok(model)
}

/// A node with another name for a value that it reads or makes; it may be called like one.
fn renamed(node: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    let mut changed = Vec::new();
    for (tag, content) in fields(node)? {
        match [NODE_INPUT, NODE_OUTPUT, NODE_NAME].contains(&tag) && content.bytes == from.as_bytes() {
            true => put_bytes(&mut changed, tag, to.as_bytes()),
            false => changed.extend(content.whole),
        }
    }
    Ok(changed)
}

// Numbers of `onnx.proto`'s fields.
const GRAPH: u32 = 7;
const NODE: u32 = 1;
const CONSTANT: u32 = 5;
const NODE_INPUT: u32 = 1;
const NODE_OUTPUT: u32 = 2;
const NODE_NAME: u32 = 3;

/// A field of a message as it lies in the file: with its key, and its bytes where it has a length.
struct Content<'a> {
    whole: &'a [u8],
    bytes: &'a [u8],
}

fn fields(message: &[u8]) -> Result<Vec<(u32, Content<'_>)>> {
    let mut found = Vec::new();
    let mut rest = message;
    while !rest.is_empty() {
        let mut after = rest;
        let (tag, wire_type) = decode_key(&mut after)?;
        let length = match wire_type {
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut after)?)?,
            WireType::Varint => decode_varint(&mut after).map(|_| 0)?,
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            other => bail!("{other:?} in an ONNX file"),
        };
        let (bytes, next) = after.split_at_checked(length).context("a field beyond the end")?;
        let whole = &rest[..rest.len() - next.len()];
        found.push((tag, Content { whole, bytes }));
        rest = next;
    }
    Ok(found)
}

fn put_bytes(message: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, message);
    encode_varint(bytes.len() as u64, message);
    message.extend(bytes);
}

fn package(dir: &Path, width_px: u32, height_px: u32, model_type: ModelType, work: usize) -> Result<PathBuf> {
    let golden_dir = dir.join("golden");
    std::fs::create_dir_all(&golden_dir).with_context(|| format!("cannot make `{}`", golden_dir.display()))?;
    let picture = image::RgbImage::from_fn(width_px, height_px, |x, y| {
        image::Rgb([(x * 255 / width_px) as u8, (y * 255 / height_px) as u8, 90])
    });
    picture.save(golden_dir.join("gradient.png")).context("cannot write the golden picture")?;
    let golden =
        [Golden { file: "gradient.png".to_owned(), anomaly_score: brightness_score(&picture), is_view: false }];
    let onnx = brightness_graph(work);
    let info = model_info(Size { width_px, height_px }, model_type, sha256_hex(&onnx));
    std::fs::write(golden_dir.join("golden.json"), serde_json::to_vec_pretty(&golden)?)?;
    std::fs::write(dir.join("model.onnx"), onnx)?;
    std::fs::write(dir.join("model.json"), serde_json::to_vec_pretty(&info)?)?;
    Ok(dir.to_owned())
}

fn brightness_graph(work: usize) -> Vec<u8> {
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
    let mean = worked_over(&mut graph, mean, work);
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

/// The same brightness after products of matrices that each need the one before, and come to nothing in the end.
fn worked_over(graph: &mut GraphBuilder, mean: String, work: usize) -> String {
    if work == 0 {
        return mean;
    }
    let side = usize::try_from(SIDE).expect("a small number");
    let values = (0..side * side).map(|place| (place % 7) as f32 * 1e-4).collect();
    let matrix = graph.constant_f32("work", &[SIDE, SIDE], values);
    let lifted_to = graph.constant_i64("lifted_to", &[2], vec![-1, 1]);
    let lifted = graph.node("Reshape", &[&mean, &lifted_to], &[]);
    // One picture at a time: its brightness is laid over the whole matrix.
    let mut product = graph.node("Mul", &[&matrix, &lifted], &[]);
    for _ in 0..work {
        product = graph.node("MatMul", &[&product, &matrix], &[]);
    }
    let nothing = graph.constant_f32("nothing", &[], vec![0.0]);
    let sum = graph.node("ReduceMean", &[&product], &[Attr::int("keepdims", 0)]);
    let sum = graph.node("Mul", &[&sum, &nothing], &[]);
    graph.node("Add", &[&mean, &sum], &[])
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
        normal_scores: Vec::new(),
        backbone: BackboneInfo { name: "none".to_owned(), sha256: sha256_hex(b""), strides: vec![8] },
        dataset: DatasetInfo { name: "none".to_owned(), sha256: sha256_hex(b""), normal: 0, anomaly: 0 },
        seed: 0,
        onnx_sha256,
        metrics: serde_json::Map::new(),
        time: "2026-01-01T00:00:00Z".to_owned(),
        extended_from: None,
    }
}
