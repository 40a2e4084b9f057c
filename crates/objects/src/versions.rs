//! Versions, as callers ask for them: of which buckets they are kept, reading and deleting one, and listing them all.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;

use crate::objects::Store;
use crate::page::{Ask, Page};
use crate::version_page::ListedVersion;
use crate::{ByteRange, Head, Object, ObjectError, Objects, Versioning, blocking};

/// What a deletion did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Whether there was what was to be deleted.
    pub was_there: bool,
    /// Whether a delete marker was laid, or was what was deleted.
    pub is_marker: bool,
    /// The marker's version, or the one that was deleted; `None` in a bucket without versions.
    pub version: Option<String>,
}

impl Objects {
    /// Whether a bucket keeps the earlier versions of its objects; `None` for one that was never asked to.
    ///
    /// # Errors
    /// [`ObjectError::NoBucket`]; [`ObjectError::Refused`] for a remote store.
    pub async fn versioning(&self, bucket: &str) -> Result<Option<Versioning>, ObjectError> {
        self.in_folder(bucket, |folder, bucket| {
            folder.existing(bucket)?;
            folder.versioning(bucket)
        })
        .await
    }

    /// Has a bucket keep the earlier versions of its objects from now on, or keep no further ones.
    ///
    /// # Errors
    /// [`ObjectError::NoBucket`]; [`ObjectError::Refused`] for a remote store.
    pub async fn set_versioning(&self, bucket: &str, versioning: Versioning) -> Result<(), ObjectError> {
        self.in_folder(bucket, move |folder, bucket| folder.set_versioning(bucket, versioning)).await
    }

    /// What is known of one version of an object; `None` for the newest.
    ///
    /// # Errors
    /// As [`Objects::head`], and [`ObjectError::NoVersion`], [`ObjectError::DeleteMarker`].
    pub async fn head_version(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<Head, ObjectError> {
        match &self.inner.store {
            Store::Folder(folder) => Ok(crate::objects::open(folder, bucket, key, version).await?.known.into()),
            Store::Remote(remote) => Ok(remote.head(bucket, key, version).await?.into()),
        }
    }

    /// Reads one version of an object into memory, if it is no longer than `limit`; `None` for the newest.
    ///
    /// # Errors
    /// As [`Objects::get_version`], and [`ObjectError::TooLarge`].
    pub async fn read_version_at_most(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        limit: u64,
    ) -> Result<Bytes, ObjectError> {
        let object = self.get_version(bucket, key, version, None).await?;
        if object.head.size > limit {
            return Err(ObjectError::TooLarge { limit });
        }
        Ok(object.body.try_collect::<BytesMut>().await?.freeze())
    }

    /// Reads an object as it is now, or a part of it.
    ///
    /// # Errors
    /// As [`Objects::head`], and [`ObjectError::BadRange`], [`ObjectError::WrongKey`].
    pub async fn get(&self, bucket: &str, key: &str, range: Option<ByteRange>) -> Result<Object, ObjectError> {
        self.get_version(bucket, key, None, range).await
    }

    /// Deletes an object, or with `version` one version of it for good. In a bucket with versions the object stays as an
    /// earlier version, and a marker says that it was deleted.
    ///
    /// # Errors
    /// [`ObjectError::NoBucket`], [`ObjectError::NoVersion`] for what can be no version's id, or the store fails;
    /// [`ObjectError::Refused`] for a version in a remote store.
    pub async fn delete_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> Result<Deletion, ObjectError> {
        let folder = match (&self.inner.store, version) {
            (Store::Folder(folder), _) => Arc::clone(folder),
            (Store::Remote(remote), None) => {
                return Ok(Deletion { was_there: remote.delete(bucket, key).await?, ..Deletion::default() });
            }
            (Store::Remote(_), Some(_)) => {
                return Err(ObjectError::Refused("versions in a remote store are deleted there"));
            }
        };
        // A write of the same key keeps what it replaces first.
        let _alone = self.key_lock(bucket, key).lock().await;
        let (bucket, key, version) = (bucket.to_owned(), key.to_owned(), version.map(str::to_owned));
        blocking(move || folder.delete(&bucket, &key, version.as_deref())).await
    }

    /// All versions of the keys behind `ask.after`, or of that key too those behind the version `within`.
    pub(crate) async fn version_page(
        &self,
        bucket: &str,
        ask: Ask<'_>,
        within: Option<&str>,
    ) -> Result<Page<ListedVersion>, ObjectError> {
        let (prefix, within) = (ask.prefix.to_owned(), within.map(str::to_owned));
        let (delimiter, after) = (ask.delimiter.map(str::to_owned), ask.after.map(str::to_owned));
        let limit = ask.limit;
        self.in_folder(bucket, move |folder, bucket| {
            let ask = Ask { prefix: &prefix, delimiter: delimiter.as_deref(), after: after.as_deref(), limit };
            folder.version_page(bucket, ask, within.as_deref())
        })
        .await
    }
}
