//! A backbone that came as an ONNX file: checked against the contract, tried once, and then copied node by node into
//! the graph under construction, with a prefix in front of every name.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use linewarden_model::runtime;
use ort::value::TensorRef;
use prost::Message as _;

use super::{BackboneError, Tap, TapInfo};
use crate::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, dimension, type_proto,
};
use crate::onnx::{ElementType, GraphBuilder, OPSET_MAX, OPSET_MIN};

/// At which a network of any size is tried first; a multiple of every usual stride.
const TRIAL_SIZE_PX: u32 = 256;
/// More than one picture, so that a batch size baked into the file shows.
const TRIAL_BATCH: usize = 2;
const EXTERNAL: i32 = 1;

#[derive(Clone, Debug)]
pub(super) struct Foreign {
    path: PathBuf,
    model: ModelProto,
    contract: Contract,
    taps: Vec<TapInfo>,
    /// The output behind each tap, by its place in the file.
    tap_outputs: Vec<usize>,
    trial: Trial,
}

/// What a file says of itself.
#[derive(Clone, Debug)]
struct Contract {
    opset: i64,
    input: String,
    /// `None`: any.
    size_px: Option<u32>,
    outputs: Vec<String>,
}

/// What came out when it ran.
#[derive(Clone, Debug)]
struct Trial {
    size_px: u32,
    maps: Vec<Map>,
}

#[derive(Clone, Copy, Debug)]
struct Map {
    channels: u32,
    cells: u32,
}

impl Foreign {
    pub(super) fn new(path: &Path, bytes: &[u8]) -> Result<Self, BackboneError> {
        let refused = |reason| refusal(path, reason);
        let model = ModelProto::decode(bytes).map_err(|error| refused(format!("no ONNX file: {error}")))?;
        let contract = contract_of(&model).map_err(refused)?;
        let trial = try_out(path, bytes, &contract, contract.size_px.unwrap_or(TRIAL_SIZE_PX))?;

        let mut found: Vec<(TapInfo, usize)> = Vec::new();
        for (output, map) in trial.maps.iter().enumerate() {
            let stride = (f64::from(trial.size_px) / f64::from(map.cells)).round() as u32;
            found.retain(|(tap, _)| tap.stride != stride);
            found.push((TapInfo { stride, channels: map.channels }, output));
        }
        found.sort_by_key(|(tap, _)| tap.stride);
        let (taps, tap_outputs) = found.into_iter().unzip();
        Ok(Self { path: path.to_owned(), model, contract, taps, tap_outputs, trial })
    }

    pub(super) fn taps(&self) -> &[TapInfo] {
        &self.taps
    }

    pub(super) fn append(
        &self,
        graph: &mut GraphBuilder,
        input: &str,
        input_size_px: u32,
        strides: &[u32],
    ) -> Result<Vec<Tap>, BackboneError> {
        let refused = |reason| refusal(&self.path, reason);
        if let Some(size_px) = self.contract.size_px.filter(|&size_px| size_px != input_size_px) {
            return Err(refused(format!(
                "it takes pictures of {size_px} pixels only, but {input_size_px} are wanted: export it for that size, \
                 or with dynamic height and width"
            )));
        }
        let trial = match self.trial.size_px == input_size_px {
            true => self.trial.clone(),
            false => try_out(&self.path, &self.model.encode_to_vec(), &self.contract, input_size_px)?,
        };
        graph.settle_opset(self.contract.opset).map_err(|other| {
            refused(format!(
                "it is written for ai.onnx operator set {}, but another backbone in the same model for {other}: export \
                 both for the same",
                self.contract.opset
            ))
        })?;

        let names = Renaming { prefix: graph.fresh_name("backbone"), from: &self.contract.input, to: input };
        let file = self.model.graph.clone().unwrap_or_default();
        let (nodes, constants) = names.parts(file);
        graph.append_raw(nodes, constants);

        let mut taps = Vec::new();
        for stride in strides {
            let found = self.taps.iter().zip(&self.tap_outputs).find(|(tap, _)| tap.stride == *stride);
            let Some((tap, &output)) = found else { continue };
            let (Some(name), Some(map)) = (self.contract.outputs.get(output), trial.maps.get(output)) else { continue };
            taps.push(Tap { name: names.name(name), stride: *stride, channels: tap.channels, size: map.cells });
        }
        Ok(taps)
    }
}

fn refusal(path: &Path, reason: String) -> BackboneError {
    BackboneError::File { path: path.to_owned(), reason }
}

