//! What is told of each request once it is answered, whatever became of it.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use s3s::access::S3AccessContext;
use s3s::path::S3Path;
use s3s::{Body, HttpResponse};
use uuid::Uuid;

use super::gate::Gate;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
/// Error documents are short.
const LONGEST_ERROR_BYTES: usize = 16 * 1024;

/// A request that has its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// As the answer's header has it.
    pub request_id: String,
    /// As S3 names it; `None` when the request was refused before that was known.
    pub operation: Option<String>,
    /// Whose signature was good.
    pub access_key_id: Option<String>,
    /// The bucket that the operation was on.
    pub bucket: Option<String>,
    /// The object that the operation was on.
    pub key: Option<String>,
    /// As in `PUT /pictures/1.jpg`.
    pub request: String,
    /// Whence it came.
    pub source: Option<IpAddr>,
    /// With what.
    pub user_agent: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// Of a refusal: as S3 names it.
    pub error: Option<String>,
}

/// Filled where the request is understood, read where it is answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Understood>>);

#[derive(Debug, Clone, Default)]
struct Understood {
    operation: Option<String>,
    access_key_id: Option<String>,
    bucket: Option<String>,
    key: Option<String>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Understood> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a request is, before anybody says whether it may be done.
    pub(super) fn note(context: &mut S3AccessContext<'_>) {
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.to_string()), None),
            S3Path::Object { bucket, key } => (Some(bucket.to_string()), Some(key.to_string())),
        };
        let understood = Understood {
            operation: Some(context.s3_op().name().to_owned()),
            access_key_id: context.credentials().map(|credentials| credentials.access_key.clone()),
            bucket,
            key,
        };
        if let Some(seen) = context.extensions_mut().get::<Self>() {
            *seen.lock() = understood;
        }
    }
}

/// A request on its way.
pub(super) struct Pending {
    seen: Seen,
    request: String,
    source: Option<IpAddr>,
    user_agent: Option<String>,
}

impl Pending {
    pub(super) fn of<B>(request: &mut Request<B>, source: Option<IpAddr>) -> Self {
        let seen = Seen::default();
        request.extensions_mut().insert(seen.clone());
        // Without its query, which may hold a signature.
        let told = format!("{} {}", request.method(), request.uri().path());
        let user_agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { seen, request: told, source, user_agent }
    }

    /// Tells the gate. An answer that cannot be written down is not given.
    pub(super) async fn answered(self, gate: &dyn Gate, mut response: HttpResponse) -> HttpResponse {
        let request_id = Uuid::new_v4().simple().to_string();
        let Understood { operation, access_key_id, bucket, key } = self.seen.lock().clone();
        let done = Done {
            operation,
            access_key_id,
            bucket,
            key,
            request: self.request,
            source: self.source,
            user_agent: self.user_agent,
            status: response.status().as_u16(),
            error: error_of(&response),
            request_id: request_id.clone(),
        };
        if !gate.record(&done).await {
            response = HttpResponse::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        name(response.headers_mut(), &request_id);
        response
    }
}

fn name(headers: &mut HeaderMap, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(REQUEST_ID, value);
    }
}

/// The code of an error document, or the status where an answer has none.
fn error_of(response: &HttpResponse) -> Option<String> {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let bytes = response.body().bytes().filter(|bytes| bytes.len() <= LONGEST_ERROR_BYTES);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()).unwrap_or_default();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    Some(code.unwrap_or(status.as_str()).to_owned())
}
