//! The frozen network whose feature maps everything else looks at. [`Backbone::load`] reads one from the data folder or
//! from a file, [`Backbone::append`] writes its layers into a graph under construction. What the features are used for
//! is not known here.
//!
//! # Backbones from a file
//!
//! Any ONNX file serves that keeps to this:
//!
//! - one input, float `[N, 3, S, S]`, RGB, scaled as `(x - 127) / 128` from 0..255. `N` is dynamic (a named dimension);
//!   `S` is dynamic too, or exactly the size that the model is trained for;
//! - every output is a feature map, float `[N, C, H, W]` with `H = W`. Its stride is `S / H`, rounded. Of two outputs
//!   with the same stride the later one is used;
//! - `ai.onnx` operators only, of operator set 18 to 21, and all weights in the one file.
//!
//! With torch: `torch.onnx.export(features, x, "features.onnx", opset_version=18, external_data=False,
//! dynamic_axes={"x": {0: "batch"}}, input_names=["x"])`, where `features` returns a list of feature maps.

mod efficientnet;
mod foreign;

use std::path::{Path, PathBuf};

use linewarden_model::{ModelError, runtime};
use sha2::{Digest as _, Sha256};

use crate::onnx::GraphBuilder;
pub use crate::pickle::PickleError;
use efficientnet::EfficientNet;
use foreign::Foreign;

/// Smaller pictures leave the deepest map without a single cell of their own.
const INPUT_SIZE_MIN_PX: u32 = 32;

/// Where a backbone comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackboneSource {
    /// EfficientNet-Lite0 with the weights that `make setup` laid into the data folder.
    Bundled,
    /// An ONNX file with feature-map outputs; see [the module](self) for what it must be.
    File(PathBuf),
}

/// A place in the network where features can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapInfo {
    /// Input pixels per cell, along a side.
    pub stride: u32,
    /// Numbers per cell.
    pub channels: u32,
}

/// A feature map in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Name of the value: float `[N, channels, size, size]`.
    pub name: String,
    /// Input pixels per cell, along a side.
    pub stride: u32,
    /// Numbers per cell.
    pub channels: u32,
    /// Cells per side.
    pub size: u32,
}

/// Why a backbone cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackboneError {
    /// The bundled weights are not where `make setup` lays them.
    #[error("there are no backbone weights at `{path}`: run `make setup`")]
    NoWeights {
        /// Where they were looked for.
        path: PathBuf,
    },
    /// The bundled weights are other ones than this program was made for.
    #[error(
        "the backbone weights at `{path}` have SHA-256 {found}, not {expected}: delete the file and run `make setup`"
    )]
    OtherWeights {
        /// The file.
        path: PathBuf,
        /// What it hashes to.
        found: String,
        /// What it should hash to.
        expected: &'static str,
    },
    /// The file cannot be read.
    #[error("cannot read backbone `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The weights file is not a dictionary of plain tensors.
    #[error("cannot read backbone weights `{path}`")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: PickleError,
    },
    /// The weights do not fit the network.
    #[error("backbone weights: tensor `{name}` {reason}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The ONNX file does not keep to the contract.
    #[error("cannot use backbone `{path}`: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// There are no features at this stride.
    #[error("backbone `{backbone}` has no features at stride {stride}: it has strides {available}")]
    Stride {
        /// Name of the backbone.
        backbone: String,
        /// What was asked for.
        stride: u32,
        /// What there is, as a list.
        available: String,
    },
    /// The picture is too small.
    #[error("backbone input must be at least {INPUT_SIZE_MIN_PX} pixels wide, got {size_px}")]
    InputSize {
        /// What was asked for.
        size_px: u32,
    },
    /// ONNX Runtime does not load.
    #[error(transparent)]
    Runtime(#[from] ModelError),
}

/// A network, ready to be written into graphs.
#[derive(Clone, Debug)]
pub struct Backbone {
    name: String,
    sha256: String,
    network: Network,
}

