//! `anomalydetect`: scores every frame with a model package and attaches what it found.
//!
//! Frames pass through unchanged (unless `overlay` asks for drawing) with the meta [`AnomalyMeta`](crate::meta::AnomalyMeta);
//! for each scored frame an element message named `anomaly` with the same fields is posted. Once a model is loaded, the
//! element message `anomalydetect-device` says on which `device` it runs and, in `passed-over`, which better ones did not
//! load and why.
//!
//! ```text
//! gst-launch-1.0 -m videotestsrc num-buffers=10 ! video/x-raw,width=640,height=480 ! anomalydetect model=MODEL_DIR ! fakesink
//! ```
//!
//! | property | default | meaning |
//! |---|---|---|
//! | `model` | | folder or `.tar` of the model package; may be set while frames flow |
//! | `device` | `auto` | `auto` (the best that loads), `cpu`, `cuda`, `tensorrt`, `openvino`: a named one or an error |
//! | `device-id` | 0 | which of several devices |
//! | `threads` | 1 | threads within one inference |
//! | `batch` | 0 | how many frames of elements with the same model run together; 1: none, 0: 8 on CUDA and TensorRT, else 1 |
//! | `interval` | 1 | score every Nth frame; the others pass without meta |
//! | `roi` | | `x,y,w,h`: score this part of the visible picture only |
//! | `scale` | false | scale pictures of another size than the model was trained on, instead of refusing them |
//! | `overlay` | `none` | `mask` draws tint and contours, `full` the verdict too |
//! | `qos` | true | frames that a sink already calls late pass without being scored |
//! | `metrics-address` | | `port` or `address:port` of a Prometheus endpoint; empty: none |
//! | `stats` | | read-only: counters, times in ms, the device and those passed over; `shared` with `batch` |
//!
//! **Several cameras.** Elements of one process with the same `model`, `device`, `device-id`, `threads` and `batch` above 1
//! have one loaded graph between them. A frame that finds it idle is scored at once; what comes meanwhile goes through it
//! together, up to `batch` frames (or tiles of frames) in a run. Nobody waits for company, and each frame has the score, and
//! the error, that it has alone. Caps, `roi`, `scale` and whatever else an element cuts frames by may differ. Stopping or
//! flushing an element ends its frame's wait at once. In `stats`, `shared` tells how many `elements` share the graph, and how
//! many `views` of theirs it scored in how many `runs`; the time of `inference` includes the wait.
//!
//! **Another model while frames flow.** Setting `model` on a running element, or the action signal `swap-model(path)`, loads
//! and tests the package beside the running model, on a thread of its own, and lets it take over between two frames: no
//! frame is lost, none waits, and each names the model that scored it. The element message `model-swapped` (`model`,
//! `project`, `version`, `sha256`, `replaced-version`, `replaced-sha256`) comes then, and the property follows. The model
//! before stays loaded: `rollback-model` goes back to it, between two frames too, and once more is forward again. What does
//! not load, is for pictures of another size (unless `scale`) or fails its golden pictures changes nothing: the message
//! `model-swap-failed` (`model`, `reason`) and a warning say why. At most two models are in memory: the one kept for the way
//! back is let go before a third is loaded, and read again should it be wanted. Both actions tell whether something was
//! begun; one change at a time. `stats` has `model`, `model-version`, `model-sha256`, `model-before`, `model-swaps`,
//! `model-swap-failures` and `model-swap-error`.
//!
//! **Size.** What is compared with the size of the training pictures is the scored region as it is shown: `roi` or the
//! whole picture, its width multiplied by the pixel aspect ratio. Another size is an error when caps are set.
//! `GstVideoCropMeta` is honoured frame by frame.
//!
//! **Late frames.** With `qos`, a frame whose time has passed by the last QOS event is not scored, but handed on without
//! meta and counted as `dropped-late`; a QOS message tells of it. Whoever decides by the meta must treat a frame without
//! one as unknown.
//!
//! **Broken frames.** A frame that cannot be scored passes without meta, with a warning and counted in `errors`; after 30
//! in a row the element gives up with an error.
//!
//! **Capture time.** In a live pipeline it is computed from the frame's running time and the pipeline's clock, else it is
//! the moment in which the frame arrived.
//!
//! **Latency.** The answer to the LATENCY query is upstream's plus what nearly all of the last detections took; when that
//! changes much, a LATENCY message asks the application to distribute it again.

use std::path::{Path, PathBuf};

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;

mod imp;
mod scorer;
mod swap;

pub use imp::Prepared;
pub use scorer::{ScoreError, Scorer};
pub use swap::SwapError;

glib::wrapper! {
    /// The element.
    pub struct AnomalyDetect(ObjectSubclass<imp::AnomalyDetect>)
        @extends gst_base::BaseTransform, gst::Element, gst::Object;
}

impl AnomalyDetect {
    /// Loads and tests a model beside the running one, on the caller's thread. What comes of it takes over with
    /// [`Prepared::switch`], so that several elements can change together or not at all.
    ///
    /// # Errors
    /// When the model does not load, fails its golden pictures or is for another size; nothing has changed then.
    pub fn prepare_model(&self, path: &Path) -> Result<Prepared, SwapError> {
        self.imp().prepare(path)
    }

    /// Whether going back to this package takes no loading.
    pub fn model_before_is_loaded(&self, path: &Path) -> bool {
        self.imp().has_loaded_before(path)
    }

    /// Goes back to the model before the running one, between two frames. Gives its path when it is no longer loaded and
    /// has to be prepared.
    ///
    /// # Errors
    /// When there was no model before, or another change is under way.
    pub fn go_back(&self) -> Result<Option<PathBuf>, SwapError> {
        self.imp().go_back()
    }
}

/// What is drawn onto the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "LinewardenAnomalyOverlay")]
pub enum Overlay {
    /// Nothing.
    #[default]
    #[enum_value(name = "nothing is drawn", nick = "none")]
    None,
    /// Tint and contours of the anomalies.
    #[enum_value(name = "tint and contours of the anomalies", nick = "mask")]
    Mask,
    /// The same and the verdict as text.
    #[enum_value(name = "tint, contours and the verdict as text", nick = "full")]
    Full,
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[enum_type(name = "LinewardenDevice")]
pub enum Device {
    /// The best that loads.
    #[default]
    #[enum_value(name = "the best that loads", nick = "auto")]
    Auto,
    /// The processor.
    #[enum_value(name = "the processor", nick = "cpu")]
    Cpu,
    /// NVIDIA GPU through CUDA.
    #[enum_value(name = "NVIDIA GPU through CUDA", nick = "cuda")]
    Cuda,
    /// NVIDIA GPU through TensorRT.
    #[enum_value(name = "NVIDIA GPU through TensorRT", nick = "tensorrt")]
    TensorRt,
    /// Intel processors and GPUs through OpenVINO.
    #[enum_value(name = "Intel processors and GPUs through OpenVINO", nick = "openvino")]
    OpenVino,
}

impl From<Device> for linewarden_model::DeviceRequest {
    fn from(device: Device) -> Self {
        match device {
            Device::Auto => Self::Auto,
            Device::Cpu => Self::Only(linewarden_model::Device::Cpu),
            Device::Cuda => Self::Only(linewarden_model::Device::Cuda),
            Device::TensorRt => Self::Only(linewarden_model::Device::TensorRt),
            Device::OpenVino => Self::Only(linewarden_model::Device::OpenVino),
        }
    }
}

pub(crate) fn register(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    gst::Element::register(Some(plugin), "anomalydetect", gst::Rank::NONE, AnomalyDetect::static_type())
}
