//! Objects in a folder of this machine: a folder for each bucket, a file for each object.
//!
//! A write is a file in the scratch folder, synced, then renamed: after `kill -9` an object is the old one or the new one.
//! What a bucket with versions keeps besides is in `versioning.rs` and `history.rs`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::file::{Known, Scratch, Stored};
use crate::page::{Ask, Page, Pager};
use crate::version::Stamp;
use crate::{Bucket, Deletion, ObjectError, name};

/// Folders come and go with their keys, so a write may find one gone that was there just now.
const PLACING_ATTEMPTS: u32 = 100;

#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    /// In the same file system.
    pub(crate) scratch: PathBuf,
    /// Buckets come, go and get versions one after the other.
    bucket_changes: Mutex<()>,
}

impl Folder {
    pub(crate) fn new(root: PathBuf, scratch: PathBuf) -> Self {
        Self { root, scratch, bucket_changes: Mutex::new(()) }
    }

    pub(crate) fn alone(&self) -> MutexGuard<'_, ()> {
        // It guards no data: what a panic left lies in the folders, as after a kill.
        self.bucket_changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        name::check_bucket(bucket)?;
        Ok(self.root.join(bucket))
    }

    pub(crate) fn has_bucket(&self, bucket: &str) -> Result<bool, ObjectError> {
        Ok(self.bucket(bucket)?.is_dir())
    }

    pub(crate) fn existing(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        let path = self.bucket(bucket)?;
        if path.is_dir() { Ok(path) } else { Err(ObjectError::NoBucket(bucket.to_owned())) }
    }

    pub(crate) fn create_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        let _alone = self.alone();
        if !self.has_bucket(bucket)? {
            // Of an earlier bucket, whose deletion was cut off.
            self.forget_versioning(bucket)?;
        }
        match fs::create_dir(self.bucket(bucket)?) {
            Ok(()) => sync(&self.root).map_err(ObjectError::storage("create a bucket")),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ObjectError::BucketExists(bucket.to_owned()))
            }
            Err(error) => Err(ObjectError::storage("create a bucket")(error)),
        }
    }

    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        let _alone = self.alone();
        let path = self.existing(bucket)?;
        let is_gone = self.forget_empty_versions(bucket)?
            && remove_empty(&path).map_err(ObjectError::storage("delete a bucket"))?;
        if !is_gone {
            return Err(ObjectError::BucketNotEmpty(bucket.to_owned()));
        }
        sync(&self.root).map_err(ObjectError::storage("delete a bucket"))?;
        self.forget_versioning(bucket)
    }

    pub(crate) fn buckets(&self) -> Result<Vec<Bucket>, ObjectError> {
        let list = || -> io::Result<Vec<Bucket>> {
            let mut buckets = Vec::new();
            for entry in fs::read_dir(&self.root)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let is_bucket = name::check_bucket(&name).is_ok();
                let Ok(metadata) = entry.metadata() else { continue };
                if is_bucket && metadata.is_dir() {
                    let created = metadata.created().or_else(|_| metadata.modified())?;
                    buckets.push(Bucket { name, created_at: Timestamp::try_from(created).unwrap_or_default() });
                }
            }
            buckets.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(buckets)
        };
        list().map_err(ObjectError::storage("list the buckets"))
    }

    /// Opens an object.
    pub(crate) fn open(&self, bucket: &str, key: &str) -> Result<Stored, ObjectError> {
        let path = self.bucket(bucket)?.join(name::file_of(key)?);
        let Some(mut stored) = Stored::open(&path)? else { return self.open_absent(bucket, key) };
        let has_versions = stored.known.stamp.is_some() || self.versioning(bucket)?.is_some();
        stored.known.version = has_versions.then(|| Stamp::of(&stored.known).id());
        Ok(stored)
    }

    /// Gives a complete object its name, and tells which version it is where there are versions.
    pub(crate) fn place(&self, scratch: Scratch, known: Known, bucket: &str, key: &str) -> Result<Known, ObjectError> {
        match self.versioning(bucket)? {
            Some(versioning) => self.place_version((scratch, known), (bucket, key), versioning),
            None => self.move_in(scratch.path(), bucket, key).map(|()| known),
        }
    }

    /// Moves a complete object to its place, in place of one that was there.
    pub(crate) fn move_in(&self, scratch: &Path, bucket: &str, key: &str) -> Result<(), ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let path = name::file_of(key)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match place_once(scratch, &bucket_folder, &path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempt < PLACING_ATTEMPTS => {
                    self.existing(bucket)?;
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                    return Err(ObjectError::bad_name(key, "the key has too many `/` for a path"));
                }
                Err(error) => return Err(ObjectError::storage("put an object in its place")(error)),
            }
        }
    }

    /// Deletes an object, or one version of it.
    pub(crate) fn delete(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<Deletion, ObjectError> {
        match (self.versioning(bucket)?, version) {
            (Some(_), Some(version)) => self.delete_version(bucket, key, version),
            (Some(versioning), None) => self.lay_marker(bucket, key, versioning),
            (None, None | Some("null")) => {
                Ok(Deletion { was_there: self.remove_placed(bucket, key)?, ..Deletion::default() })
            }
            (None, Some(version)) => Err(ObjectError::no_version(bucket, key, version)),
        }
    }

    /// Whether it was there.
    pub(crate) fn remove_placed(&self, bucket: &str, key: &str) -> Result<bool, ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let path = name::file_of(key)?;
        match fs::remove_file(bucket_folder.join(&path)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
                return Ok(false);
            }
            Err(error) => return Err(ObjectError::storage("delete an object")(error)),
        }
        prune(&bucket_folder, path.parent()).map_err(ObjectError::storage("delete an object"))?;
        Ok(true)
    }

    /// A page of keys with the files that hold them.
    pub(crate) fn page(&self, bucket: &str, ask: Ask<'_>) -> Result<Page<(String, PathBuf)>, ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let mut pager = Pager::new(ask);
        walk(&bucket_folder, "", &mut pager).map_err(ObjectError::storage("list a bucket"))?;
        Ok(pager.finish())
    }
}

