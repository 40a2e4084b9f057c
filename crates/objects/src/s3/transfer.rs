//! What requests say of an object, and what answers tell of one, in the words of HTTP.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime};

use futures::{StreamExt as _, TryStreamExt as _};
use http::HeaderMap;
use s3s::dto::{
    ETag, ETagCondition, Expires, GetObjectInput, GetObjectOutput, HeadObjectInput, Metadata, Range,
    ServerSideEncryption, StreamingBlob, Timestamp, TimestampFormat,
};
use s3s::{S3Result, s3_error};

use crate::vault::MANAGED;
use crate::{ByteRange, Condition, Content, Head, Objects, PutOptions};

/// A client that sends nothing for so long is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// Headers that are kept and given back as they came.
const KEPT_HEADERS: [&str; 5] =
    ["cache-control", "content-disposition", "content-encoding", "content-language", "expires"];
/// What S3 allows of user metadata.
const METADATA_BYTES: usize = 2048;

pub(super) fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

pub(super) fn moment(at: jiff::Timestamp) -> Timestamp {
    // HTTP's dates have whole seconds, and clients hold them against those of listings.
    let seconds = jiff::Timestamp::from_second(at.as_second()).unwrap_or(at);
    SystemTime::from(seconds).into()
}

/// A body as content, which ends with an error when its client falls silent.
pub(super) fn content_of(body: Option<StreamingBlob>) -> Content {
    let Some(body) = body else { return Vec::new().into() };
    let pieces = body.map_err(|error| match error.downcast::<s3s::S3Error>() {
        Ok(error) => io::Error::other(error),
        Err(error) => io::Error::other(error),
    });
    Content::stream(futures::stream::unfold(Some(pieces.boxed()), |pieces| async move {
        let mut pieces = pieces?;
        match tokio::time::timeout(READ_TIMEOUT, pieces.next()).await {
            Ok(piece) => piece.map(|piece| (piece, Some(pieces))),
            Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    }))
}

/// Reads what is to be known of a new object from its request.
pub(super) fn put_options(
    objects: &Objects,
    headers: &HeaderMap,
    content_type: Option<String>,
    metadata: Option<Metadata>,
    (encryption, key): (Option<ServerSideEncryption>, Option<String>),
) -> S3Result<PutOptions> {
    if headers.contains_key("x-amz-server-side-encryption-customer-algorithm") {
        return Err(s3_error!(NotImplemented, "Encryption with a customer's key is not offered here."));
    }
    let vault = &objects.inner.vault;
    let key = match (key, encryption) {
        (None, Some(_)) if vault.default_key().is_none() => match vault.managed_key() {
            Some(managed) => Some(managed.to_owned()),
            None => return Err(s3_error!(InvalidArgument, "No default encryption key is configured here.")),
        },
        (key, _) => key,
    };
    let metadata: BTreeMap<String, String> = metadata.into_iter().flatten().collect();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_BYTES {
        return Err(s3_error!(MetadataTooLarge, "Your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(PutOptions { content_type, metadata, headers: kept_headers(headers), kms_key: key, condition: Condition::None })
}

fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for name in KEPT_HEADERS {
        let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else { continue };
        // `aws-chunked` is how the request was sent, not what the object is.
        let value = match name {
            "content-encoding" => {
                let encodings = value.split(',').map(str::trim).filter(|encoding| *encoding != "aws-chunked");
                encodings.collect::<Vec<_>>().join(",")
            }
            _ => value.to_owned(),
        };
        if !value.is_empty() {
            kept.insert(name.to_owned(), value);
        }
    }
    kept
}

/// What a write asks of the object that is there.
pub(super) fn write_condition(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Etag(etag.value().to_owned())),
        _ => Err(s3_error!(NotImplemented, "This combination of conditions is not offered here.")),
    }
}

/// What a read asks of the object.
#[derive(Default)]
pub(super) struct ReadCondition<'a> {
    pub(super) if_match: Option<&'a ETagCondition>,
    pub(super) if_none_match: Option<&'a ETagCondition>,
    pub(super) if_modified_since: Option<&'a Timestamp>,
    pub(super) if_unmodified_since: Option<&'a Timestamp>,
}

