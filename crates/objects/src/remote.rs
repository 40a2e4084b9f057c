//! Objects in a remote store that speaks S3: a client for each bucket, content types and user metadata in the store's own
//! form, and what only we know (the plain size, the checksums) in one metadata entry more.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, ClientOptions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore as _,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload,
};

use crate::file::{self, Known, Stored};
use crate::page::{Ask, Page, Pager};
use crate::vault::{self, CHUNK_BYTES, HEADER_BYTES, Opener, SEALED_CHUNK_BYTES, Vault};
use crate::{Bucket, ObjectError, RemoteS3, name};

/// The metadata entry that only we read.
const OURS: &str = "linewarden";
/// What is sent at once; a longer object goes in parts of this length.
const PART_BYTES: u64 = 16 * 1024 * 1024;
/// A listing asks for this many objects' plain sizes at the same time.
const HEADS_AT_ONCE: usize = 16;

#[derive(Debug)]
pub(crate) struct Remote {
    buckets: BTreeMap<String, Arc<AmazonS3>>,
}

impl Remote {
    pub(crate) fn new(config: &RemoteS3) -> Result<Self, ObjectError> {
        // Fails when the program has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut buckets = BTreeMap::new();
        for bucket in &config.buckets {
            name::check_bucket(bucket)?;
            let client = ClientOptions::new()
                .with_timeout_disabled()
                .with_connect_timeout(Duration::from_secs(10))
                .with_read_timeout(Duration::from_secs(60))
                .with_allow_http(config.allow_http);
            let mut builder = AmazonS3Builder::new()
                .with_client_options(client)
                .with_bucket_name(bucket)
                .with_region(&config.region)
                .with_access_key_id(&config.access_key_id)
                .with_secret_access_key(&config.secret_access_key);
            if let Some(endpoint) = &config.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            let store = builder.build().map_err(ObjectError::storage("set up a remote bucket"))?;
            buckets.insert(bucket.clone(), Arc::new(store));
        }
        Ok(Self { buckets })
    }

    pub(crate) fn has_bucket(&self, bucket: &str) -> bool {
        self.buckets.contains_key(bucket)
    }

    pub(crate) fn buckets(&self) -> Vec<Bucket> {
        let names = self.buckets.keys().cloned();
        names.map(|name| Bucket { name, created_at: Timestamp::UNIX_EPOCH }).collect()
    }

    fn store(&self, bucket: &str) -> Result<&Arc<AmazonS3>, ObjectError> {
        name::check_bucket(bucket)?;
        self.buckets.get(bucket).ok_or_else(|| ObjectError::NoBucket(bucket.to_owned()))
    }

    /// Sends a complete object. The version that it is there, when the store tells one.
    pub(crate) async fn place(
        &self,
        stored: Arc<Stored>,
        bucket: &str,
        key: &str,
    ) -> Result<Option<String>, ObjectError> {
        let store = self.store(bucket)?;
        let path = path_of(key)?;
        let attributes = attributes_of(&stored.known)?;
        let total = stored.content_bytes;
        if total <= PART_BYTES {
            let bytes = read(&stored, 0..total).await?;
            let put = store.put_opts(&path, PutPayload::from(bytes), PutOptions::from(attributes)).await;
            return Ok(put.map_err(ObjectError::storage("send an object to the remote store"))?.version);
        }
        let failed = || ObjectError::storage("send an object to the remote store");
        let mut upload =
            store.put_multipart_opts(&path, PutMultipartOptions::from(attributes)).await.map_err(failed())?;
        let mut start = 0;
        while start < total {
            let end = (start + PART_BYTES).min(total);
            let sent = match read(&stored, start..end).await {
                Ok(bytes) => upload.put_part(PutPayload::from(bytes)).await.map_err(failed()),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // The store sweeps what cannot be taken back now.
                let _ = upload.abort().await;
                return Err(error);
            }
            start = end;
        }
        Ok(upload.complete().await.map_err(failed())?.version)
    }

