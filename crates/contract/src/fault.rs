//! What a client is told when it does not get what it asked for.

use std::error::Error;
use std::time::Duration;

use serde_json::{Value, json};

/// The code of this service in faults that tell of its limits.
const SERVICE_CODE: &str = "lookoutvision";

/// A refusal or a failure: the seven of the contract, and those of the protocol and of signatures.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The caller may not do this.
    #[error("{message}")]
    AccessDenied {
        /// For the client.
        message: String,
    },
    /// It does not go together with the state of a resource.
    #[error("{message}")]
    Conflict {
        /// For the client.
        message: String,
        /// Its name.
        resource_id: String,
        /// Its kind: `PROJECT`, `DATASET`, `MODEL` or `MODEL_PACKAGE_JOB`.
        resource_type: &'static str,
    },
    /// It failed here. The client is not told why.
    #[error("the service failed, send the request again")]
    Internal {
        /// For the log only.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
        /// When it may work again.
        retry_after: Option<Duration>,
    },
    /// There is no such resource.
    #[error("{message}")]
    NotFound {
        /// For the client.
        message: String,
        /// Its name.
        resource_id: String,
        /// Its kind: `PROJECT`, `DATASET`, `MODEL` or `MODEL_PACKAGE_JOB`.
        resource_type: &'static str,
    },
    /// It would be more than is allowed to be kept.
    #[error("{message}")]
    QuotaExceeded {
        /// For the client.
        message: String,
        /// Which limit.
        quota_code: String,
        /// Kind and name of what there is too much of.
        resource: Option<(&'static str, String)>,
    },
    /// Too many requests.
    #[error("{message}")]
    Throttled {
        /// For the client.
        message: String,
        /// Which limit.
        quota_code: Option<String>,
        /// When the next one will be let through.
        retry_after: Option<Duration>,
    },
    /// A member breaks a rule.
    #[error("{message}")]
    Validation {
        /// For the client.
        message: String,
    },
    /// There is nothing at that path.
    #[error("there is no operation at this path")]
    UnknownOperation,
    /// There is something at that path, for another method.
    #[error("this path is for {}", allowed.join(", "))]
    MethodNotAllowed {
        /// The methods that it is for.
        allowed: Vec<String>,
    },
    /// The request cannot be read.
    #[error("{message}")]
    Serialization {
        /// For the client.
        message: String,
    },
    /// The body is larger than any request needs.
    #[error("the body is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The largest that is read.
        limit_bytes: u64,
    },
    /// Nobody knows the access key.
    #[error("The security token included in the request is invalid.")]
    UnrecognizedClient,
    /// The credentials were good once.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// The request is not signed.
    #[error("Missing Authentication Token")]
    MissingToken,
    /// The signature is not that of this request and key.
    #[error("{message}")]
    InvalidSignature {
        /// For the client.
        message: String,
    },
    /// The signature lacks a part.
    #[error("{message}")]
    IncompleteSignature {
        /// For the client.
        message: String,
    },
}

impl Fault {
    /// The caller may not do this.
    pub fn access_denied(message: impl Into<String>) -> Self {
        Self::AccessDenied { message: message.into() }
    }

    /// It does not go together with the state of a resource.
    pub fn conflict(resource_type: &'static str, resource_id: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Conflict { message: message.into(), resource_id: resource_id.into(), resource_type }
    }

    /// There is no such resource.
    pub fn not_found(resource_type: &'static str, resource_id: impl Into<String>, message: impl Into<String>) -> Self {
        Self::NotFound { message: message.into(), resource_id: resource_id.into(), resource_type }
    }

    /// It failed here; `cause` is for the log.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal { cause: cause.into(), retry_after: None }
    }

    /// It would be more than is allowed to be kept.
    pub fn quota(quota_code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::QuotaExceeded { message: message.into(), quota_code: quota_code.into(), resource: None }
    }

    /// Too many requests.
    pub fn throttled(message: impl Into<String>) -> Self {
        Self::Throttled { message: message.into(), quota_code: None, retry_after: None }
    }

    /// A member breaks a rule.
    pub fn validation(message: impl Into<String>) -> Self {
        Self::Validation { message: message.into() }
    }

    /// The request cannot be read.
    pub fn serialization(message: impl Into<String>) -> Self {
        Self::Serialization { message: message.into() }
    }

    /// The HTTP status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Validation { .. } | Self::Serialization { .. } | Self::IncompleteSignature { .. } => 400,
            Self::QuotaExceeded { .. } => 402,
            Self::AccessDenied { .. }
            | Self::UnrecognizedClient
            | Self::ExpiredToken
            | Self::MissingToken
            | Self::InvalidSignature { .. } => 403,
            Self::NotFound { .. } | Self::UnknownOperation => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::Conflict { .. } => 409,
            Self::TooLarge { .. } => 413,
            Self::Throttled { .. } => 429,
            Self::Internal { .. } => 500,
        }
    }

    /// What clients tell it by: the header `x-amzn-ErrorType`.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::AccessDenied { .. } => "AccessDeniedException",
            Self::Conflict { .. } => "ConflictException",
            Self::Internal { .. } => "InternalServerException",
            Self::NotFound { .. } => "ResourceNotFoundException",
            Self::QuotaExceeded { .. } => "ServiceQuotaExceededException",
            Self::Throttled { .. } => "ThrottlingException",
            Self::Validation { .. } => "ValidationException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::MethodNotAllowed { .. } => "MethodNotAllowedException",
            Self::Serialization { .. } => "SerializationException",
            Self::TooLarge { .. } => "RequestEntityTooLargeException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::ExpiredToken => "ExpiredTokenException",
            Self::MissingToken => "MissingAuthenticationTokenException",
            Self::InvalidSignature { .. } => "InvalidSignatureException",
            Self::IncompleteSignature { .. } => "IncompleteSignatureException",
        }
    }

    /// For the header `Retry-After`: whole seconds, never too few.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let (Self::Internal { retry_after, .. } | Self::Throttled { retry_after, .. }) = self else { return None };
        let wait = (*retry_after)?;
        let begun = u64::from(wait.subsec_nanos() > 0);
        Some(Duration::from_secs(wait.as_secs().saturating_add(begun)))
    }

    /// For the header `Allow`.
    #[must_use]
    pub fn allow(&self) -> Option<String> {
        match self {
            Self::MethodNotAllowed { allowed } => Some(allowed.join(", ")),
            _ => None,
        }
    }

    /// Whether it is ours to mend, not the client's.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        self.status() >= 500
    }

    /// For the client.
    #[must_use]
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// The JSON body. The cause of a failure is not in it.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut body = json!({ "Message": self.message() });
        match self {
            Self::Conflict { resource_id, resource_type, .. } | Self::NotFound { resource_id, resource_type, .. } => {
                body["ResourceId"] = json!(resource_id);
                body["ResourceType"] = json!(resource_type);
            }
            Self::QuotaExceeded { quota_code, resource, .. } => {
                body["QuotaCode"] = json!(quota_code);
                body["ServiceCode"] = json!(SERVICE_CODE);
                if let Some((resource_type, resource_id)) = resource {
                    body["ResourceId"] = json!(resource_id);
                    body["ResourceType"] = json!(resource_type);
                }
            }
            Self::Throttled { quota_code: Some(quota_code), .. } => {
                body["QuotaCode"] = json!(quota_code);
                body["ServiceCode"] = json!(SERVICE_CODE);
            }
            _ => {}
        }
        body
    }
}
