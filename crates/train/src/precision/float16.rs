//! The feature network in real numbers of 16 bits. Only what computes is turned; where a value crosses the border it is
//! cast. What lies behind the network keeps 32 bits: distances are small differences of large numbers.

use std::collections::{BTreeSet, HashMap, HashSet};

use half::f16;

use super::graph::{Element, Source, is_of_backbone, node, op_of, tensor, whole_number};
use crate::onnx::proto::{NodeProto, TensorProto};

/// What computes alike in any precision. Other operators may have inputs of a fixed type.
const TURNED: [&str; 6] = ["Conv", "Clip", "Relu", "Add", "Mul", "Sub"];

/// The model with a feature network of 16 bits.
pub(super) fn halved(source: &Source) -> Vec<u8> {
    let is_turned = |node: &NodeProto| is_of_backbone(node) && TURNED.contains(&op_of(node));
    let halves: HashSet<&str> = source
        .graph
        .node
        .iter()
        .filter(|node| is_turned(node))
        .flat_map(|node| &node.output)
        .map(String::as_str)
        .collect();
    let mut constants: HashMap<String, TensorProto> = HashMap::new();
    let mut cast: BTreeSet<String> = BTreeSet::new();
    let mut nodes = Vec::with_capacity(source.graph.node.len());
    for own in &source.graph.node {
        let mut copy = own.clone();
        for input in copy.input.iter_mut().filter(|input| !input.is_empty()) {
            let (suffix, element) = match (is_turned(own), halves.contains(input.as_str())) {
                (true, false) => ("half", Element::Half),
                (false, true) => ("whole", Element::Float),
                _ => continue,
            };
            let turned = format!("{input}/{suffix}");
            if let (Element::Half, Some((dims, values))) = (element, source.constant(input)) {
                let bytes = values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
                constants.entry(turned.clone()).or_insert_with(|| tensor(&turned, dims, Element::Half, bytes));
            } else if cast.insert(turned.clone()) {
                nodes.push(node("Cast", &[input], &turned, vec![whole_number("to", element as i64)]));
            }
            *input = turned;
        }
        nodes.push(copy);
    }
    let mut constants: Vec<TensorProto> = constants.into_values().collect();
    constants.sort_by(|a, b| a.name.cmp(&b.name));
    source.with_nodes(nodes, constants)
}
