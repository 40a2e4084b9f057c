//! Where the network's time goes, by ONNX Runtime's own profile.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use linewarden_model::package::Package;
use serde_json::Value;

use crate::numbers::median;
use crate::parts::Parts;
use crate::report::Report;
use crate::session::builder;
use crate::speed::run_model;

const RUNS: usize = 100;
/// Nodes outside the backbone that are named one by one.
const NAMED: usize = 6;
/// What ONNX Runtime appends to a node's name for the time it computed.
const KERNEL: &str = "_kernel_time";

/// A node of the optimised graph.
struct Node {
    name: String,
    milliseconds: f64,
}

impl Node {
    /// The part of the graph that wrote it, as the exporter scopes its names.
    fn part(&self) -> &str {
        self.name.split_once('/').map_or("layout changes", |(part, _)| part)
    }
}

pub(crate) fn measure(parts: &Parts, report: &mut Report) -> Result<()> {
    let mut nodes = profile(&parts.package)?;
    nodes.sort_by(|a, b| b.milliseconds.total_cmp(&a.milliseconds));
    report.chapter("Where the network's time goes (profiled, which costs a little itself)");
    for (part, milliseconds) in by_part(&nodes) {
        report.figure(&format!("graph_{}", part.replace(' ', "_")), &format!("all of `{part}`"), milliseconds, "ms");
    }
    for node in nodes.iter().filter(|node| node.part() != "backbone").take(NAMED) {
        report.figure(&format!("node_{}", node.name), &format!("node `{}`", node.name), node.milliseconds, "ms");
    }
    for (part, milliseconds) in by_part(&profile(&parts.hybrid)?) {
        let key = format!("hybrid_graph_{}", part.replace(' ', "_"));
        report.figure(&key, &format!("hybrid, all of `{part}`"), milliseconds, "ms");
    }
    Ok(())
}

fn by_part(nodes: &[Node]) -> BTreeMap<&str, f64> {
    let mut by_part = BTreeMap::new();
    for node in nodes {
        *by_part.entry(node.part()).or_default() += node.milliseconds;
    }
    by_part
}

fn profile(package: &Package) -> Result<Vec<Node>> {
    let folder = tempfile::tempdir()?;
    let builder = builder(package, 1)?
        .with_profiling(folder.path().join("profile"))
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut builder = builder;
    let mut session = builder.commit_from_memory(package.onnx()).context("ONNX Runtime refuses the model")?;
    let size = package.info().input_size;
    let grey = vec![128; size.width_px as usize * size.height_px as usize * 3];
    run_model(&mut session, &grey, RUNS)?;
    let file = session.end_profiling()?;
    let events: Vec<Value> =
        serde_json::from_slice(&std::fs::read(file)?).context("cannot read ONNX Runtime's profile")?;
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for event in &events {
        let name = event["name"].as_str().and_then(|name| name.strip_suffix(KERNEL));
        if let (Some(name), Some(microseconds)) = (name, event["dur"].as_f64()) {
            times.entry(name.to_owned()).or_default().push(microseconds / 1e3);
        }
    }
    Ok(times.into_iter().map(|(name, times)| Node { name, milliseconds: median(&times) }).collect())
}