/// The names in a folder that keys have made, in no order, each with the segment that it stands for. A folder's segment ends
/// with `/`, and so sorts as the keys below it do.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<(String, String)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Emptied and removed meanwhile, or deeper than any path goes.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if let Some(segment) = name::segment_of(&name) {
            names.push((segment, name));
        }
    }
    Ok(names)
}

/// In the order of the keys' bytes. `false`: enough.
fn walk(folder: &Path, key_of_folder: &str, pager: &mut Pager<'_, (String, PathBuf)>) -> io::Result<bool> {
    let mut names = names_in(folder)?;
    names.sort_unstable();
    for (segment, name) in names {
        let key = format!("{key_of_folder}{segment}");
        let is_folder = name.ends_with('%');
        let wants_more = if is_folder {
            !pager.wants_folder(&key) || walk(&folder.join(name), &key, pager)?
        } else {
            !pager.wants(&key) || pager.take(&key.clone(), (key, folder.join(name)))
        };
        if !wants_more {
            return Ok(false);
        }
    }
    Ok(true)
}

fn place_once(scratch: &Path, bucket: &Path, path: &Path) -> io::Result<()> {
    let folder = make_folders(bucket, path.parent().unwrap_or(Path::new("")))?;
    fs::rename(scratch, bucket.join(path))?;
    match sync(&folder) {
        // Deleted again already, and its folder with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// Makes the folders of `path` below `root`, and tells the last one.
pub(crate) fn make_folders(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut folder = root.to_owned();
    for part in path {
        folder.push(part);
        make_folder(&folder)?;
    }
    Ok(folder)
}

pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Ok(()) => folder.parent().map_or(Ok(()), sync),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Folders that a deletion leaves empty go with it; a write that needs one makes it anew.
pub(crate) fn prune(root: &Path, mut parent: Option<&Path>) -> io::Result<()> {
    while let Some(folder) = parent.filter(|folder| !folder.as_os_str().is_empty()) {
        if fs::remove_dir(root.join(folder)).is_err() {
            break;
        }
        parent = folder.parent();
    }
    match sync(&root.join(parent.unwrap_or(Path::new("")))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes what happened to a folder's names outlast a power cut.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a tree of folders without a file in it. Whether it is gone.
pub(crate) fn remove_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() || !remove_empty(&entry.path())? {
            return Ok(false);
        }
    }
    match fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}
