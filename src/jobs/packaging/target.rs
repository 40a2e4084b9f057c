//! What a packaging job's target and compiler options mean: the provider that runs the model, and its number format.
//!
//! The old service compiled for one GPU with one version of TensorRT and CUDA. ONNX Runtime's providers need no such thing, so
//! these options only say that there is a GPU, and whether TensorRT is there. `provider`, `precision` and `bound` are our own.

use linewarden_model::DeviceRequest;
use linewarden_train::precision::USUAL_BOUND;
use serde_json::{Map, Value};

/// How a component is built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// As `device` of the agent's configuration has it.
    pub(super) device: String,
    pub(super) precision: Precision,
    /// How far the precision may move a score.
    pub(super) bound: f64,
    /// As recipes name it.
    pub(super) architecture: &'static str,
    /// Compiler options that mean nothing here.
    pub(super) ignored: Vec<String>,
}

/// The number format of the feature network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precision {
    /// As trained.
    Float32,
    /// Real numbers of 16 bits.
    Float16,
    /// Whole numbers of 8 bits.
    Int8,
}

impl Precision {
    /// As `linewarden optimize --format` takes it; `None` for what needs no other model.
    pub(super) fn format(self) -> Option<&'static str> {
        match self {
            Self::Float32 => None,
            Self::Float16 => Some("float16"),
            Self::Int8 => Some("int8"),
        }
    }
}

impl Target {
    /// Of the `Greengrass` member of a configuration.
    ///
    /// # Errors
    /// Says what of it is wrong, and what is allowed.
    pub(crate) fn of(greengrass: &Value) -> Result<Self, String> {
        let text = |place: &str| greengrass.pointer(place).and_then(Value::as_str);
        let is_device = text("/TargetDevice").is_some();
        if is_device == greengrass.get("TargetPlatform").is_some() {
            return Err("Greengrass must have one of TargetDevice and TargetPlatform.".to_owned());
        }
        let architecture = match text("/TargetPlatform/Arch") {
            Some("X86_64") => "amd64",
            _ => "aarch64",
        };
        let options = options_of(text("/CompilerOptions"))?;
        let option = |name: &str| {
            let found = options.iter().find(|(key, _)| key.replace('_', "-") == name);
            found.map(|(key, value)| (key.as_str(), value.as_str()))
        };
        let has_gpu = is_device || text("/TargetPlatform/Accelerator").is_some() || option("gpu-code").is_some();
        let device = match option("provider") {
            Some((_, name)) => provider(name)?,
            // TensorRT is there, or nobody would say which.
            None if option("trt-ver").is_some() => "tensorrt",
            // It needs no engine that is built beforehand.
            None if has_gpu => "cuda",
            None => "cpu",
        };
        let precision = match option("precision").map(|(_, name)| name) {
            None | Some("fp32" | "float32") => Precision::Float32,
            Some("fp16" | "float16") => Precision::Float16,
            Some("int8") => Precision::Int8,
            Some(other) => {
                return Err(format!("precision of CompilerOptions must be fp32, fp16 or int8, and is {other}."));
            }
        };
        let bound = match option("bound").map(|(_, bound)| bound) {
            None => USUAL_BOUND,
            Some(text) => text.parse().ok().filter(|&bound: &f64| bound > 0.0 && bound < 1.0).ok_or_else(|| {
                format!("bound of CompilerOptions must be a number above 0 and below 1, such as 0.02, and is {text}.")
            })?,
        };
        if (device, precision) == ("cuda", Precision::Int8) {
            return Err(
                "precision int8 of CompilerOptions needs the provider cpu, tensorrt or openvino: CUDA computes it \
                        with 32-bit numbers."
                    .to_owned(),
            );
        }
        let known = ["gpu-code", "trt-ver", "cuda-ver", "provider", "precision", "bound"];
        let ignored = options.iter().map(|(key, _)| key).filter(|key| !known.contains(&key.replace('_', "-").as_str()));
        Ok(Self { device: device.to_owned(), precision, bound, architecture, ignored: ignored.cloned().collect() })
    }
}

fn provider(name: &str) -> Result<&str, String> {
    match name.parse::<DeviceRequest>() {
        Ok(_) => Ok(name),
        Err(_) => {
            Err(format!("provider of CompilerOptions must be auto, cpu, cuda, tensorrt or openvino, and is {name}."))
        }
    }
}