impl<'a> ReadCondition<'a> {
    pub(super) fn of_get(input: &'a GetObjectInput) -> Self {
        Self {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        }
    }

    pub(super) fn of_head(input: &'a HeadObjectInput) -> Self {
        Self {
            if_match: input.if_match.as_ref(),
            if_none_match: input.if_none_match.as_ref(),
            if_modified_since: input.if_modified_since.as_ref(),
            if_unmodified_since: input.if_unmodified_since.as_ref(),
        }
    }

    /// Whether the client has the object as it is. An ETag counts for more than a time.
    pub(super) fn is_unchanged(&self, head: &Head) -> S3Result<bool> {
        let modified = moment(head.modified);
        let fails = match (self.if_match, self.if_unmodified_since) {
            (Some(condition), _) => !agrees(condition, head),
            (None, Some(since)) => modified > *since,
            (None, None) => false,
        };
        if fails {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        Ok(match (self.if_none_match, self.if_modified_since) {
            (Some(condition), _) => agrees(condition, head),
            (None, Some(since)) => modified <= *since,
            (None, None) => false,
        })
    }
}

fn agrees(condition: &ETagCondition, head: &Head) -> bool {
    match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(etag) => etag.value() == head.etag,
    }
}

pub(super) fn byte_range(range: Range) -> ByteRange {
    match range {
        Range::Int { first, last: None } => ByteRange::From(first),
        Range::Int { first, last: Some(last) } => ByteRange::Between(first, last.saturating_add(1)),
        Range::Suffix { length } => ByteRange::Last(length),
    }
}

/// What is told of an object, with or without its content.
pub(super) fn described(head: &Head, with_checksums: bool) -> GetObjectOutput {
    let kept = |name: &str| head.headers.get(name).cloned();
    let checksum = |name: &str| head.checksums.get(name).filter(|_| with_checksums).cloned();
    GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        cache_control: kept("cache-control"),
        checksum_crc32: checksum("crc32"),
        checksum_crc32c: checksum("crc32c"),
        checksum_crc64nvme: checksum("crc64nvme"),
        checksum_sha1: checksum("sha1"),
        checksum_sha256: checksum("sha256"),
        checksum_type: head.checksum_type.clone().filter(|_| with_checksums).map(Into::into),
        content_disposition: kept("content-disposition"),
        content_encoding: kept("content-encoding"),
        content_language: kept("content-language"),
        content_length: i64::try_from(head.size).ok(),
        content_type: Some(head.content_type.clone().unwrap_or_else(|| "binary/octet-stream".to_owned())),
        e_tag: Some(strong(&head.etag)),
        expires: kept("expires").and_then(|text| Expires::parse(TimestampFormat::HttpDate, &text).ok()),
        last_modified: Some(moment(head.modified)),
        metadata: Some(head.metadata.clone().into_iter().collect()),
        server_side_encryption: encryption_of(head),
        ssekms_key_id: named_key(head),
        version_id: head.version.clone(),
        ..GetObjectOutput::default()
    }
}

pub(super) fn encryption_of(head: &Head) -> Option<ServerSideEncryption> {
    let told = |key: &String| if key == MANAGED { ServerSideEncryption::AES256 } else { ServerSideEncryption::AWS_KMS };
    head.kms_key.as_ref().map(|key| ServerSideEncryption::from(told(key).to_owned()))
}

/// The key's name, unless it is the store's own.
pub(super) fn named_key(head: &Head) -> Option<String> {
    head.kms_key.clone().filter(|key| key != MANAGED)
}

pub(super) fn checksum(head: &Head, algorithm: &str) -> Option<String> {
    head.checksums.get(algorithm).cloned()
}

pub(super) fn parsed<T>(result: Result<T, impl std::fmt::Display>, what: &str) -> S3Result<T> {
    result.map_err(|_| s3_error!(InvalidArgument, "{what} is not valid"))
}
