//! Uploads in parts: each part is a file of the scratch folder, encrypted as the object will be, until they become one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::file::{Known, Stored, Watch, Writer, hexadecimal};
use crate::objects::known_of;
use crate::{Condition, Content, Head, ObjectError, Objects, PutOptions, blocking, folder};

/// Every part but the last has at least this.
const SMALLEST_PART_BYTES: u64 = 5 * 1024 * 1024;
const DESCRIPTION: &str = "upload.json";

/// An upload that waits for its parts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Upload {
    #[serde(skip)]
    pub(crate) id: String,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) created_us: i64,
    pub(crate) kms_key: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    /// As in `crc32`.
    pub(crate) checksum: Option<String>,
    /// `FULL_OBJECT` or `COMPOSITE`.
    pub(crate) checksum_type: Option<String>,
}

impl Upload {
    fn put_options(&self) -> PutOptions {
        PutOptions {
            content_type: self.content_type.clone(),
            metadata: self.metadata.clone(),
            headers: self.headers.clone(),
            kms_key: self.kms_key.clone(),
            condition: Condition::None,
        }
    }

    pub(crate) fn created(&self) -> Timestamp {
        Timestamp::from_microsecond(self.created_us).unwrap_or_default()
    }
}

/// A part as the client names it when the upload is complete.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) number: u32,
    pub(crate) etag: Option<String>,
}

/// Sees the complete object, and the parts' checksums in their order.
pub(crate) type WatchWhole = Box<dyn FnOnce(&[Known]) -> Result<Box<dyn Watch>, ObjectError> + Send>;

impl Objects {
    pub(crate) async fn create_upload(
        &self,
        bucket: &str,
        key: &str,
        options: PutOptions,
        (checksum, checksum_type): (Option<String>, Option<String>),
    ) -> Result<String, ObjectError> {
        self.need_bucket(bucket).await?;
        crate::name::file_of(key)?;
        // A key that is missing is told now, not with the first part.
        self.inner.vault.sealer(options.kms_key.as_deref())?;
        let upload = Upload {
            id: Uuid::new_v4().to_string(),
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            created_us: Timestamp::now().as_microsecond(),
            kms_key: options.kms_key,
            content_type: options.content_type,
            metadata: options.metadata,
            headers: options.headers,
            checksum,
            checksum_type,
        };
        let uploads = self.uploads_folder();
        blocking(move || {
            let create = || -> io::Result<()> {
                let folder = uploads.join(&upload.id);
                fs::create_dir(&folder)?;
                fs::write(folder.join(DESCRIPTION), serde_json::to_vec(&upload)?)?;
                folder::sync(&folder)?;
                folder::sync(&uploads)
            };
            create().map_err(ObjectError::storage("begin an upload"))?;
            Ok(upload.id)
        })
        .await
    }

    /// The upload of this id, if it is one to this key.
    pub(crate) async fn upload(&self, bucket: &str, key: &str, id: &str) -> Result<Upload, ObjectError> {
        let folder = self.upload_folder(id)?;
        let (bucket, key, id) = (bucket.to_owned(), key.to_owned(), id.to_owned());
        blocking(move || {
            let upload = read_upload(&folder).filter(|upload| upload.bucket == bucket && upload.key == key);
            upload.ok_or(ObjectError::NoUpload(id))
        })
        .await
    }

    fn upload_folder(&self, id: &str) -> Result<PathBuf, ObjectError> {
        let uuid = Uuid::parse_str(id).map_err(|_| ObjectError::NoUpload(id.to_owned()))?;
        Ok(self.uploads_folder().join(uuid.to_string()))
    }

    /// The uploads to a bucket that wait for parts, by key.
    pub(crate) async fn uploads(&self, bucket: &str) -> Result<Vec<Upload>, ObjectError> {
        self.need_bucket(bucket).await?;
        let uploads = self.uploads_folder();
        let bucket = bucket.to_owned();
        blocking(move || {
            let entries = fs::read_dir(uploads).map_err(ObjectError::storage("list uploads"))?;
            let mut found = Vec::new();
            for entry in entries {
                let folder = entry.map_err(ObjectError::storage("list uploads"))?.path();
                found.extend(read_upload(&folder).filter(|upload| upload.bucket == bucket));
            }
            found.sort_by(|one, other| (&one.key, &one.id).cmp(&(&other.key, &other.id)));
            Ok(found)
        })
        .await
    }

    /// Keeps a part, in place of an earlier one with its number.
    pub(crate) async fn put_part(
        &self,
        upload: &Upload,
        number: u32,
        content: Content,
        watch: Box<dyn Watch>,
    ) -> Result<Head, ObjectError> {
        let folder = self.upload_folder(&upload.id)?;
        let (scratch, known) = self.spool(content, upload.put_options(), watch).await?;
        let id = upload.id.clone();
        blocking(move || {
            // Aborted meanwhile.
            fs::rename(scratch.path(), part_file(&folder, number)).map_err(|_| ObjectError::NoUpload(id))?;
            folder::sync(&folder).map_err(ObjectError::storage("keep a part"))
        })
        .await?;
        Ok(known.into())
    }

