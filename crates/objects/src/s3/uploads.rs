//! Uploads in parts, as clients drive them.

use s3s::dto::{
    AbortMultipartUploadInput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyPartResult,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListPartsInput, ListPartsOutput, MultipartUpload, Part, Range, UploadPartCopyInput, UploadPartCopyOutput,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3Request, S3Result, s3_error};

use super::checks::{COMPOSITE, Checks, Composite, FULL_OBJECT, algorithm_of, composite_of};
use super::endpoint::{Endpoint, source_of};
use super::fault::fault;
use super::gate::{READS, of_version};
use super::transfer::{self, checksum, content_of, encryption_of, moment, named_key, strong};
use crate::file::{Known, Watch};
use crate::parts::{Chosen, Upload};
use crate::{Content, Head, ObjectError};
use futures::TryStreamExt as _;

const LAST_PART_NUMBER: u32 = 10_000;
/// Parts or uploads in one answer.
const PAGE: i32 = 1000;

impl Endpoint {
    pub(super) async fn begin_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<CreateMultipartUploadOutput> {
        let input = request.input;
        let encryption = (input.server_side_encryption, input.ssekms_key_id);
        let options =
            transfer::put_options(&self.objects, &request.headers, input.content_type, input.metadata, encryption)?;
        let algorithm = match &input.checksum_algorithm {
            Some(name) => Some(
                algorithm_of(name.as_str())
                    .ok_or_else(|| s3_error!(InvalidRequest, "Checksum algorithm is not supported."))?,
            ),
            None => None,
        };
        let checksum_type = match (input.checksum_type.as_ref().map(|kind| kind.as_str()), algorithm) {
            (_, None) => None,
            (Some(kind @ (FULL_OBJECT | COMPOSITE)), _) => Some(kind.to_owned()),
            (Some(_), _) => return Err(s3_error!(InvalidRequest, "Checksum type is not supported.")),
            // What S3 takes when a client does not say.
            (None, Some("crc64nvme")) => Some(FULL_OBJECT.to_owned()),
            (None, Some(_)) => Some(COMPOSITE.to_owned()),
        };
        let checksum = (algorithm.map(str::to_owned), checksum_type.clone());
        let id = self.objects.create_upload(&input.bucket, &input.key, options, checksum).await.map_err(fault)?;
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: checksum_type.map(Into::into),
            ..CreateMultipartUploadOutput::default()
        })
    }

    pub(super) async fn take_part(&self, request: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
        let checks = Checks::of(&request.headers, request.trailing_headers)?;
        let input = request.input;
        let number = part_number(input.part_number)?;
        let upload = self.objects.upload(&input.bucket, &input.key, &input.upload_id).await.map_err(fault)?;
        let content = content_of(input.body);
        let head = self.objects.put_part(&upload, number, content, Box::new(checks)).await.map_err(fault)?;
        Ok(UploadPartOutput {
            e_tag: Some(strong(&head.etag)),
            checksum_crc32: checksum(&head, "crc32"),
            checksum_crc32c: checksum(&head, "crc32c"),
            checksum_crc64nvme: checksum(&head, "crc64nvme"),
            checksum_sha1: checksum(&head, "sha1"),
            checksum_sha256: checksum(&head, "sha256"),
            server_side_encryption: encryption_of(&head),
            ssekms_key_id: named_key(&head),
            ..UploadPartOutput::default()
        })
    }

    pub(super) async fn copy_part(&self, request: S3Request<UploadPartCopyInput>) -> S3Result<UploadPartCopyOutput> {
        let credentials = request.credentials;
        let input = request.input;
        let number = part_number(input.part_number)?;
        let upload = self.objects.upload(&input.bucket, &input.key, &input.upload_id).await.map_err(fault)?;
        let from = source_of(&input.copy_source)?;
        self.need(credentials.as_ref(), of_version(READS, from.version), from.bucket, from.key).await?;
        let range = match &input.copy_source_range {
            Some(range) => Some(transfer::byte_range(transfer::parsed(Range::parse(range), "CopySourceRange")?)),
            None => None,
        };
        let source = self.objects.get_version(from.bucket, from.key, from.version, range).await.map_err(fault)?;
        let from_version = source.head.version.clone();
        let content = Content::stream(source.body.map_err(std::io::Error::other));
        let algorithm = upload.checksum.as_deref().and_then(algorithm_of);
        let checks = Checks::computing(algorithm, None);
        let head = self.objects.put_part(&upload, number, content, Box::new(checks)).await.map_err(fault)?;
        Ok(UploadPartCopyOutput {
            copy_part_result: Some(CopyPartResult {
                e_tag: Some(strong(&head.etag)),
                last_modified: Some(moment(head.modified)),
                ..CopyPartResult::default()
            }),
            copy_source_version_id: from_version,
            ..UploadPartCopyOutput::default()
        })
    }

    pub(super) async fn finish_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let input = request.input;
        let condition = transfer::write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let upload = self.objects.upload(&input.bucket, &input.key, &input.upload_id).await.map_err(fault)?;
        let mut chosen = Vec::new();
        for part in input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default() {
            let number = part.part_number.ok_or_else(|| s3_error!(MalformedXML, "A part has no number."))?;
            let etag = part.e_tag.map(|etag| etag.value().trim_matches('"').to_owned());
            chosen.push(Chosen { number: part_number(number)?, etag });
        }
        if chosen.is_empty() {
            return Err(s3_error!(MalformedXML, "You must specify at least one part"));
        }
        let expected = [
            ("crc32", input.checksum_crc32),
            ("crc32c", input.checksum_crc32c),
            ("crc64nvme", input.checksum_crc64nvme),
            ("sha1", input.checksum_sha1),
            ("sha256", input.checksum_sha256),
        ];
        let expected = expected.into_iter().find_map(|(algorithm, value)| Some((algorithm, value?)));
        let watch = whole_watch(&upload, expected);
        let (bucket, key) = (input.bucket, input.key);
        let head = self.objects.complete_upload(upload, chosen, condition, Box::new(watch)).await.map_err(fault)?;
        Ok(completed(bucket, key, &head))
    }

    pub(super) async fn give_up_upload(&self, input: AbortMultipartUploadInput) -> S3Result<()> {
        let upload = self.objects.upload(&input.bucket, &input.key, &input.upload_id).await.map_err(fault)?;
        self.objects.abort_upload(&upload).await.map_err(fault)
    }

    pub(super) async fn parts_page(&self, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let upload = self.objects.upload(&input.bucket, &input.key, &input.upload_id).await.map_err(fault)?;
        let marker = input.part_number_marker.unwrap_or_default();
        let limit = input.max_parts.unwrap_or(PAGE).clamp(0, PAGE);
        let after = u32::try_from(marker).unwrap_or_default();
        let mut parts = self.objects.parts(&upload).await.map_err(fault)?;
        parts.retain(|(number, _)| *number > after);
        let is_truncated = parts.len() > usize::try_from(limit).unwrap_or_default();
        parts.truncate(usize::try_from(limit).unwrap_or_default());
        let last = parts.last().and_then(|(number, _)| i32::try_from(*number).ok());
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: Some(marker),
            next_part_number_marker: last,
            max_parts: Some(limit),
            is_truncated: Some(is_truncated),
            checksum_type: upload.checksum_type.map(Into::into),
            parts: Some(parts.iter().map(part_line).collect()),
            ..ListPartsOutput::default()
        })
    }

    pub(super) async fn uploads_page(&self, input: ListMultipartUploadsInput) -> S3Result<ListMultipartUploadsOutput> {
        let prefix = input.prefix.clone().unwrap_or_default();
        let key_marker = input.key_marker.clone().unwrap_or_default();
        let id_marker = input.upload_id_marker.clone();
        let limit = input.max_uploads.unwrap_or(PAGE).clamp(0, PAGE);
        let mut uploads = self.objects.uploads(&input.bucket).await.map_err(fault)?;
        uploads.retain(|upload| {
            let is_behind = match &id_marker {
                Some(id) => (&upload.key, &upload.id) > (&key_marker, id),
                None => upload.key > key_marker,
            };
            upload.key.starts_with(&prefix) && is_behind
        });
        let is_truncated = uploads.len() > usize::try_from(limit).unwrap_or_default();
        uploads.truncate(usize::try_from(limit).unwrap_or_default());
        let last = uploads.last().filter(|_| is_truncated);
        Ok(ListMultipartUploadsOutput {
            next_key_marker: last.map(|upload| upload.key.clone()),
            next_upload_id_marker: last.map(|upload| upload.id.clone()),
            uploads: Some(uploads.iter().map(upload_line).collect()),
            bucket: Some(input.bucket),
            prefix: input.prefix,
            key_marker: Some(key_marker),
            upload_id_marker: input.upload_id_marker,
            max_uploads: Some(limit),
            is_truncated: Some(is_truncated),
            ..ListMultipartUploadsOutput::default()
        })
    }
}