/// Reads the contract off the file, or says which part of it is broken and how to mend it.
fn contract_of(model: &ModelProto) -> Result<Contract, String> {
    let graph = model.graph.as_ref().ok_or("no ONNX file: there is no graph in it")?;
    let opset = opset_of(model)?;
    check_graph(graph)?;

    let constants: HashSet<&str> = graph.initializer.iter().filter_map(|tensor| tensor.name.as_deref()).collect();
    // Files before IR version 4 list their weights as inputs, too.
    let is_input = |input: &&ValueInfoProto| !constants.contains(input.name.as_deref().unwrap_or_default());
    let inputs: Vec<&ValueInfoProto> = graph.input.iter().filter(is_input).collect();
    let [input] = inputs.as_slice() else {
        let names: Vec<&str> = inputs.iter().filter_map(|input| input.name.as_deref()).collect();
        return Err(format!("it must have one input, the picture, but has {}: {}", names.len(), names.join(", ")));
    };
    let input_name = input.name.clone().unwrap_or_default();
    let size_px = input_size(input).map_err(|reason| format!("input `{input_name}` {reason}"))?;

    let mut outputs = Vec::new();
    for output in &graph.output {
        let name = output.name.clone().unwrap_or_default();
        if dims_of(output).is_some_and(|dims| dims.len() != 4) {
            return Err(format!("output `{name}` must be a feature map [N, C, H, W], but it is not 4-dimensional"));
        }
        outputs.push(name);
    }
    if outputs.is_empty() {
        return Err("it has no outputs: they are the feature maps".to_owned());
    }
    Ok(Contract { opset, input: input_name, size_px, outputs })
}

fn opset_of(model: &ModelProto) -> Result<i64, String> {
    let is_onnx = |domain: Option<&str>| matches!(domain, None | Some("" | "ai.onnx"));
    let imported = model.opset_import.iter().find(|import| is_onnx(import.domain.as_deref()));
    let opset = imported.and_then(|import| import.version).ok_or("it names no ai.onnx operator set")?;
    if !(OPSET_MIN..=OPSET_MAX).contains(&opset) {
        return Err(format!(
            "it is written for ai.onnx operator set {opset}, but {OPSET_MIN} to {OPSET_MAX} are allowed: export it again, \
             as by torch.onnx.export(..., opset_version={OPSET_MIN})"
        ));
    }
    Ok(opset)
}

/// Everything that cannot be carried over into another file, down to the inner graphs of `If` and `Loop`.
fn check_graph(graph: &GraphProto) -> Result<(), String> {
    if !graph.sparse_initializer.is_empty() {
        return Err("it has sparse weights: store them dense".to_owned());
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    for node in &graph.node {
        let domain = node.domain.as_deref().unwrap_or_default();
        if !matches!(domain, "" | "ai.onnx") {
            let op = node.op_type.as_deref().unwrap_or_default();
            return Err(format!("operator `{op}` is of domain `{domain}`: only ai.onnx operators are allowed"));
        }
        node.attribute.iter().try_for_each(check_attribute)?;
    }
    Ok(())
}

fn check_attribute(attribute: &AttributeProto) -> Result<(), String> {
    if attribute.sparse_tensor.is_some() || !attribute.sparse_tensors.is_empty() {
        return Err("it has sparse constants: store them dense".to_owned());
    }
    attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
    attribute.g.iter().chain(&attribute.graphs).try_for_each(check_graph)
}

fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    if tensor.data_location == Some(EXTERNAL) || !tensor.external_data.is_empty() {
        let name = tensor.name.as_deref().unwrap_or_default();
        return Err(format!(
            "the numbers of `{name}` are in another file: save all in one, as by torch.onnx.export(..., \
             external_data=False)"
        ));
    }
    Ok(())
}

/// Pixels per side that the input insists on, if it does.
fn input_size(input: &ValueInfoProto) -> Result<Option<u32>, String> {
    let element = tensor_type(input).and_then(|tensor| tensor.elem_type);
    if element != Some(ElementType::Float as i32) {
        return Err("must be of type float".to_owned());
    }
    let dims = dims_of(input).unwrap_or_default();
    let [batch, channels, height, width] = dims.as_slice() else {
        return Err("must have the shape [N, 3, S, S]".to_owned());
    };
    if *channels != Some(3) {
        return Err("must have the shape [N, 3, S, S]: 3 colours come second".to_owned());
    }
    if batch.is_some() {
        return Err("has a fixed batch size: export it with a dynamic one, as by torch.onnx.export(..., \
                    dynamic_axes={\"input name\": {0: \"batch\"}})"
            .to_owned());
    }
    match (height, width) {
        (None, None) => Ok(None),
        (Some(height), Some(width)) if height == width => match u32::try_from(*height) {
            Ok(size_px) if size_px > 0 => Ok(Some(size_px)),
            _ => Err(format!("has an impossible size of {height} pixels")),
        },
        _ => Err("must be as high as wide, or dynamic in both".to_owned()),
    }
}

