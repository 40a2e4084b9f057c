//! Trained packages at rest: each a folder as training wrote it or, where there is a key for it, one encrypted file.
//!
//! An encrypted package is read into memory of this process, from where it is opened by a path as any other is: it never lies
//! on a disk in the clear.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use linewarden_objects::{Vault, seal, unseal};
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

const SEALED: &str = "sealed";

/// Where packages lie: `PROJECT/VERSION`, or `PROJECT/VERSION.sealed`.
#[derive(Debug, Clone)]
pub(crate) struct Packages {
    folder: PathBuf,
    vault: Vault,
}

/// A package that can be read from its path as long as this, or a clone of it, is held.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    path: PathBuf,
    /// Of an encrypted one: its content.
    _memory: Option<Arc<File>>,
}

impl Opened {
    /// A package that lies in the clear.
    pub(crate) fn plain(path: PathBuf) -> Self {
        Self { path, _memory: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Packages {
    pub(crate) fn new(folder: PathBuf, vault: Vault) -> Self {
        Self { folder, vault }
    }

    /// Where the package lies when it lies in the clear; what it is known by in either case.
    pub(crate) fn place(&self, project: &str, version: u64) -> PathBuf {
        self.folder.join(project).join(version.to_string())
    }

    fn sealed(&self, project: &str, version: u64) -> PathBuf {
        self.place(project, version).with_added_extension(SEALED)
    }

    /// Whether there is such a package.
    pub(crate) fn has(&self, project: &str, version: u64) -> bool {
        self.place(project, version).exists() || self.sealed(project, version).exists()
    }

    /// Moves a finished package to its place, whole or not at all; encrypted when a key is named, or there is a default one.
    /// Blocks.
    pub(crate) fn keep(&self, from: &Path, project: &str, version: u64, key: Option<&str>) -> anyhow::Result<()> {
        let (plain, sealed) = (self.place(project, version), self.sealed(project, version));
        let parent = self.folder.join(project);
        fs::create_dir_all(&parent)?;
        // What a process that was killed left half done.
        remove(&plain)?;
        if key.or(self.vault.default_key()).is_some() {
            seal(&self.vault, key, &sealed, |out| {
                let mut archive = tar::Builder::new(out);
                archive.append_dir_all(".", from)?;
                archive.finish()
            })?;
            return Ok(remove(from)?);
        }
        remove(&sealed)?;
        fs::rename(from, &plain)?;
        Ok(File::open(&parent)?.sync_all()?)
    }

    /// Makes a package readable. Blocks.
    pub(crate) fn open(&self, project: &str, version: u64) -> anyhow::Result<Opened> {
        let (plain, sealed) = (self.place(project, version), self.sealed(project, version));
        if !sealed.exists() {
            return Ok(Opened::plain(plain));
        }
        let name = CString::new(memory_name(&plain))?;
        let memory = memfd_create(name.as_c_str(), MemfdFlags::CLOEXEC).context("cannot read a package into memory")?;
        let mut memory = File::from(memory);
        unseal(&self.vault, &sealed, &mut memory)?;
        // By the process's number, so that a process that it starts can read it, too.
        let path = format!("/proc/{}/fd/{}", std::process::id(), memory.as_raw_fd());
        Ok(Opened { path: path.into(), _memory: Some(Arc::new(memory)) })
    }

    /// Removes a package, if it is there.
    pub(crate) fn remove(&self, project: &str, version: u64) -> io::Result<()> {
        remove(&self.place(project, version))?;
        remove(&self.sealed(project, version))
    }
}

/// Whether a package that was opened from this path is the one that is known by this place.
pub(crate) fn is_of(path: &Path, place: &Path) -> bool {
    // A path may be written in several ways; one that is not there is nobody's.
    let is_same = || Some(path.canonicalize().ok()? == place.canonicalize().ok()?);
    let link = fs::read_link(path);
    let is_in_memory = link.is_ok_and(|link| link.to_string_lossy().contains(&memory_name(place)));
    is_in_memory || is_same().unwrap_or(false)
}

/// What the system calls the memory of a package, short enough for it.
fn memory_name(place: &Path) -> String {
    let place = std::path::absolute(place).unwrap_or_else(|_| place.to_owned());
    let digest = Sha256::digest(place.as_os_str().as_bytes());
    format!("linewarden-{digest:x}")
}

/// Removes a folder or a file, if it is there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn package(folder: &Path, told: &str) -> PathBuf {
        let package = folder.join("new");
        fs::create_dir_all(package.join("golden")).unwrap();
        fs::write(package.join("model.json"), told).unwrap();
        package
    }

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_package_lies_encrypted_where_there_is_a_key_and_is_read_from_memory() {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        let vault = Vault::load(None, Some(&format!("line-1={DIGITS}")), None).unwrap();
        let packages = Packages::new(models.clone(), vault.clone());
        packages.keep(&package(folder.path(), "in the clear"), "cap", 1, None).unwrap();
        packages.keep(&package(folder.path(), "a secret"), "cap", 2, Some("line-1")).unwrap();
        assert_eq!(files(&models.join("cap")), ["1", "2.sealed"]);
        assert!(packages.has("cap", 1) && packages.has("cap", 2) && !packages.has("cap", 3));
        let opened = packages.open("cap", 1).unwrap();
        assert_eq!(opened.path(), packages.place("cap", 1));
        let opened = packages.open("cap", 2).unwrap();
        let mut archive = tar::Archive::new(File::open(opened.path()).unwrap());
        let names: Vec<String> =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
        assert!(names.iter().any(|name| name.ends_with("model.json")), "{names:?}");
        assert!(is_of(opened.path(), &packages.place("cap", 2)) && !is_of(opened.path(), &packages.place("cap", 1)));
        assert!(is_of(&models.join("cap/../cap/1"), &packages.place("cap", 1)));

        // With a default key all are.
        let vault = Vault::load(None, Some(&format!("line-1={DIGITS}")), Some("line-1")).unwrap();
        let packages = Packages::new(models.clone(), vault);
        packages.keep(&package(folder.path(), "again"), "cap", 1, None).unwrap();
        assert_eq!(files(&models.join("cap")), ["1.sealed", "2.sealed"]);
        packages.remove("cap", 1).unwrap();
        packages.remove("cap", 1).unwrap();
        assert_eq!(files(&models.join("cap")), ["2.sealed"]);
        let without = Packages::new(models, Vault::plain());
        assert!(without.open("cap", 2).unwrap_err().to_string().contains("line-1"));
    }
}
