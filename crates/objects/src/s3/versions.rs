//! Versions, as clients ask for them: of which buckets they are kept, deleting them, and listing them all.

use s3s::auth::Credentials;
use s3s::dto::{
    BucketVersioningStatus, CommonPrefix, DeleteMarkerEntry, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, Error, GetBucketVersioningOutput, ListObjectVersionsInput,
    ListObjectVersionsOutput, MFADelete, ObjectIdentifier, ObjectVersion, ObjectVersionStorageClass,
    PutBucketVersioningInput,
};
use s3s::{S3Request, S3Result, s3_error};

use super::endpoint::Endpoint;
use super::fault::fault;
use super::gate::{DELETES, of_version};
use super::listing::{encoding_of, limit_of};
use super::transfer::{moment, strong};
use crate::page::{Ask, Item, Page};
use crate::version_page::ListedVersion;
use crate::{Deletion, Versioning, name};

/// Keys in one request to delete them.
const DELETED_AT_ONCE: usize = 1000;

impl Endpoint {
    pub(super) async fn change_versioning(&self, input: PutBucketVersioningInput) -> S3Result<()> {
        let asked = input.versioning_configuration;
        if asked.mfa_delete.is_some_and(|delete| delete.as_str() == MFADelete::ENABLED) {
            return Err(s3_error!(NotImplemented, "Deletion with a second factor is not offered here."));
        }
        let versioning = asked.status.and_then(|status| Versioning::from_name(status.as_str()));
        let versioning = versioning.ok_or_else(|| s3_error!(MalformedXML, "Status must be Enabled or Suspended."))?;
        self.objects.set_versioning(&input.bucket, versioning).await.map_err(fault)
    }

    pub(super) async fn versioning_of(&self, bucket: &str) -> S3Result<GetBucketVersioningOutput> {
        let versioning = self.objects.versioning(bucket).await.map_err(fault)?;
        let status = versioning.map(|versioning| BucketVersioningStatus::from_static(versioning.name()));
        Ok(GetBucketVersioningOutput { status, ..GetBucketVersioningOutput::default() })
    }

    pub(super) async fn delete(&self, input: &DeleteObjectInput) -> S3Result<DeleteObjectOutput> {
        let version = input.version_id.as_deref();
        let deletion = self.objects.delete_version(&input.bucket, &input.key, version).await.map_err(fault)?;
        Ok(DeleteObjectOutput {
            delete_marker: deletion.is_marker.then_some(true),
            version_id: deletion.version,
            ..DeleteObjectOutput::default()
        })
    }

    pub(super) async fn delete_all(&self, request: S3Request<DeleteObjectsInput>) -> S3Result<DeleteObjectsOutput> {
        let input = request.input;
        self.objects.need_bucket(&input.bucket).await.map_err(fault)?;
        if input.delete.objects.len() > DELETED_AT_ONCE {
            return Err(s3_error!(MalformedXML, "More than 1000 keys are named."));
        }
        let is_quiet = input.delete.quiet.unwrap_or_default();
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            match self.delete_one(request.credentials.as_ref(), &input.bucket, &object).await {
                Ok(_) if is_quiet => {}
                Ok(deletion) => deleted.push(deleted_line(object, deletion)),
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    key: Some(object.key),
                    version_id: object.version_id,
                }),
            }
        }
        Ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), ..DeleteObjectsOutput::default() })
    }

    async fn delete_one(
        &self,
        credentials: Option<&Credentials>,
        bucket: &str,
        object: &ObjectIdentifier,
    ) -> S3Result<Deletion> {
        let version = object.version_id.as_deref();
        self.need(credentials, of_version(DELETES, version), bucket, &object.key).await?;
        self.objects.delete_version(bucket, &object.key, version).await.map_err(fault)
    }

    pub(super) async fn list_versions(&self, input: ListObjectVersionsInput) -> S3Result<ListObjectVersionsOutput> {
        let limit = limit_of(input.max_keys)?;
        let encoding = encoding_of(input.encoding_type.as_ref())?;
        let page = self.versions_page(&input, limit).await?;
        let next = page.next.as_deref().map(|key| encoding.text(key));
        let next_version = page.items.last().filter(|_| next.is_some()).and_then(|item| match item {
            Item::Object(listed) => Some(listed.place.clone()),
            Item::Prefix(_) => None,
        });
        let (mut versions, mut markers, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        for item in page.items {
            match item {
                Item::Prefix(prefix) => prefixes.push(CommonPrefix { prefix: Some(encoding.text(&prefix)) }),
                Item::Object(listed) if listed.is_marker => {
                    markers.push(marker_line(&listed, encoding.text(&listed.key)))
                }
                Item::Object(listed) => versions.push(version_line(&listed, encoding.text(&listed.key))),
            }
        }
        Ok(ListObjectVersionsOutput {
            max_keys: Some(limit),
            is_truncated: Some(next.is_some()),
            key_marker: Some(encoding.text(input.key_marker.as_deref().unwrap_or_default())),
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
            next_key_marker: next,
            next_version_id_marker: next_version,
            versions: Some(versions),
            delete_markers: Some(markers),
            common_prefixes: Some(prefixes),
            delimiter: input.delimiter.map(|text| encoding.text(&text)),
            prefix: Some(encoding.text(input.prefix.as_deref().unwrap_or_default())),
            encoding_type: input.encoding_type,
            name: Some(input.bucket),
            ..ListObjectVersionsOutput::default()
        })
    }

    async fn versions_page(&self, input: &ListObjectVersionsInput, limit: i32) -> S3Result<Page<ListedVersion>> {
        name::check_bucket(&input.bucket).map_err(fault)?;
        let given = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
        let (after, within) = (given(&input.key_marker), given(&input.version_id_marker));
        if within.is_some() && after.is_none() {
            return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
        }
        if limit == 0 {
            self.objects.need_bucket(&input.bucket).await.map_err(fault)?;
            return Ok(Page { items: Vec::new(), next: None });
        }
        let limit = usize::try_from(limit).unwrap_or_default();
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let ask = Ask { prefix, delimiter: input.delimiter.as_deref(), after: after.as_deref(), limit };
        self.objects.version_page(&input.bucket, ask, within.as_deref()).await.map_err(fault)
    }
}

fn deleted_line(object: ObjectIdentifier, deletion: Deletion) -> DeletedObject {
    let laid = deletion.version.filter(|_| deletion.is_marker);
    DeletedObject {
        key: Some(object.key),
        version_id: object.version_id,
        delete_marker: deletion.is_marker.then_some(true),
        delete_marker_version_id: laid,
    }
}

fn version_line(listed: &ListedVersion, key: String) -> ObjectVersion {
    ObjectVersion {
        key: Some(key),
        version_id: listed.head.version.clone(),
        is_latest: Some(listed.is_latest),
        size: i64::try_from(listed.head.size).ok(),
        e_tag: Some(strong(&listed.head.etag)),
        last_modified: Some(moment(listed.head.modified)),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        ..ObjectVersion::default()
    }
}

fn marker_line(listed: &ListedVersion, key: String) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        key: Some(key),
        version_id: listed.head.version.clone(),
        is_latest: Some(listed.is_latest),
        last_modified: Some(moment(listed.head.modified)),
        owner: None,
    }
}
