//! A finished graph that is rewritten: its convolutions, and the constants and nodes that take their place.

use std::collections::{BTreeSet, HashMap, HashSet};

use prost::Message as _;

use crate::onnx::proto::{AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, TensorProto};

/// Names of the feature network's nodes and values begin with it.
const BACKBONE: &str = "backbone";

/// ONNX's numbers for what tensors hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Float = 1,
    Uint8 = 2,
    Int8 = 3,
    Int32 = 6,
    Half = 10,
}

/// What bounds a convolution's output, if anything does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rectifier {
    /// Not below zero, and not above this.
    Clip(f32),
    /// Not below zero.
    Relu,
}

/// A convolution of the feature network.
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    /// Its place among the graph's nodes.
    pub(super) node: usize,
    /// The place of what bounds its output, which nothing else reads.
    pub(super) rectifier: Option<(usize, Rectifier)>,
}

/// A model as a list of nodes.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) model: ModelProto,
    pub(super) graph: GraphProto,
    makers: HashMap<String, usize>,
    constants: HashMap<String, usize>,
}

impl Source {
    /// Reads a file of ours; nothing when it is none.
    pub(super) fn read(onnx: &[u8]) -> Option<Self> {
        let mut model = ModelProto::decode(onnx).ok()?;
        let graph = model.graph.take()?;
        let outputs = graph.node.iter().enumerate();
        let makers = outputs.flat_map(|(at, node)| node.output.iter().map(move |name| (name.clone(), at))).collect();
        let named = |(at, constant): (usize, &TensorProto)| Some((constant.name.clone()?, at));
        let constants = graph.initializer.iter().enumerate().filter_map(named).collect();
        Some(Self { model, graph, makers, constants })
    }

    /// The node that makes a value.
    pub(super) fn maker(&self, value: &str) -> Option<&NodeProto> {
        self.makers.get(value).map(|&at| &self.graph.node[at])
    }

    /// The dimensions and values of a constant of real numbers.
    pub(super) fn constant(&self, name: &str) -> Option<(&[i64], Vec<f32>)> {
        let tensor = &self.graph.initializer[*self.constants.get(name)?];
        if tensor.data_type != Some(Element::Float as i32) {
            return None;
        }
        let values = match &tensor.raw_data {
            Some(raw) => raw.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            None => tensor.float_data.clone(),
        };
        Some((&tensor.dims, values))
    }

    /// The feature network's convolutions with constant weights, in running order.
    pub(super) fn convolutions(&self) -> Vec<Convolution> {
        let is_one = |node: &NodeProto| {
            op_of(node) == "Conv"
                && is_of_backbone(node)
                && node.input.len() >= 2
                && node.input[1..].iter().all(|name| self.constant(name).is_some())
        };
        let nodes = self.graph.node.iter().enumerate().filter(|(_, node)| is_one(node));
        nodes.map(|(node, own)| Convolution { node, rectifier: self.rectifier(&own.output[0]) }).collect()
    }

    fn rectifier(&self, value: &str) -> Option<(usize, Rectifier)> {
        if self.graph.output.iter().any(|output| output.name.as_deref() == Some(value)) {
            return None;
        }
        let mut readers = self.graph.node.iter().enumerate().filter(|(_, node)| node.input.iter().any(|i| i == value));
        let (Some((at, reader)), None) = (readers.next(), readers.next()) else { return None };
        let single = |place: usize| match self.constant(reader.input.get(place)?)?.1.as_slice() {
            &[value] => Some(value),
            _ => None,
        };
        match op_of(reader) {
            "Relu" => Some((at, Rectifier::Relu)),
            "Clip" if single(1) == Some(0.0) => Some((at, Rectifier::Clip(single(2).filter(|&most| most > 0.0)?))),
            _ => None,
        }
    }

    /// The file with other nodes and further constants; of the constants, those that a node reads.
    pub(super) fn with_nodes(&self, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) -> Vec<u8> {
        let read: HashSet<&str> = nodes.iter().flat_map(|node| &node.input).map(String::as_str).collect();
        let within: BTreeSet<String> = nodes.iter().flat_map(read_within).collect();
        let is_read = |constant: &TensorProto| {
            constant.name.as_deref().is_some_and(|name| read.contains(name) || within.contains(name))
        };
        let initializer: Vec<TensorProto> =
            self.graph.initializer.iter().cloned().chain(constants).filter(is_read).collect();
        let graph = GraphProto { node: nodes, initializer, ..self.graph.clone() };
        ModelProto { graph: Some(graph), ..self.model.clone() }.encode_to_vec()
    }
}

/// What the inner graphs of a node read.
fn read_within(node: &NodeProto) -> Vec<String> {
    let inner = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
    let nodes = inner.flat_map(|graph| &graph.node);
    nodes.flat_map(|node| node.input.iter().cloned().chain(read_within(node))).collect()
}

pub(super) fn op_of(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or_default()
}

pub(super) fn is_of_backbone(node: &NodeProto) -> bool {
    node.output.iter().all(|name| name.starts_with(BACKBONE))
}

/// A node with one output, which is named like it.
pub(super) fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: inputs.iter().map(|&input| input.to_owned()).collect(),
        output: vec![output.to_owned()],
        name: Some(output.to_owned()),
        op_type: Some(op.to_owned()),
        attribute,
        ..Default::default()
    }
}

pub(super) fn whole_number(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int as i32),
        i: Some(value),
        ..Default::default()
    }
}

pub(super) fn tensor(name: &str, dims: &[i64], element: Element, bytes: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(element as i32),
        raw_data: Some(bytes),
        ..Default::default()
    }
}
