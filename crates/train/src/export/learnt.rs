//! What was learnt from labelled anomalies, as one ONNX file: only the parts that the score or the masks need.

use linewarden_model::package::{LABELS_OUTPUT, MAP_OUTPUT, SCORE_OUTPUT};
use ndarray::Array2;

use super::{append_curve, append_distances, append_score, append_smoothing};
use crate::backbone::{Backbone, BackboneError, Tap};
use crate::calibration::{Curve, FLOOR};
use crate::features::{
    GRID_CELLS, PATCHES, append_enlarged, append_pooled, append_taps, bank_strides, chosen, fixed, graph_with_input,
    head_strides, united,
};
use crate::heads::gaussian::Gaussian;
use crate::heads::image::{ImageHead, LEAST_VARIANCE, is_pooled};
use crate::heads::patch::TOP_CELLS;
use crate::heads::{Borders, CellHead, Learnt, Part};
use crate::onnx::{Attr, Dim, ElementType, GraphBuilder};

/// The strides of the feature maps that the graph looks at.
pub fn strides(backbone: &Backbone, learnt: &Learnt) -> Vec<u32> {
    let of_bank = if needs_patches(learnt) { bank_strides(backbone) } else { Vec::new() };
    let has_heads = learnt.patch.is_some() || learnt.masks.is_some() || learnt.image.is_some();
    let of_heads = if has_heads { head_strides(backbone) } else { Vec::new() };
    united(&of_bank, &of_heads)
}

fn needs_patches(learnt: &Learnt) -> bool {
    learnt.bank.is_some() || learnt.gaussian.is_some()
}

/// The file's bytes; `with_labels` adds a map for each label. The same input gives the same bytes. Ignored pixels are
/// those of the network's size.
///
/// # Errors
/// When the backbone cannot be written.
pub fn learnt_model(
    backbone: &Backbone,
    learnt: &Learnt,
    with_labels: bool,
    ignored: Option<&[bool]>,
) -> Result<Vec<u8>, BackboneError> {
    let mut builder = graph_with_input("linewarden");
    let graph = &mut builder;
    let taps = append_taps(graph, backbone, &strides(backbone, learnt), ignored)?;
    let head_taps = chosen(&taps, &head_strides(backbone));
    let mut scores: Vec<(Part, String)> = Vec::new();
    let mut map = None;

    if needs_patches(learnt) {
        let (features, channels) = append_pooled(graph, &chosen(&taps, &bank_strides(backbone)));
        if let Some(bank) = &learnt.bank {
            let distances = graph.scoped("bank", |graph| append_distances(graph, &features, bank));
            let smooth = graph.scoped("map", |graph| append_smoothing(graph, &distances));
            scores.push((Part::Bank, graph.scoped("score", |graph| append_log_score(graph, &smooth))));
            map = Some(smooth);
        }
        if let Some(gaussian) = &learnt.gaussian {
            let score = graph.scoped("gaussian", |graph| {
                let distances = append_mahalanobis(graph, &features, channels, gaussian);
                let smooth = append_smoothing(graph, &distances);
                append_log_score(graph, &smooth)
            });
            scores.push((Part::Gaussian, score));
        }
    }
    if let Some(image) = &learnt.image {
        scores.push((Part::Image, graph.scoped("image_head", |graph| append_image_head(graph, &head_taps, image))));
    }
    if let Some(patch) = &learnt.patch {
        let score = graph.scoped("patch_head", |graph| {
            let (values, side) = append_cell_head(graph, &head_taps, patch);
            append_top_cells(graph, &values, patch.labels(), side)
        });
        scores.push((Part::Patch, score));
    }
    match &learnt.masks {
        Some((head, borders)) => {
            let side = graph.scoped("mask_head", |graph| {
                let (values, side) = append_cell_head(graph, &head_taps, head);
                append_label_maps(graph, &values, borders, side);
                side
            });
            graph.output(MAP_OUTPUT, ElementType::Float, &[Dim::Named("batch"), fixed(side), fixed(side)]);
            if with_labels {
                let labels = fixed(borders.curves.len());
                graph.output(
                    LABELS_OUTPUT,
                    ElementType::Float,
                    &[Dim::Named("batch"), labels, fixed(side), fixed(side)],
                );
            }
        }
        None => {
            let calibration = &learnt.calibration;
            let curve = Curve::through(calibration.pixel_tau, calibration.pixel_median_ln);
            let map = map.unwrap_or_default();
            graph.scoped("pixel_calibration", |graph| append_curve(graph, &map, curve, MAP_OUTPUT));
            graph.output(MAP_OUTPUT, ElementType::Float, &[Dim::Named("batch"), fixed(GRID_CELLS), fixed(GRID_CELLS)]);
        }
    }
    graph.scoped("stack", |graph| append_stack(graph, learnt, &scores));
    graph.output(SCORE_OUTPUT, ElementType::Float, &[Dim::Named("batch")]);
    Ok(builder.finish())
}