    /// The parts that are there, by number.
    pub(crate) async fn parts(&self, upload: &Upload) -> Result<Vec<(u32, Head)>, ObjectError> {
        let folder = self.upload_folder(&upload.id)?;
        blocking(move || {
            let mut parts = Vec::new();
            for entry in fs::read_dir(&folder).map_err(ObjectError::storage("list parts"))? {
                let entry = entry.map_err(ObjectError::storage("list parts"))?;
                let number = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
                if let Some(number) = number
                    && let Some(stored) = Stored::open(&entry.path())?
                {
                    parts.push((number, Head::from(stored.known)));
                }
            }
            parts.sort_by_key(|(number, _)| *number);
            Ok(parts)
        })
        .await
    }

    /// Makes one object of the parts.
    pub(crate) async fn complete_upload(
        &self,
        upload: Upload,
        chosen: Vec<Chosen>,
        condition: Condition,
        watch: WatchWhole,
    ) -> Result<Head, ObjectError> {
        self.need_bucket(&upload.bucket).await?;
        let folder = self.upload_folder(&upload.id)?;
        let vault = self.inner.vault.clone();
        let scratch_folder = self.uploads_folder();
        let options = upload.put_options();
        let parts_folder = folder.clone();
        let (scratch, known) = blocking(move || {
            let knowns = check_parts(&parts_folder, &chosen)?;
            let watch = Whole { etag: etag_of(&knowns), inner: watch(&knowns)? };
            let sealer = vault.sealer(options.kms_key.as_deref())?;
            let mut writer = Writer::new(&scratch_folder, sealer, Box::new(watch))?;
            for part in &chosen {
                // One at a time: there may be more parts than a process may have files open.
                let stored = Stored::open(&part_file(&parts_folder, part.number))?;
                let stored = stored.ok_or(ObjectError::BadPart(part.number))?;
                for piece in stored.whole(&vault)? {
                    writer.push(&piece?)?;
                }
            }
            writer.finish(known_of(options))
        })
        .await?;
        let head = self.place(scratch, known, &upload.bucket, &upload.key, condition).await?;
        // The object is there; parts that stay are swept later.
        let _ = blocking(move || fs::remove_dir_all(folder).map_err(ObjectError::storage("remove parts"))).await;
        Ok(head)
    }

    pub(crate) async fn abort_upload(&self, upload: &Upload) -> Result<(), ObjectError> {
        let folder = self.upload_folder(&upload.id)?;
        blocking(move || fs::remove_dir_all(folder).map_err(ObjectError::storage("remove parts"))).await
    }
}

fn part_file(folder: &Path, number: u32) -> PathBuf {
    folder.join(number.to_string())
}

fn read_upload(folder: &Path) -> Option<Upload> {
    let text = fs::read(folder.join(DESCRIPTION)).ok()?;
    let upload = serde_json::from_slice::<Upload>(&text).ok()?;
    Some(Upload { id: folder.file_name()?.to_str()?.to_owned(), ..upload })
}

fn check_parts(folder: &Path, chosen: &[Chosen]) -> Result<Vec<Known>, ObjectError> {
    if !chosen.is_sorted_by(|one, next| one.number < next.number) {
        return Err(ObjectError::PartOrder);
    }
    let mut parts = Vec::new();
    for (place, part) in chosen.iter().enumerate() {
        let bad = || ObjectError::BadPart(part.number);
        let stored = Stored::open(&part_file(folder, part.number))?.ok_or_else(bad)?;
        if part.etag.as_ref().is_some_and(|etag| *etag != stored.known.etag) {
            return Err(bad());
        }
        if place + 1 < chosen.len() && stored.known.size < SMALLEST_PART_BYTES {
            return Err(ObjectError::SmallPart(part.number));
        }
        parts.push(stored.known);
    }
    Ok(parts)
}

/// As S3 forms it: the MD5 of the parts' MD5s, and their number.
fn etag_of(parts: &[Known]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        let digits = part.etag.as_bytes().chunks(2);
        let bytes = digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        md5.update(bytes.collect::<Vec<u8>>());
    }
    format!("{}-{}", hexadecimal(&md5.finalize()), parts.len())
}

struct Whole {
    etag: String,
    inner: Box<dyn Watch>,
}

impl Watch for Whole {
    fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
    }

    fn finish(self: Box<Self>, known: &mut Known) -> Result<(), ObjectError> {
        known.etag = self.etag;
        self.inner.finish(known)
    }
}
