//! Scaling inside the graph, to the very pixels that `linewarden_model::Preprocessor` makes of the same picture: scores
//! feel half a grey level, and a graph that is given a whole picture promises the score that the product gives it.
//!
//! That is a triangle filter as wide as the source pixels that one target pixel covers, first down, then across, with
//! weights in parts of 256, and rounded to whole grey levels after each of both. The graph computes the weights in whole
//! numbers as `linewarden_model` does, and single precision holds every sum of them without an error. As matrices they are
//! larger than they need be; but only those pay who leave the scaling to the graph.

use crate::onnx::{Attr, ElementType, GraphBuilder};

/// Weights are parts of this.
const UNITS: i64 = 256;

/// Appends what brings pictures of any size, `u8` as `[N, H, W, 3]`, to `size_px` squared; gives the name of their
/// `f32` planes `[N, 3, size_px, size_px]`.
///
/// Pictures that have the size already are not scaled. Where the size of the input is fixed, ONNX Runtime decides that
/// when it loads the graph and keeps nothing else.
pub(crate) fn append_scaling(graph: &mut GraphBuilder, pixels: &str, size_px: u32) -> String {
    let height = graph.node("Shape", &[pixels], &[Attr::int("start", 1), Attr::int("end", 2)]);
    let width = graph.node("Shape", &[pixels], &[Attr::int("start", 2), Attr::int("end", 3)]);
    let size = graph.constant_i64("size", &[1], vec![i64::from(size_px)]);
    let is_as_high = graph.node("Equal", &[&height, &size], &[]);
    let is_as_wide = graph.node("Equal", &[&width, &size], &[]);
    let fits = graph.node("And", &[&is_as_high, &is_as_wide], &[]);
    let unscaled = |graph: &mut GraphBuilder| {
        let values = cast(graph, pixels, ElementType::Float);
        planes(graph, &values)
    };
    graph
        .branch(&fits, unscaled, |graph| graph.scoped("scale", |graph| scaled(graph, pixels, &height, &width, size_px)))
}

fn scaled(graph: &mut GraphBuilder, pixels: &str, height: &str, width: &str, size_px: u32) -> String {
    let values = cast(graph, pixels, ElementType::Float);
    // Down: the columns of all channels side by side, so that one product does them all.
    let side_by_side = graph.constant_i64("side_by_side", &[3], vec![0, 0, -1]);
    let columns = graph.node("Reshape", &[&values, &side_by_side], &[]);
    let down = graph.scoped("down", |graph| weights(graph, height, size_px, Samples::Across));
    let squeezed = graph.node("MatMul", &[&down, &columns], &[]);
    let squeezed = whole_levels(graph, &squeezed);
    let pixel_shape = graph.constant_i64("pixel_shape", &[4], vec![0, 0, -1, 3]);
    let squeezed = graph.node("Reshape", &[&squeezed, &pixel_shape], &[]);
    // Across: on planes, whose rows lie one after the other.
    let rows = planes(graph, &squeezed);
    let across = graph.scoped("across", |graph| weights(graph, width, size_px, Samples::Down));
    let scaled = graph.node("MatMul", &[&rows, &across], &[]);
    whole_levels(graph, &scaled)
}

/// Which way a matrix of weights lies. It is built that way, so that nothing needs to be transposed.
#[derive(Clone, Copy)]
enum Samples {
    /// `[size_px, length]`, to stand left in a product.
    Across,
    /// `[length, size_px]`, to stand right in a product.
    Down,
}

/// How many 256th parts each of `length` samples counts for each target sample; those of a target sample sum up to 256,
/// as each is the difference of two rounded partial sums.
fn weights(graph: &mut GraphBuilder, length: &str, size_px: u32, samples_lie: Samples) -> String {
    let zero = graph.constant_i64("zero", &[], vec![0]);
    let one = graph.constant_i64("one", &[], vec![1]);
    let end = graph.node("Squeeze", &[length], &[]);
    let samples = graph.node("Range", &[&zero, &end, &one], &[]);
    let side = i64::from(size_px);
    let (samples_shape, targets_shape, axis_of_samples) = match samples_lie {
        Samples::Across => ([1, -1], [side, 1], 1),
        Samples::Down => ([-1, 1], [1, side], 0),
    };
    let samples_shape = graph.constant_i64("samples_shape", &[2], samples_shape.to_vec());
    let samples = graph.node("Reshape", &[&samples, &samples_shape], &[]);

    // In parts of a source sample, as fine as the centres of target samples lie.
    let part = 2 * side;
    let targets = graph.constant_i64("odd", &targets_shape, (0..side).map(|target| 2 * target + 1).collect());
    let part_of_sample = graph.constant_i64("part", &[], vec![part]);
    let half_sample = graph.constant_i64("half_sample", &[], vec![side]);
    let centres = graph.node("Mul", &[&targets, &end], &[]);
    let centres = graph.node("Sub", &[&centres, &half_sample], &[]);
    let twice = graph.node("Add", &[&end, &end], &[]);
    // When enlarging, the filter reaches from one sample to the next.
    let radius = graph.node("Max", &[&twice, &part_of_sample], &[]);
    let samples = graph.node("Mul", &[&samples, &part_of_sample], &[]);
    let offsets = graph.node("Sub", &[&samples, &centres], &[]);
    let distances = graph.node("Abs", &[&offsets], &[]);
    let heights = graph.node("Sub", &[&radius, &distances], &[]);
    let heights = graph.node("Max", &[&heights, &zero], &[]);

    let axis = graph.constant_i64("axis", &[], vec![axis_of_samples]);
    let axes = graph.constant_i64("axes", &[1], vec![axis_of_samples]);
    let totals = graph.node("ReduceSum", &[&heights, &axes], &[]);
    let sums = graph.node("CumSum", &[&heights, &axis], &[]);
    let before = graph.node("Sub", &[&sums, &heights], &[]);
    let doubled_units = graph.constant_i64("doubled_units", &[], vec![2 * UNITS]);
    let doubled_totals = graph.node("Add", &[&totals, &totals], &[]);
    let rounded = |graph: &mut GraphBuilder, sums: &str| {
        let sums = graph.node("Mul", &[sums, &doubled_units], &[]);
        let raised = graph.node("Add", &[&sums, &totals], &[]);
        graph.node("Div", &[&raised, &doubled_totals], &[])
    };
    let (sums, before) = (rounded(graph, &sums), rounded(graph, &before));
    let weights = graph.node("Sub", &[&sums, &before], &[]);
    cast(graph, &weights, ElementType::Float)
}

