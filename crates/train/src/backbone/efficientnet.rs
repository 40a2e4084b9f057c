//! EfficientNet-Lite0 up to its last block: a stem and sixteen inverted bottlenecks, each an expanding 1x1 convolution,
//! a depthwise one and a projecting 1x1 one. Batch norm is folded into the convolutions when the weights are read.

use std::collections::BTreeMap;

use super::{BackboneError, Tap, TapInfo};
use crate::onnx::{Attr, GraphBuilder};
use crate::pickle::Tensor;

pub(super) const NAME: &str = "efficientnet-lite0";
pub(super) const WEIGHTS_FILE: &str = "weights/efficientnet-lite0.pth";
pub(super) const WEIGHTS_SHA256: &str = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db";

/// Each is the last block before the next halving.
pub(super) const TAPS: [TapInfo; 4] = [
    TapInfo { stride: 4, channels: 24 },
    TapInfo { stride: 8, channels: 40 },
    TapInfo { stride: 16, channels: 112 },
    TapInfo { stride: 32, channels: 320 },
];
const TAP_BLOCKS: [usize; 4] = [2, 4, 10, 15];

/// As in training; torch's own default is another.
const BATCH_NORM_EPSILON: f64 = 1e-3;
const STEM_CHANNELS: usize = 32;

struct Stage {
    blocks: usize,
    kernel: usize,
    /// Of the stage's first block; the others keep the size.
    stride: usize,
    expansion: usize,
    channels: usize,
}

const STAGES: [Stage; 7] = [
    Stage { blocks: 1, kernel: 3, stride: 1, expansion: 1, channels: 16 },
    Stage { blocks: 2, kernel: 3, stride: 2, expansion: 6, channels: 24 },
    Stage { blocks: 2, kernel: 5, stride: 2, expansion: 6, channels: 40 },
    Stage { blocks: 3, kernel: 3, stride: 2, expansion: 6, channels: 80 },
    Stage { blocks: 3, kernel: 5, stride: 1, expansion: 6, channels: 112 },
    Stage { blocks: 4, kernel: 5, stride: 2, expansion: 6, channels: 192 },
    Stage { blocks: 1, kernel: 3, stride: 1, expansion: 6, channels: 320 },
];

#[derive(Clone, Debug)]
pub(super) struct EfficientNet {
    stem: Convolution,
    blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
struct Block {
    expand: Option<Convolution>,
    depthwise: Convolution,
    project: Convolution,
    /// Input is added to the output.
    is_residual: bool,
}

/// A convolution with its batch norm folded in.
#[derive(Clone, Debug)]
struct Convolution {
    /// `[output, input per group, kernel, kernel]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs_per_group: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

impl EfficientNet {
    pub(super) fn new(tensors: &BTreeMap<String, Tensor>) -> Result<Self, BackboneError> {
        let stem = Shape { outputs: STEM_CHANNELS, inputs_per_group: 3, kernel: 3, stride: 2, groups: 1 };
        let stem = convolution(tensors, "_conv_stem", "_bn0", stem)?;

        let mut blocks = Vec::new();
        let mut inputs = STEM_CHANNELS;
        for stage in &STAGES {
            for index_in_stage in 0..stage.blocks {
                let stride = if index_in_stage == 0 { stage.stride } else { 1 };
                blocks.push(block(tensors, blocks.len(), inputs, stride, stage)?);
                inputs = stage.channels;
            }
        }
        Ok(Self { stem, blocks })
    }

