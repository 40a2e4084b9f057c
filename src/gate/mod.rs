//! Who may call the REST API and the S3 endpoint: whoever signs with an access key of the keys' file, whose user's policies
//! allow it, not too often; and every call of either goes into the audit log.

mod asks;
mod audit;
mod throttle;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::HeaderMap;
use jiff::Timestamp;
use linewarden_access::{
    AuthFault, BodyHasher, Context, Denied, KeyError, Keys, Policy, Request, Scope, verify, weigh,
};
use linewarden_contract::{Fault, Input, Operation};
use linewarden_objects::s3;
use linewarden_store::{Metadata, StoreError};

use crate::api::{self, Caller, Record, Signed};
use crate::services::Naming;
use asks::{Ask, asks_of, bucket_arn};
use audit::AuditLog;
use throttle::Throttle;

/// As signatures name the service.
const SERVICE: &str = "lookoutvision";

/// The door's keeper.
pub(crate) struct Gate {
    keys: Keys,
    naming: Naming,
    /// Whether the REST API asks for signatures.
    is_signed: bool,
    /// Whether clients of the S3 endpoint come over TLS.
    is_s3_tls: bool,
    /// Where the tags of resources are.
    store: Metadata,
    throttle: Option<Throttle>,
    audit: Arc<AuditLog>,
    object_audit: Arc<AuditLog>,
}

/// What the gate goes by.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) naming: Naming,
    pub(crate) is_signed: bool,
    pub(crate) is_s3_tls: bool,
    /// Calls a second of one operation by one access key; without a limit when there is none.
    pub(crate) calls_per_second: Option<NonZeroU32>,
    /// The folder of the audit log.
    pub(crate) audit: PathBuf,
    /// How many days of it are kept.
    pub(crate) audit_days: u16,
}

impl Gate {
    pub(crate) fn new(keys: Keys, store: Metadata, rules: Rules) -> Self {
        let Rules { naming, is_signed, is_s3_tls, calls_per_second, audit, audit_days } = rules;
        let throttle = calls_per_second.map(Throttle::new);
        let log = |stem| Arc::new(AuditLog::new(audit.clone(), stem, audit_days, naming.clone()));
        let (calls, object_audit) = (log(audit::CALLS), log(audit::OBJECTS));
        Self { keys, naming, is_signed, is_s3_tls, store, throttle, audit: calls, object_audit }
    }

    /// User and secret; a file that cannot be read lets nobody in, and is told of.
    fn find(&self, id: &str) -> Option<(String, String)> {
        self.keys.find(id).unwrap_or_else(|error| {
            told(&error);
            None
        })
    }

    /// A user's policies; when one cannot be read, none: what it denies must not be allowed by the others.
    fn policies(&self, user: &str) -> Vec<Arc<Policy>> {
        self.keys.policies(user).unwrap_or_else(|error| {
            told(&error);
            Vec::new()
        })
    }

    fn principal(&self, user: &str) -> String {
        format!("arn:aws:iam::{}:user/{user}", self.naming.account)
    }

    /// What conditions may ask of every request.
    fn context(&self, user: &str, is_tls: bool) -> Context {
        let mut context = Context::default();
        context.add("aws:username", user);
        context.add("aws:PrincipalArn", self.principal(user));
        context.add("aws:SecureTransport", is_tls.to_string());
        context
    }

    /// The context of one ask: that of its caller, and the tags of its resource.
    async fn context_of(&self, common: &Context, ask: &Ask, with_tags: bool) -> Result<Context, Fault> {
        let mut context = common.clone();
        if with_tags && ask.has_tags {
            for (key, value) in self.store.tags(&ask.resource).await.map_err(Fault::internal)? {
                context.add(&format!("aws:ResourceTag/{key}"), value);
            }
        }
        Ok(context)
    }
}

fn told(error: &KeyError) {
    tracing::error!(%error, "access keys or policies cannot be read: who depends on them is not let in");
}

#[async_trait]
impl api::Gate for Gate {
    fn glance(&self, headers: &HeaderMap) -> Result<Option<BodyHasher>, Fault> {
        if self.is_signed && !headers.contains_key("authorization") {
            return Err(Fault::MissingToken);
        }
        Ok(self.is_signed.then(BodyHasher::default))
    }

    async fn identify(&self, request: Signed<'_>) -> Result<Caller, Fault> {
        let Signed { method, raw_path, raw_query, headers, body, source, is_tls } = request;
        if !self.is_signed {
            return Ok(Caller { user: "anonymous".to_owned(), access_key_id: String::new(), source, is_tls });
        }
        // Every body was hashed that the glance asked for; one that was not can have no signature.
        let body = body.ok_or(Fault::MissingToken)?;
        let signed = linewarden_access::Signed { method, raw_path, raw_query, headers, body };
        let scope = Scope { region: &self.naming.region, service: SERVICE };
        let mut user = String::new();
        let secret = |id: &str| {
            let (found, secret) = self.find(id)?;
            user = found;
            Some(secret)
        };
        let access_key_id = verify(&signed, scope, Timestamp::now(), secret).map_err(|refused| match refused {
            AuthFault::Missing => Fault::MissingToken,
            AuthFault::Incomplete(message) => Fault::IncompleteSignature { message },
            AuthFault::UnknownKey | AuthFault::Temporary => Fault::UnrecognizedClient,
            AuthFault::Refused(_) | AuthFault::Mismatch => Fault::InvalidSignature { message: refused.to_string() },
        })?;
        Ok(Caller { user, access_key_id, source, is_tls })
    }

