//! The builder: values are strings, nodes are appended in the order in which they run.

use std::collections::{BTreeMap, HashMap, HashSet};

use prost::Message as _;

use super::proto::{
    AttributeProto, AttributeType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension, type_proto,
};

/// The operator set that a new graph is written for.
pub const OPSET_MIN: i64 = 18;
/// The newest operator set in which every operator we write still takes the inputs and attributes it takes in
/// [`OPSET_MIN`].
pub const OPSET_MAX: i64 = 21;

/// One dimension of an input or output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim<'a> {
    /// Always this many.
    Fixed(i64),
    /// As many as the caller brings; equal names mean equal numbers.
    Named(&'a str),
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ElementType {
    /// `f32`
    Float = 1,
    /// `u8`
    Uint8 = 2,
    /// `i32`
    Int32 = 6,
    /// `i64`
    Int64 = 7,
    /// `bool`
    Bool = 9,
    /// `f64`
    Double = 11,
}

/// An attribute of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Attr(AttributeProto);

impl Attr {
    /// A whole number.
    pub fn int(name: &str, value: i64) -> Self {
        Self(AttributeProto { i: Some(value), ..attribute(name, AttributeType::Int) })
    }

    /// A list of whole numbers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self(AttributeProto { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) })
    }

    /// A real number.
    pub fn float(name: &str, value: f32) -> Self {
        Self(AttributeProto { f: Some(value), ..attribute(name, AttributeType::Float) })
    }

    /// A text.
    pub fn string(name: &str, value: &str) -> Self {
        Self(AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, AttributeType::String) })
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), r#type: Some(kind as i32), ..Default::default() }
}

