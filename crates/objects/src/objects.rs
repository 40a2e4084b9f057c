//! The objects themselves: one door for a folder of this machine and for a remote store.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::sync::{Mutex, mpsc};

use crate::file::{Content as FileContent, Known, NoWatch, Scratch, Stored, Watch, Writer};
use crate::folder::{self, Folder};
use crate::page::{Ask, Item, Page};
use crate::remote::Remote;
use crate::{ObjectError, Vault};

/// The scratch folder's name: no bucket can have it.
const SCRATCH: &str = ".scratch";
/// What nobody finished within this is swept.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// Pieces between the thread that reads or writes and the one that talks to a client.
const PIECES_AHEAD: usize = 4;
/// Writes to the same key wait for each other; two keys seldom do.
const KEY_LOCKS: usize = 64;

/// Where objects are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// In a folder of this machine, which lies in one file system.
    Folder(PathBuf),
    /// In a remote store.
    S3(RemoteS3),
}

/// A remote store that speaks S3.
#[derive(Clone)]
pub struct RemoteS3 {
    /// `None` for the one of the region.
    pub endpoint: Option<String>,
    /// As in `eu-west-1`.
    pub region: String,
    /// Who we are there.
    pub access_key_id: String,
    /// How we prove it.
    pub secret_access_key: String,
    /// Whether an endpoint without TLS will do.
    pub allow_http: bool,
    /// The buckets that may be used. They are made there, not by us.
    pub buckets: Vec<String>,
    /// A folder of this machine for what is on its way.
    pub scratch: PathBuf,
}

impl std::fmt::Debug for RemoteS3 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RemoteS3")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("buckets", &self.buckets)
            .finish_non_exhaustive()
    }
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// When it came into being; 1970 where the store does not say.
    pub created_at: Timestamp,
}

/// What is to be known of a new object.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// As in `image/jpeg`.
    pub content_type: Option<String>,
    /// The user's own entries, by lower-case name.
    pub metadata: BTreeMap<String, String>,
    /// HTTP headers to give back with the content, by lower-case name: `cache-control`, `content-disposition` ...
    pub headers: BTreeMap<String, String>,
    /// Encrypts with this key; `None` with the default one, if there is one.
    pub kms_key: Option<String>,
    /// What must be so for the object to be written.
    pub condition: Condition,
}

/// What must be so for an object to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// There is no such object.
    Absent,
    /// There is one.
    Present,
    /// There is one with this ETag.
    Etag(String),
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Length of its content.
    pub size: u64,
    /// Without quotes: the content's MD5, or the parts' with their number.
    pub etag: String,
    /// When it was written.
    pub modified: Timestamp,
    /// As in `image/jpeg`.
    pub content_type: Option<String>,
    /// The user's own entries.
    pub metadata: BTreeMap<String, String>,
    /// HTTP headers to give back with the content.
    pub headers: BTreeMap<String, String>,
    /// Name of the key that it is encrypted with.
    pub kms_key: Option<String>,
    /// What its sender had checked, in base64 by algorithm, as in `crc32`.
    pub checksums: BTreeMap<String, String>,
    /// `FULL_OBJECT`, or `COMPOSITE` when the checksums are of the parts'.
    pub checksum_type: Option<String>,
    /// Its version's id, in a bucket that has versions.
    pub version: Option<String>,
}

impl From<Known> for Head {
    fn from(known: Known) -> Self {
        Self {
            size: known.size,
            etag: known.etag,
            modified: Timestamp::from_microsecond(known.modified_us).unwrap_or_default(),
            content_type: known.content_type,
            metadata: known.metadata,
            headers: known.headers,
            kms_key: known.kms_key,
            checksums: known.checksums,
            checksum_type: known.checksum_type,
            version: known.version,
        }
    }
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's name in its bucket.
    pub key: String,
    /// Length of its content.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was written.
    pub modified: Timestamp,
}