    async fn admit(&self, caller: &Caller, operation: &'static Operation, input: &Input) -> Result<(), Fault> {
        if let Some(throttle) = &self.throttle {
            throttle.admit(&caller.access_key_id, operation.name())?;
        }
        if !self.is_signed {
            return Ok(());
        }
        let policies = self.policies(&caller.user);
        let with_tags = policies.iter().any(|policy| policy.asks_for_tags());
        let mut common = self.context(&caller.user, caller.is_tls);
        if let Some(source) = caller.source {
            common.add("aws:SourceIp", source.to_canonical().to_string());
        }
        asks::add_request_tags(&mut common, input);
        let newest = match linewarden_contract::text(input, "ModelVersion") {
            Some("latest") => {
                let project = linewarden_contract::text(input, "ProjectName").unwrap_or_default();
                match self.store.newest_model(project).await {
                    // Who may know that is not decided yet.
                    Err(StoreError::NotFound(_)) => None,
                    newest => newest.map_err(Fault::internal)?,
                }
            }
            _ => None,
        };
        for ask in asks_of(operation, input, &self.naming, newest) {
            let context = self.context_of(&common, &ask, with_tags).await?;
            let request = Request { action: &ask.action, resource: &ask.resource, context: &context };
            if let Err(denied) = weigh(policies.iter().map(Arc::as_ref), &request) {
                let (user, Ask { action, resource, .. }) = (self.principal(&caller.user), &ask);
                let why = match denied {
                    Denied::Explicitly => "with an explicit deny in a policy".to_owned(),
                    Denied::NotAllowed => format!("because no policy allows the {action} action"),
                };
                let message =
                    format!("User: {user} is not authorized to perform: {action} on resource: {resource} {why}");
                return Err(Fault::access_denied(message));
            }
        }
        Ok(())
    }

    async fn record(&self, record: Record<'_>) -> Result<(), Fault> {
        let Record { request_id, operation, caller, input, source, user_agent, outcome, took } = record;
        let project = input.and_then(|input| linewarden_contract::text(input, "ProjectName"));
        let user = caller.map(|caller| caller.user.as_str());
        let error = outcome.err().map(Fault::error_type);
        let (name, from) = (operation.name(), source.map(|source| source.to_string()));
        if outcome.err().is_some_and(Fault::is_fault) {
            let cause = outcome.err().and_then(std::error::Error::source).map(ToString::to_string);
            tracing::error!(
                request_id,
                operation = name,
                project,
                user,
                source = from,
                user_agent,
                error,
                cause,
                "a request failed"
            );
        } else {
            tracing::info!(
                request_id,
                operation = name,
                project,
                user,
                source = from,
                user_agent,
                error,
                ?took,
                "request"
            );
        }
        let at = Timestamp::now();
        let line = self.audit.line(&record, at);
        append(&self.audit, line, at).await.map_err(Fault::internal)
    }
}

/// A disk that is slow holds up this call, and no other.
async fn append(log: &Arc<AuditLog>, line: String, at: Timestamp) -> std::io::Result<()> {
    let log = Arc::clone(log);
    let written = tokio::task::spawn_blocking(move || log.append(&line, at)).await;
    written.map_err(std::io::Error::other).flatten().inspect_err(|error| {
        tracing::error!(%error, "the audit log cannot be written: calls are refused until it can");
    })
}

#[async_trait]
impl s3::Gate for Gate {
    async fn secret(&self, access_key_id: &str) -> Option<String> {
        self.find(access_key_id).map(|(_, secret)| secret)
    }

    async fn allows(&self, ask: &s3::Ask<'_>) -> bool {
        let Some((user, _)) = self.find(ask.access_key_id) else { return false };
        let resource = ask.bucket.map_or_else(|| "*".to_owned(), |bucket| bucket_arn(bucket, ask.key));
        let request =
            Request { action: ask.action, resource: &resource, context: &self.context(&user, self.is_s3_tls) };
        weigh(self.policies(&user).iter().map(Arc::as_ref), &request).is_ok()
    }

    async fn record(&self, done: &s3::Done) -> bool {
        let user = done.access_key_id.as_deref().and_then(|id| self.find(id)).map(|(user, _)| user);
        let at = Timestamp::now();
        let line = self.object_audit.object_line(done, user.as_deref(), at);
        append(&self.object_audit, line, at).await.is_ok()
    }
}
