//! What can go wrong between a model package and a result.

use std::path::PathBuf;

use crate::device::Device;
use crate::frame::FrameError;

/// Why a model cannot be loaded or a picture cannot be scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The ONNX Runtime library is missing or unusable.
    #[error("cannot load ONNX Runtime from `{path}`: {reason}; run `make setup`, or name another library in {variable}", variable = crate::runtime::LIBRARY_VARIABLE)]
    Runtime {
        /// Where it was looked for.
        path: PathBuf,
        /// What the loader said.
        reason: String,
    },
    /// A package is incomplete or broken.
    #[error("cannot use model package `{path}`: {reason}")]
    Package {
        /// The folder or archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A package scores its own golden picture differently from the machine that trained it.
    #[error(
        "model package `{path}` scores its golden picture `{file}` {got:.6} on {device}, but {expected:.6} was promised: refused"
    )]
    Golden {
        /// The package.
        path: PathBuf,
        /// The picture within the package.
        file: String,
        /// The device that ran it.
        device: Device,
        /// The score in the package.
        expected: f64,
        /// The score found here.
        got: f64,
    },
    /// A named device does not load.
    #[error("device `{device}` does not load: {reason}")]
    Device {
        /// The device asked for.
        device: Device,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A device that does not exist.
    #[error("unknown device `{0}`: allowed are auto, cpu, cuda, tensorrt, openvino")]
    UnknownDevice(String),
    /// The picture has another size than the training pictures.
    #[error(
        "the picture is {width_px}x{height_px} pixels, but the model was trained on {trained_width_px}x{trained_height_px}: \
         deliver that size, or allow scaling (`scale=true`, `--scale`)"
    )]
    Size {
        /// Width of the picture.
        width_px: u32,
        /// Height of the picture.
        height_px: u32,
        /// Width of the training pictures.
        trained_width_px: u32,
        /// Height of the training pictures.
        trained_height_px: u32,
    },
    /// The picture's planes do not fit its size.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The picture cannot be scaled to the model's input.
    #[error("cannot scale the picture: {0}")]
    Resize(String),
    /// Whoever wanted the score gave up waiting for the engine that detectors share.
    #[error("the detection was interrupted")]
    Interrupted,
    /// ONNX Runtime failed while running the model.
    #[error("cannot run the model: {0}")]
    Inference(String),
}
