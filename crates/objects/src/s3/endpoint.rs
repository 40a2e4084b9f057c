//! The operations. Each takes its request apart, calls the objects, and puts the answer together.

use std::sync::Arc;

use futures::TryStreamExt as _;
use s3s::auth::Credentials;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, BucketLocationConstraint,
    CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CopyObjectResult,
    CopySource, CreateBucketInput, CreateBucketOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput,
    GetBucketVersioningOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput,
    ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, ListPartsInput, ListPartsOutput, MetadataDirective, Owner, PutBucketVersioningInput,
    PutBucketVersioningOutput, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartCopyInput,
    UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, s3_error};

use super::checks::Checks;
use super::fault::fault;
use super::gate::{self, Gate};
use super::transfer::{self, ReadCondition, checksum, content_of, encryption_of, moment, named_key, strong};
use crate::{Content, Head, Objects, PutOptions};

pub(super) struct Endpoint {
    pub(super) objects: Objects,
    pub(super) gate: Arc<dyn Gate>,
    pub(super) region: String,
}

impl Endpoint {
    /// Refuses what the gate does not allow for this object.
    pub(super) async fn need(
        &self,
        credentials: Option<&Credentials>,
        action: &'static str,
        bucket: &str,
        key: &str,
    ) -> S3Result<()> {
        gate::need(&*self.gate, credentials, action, Some(bucket), Some(key)).await
    }

    /// What is known of a copy that is not to be as its source.
    fn replaced(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<PutOptions> {
        let input = &mut request.input;
        let encryption = (input.server_side_encryption.clone(), input.ssekms_key_id.clone());
        let (content_type, metadata) = (input.content_type.take(), input.metadata.take());
        transfer::put_options(&self.objects, &request.headers, content_type, metadata, encryption)
    }
}

/// Where a copy comes from.
pub(super) struct Source<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) version: Option<&'a str>,
}

pub(super) fn source_of(source: &CopySource) -> S3Result<Source<'_>> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => Ok(Source { bucket, key, version: version_id.as_deref() }),
        _ => Err(s3_error!(NotImplemented, "Copies come from a bucket here.")),
    }
}

/// An object in one piece is its own first part; of others, where their parts met is not known any more.
fn need_whole(part: Option<i32>, head: &Head) -> S3Result<()> {
    match part {
        None => Ok(()),
        Some(1) if !head.etag.contains('-') => Ok(()),
        Some(_) => Err(s3_error!(NotImplemented, "Single parts of an object are not offered here.")),
    }
}

fn answer<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::new(output))
}

fn unchanged(etag: &str) -> S3Error {
    let mut error = s3_error!(NotModified);
    let mut headers = http::HeaderMap::new();
    if let Ok(etag) = http::HeaderValue::from_str(&format!("\"{etag}\"")) {
        headers.insert(http::header::ETAG, etag);
    }
    error.set_headers(headers);
    error
}