/// A part of an object's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From here to the end.
    From(u64),
    /// From the first to before the second.
    Between(u64, u64),
    /// So many bytes at the end.
    Last(u64),
}

impl ByteRange {
    fn within(self, size: u64) -> Result<Range<u64>, ObjectError> {
        let (start, end) = match self {
            Self::From(start) => (start, size),
            Self::Between(start, end) => (start, end.min(size)),
            Self::Last(bytes) => (size.saturating_sub(bytes), size),
        };
        if start < end { Ok(start..end) } else { Err(ObjectError::BadRange { size }) }
    }
}

/// An object that is being read.
#[derive(Debug)]
pub struct Object {
    /// What is known of it.
    pub head: Head,
    /// What part of it `body` is.
    pub range: Range<u64>,
    /// The content, decrypted.
    pub body: Body,
}

/// Content on its way to a reader. It ends with an error when what is stored is damaged.
#[derive(Debug)]
pub struct Body(mpsc::Receiver<Result<Bytes, ObjectError>>);

impl Stream for Body {
    type Item = Result<Bytes, ObjectError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

/// Content on its way to the store.
pub struct Content(BoxStream<'static, io::Result<Bytes>>);

impl Content {
    /// Content that comes piece by piece. An error leaves what was there before.
    pub fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self(pieces.boxed())
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::stream(futures::stream::iter([Ok(bytes)]))
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// The objects of one store. A clone is the same store.
#[derive(Debug, Clone)]
pub struct Objects {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) vault: Vault,
    /// In the same file system as the buckets' folders.
    scratch: PathBuf,
    key_locks: Vec<Mutex<()>>,
}

#[derive(Debug)]
pub(crate) enum Store {
    Folder(Arc<Folder>),
    Remote(Remote),
}

impl Objects {
    /// Opens a store, and sweeps what was left half written more than a day ago.
    ///
    /// # Errors
    /// When its folder cannot be used, or the remote store's address is none.
    pub async fn open(place: Place, vault: Vault) -> Result<Self, ObjectError> {
        let (store, scratch) = match place {
            Place::Folder(root) => {
                let scratch = root.join(SCRATCH);
                (Store::Folder(Arc::new(Folder::new(root, scratch.clone()))), scratch)
            }
            Place::S3(config) => (Store::Remote(Remote::new(&config)?), config.scratch),
        };
        if vault.default_key().is_none() {
            tracing::info!("objects are stored unencrypted unless a key is named");
        }
        let key_locks = (0..KEY_LOCKS).map(|_| Mutex::new(())).collect();
        let objects = Self { inner: Arc::new(Inner { store, vault, scratch, key_locks }) };
        let uploads = objects.uploads_folder();
        blocking(move || fs::create_dir_all(uploads).map_err(ObjectError::storage("make the scratch folder"))).await?;
        objects.sweep().await?;
        Ok(objects)
    }

    /// Removes what was left half written more than a day ago: single files, and uploads that nobody completed.
    ///
    /// # Errors
    /// When the scratch folder cannot be read.
    pub async fn sweep(&self) -> Result<(), ObjectError> {
        let folders = [self.inner.scratch.clone(), self.uploads_folder()];
        let uploads = self.uploads_folder();
        blocking(move || {
            for folder in folders {
                sweep_folder(&folder, &uploads).map_err(ObjectError::storage("sweep the scratch folder"))?;
            }
            Ok(())
        })
        .await
    }

    pub(crate) fn uploads_folder(&self) -> PathBuf {
        self.inner.scratch.join("uploads")
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// [`ObjectError::BucketExists`], [`ObjectError::BadName`]; [`ObjectError::Refused`] for a remote store.
    pub async fn create_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        self.in_folder(bucket, |folder, bucket| folder.create_bucket(bucket)).await
    }

    /// Deletes an empty bucket.
    ///
    /// # Errors
    /// [`ObjectError::BucketNotEmpty`], [`ObjectError::NoBucket`]; [`ObjectError::Refused`] for a remote store.
    pub async fn delete_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        self.in_folder(bucket, |folder, bucket| folder.delete_bucket(bucket)).await
    }

    pub(crate) async fn in_folder<T: Send + 'static>(
        &self,
        bucket: &str,
        work: impl FnOnce(&Folder, &str) -> Result<T, ObjectError> + Send + 'static,
    ) -> Result<T, ObjectError> {
        let Store::Folder(folder) = &self.inner.store else {
            return Err(ObjectError::Refused("buckets and versions of a remote store are seen to there"));
        };
        let (folder, bucket) = (Arc::clone(folder), bucket.to_owned());
        blocking(move || work(&folder, &bucket)).await
    }

