//! Which processor runs the model: asked for, tried in order, and told.

use std::fmt;
use std::str::FromStr;

use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::builder::SessionBuilder;

use crate::error::ModelError;

/// A processor that ONNX Runtime can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// The processor, always there.
    Cpu,
    /// NVIDIA GPU through CUDA.
    Cuda,
    /// NVIDIA GPU through TensorRT.
    TensorRt,
    /// Intel processors and GPUs through OpenVINO.
    OpenVino,
}

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeviceRequest {
    /// The best that loads.
    #[default]
    Auto,
    /// This one or an error.
    Only(Device),
}

/// What is used, and what was tried before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChoice {
    /// The device in use.
    pub device: Device,
    /// Devices that `auto` tried first, each with the reason why it did not load.
    pub passed_over: Vec<(Device, String)>,
}

impl Device {
    /// The name used in properties and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
            Self::OpenVino => "openvino",
        }
    }

    fn is_available(self) -> Result<bool, ort::Error> {
        match self {
            Self::Cpu => Ok(true),
            Self::Cuda => ep::CUDA::is_available(),
            Self::TensorRt => ep::TensorRT::is_available(),
            Self::OpenVino => ep::OpenVINO::is_available(),
        }
    }

    /// `None` for the CPU, which needs no provider of its own.
    fn provider(self, device_id: u32, threads: usize) -> Option<ExecutionProviderDispatch> {
        // Device ids are small; one that does not fit is refused by the provider.
        let id = i32::try_from(device_id).unwrap_or(i32::MAX);
        match self {
            Self::Cpu => None,
            Self::Cuda => Some(ep::CUDA::default().with_device_id(id).build().error_on_failure()),
            Self::TensorRt => Some(ep::TensorRT::default().with_device_id(id).build().error_on_failure()),
            Self::OpenVino => {
                let target = if device_id == 0 { "CPU".to_owned() } else { format!("GPU.{}", device_id - 1) };
                let provider = ep::OpenVINO::default().with_device_type(target).with_num_threads(threads.max(1));
                Some(provider.build().error_on_failure())
            }
        }
    }

    /// Adds this device to a session that is being built.
    pub(crate) fn register(
        self,
        builder: SessionBuilder,
        device_id: u32,
        threads: usize,
    ) -> Result<SessionBuilder, String> {
        if !self.is_available().map_err(|error| error.to_string())? {
            return Err(format!("this ONNX Runtime library was built without the {self} provider"));
        }
        match self.provider(device_id, threads) {
            None => Ok(builder),
            Some(provider) => builder.with_execution_providers([provider]).map_err(|error| error.to_string()),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl DeviceRequest {
    /// The devices to try, best first.
    pub(crate) fn candidates(self) -> Vec<Device> {
        match self {
            Self::Auto => vec![Device::TensorRt, Device::Cuda, Device::OpenVino, Device::Cpu],
            Self::Only(device) => vec![device],
        }
    }
}

impl FromStr for DeviceRequest {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Only(Device::Cpu)),
            "cuda" => Ok(Self::Only(Device::Cuda)),
            "tensorrt" => Ok(Self::Only(Device::TensorRt)),
            "openvino" => Ok(Self::Only(Device::OpenVino)),
            other => Err(ModelError::UnknownDevice(other.to_owned())),
        }
    }
}
