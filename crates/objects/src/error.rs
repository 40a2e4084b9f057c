//! What can go wrong with an object, by what a caller does about it.

use std::io;

/// Why something could not be done with a bucket or an object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// There is no such bucket.
    #[error("there is no bucket `{0}`")]
    NoBucket(String),
    /// There is no such object.
    #[error("there is no object `{key}` in bucket `{bucket}`")]
    NotFound {
        /// Where it was looked for.
        bucket: String,
        /// What was looked for.
        key: String,
        /// The version that says so, where a bucket with versions had the object deleted.
        marker: Option<String>,
    },
    /// There is no such version of the object.
    #[error("there is no version `{version}` of object `{key}` in bucket `{bucket}`")]
    NoVersion {
        /// Where it was looked for.
        bucket: String,
        /// Whose version was looked for.
        key: String,
        /// What was looked for, shortened.
        version: String,
    },
    /// The version has no content: it says that the object was deleted.
    #[error("version `{version}` of object `{key}` in bucket `{bucket}` is a delete marker")]
    DeleteMarker {
        /// Where it is.
        bucket: String,
        /// Whose version it is.
        key: String,
        /// The version's id.
        version: String,
    },
    /// The bucket is there already.
    #[error("there is a bucket `{0}` already")]
    BucketExists(String),
    /// A bucket that holds objects, or earlier versions of some, is not deleted.
    #[error("bucket `{0}` holds objects")]
    BucketNotEmpty(String),
    /// A name that a bucket, a key or an encryption key cannot have.
    #[error("`{name}` cannot be used: {reason}")]
    BadName {
        /// As it was given, shortened.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The range begins after the object's end.
    #[error("the range lies outside of the object's {size} bytes")]
    BadRange {
        /// How long the object is.
        size: u64,
    },
    /// The encryption key is missing, or is another one than the object was encrypted with.
    #[error("encryption key `{name}` is missing or is another one by now")]
    WrongKey {
        /// The key's name.
        name: String,
    },
    /// What is stored is not what was written.
    #[error("`{0}` is damaged")]
    Damaged(String),
    /// More than the caller wants in memory.
    #[error("the object is larger than {limit} bytes")]
    TooLarge {
        /// What the caller allowed.
        limit: u64,
    },
    /// The object is, or is not, there already, or is another one than the caller knows.
    #[error("the object's state is not the one that was asked for")]
    ConditionFailed,
    /// What was sent is not what its sender says it is.
    #[error("the content does not match its {0}")]
    BadDigest(&'static str),
    /// The sender ended before its content did.
    #[error("the content cannot be read to its end")]
    Content(#[source] io::Error),
    /// No upload of parts has this id, any more.
    #[error("there is no upload `{0}`")]
    NoUpload(String),
    /// A part that was never sent, or is another one.
    #[error("part {0} is missing or is another one")]
    BadPart(u32),
    /// Every part but the last must have 5 MiB.
    #[error("part {0} is smaller than 5 MiB")]
    SmallPart(u32),
    /// Parts are named in ascending order.
    #[error("the parts are not in order")]
    PartOrder,
    /// Cannot be done with this store.
    #[error("{0}")]
    Refused(&'static str),
    /// The disk or the remote store failed.
    #[error("cannot {what}")]
    Storage {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ObjectError {
    /// For `map_err`: the disk or the remote store failed.
    pub(crate) fn storage<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |error| Self::Storage { what, source: error.into() }
    }

    pub(crate) fn not_found(bucket: &str, key: &str) -> Self {
        Self::NotFound { bucket: bucket.to_owned(), key: key.to_owned(), marker: None }
    }

    pub(crate) fn no_version(bucket: &str, key: &str, version: &str) -> Self {
        let version = version.chars().take(100).collect();
        Self::NoVersion { bucket: bucket.to_owned(), key: key.to_owned(), version }
    }

    pub(crate) fn bad_name(name: &str, reason: &'static str) -> Self {
        Self::BadName { name: name.chars().take(100).collect(), reason }
    }
}