#[async_trait::async_trait]
impl S3 for Endpoint {
    async fn list_buckets(&self, request: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.objects.list_buckets().await.map_err(fault)?;
        let prefix = request.input.prefix.clone().unwrap_or_default();
        let lines = buckets.into_iter().filter(|bucket| bucket.name.starts_with(&prefix)).map(|bucket| Bucket {
            name: Some(bucket.name),
            creation_date: Some(moment(bucket.created_at)),
            bucket_region: None,
        });
        let owner = Owner { display_name: None, id: Some("linewarden".to_owned()) };
        answer(ListBucketsOutput {
            buckets: Some(lines.collect()),
            owner: Some(owner),
            prefix: request.input.prefix,
            ..ListBucketsOutput::default()
        })
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        self.objects.create_bucket(&bucket).await.map_err(fault)?;
        answer(CreateBucketOutput { location: Some(format!("/{bucket}")) })
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.objects.need_bucket(&request.input.bucket).await.map_err(fault)?;
        answer(HeadBucketOutput { bucket_region: Some(self.region.clone()), ..HeadBucketOutput::default() })
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.objects.delete_bucket(&request.input.bucket).await.map_err(fault)?;
        answer(DeleteBucketOutput {})
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.objects.need_bucket(&request.input.bucket).await.map_err(fault)?;
        // The oldest region is told by silence.
        let region = Some(self.region.clone()).filter(|region| region != "us-east-1");
        answer(GetBucketLocationOutput { location_constraint: region.map(BucketLocationConstraint::from) })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let input = &request.input;
        let range = input.range.map(transfer::byte_range);
        let condition = ReadCondition::of_get(input);
        let version = input.version_id.as_deref();
        let head = self.objects.head_version(&input.bucket, &input.key, version).await.map_err(fault)?;
        need_whole(input.part_number, &head)?;
        if condition.is_unchanged(&head)? {
            return Err(unchanged(&head.etag));
        }
        let object = self.objects.get_version(&input.bucket, &input.key, version, range).await.map_err(fault)?;
        let size = object.head.size;
        let length = object.range.end - object.range.start;
        let whole = length == size;
        let mut output = transfer::described(&object.head, whole && input.checksum_mode.is_some());
        output.content_length = i64::try_from(length).ok();
        if range.is_some() {
            output.content_range =
                Some(format!("bytes {}-{}/{size}", object.range.start, object.range.end.saturating_sub(1)));
        }
        override_headers(&mut output, &request.input);
        output.body = Some(StreamingBlob::wrap(object.body));
        answer(output)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = &request.input;
        let version = input.version_id.as_deref();
        let head = self.objects.head_version(&input.bucket, &input.key, version).await.map_err(fault)?;
        need_whole(input.part_number, &head)?;
        if ReadCondition::of_head(input).is_unchanged(&head)? {
            return Err(unchanged(&head.etag));
        }
        let told = transfer::described(&head, input.checksum_mode.is_some());
        answer(HeadObjectOutput {
            accept_ranges: told.accept_ranges,
            cache_control: told.cache_control,
            checksum_crc32: told.checksum_crc32,
            checksum_crc32c: told.checksum_crc32c,
            checksum_crc64nvme: told.checksum_crc64nvme,
            checksum_sha1: told.checksum_sha1,
            checksum_sha256: told.checksum_sha256,
            checksum_type: told.checksum_type,
            content_disposition: told.content_disposition,
            content_encoding: told.content_encoding,
            content_language: told.content_language,
            content_length: told.content_length,
            content_type: told.content_type,
            e_tag: told.e_tag,
            expires: told.expires,
            last_modified: told.last_modified,
            metadata: told.metadata,
            server_side_encryption: told.server_side_encryption,
            ssekms_key_id: told.ssekms_key_id,
            version_id: told.version_id,
            ..HeadObjectOutput::default()
        })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let checks = Checks::of(&request.headers, request.trailing_headers)?;
        let input = request.input;
        let encryption = (input.server_side_encryption, input.ssekms_key_id);
        let mut options =
            transfer::put_options(&self.objects, &request.headers, input.content_type, input.metadata, encryption)?;
        options.condition = transfer::write_condition(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let content = content_of(input.body);
        let put = self.objects.put_watched(&input.bucket, &input.key, content, options, Box::new(checks)).await;
        let head = put.map_err(fault)?;
        answer(PutObjectOutput {
            e_tag: Some(strong(&head.etag)),
            checksum_crc32: checksum(&head, "crc32"),
            checksum_crc32c: checksum(&head, "crc32c"),
            checksum_crc64nvme: checksum(&head, "crc64nvme"),
            checksum_sha1: checksum(&head, "sha1"),
            checksum_sha256: checksum(&head, "sha256"),
            checksum_type: head.checksum_type.clone().map(Into::into),
            server_side_encryption: encryption_of(&head),
            ssekms_key_id: named_key(&head),
            version_id: head.version,
            ..PutObjectOutput::default()
        })
    }

    async fn copy_object(&self, mut request: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        let source = request.input.copy_source.clone();
        let from = source_of(&source)?;
        let read = gate::of_version(gate::READS, from.version);
        self.need(request.credentials.as_ref(), read, from.bucket, from.key).await?;
        let (to_bucket, to_key) = (request.input.bucket.clone(), request.input.key.clone());
        let replaces = request
            .input
            .metadata_directive
            .as_ref()
            .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
        let asked = self.replaced(&mut request)?;
        // An earlier version of itself is another matter.
        let is_itself = from.version.is_none() && (from.bucket, from.key) == (to_bucket.as_str(), to_key.as_str());
        if is_itself && !replaces && asked.kms_key.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal: it copies an object to itself without changing anything."
            ));
        }
        let object = self.objects.get_version(from.bucket, from.key, from.version, None).await.map_err(fault)?;
        let from_version = object.head.version.clone();
        let condition = ReadCondition {
            if_match: request.input.copy_source_if_match.as_ref(),
            if_none_match: request.input.copy_source_if_none_match.as_ref(),
            if_modified_since: request.input.copy_source_if_modified_since.as_ref(),
            if_unmodified_since: request.input.copy_source_if_unmodified_since.as_ref(),
        };
        if condition.is_unchanged(&object.head)? {
            return Err(s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold"));
        }
        let options = match replaces {
            true => asked,
            false => PutOptions {
                content_type: object.head.content_type.clone(),
                metadata: object.head.metadata.clone(),
                headers: object.head.headers.clone(),
                kms_key: asked.kms_key.or(object.head.kms_key.clone()),
                ..PutOptions::default()
            },
        };
        let content = Content::stream(object.body.map_err(std::io::Error::other));
        let head = self.objects.put(&to_bucket, &to_key, content, options).await.map_err(fault)?;
        answer(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(strong(&head.etag)),
                last_modified: Some(moment(head.modified)),
                ..CopyObjectResult::default()
            }),
            copy_source_version_id: from_version,
            server_side_encryption: encryption_of(&head),
            ssekms_key_id: named_key(&head),
            version_id: head.version,
            ..CopyObjectOutput::default()
        })
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        answer(self.delete(&request.input).await?)
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        answer(self.delete_all(request).await?)
    }

    async fn get_bucket_versioning(
        &self,
        request: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        answer(self.versioning_of(&request.input.bucket).await?)
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        self.change_versioning(request.input).await?;
        answer(PutBucketVersioningOutput::default())
    }

    async fn list_object_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        answer(self.list_versions(request.input).await?)
    }

    async fn list_objects(&self, request: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        answer(self.list_first(request.input).await?)
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        answer(self.list_second(request.input).await?)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        answer(self.begin_upload(request).await?)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        answer(self.take_part(request).await?)
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        answer(self.copy_part(request).await?)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        answer(self.finish_upload(request).await?)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.give_up_upload(request.input).await?;
        answer(AbortMultipartUploadOutput::default())
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        answer(self.parts_page(request.input).await?)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        answer(self.uploads_page(request.input).await?)
    }
}

/// A request may say under which headers it wants the content.
fn override_headers(output: &mut GetObjectOutput, input: &GetObjectInput) {
    let overrides = [
        (&mut output.cache_control, &input.response_cache_control),
        (&mut output.content_disposition, &input.response_content_disposition),
        (&mut output.content_encoding, &input.response_content_encoding),
        (&mut output.content_language, &input.response_content_language),
        (&mut output.content_type, &input.response_content_type),
    ];
    for (header, wanted) in overrides {
        if wanted.is_some() {
            header.clone_from(wanted);
        }
    }
}
