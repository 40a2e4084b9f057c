//! From pictures to patch features: the front half of every graph, and a session that runs it during training.
//!
//! Per picture: normalise by its own mean and deviation, run the backbone, pool each tap over its neighbours and bring
//! all taps to one grid of [`PATCHES`] cells. The exported model begins with the very same nodes.

use linewarden_model::package::INPUT;
use linewarden_model::{FrameView, ModelError, Preprocessor, runtime};
use ort::session::Session;
use ort::value::TensorRef;

use crate::backbone::{Backbone, BackboneError, Tap};
use crate::dataset::Picture;
use crate::onnx::{Attr, Dim, ElementType, GraphBuilder};
use crate::scaling::append_scaling;

/// Side of the square to which pictures are brought.
pub const INPUT_SIZE_PX: u32 = 256;
/// Side of the feature grid, in cells: the grid of stride 8.
pub const GRID_CELLS: usize = 32;
/// Taps that feed the memory bank. Stride 32 helps some textures a little and hurts objects a lot.
pub const STRIDES: [u32; 3] = [4, 8, 16];

/// Cells in a picture's feature grid.
pub const PATCHES: usize = GRID_CELLS * GRID_CELLS;

/// Side of the blocks over which colour, but not brightness, is averaged.
const COLOR_BLOCK_PX: i64 = 8;

/// The features of one picture: [`PATCHES`] rows of `channels` values.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Length of a row.
    pub channels: usize,
    /// `PATCHES * channels` values.
    pub values: Vec<f32>,
}

/// Why features cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FeatureError {
    /// The backbone cannot be used.
    #[error(transparent)]
    Backbone(#[from] BackboneError),
    /// ONNX Runtime or pre-processing failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Runs pictures through the front half of the graph.
pub struct FeatureExtractor {
    session: Session,
    preprocessor: Preprocessor,
    input: Vec<u8>,
    channels: usize,
}

impl FeatureExtractor {
    /// An extractor with one thread. Open several to use several cores.
    ///
    /// # Errors
    /// When the backbone or ONNX Runtime cannot be used.
    pub fn new(backbone: &Backbone) -> Result<Self, FeatureError> {
        let mut graph = graph_with_input("features");
        let (features, channels) = append_features(&mut graph, backbone)?;
        let rows = graph.node("Transpose", &[&features], &[Attr::ints("perm", &[0, 2, 1])]);
        graph.node_named("Identity", &[&rows], "features", &[]);
        graph.output("features", ElementType::Float, &[Dim::Named("batch"), fixed(PATCHES), fixed(channels)]);
        let onnx = graph.finish();
        let session = runtime::session_builder(1)?
            .commit_from_memory(&onnx)
            .map_err(|error| ModelError::Inference(error.to_string()))?;
        let preprocessor = Preprocessor::new(INPUT_SIZE_PX, INPUT_SIZE_PX);
        Ok(Self { session, preprocessor, input: Vec::new(), channels })
    }

    /// Length of a feature row.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The features of a picture.
    ///
    /// # Errors
    /// When ONNX Runtime or pre-processing fails.
    pub fn run(&mut self, picture: &Picture) -> Result<Features, FeatureError> {
        let failed = |error: ort::Error| ModelError::Inference(error.to_string());
        let view = picture_view(picture)?;
        self.preprocessor.run(&view, &mut self.input)?;
        let side = INPUT_SIZE_PX as usize;
        let input = TensorRef::from_array_view(([1, side, side, 3], self.input.as_slice())).map_err(failed)?;
        let outputs = self.session.run(ort::inputs![INPUT => input]).map_err(failed)?;
        let (_, values) = outputs["features"].try_extract_tensor::<f32>().map_err(failed)?;
        Ok(Features { channels: self.channels, values: values.to_vec() })
    }
}

/// A decoded file as the model crate sees pictures.
pub(crate) fn picture_view(picture: &Picture) -> Result<FrameView<'_>, ModelError> {
    // Sides are at most 4096; a longer one fails the check that follows.
    let side = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Ok(FrameView::rgb(side(picture.width_px), side(picture.height_px), &picture.rgb)?)
}

/// The taps that feed the memory bank: [`STRIDES`] where the backbone has them, else all that it has.
pub fn bank_strides(backbone: &Backbone) -> Vec<u32> {
    let all = || backbone.taps().iter().map(|tap| tap.stride);
    let wanted: Vec<u32> = all().filter(|stride| STRIDES.contains(stride)).collect();
    if wanted.is_empty() { all().collect() } else { wanted }
}

/// An empty graph with the input that every model has: RGB888 of any size.
pub(crate) fn graph_with_input(name: &str) -> GraphBuilder {
    let mut graph = GraphBuilder::new(name);
    let size = [Dim::Named("batch"), Dim::Named("height"), Dim::Named("width"), Dim::Fixed(3)];
    graph.input(INPUT, ElementType::Uint8, &size);
    graph
}

/// Appends everything from the input to the pooled features `[N, channels, PATCHES]`; gives their name and channels.
pub(crate) fn append_features(graph: &mut GraphBuilder, backbone: &Backbone) -> Result<(String, usize), BackboneError> {
    let image = graph.scoped("input", append_normalisation);
    let taps = backbone.append(graph, &image, INPUT_SIZE_PX, &bank_strides(backbone))?;
    let pooled: Vec<String> = graph.scoped("pool", |graph| taps.iter().map(|tap| append_pool(graph, tap)).collect());
    let pooled: Vec<&str> = pooled.iter().map(String::as_str).collect();
    let grid = graph.node("Concat", &pooled, &[Attr::int("axis", 1)]);
    let channels: usize = taps.iter().map(|tap| tap.channels as usize).sum();
    let shape = graph.constant_i64("grid_shape", &[3], vec![0, channels as i64, PATCHES as i64]);
    Ok((graph.node("Reshape", &[&grid, &shape], &[]), channels))
}

