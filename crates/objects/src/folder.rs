//! Objects in a folder of this machine: a folder for each bucket, a file for each object.
//!
//! A write is a file in the scratch folder, synced, then renamed: after `kill -9` an object is the old one or the new one.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::file::{Scratch, Stored};
use crate::page::{Ask, Page, Pager};
use crate::{Bucket, ObjectError, name};

/// Folders come and go with their keys, so a write may find one gone that was there just now.
const PLACING_ATTEMPTS: u32 = 100;

#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn bucket(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        name::check_bucket(bucket)?;
        Ok(self.root.join(bucket))
    }

    pub(crate) fn has_bucket(&self, bucket: &str) -> Result<bool, ObjectError> {
        Ok(self.bucket(bucket)?.is_dir())
    }

    fn existing(&self, bucket: &str) -> Result<PathBuf, ObjectError> {
        let path = self.bucket(bucket)?;
        if path.is_dir() { Ok(path) } else { Err(ObjectError::NoBucket(bucket.to_owned())) }
    }

    pub(crate) fn create_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        match fs::create_dir(self.bucket(bucket)?) {
            Ok(()) => sync(&self.root).map_err(ObjectError::storage("create a bucket")),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ObjectError::BucketExists(bucket.to_owned()))
            }
            Err(error) => Err(ObjectError::storage("create a bucket")(error)),
        }
    }

    pub(crate) fn delete_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        let path = self.existing(bucket)?;
        let is_gone = remove_empty(&path).map_err(ObjectError::storage("delete a bucket"))?;
        if !is_gone {
            return Err(ObjectError::BucketNotEmpty(bucket.to_owned()));
        }
        sync(&self.root).map_err(ObjectError::storage("delete a bucket"))
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
        match Stored::open(&path)? {
            Some(stored) => Ok(stored),
            None => {
                self.existing(bucket)?;
                Err(ObjectError::not_found(bucket, key))
            }
        }
    }

    /// Moves a complete object to its place, in place of one that was there.
    pub(crate) fn place(&self, scratch: Scratch, bucket: &str, key: &str) -> Result<(), ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let path = name::file_of(key)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            match place_once(scratch.path(), &bucket_folder, &path) {
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

    /// Whether it was there.
    pub(crate) fn delete(&self, bucket: &str, key: &str) -> Result<bool, ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let path = name::file_of(key)?;
        match fs::remove_file(bucket_folder.join(&path)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
                return Ok(false);
            }
            Err(error) => return Err(ObjectError::storage("delete an object")(error)),
        }
        // Folders that this leaves empty go with it; a write that needs one makes it anew.
        let mut parent = path.parent();
        while let Some(folder) = parent.filter(|folder| !folder.as_os_str().is_empty()) {
            if fs::remove_dir(bucket_folder.join(folder)).is_err() {
                break;
            }
            parent = folder.parent();
        }
        let left = bucket_folder.join(parent.unwrap_or(Path::new("")));
        match sync(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ObjectError::storage("delete an object")(error))
            }
            _ => Ok(true),
        }
    }

    /// A page of keys with the files that hold them.
    pub(crate) fn page(&self, bucket: &str, ask: Ask<'_>) -> Result<Page<(String, PathBuf)>, ObjectError> {
        let bucket_folder = self.existing(bucket)?;
        let mut pager = Pager::new(ask);
        walk(&bucket_folder, "", &mut pager).map_err(ObjectError::storage("list a bucket"))?;
        Ok(pager.finish())
    }
}

/// In the order of the keys' bytes. `false`: enough.
fn walk(folder: &Path, key_of_folder: &str, pager: &mut Pager<'_, (String, PathBuf)>) -> io::Result<bool> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        // Emptied and removed meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if let Some(segment) = name::segment_of(&name) {
            names.push((segment, name));
        }
    }
    // A folder's segment ends with `/`, and so sorts as the keys below it do.
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
    let mut folder = bucket.to_owned();
    for part in path.parent().into_iter().flat_map(Path::iter) {
        let above = folder.clone();
        folder.push(part);
        match fs::create_dir(&folder) {
            Ok(()) => sync(&above)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    fs::rename(scratch, bucket.join(path))?;
    match sync(&folder) {
        // Deleted again already, and its folder with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        synced => synced,
    }
}

/// Makes what happened to a folder's names outlast a power cut.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Removes a tree of folders without a file in it. Whether it is gone.
fn remove_empty(folder: &Path) -> io::Result<bool> {
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
