//! Who asks, and whether they may.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{Credentials, S3Auth, SecretKey};
use s3s::dto::{DeleteObjectInput, GetObjectInput, HeadObjectInput};
use s3s::path::S3Path;
use s3s::{S3Request, S3Result, s3_error};

use super::record::{Done, Seen};

/// Knows the users' secrets and rights.
#[async_trait::async_trait]
pub trait Gate: Send + Sync + 'static {
    /// The secret of an access key; `None` when there is no such key, or it is disabled.
    async fn secret(&self, access_key_id: &str) -> Option<String>;
    /// Whether this may be done.
    async fn allows(&self, ask: &Ask<'_>) -> bool;
    /// Writes down a request that has its answer; without a gate's own way nobody does. An answer is given only when this
    /// says that it is written down.
    async fn record(&self, _done: &Done) -> bool {
        true
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Whose signature the request has.
    pub access_key_id: &'a str,
    /// As in a policy: `s3:GetObject`.
    pub action: &'static str,
    /// The bucket, when the action is one on a bucket or an object.
    pub bucket: Option<&'a str>,
    /// The key, when it is one on an object.
    pub key: Option<&'a str>,
}

pub(super) struct Secrets(pub(super) Arc<dyn Gate>);

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret(access_key).await {
            Some(secret) => Ok(SecretKey::from(secret)),
            None => Err(s3_error!(InvalidAccessKeyId, "The access key id you provided does not exist in our records.")),
        }
    }
}

pub(super) struct Access(pub(super) Arc<dyn Gate>);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        Seen::note(context);
        let Some(action) = action_of(context.s3_op().name()) else {
            return Err(s3_error!(NotImplemented, "{} is not offered here.", context.s3_op().name()));
        };
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.as_ref()), None),
            S3Path::Object { bucket, key } => (Some(bucket.as_ref()), Some(key.as_ref())),
        };
        match action {
            Action::OfRequest(action) => need(&*self.0, context.credentials(), action, bucket, key).await,
            Action::Later => need_signature(context.credentials()).map(|_| ()),
        }
    }

    // What follows is asked once the request is read, so that nobody names a version in words that only one of us knows.

    async fn get_object(&self, request: &mut S3Request<GetObjectInput>) -> S3Result<()> {
        let GetObjectInput { bucket, key, version_id, .. } = &request.input;
        let action = of_version(READS, version_id.as_deref());
        need(&*self.0, request.credentials.as_ref(), action, Some(bucket), Some(key)).await
    }

    async fn head_object(&self, request: &mut S3Request<HeadObjectInput>) -> S3Result<()> {
        let HeadObjectInput { bucket, key, version_id, .. } = &request.input;
        let action = of_version(READS, version_id.as_deref());
        need(&*self.0, request.credentials.as_ref(), action, Some(bucket), Some(key)).await
    }

    async fn delete_object(&self, request: &mut S3Request<DeleteObjectInput>) -> S3Result<()> {
        let DeleteObjectInput { bucket, key, version_id, .. } = &request.input;
        let action = of_version(DELETES, version_id.as_deref());
        need(&*self.0, request.credentials.as_ref(), action, Some(bucket), Some(key)).await
    }
}

enum Action {
    OfRequest(&'static str),
    /// Asked once the request is read: for each key that it names, or for the version.
    Later,
}

/// The action on an object, and that on one version of it.
pub(super) type Actions = (&'static str, &'static str);

pub(super) const READS: Actions = ("s3:GetObject", "s3:GetObjectVersion");
pub(super) const DELETES: Actions = ("s3:DeleteObject", "s3:DeleteObjectVersion");

pub(super) fn of_version((on_object, on_version): Actions, version: Option<&str>) -> &'static str {
    if version.is_some() { on_version } else { on_object }
}

/// The action that a policy names for an operation.
fn action_of(operation: &str) -> Option<Action> {
    let action = match operation {
        "ListBuckets" => "s3:ListAllMyBuckets",
        "CreateBucket" => "s3:CreateBucket",
        "DeleteBucket" => "s3:DeleteBucket",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => "s3:ListBucket",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        "PutBucketVersioning" => "s3:PutBucketVersioning",
        "PutObject"
        | "CopyObject"
        | "CreateMultipartUpload"
        | "UploadPart"
        | "UploadPartCopy"
        | "CompleteMultipartUpload" => "s3:PutObject",
        "AbortMultipartUpload" => "s3:AbortMultipartUpload",
        "ListParts" => "s3:ListMultipartUploadParts",
        "GetObject" | "HeadObject" | "DeleteObject" | "DeleteObjects" => return Some(Action::Later),
        _ => return None,
    };
    Some(Action::OfRequest(action))
}

fn need_signature(credentials: Option<&Credentials>) -> S3Result<&Credentials> {
    credentials.ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))
}

/// Refuses what the gate does not allow.
pub(super) async fn need(
    gate: &dyn Gate,
    credentials: Option<&Credentials>,
    action: &'static str,
    bucket: Option<&str>,
    key: Option<&str>,
) -> S3Result<()> {
    let credentials = need_signature(credentials)?;
    let ask = Ask { access_key_id: &credentials.access_key, action, bucket, key };
    if gate.allows(&ask).await {
        return Ok(());
    }
    tracing::info!(access_key_id = ask.access_key_id, action, bucket, key, "S3 request refused");
    Err(s3_error!(AccessDenied, "Access Denied"))
}
