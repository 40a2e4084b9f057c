//! Another threshold for a package that is there already. Only `model.json` says the threshold, so only that file is
//! written anew, at once or not at all, and the one before it is kept beside it as a way back.

use std::io;
use std::path::{Path, PathBuf};

use linewarden_model::ModelInfo;
use serde_json::Value;

const FILE: &str = "model.json";
const PREVIOUS: &str = "model.json.previous";
const BUILDING: &str = "model.json.building";

/// Why the threshold of a package cannot be changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// The package is no folder.
    #[error("`{0}` is no folder: unpack the archive to change its threshold")]
    NoFolder(PathBuf),
    /// There is nothing to go back to.
    #[error("`{0}` keeps no earlier threshold: there is no `{PREVIOUS}`")]
    NoPrevious(PathBuf),
    /// What was kept belongs to another model.
    #[error("`{PREVIOUS}` in `{0}` belongs to another `model.onnx`")]
    OtherModel(PathBuf),
    /// A file cannot be read or written.
    #[error("cannot change `{path}`: {error}")]
    Io {
        /// The package.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Gives the package another threshold, and its metrics a `threshold` that says where it is from.
///
/// # Errors
/// When the package is no folder, or a file cannot be written; then nothing is changed.
pub fn rewrite_threshold(folder: &Path, info: &ModelInfo, threshold: f64, origin: Value) -> Result<(), RewriteError> {
    let failed = |error: io::Error| RewriteError::Io { path: folder.to_owned(), error };
    if !folder.is_dir() {
        return Err(RewriteError::NoFolder(folder.to_owned()));
    }
    let mut info = info.clone();
    info.threshold = threshold;
    info.metrics.insert("threshold".to_owned(), origin);
    let text = serde_json::to_string_pretty(&info).map_err(|error| failed(error.into()))? + "\n";
    let (current, previous, building) = (folder.join(FILE), folder.join(PREVIOUS), folder.join(BUILDING));
    std::fs::copy(&current, &building).and_then(|_| std::fs::rename(&building, &previous)).map_err(failed)?;
    std::fs::write(&building, text).and_then(|()| std::fs::rename(&building, &current)).map_err(failed)
}

/// Takes back the last change of the threshold; done twice, it is there again. Returns the threshold from now on.
///
/// # Errors
/// When there is no earlier threshold of this model, or a file cannot be written.
pub fn restore_threshold(folder: &Path) -> Result<f64, RewriteError> {
    let failed = |error: io::Error| RewriteError::Io { path: folder.to_owned(), error };
    if !folder.is_dir() {
        return Err(RewriteError::NoFolder(folder.to_owned()));
    }
    let (current, previous, building) = (folder.join(FILE), folder.join(PREVIOUS), folder.join(BUILDING));
    if !previous.exists() {
        return Err(RewriteError::NoPrevious(folder.to_owned()));
    }
    let read = |path: &Path| -> Result<ModelInfo, RewriteError> {
        let text = std::fs::read(path).map_err(failed)?;
        serde_json::from_slice(&text).map_err(|error| failed(error.into()))
    };
    let (now, before) = (read(&current)?, read(&previous)?);
    if now.onnx_sha256 != before.onnx_sha256 {
        return Err(RewriteError::OtherModel(folder.to_owned()));
    }
    // In this order `model.json` is there at every moment.
    std::fs::copy(&current, &building)
        .and_then(|_| std::fs::rename(&previous, &current))
        .and_then(|()| std::fs::rename(&building, &previous))
        .map_err(failed)?;
    Ok(before.threshold)
}
