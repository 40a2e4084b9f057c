//! The REST door for clients of the old service: HTTP in, one call of an operation out, and its answer or fault back.
//!
//! Which requests there are and what they hold is the contract's; who may send them and who is told of them is the
//! [`Gate`]'s; what they do is the [`Operations`]'. This module carries between them: it bounds what is read, numbers
//! requests, and writes answers and faults as clients expect them.

mod body;
mod reply;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;
use linewarden_access::{BodyHash, BodyHasher};
use linewarden_contract::{Contract, Fault, Input, Operation, Route};
use serde_json::Value;
use tokio::sync::Semaphore;

use body::{Arrived, Budget, Incoming};

/// Marks requests that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OverTls;

/// Who signed a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The user's name.
    pub(crate) user: String,
    /// The access key that signed.
    pub(crate) access_key_id: String,
    /// From where.
    pub(crate) source: Option<IpAddr>,
    /// Whether over TLS.
    pub(crate) is_tls: bool,
}

/// A request as it was signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed<'a> {
    /// The HTTP method.
    pub(crate) method: &'a str,
    /// The path as sent, not decoded.
    pub(crate) raw_path: &'a str,
    /// The query as sent, without its question mark.
    pub(crate) raw_query: Option<&'a str>,
    /// The headers.
    pub(crate) headers: &'a HeaderMap,
    /// The hash of the whole body, where the gate asked for it.
    pub(crate) body: Option<BodyHash>,
    /// From where it came.
    pub(crate) source: Option<IpAddr>,
    /// Whether over TLS.
    pub(crate) is_tls: bool,
}

/// One call of an operation, checked against the contract.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked for.
    pub(crate) operation: &'static Operation,
    /// With what, by member name.
    pub(crate) input: Input,
    /// The payload, for operations that have one.
    pub(crate) body: Bytes,
    /// By whom.
    pub(crate) caller: Caller,
    /// The number that the client is told.
    pub(crate) request_id: String,
}

/// What became of a request, for whoever writes that down.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    /// The number that the client is told.
    pub(crate) request_id: &'a str,
    /// What was asked for.
    pub(crate) operation: &'static Operation,
    /// By whom; nobody when the signature was refused.
    pub(crate) caller: Option<&'a Caller>,
    /// With what; nothing when it could not be read.
    pub(crate) input: Option<&'a Input>,
    /// From where.
    pub(crate) source: Option<IpAddr>,
    /// As the client calls itself.
    pub(crate) user_agent: Option<&'a str>,
    /// The answer, or why there was none.
    pub(crate) outcome: Result<&'a Value, &'a Fault>,
    /// From the first byte to the answer.
    pub(crate) took: Duration,
}

/// What the operations do.
#[async_trait]
pub(crate) trait Operations: Send + Sync + 'static {
    /// The answer, in the contract's form; null is an empty body. Once begun it is not broken off, even when the client leaves.
    async fn call(&self, call: &Call) -> Result<Value, Fault>;
}

/// Who may call, how often, and who is told of it.
#[async_trait]
pub(crate) trait Gate: Send + Sync + 'static {
    /// Looks at the head of a request, before its body is read: what is not signed at all is not worth reading. Where bodies
    /// are signed, gives what hashes this one while it arrives.
    fn glance(&self, headers: &HeaderMap) -> Result<Option<BodyHasher>, Fault>;

    /// Finds out who signed a request.
    async fn identify(&self, request: Signed<'_>) -> Result<Caller, Fault>;

    /// Whether the caller may do this, now.
    async fn admit(&self, caller: &Caller, operation: &'static Operation, input: &Input) -> Result<(), Fault>;

    /// Writes down what became of a request, before the client is answered. A fault is answered in place of the answer.
    async fn record(&self, record: Record<'_>) -> Result<(), Fault>;
}

/// How much is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A picture.
    pub(crate) picture_bytes: usize,
    /// A JSON document: the largest holds 10 MiB in base64.
    pub(crate) document_bytes: usize,
    /// All bodies that are being read or worked on at one time.
    pub(crate) together_bytes: usize,
    /// From the head of a request to the end of its body.
    pub(crate) body_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // The guide allows 8 MB.
            picture_bytes: 8 << 20,
            document_bytes: 15 << 20,
            together_bytes: 256 << 20,
            body_timeout: Duration::from_secs(60),
        }
    }
}

