//! ONNX Runtime's library: where it is, and the one environment of this process.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::error::ModelError;

/// Environment variable that names another ONNX Runtime library than the one `make setup` laid.
pub const LIBRARY_VARIABLE: &str = "LINEWARDEN_ONNXRUNTIME";

/// Environment variable that names another data folder than the user's own.
pub const DATA_VARIABLE: &str = "LINEWARDEN_DATA_DIR";

/// The per-user folder into which `make setup` lays the library and the weights.
pub fn data_dir() -> PathBuf {
    if let Some(dir) = non_empty(DATA_VARIABLE) {
        return dir;
    }
    if let Some(dir) = non_empty("XDG_DATA_HOME") {
        return dir.join("linewarden");
    }
    non_empty("HOME").unwrap_or_default().join(".local/share/linewarden")
}

/// The library that will be loaded.
pub fn library_path() -> PathBuf {
    non_empty(LIBRARY_VARIABLE).unwrap_or_else(|| data_dir().join("onnxruntime/libonnxruntime.so"))
}

/// The process's only ONNX Runtime environment, made at the first call.
///
/// # Errors
/// When the library is missing, too old, or no ONNX Runtime. A later call tries again.
pub fn environment() -> Result<&'static Environment, ModelError> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    static FIRST_CALL: Mutex<()> = Mutex::new(());

    // Only the first callers queue here; ONNX Runtime allows one environment in a process.
    let _first = FIRST_CALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let path = library_path();
    let failed = |reason: String| ModelError::Runtime { path: path.clone(), reason };
    if !path.is_file() {
        return Err(failed("there is no such file".to_owned()));
    }
    let builder = ort::init_from(&path).map_err(|error| failed(error.to_string()))?;
    let environment =
        builder.with_name("linewarden").with_telemetry(false).build().map_err(|error| failed(error.to_string()))?;
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// A session builder with the settings that every session here has: `threads` workers within an operator, none of them
/// spinning, and all graph optimisations.
///
/// # Errors
/// When the library does not load or refuses a setting.
pub fn session_builder(threads: usize) -> Result<SessionBuilder, ModelError> {
    let refused = |error: ort::Error<SessionBuilder>| ModelError::Inference(error.to_string());
    Session::builder(environment()?)
        .map_err(|error| ModelError::Inference(error.to_string()))?
        .with_intra_threads(threads.max(1))
        .map_err(refused)?
        .with_intra_op_spinning(false)
        .map_err(refused)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(refused)
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}