fn options_of(text: Option<&str>) -> Result<Vec<(String, String)>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let wrong = || {
        "CompilerOptions must be a JSON object of texts, such as {\"gpu-code\": \"sm_75\", \"trt-ver\": \"8.2.1\", \
         \"cuda-ver\": \"11.2\"}."
            .to_owned()
    };
    let options: Map<String, Value> = serde_json::from_str(text).map_err(|_| wrong())?;
    let pair = |(key, value): (String, Value)| Some((key, value.as_str()?.to_owned()));
    options.into_iter().map(pair).collect::<Option<_>>().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(platform: &Value, options: &str) -> Result<(String, Precision, Vec<String>), String> {
        let mut greengrass = platform.clone();
        if !options.is_empty() {
            greengrass["CompilerOptions"] = options.into();
        }
        Target::of(&greengrass).map(|target| (target.device, target.precision, target.ignored))
    }

    #[test]
    fn options_decide_provider_and_precision() {
        let gpu = json!({ "TargetPlatform": { "Os": "LINUX", "Arch": "X86_64", "Accelerator": "NVIDIA" } });
        let cpu = json!({ "TargetPlatform": { "Os": "LINUX", "Arch": "ARM64" } });
        let jetson = json!({ "TargetDevice": "jetson_xavier" });
        use Precision::{Float16, Float32, Int8};
        let guides = r#"{"gpu-code": "sm_75", "trt-ver": "7.1.3", "cuda-ver": "10.2"}"#;
        for (platform, options, device, precision, ignored) in [
            (&jetson, "", "cuda", Float32, vec![]),
            (&gpu, "", "cuda", Float32, vec![]),
            (&cpu, "", "cpu", Float32, vec![]),
            (&gpu, guides, "tensorrt", Float32, vec![]),
            // The guide's own example of the command line has names of its own.
            (&gpu, r#"{"sm_75": "sm_75", "trt-ver": "7.1.3", "cuda-ver": "10.2"}"#, "tensorrt", Float32, vec!["sm_75"]),
            (&gpu, r#"{"gpu_code": "sm_80", "trt_ver": "8.2.0"}"#, "tensorrt", Float32, vec![]),
            (&cpu, r#"{"gpu-code": "sm_72"}"#, "cuda", Float32, vec![]),
            (&gpu, r#"{"precision": "fp16"}"#, "cuda", Float16, vec![]),
            (&gpu, r#"{"trt-ver": "8.2.1", "precision": "int8"}"#, "tensorrt", Int8, vec![]),
            (&cpu, r#"{"provider": "openvino", "precision": "int8"}"#, "openvino", Int8, vec![]),
            (&cpu, r#"{"precision": "fp32", "provider": "auto"}"#, "auto", Float32, vec![]),
            (&cpu, "{}", "cpu", Float32, vec![]),
        ] {
            let ignored: Vec<String> = ignored.into_iter().map(str::to_owned).collect();
            assert_eq!(of(platform, options), Ok((device.to_owned(), precision, ignored)), "{platform} {options}");
        }
        for (platform, options, told) in [
            (&json!({}), "", "one of TargetDevice and TargetPlatform"),
            (&json!({ "TargetDevice": "jetson_xavier", "TargetPlatform": {} }), "", "one of TargetDevice"),
            (&gpu, "trt", "must be a JSON object of texts"),
            (&gpu, r#"["trt-ver"]"#, "must be a JSON object of texts"),
            (&gpu, r#"{"trt-ver": 8}"#, "must be a JSON object of texts"),
            (&gpu, r#"{"precision": "fp8"}"#, "fp32, fp16 or int8, and is fp8"),
            (&gpu, r#"{"precision": "int8"}"#, "needs the provider cpu, tensorrt or openvino"),
            (&gpu, r#"{"provider": "tpu"}"#, "and is tpu"),
            (&gpu, r#"{"precision": "fp16", "bound": "1"}"#, "above 0 and below 1, such as 0.02, and is 1"),
        ] {
            let refused = of(platform, options).unwrap_err();
            assert!(refused.contains(told), "{platform} {options}: {refused}");
        }
        let with_bound = json!({ "TargetDevice": "jetson_xavier", "CompilerOptions": r#"{"bound": "0.05"}"# });
        assert_eq!(Target::of(&with_bound).map(|target| (target.bound, target.ignored)), Ok((0.05, vec![])));
        assert_eq!(Target::of(&jetson).unwrap().architecture, "aarch64");
        assert_eq!(Target::of(&gpu).unwrap().architecture, "amd64");
    }
}
