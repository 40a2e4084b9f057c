//! The complete model as one ONNX file: input, features, memory bank, map, score and calibration.

mod learnt;

use linewarden_model::package::{Calibration, MAP_OUTPUT, SCORE_OUTPUT};

use crate::backbone::{Backbone, BackboneError};
use crate::bank::Bank;
use crate::calibration::{Curve, FLOOR};
use crate::features::{GRID_CELLS, PATCHES, append_pooled, append_taps, bank_strides, fixed, graph_with_input};
use crate::onnx::{Attr, Dim, ElementType, GraphBuilder};
use crate::scoring::{MEDIAN_RANK, MEDIAN_SHARE, SMOOTHING_RADIUS, TOP_CELLS, smoothing_weights};

pub use learnt::{learnt_model, strides};

/// Name of the input of [`distances_model`].
pub(crate) const FEATURES_INPUT: &str = "features";

/// A file with nothing in it but the comparison of one picture's features with a bank, to be timed.
pub(crate) fn distances_model(bank: &Bank) -> Vec<u8> {
    let mut graph = GraphBuilder::new("distances");
    let dims = [fixed(1), fixed(bank.channels), fixed(PATCHES)];
    let features = graph.input(FEATURES_INPUT, ElementType::Float, &dims);
    let distances = append_distances(&mut graph, &features, bank);
    graph.output(&distances, ElementType::Float, &[fixed(1), fixed(PATCHES), fixed(1)]);
    graph.finish()
}

/// The file's bytes. The same bank, calibration and backbone give the same bytes. Ignored pixels are those of the
/// network's size.
///
/// # Errors
/// When the backbone cannot be written.
pub fn memory_bank_model(
    backbone: &Backbone,
    bank: &Bank,
    calibration: &Calibration,
    ignored: Option<&[bool]>,
) -> Result<Vec<u8>, BackboneError> {
    let mut graph = graph_with_input("linewarden");
    let taps = append_taps(&mut graph, backbone, &bank_strides(backbone), ignored)?;
    let (features, _) = append_pooled(&mut graph, &taps);
    let distances = graph.scoped("bank", |graph| append_distances(graph, &features, bank));
    let map = graph.scoped("map", |graph| append_smoothing(graph, &distances));
    let score = graph.scoped("score", |graph| append_score(graph, &map));
    let curve = Curve::through(calibration.tau, calibration.median_ln);
    graph.scoped("calibration", |graph| append_curve(graph, &score, curve, SCORE_OUTPUT));
    let pixel_curve = Curve::through(calibration.pixel_tau, calibration.pixel_median_ln);
    graph.scoped("pixel_calibration", |graph| append_curve(graph, &map, pixel_curve, MAP_OUTPUT));
    graph.output(SCORE_OUTPUT, ElementType::Float, &[Dim::Named("batch")]);
    graph.output(MAP_OUTPUT, ElementType::Float, &[Dim::Named("batch"), fixed(GRID_CELLS), fixed(GRID_CELLS)]);
    Ok(graph.finish())
}

/// The distance of each patch to its nearest neighbour, `[N, PATCHES, 1]`, as [`Bank::distances`] has it: two matrix
/// products, the first of which makes the second small.
///
/// A patch's distances to the bank lie side by side: ONNX Runtime searches such rows about 20 times faster than columns,
/// which took a third of the whole model.
fn append_distances(graph: &mut GraphBuilder, features: &str, bank: &Bank) -> String {
    let (count, channels, dimensions) = (bank.len(), bank.channels, bank.dimensions);
    let standardiser = &bank.standardiser;
    let mean = graph.constant_f32("mean", &[channels as i64], standardiser.mean.clone());
    let inverse = graph.constant_f32("inverse_deviation", &[channels as i64], standardiser.inverse_deviation.clone());
    let no_shift = graph.constant_f32("no_shift", &[channels as i64], vec![0.0; channels]);
    let unit = graph.constant_f32("unit_variance", &[channels as i64], vec![1.0; channels]);
    // One pass: (x - mean) / sqrt(1) * inverse.
    let standardised = graph.node(
        "BatchNormalization",
        &[features, &inverse, &no_shift, &mean, &unit],
        &[Attr::float("epsilon", 0.0)],
    );
    let queries = graph.node("Transpose", &[&standardised], &[Attr::ints("perm", &[0, 2, 1])]);
    let projection = graph.constant_f32("projection", &[channels as i64, dimensions as i64], bank.projection.clone());
    let projected = graph.node("MatMul", &[&queries, &projection], &[]);
    let column = |at: usize| (0..count).map(move |patch| -2.0 * bank.patches[patch * dimensions + at]);
    let patches =
        graph.constant_f32("patches", &[dimensions as i64, count as i64], (0..dimensions).flat_map(column).collect());
    let products = graph.node("MatMul", &[&projected, &patches], &[]);
    let lengths = graph.constant_f32("squared_lengths", &[count as i64], bank.squared_lengths());
    let sums = graph.node("Add", &[&products, &lengths], &[]);
    let axis = graph.constant_i64("row_axis", &[1], vec![2]);
    let nearest = graph.node("ReduceMin", &[&sums, &axis], &[]);
    // A product with ones: quicker than a reduction.
    let squares = graph.node("Mul", &[&queries, &queries], &[]);
    let ones = graph.constant_f32("ones", &[channels as i64, 1], vec![1.0; channels]);
    let query_lengths = graph.node("MatMul", &[&squares, &ones], &[]);
    let squared = graph.node("Add", &[&nearest, &query_lengths], &[]);
    // Rounding may leave the distance of a patch to itself just below zero.
    let squared = graph.node("Relu", &[&squared], &[]);
    graph.node("Sqrt", &[&squared], &[])
}