/// `sigmoid(bias + sum of weight * score)`: `[N]`.
fn append_stack(graph: &mut GraphBuilder, learnt: &Learnt, scores: &[(Part, String)]) {
    let mut sum = graph.constant_f32("bias", &[1], vec![learnt.stack.bias]);
    for &(part, weight) in &learnt.stack.weights {
        let Some((_, score)) = scores.iter().find(|(own, _)| *own == part) else { continue };
        let weight = graph.constant_f32("weight", &[], vec![weight]);
        let product = graph.node("Mul", &[score, &weight], &[]);
        sum = graph.node("Add", &[&product, &sum], &[]);
    }
    graph.node_named("Sigmoid", &[&sum], SCORE_OUTPUT, &[]);
}

fn append_log_score(graph: &mut GraphBuilder, map: &str) -> String {
    let score = append_score(graph, map);
    let floor = graph.constant_f32("floor", &[], vec![FLOOR as f32]);
    let above = graph.node("Add", &[&score, &floor], &[]);
    graph.node("Log", &[&above], &[])
}

/// The Mahalanobis distance of each patch, `[N, PATCHES, 1]`.
fn append_mahalanobis(graph: &mut GraphBuilder, features: &str, available: usize, gaussian: &Gaussian) -> String {
    let width = gaussian.channels.len() as i64;
    debug_assert!(gaussian.channels.iter().all(|&channel| channel < available));
    let channels: Vec<i64> = gaussian.channels.iter().map(|&channel| channel as i64).collect();
    let channels = graph.constant_i64("channels", &[width], channels);
    let seen = graph.node("Gather", &[features, &channels], &[Attr::int("axis", 1)]);
    let rows = graph.node("Transpose", &[&seen], &[Attr::ints("perm", &[0, 2, 1])]);
    let patches = PATCHES as i64;
    let means = graph.constant_f32("means", &[patches, width], gaussian.means.clone());
    let centred = graph.node("Sub", &[&rows, &means], &[]);
    let shape = graph.constant_i64("rows", &[4], vec![0, patches, 1, width]);
    let centred = graph.node("Reshape", &[&centred, &shape], &[]);
    let whitening = graph.constant_f32("whitening", &[patches, width, width], gaussian.whitening.clone());
    let white = graph.node("MatMul", &[&centred, &whitening], &[]);
    let axis = graph.constant_i64("axis", &[1], vec![3]);
    let squares = graph.node("ReduceSumSquare", &[&white, &axis], &[Attr::int("keepdims", 0)]);
    graph.node("Sqrt", &[&squares], &[])
}

