//! The feature network in real numbers of 16 bits. Only what computes is turned; where a value crosses the border it is
//! cast. What lies behind the network keeps 32 bits: distances are small differences of large numbers.

use std::collections::{BTreeSet, HashMap, HashSet};

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
                let bytes = values.iter().flat_map(|&value| half(value).to_le_bytes()).collect();
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

/// The bits of the nearest number of 16 bits; of two as near, the even one.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // From here on everything rounds to infinity, which is also what it says of what is no number.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    // The smallest numbers have a fixed step of 2^-24: adding 0.5 leaves just that in the last bits.
    if magnitude < 0x3880_0000 {
        let shifted = f32::from_bits(magnitude) + 0.5;
        return sign | (shifted.to_bits() - 0.5_f32.to_bits()) as u16;
    }
    let odd = (magnitude >> 13) & 1;
    let rounded = magnitude + 0x0fff + odd;
    sign | ((rounded >> 13) - ((127 - 15) << 10)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_nearest_ones() {
        let table = [
            (0.0, 0x0000),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.0, 0xc000),
            (65504.0, 0x7bff),
            (65519.0, 0x7bff),
            (65520.0, 0x7c00),
            (0.1, 0x2e66),
            (6.0, 0x4600),
            // The smallest normal number, half the step below it, and the smallest number of all.
            (6.103_515_6e-5, 0x0400),
            (6.097_555e-5, 0x03ff),
            (5.960_464_5e-8, 0x0001),
            (1e-9, 0x0000),
            // Half way between two: the even one.
            (1.000_488_3, 0x3c00),
            (1.001_464_8, 0x3c02),
        ];
        for (value, expected) in table {
            assert_eq!(half(value), expected, "{value}");
        }
    }
}