/// A graph that grows until [`finish`](Self::finish).
///
/// Values are known by name. `node` and the constants invent a unique, readable one and return it; inputs, outputs and
/// `node_named` take the name they are given, and the caller sees to it that it is free. Shapes and types are not
/// checked here: ONNX Runtime does that, and better, when the file is loaded.
///
/// ```
/// use linewarden_train::onnx::{Attr, Dim, ElementType, GraphBuilder};
///
/// let mut graph = GraphBuilder::new("distance");
/// let rows = [Dim::Named("batch"), Dim::Fixed(3)];
/// let x = graph.input("x", ElementType::Float, &rows);
/// let centre = graph.constant_f32("centre", &[3], vec![0.5, 0.5, 0.5]);
/// let difference = graph.node("Sub", &[&x, &centre], &[]);
/// graph.node_named("Softmax", &[&difference], "share", &[Attr::int("axis", 1)]);
/// graph.output("share", ElementType::Float, &rows);
/// let file: Vec<u8> = graph.finish();
/// # assert!(!file.is_empty());
/// ```
#[derive(Clone, Debug)]
pub struct GraphBuilder {
    name: String,
    opset: i64,
    opset_is_settled: bool,
    scopes: Vec<String>,
    taken_names: HashSet<String>,
    /// How often a readable name was asked for: the next suffix.
    name_counts: HashMap<String, usize>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    metadata: BTreeMap<String, String>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            opset: OPSET_MIN,
            opset_is_settled: false,
            scopes: Vec::new(),
            taken_names: HashSet::new(),
            name_counts: HashMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            nodes: Vec::new(),
            constants: Vec::new(),
            metadata: BTreeMap::new(),
        }
    }

    /// The `ai.onnx` operator set that the file will ask for.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Settles the operator set, for nodes that were written for just this one. The caller has checked it against
    /// [`OPSET_MIN`] and [`OPSET_MAX`]. Fails with the other one when it was settled before.
    pub(crate) fn settle_opset(&mut self, opset: i64) -> Result<(), i64> {
        if self.opset_is_settled && self.opset != opset {
            return Err(self.opset);
        }
        self.opset = opset;
        self.opset_is_settled = true;
        Ok(())
    }

    /// Declares an input and returns its name.
    pub fn input(&mut self, name: &str, element: ElementType, dims: &[Dim<'_>]) -> String {
        self.take_name(name);
        self.inputs.push(value_info(name, element, dims));
        name.to_owned()
    }

    /// Declares that the value `name`, made by some node, leaves the graph.
    pub fn output(&mut self, name: &str, element: ElementType, dims: &[Dim<'_>]) {
        self.outputs.push(value_info(name, element, dims));
    }

    /// A constant of real numbers, row major; no dimensions make a scalar.
    pub fn constant_f32(&mut self, hint: &str, dims: &[i64], values: Vec<f32>) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, dims, ElementType::Float, bytes)
    }

    /// The same in double precision.
    pub fn constant_f64(&mut self, hint: &str, dims: &[i64], values: Vec<f64>) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, dims, ElementType::Double, bytes)
    }

    /// A constant of whole numbers (shapes, axes, indices), row major; no dimensions make a scalar.
    pub fn constant_i64(&mut self, hint: &str, dims: &[i64], values: Vec<i64>) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constant(hint, dims, ElementType::Int64, bytes)
    }

    fn constant(&mut self, hint: &str, dims: &[i64], element: ElementType, bytes: Vec<u8>) -> String {
        let name = self.fresh_name(hint);
        self.constants.push(TensorProto {
            name: Some(name.clone()),
            dims: dims.to_vec(),
            data_type: Some(element as i32),
            raw_data: Some(bytes),
            ..Default::default()
        });
        name
    }

    /// Appends a node with one output and returns the output's name. An absent optional input is `""`.
    pub fn node(&mut self, op: &str, inputs: &[&str], attrs: &[Attr]) -> String {
        let output = self.fresh_name(op);
        self.push(op, inputs, vec![output.clone()], attrs);
        output
    }

    /// Appends a node with several outputs and returns their names in order.
    pub fn nodes(&mut self, op: &str, inputs: &[&str], output_count: usize, attrs: &[Attr]) -> Vec<String> {
        let outputs: Vec<String> = (0..output_count).map(|_| self.fresh_name(op)).collect();
        self.push(op, inputs, outputs.clone(), attrs);
        outputs
    }

    /// Appends a node whose one output has a name that the outside knows, and returns that name.
    pub fn node_named(&mut self, op: &str, inputs: &[&str], output_name: &str, attrs: &[Attr]) -> String {
        self.take_name(output_name);
        self.push(op, inputs, vec![output_name.to_owned()], attrs);
        output_name.to_owned()
    }

    /// Appends a choice that is made when the graph runs: what `then` makes where `condition` (a single `bool`) holds,
    /// else what `otherwise` makes. Returns its name.
    ///
    /// Both may read every value that exists by now. What they make themselves exists only within them.
    pub fn branch(
        &mut self,
        condition: &str,
        then: impl FnOnce(&mut Self) -> String,
        otherwise: impl FnOnce(&mut Self) -> String,
    ) -> String {
        let branches = [self.inner_graph("then_branch", then), self.inner_graph("else_branch", otherwise)]
            .map(|(name, graph)| Attr(AttributeProto { g: Some(graph), ..attribute(name, AttributeType::Graph) }));
        self.node("If", &[condition], &branches)
    }

    /// Collects what `build` appends into a graph of its own. Names stay unique across all of them.
    fn inner_graph(
        &mut self,
        name: &'static str,
        build: impl FnOnce(&mut Self) -> String,
    ) -> (&'static str, GraphProto) {
        let outer = (std::mem::take(&mut self.nodes), std::mem::take(&mut self.constants));
        let built = build(self);
        // An inner graph gives only what one of its own nodes made.
        let given = self.node("Identity", &[&built], &[]);
        let nodes = std::mem::replace(&mut self.nodes, outer.0);
        let constants = std::mem::replace(&mut self.constants, outer.1);
        // Its type follows from the nodes.
        let output = vec![ValueInfoProto { name: Some(given), ..Default::default() }];
        let (node, initializer) = prune(nodes, constants, &output);
        (name, GraphProto { name: Some(name.to_owned()), node, initializer, output, ..Default::default() })
    }

    fn push(&mut self, op: &str, inputs: &[&str], outputs: Vec<String>, attrs: &[Attr]) {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            name: outputs.first().cloned(),
            output: outputs,
            op_type: Some(op.to_owned()),
            attribute: attrs.iter().map(|attr| attr.0.clone()).collect(),
            ..Default::default()
        });
    }

    /// Runs `build` with `scope/` in front of every name it invents.
    pub fn scoped<T>(&mut self, scope: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        self.scopes.push(scope.to_owned());
        let built = build(self);
        self.scopes.pop();
        built
    }

    /// Adds a line to the file's metadata; a key set twice keeps its last value.
    pub fn metadata(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// Appends nodes and constants of another graph. Their names are free here, and the nodes are in running order.
    pub(crate) fn append_raw(&mut self, nodes: Vec<NodeProto>, constants: Vec<TensorProto>) {
        for name in nodes.iter().flat_map(|node| &node.output) {
            self.taken_names.insert(name.clone());
        }
        for name in constants.iter().filter_map(|constant| constant.name.as_ref()) {
            self.taken_names.insert(name.clone());
        }
        self.nodes.extend(nodes);
        self.constants.extend(constants);
    }

    /// A name that nothing has yet: the scopes and the hint, with a number from the second time on.
    pub(crate) fn fresh_name(&mut self, hint: &str) -> String {
        let mut base = self.scopes.join("/");
        if !base.is_empty() {
            base.push('/');
        }
        base.push_str(hint);

        loop {
            let count = self.name_counts.entry(base.clone()).or_default();
            let name = if *count == 0 { base.clone() } else { format!("{base}_{count}") };
            *count += 1;
            if self.taken_names.insert(name.clone()) {
                return name;
            }
        }
    }

    fn take_name(&mut self, name: &str) {
        self.taken_names.insert(name.to_owned());
    }

    /// The bytes of the file. Nodes and constants that no output needs are left out.
    pub fn finish(self) -> Vec<u8> {
        let (nodes, constants) = prune(self.nodes, self.constants, &self.outputs);
        let metadata = self.metadata.into_iter();
        let model = ModelProto {
            ir_version: Some(ir_version(self.opset)),
            opset_import: vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }],
            producer_name: Some("linewarden".to_owned()),
            graph: Some(GraphProto {
                name: Some(self.name),
                node: nodes,
                initializer: constants,
                input: self.inputs,
                output: self.outputs,
                ..Default::default()
            }),
            metadata_props: metadata
                .map(|(key, value)| StringStringEntryProto { key: Some(key), value: Some(value) })
                .collect(),
            ..Default::default()
        };
        model.encode_to_vec()
    }
}