/// Brings pictures to the input size and normalises each by its own mean and deviation over all pixels and channels:
/// `clip((x - mean) / (std + 4) * 40 + 115, 0, 255)`, then `(x - 127) / 128` as the backbone wants it.
fn append_normalisation(graph: &mut GraphBuilder) -> String {
    let scaled = append_scaling(graph, INPUT, INPUT_SIZE_PX);
    let scaled = append_coarse_color(graph, &scaled);
    let axes = graph.constant_i64("picture_axes", &[3], vec![1, 2, 3]);
    let mean = graph.node("ReduceMean", &[&scaled, &axes], &[]);
    let squares = graph.node("Mul", &[&scaled, &scaled], &[]);
    let mean_of_squares = graph.node("ReduceMean", &[&squares, &axes], &[]);
    let square_of_mean = graph.node("Mul", &[&mean, &mean], &[]);
    let difference = graph.node("Sub", &[&mean_of_squares, &square_of_mean], &[]);
    // Rounding may leave a uniform picture with a variance just below zero.
    let variance = graph.node("Relu", &[&difference], &[]);
    let deviation = graph.node("Sqrt", &[&variance], &[]);
    // Both affine steps in one: x * gain + shift, with gain = 40 / (std + 4) / 128.
    let softening = graph.constant_f32("softening", &[], vec![4.0]);
    let softened = graph.node("Add", &[&deviation, &softening], &[]);
    let contrast = graph.constant_f32("contrast", &[], vec![40.0 / 128.0]);
    let gain = graph.node("Div", &[&contrast, &softened], &[]);
    let level = graph.constant_f32("level", &[], vec![(115.0 - 127.0) / 128.0]);
    let scaled_mean = graph.node("Mul", &[&mean, &gain], &[]);
    let shift = graph.node("Sub", &[&level, &scaled_mean], &[]);
    let product = graph.node("Mul", &[&scaled, &gain], &[]);
    let normalised = graph.node("Add", &[&product, &shift], &[]);
    let low = graph.constant_f32("black", &[], vec![-127.0 / 128.0]);
    let high = graph.constant_f32("white", &[], vec![1.0]);
    graph.node("Clip", &[&normalised, &low, &high], &[])
}

/// Keeps brightness as it is, and colour only as coarse as cameras deliver it.
///
/// Most cameras halve the resolution of colour, once behind their mosaic filter and once for the wire (I420, NV12, JPEG),
/// and round it on the way. Without this step that noise alone moved scores by up to 0.03 on the cookies and 0.3 on the
/// demo's parts, when a model trained on RGB pictures met the same parts as I420; with it, by 0.009 and 0.03.
fn append_coarse_color(graph: &mut GraphBuilder, planes: &str) -> String {
    // Luma of ITU-R BT.601, by which pictures were coded.
    let weights = graph.constant_f32("luma", &[1, 3, 1, 1], vec![0.299, 0.587, 0.114]);
    let luma = graph.node("Conv", &[planes, &weights], &[]);
    let blocks = [Attr::ints("kernel_shape", &[COLOR_BLOCK_PX; 2]), Attr::ints("strides", &[COLOR_BLOCK_PX; 2])];
    let coarse = graph.node("AveragePool", &[planes], &blocks);
    let coarse_luma = graph.node("Conv", &[&coarse, &weights], &[]);
    let color = graph.node("Sub", &[&coarse, &coarse_luma], &[]);
    let color = append_enlarged(graph, &color, i64::from(INPUT_SIZE_PX));
    graph.node("Add", &[&luma, &color], &[])
}

/// Brings square maps to another side, bilinear, cell centres aligned.
fn append_enlarged(graph: &mut GraphBuilder, maps: &str, side: i64) -> String {
    let sizes = graph.constant_i64("size", &[2], vec![side, side]);
    let linear = [
        Attr::string("mode", "linear"),
        Attr::ints("axes", &[2, 3]),
        Attr::string("coordinate_transformation_mode", "half_pixel"),
    ];
    graph.node("Resize", &[maps, "", "", &sizes], &linear)
}

/// Pools a tap over its neighbours and brings it to the grid: finer taps by averaging, coarser ones bilinearly.
fn append_pool(graph: &mut GraphBuilder, tap: &Tap) -> String {
    let cells = tap.size as usize;
    let pool = |kernel: i64, stride: i64| {
        let pad = (kernel - stride).div_euclid(2).max(0);
        [
            Attr::ints("kernel_shape", &[kernel, kernel]),
            Attr::ints("strides", &[stride, stride]),
            Attr::ints("pads", &[pad, pad, pad, pad]),
            // Zeros beyond the edge count: cells at the edge, where networks see their own padding, become a kind of
            // their own instead of outliers. Worth 0.13 ROC AUC on tiles whose edges vary.
            Attr::int("count_include_pad", 1),
        ]
    };
    if cells > GRID_CELLS && cells.is_multiple_of(GRID_CELLS) {
        // One window does both: the 3x3 neighbourhood of each fine cell that falls into the grid's cell.
        let stride = (cells / GRID_CELLS) as i64;
        return graph.node("AveragePool", &[&tap.name], &pool(stride + 2, stride));
    }
    let smooth = graph.node("AveragePool", &[&tap.name], &pool(3, 1));
    if cells == GRID_CELLS {
        return smooth;
    }
    append_enlarged(graph, &smooth, GRID_CELLS as i64)
}

pub(crate) fn fixed(length: usize) -> Dim<'static> {
    Dim::Fixed(length as i64)
}