/// The image head's value, `[N]`.
fn append_image_head(graph: &mut GraphBuilder, taps: &[Tap], head: &ImageHead) -> String {
    let deepest = taps.iter().map(|tap| tap.stride).max().unwrap_or(0);
    let mut pooled = Vec::new();
    let axes = graph.constant_i64("cells", &[2], vec![2, 3]);
    for tap in taps.iter().filter(|tap| is_pooled(tap.stride, deepest)) {
        let mean = graph.node("GlobalAveragePool", &[&tap.name], &[]);
        let maximum = graph.node("GlobalMaxPool", &[&tap.name], &[]);
        let centred = graph.node("Sub", &[&tap.name, &mean], &[]);
        let squares = graph.node("Mul", &[&centred, &centred], &[]);
        let variance = graph.node("ReduceMean", &[&squares, &axes], &[]);
        let least = graph.constant_f32("least_variance", &[], vec![LEAST_VARIANCE]);
        let variance = graph.node("Add", &[&variance, &least], &[]);
        let deviation = graph.node("Sqrt", &[&variance], &[]);
        pooled.extend([mean, maximum, deviation]);
    }
    let pooled: Vec<&str> = pooled.iter().map(String::as_str).collect();
    let all = graph.node("Concat", &pooled, &[Attr::int("axis", 1)]);
    let inputs = head.weights.len() as i64;
    let shape = graph.constant_i64("row", &[2], vec![0, inputs]);
    let row = graph.node("Reshape", &[&all, &shape], &[]);
    let weights = graph.constant_f32("weights", &[inputs, 1], head.weights.clone());
    let product = graph.node("MatMul", &[&row, &weights], &[]);
    let shape = graph.constant_i64("value", &[1], vec![-1]);
    let product = graph.node("Reshape", &[&product, &shape], &[]);
    let bias = graph.constant_f32("bias", &[], vec![head.bias]);
    graph.node("Add", &[&product, &bias], &[])
}

/// How much more each cell looks like each label than like a normal one, `[N, labels, side, side]`, and the side.
///
/// A linear layer gives the same before a map is enlarged as after it: each tap is weighed at its own size, and the few
/// units that come out are enlarged and added, from the coarsest tap to the finest.
fn append_cell_head(graph: &mut GraphBuilder, taps: &[Tap], head: &CellHead) -> (String, usize) {
    let head = head.against_normal();
    let mut sum: Option<(String, u32)> = None;
    for (place, (tap, weights)) in taps.iter().zip(&head.inner).enumerate().rev() {
        let weights = append_matrix(graph, weights);
        let inputs = match place {
            0 => {
                let bias = graph.constant_f32("bias", &[head.inner_bias.len() as i64], head.inner_bias.clone());
                vec![tap.name.clone(), weights, bias]
            }
            _ => vec![tap.name.clone(), weights],
        };
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let own = graph.node("Conv", &inputs, &[]);
        let with_coarser = match sum {
            Some((coarser, size)) if size == tap.size => graph.node("Add", &[&own, &coarser], &[]),
            Some((coarser, size)) => {
                let enlarged = append_enlarged(graph, &coarser, i64::from(size), i64::from(tap.size));
                graph.node("Add", &[&own, &enlarged], &[])
            }
            None => own,
        };
        sum = Some((with_coarser, tap.size));
    }
    let (mut values, side) = sum.unwrap_or_default();
    if let Some((weights, bias)) = &head.outer {
        let units = graph.node("Relu", &[&values], &[]);
        let weights = append_matrix(graph, weights);
        let bias = graph.constant_f32("outer_bias", &[bias.len() as i64], bias.clone());
        values = graph.node("Conv", &[&units, &weights, &bias], &[]);
    }
    (values, side as usize)
}

fn append_matrix(graph: &mut GraphBuilder, matrix: &Array2<f32>) -> String {
    let dims = [matrix.nrows() as i64, matrix.ncols() as i64, 1, 1];
    graph.constant_f32("weights", &dims, matrix.iter().copied().collect())
}