/// The file format's version that came with an operator set: older readers refuse a newer one.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=18 => 8,
        19 | 20 => 9,
        _ => 10,
    }
}

/// Keeps what the outputs need, in the order it had.
fn prune(
    nodes: Vec<NodeProto>,
    constants: Vec<TensorProto>,
    outputs: &[ValueInfoProto],
) -> (Vec<NodeProto>, Vec<TensorProto>) {
    let mut needed: HashSet<String> = outputs.iter().filter_map(|output| output.name.clone()).collect();
    let mut kept_nodes = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            names_read_by(&node, &mut needed);
            kept_nodes.push(node);
        }
    }
    kept_nodes.reverse();

    let is_needed = |constant: &TensorProto| constant.name.as_ref().is_some_and(|name| needed.contains(name));
    (kept_nodes, constants.into_iter().filter(is_needed).collect())
}

/// Adds the names that a node reads, its inner graphs included: those may read values from around them. Names made
/// inside are added too, which keeps too little out at worst.
fn names_read_by(node: &NodeProto, names: &mut HashSet<String>) {
    names.extend(node.input.iter().filter(|input| !input.is_empty()).cloned());
    for attribute in &node.attribute {
        for inner in attribute.g.iter().chain(&attribute.graphs) {
            names.extend(inner.output.iter().filter_map(|output| output.name.clone()));
            for inner_node in &inner.node {
                names_read_by(inner_node, names);
            }
        }
    }
}

