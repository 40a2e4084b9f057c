//! From a picture to a result: the model package, pre-processing, the ONNX Runtime session, post-processing and the
//! overlay. The trainer, the command line, the elements and the services all score through this crate, so that one
//! picture has one score.
//!
//! A [`FrameView`] comes in, a [`Detection`] goes out. This crate knows nothing of GStreamer, MQTT or configuration.

mod detector;
mod device;
mod engine;
mod error;
mod frame;
mod framing;
pub mod glance;
mod map;
pub mod memory;
pub mod overlay;
pub mod package;
mod preprocess;
mod register;
pub mod runtime;
mod scale;
mod shared;
mod tiles;

pub use detector::{Batch, Detection, Detector, DetectorOptions, SizePolicy, StageTimes};
pub use device::{Device, DeviceChoice, DeviceRequest};
pub use error::ModelError;
pub use frame::{FrameError, FrameView, PixelFormat, Plane, Rect, YuvColor, YuvMatrix};
pub use framing::{Framer, Framing, FramingFiles, IGNORED_GREY, IgnoreMask, PackageFile, Placement, small_grey};
pub use map::{AnomalyMap, LabelMask, label_mask};
pub use package::{Label, ModelInfo, ModelType};
pub use preprocess::Preprocessor;
pub use register::{Grey, Pose, Range, Registration, reference_of};
pub use shared::{Sharing, SharingStats};
pub use tiles::{MOST_OVERLAP, MOST_TILES_A_SIDE, TileGrid};