    /// The buckets by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn list_buckets(&self) -> Result<Vec<Bucket>, ObjectError> {
        match &self.inner.store {
            Store::Remote(remote) => Ok(remote.buckets()),
            Store::Folder(folder) => {
                let folder = Arc::clone(folder);
                blocking(move || folder.buckets()).await
            }
        }
    }

    /// Whether there is such a bucket.
    ///
    /// # Errors
    /// [`ObjectError::BadName`] for what can be none.
    pub async fn bucket_exists(&self, bucket: &str) -> Result<bool, ObjectError> {
        match &self.inner.store {
            Store::Remote(remote) => Ok(remote.has_bucket(bucket)),
            Store::Folder(folder) => {
                let (folder, bucket) = (Arc::clone(folder), bucket.to_owned());
                blocking(move || folder.has_bucket(&bucket)).await
            }
        }
    }

    pub(crate) async fn need_bucket(&self, bucket: &str) -> Result<(), ObjectError> {
        if self.bucket_exists(bucket).await? { Ok(()) } else { Err(ObjectError::NoBucket(bucket.to_owned())) }
    }

    /// Writes an object. Once this answers it outlasts a power cut; until then the old one is there, whole.
    ///
    /// # Errors
    /// When the bucket is missing, the name or the key cannot be used, the condition is not met, or the store fails.
    pub async fn put(
        &self,
        bucket: &str,
        key: &str,
        content: impl Into<Content> + Send,
        options: PutOptions,
    ) -> Result<Head, ObjectError> {
        self.put_watched(bucket, key, content.into(), options, Box::new(NoWatch)).await
    }

    pub(crate) async fn put_watched(
        &self,
        bucket: &str,
        key: &str,
        content: Content,
        options: PutOptions,
        watch: Box<dyn Watch>,
    ) -> Result<Head, ObjectError> {
        self.need_bucket(bucket).await?;
        // Before gigabytes are taken for nothing.
        crate::name::file_of(key)?;
        let condition = options.condition.clone();
        let (scratch, known) = self.spool(content, options, watch).await?;
        self.place(scratch, known, bucket, key, condition).await
    }

    /// Writes an object from a file of this machine.
    ///
    /// # Errors
    /// As [`Objects::put`], and when the file cannot be read.
    pub async fn put_file(
        &self,
        bucket: &str,
        key: &str,
        path: &Path,
        options: PutOptions,
    ) -> Result<Head, ObjectError> {
        let file = fs::File::open(path).map_err(ObjectError::Content)?;
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || send_file(file, &sender));
        let pieces = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        self.put(bucket, key, Content::stream(pieces), options).await
    }

    /// Writes content into the scratch folder.
    pub(crate) async fn spool(
        &self,
        mut content: Content,
        options: PutOptions,
        watch: Box<dyn Watch>,
    ) -> Result<(Scratch, Known), ObjectError> {
        let sealer = self.inner.vault.sealer(options.kms_key.as_deref())?;
        let scratch = self.inner.scratch.clone();
        let (sender, mut receiver) = mpsc::channel::<Option<Bytes>>(PIECES_AHEAD);
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = Writer::new(&scratch, sealer, watch)?;
            // Without the last word nobody knows whether the content is complete.
            loop {
                match receiver.blocking_recv() {
                    Some(Some(piece)) => writer.push(&piece)?,
                    Some(None) => return writer.finish(known_of(options)),
                    None => return Err(ObjectError::Content(io::ErrorKind::UnexpectedEof.into())),
                }
            }
        });
        let mut failure = None;
        loop {
            let piece = match content.0.try_next().await {
                Ok(piece) => piece,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            let is_last = piece.is_none();
            // Closed when writing failed, which it tells itself.
            if sender.send(piece).await.is_err() || is_last {
                break;
            }
        }
        drop(sender);
        let written = writing.await.map_err(ObjectError::storage("write an object"))?;
        match failure {
            Some(error) => Err(ObjectError::Content(error)),
            None => written,
        }
    }

    /// Gives a complete object its name.
    pub(crate) async fn place(
        &self,
        scratch: Scratch,
        known: Known,
        bucket: &str,
        key: &str,
        condition: Condition,
    ) -> Result<Head, ObjectError> {
        // A remote store's other writers are not held off by this, and gigabytes on their way there would hold off ours.
        let needs_lock = matches!(self.inner.store, Store::Folder(_)) || condition != Condition::None;
        let _alone = if needs_lock { Some(self.key_lock(bucket, key).lock().await) } else { None };
        self.check(bucket, key, &condition).await?;
        let known = match &self.inner.store {
            Store::Folder(folder) => {
                let (folder, bucket, key) = (Arc::clone(folder), bucket.to_owned(), key.to_owned());
                blocking(move || folder.place(scratch, known, &bucket, &key)).await?
            }
            Store::Remote(remote) => {
                let path = scratch.path().to_owned();
                let stored = blocking(move || Stored::open(&path)).await?;
                let stored = stored.ok_or_else(|| ObjectError::not_found(bucket, key))?;
                let version = remote.place(Arc::new(stored), bucket, key).await?;
                Known { version, ..known }
            }
        };
        Ok(known.into())
    }

    pub(crate) fn key_lock(&self, bucket: &str, key: &str) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        (bucket, key).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % KEY_LOCKS as u64).unwrap_or_default();
        &self.inner.key_locks[place]
    }

    async fn check(&self, bucket: &str, key: &str, condition: &Condition) -> Result<(), ObjectError> {
        if *condition == Condition::None {
            return Ok(());
        }
        let head = match self.head(bucket, key).await {
            Ok(head) => Some(head),
            Err(ObjectError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let holds = match condition {
            Condition::None => true,
            Condition::Absent => head.is_none(),
            Condition::Present => head.is_some(),
            Condition::Etag(etag) => head.is_some_and(|head| head.etag == *etag),
        };
        if holds { Ok(()) } else { Err(ObjectError::ConditionFailed) }
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// [`ObjectError::NotFound`], [`ObjectError::NoBucket`], or the store fails.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<Head, ObjectError> {
        self.head_version(bucket, key, None).await
    }

    /// Reads one version of an object, or a part of it; `None` for the newest.
    ///
    /// # Errors
    /// As [`Objects::head_version`], and [`ObjectError::BadRange`], [`ObjectError::WrongKey`].
    pub async fn get_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
        range: Option<ByteRange>,
    ) -> Result<Object, ObjectError> {
        let within = |size| range.map_or(Ok(0..size), |range| range.within(size));
        let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
        let (known, range) = match &self.inner.store {
            Store::Folder(folder) => {
                let stored = open(folder, bucket, key, version).await?;
                let known = stored.known.clone();
                let range = within(known.size)?;
                let (vault, wanted) = (self.inner.vault.clone(), range.clone());
                let content = blocking(move || stored.content(&vault, wanted)).await?;
                tokio::task::spawn_blocking(move || send_content(content, &sender));
                (known, range)
            }
            Store::Remote(remote) => {
                let opened = remote.open(bucket, key, version).await?;
                let known = opened.known.clone();
                let range = within(known.size)?;
                let mut content = opened.content(&self.inner.vault, range.clone()).await?;
                tokio::spawn(async move {
                    while let Some(piece) = content.next().await {
                        if sender.send(piece).await.is_err() {
                            break;
                        }
                    }
                });
                (known, range)
            }
        };
        Ok(Object { head: known.into(), range, body: Body(receiver) })
    }

    /// Reads a whole object into memory, if it is no longer than `limit`.
    ///
    /// # Errors
    /// As [`Objects::get`], and [`ObjectError::TooLarge`].
    pub async fn read_at_most(&self, bucket: &str, key: &str, limit: u64) -> Result<Bytes, ObjectError> {
        self.read_version_at_most(bucket, key, None, limit).await
    }

    /// Reads a whole object into memory.
    ///
    /// # Errors
    /// As [`Objects::get`].
    pub async fn read(&self, bucket: &str, key: &str) -> Result<Bytes, ObjectError> {
        self.read_at_most(bucket, key, u64::MAX).await
    }

    /// The objects whose keys start with `prefix` and come after `after`, in the order of their keys' bytes.
    ///
    /// # Errors
    /// [`ObjectError::NoBucket`], or the store fails.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, ObjectError> {
        let page = self.page(bucket, Ask { prefix, delimiter: None, after, limit }).await?;
        let objects = page.items.into_iter().filter_map(|item| match item {
            Item::Object(listed) => Some(listed),
            Item::Prefix(_) => None,
        });
        Ok(objects.collect())
    }

    pub(crate) async fn page(&self, bucket: &str, ask: Ask<'_>) -> Result<Page<Listed>, ObjectError> {
        match &self.inner.store {
            Store::Remote(remote) => {
                let page = remote.page(bucket, ask, &self.inner.vault).await?;
                let items = page.items.into_iter().map(|item| match item {
                    Item::Prefix(prefix) => Item::Prefix(prefix),
                    Item::Object((key, known)) => Item::Object(listed(key, known)),
                });
                Ok(Page { items: items.collect(), next: page.next })
            }
            Store::Folder(folder) => {
                let (folder, bucket, prefix) = (Arc::clone(folder), bucket.to_owned(), ask.prefix.to_owned());
                let (delimiter, after) = (ask.delimiter.map(str::to_owned), ask.after.map(str::to_owned));
                let limit = ask.limit;
                blocking(move || {
                    let ask = Ask { prefix: &prefix, delimiter: delimiter.as_deref(), after: after.as_deref(), limit };
                    let page = folder.page(&bucket, ask)?;
                    Ok(Page { items: page.items.into_iter().filter_map(described).collect(), next: page.next })
                })
                .await
            }
        }
    }

    /// Deletes an object, which stays as an earlier version in a bucket that has versions. Whether it was there.
    ///
    /// # Errors
    /// [`ObjectError::NoBucket`], or the store fails.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<bool, ObjectError> {
        Ok(self.delete_version(bucket, key, None).await?.was_there)
    }

    /// Deletes every object whose key starts with `prefix`, and tells how many.
    ///
    /// # Errors
    /// As [`Objects::delete`]. What was deleted before stays so.
    pub async fn delete_prefix(&self, bucket: &str, prefix: &str) -> Result<u64, ObjectError> {
        let mut deleted = 0;
        let mut after: Option<String> = None;
        loop {
            let ask = Ask { prefix, delimiter: None, after: after.as_deref(), limit: 1000 };
            let page = self.page(bucket, ask).await?;
            for item in page.items {
                let Item::Object(listed) = item else { continue };
                deleted += u64::from(self.delete(bucket, &listed.key).await?);
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(deleted),
            }
        }
    }

    /// Copies an object. `None`: what is known of the source is known of the copy, and the same key encrypts it.
    ///
    /// # Errors
    /// As [`Objects::get`] and [`Objects::put`].
    pub async fn copy(
        &self,
        (from_bucket, from_key): (&str, &str),
        (to_bucket, to_key): (&str, &str),
        options: Option<PutOptions>,
    ) -> Result<Head, ObjectError> {
        let source = self.get(from_bucket, from_key, None).await?;
        let options = options.unwrap_or_else(|| PutOptions {
            content_type: source.head.content_type.clone(),
            metadata: source.head.metadata.clone(),
            headers: source.head.headers.clone(),
            kms_key: source.head.kms_key.clone(),
            condition: Condition::None,
        });
        let content = Content::stream(source.body.map_err(io::Error::other));
        self.put(to_bucket, to_key, content, options).await
    }

    /// Writes an object's content into a file of this machine, decrypted and all at once; its folder is made.
    ///
    /// # Errors
    /// As [`Objects::get`], and when the file cannot be written.
    pub async fn materialize(&self, bucket: &str, key: &str, path: &Path) -> Result<(), ObjectError> {
        let mut body = self.get(bucket, key, None).await?.body;
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        let path = path.to_owned();
        blocking(move || {
            fs::create_dir_all(&folder).map_err(ObjectError::storage("make a folder"))?;
            let scratch = Scratch::new(&folder);
            let mut file = fs::File::create_new(scratch.path()).map_err(ObjectError::storage("create a file"))?;
            while let Some(piece) = body.0.blocking_recv() {
                io::Write::write_all(&mut file, &piece?).map_err(ObjectError::storage("write a file"))?;
            }
            fs::rename(scratch.path(), &path).map_err(ObjectError::storage("put a file in its place"))
        })
        .await
    }
}

