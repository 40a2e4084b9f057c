//! How one object lies in one file: its content, encrypted or not, then what is known of it, then a trailer.
//!
//! What is known comes last because the checksums of a stream are known last; content and knowledge still come into being
//! with one rename. All of this blocks: it runs on threads of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::ObjectError;
use crate::vault::{self, CHUNK_BYTES, HEADER_BYTES, Opener, SEALED_CHUNK_BYTES, Sealer, Vault};
use crate::version::Stamp;

const MAGIC: &[u8; 8] = b"LWOBJ\0\x01\n";
const CHECK_BYTES: usize = 12;
/// Length of what is known, its check, and the magic.
const TRAILER_BYTES: usize = 4 + CHECK_BYTES + MAGIC.len();
/// Read at once from a file's end: what is known of an object nearly always fits.
const TAIL_BYTES: u64 = 2048;
/// A longer text is not one of ours.
const KNOWN_BYTES: usize = 1024 * 1024;

/// What is known of an object.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    /// Of the content, not of what is stored.
    pub(crate) size: u64,
    pub(crate) etag: String,
    pub(crate) modified_us: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kms_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    /// Those that the sender asked for, by algorithm.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) checksums: BTreeMap<String, String>,
    /// `FULL_OBJECT` or `COMPOSITE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checksum_type: Option<String>,
    /// Which of its key's versions it is. Missing in buckets that never had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stamp: Option<Stamp>,
    /// The version's id as clients are told, in a bucket that has versions.
    #[serde(skip)]
    pub(crate) version: Option<String>,
}

/// Sees the content on its way, and may refuse it before anybody else can see it.
pub(crate) trait Watch: Send {
    fn update(&mut self, bytes: &[u8]);
    fn finish(self: Box<Self>, known: &mut Known) -> Result<(), ObjectError>;
}

/// For content that nobody sent a checksum for.
pub(crate) struct NoWatch;

impl Watch for NoWatch {
    fn update(&mut self, _bytes: &[u8]) {}

    fn finish(self: Box<Self>, _known: &mut Known) -> Result<(), ObjectError> {
        Ok(())
    }
}

/// A file that is removed unless it was moved to where it belongs.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(folder: &Path) -> Self {
        Self(folder.join(Uuid::new_v4().to_string()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone already when it was moved.
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes one object into a file that nobody knows yet.
pub(crate) struct Writer {
    scratch: Scratch,
    file: BufWriter<File>,
    sealer: Option<Sealer>,
    /// Content that is not a full chunk yet, when it is to be encrypted.
    chunk: Vec<u8>,
    md5: Md5,
    size: u64,
    watch: Box<dyn Watch>,
}

impl Writer {
    pub(crate) fn new(folder: &Path, sealer: Option<Sealer>, watch: Box<dyn Watch>) -> Result<Self, ObjectError> {
        let scratch = Scratch::new(folder);
        let file = File::create_new(scratch.path()).map_err(ObjectError::storage("create a file"))?;
        let mut file = BufWriter::with_capacity(4 * CHUNK_BYTES, file);
        if let Some(sealer) = &sealer {
            file.write_all(sealer.header()).map_err(ObjectError::storage("write a file"))?;
        }
        Ok(Self { scratch, file, sealer, chunk: Vec::new(), md5: Md5::new(), size: 0, watch })
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.md5.update(bytes);
        self.watch.update(bytes);
        self.size += bytes.len() as u64;
        if self.sealer.is_none() {
            return self.file.write_all(bytes).map_err(ObjectError::storage("write a file"));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            // Only now it is known that the full chunk is not the last one.
            if self.chunk.len() == CHUNK_BYTES {
                self.write_chunk(false)?;
            }
            let (now, later) = rest.split_at(rest.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            rest = later;
        }
        Ok(())
    }

    fn write_chunk(&mut self, is_last: bool) -> Result<(), ObjectError> {
        let Some(sealer) = &mut self.sealer else { return Ok(()) };
        sealer.seal(&mut self.chunk, is_last)?;
        self.file.write_all(&self.chunk).map_err(ObjectError::storage("write a file"))?;
        self.chunk.clear();
        Ok(())
    }

    /// On the disk, complete, and still known to nobody.
    pub(crate) fn finish(mut self, mut known: Known) -> Result<(Scratch, Known), ObjectError> {
        self.write_chunk(true)?;
        known.size = self.size;
        known.etag = hexadecimal(&self.md5.finalize());
        known.modified_us = Timestamp::now().as_microsecond();
        known.kms_key = self.sealer.as_ref().map(Sealer::key_name);
        self.watch.finish(&mut known)?;

        self.file.write_all(&end_of(&known)?).map_err(ObjectError::storage("write a file"))?;
        let file = self.file.into_inner().map_err(|error| error.into_error());
        file.and_then(|file| file.sync_all()).map_err(ObjectError::storage("write a file to the disk"))?;
        Ok((self.scratch, known))
    }
}

/// What is known of an object, as it stands at its file's end.
fn end_of(known: &Known) -> Result<Vec<u8>, ObjectError> {
    let mut end = serde_json::to_vec(known).map_err(ObjectError::storage("write what is known of an object"))?;
    let length = u32::try_from(end.len()).map_err(ObjectError::storage("write what is known of an object"))?;
    let check = Sha256::digest(&end);
    end.extend_from_slice(&length.to_le_bytes());
    end.extend_from_slice(&check[..CHECK_BYTES]);
    end.extend_from_slice(MAGIC);
    Ok(end)
}

/// Replaces what is known of an object that nobody else knows yet: its place among the versions is known last of all.
pub(crate) fn rewrite_known(scratch: &Scratch, known: &Known) -> Result<(), ObjectError> {
    let end = end_of(known)?;
    let rewrite = || -> io::Result<()> {
        let file = File::options().read(true).write(true).open(scratch.path())?;
        let (content_bytes, _) = known_of(&file)?.ok_or(io::ErrorKind::InvalidData)?;
        file.set_len(content_bytes)?;
        file.write_all_at(&end, content_bytes)?;
        file.sync_all()
    };
    rewrite().map_err(ObjectError::storage("write a file to the disk"))
}

/// An object's file, open: what happens to its name from now on changes nothing.
#[derive(Debug)]
pub(crate) struct Stored {
    file: File,
    /// As stored: without what is known of it.
    pub(crate) content_bytes: u64,
    pub(crate) known: Known,
    path: PathBuf,
}

impl Stored {
    /// `None` when there is no such file.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, ObjectError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return Ok(None),
            Err(error) => return Err(ObjectError::storage("open an object")(error)),
        };
        let (content_bytes, known) = known_of(&file)
            .map_err(ObjectError::storage("read an object"))?
            .ok_or_else(|| ObjectError::Damaged(path.display().to_string()))?;
        Ok(Some(Self { file, content_bytes, known, path: path.to_owned() }))
    }

    /// The content's bytes of a range, which lies within it.
    pub(crate) fn content(self, vault: &Vault, range: Range<u64>) -> Result<Content, ObjectError> {
        let opener = match &self.known.kms_key {
            None => None,
            Some(_) => {
                let mut header = [0; HEADER_BYTES];
                self.file.read_exact_at(&mut header, 0).map_err(ObjectError::storage("read an object"))?;
                Some(vault.opener(&header)?)
            }
        };
        Ok(Content { stored: self, opener, rest: range })
    }

    pub(crate) fn whole(self, vault: &Vault) -> Result<Content, ObjectError> {
        let range = 0..self.known.size;
        self.content(vault, range)
    }

    /// As stored, encrypted or not.
    pub(crate) fn read_stored(&self, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let length = usize::try_from(range.end - range.start).map_err(ObjectError::storage("read an object"))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, range.start).map_err(ObjectError::storage("read an object"))?;
        Ok(bytes)
    }
}