fn tensor_type(value: &ValueInfoProto) -> Option<&type_proto::Tensor> {
    match &value.r#type {
        Some(TypeProto { value: Some(type_proto::Value::Tensor(tensor)), .. }) => Some(tensor),
        _ => None,
    }
}

/// Sizes of a value's dimensions, `None` for a dynamic one; nothing when not even their number is known.
fn dims_of(value: &ValueInfoProto) -> Option<Vec<Option<i64>>> {
    let shape = tensor_type(value)?.shape.as_ref()?;
    let sizes = shape.dim.iter().map(|dim| match dim.value {
        Some(dimension::Value::Fixed(size)) => Some(size),
        Some(dimension::Value::Named(_)) | None => None,
    });
    Some(sizes.collect())
}

/// Runs the file on grey pictures and looks at what comes out.
fn try_out(path: &Path, bytes: &[u8], contract: &Contract, size_px: u32) -> Result<Trial, BackboneError> {
    let refused = |reason| refusal(path, reason);
    let failed =
        |error: ort::Error| refused(format!("ONNX Runtime cannot run it at {size_px} x {size_px} pixels: {error}"));

    let mut session = runtime::session_builder(1)?.commit_from_memory(bytes).map_err(failed)?;
    let side = size_px as usize;
    let shape = [TRIAL_BATCH, 3, side, side];
    let pictures = vec![0.0_f32; shape.iter().product()];
    let input = TensorRef::from_array_view((shape, pictures.as_slice())).map_err(failed)?;
    let results = session.run(ort::inputs![contract.input.as_str() => input]).map_err(failed)?;

    let mut maps = Vec::new();
    for name in &contract.outputs {
        let not_a_map = |found: String| {
            refused(format!("output `{name}` must be a feature map, float [N, C, H, W] with H = W, but it is {found}"))
        };
        let result = results.get(name).ok_or_else(|| not_a_map("missing".to_owned()))?;
        let (shape, _) = result.try_extract_tensor::<f32>().map_err(|error| not_a_map(error.to_string()))?;
        let sizes: Option<Vec<u32>> = shape.iter().map(|&size| u32::try_from(size).ok()).collect();
        match sizes.as_deref() {
            Some(&[batch, channels, height, width])
                if batch as usize == TRIAL_BATCH
                    && height == width
                    && channels > 0
                    && (1..=size_px).contains(&height) =>
            {
                maps.push(Map { channels, cells: height });
            }
            _ => return Err(not_a_map(format!("{shape:?} for {TRIAL_BATCH} pictures of {size_px} pixels"))),
        }
    }
    Ok(Trial { size_px, maps })
}

/// Gives every name of the file a prefix, but the input that of the value it is joined to.
struct Renaming<'a> {
    prefix: String,
    from: &'a str,
    to: &'a str,
}