    pub(crate) async fn head(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<Known, ObjectError> {
        Ok(self.open(bucket, key, version).await?.known)
    }

    /// What is known, and where the content can be had.
    pub(crate) async fn open(&self, bucket: &str, key: &str, version: Option<&str>) -> Result<Opened, ObjectError> {
        let store = Arc::clone(self.store(bucket)?);
        let path = path_of(key)?;
        let version = version.map(str::to_owned);
        let options = GetOptions::new().with_head(true).with_version(version.clone());
        let result = store.get_opts(&path, options).await;
        let result = result.map_err(|error| told(error, (bucket, key), version.as_deref()))?;
        Ok(Opened {
            known: known_of(&result),
            etag: result.meta.e_tag.clone(),
            store,
            path,
            version,
            place: (bucket.to_owned(), key.to_owned()),
        })
    }

    pub(crate) async fn delete(&self, bucket: &str, key: &str) -> Result<bool, ObjectError> {
        match self.head(bucket, key, None).await {
            Err(ObjectError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let deleted = self.store(bucket)?.delete(&path_of(key)?).await;
        deleted.map_err(ObjectError::storage("delete an object of the remote store"))?;
        Ok(true)
    }

    pub(crate) async fn page(
        &self,
        bucket: &str,
        ask: Ask<'_>,
        vault: &Vault,
    ) -> Result<Page<(String, Known)>, ObjectError> {
        let store = self.store(bucket)?;
        // The store's client knows prefixes of whole segments only.
        let folder = ask.prefix.rsplit_once('/').map(|(folder, _)| Path::from(folder));
        let mut objects = match ask.after {
            Some(after) => store.list_with_offset(folder.as_ref(), &Path::from(after)),
            None => store.list(folder.as_ref()),
        };
        let mut pager = Pager::new(ask);
        while let Some(meta) =
            objects.try_next().await.map_err(ObjectError::storage("list a bucket of the remote store"))?
        {
            let key = meta.location.as_ref().to_owned();
            if pager.wants(&key) && !pager.take(&key.clone(), (key, plain_of(&meta))) {
                break;
            }
        }
        let mut page = pager.finish();
        if vault.is_used() {
            self.with_plain_sizes(bucket, &mut page).await?;
        }
        Ok(page)
    }

    /// A listing of the store tells how long objects are as stored, encrypted.
    async fn with_plain_sizes(&self, bucket: &str, page: &mut Page<(String, Known)>) -> Result<(), ObjectError> {
        let items = std::mem::take(&mut page.items);
        let asked = futures::stream::iter(items.into_iter().map(|item| async move {
            let crate::page::Item::Object((key, listed)) = item else { return Ok(item) };
            match self.head(bucket, &key, None).await {
                Ok(known) => Ok(crate::page::Item::Object((key, known))),
                // Deleted meanwhile.
                Err(ObjectError::NotFound { .. }) => Ok(crate::page::Item::Object((key, listed))),
                Err(error) => Err(error),
            }
        }));
        page.items = asked.buffered(HEADS_AT_ONCE).try_collect().await?;
        Ok(())
    }
}

/// A remote object whose content can be fetched.
pub(crate) struct Opened {
    pub(crate) known: Known,
    etag: Option<String>,
    store: Arc<AmazonS3>,
    path: Path,
    /// The one that was asked for.
    version: Option<String>,
    place: (String, String),
}

impl Opened {
    /// The bytes of a range, which lies within the content.
    pub(crate) async fn content(
        self,
        vault: &Vault,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        if range.is_empty() {
            return Ok(futures::stream::empty().boxed());
        }
        if self.known.kms_key.is_none() {
            return self.fetch(range).await;
        }
        let header = self.fetch(0..HEADER_BYTES as u64).await?.try_collect::<BytesMut>().await?;
        let damaged = || ObjectError::Damaged(format!("{}/{}", self.place.0, self.place.1));
        let header: [u8; HEADER_BYTES] = header.as_ref().try_into().map_err(|_| damaged())?;
        let opener = vault.opener(&header)?;
        let first_chunk = range.start / CHUNK_BYTES as u64;
        let end_chunk = range.end.div_ceil(CHUNK_BYTES as u64);
        let sealed = self.fetch(file::sealed_start(first_chunk)..file::sealed_start(end_chunk)).await?;
        let opening = Opening {
            sealed,
            opener,
            buffer: BytesMut::new(),
            next_chunk: first_chunk,
            rest: range,
            size: self.known.size,
        };
        Ok(futures::stream::try_unfold(opening, Opening::next).boxed())
    }

    async fn fetch(&self, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
        // Another object in this place meanwhile would be a mixture of two.
        let options = GetOptions::new()
            .with_range(Some(GetRange::Bounded(range)))
            .with_if_match(self.etag.clone())
            .with_version(self.version.clone());
        let result = self.store.get_opts(&self.path, options).await;
        let result = result.map_err(|error| told(error, (&self.place.0, &self.place.1), self.version.as_deref()))?;
        Ok(result
            .into_stream()
            .map_err(|error| ObjectError::storage("read an object of the remote store")(error))
            .boxed())
    }
}

/// Decrypts chunks as they come.
struct Opening {
    sealed: BoxStream<'static, Result<Bytes, ObjectError>>,
    opener: Opener,
    buffer: BytesMut,
    next_chunk: u64,
    rest: Range<u64>,
    size: u64,
}

impl Opening {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, ObjectError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        while self.buffer.len() < SEALED_CHUNK_BYTES {
            match self.sealed.try_next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => break,
            }
        }
        let number = self.next_chunk;
        self.next_chunk += 1;
        let chunk_start = number * CHUNK_BYTES as u64;
        let chunk_end = (chunk_start + CHUNK_BYTES as u64).min(self.size);
        let mut chunk = self.buffer.split_to(self.buffer.len().min(SEALED_CHUNK_BYTES)).to_vec();
        self.opener.open(number, &mut chunk, chunk_end == self.size)?;
        let end = chunk_end.min(self.rest.end);
        let within = |place: u64| usize::try_from(place - chunk_start).unwrap_or_default();
        let piece = Bytes::from(chunk).slice(within(self.rest.start)..within(end));
        self.rest.start = end;
        Ok(Some((piece, self)))
    }
}

async fn read(stored: &Arc<Stored>, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
    let stored = Arc::clone(stored);
    crate::blocking(move || stored.read_stored(range)).await
}

/// The client's paths have no empty segment, no `.` and no `..`.
fn path_of(key: &str) -> Result<Path, ObjectError> {
    name::check_key(key)?;
    match Path::parse(key) {
        Ok(path) if path.as_ref() == key => Ok(path),
        _ => Err(ObjectError::bad_name(key, "the remote store takes no empty segment, `.` or `..` between two `/`")),
    }
}

fn attributes_of(known: &Known) -> Result<Attributes, ObjectError> {
    let mut attributes = Attributes::new();
    if let Some(content_type) = &known.content_type {
        attributes.insert(Attribute::ContentType, content_type.clone().into());
    }
    for (name, value) in &known.metadata {
        attributes.insert(Attribute::Metadata(name.clone().into()), value.clone().into());
    }
    let ours = Known { content_type: None, metadata: BTreeMap::new(), ..known.clone() };
    let text = serde_json::to_vec(&ours).map_err(ObjectError::storage("write what is known of an object"))?;
    attributes.insert(Attribute::Metadata(OURS.into()), STANDARD.encode(text).into());
    Ok(attributes)
}

fn known_of(result: &GetResult) -> Known {
    let mut known = plain_of(&result.meta);
    let mut ours = None;
    for (attribute, value) in &result.attributes {
        match attribute {
            Attribute::ContentType => known.content_type = Some(value.as_ref().to_owned()),
            Attribute::Metadata(name) if name == OURS => ours = Some(value.as_ref()),
            Attribute::Metadata(name) => {
                known.metadata.insert(name.to_string(), value.as_ref().to_owned());
            }
            _ => {}
        }
    }
    let ours = ours
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|text| serde_json::from_slice::<Known>(&text).ok())
        // Somebody else may have written another content and kept our entry.
        .filter(|ours| {
            let stored = result.meta.size;
            Some(ours.size) == if ours.kms_key.is_some() { vault::plain_size(stored) } else { Some(stored) }
        });
    match ours {
        Some(ours) => {
            let Known { content_type, metadata, modified_us, version, .. } = known;
            Known { content_type, metadata, modified_us, version, ..ours }
        }
        None => known,
    }
}

/// What the store itself tells.
fn plain_of(meta: &ObjectMeta) -> Known {
    Known {
        size: meta.size,
        etag: meta.e_tag.as_deref().unwrap_or_default().trim_matches('"').to_owned(),
        modified_us: meta.last_modified.timestamp_micros(),
        version: meta.version.clone(),
        ..Known::default()
    }
}

fn told(error: object_store::Error, (bucket, key): (&str, &str), version: Option<&str>) -> ObjectError {
    match (error, version) {
        (object_store::Error::NotFound { .. }, Some(version)) => ObjectError::no_version(bucket, key, version),
        (object_store::Error::NotFound { .. }, None) => ObjectError::not_found(bucket, key),
        (object_store::Error::Precondition { .. }, _) => ObjectError::ConditionFailed,
        (error, _) => ObjectError::storage("read an object of the remote store")(error),
    }
}