    pub(super) fn append(
        &self,
        graph: &mut GraphBuilder,
        input: &str,
        input_size_px: u32,
        strides: &[u32],
    ) -> Vec<Tap> {
        graph.scoped("backbone", |graph| {
            let mut taps = Vec::new();
            let deepest = strides.iter().max().copied().unwrap_or(0);
            let (value, mut size) =
                graph.scoped("stem", |graph| self.stem.append(graph, input, input_size_px as usize));
            let mut value = relu6(graph, &value);

            for (index, block) in self.blocks.iter().enumerate() {
                (value, size) = graph.scoped(&format!("block{index}"), |graph| block.append(graph, &value, size));
                let Some(place) = TAP_BLOCKS.iter().position(|&tap_block| tap_block == index) else { continue };
                let TapInfo { stride, channels } = TAPS[place];
                taps.push(Tap { name: value.clone(), stride, channels, size: size as u32 });
                if stride >= deepest {
                    break;
                }
            }
            let tap_at = |stride: &u32| taps.iter().find(|tap| tap.stride == *stride).cloned();
            strides.iter().filter_map(tap_at).collect()
        })
    }
}

impl Block {
    /// Returns the value and its cells per side.
    fn append(&self, graph: &mut GraphBuilder, input: &str, size: usize) -> (String, usize) {
        let mut value = input.to_owned();
        if let Some(expand) = &self.expand {
            let (expanded, _) = expand.append(graph, &value, size);
            value = relu6(graph, &expanded);
        }
        let (deep, size) = self.depthwise.append(graph, &value, size);
        let deep = relu6(graph, &deep);
        let (projected, size) = self.project.append(graph, &deep, size);
        let output = if self.is_residual { graph.node("Add", &[&projected, input], &[]) } else { projected };
        (output, size)
    }
}

impl Convolution {
    fn append(&self, graph: &mut GraphBuilder, input: &str, size: usize) -> (String, usize) {
        let outputs = self.bias.len();
        let dims = [outputs, self.inputs_per_group, self.kernel, self.kernel].map(|dim| dim as i64);
        let weight = graph.constant_f32("weight", &dims, self.weight.clone());
        let bias = graph.constant_f32("bias", &[outputs as i64], self.bias.clone());

        // TensorFlow's SAME: what is missing for `ceil(size / stride)` windows, the odd cell at the end.
        let size_out = size.div_ceil(self.stride);
        let padding = ((size_out - 1) * self.stride + self.kernel).saturating_sub(size);
        let (before, after) = ((padding / 2) as i64, padding.div_ceil(2) as i64);
        let attrs = [
            Attr::ints("kernel_shape", &[self.kernel as i64; 2]),
            Attr::ints("strides", &[self.stride as i64; 2]),
            Attr::ints("pads", &[before, before, after, after]),
            Attr::int("group", self.groups as i64),
        ];
        (graph.node("Conv", &[input, &weight, &bias], &attrs), size_out)
    }
}

fn relu6(graph: &mut GraphBuilder, input: &str) -> String {
    let low = graph.constant_f32("zero", &[], vec![0.0]);
    let high = graph.constant_f32("six", &[], vec![6.0]);
    graph.node("Clip", &[input, &low, &high], &[])
}

fn block(
    tensors: &BTreeMap<String, Tensor>,
    index: usize,
    inputs: usize,
    stride: usize,
    stage: &Stage,
) -> Result<Block, BackboneError> {
    let read = |convolution_name: &str, norm_name: &str, shape: Shape| {
        let prefix = format!("_blocks.{index}.");
        convolution(tensors, &format!("{prefix}{convolution_name}"), &format!("{prefix}{norm_name}"), shape)
    };
    let pointwise =
        |inputs: usize, outputs: usize| Shape { outputs, inputs_per_group: inputs, kernel: 1, stride: 1, groups: 1 };

    let inner = inputs * stage.expansion;
    let expand = match stage.expansion {
        1 => None,
        _ => Some(read("_expand_conv", "_bn0", pointwise(inputs, inner))?),
    };
    let depthwise = Shape { outputs: inner, inputs_per_group: 1, kernel: stage.kernel, stride, groups: inner };
    Ok(Block {
        expand,
        depthwise: read("_depthwise_conv", "_bn1", depthwise)?,
        project: read("_project_conv", "_bn2", pointwise(inner, stage.channels))?,
        is_residual: stride == 1 && inputs == stage.channels,
    })
}

struct Shape {
    outputs: usize,
    inputs_per_group: usize,
    kernel: usize,
    stride: usize,
    groups: usize,
}

/// Reads a convolution without bias and the batch norm behind it as one convolution with bias.
fn convolution(
    tensors: &BTreeMap<String, Tensor>,
    name: &str,
    norm: &str,
    shape: Shape,
) -> Result<Convolution, BackboneError> {
    let Shape { outputs, inputs_per_group, kernel, stride, groups } = shape;
    let weight = tensor(tensors, format!("{name}.weight"), &[outputs, inputs_per_group, kernel, kernel])?;
    let gamma = tensor(tensors, format!("{norm}.weight"), &[outputs])?;
    let beta = tensor(tensors, format!("{norm}.bias"), &[outputs])?;
    let mean = tensor(tensors, format!("{norm}.running_mean"), &[outputs])?;
    let variance = tensor(tensors, format!("{norm}.running_var"), &[outputs])?;

    let mut folded_weight = Vec::with_capacity(weight.len());
    let mut bias = Vec::with_capacity(outputs);
    for (output, kernel_weights) in weight.chunks_exact(inputs_per_group * kernel * kernel).enumerate() {
        let scale = f64::from(gamma[output]) / (f64::from(variance[output]) + BATCH_NORM_EPSILON).sqrt();
        folded_weight.extend(kernel_weights.iter().map(|&weight| (f64::from(weight) * scale) as f32));
        bias.push((f64::from(beta[output]) - f64::from(mean[output]) * scale) as f32);
    }
    Ok(Convolution { weight: folded_weight, bias, inputs_per_group, kernel, stride, groups })
}

fn tensor<'a>(
    tensors: &'a BTreeMap<String, Tensor>,
    name: String,
    shape: &[usize],
) -> Result<&'a [f32], BackboneError> {
    let Some(tensor) = tensors.get(&name) else {
        return Err(BackboneError::Tensor { name, reason: "is missing".to_owned() });
    };
    if tensor.shape != shape {
        let reason = format!("has shape {:?}, not {shape:?}", tensor.shape);
        return Err(BackboneError::Tensor { name, reason });
    }
    Ok(&tensor.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_do_not_fit_are_refused_by_name() {
        let none = EfficientNet::new(&BTreeMap::new()).unwrap_err();
        assert_eq!(none.to_string(), "backbone weights: tensor `_conv_stem.weight` is missing");

        let odd = Tensor { shape: vec![2], data: vec![0.0; 2] };
        let other = EfficientNet::new(&BTreeMap::from([("_conv_stem.weight".to_owned(), odd)])).unwrap_err();
        assert_eq!(other.to_string(), "backbone weights: tensor `_conv_stem.weight` has shape [2], not [32, 3, 3, 3]");
    }

    #[test]
    fn batch_norm_becomes_part_of_the_convolution() {
        let one = |value: f32| Tensor { shape: vec![1], data: vec![value] };
        let tensors = BTreeMap::from([
            ("c.weight".to_owned(), Tensor { shape: vec![1, 1, 1, 1], data: vec![3.0] }),
            ("n.weight".to_owned(), one(2.0)),
            ("n.bias".to_owned(), one(0.5)),
            ("n.running_mean".to_owned(), one(1.0)),
            ("n.running_var".to_owned(), one(4.0 - 1e-3)),
        ]);
        let shape = Shape { outputs: 1, inputs_per_group: 1, kernel: 1, stride: 1, groups: 1 };
        let folded = convolution(&tensors, "c", "n", shape).unwrap();
        assert!((folded.weight[0] - 3.0).abs() < 1e-6 && (folded.bias[0] - -0.5).abs() < 1e-6, "{folded:?}");
    }
}