impl Renaming<'_> {
    fn name(&self, name: &str) -> String {
        match name {
            // An optional input that is left out.
            "" => String::new(),
            _ if name == self.from => self.to.to_owned(),
            _ => format!("{}/{name}", self.prefix),
        }
    }

    fn parts(&self, graph: GraphProto) -> (Vec<NodeProto>, Vec<TensorProto>) {
        let nodes = graph.node.into_iter().map(|node| self.node(node)).collect();
        let constants = graph.initializer.into_iter().map(|constant| self.constant(constant)).collect();
        (nodes, constants)
    }

    fn node(&self, mut node: NodeProto) -> NodeProto {
        for value in node.input.iter_mut().chain(&mut node.output) {
            *value = self.name(value);
        }
        node.name = node.name.map(|name| format!("{}/{name}", self.prefix));
        for attribute in &mut node.attribute {
            for graph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                *graph = self.inner_graph(std::mem::take(graph));
            }
        }
        node
    }

    fn constant(&self, mut constant: TensorProto) -> TensorProto {
        constant.name = constant.name.map(|name| self.name(&name));
        constant
    }

    fn inner_graph(&self, graph: GraphProto) -> GraphProto {
        let rename = |mut value: ValueInfoProto| {
            value.name = value.name.map(|name| self.name(&name));
            value
        };
        GraphProto {
            name: graph.name,
            input: graph.input.into_iter().map(rename).collect(),
            output: graph.output.into_iter().map(rename).collect(),
            node: graph.node.into_iter().map(|node| self.node(node)).collect(),
            initializer: graph.initializer.into_iter().map(|constant| self.constant(constant)).collect(),
            ..GraphProto::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{Dimension, OperatorSetIdProto, StringStringEntryProto};
    use crate::onnx::{Attr, Dim};

    const SIDE: Dim<'_> = Dim::Named("side");

    /// A network without weights: the picture, averaged over squares of 4 and of 2 pixels.
    fn pyramid(dims: &[Dim<'_>]) -> ModelProto {
        let mut graph = GraphBuilder::new("pyramid");
        let picture = graph.input("picture", ElementType::Float, dims);
        for (name, stride) in [("coarse", 4), ("fine", 2)] {
            let attrs = [Attr::ints("kernel_shape", &[stride; 2]), Attr::ints("strides", &[stride; 2])];
            graph.node_named("AveragePool", &[&picture], name, &attrs);
            graph.output(name, ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(3), SIDE, SIDE]);
        }
        ModelProto::decode(graph.finish().as_slice()).unwrap()
    }

    fn pyramid_of_any_size() -> ModelProto {
        pyramid(&[Dim::Named("batch"), Dim::Fixed(3), SIDE, SIDE])
    }

    fn load(model: &ModelProto) -> Result<Foreign, BackboneError> {
        Foreign::new(Path::new("pyramid.onnx"), &model.encode_to_vec())
    }

    fn refusal_after(change: impl FnOnce(&mut ModelProto, &mut GraphProto)) -> String {
        let mut model = pyramid_of_any_size();
        let mut graph = model.graph.take().unwrap();
        change(&mut model, &mut graph);
        model.graph = Some(graph);
        load(&model).unwrap_err().to_string()
    }

    fn input_dims(dims: &[Dim<'_>]) -> String {
        load(&pyramid(dims)).unwrap_err().to_string()
    }

    #[test]
    fn strides_and_channels_are_found_by_running_it() {
        let taps = [TapInfo { stride: 2, channels: 3 }, TapInfo { stride: 4, channels: 3 }];
        assert_eq!(load(&pyramid_of_any_size()).unwrap().taps(), taps);
    }

    #[test]
    fn a_network_of_any_size_is_tried_at_the_size_that_is_wanted() {
        let foreign = load(&pyramid_of_any_size()).unwrap();
        let mut graph = GraphBuilder::new("test");
        let input = graph.input("input", ElementType::Float, &[Dim::Named("batch"), Dim::Fixed(3), SIDE, SIDE]);
        let taps = foreign.append(&mut graph, &input, 64, &[4, 2]).unwrap();
        let sizes: Vec<(&str, u32)> = taps.iter().map(|tap| (tap.name.as_str(), tap.size)).collect();
        assert_eq!(sizes, [("backbone/coarse", 16), ("backbone/fine", 32)]);
    }

    #[test]
    fn a_network_of_one_size_takes_no_other() {
        let foreign = load(&pyramid(&[Dim::Named("batch"), Dim::Fixed(3), Dim::Fixed(96), Dim::Fixed(96)])).unwrap();
        let error = foreign.append(&mut GraphBuilder::new("test"), "input", 64, &[4]).unwrap_err().to_string();
        assert!(error.contains("it takes pictures of 96 pixels only, but 64 are wanted"), "{error}");
    }

    #[test]
    fn the_model_takes_on_the_operator_set_of_the_file_and_no_second_one() {
        let with_opset = |opset| {
            let mut model = pyramid_of_any_size();
            model.opset_import[0].version = Some(opset);
            load(&model).unwrap()
        };
        let mut graph = GraphBuilder::new("test");
        with_opset(20).append(&mut graph, "input", 64, &[4]).unwrap();
        assert_eq!(graph.opset(), 20);
        let error = with_opset(18).append(&mut graph, "input", 64, &[4]).unwrap_err().to_string();
        assert!(error.contains("operator set 18, but another backbone in the same model for 20"), "{error}");
    }

    #[test]
    fn two_backbones_share_a_model_without_sharing_names() {
        let foreign = load(&pyramid_of_any_size()).unwrap();
        let mut graph = GraphBuilder::new("test");
        let first = foreign.append(&mut graph, "input", 64, &[4]).unwrap();
        let second = foreign.append(&mut graph, "input", 64, &[4]).unwrap();
        assert_ne!(first[0].name, second[0].name);
    }

    #[test]
    fn what_breaks_the_contract_is_refused_with_the_reason() {
        for opset in [17, 22] {
            let error = refusal_after(|model, _| model.opset_import[0].version = Some(opset));
            assert!(error.contains(&format!("operator set {opset}, but 18 to 21 are allowed")), "{error}");
            assert!(error.contains("torch.onnx.export(..., opset_version=18)"), "{error}");
        }
        let error = refusal_after(|model, graph| {
            model.opset_import.push(OperatorSetIdProto { domain: Some("com.example".to_owned()), version: Some(1) });
            graph.node[0].domain = Some("com.example".to_owned());
        });
        assert!(error.contains("operator `AveragePool` is of domain `com.example`"), "{error}");

        let error = refusal_after(|_, graph| {
            graph.initializer.push(TensorProto {
                name: Some("weight".to_owned()),
                external_data: vec![StringStringEntryProto::default()],
                ..Default::default()
            });
        });
        assert!(error.contains("the numbers of `weight` are in another file"), "{error}");

        let error = refusal_after(|_, graph| graph.sparse_initializer.push(Vec::new()));
        assert!(error.contains("sparse weights"), "{error}");

        let error = refusal_after(|_, graph| {
            let second = ValueInfoProto { name: Some("mask".to_owned()), ..graph.input[0].clone() };
            graph.input.push(second);
        });
        assert!(error.contains("must have one input, the picture, but has 2: picture, mask"), "{error}");

        let error = refusal_after(|_, graph| {
            if let Some(TypeProto { value: Some(type_proto::Value::Tensor(tensor)), .. }) = &mut graph.output[1].r#type
            {
                tensor.shape.as_mut().unwrap().dim.push(Dimension::default());
            }
        });
        assert!(error.contains("output `fine` must be a feature map [N, C, H, W]"), "{error}");

        let error = refusal_after(|_, graph| graph.output.clear());
        assert!(error.contains("it has no outputs"), "{error}");
        assert!(Foreign::new(Path::new("x.onnx"), b"hello").unwrap_err().to_string().contains("no ONNX file"));
    }

    #[test]
    fn an_input_that_is_no_batch_of_pictures_is_refused_with_the_reason() {
        let batch = Dim::Named("batch");
        assert!(input_dims(&[batch, Dim::Fixed(3), SIDE]).contains("must have the shape [N, 3, S, S]"));
        assert!(input_dims(&[batch, Dim::Fixed(1), SIDE, SIDE]).contains("3 colours come second"));
        assert!(input_dims(&[Dim::Fixed(1), Dim::Fixed(3), SIDE, SIDE]).contains("fixed batch size"));
        let oblong = [batch, Dim::Fixed(3), Dim::Fixed(64), Dim::Fixed(96)];
        assert!(input_dims(&oblong).contains("as high as wide"));
        let bytes = refusal_after(|_, graph| {
            if let Some(TypeProto { value: Some(type_proto::Value::Tensor(tensor)), .. }) = &mut graph.input[0].r#type {
                tensor.elem_type = Some(ElementType::Uint8 as i32);
            }
        });
        assert!(bytes.contains("must be of type float"), "{bytes}");
    }

    #[test]
    fn a_map_that_is_not_one_shows_when_it_runs() {
        let channels_last = refusal_after(|_, graph| {
            for output in &mut graph.output {
                output.r#type = None;
            }
            let mut transpose = graph.node[0].clone();
            transpose.op_type = Some("Transpose".to_owned());
            transpose.attribute.clear();
            graph.node[0] = transpose;
        });
        assert!(channels_last.contains("output `coarse` must be a feature map"), "{channels_last}");
    }

    /// Everything that is done with a file before ONNX Runtime sees it.
    #[test]
    fn changed_files_are_read_or_refused() {
        let fixed = pyramid(&[Dim::Named("batch"), Dim::Fixed(3), Dim::Fixed(96), Dim::Fixed(96)]);
        let seeds = [pyramid_of_any_size().encode_to_vec(), fixed.encode_to_vec()];
        let mut were_read = 0;
        crate::fuzzing::fuzz("onnx", &seeds, |bytes| {
            let Ok(model) = ModelProto::decode(bytes) else { return };
            let Ok(contract) = contract_of(&model) else { return };
            let names = Renaming { prefix: "backbone".to_owned(), from: &contract.input, to: "image" };
            let (nodes, constants) = names.parts(model.graph.unwrap_or_default());
            GraphBuilder::new("fuzz").append_raw(nodes, constants);
            were_read += 1;
        });
        assert!(were_read >= 2, "the first two are sound");
    }
}
