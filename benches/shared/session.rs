//! The bare network, as ONNX Runtime has it.

use anyhow::{Context as _, Result};
use linewarden_model::package::Package;
use linewarden_model::runtime;
use ort::session::Session;
use ort::session::builder::SessionBuilder;

pub(crate) fn builder(package: &Package, threads: usize) -> Result<SessionBuilder> {
    let size = package.info().input_size;
    let mut builder = runtime::session_builder(threads)?;
    for (dimension, length) in [("batch", 1), ("height", size.height_px), ("width", size.width_px)] {
        builder = builder
            .with_dimension_override(dimension, i64::from(length))
            .map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    Ok(builder)
}

pub(crate) fn open(package: &Package, threads: usize) -> Result<Session> {
    builder(package, threads)?.commit_from_memory(package.onnx()).context("ONNX Runtime refuses the model")
}
