//! The graph in ONNX Runtime: pixels of views go in, scores and maps come out. It knows nothing of frames, thresholds or
//! labels' names, so that detectors of one graph can have one engine.

use ort::session::Session;
use ort::value::TensorRef;

use crate::detector::DetectorOptions;
use crate::device::Device;
use crate::error::ModelError;
use crate::map::AnomalyMap;
use crate::package::{INPUT, LABELS_OUTPUT, MAP_OUTPUT, Package, SCORE_OUTPUT, Size};
use crate::runtime;

/// A graph that is ready to run.
#[derive(Debug)]
pub(crate) struct Engine {
    input_size: Size,
    session: Session,
    together: Together,
}

/// A second session, for several views in one run.
#[derive(Debug)]
enum Together {
    /// It would not be faster.
    Never,
    /// Nobody needed it so far; this is the graph.
    Unopened(Vec<u8>, DetectorOptions, Device),
    /// It takes any number of views.
    Open(Session),
}

/// What the graph says of one view.
#[derive(Debug)]
pub(crate) struct Scored {
    pub(crate) score: f64,
    pub(crate) map: AnomalyMap,
    /// One a label, where the model learnt labels.
    pub(crate) labels: Vec<AnomalyMap>,
}

/// What a run gives: an answer for each view, or an error for all.
pub(crate) type Outcome = Result<Vec<Result<Scored, ModelError>>, ModelError>;

impl Engine {
    /// For the views of one detector, which are run together where that is faster.
    pub(crate) fn open(package: &Package, options: &DetectorOptions, device: Device) -> Result<Self, ModelError> {
        let mut engine = Self::for_single_views(package, options, device)?;
        if options.threads > 1 || device != Device::Cpu {
            engine.together = Together::Unopened(package.onnx().to_vec(), options.clone(), device);
        }
        Ok(engine)
    }

    /// For the views of several detectors. Both sessions are opened at once: no frame shall wait for the second one.
    pub(crate) fn open_shared(
        package: &Package,
        options: &DetectorOptions,
        device: Device,
    ) -> Result<Self, ModelError> {
        let mut engine = Self::for_single_views(package, options, device)?;
        engine.together = Together::Open(open_session(package.onnx(), None, engine.input_size, options, device)?);
        Ok(engine)
    }

    fn for_single_views(package: &Package, options: &DetectorOptions, device: Device) -> Result<Self, ModelError> {
        let input_size = package.info().input_size;
        let session = open_session(package.onnx(), Some(1), input_size, options, device)?;
        Ok(Self { input_size, session, together: Together::Never })
    }

    /// Whether several views may go through the graph in one run.
    pub(crate) fn takes_several(&self) -> bool {
        !matches!(self.together, Together::Never)
    }

    /// Runs the graph on so many views of the network's size, which lie one after the other.
    pub(crate) fn run(&mut self, rgb: &[u8], views: usize) -> Outcome {
        let failed = |error: ort::Error| ModelError::Inference(error.to_string());
        let size = self.input_size;
        let shape = [views, size.height_px as usize, size.width_px as usize, 3];
        let input = TensorRef::from_array_view((shape, rgb)).map_err(failed)?;
        let session = if views == 1 { &mut self.session } else { self.together.open(size)? };
        let outputs = session.run(ort::inputs![INPUT => input]).map_err(failed)?;
        let (_, scores) = outputs[SCORE_OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
        let (shape, values) = outputs[MAP_OUTPUT].try_extract_tensor::<f32>().map_err(failed)?;
        let &[_, height, width] = &shape[..] else {
            return Err(ModelError::Inference(format!("`{MAP_OUTPUT}` has shape {shape:?}, not [N, h, w]")));
        };
        let (width, height) = (width as usize, height as usize);
        let cells = width * height;
        if scores.len() != views || cells == 0 || values.len() != views * cells {
            let (scores, values) = (scores.len(), values.len());
            return Err(ModelError::Inference(format!(
                "the graph gave {scores} scores and {values} cells for {views} views"
            )));
        }
        let map = |values: &[f32]| AnomalyMap { width, height, values: values.to_vec() };
        let mut labels = match outputs.get(LABELS_OUTPUT) {
            Some(output) => label_maps(output.try_extract_tensor::<f32>().map_err(failed)?.1, views, cells)?,
            None => vec![Vec::new(); views],
        }
        .into_iter();
        let scored = scores.iter().zip(values.chunks_exact(cells)).map(|(&score, values)| {
            let labels = labels.next().unwrap_or_default();
            if !score.is_finite() {
                return Err(ModelError::Inference(format!("the graph gave the score {score}")));
            }
            Ok(Scored { score: f64::from(score), map: map(values), labels: labels.into_iter().map(map).collect() })
        });
        Ok(scored.collect())
    }
}

impl Together {
    fn open(&mut self, size: Size) -> Result<&mut Session, ModelError> {
        if let Self::Unopened(onnx, options, device) = self {
            *self = Self::Open(open_session(onnx, None, size, options, *device)?);
        }
        match self {
            Self::Open(session) => Ok(session),
            _ => Err(ModelError::Inference("views are run one by one here".to_owned())),
        }
    }
}

/// The labels' maps of each view.
fn label_maps(values: &[f32], views: usize, cells: usize) -> Result<Vec<Vec<&[f32]>>, ModelError> {
    let of_view = values.len() / views.max(1);
    if of_view == 0 || !of_view.is_multiple_of(cells) || of_view * views != values.len() {
        let count = values.len();
        return Err(ModelError::Inference(format!("`{LABELS_OUTPUT}` has {count} values for {views} maps of {cells}")));
    }
    Ok(values.chunks_exact(of_view).map(|view| view.chunks_exact(cells).collect()).collect())
}

/// The graph takes any size and number of pictures; here the size is known, and often the number, which lets the
/// optimiser plan memory.
fn open_session(
    onnx: &[u8],
    batch: Option<u32>,
    size: Size,
    options: &DetectorOptions,
    device: Device,
) -> Result<Session, ModelError> {
    let known = [("batch", batch), ("height", Some(size.height_px)), ("width", Some(size.width_px))];
    let mut builder = runtime::session_builder(options.threads)?;
    for (dimension, length) in known {
        let Some(length) = length else { continue };
        builder = builder
            .with_dimension_override(dimension, i64::from(length))
            .map_err(|error| ModelError::Inference(error.to_string()))?;
    }
    builder = device
        .register(builder, options.device_id, options.threads)
        .map_err(|reason| ModelError::Device { device, reason })?;
    builder.commit_from_memory(onnx).map_err(|error| match device {
        Device::Cpu => ModelError::Inference(format!("ONNX Runtime refuses `model.onnx`: {error}")),
        other => ModelError::Device { device: other, reason: error.to_string() },
    })
}
