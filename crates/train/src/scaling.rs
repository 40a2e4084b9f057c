//! Scaling inside the graph, to the very pixels that `linewarden_model::Preprocessor` makes of the same picture: scores
//! feel half a grey level, and a graph that is given a whole picture promises the score that the product gives it.
//!
//! That is a triangle filter as wide as the source pixels that one target pixel covers, first down, then across, with
//! fixed-point weights, and rounded to whole grey levels after each of both. In double precision the graph does the same
//! sums without an error. As matrices they are larger than they need be; but only those pay who leave the scaling to the
//! graph.

use crate::onnx::{Attr, ElementType, GraphBuilder};

/// Weights are held in 16 bits with a sign: the largest must stay below this.
const WEIGHT_LIMIT: f64 = 32_768.0;
/// Fixed-point weights have at most so many binary places.
const PRECISION_MAX: i32 = 21;

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
    let values = cast(graph, pixels, ElementType::Double);
    // Down: the columns of all channels side by side, so that one product does them all.
    let side_by_side = graph.constant_i64("side_by_side", &[3], vec![0, 0, -1]);
    let columns = graph.node("Reshape", &[&values, &side_by_side], &[]);
    let down = graph.scoped("down", |graph| weights(graph, height, size_px, Samples::Across));
    let squeezed = graph.node("MatMul", &[&down, &columns], &[]);
    let squeezed = whole(graph, &squeezed);
    let pixel_shape = graph.constant_i64("pixel_shape", &[4], vec![0, 0, -1, 3]);
    let squeezed = graph.node("Reshape", &[&squeezed, &pixel_shape], &[]);
    // Across: on planes, whose rows lie one after the other.
    let rows = planes(graph, &squeezed);
    let across = graph.scoped("across", |graph| weights(graph, width, size_px, Samples::Down));
    let scaled = graph.node("MatMul", &[&rows, &across], &[]);
    let scaled = whole(graph, &scaled);
    cast(graph, &scaled, ElementType::Float)
}

/// Which way a matrix of weights lies. It is built that way: ONNX Runtime 1.24 would fuse a transposition into the
/// product, for which it has no double precision.
#[derive(Clone, Copy)]
enum Samples {
    /// `[size_px, length]`, to stand left in a product.
    Across,
    /// `[length, size_px]`, to stand right in a product.
    Down,
}

/// How much each of `length` samples counts for each target sample. Sums of 1 but for the rounding.
///
/// Before their rounding, weights are fractions whose denominator is no multiple of so high a power of two that one
/// could lie halfway between two fixed-point numbers, or near it by double's measure, at any length that a picture has.
/// So the order of the sums, of which ONNX says nothing, has no influence.
fn weights(graph: &mut GraphBuilder, length: &str, size_px: u32, samples_lie: Samples) -> String {
    let size = f64::from(size_px);
    let zero = graph.constant_i64("zero", &[], vec![0]);
    let step = graph.constant_i64("step", &[], vec![1]);
    let end = graph.node("Squeeze", &[length], &[]);
    let samples = graph.node("Range", &[&zero, &end, &step], &[]);
    let samples = cast(graph, &samples, ElementType::Double);
    let side = i64::from(size_px);
    let (samples_shape, targets_shape, axis_of_samples) = match samples_lie {
        Samples::Across => ([1, -1], [side, 1], 1),
        Samples::Down => ([-1, 1], [1, side], 0),
    };
    let samples_shape = graph.constant_i64("samples_shape", &[2], samples_shape.to_vec());
    let samples = graph.node("Reshape", &[&samples, &samples_shape], &[]);
    let length = cast(graph, length, ElementType::Double);

    let targets = graph.constant_f64("targets", &targets_shape, centres(size_px));
    let size = graph.constant_f64("size", &[], vec![size]);
    let one = graph.constant_f64("one", &[], vec![1.0]);
    let half = graph.constant_f64("half", &[], vec![0.5]);
    let scale = graph.node("Div", &[&length, &size], &[]);
    let centres = graph.node("Mul", &[&targets, &scale], &[]);
    let centres = graph.node("Sub", &[&centres, &half], &[]);
    // When enlarging, the filter reaches from one sample to the next.
    let radius = graph.node("Max", &[&scale, &one], &[]);
    let offsets = graph.node("Sub", &[&samples, &centres], &[]);
    let distances = graph.node("Abs", &[&offsets], &[]);
    let distances = graph.node("Div", &[&distances, &radius], &[]);
    let heights = graph.node("Sub", &[&one, &distances], &[]);
    let nothing = graph.constant_f64("nothing", &[], vec![0.0]);
    let heights = graph.node("Max", &[&heights, &nothing], &[]);
    let axis_of_samples = graph.constant_i64("axis_of_samples", &[1], vec![axis_of_samples]);
    let sums = graph.node("ReduceSum", &[&heights, &axis_of_samples], &[]);
    let weights = graph.node("Div", &[&heights, &sums], &[]);

    // As many binary places for all as the largest leaves room for.
    let units: Vec<f64> = (0..=PRECISION_MAX).map(|places| f64::from(places).exp2()).collect();
    let units = graph.constant_f64("units", &[i64::from(PRECISION_MAX) + 1], units);
    let limit = graph.constant_f64("limit", &[], vec![WEIGHT_LIMIT - 0.5]);
    let largest = graph.node("ReduceMax", &[&weights], &[Attr::int("keepdims", 0)]);
    let in_units = graph.node("Mul", &[&units, &largest], &[]);
    let has_room = graph.node("Less", &[&in_units, &limit], &[]);
    let has_room = cast(graph, &has_room, ElementType::Double);
    let possible = graph.node("Mul", &[&units, &has_room], &[]);
    let unit = graph.node("ReduceMax", &[&possible], &[Attr::int("keepdims", 0)]);

    let fixed = graph.node("Mul", &[&weights, &unit], &[]);
    let fixed = whole(graph, &fixed);
    graph.node("Div", &[&fixed, &unit], &[])
}

/// The nearest whole numbers, halves up. Rounded sums stay within 0 to 255 by themselves: no weight is negative, and
/// what rounding adds to their sum is far less than half a grey level.
fn whole(graph: &mut GraphBuilder, values: &str) -> String {
    let half = graph.constant_f64("half", &[], vec![0.5]);
    let raised = graph.node("Add", &[values, &half], &[]);
    graph.node("Floor", &[&raised], &[])
}

/// The middle of each target sample, in target samples.
fn centres(size_px: u32) -> Vec<f64> {
    (0..size_px).map(|target| f64::from(target) + 0.5).collect()
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