fn part_number(number: i32) -> S3Result<u32> {
    let number = u32::try_from(number).ok().filter(|number| (1..=LAST_PART_NUMBER).contains(number));
    number.ok_or_else(|| s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive"))
}

/// Holds the complete object against the checksum that was agreed on when the upload began.
fn whole_watch(
    upload: &Upload,
    expected: Option<(&'static str, String)>,
) -> impl FnOnce(&[Known]) -> Result<Box<dyn Watch>, ObjectError> + Send + use<> {
    let agreed = upload.checksum.as_deref().and_then(algorithm_of);
    let is_composite = upload.checksum_type.as_deref() == Some(COMPOSITE);
    move |parts| {
        let expected_of = |algorithm| expected.filter(|(name, _)| *name == algorithm).map(|(_, value)| value);
        let Some(algorithm) = agreed else { return Ok(Box::new(Checks::default())) };
        if !is_composite {
            return Ok(Box::new(Checks::computing(Some(algorithm), expected_of(algorithm))));
        }
        let Some(value) = composite_of(algorithm, parts) else { return Ok(Box::new(Checks::default())) };
        if expected_of(algorithm)
            .is_some_and(|expected| expected != value && !value.starts_with(&format!("{expected}-")))
        {
            return Err(ObjectError::BadDigest("checksum"));
        }
        Ok(Box::new(Composite { algorithm, value }))
    }
}

fn completed(bucket: String, key: String, head: &Head) -> CompleteMultipartUploadOutput {
    CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket),
        key: Some(key),
        e_tag: Some(strong(&head.etag)),
        checksum_crc32: checksum(head, "crc32"),
        checksum_crc32c: checksum(head, "crc32c"),
        checksum_crc64nvme: checksum(head, "crc64nvme"),
        checksum_sha1: checksum(head, "sha1"),
        checksum_sha256: checksum(head, "sha256"),
        checksum_type: head.checksum_type.clone().map(Into::into),
        server_side_encryption: encryption_of(head),
        ssekms_key_id: named_key(head),
        version_id: head.version.clone(),
        ..CompleteMultipartUploadOutput::default()
    }
}

fn part_line((number, head): &(u32, Head)) -> Part {
    Part {
        part_number: i32::try_from(*number).ok(),
        size: i64::try_from(head.size).ok(),
        e_tag: Some(strong(&head.etag)),
        last_modified: Some(moment(head.modified)),
        checksum_crc32: checksum(head, "crc32"),
        checksum_crc32c: checksum(head, "crc32c"),
        checksum_crc64nvme: checksum(head, "crc64nvme"),
        checksum_sha1: checksum(head, "sha1"),
        checksum_sha256: checksum(head, "sha256"),
    }
}

fn upload_line(upload: &Upload) -> MultipartUpload {
    MultipartUpload {
        key: Some(upload.key.clone()),
        upload_id: Some(upload.id.clone()),
        initiated: Some(moment(upload.created())),
        ..MultipartUpload::default()
    }
}
