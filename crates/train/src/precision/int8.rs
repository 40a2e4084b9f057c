//! Convolutions in whole numbers of 8 bits: the standard's pairs of `QuantizeLinear` and `DequantizeLinear` around them,
//! which ONNX Runtime joins with the convolution between them into one.
//!
//! Weights have a scale for each output channel. Values have one that [`Ranges`] measured, and what a rectifier bounds has
//! the rectifier's own range, so that rounding does the rectifier's work and it can go. Sums of residual blocks stay real
//! numbers: they are small, and rounding them again and again is what hurts most.

use std::collections::{BTreeSet, HashMap};

use linewarden_model::ModelError;
use linewarden_model::package::{INPUT, Size};
use linewarden_model::runtime;
use ort::value::TensorRef;

use super::graph::{Convolution, Element, Rectifier, Source, node, op_of, tensor, whole_number};
use crate::onnx::proto::{NodeProto, TensorProto, ValueInfoProto};

/// Ranges are this much wider than what calibration pictures reach: anomalies reach further.
const MARGIN: f32 = 1.25;
/// The highest whole number of a weight.
const WEIGHT_MOST: f32 = 127.0;
/// Steps between the lowest and the highest whole number of a value.
const STEPS: f32 = 255.0;

/// How far the values around convolutions reach on calibration pictures.
#[derive(Debug, Clone, Default)]
pub(super) struct Ranges {
    by_name: HashMap<String, (f32, f32)>,
}

impl Ranges {
    /// Runs the model on pictures of its own size and looks at what reaches its convolutions and comes out of them.
    pub(super) fn measure(
        source: &Source,
        convolutions: &[Convolution],
        size: Size,
        pictures: &[&[u8]],
    ) -> Result<Self, ModelError> {
        let failed = |error: ort::Error| ModelError::Inference(error.to_string());
        let names = wanted(source, convolutions);
        let mut shown = source.clone();
        // Their types follow from the nodes.
        let output = |name: &String| ValueInfoProto { name: Some(name.clone()), ..Default::default() };
        shown.graph.output.extend(names.iter().map(output));
        let onnx = shown.with_nodes(shown.graph.node.clone(), Vec::new());
        let mut session = runtime::session_builder(1)?.commit_from_memory(&onnx).map_err(failed)?;
        let mut by_name: HashMap<String, (f32, f32)> = HashMap::new();
        let shape = [1, size.height_px as usize, size.width_px as usize, 3];
        for &picture in pictures {
            let input = TensorRef::from_array_view((shape, picture)).map_err(failed)?;
            let outputs = session.run(ort::inputs![INPUT => input]).map_err(failed)?;
            for name in &names {
                let (_, values) = outputs[name.as_str()].try_extract_tensor::<f32>().map_err(failed)?;
                let range = by_name.entry(name.clone()).or_default();
                for &value in values {
                    *range = (range.0.min(value), range.1.max(value));
                }
            }
        }
        Ok(Self { by_name })
    }

    fn of(&self, name: &str) -> Scale {
        let (low, high) = self.by_name.get(name).copied().unwrap_or_default();
        Scale::over(low * MARGIN, high * MARGIN)
    }
}

/// The values whose range nothing but pictures can tell.
fn wanted(source: &Source, convolutions: &[Convolution]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for convolution in convolutions {
        let own = &source.graph.node[convolution.node];
        names.insert(own.input[0].clone());
        match convolution.rectifier {
            Some((_, Rectifier::Clip(_))) => {}
            Some((at, Rectifier::Relu)) => _ = names.insert(source.graph.node[at].output[0].clone()),
            None => _ = names.insert(own.output[0].clone()),
        }
    }
    names
}

/// Which real number each whole one stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scale {
    step: f32,
    zero: u8,
}

impl Scale {
    /// Zero is always exact: edges are padded with it.
    fn over(low: f32, high: f32) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let step = ((high - low) / STEPS).max(f32::MIN_POSITIVE);
        Self { step, zero: (-low / step).round().clamp(0.0, STEPS) as u8 }
    }
}

/// The model with these convolutions in whole numbers.
pub(super) fn quantised(source: &Source, convolutions: &[Convolution], ranges: &Ranges) -> Vec<u8> {
    let by_node: HashMap<usize, &Convolution> = convolutions.iter().map(|own| (own.node, own)).collect();
    let rectifiers: BTreeSet<usize> = convolutions.iter().filter_map(|own| Some(own.rectifier?.0)).collect();
    let mut writer = Writer {
        source,
        ranges,
        nodes: Vec::new(),
        constants: Vec::new(),
        rounded: HashMap::new(),
        inputs: HashMap::new(),
    };
    for (at, own) in source.graph.node.iter().enumerate() {
        if rectifiers.contains(&at) {
            continue;
        }
        match by_node.get(&at) {
            Some(convolution) => writer.convolution(own, convolution),
            None => writer.copy(own),
        }
    }
    source.with_nodes(writer.nodes, writer.constants)
}

/// A value as it is read once it was rounded.
#[derive(Debug, Clone)]
struct Rounded {
    name: String,
    scale: Scale,
}

struct Writer<'a> {
    source: &'a Source,
    ranges: &'a Ranges,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    /// What convolutions in whole numbers made, by the name that the value had.
    rounded: HashMap<String, Rounded>,
    /// What was rounded only for the convolutions that read it.
    inputs: HashMap<String, Rounded>,
}

