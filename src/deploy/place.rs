//! The folder of models: one package exchanged for another so that there is always one, and the earlier one kept.
//!
//! A component is the folder `NAME` or the archive `NAME.tar`. The one before it lies beside it as `.NAME.previous`, with the
//! same ending; the agent takes no name that begins with a dot for a component.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use linewarden_core::ModelRef;
use linewarden_model::package::Package;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::cli::CallError;
use crate::packages::remove;

/// A package that was put in its place.
#[derive(Debug)]
pub(super) struct Placed {
    models: PathBuf,
    name: String,
    /// What was there.
    pub(super) replaced: Option<ModelRef>,
}

impl Placed {
    /// As it was before.
    pub(super) fn undo(&self) -> anyhow::Result<()> {
        if of(&self.models, &previous(&self.name)).is_some() {
            return exchange(&self.models, &self.name);
        }
        fs::remove_dir_all(self.models.join(&self.name))?;
        Ok(())
    }
}

/// The component's folder or archive.
pub(super) fn of(models: &Path, name: &str) -> Option<PathBuf> {
    [models.join(name), models.join(format!("{name}.tar"))].into_iter().find(|path| path.exists())
}

/// Writes a package beside the one that is there, and exchanges them when it is whole on the disk.
pub(super) fn put(models: &Path, name: &str, package: &Package) -> io::Result<Placed> {
    let replaced = of(models, name).and_then(|path| super::model_at(&path));
    let (new, kept) = (models.join(format!(".{name}.new")), models.join(previous(name)));
    remove(&new)?;
    fs::create_dir(&new)?;
    package.write_to(&new)?;
    sync_all(&new)?;
    // What was kept goes only now: until here a full disk changes nothing.
    remove(&kept)?;
    remove(&kept.with_file_name(format!("{}.tar", previous(name))))?;
    fs::rename(&new, &kept)?;
    exchange(models, name).map_err(io::Error::other)?;
    Ok(Placed { models: models.to_owned(), name: name.to_owned(), replaced })
}

/// The component and the one before it change places. A component that is new just takes its place.
pub(super) fn exchange(models: &Path, name: &str) -> anyhow::Result<()> {
    let kept_name = previous(name);
    let Some(kept) = of(models, &kept_name) else {
        let told = format!("there is no earlier `{name}` in `{}`", models.display());
        return Err(CallError(told).into());
    };
    let place_of = |stem: &str, path: &Path| {
        if path.is_dir() { models.join(stem) } else { models.join(format!("{stem}.tar")) }
    };
    let wanted = place_of(name, &kept);
    match of(models, name) {
        Some(current) if current == wanted => {
            // At once: nobody finds neither.
            renameat_with(CWD, &kept, CWD, &current, RenameFlags::EXCHANGE).map_err(io::Error::from)?;
        }
        Some(current) => {
            fs::rename(&kept, &wanted)?;
            fs::rename(&current, place_of(&kept_name, &current))?;
        }
        None => fs::rename(&kept, &wanted)?,
    }
    File::open(models)?.sync_all()?;
    Ok(())
}

fn previous(name: &str) -> String {
    format!(".{name}.previous")
}

fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn folders_and_archives_change_places_and_back() {
        let models = tempfile::tempdir().unwrap();
        let at = |name: &str| models.path().join(name);
        let folder = |name: &str, told: &str| {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("model.json"), told).unwrap();
        };
        assert!(exchange(models.path(), "cap").unwrap_err().to_string().contains("no earlier `cap`"));
        folder("cap", "first");
        folder(".cap.previous", "second");
        exchange(models.path(), "cap").unwrap();
        assert_eq!(
            (text(&at("cap/model.json")), text(&at(".cap.previous/model.json"))),
            ("second".into(), "first".into())
        );
        // An archive in the place of a folder, and the folder again.
        fs::remove_dir_all(at(".cap.previous")).unwrap();
        fs::write(at(".cap.previous.tar"), "archive").unwrap();
        exchange(models.path(), "cap").unwrap();
        assert_eq!(of(models.path(), "cap"), Some(at("cap.tar")));
        assert_eq!((text(&at("cap.tar")), text(&at(".cap.previous/model.json"))), ("archive".into(), "second".into()));
        exchange(models.path(), "cap").unwrap();
        assert_eq!(of(models.path(), "cap"), Some(at("cap")));
        assert_eq!(text(&at(".cap.previous.tar")), "archive");
    }
}
