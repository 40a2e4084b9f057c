//! Which buckets of a folder have versions, and where the earlier ones lie: beside the buckets, in a folder that no bucket's
//! name can have. A bucket that was never asked for versions has nothing there.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use crate::file::Scratch;
use crate::folder::{Folder, make_folder, remove_empty, sync};
use crate::{ObjectError, Versioning, name};

/// No bucket can have this name.
const VERSIONS: &str = ".versions";
/// Holds the name of the bucket's state.
const STATE: &str = "state";
/// A folder for each key that has earlier versions, with a file for each of them.
const KEYS: &str = "keys";

impl Folder {
    /// `None` for a bucket that was never asked to have versions.
    pub(crate) fn versioning(&self, bucket: &str) -> Result<Option<Versioning>, ObjectError> {
        let file = self.versions_of(bucket)?.join(STATE);
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ObjectError::storage("read whether a bucket has versions")(error)),
        };
        // Guessing could replace what was to stay.
        let versioning = Versioning::from_name(&text);
        versioning.map(Some).ok_or_else(|| ObjectError::Damaged(format!("{VERSIONS}/{bucket}/{STATE}")))
    }

    pub(crate) fn set_versioning(&self, bucket: &str, versioning: Versioning) -> Result<(), ObjectError> {
        let _alone = self.alone();
        self.existing(bucket)?;
        let folder = self.versions_of(bucket)?;
        let scratch = Scratch::new(&self.scratch);
        let write = || -> io::Result<()> {
            let mut file = fs::File::create_new(scratch.path())?;
            file.write_all(versioning.name().as_bytes())?;
            file.sync_all()?;
            make_folder(&self.root.join(VERSIONS))?;
            make_folder(&folder)?;
            fs::rename(scratch.path(), folder.join(STATE))?;
            sync(&folder)
        };
        write().map_err(ObjectError::storage("keep whether a bucket has versions"))
    }

    /// Whether no earlier version is left, nor a delete marker.
    pub(crate) fn forget_empty_versions(&self, bucket: &str) -> Result<bool, ObjectError> {
        let removed = match remove_empty(&self.earlier_of(bucket)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            removed => removed,
        };
        removed.map_err(ObjectError::storage("delete a bucket"))
    }

    /// A bucket of this name that comes later knows nothing of this one's versions.
    pub(crate) fn forget_versioning(&self, bucket: &str) -> Result<(), ObjectError> {
        match fs::remove_dir_all(self.versions_of(bucket)?) {
            Ok(()) => sync(&self.root.join(VERSIONS)).map_err(ObjectError::storage("forget a bucket's versions")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(ObjectError::storage("forget a bucket's versions")(error)),
        }
    }

    /// The folder of the keys' earlier versions.
    pub(crate) fn earlier_of(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        Ok(self.versions_of(bucket)?.join(KEYS))
    }

    fn versions_of(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        name::check_bucket(bucket)?;
        Ok(self.root.join(VERSIONS).join(bucket))
    }
}