fn value_info(name: &str, element: ElementType, dims: &[Dim<'_>]) -> ValueInfoProto {
    let dimensions = dims.iter().map(|dim| {
        let value = match *dim {
            Dim::Fixed(size) => dimension::Value::Fixed(size),
            Dim::Named(name) => dimension::Value::Named(name.to_owned()),
        };
        Dimension { value: Some(value), denotation: None }
    });
    let tensor = type_proto::Tensor {
        elem_type: Some(element as i32),
        shape: Some(TensorShapeProto { dim: dimensions.collect() }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(type_proto::Value::Tensor(tensor)), denotation: None }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use linewarden_model::runtime;
    use ort::value::Tensor;

    use super::*;

    fn decode(bytes: &[u8]) -> GraphProto {
        ModelProto::decode(bytes).unwrap().graph.unwrap()
    }

    fn two_branches() -> GraphBuilder {
        let mut graph = GraphBuilder::new("test");
        let x = graph.input("x", ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(2)]);
        let kept = graph.constant_f32("weight", &[2], vec![1.0, 2.0]);
        let unused = graph.constant_f32("weight", &[2], vec![3.0, 4.0]);
        let product = graph.scoped("kept", |graph| graph.node("Mul", &[&x, &kept], &[]));
        graph.scoped("unused", |graph| graph.node("Mul", &[&x, &unused], &[]));
        graph.node_named("Relu", &[&product], "y", &[]);
        graph.output("y", ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(2)]);
        graph.metadata("purpose", "test");
        graph
    }

    #[test]
    fn what_no_output_needs_is_not_written() {
        let graph = decode(&two_branches().finish());
        let outputs: Vec<&str> = graph.node.iter().flat_map(|node| &node.output).map(String::as_str).collect();
        assert_eq!(outputs, ["kept/Mul", "y"]);
        assert_eq!(graph.initializer.len(), 1);
        assert_eq!(graph.initializer[0].raw_data.as_deref(), Some(&[0, 0, 128, 63, 0, 0, 0, 64][..]));
    }

    #[test]
    fn the_same_calls_give_the_same_bytes() {
        assert_eq!(two_branches().finish(), two_branches().finish());
    }

    #[test]
    fn invented_names_are_unique_even_against_given_ones() {
        let mut graph = GraphBuilder::new("test");
        let x = graph.input("Relu", ElementType::Float, &[Dim::Fixed(1)]);
        let first = graph.node("Relu", &[&x], &[]);
        let second = graph.node("Relu", &[&x], &[]);
        let several = graph.nodes("Split", &[&x], 2, &[Attr::int("num_outputs", 2)]);
        assert_eq!([first.as_str(), &second, &several[0], &several[1]], ["Relu_1", "Relu_2", "Split", "Split_1"]);
    }

    #[test]
    fn what_an_inner_graph_reads_from_outside_stays() {
        let mut graph = GraphBuilder::new("test");
        let x = graph.input("x", ElementType::Float, &[Dim::Fixed(1)]);
        let outer = graph.node("Relu", &[&x], &[]);
        let inner = GraphProto {
            node: vec![NodeProto { input: vec![outer], output: vec!["inner".to_owned()], ..Default::default() }],
            ..Default::default()
        };
        let branch = AttributeProto { g: Some(inner), ..attribute("then_branch", AttributeType::Graph) };
        graph.append_raw(
            vec![NodeProto {
                output: vec!["y".to_owned()],
                op_type: Some("If".to_owned()),
                attribute: vec![branch],
                ..Default::default()
            }],
            Vec::new(),
        );
        graph.output("y", ElementType::Float, &[Dim::Fixed(1)]);
        assert_eq!(decode(&graph.finish()).node.len(), 2);
    }

    fn branching() -> GraphBuilder {
        let mut graph = GraphBuilder::new("test");
        let x = graph.input("x", ElementType::Float, &[Dim::Fixed(1)]);
        let condition = graph.input("condition", ElementType::Bool, &[]);
        let read_inside = graph.constant_f32("weight", &[1], vec![2.0]);
        graph.constant_f32("weight", &[1], vec![3.0]);
        let otherwise = |graph: &mut GraphBuilder| {
            let own = graph.constant_f32("weight", &[1], vec![4.0]);
            graph.constant_f32("weight", &[1], vec![5.0]);
            graph.node("Neg", &[&x], &[]);
            let product = graph.node("Mul", &[&x, &read_inside], &[]);
            graph.node("Add", &[&product, &own], &[])
        };
        let chosen = graph.branch(&condition, |_| x.clone(), otherwise);
        graph.node_named("Relu", &[&chosen], "y", &[]);
        graph.output("y", ElementType::Float, &[Dim::Fixed(1)]);
        graph
    }

    #[test]
    fn branches_hold_what_they_need_and_no_more() {
        let names = |constants: &[TensorProto]| -> Vec<String> {
            constants.iter().filter_map(|constant| constant.name.clone()).collect()
        };
        let graph = decode(&branching().finish());
        assert_eq!(names(&graph.initializer), ["weight"]);
        let inner: Vec<&GraphProto> = graph.node[0].attribute.iter().filter_map(|attr| attr.g.as_ref()).collect();
        let ops = |graph: &GraphProto| -> Vec<String> { graph.node.iter().filter_map(|n| n.op_type.clone()).collect() };
        assert_eq!(ops(inner[0]), ["Identity"]);
        assert_eq!(ops(inner[1]), ["Mul", "Add", "Identity"]);
        assert_eq!(names(&inner[1].initializer), ["weight_2"]);
        assert_eq!(branching().finish(), branching().finish());
    }

    #[test]
    fn a_branch_is_chosen_when_the_graph_runs() {
        let mut session = runtime::session_builder(1).unwrap().commit_from_memory(&branching().finish()).unwrap();
        for (condition, expected) in [(true, 7.0), (false, 18.0)] {
            let x = Tensor::from_array(([1], vec![7.0_f32])).unwrap();
            let condition = Tensor::from_array(([0_usize; 0], vec![condition])).unwrap();
            let outputs = session.run(ort::inputs!["x" => x, "condition" => condition]).unwrap();
            assert_eq!(outputs["y"].try_extract_tensor::<f32>().unwrap().1, [expected]);
        }
    }

    #[test]
    fn the_file_says_what_it_needs() {
        let model = ModelProto::decode(two_branches().finish().as_slice()).unwrap();
        assert_eq!(model.opset_import, [OperatorSetIdProto { domain: None, version: Some(18) }]);
        assert_eq!(model.ir_version, Some(8));
        assert_eq!(model.metadata_props[0].key.as_deref(), Some("purpose"));
    }
}