/// From values against normal, `[N, labels, side, side]`, to both maps.
fn append_label_maps(graph: &mut GraphBuilder, values: &str, borders: &Borders, side: usize) {
    let curves = &borders.curves;
    let labels = curves.len() as i64;
    let maps = if labels == 1 {
        let shift = graph.constant_f32("border", &[], vec![curves[0].odds.ln()]);
        let shifted = graph.node("Add", &[values, &shift], &[]);
        graph.node_named("Sigmoid", &[&shifted], LABELS_OUTPUT, &[])
    } else {
        // With e = exp(value): p = e / (1 + sum e), and the odds of each label times its own factor.
        let (low, high) = (graph.constant_f32("low", &[], vec![-30.0]), graph.constant_f32("high", &[], vec![30.0]));
        let bounded = graph.node("Clip", &[values, &low, &high], &[]);
        let raised = graph.node("Exp", &[&bounded], &[]);
        let axis = graph.constant_i64("label_axis", &[1], vec![1]);
        let sum = graph.node("ReduceSum", &[&raised, &axis], &[]);
        let one = graph.constant_f32("one", &[], vec![1.0]);
        let whole = graph.node("Add", &[&sum, &one], &[]);
        let others = graph.node("Sub", &[&whole, &raised], &[]);
        let raised = append_without_echoes(graph, &raised, &whole, borders.echo);
        let odds = graph.constant_f32("odds", &[labels, 1, 1], curves.iter().map(|curve| curve.odds).collect());
        let weighed = graph.node("Mul", &[&raised, &odds], &[]);
        let total = graph.node("Add", &[&weighed, &others], &[]);
        graph.node_named("Div", &[&weighed, &total], LABELS_OUTPUT, &[])
    };
    let highest = append_highest(graph, &maps, curves.len());
    let shape = graph.constant_i64("map_shape", &[3], vec![0, side as i64, side as i64]);
    graph.node_named("Reshape", &[&highest, &shape], MAP_OUTPUT, &[]);
}

/// Nothing of the labels whose highest probability lies far below that of another: as `without_echoes` has it. The same
/// softmax divides all of them, but not in the same cell, so that probabilities are compared.
fn append_without_echoes(graph: &mut GraphBuilder, raised: &str, whole: &str, echo: f32) -> String {
    let probabilities = graph.node("Div", &[raised, whole], &[]);
    let cells = graph.constant_i64("cell_axes", &[2], vec![2, 3]);
    let peaks = graph.node("ReduceMax", &[&probabilities, &cells], &[]);
    let axis = graph.constant_i64("label_axis", &[1], vec![1]);
    let highest = graph.node("ReduceMax", &[&peaks, &axis], &[]);
    let share = graph.constant_f32("echo", &[], vec![echo]);
    let least = graph.node("Mul", &[&highest, &share], &[]);
    let is_seen = graph.node("GreaterOrEqual", &[&peaks, &least], &[]);
    let seen = graph.node("Cast", &[&is_seen], &[Attr::int("to", ElementType::Float as i64)]);
    graph.node("Mul", &[raised, &seen], &[])
}

fn append_highest(graph: &mut GraphBuilder, maps: &str, labels: usize) -> String {
    if labels == 1 {
        return maps.to_owned();
    }
    let axis = graph.constant_i64("label_axis", &[1], vec![1]);
    graph.node("ReduceMax", &[maps, &axis], &[])
}

/// The mean of the oddest cells, `[N]`.
fn append_top_cells(graph: &mut GraphBuilder, values: &str, labels: usize, side: usize) -> String {
    let highest = append_highest(graph, values, labels);
    let shape = graph.constant_i64("cells", &[2], vec![0, (side * side) as i64]);
    let cells = graph.node("Reshape", &[&highest, &shape], &[]);
    let count = graph.constant_i64("count", &[1], vec![TOP_CELLS.min(side * side) as i64]);
    let top = graph.nodes("TopK", &[&cells, &count], 2, &[Attr::int("sorted", 0)]);
    let axis = graph.constant_i64("cell_axis", &[1], vec![1]);
    graph.node("ReduceMean", &[&top[0], &axis], &[Attr::int("keepdims", 0)])
}