impl Writer<'_> {
    /// A node that stays as it is, but reads what convolutions in whole numbers made.
    fn copy(&mut self, own: &NodeProto) {
        let mut copy = own.clone();
        for input in &mut copy.input {
            if let Some(rounded) = self.rounded.get(input.as_str()) {
                input.clone_from(&rounded.name);
            }
        }
        self.nodes.push(copy);
    }

    fn convolution(&mut self, own: &NodeProto, convolution: &Convolution) {
        let input = self.input(&own.input[0]);
        let mut inputs = vec![input.name.clone()];
        let name = own.output[0].clone();
        let (dims, weights) = self.source.constant(&own.input[1]).expect("convolutions were chosen for their weights");
        let outputs = dims[0];
        let of_channel = (weights.len() / outputs.max(1) as usize).max(1);
        let most = |channel: &[f32]| channel.iter().fold(0.0_f32, |most, weight| most.max(weight.abs()));
        let steps: Vec<f32> =
            weights.chunks_exact(of_channel).map(|own| (most(own) / WEIGHT_MOST).max(f32::MIN_POSITIVE)).collect();
        let rounded = weights.iter().enumerate().map(|(at, weight)| {
            let whole = (weight / steps[at / of_channel]).round().clamp(-WEIGHT_MOST, WEIGHT_MOST);
            (whole as i8).to_le_bytes()[0]
        });
        inputs.push(self.constant(&name, "weights", dims, Element::Int8, rounded.collect(), &steps));
        if let Some((_, bias)) = own.input.get(2).and_then(|bias| self.source.constant(bias)) {
            // As ONNX Runtime wants it: at the scale of the products, which are added up.
            let steps: Vec<f32> = steps.iter().map(|step| step * input.scale.step).collect();
            let whole = bias.iter().zip(&steps).flat_map(|(bias, step)| ((bias / step).round() as i32).to_le_bytes());
            inputs.push(self.constant(&name, "bias", &[outputs], Element::Int32, whole.collect(), &steps));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.nodes.push(node("Conv", &inputs, &name, own.attribute.clone()));
        let (known_as, scale) = match convolution.rectifier {
            Some((at, rectifier)) => {
                let bounded = self.source.graph.node[at].output[0].clone();
                let scale = match rectifier {
                    Rectifier::Clip(most) => Scale::over(0.0, most),
                    Rectifier::Relu => self.ranges.of(&bounded),
                };
                (bounded, scale)
            }
            None => (name.clone(), self.ranges.of(&name)),
        };
        let rounded = self.round(&name, &name, scale);
        self.rounded.insert(known_as, rounded);
    }

    /// A convolution's input, rounded; whoever else reads the value reads it as it was.
    fn input(&mut self, value: &str) -> Rounded {
        if let Some(rounded) = self.rounded.get(value).or_else(|| self.inputs.get(value)) {
            return rounded.clone();
        }
        let scale = match self.clipped_at(value) {
            Some(most) => Scale::over(0.0, most),
            None => self.ranges.of(value),
        };
        let rounded = self.round(value, &format!("{value}/for_convolution"), scale);
        self.inputs.insert(value.to_owned(), rounded.clone());
        rounded
    }

    fn clipped_at(&self, value: &str) -> Option<f32> {
        let maker = self.source.maker(value).filter(|maker| op_of(maker) == "Clip")?;
        let single = |place: usize| self.source.constant(maker.input.get(place)?)?.1.first().copied();
        (single(1)? == 0.0).then(|| single(2)).flatten().filter(|&most| most > 0.0)
    }

    /// Appends the pair of nodes that rounds a value; `name` begins their names.
    fn round(&mut self, value: &str, name: &str, scale: Scale) -> Rounded {
        let step = self.plain(&format!("{name}/step"), Element::Float, scale.step.to_le_bytes().to_vec());
        let zero = self.plain(&format!("{name}/zero"), Element::Uint8, vec![scale.zero]);
        let (whole, real) = (format!("{name}/whole"), format!("{name}/rounded"));
        self.nodes.push(node("QuantizeLinear", &[value, &step, &zero], &whole, Vec::new()));
        self.nodes.push(node("DequantizeLinear", &[&whole, &step, &zero], &real, Vec::new()));
        Rounded { name: real, scale }
    }

    fn plain(&mut self, name: &str, element: Element, bytes: Vec<u8>) -> String {
        self.constants.push(tensor(name, &[], element, bytes));
        name.to_owned()
    }

    /// Appends a constant in whole numbers, with a step for each of its rows; gives the name under which it is real.
    fn constant(
        &mut self,
        node_name: &str,
        what: &str,
        dims: &[i64],
        element: Element,
        bytes: Vec<u8>,
        steps: &[f32],
    ) -> String {
        let name = format!("{node_name}/{what}");
        let rows = steps.len() as i64;
        let (step, zero) = (format!("{name}/step"), format!("{name}/zero"));
        let zeros = if element == Element::Int8 { steps.len() } else { steps.len() * size_of::<i32>() };
        self.constants.extend([
            tensor(&name, dims, element, bytes),
            tensor(&step, &[rows], Element::Float, steps.iter().flat_map(|step| step.to_le_bytes()).collect()),
            tensor(&zero, &[rows], element, vec![0; zeros]),
        ]);
        let real = format!("{name}/real");
        self.nodes.push(node("DequantizeLinear", &[&name, &step, &zero], &real, vec![whole_number("axis", 0)]));
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_always_exact() {
        for (low, high) in [(0.0, 6.0), (-1.0, 3.0), (-4.0, -1.0), (2.0, 5.0), (0.0, 0.0)] {
            let scale = Scale::over(low, high);
            let real = |whole: f32| (whole - f32::from(scale.zero)) * scale.step;
            assert!(real(0.0) <= low.min(0.0) + scale.step && real(STEPS) >= high.max(0.0) - scale.step, "{scale:?}");
        }
        assert_eq!(Scale::over(0.0, 6.0), Scale { step: 6.0 / 255.0, zero: 0 });
    }
}