/// From sums of weighted levels to the nearest whole levels, halves up.
fn whole_levels(graph: &mut GraphBuilder, sums: &str) -> String {
    let part = graph.constant_f32("unit", &[], vec![1.0 / UNITS as f32]);
    let levels = graph.node("Mul", &[sums, &part], &[]);
    let half = graph.constant_f32("half", &[], vec![0.5]);
    let raised = graph.node("Add", &[&levels, &half], &[]);
    graph.node("Floor", &[&raised], &[])
}

fn planes(graph: &mut GraphBuilder, pixels: &str) -> String {
    graph.node("Transpose", &[pixels], &[Attr::ints("perm", &[0, 3, 1, 2])])
}

fn cast(graph: &mut GraphBuilder, values: &str, to: ElementType) -> String {
    graph.node("Cast", &[values], &[Attr::int("to", to as i64)])
}

#[cfg(test)]
mod tests {
    use linewarden_model::package::INPUT;
    use linewarden_model::{FrameView, Preprocessor, runtime};
    use ort::session::Session;
    use ort::value::TensorRef;

    use super::*;
    use crate::features::graph_with_input;
    use crate::onnx::Dim;

    const SIZE_PX: u32 = 256;
    const SIDE: usize = SIZE_PX as usize;

    fn session() -> Session {
        let mut graph = graph_with_input("scaling");
        let planes = append_scaling(&mut graph, INPUT, SIZE_PX);
        let pixels = graph.node("Transpose", &[&planes], &[Attr::ints("perm", &[0, 2, 3, 1])]);
        graph.node_named("Identity", &[&pixels], "scaled", &[]);
        let side = Dim::Fixed(i64::from(SIZE_PX));
        graph.output("scaled", ElementType::Float, &[Dim::Named("batch"), side, side, Dim::Fixed(3)]);
        runtime::session_builder(1).unwrap().commit_from_memory(&graph.finish()).unwrap()
    }

    /// Noise and hard edges: rounding of every kind, and both ends of the range.
    fn picture(width: usize, height: usize, seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let pixel = |index: usize| match (index / 3 % width / 16 + index / 3 / width / 16) % 4 {
            0 => 255,
            1 => 0,
            2 => (index / 3 % width) as u8,
            _ => random.u8(..),
        };
        (0..width * height * 3).map(pixel).collect()
    }

    fn assert_same_pixels(session: &mut Session, width: usize, height: usize, pictures: u64) {
        let pictures: Vec<Vec<u8>> = (0..pictures).map(|seed| picture(width, height, seed)).collect();
        let input = pictures.concat();
        let input = TensorRef::from_array_view(([pictures.len(), height, width, 3], input.as_slice())).unwrap();
        let outputs = session.run(ort::inputs![INPUT => input]).unwrap();
        let (shape, values) = outputs["scaled"].try_extract_tensor::<f32>().unwrap();
        assert_eq!(&shape[..], [pictures.len() as i64, SIDE as i64, SIDE as i64, 3]);
        let mut preprocessor = Preprocessor::new(SIZE_PX, SIZE_PX);
        let mut expected = Vec::new();
        for (rgb, scaled) in pictures.iter().zip(values.chunks_exact(SIDE * SIDE * 3)) {
            let view = FrameView::rgb(width as u32, height as u32, rgb).unwrap();
            preprocessor.run(&view, &mut expected).unwrap();
            let others = expected.iter().zip(scaled).filter(|&(&byte, &value)| f32::from(byte) != value).count();
            assert_eq!(others, 0, "values that differ at {width}x{height}");
        }
    }

    #[test]
    fn the_graph_scales_to_the_same_bytes_as_the_product() {
        let mut session = session();
        let sizes = [
            (576, 768),
            (640, 480),
            (1280, 720),
            (101, 77),
            (64, 64),
            (256, 256),
            (256, 300),
            (300, 256),
            (255, 257),
            (1, 3),
            (4096, 31),
        ];
        for (width, height) in sizes {
            assert_same_pixels(&mut session, width, height, 1);
        }
    }

    #[test]
    fn pictures_of_a_batch_are_scaled_each() {
        let mut session = session();
        assert_same_pixels(&mut session, 120, 90, 3);
        assert_same_pixels(&mut session, SIDE, SIDE, 2);
    }
}