/// A Gaussian window over the grid, the edge's values going on beyond it: `[N, grid, grid]`.
fn append_smoothing(graph: &mut GraphBuilder, distances: &str) -> String {
    let side = GRID_CELLS as i64;
    let shape = graph.constant_i64("grid", &[4], vec![0, 1, side, side]);
    let grid = graph.node("Reshape", &[distances, &shape], &[]);
    let radius = SMOOTHING_RADIUS as i64;
    let pads = graph.constant_i64("pads", &[8], vec![0, 0, radius, radius, 0, 0, radius, radius]);
    let padded = graph.node("Pad", &[&grid, &pads], &[Attr::string("mode", "edge")]);
    let weights = smoothing_weights();
    let length = weights.len() as i64;
    let across = graph.constant_f32("across", &[1, 1, 1, length], weights.clone());
    let down = graph.constant_f32("down", &[1, 1, length, 1], weights);
    let smooth = graph.node("Conv", &[&padded, &across], &[]);
    let smooth = graph.node("Conv", &[&smooth, &down], &[]);
    let shape = graph.constant_i64("map_shape", &[3], vec![0, side, side]);
    graph.node("Reshape", &[&smooth, &shape], &[])
}

/// The picture's score, as [`crate::scoring::picture_score`] has it: `[N]`.
fn append_score(graph: &mut GraphBuilder, map: &str) -> String {
    let shape = graph.constant_i64("cells", &[2], vec![0, PATCHES as i64]);
    let cells = graph.node("Reshape", &[map, &shape], &[]);
    let count = graph.constant_i64("count", &[1], vec![MEDIAN_RANK as i64 + 1]);
    let sorted = graph.nodes("TopK", &[&cells, &count], 2, &[Attr::int("sorted", 1)]);
    let axis = graph.constant_i64("cell_axis", &[1], vec![1]);
    let slice = |graph: &mut GraphBuilder, from: usize, to: usize| {
        let from = graph.constant_i64("from", &[1], vec![from as i64]);
        let to = graph.constant_i64("to", &[1], vec![to as i64]);
        let part = graph.node("Slice", &[&sorted[0], &from, &to, &axis], &[]);
        graph.node("ReduceMean", &[&part, &axis], &[Attr::int("keepdims", 0)])
    };
    let top = slice(graph, 0, TOP_CELLS);
    let median = slice(graph, MEDIAN_RANK, MEDIAN_RANK + 1);
    let share = graph.constant_f32("median_share", &[], vec![MEDIAN_SHARE]);
    let level = graph.node("Mul", &[&median, &share], &[]);
    graph.node("Sub", &[&top, &level], &[])
}

fn append_curve(graph: &mut GraphBuilder, raw: &str, curve: Curve, output: &str) {
    let floor = graph.constant_f32("floor", &[], vec![FLOOR as f32]);
    let gain = graph.constant_f32("gain", &[], vec![curve.gain as f32]);
    let offset = graph.constant_f32("offset", &[], vec![curve.offset as f32]);
    let above = graph.node("Add", &[raw, &floor], &[]);
    let logarithm = graph.node("Log", &[&above], &[]);
    let product = graph.node("Mul", &[&logarithm, &gain], &[]);
    let sum = graph.node("Add", &[&product, &offset], &[]);
    graph.node_named("Sigmoid", &[&sum], output, &[]);
}
