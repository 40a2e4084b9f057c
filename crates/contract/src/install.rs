//! Gives the service model to clients that no longer carry it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::Contract;
use crate::model::{PAGINATORS, SERVICE};

const SERVICE_FOLDER: &str = "lookoutvision";

/// Why the model was not laid or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Somebody else laid that file.
    #[error("cannot touch `{0}`: it was not laid by linewarden")]
    NotOurs(PathBuf),
    /// The file system refused.
    #[error("cannot work on `{path}`: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Where botocore, boto3 and the AWS CLI look first: the first folder of `AWS_DATA_PATH`, else `~/.aws/models`.
#[must_use]
pub fn default_folder() -> Option<PathBuf> {
    folder_by(|variable| std::env::var_os(variable))
}

fn folder_by(environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let home = || environment("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let listed = environment("AWS_DATA_PATH").unwrap_or_default();
    let first = std::env::split_paths(&listed).find(|folder| !folder.as_os_str().is_empty());
    match first {
        // botocore reads the tilde too.
        Some(folder) => match folder.strip_prefix("~") {
            Ok(below_home) => Some(home()?.join(below_home)),
            Err(_) => Some(folder),
        },
        None => Some(home()?.join(".aws/models")),
    }
}

/// Lays the model below a folder, for example [`default_folder`], and says which files those are. Files of ours are
/// renewed; others' are left alone unless `replace` is set.
///
/// # Errors
/// When a file is there that is not ours, or cannot be written. Nothing is written before all are looked at.
pub fn install(folder: &Path, replace: bool) -> Result<Vec<PathBuf>, InstallError> {
    let folder = folder.join(SERVICE_FOLDER).join(Contract::get().api_version());
    let files = files(&folder);
    for (path, _) in &files {
        if !replace && whose(path)? == Owner::Other {
            return Err(InstallError::NotOurs(path.clone()));
        }
    }
    fs::create_dir_all(&folder).map_err(|source| InstallError::Io { path: folder.clone(), source })?;
    let mut laid = Vec::new();
    for (path, content) in files {
        write_whole(&path, content).map_err(|source| InstallError::Io { path: path.clone(), source })?;
        laid.push(path);
    }
    Ok(laid)
}

/// Takes away what [`install`] laid below a folder, and says which files those were.
///
/// # Errors
/// When a file is there that is not ours, or cannot be removed. Nothing is removed before all are looked at.
pub fn remove(folder: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let service = folder.join(SERVICE_FOLDER);
    let version = service.join(Contract::get().api_version());
    let mut ours = Vec::new();
    for (path, _) in files(&version) {
        match whose(&path)? {
            Owner::Nobody => {}
            Owner::Us => ours.push(path),
            Owner::Other => return Err(InstallError::NotOurs(path)),
        }
    }
    for path in &ours {
        fs::remove_file(path).map_err(|source| InstallError::Io { path: path.clone(), source })?;
    }
    for folder in [version, service] {
        // A folder that others use too stays: it is not empty.
        let _ = fs::remove_dir(folder);
    }
    Ok(ours)
}

fn files(folder: &Path) -> [(PathBuf, &'static str); 2] {
    [(folder.join("service-2.json"), SERVICE), (folder.join("paginators-1.json"), PAGINATORS)]
}

#[derive(PartialEq, Eq)]
enum Owner {
    Nobody,
    Us,
    Other,
}

/// Told by a member that clients pass over, so that an older version of ours is known again.
fn whose(path: &Path) -> Result<Owner, InstallError> {
    let written = match fs::read(path) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(source) => return Err(InstallError::Io { path: path.to_owned(), source }),
    };
    let document: serde_json::Value = serde_json::from_slice(&written).unwrap_or_default();
    Ok(if document["madeBy"] == "linewarden" { Owner::Us } else { Owner::Other })
}

/// A client that reads meanwhile finds the old file or the new one.
fn write_whole(path: &Path, content: &str) -> io::Result<()> {
    let scratch = path.with_extension(format!("{}.part", std::process::id()));
    let written = write_new(&scratch, content).and_then(|()| fs::rename(&scratch, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&scratch);
    }
    written
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(data_path: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
        folder_by(|variable| if variable == "HOME" { home } else { data_path }.map(OsString::from))
    }

    #[test]
    fn the_first_folder_of_the_clients_path_is_taken_else_the_one_below_home() {
        let cases = [
            (Some("/a:/b"), Some("/home/u"), Some("/a")),
            (Some(":/b"), None, Some("/b")),
            (Some("~/models:/b"), Some("/home/u"), Some("/home/u/models")),
            (Some("~/models"), None, None),
            (Some(""), Some("/home/u"), Some("/home/u/.aws/models")),
            (None, Some("/home/u"), Some("/home/u/.aws/models")),
            (None, Some(""), None),
        ];
        for (data_path, home, expected) in cases {
            assert_eq!(folder(data_path, home), expected.map(PathBuf::from), "{data_path:?} {home:?}");
        }
    }
}