struct Door {
    operations: Arc<dyn Operations>,
    gate: Arc<dyn Gate>,
    limits: Limits,
    budget: Budget,
}

/// Routes for every operation of the contract. Served with connect info, the gate is told from where a request came.
pub(crate) fn router(operations: Arc<dyn Operations>, gate: Arc<dyn Gate>, limits: Limits) -> Router {
    let budget = Arc::new(Semaphore::new(body::permits(limits.together_bytes)));
    Router::new().fallback(answer).with_state(Arc::new(Door { operations, gate, limits, budget }))
}

async fn answer(State(door): State<Arc<Door>>, request: Request) -> Response {
    let request_id = uuid::Uuid::new_v4().to_string();
    let told = request_id.clone();
    // A task of its own: a client that leaves breaks off neither a change half made nor its record.
    let task = tokio::spawn(async move { door.outcome(request, &told).await });
    let outcome = task.await.unwrap_or_else(|error| Err(Fault::internal(error)));
    reply::written(outcome, &request_id)
}

/// What is known of a request so far.
#[derive(Default)]
struct Known {
    caller: Option<Caller>,
    input: Option<Input>,
}

impl Door {
    /// The status code and body of a success, or a fault.
    async fn outcome(&self, request: Request, request_id: &str) -> Result<(u16, Value), Fault> {
        let began = Instant::now();
        let (head, body) = request.into_parts();
        let hasher = self.gate.glance(&head.headers)?;
        let route = Contract::get().route(head.method.as_str(), head.uri.path())?;
        let operation = route.operation;
        let mut known = Known::default();
        let outcome = self.called(route, &head, Incoming { body, hasher }, request_id, &mut known).await;
        let record = Record {
            request_id,
            operation,
            caller: known.caller.as_ref(),
            input: known.input.as_ref(),
            source: source_of(&head),
            user_agent: head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()),
            outcome: outcome.as_ref(),
            took: began.elapsed(),
        };
        self.gate.record(record).await?;
        outcome.map(|answer| (operation.success(), answer))
    }

    async fn called(
        &self,
        route: Route,
        head: &Parts,
        incoming: Incoming,
        request_id: &str,
        known: &mut Known,
    ) -> Result<Value, Fault> {
        let operation = route.operation;
        let limit =
            if operation.payload_member().is_some() { self.limits.picture_bytes } else { self.limits.document_bytes };
        let Arrived { bytes: body, hash, _share } =
            body::read(incoming, &head.headers, limit, self.limits.body_timeout, &self.budget).await?;
        let signed = Signed {
            method: head.method.as_str(),
            raw_path: head.uri.path(),
            raw_query: head.uri.query(),
            headers: &head.headers,
            body: hash,
            source: source_of(head),
            is_tls: head.extensions.get::<OverTls>().is_some(),
        };
        let caller = self.gate.identify(signed).await?;
        known.caller = Some(caller.clone());
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let input = operation.read(&route.labels, head.uri.query(), &header, &body)?;
        known.input = Some(input.clone());
        self.gate.admit(&caller, operation, &input).await?;
        let body = if operation.payload_member().is_some() { body } else { Bytes::new() };
        let call = Call { operation, input, body, caller, request_id: request_id.to_owned() };
        let operations = Arc::clone(&self.operations);
        // A task of its own: one that panics has a record too.
        let task = tokio::spawn(async move { operations.call(&call).await });
        task.await.unwrap_or_else(|error| Err(Fault::internal(error)))
    }
}

fn source_of(head: &Parts) -> Option<IpAddr> {
    head.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip())
}