fn known_of(file: &File) -> io::Result<Option<(u64, Known)>> {
    let file_bytes = file.metadata()?.len();
    let Some(trailer_start) = file_bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let tail_start = file_bytes.saturating_sub(TAIL_BYTES);
    let mut tail = vec![0; usize::try_from(file_bytes - tail_start).unwrap_or_default()];
    file.read_exact_at(&mut tail, tail_start)?;
    let (before, trailer) = tail.split_at(tail.len() - TRAILER_BYTES);
    let (length, trailer) = trailer.split_at(4);
    let (check, magic) = trailer.split_at(CHECK_BYTES);
    let length = u32::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
    let Some(content_bytes) = trailer_start.checked_sub(length as u64) else { return Ok(None) };
    if magic != MAGIC || length > KNOWN_BYTES {
        return Ok(None);
    }
    let text = match before.len().checked_sub(length) {
        Some(start) => before[start..].to_vec(),
        None => {
            let mut text = vec![0; length];
            file.read_exact_at(&mut text, content_bytes)?;
            text
        }
    };
    if Sha256::digest(&text)[..CHECK_BYTES] != *check {
        return Ok(None);
    }
    let Ok(known) = serde_json::from_slice::<Known>(&text) else { return Ok(None) };
    let size = if known.kms_key.is_some() { vault::plain_size(content_bytes) } else { Some(content_bytes) };
    Ok((size == Some(known.size)).then_some((content_bytes, known)))
}

/// An object's content, piece by piece.
pub(crate) struct Content {
    stored: Stored,
    opener: Option<Opener>,
    rest: Range<u64>,
}

impl Content {
    fn next_piece(&mut self) -> Result<Bytes, ObjectError> {
        let number = self.rest.start / CHUNK_BYTES as u64;
        let chunk_start = number * CHUNK_BYTES as u64;
        let chunk_end = (chunk_start + CHUNK_BYTES as u64).min(self.stored.known.size);
        let end = chunk_end.min(self.rest.end);
        let piece = match &self.opener {
            None => self.stored.read_stored(self.rest.start..end).map(Bytes::from)?,
            Some(opener) => {
                let start = sealed_start(number);
                let stored_end = (start + SEALED_CHUNK_BYTES as u64).min(self.stored.content_bytes);
                let mut chunk = self.stored.read_stored(start..stored_end)?;
                opener
                    .open(number, &mut chunk, chunk_end == self.stored.known.size)
                    .map_err(|_| ObjectError::Damaged(self.stored.path.display().to_string()))?;
                let within = |place: u64| usize::try_from(place - chunk_start).unwrap_or_default();
                Bytes::from(chunk).slice(within(self.rest.start)..within(end))
            }
        };
        self.rest.start = end;
        Ok(piece)
    }
}

/// Where a chunk begins, as stored.
pub(crate) fn sealed_start(chunk: u64) -> u64 {
    HEADER_BYTES as u64 + chunk * SEALED_CHUNK_BYTES as u64
}

impl Iterator for Content {
    type Item = Result<Bytes, ObjectError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let piece = self.next_piece();
        if piece.is_err() {
            self.rest.start = self.rest.end;
        }
        Some(piece)
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