#[derive(Clone, Debug)]
enum Network {
    Bundled(EfficientNet),
    Foreign(Box<Foreign>),
}

impl Backbone {
    /// Reads a backbone and checks all of it.
    ///
    /// # Errors
    /// When the file is missing, is not what it should be, or (for a file) does not run.
    pub fn load(source: &BackboneSource) -> Result<Self, BackboneError> {
        match source {
            BackboneSource::Bundled => Self::load_weights(&runtime::data_dir().join(efficientnet::WEIGHTS_FILE)),
            BackboneSource::File(path) => Self::load_file(path),
        }
    }

    fn load_weights(path: &Path) -> Result<Self, BackboneError> {
        let bytes = std::fs::read(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => BackboneError::NoWeights { path: path.to_owned() },
            _ => BackboneError::Read { path: path.to_owned(), source },
        })?;
        let sha256 = hex_sha256(&bytes);
        if sha256 != efficientnet::WEIGHTS_SHA256 {
            let expected = efficientnet::WEIGHTS_SHA256;
            return Err(BackboneError::OtherWeights { path: path.to_owned(), found: sha256, expected });
        }
        let tensors = crate::pickle::read_state_dict(&bytes)
            .map_err(|source| BackboneError::Weights { path: path.to_owned(), source })?;
        let network = Network::Bundled(EfficientNet::new(&tensors)?);
        Ok(Self { name: efficientnet::NAME.to_owned(), sha256, network })
    }

    fn load_file(path: &Path) -> Result<Self, BackboneError> {
        let bytes = std::fs::read(path).map_err(|source| BackboneError::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { name, sha256: hex_sha256(&bytes), network: Network::Foreign(Box::new(Foreign::new(path, &bytes)?)) })
    }

    /// What to call it: `efficientnet-lite0`, or the file's name without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the file it was read from, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Where features can be taken, from the finest on.
    pub fn taps(&self) -> &[TapInfo] {
        match &self.network {
            Network::Bundled(_) => &efficientnet::TAPS,
            Network::Foreign(foreign) => foreign.taps(),
        }
    }

    /// Writes the layers into `graph`, as deep as `strides` need, and returns a tap for each of them in that order.
    /// `input` names a float value `[N, 3, S, S]` with `S = input_size_px`, RGB, scaled as `(x - 127) / 128`.
    ///
    /// # Errors
    /// When a stride is not among [`taps`](Self::taps), or a file's network cannot take pictures of that size.
    pub fn append(
        &self,
        graph: &mut GraphBuilder,
        input: &str,
        input_size_px: u32,
        strides: &[u32],
    ) -> Result<Vec<Tap>, BackboneError> {
        if input_size_px < INPUT_SIZE_MIN_PX {
            return Err(BackboneError::InputSize { size_px: input_size_px });
        }
        if let Some(&stride) = strides.iter().find(|&&stride| self.taps().iter().all(|tap| tap.stride != stride)) {
            let available: Vec<String> = self.taps().iter().map(|tap| tap.stride.to_string()).collect();
            let available = available.join(", ");
            return Err(BackboneError::Stride { backbone: self.name.clone(), stride, available });
        }
        match &self.network {
            Network::Bundled(network) => Ok(network.append(graph, input, input_size_px, strides)),
            Network::Foreign(foreign) => foreign.append(graph, input, input_size_px, strides),
        }
    }
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_weights_name_the_command_that_brings_them() {
        let folder = tempfile::tempdir().unwrap();
        let error = Backbone::load_weights(&folder.path().join("none.pth")).unwrap_err().to_string();
        assert!(
            error.starts_with("there are no backbone weights at `") && error.ends_with("run `make setup`"),
            "{error}"
        );
    }

    #[test]
    fn other_weights_are_refused_before_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.pth");
        std::fs::write(&path, b"other").unwrap();
        let error = Backbone::load_weights(&path).unwrap_err().to_string();
        assert!(error.contains(efficientnet::WEIGHTS_SHA256) && error.contains("run `make setup`"), "{error}");
    }
}