/// Runs on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, ObjectError> {
    tokio::task::spawn_blocking(work).await.map_err(ObjectError::storage("wait for a thread"))?
}

pub(crate) async fn open(
    folder: &Arc<Folder>,
    bucket: &str,
    key: &str,
    version: Option<&str>,
) -> Result<Stored, ObjectError> {
    let (folder, bucket, key) = (Arc::clone(folder), bucket.to_owned(), key.to_owned());
    let version = version.map(str::to_owned);
    blocking(move || match version {
        Some(version) => folder.open_version(&bucket, &key, &version),
        None => folder.open(&bucket, &key),
    })
    .await
}

pub(crate) fn known_of(options: PutOptions) -> Known {
    Known {
        content_type: options.content_type,
        metadata: options.metadata,
        headers: options.headers,
        ..Known::default()
    }
}

fn listed(key: String, known: Known) -> Listed {
    let head = Head::from(known);
    Listed { key, size: head.size, etag: head.etag, modified: head.modified }
}

/// `None` for an object that is gone by now, or damaged: the others are listed all the same.
fn described(item: Item<(String, PathBuf)>) -> Option<Item<Listed>> {
    let (key, path) = match item {
        Item::Prefix(prefix) => return Some(Item::Prefix(prefix)),
        Item::Object(object) => object,
    };
    match Stored::open(&path) {
        Ok(stored) => stored.map(|stored| Item::Object(listed(key, stored.known))),
        Err(error) => {
            tracing::warn!(%error, "object left out of a listing");
            None
        }
    }
}

fn send_content(content: FileContent, sender: &mpsc::Sender<Result<Bytes, ObjectError>>) {
    for piece in content {
        if sender.blocking_send(piece).is_err() {
            // The reader has gone.
            return;
        }
    }
}

fn send_file(mut file: fs::File, sender: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = vec![0; 256 * 1024];
        let piece = match io::Read::read(&mut file, &mut piece) {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                Ok(Bytes::from(piece))
            }
            Err(error) => Err(error),
        };
        let failed = piece.is_err();
        if sender.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

fn sweep_folder(folder: &Path, keep: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
        if path == keep || age < ABANDONED {
            continue;
        }
        let swept = if metadata.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match swept {
            Ok(()) => tracing::info!(path = %path.display(), "swept what was left half written"),
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot sweep what was left half written"),
        }
    }
    folder::sync(folder)
}
