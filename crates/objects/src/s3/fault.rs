//! Errors as S3 tells them. An inner cause is logged, never sent.

use http::header::ALLOW;
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{S3Error, S3ErrorCode, s3_error};

use crate::ObjectError;

pub(super) fn fault(error: ObjectError) -> S3Error {
    match &error {
        ObjectError::NoBucket(_) => s3_error!(NoSuchBucket, "The specified bucket does not exist"),
        ObjectError::NotFound { marker, .. } => {
            let mut fault = s3_error!(NoSuchKey, "The specified key does not exist.");
            if let Some(marker) = marker {
                fault.set_headers(marker_headers(marker));
            }
            fault
        }
        ObjectError::NoVersion { .. } => s3_error!(NoSuchVersion, "The specified version does not exist."),
        ObjectError::DeleteMarker { version, .. } => {
            let mut fault = s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.");
            let mut headers = marker_headers(version);
            headers.insert(ALLOW, HeaderValue::from_static("DELETE"));
            fault.set_headers(headers);
            fault
        }
        ObjectError::BucketExists(_) => {
            s3_error!(BucketAlreadyOwnedByYou, "Your previous request to create the named bucket succeeded.")
        }
        ObjectError::BucketNotEmpty(_) => {
            s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")
        }
        ObjectError::BadName { name, .. } if name.len() > 1024 => s3_error!(KeyTooLongError, "{error}"),
        ObjectError::BadName { .. } | ObjectError::Refused(_) => s3_error!(InvalidArgument, "{error}"),
        ObjectError::BadRange { .. } => s3_error!(InvalidRange, "The requested range is not satisfiable"),
        ObjectError::WrongKey { .. } => {
            let code = S3ErrorCode::Custom("KMS.NotFoundException".into());
            let mut fault = S3Error::with_message(code, error.to_string());
            fault.set_status_code(StatusCode::BAD_REQUEST);
            fault
        }
        ObjectError::TooLarge { .. } => s3_error!(EntityTooLarge, "{error}"),
        ObjectError::ConditionFailed => {
            s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
        }
        ObjectError::BadDigest(what) => {
            s3_error!(BadDigest, "The {what} you specified did not match what we received.")
        }
        ObjectError::Content(source) if source.kind() == std::io::ErrorKind::TimedOut => {
            s3_error!(RequestTimeout, "Your socket connection to the server was not read from or written to in time.")
        }
        ObjectError::Content(source) => match source.get_ref().and_then(|inner| inner.downcast_ref::<S3Error>()) {
            // The signature of a chunk, say.
            Some(inner) => S3Error::with_message(inner.code().clone(), inner.message().unwrap_or_default().to_owned()),
            None => s3_error!(IncompleteBody, "The request's body ended early or cannot be read."),
        },
        ObjectError::NoUpload(_) => s3_error!(NoSuchUpload, "The specified upload does not exist."),
        ObjectError::BadPart(_) => s3_error!(InvalidPart, "One or more of the specified parts could not be found."),
        ObjectError::SmallPart(_) => {
            s3_error!(EntityTooSmall, "Your proposed upload is smaller than the minimum allowed size")
        }
        ObjectError::PartOrder => s3_error!(InvalidPartOrder, "The list of parts was not in ascending order."),
        ObjectError::Damaged(_) | ObjectError::Storage { .. } => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, "S3 request failed");
            s3_error!(InternalError, "We encountered an internal error. Please try again.")
        }
    }
}

/// Tell a client that there was something, and which version says that it was deleted.
fn marker_headers(version: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(version) = HeaderValue::from_str(version) {
        headers.insert("x-amz-version-id", version);
    }
    headers
}
