//! Who may call the REST API and the S3 endpoint: whoever signs with an access key of the keys' file.

use async_trait::async_trait;
use axum::http::HeaderMap;
use jiff::Timestamp;
use linewarden_access::{AuthFault, Keys, Scope, verify};
use linewarden_contract::{Fault, Input, Operation};
use linewarden_objects::s3;

use crate::api::{self, Caller, Record, Signed};

/// As signatures name the service.
const SERVICE: &str = "lookoutvision";

/// The door's keeper.
pub(crate) struct Gate {
    keys: Keys,
    region: String,
    /// Whether the REST API asks for signatures.
    is_signed: bool,
}

impl Gate {
    pub(crate) fn new(keys: Keys, region: &str, is_signed: bool) -> Self {
        Self { keys, region: region.to_owned(), is_signed }
    }

    /// User and secret; a file that cannot be read lets nobody in, and is told of.
    fn find(&self, id: &str) -> Option<(String, String)> {
        match self.keys.find(id) {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "access keys cannot be read: nobody is let in");
                None
            }
        }
    }
}

#[async_trait]
impl api::Gate for Gate {
    fn glance(&self, headers: &HeaderMap) -> Result<(), Fault> {
        if self.is_signed && !headers.contains_key("authorization") {
            return Err(Fault::MissingToken);
        }
        Ok(())
    }

    async fn identify(&self, request: Signed<'_>) -> Result<Caller, Fault> {
        if !self.is_signed {
            return Ok(Caller { user: "anonymous".to_owned(), access_key_id: String::new() });
        }
        let Signed { method, raw_path, raw_query, headers, body } = request;
        let signed = linewarden_access::Signed { method, raw_path, raw_query, headers, body };
        let scope = Scope { region: &self.region, service: SERVICE };
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
        Ok(Caller { user, access_key_id })
    }

    async fn admit(&self, _caller: &Caller, _operation: &'static Operation, _input: &Input) -> Result<(), Fault> {
        // Every key may do everything.
        Ok(())
    }

    async fn record(&self, record: Record<'_>) -> Result<(), Fault> {
        let Record { request_id, operation, caller, input, source, user_agent, outcome, took } = record;
        let project = input.and_then(|input| linewarden_contract::text(input, "ProjectName"));
        let user = caller.map(|caller| caller.user.as_str());
        let error = outcome.err().map(Fault::error_type);
        let (operation, source) = (operation.name(), source.map(|source| source.to_string()));
        if outcome.err().is_some_and(Fault::is_fault) {
            let cause = outcome.err().and_then(std::error::Error::source).map(ToString::to_string);
            tracing::error!(request_id, operation, project, user, source, user_agent, error, cause, "a request failed");
        } else {
            tracing::info!(request_id, operation, project, user, source, user_agent, error, ?took, "request");
        }
        Ok(())
    }
}

#[async_trait]
impl s3::Gate for Gate {
    async fn secret(&self, access_key_id: &str) -> Option<String> {
        self.find(access_key_id).map(|(_, secret)| secret)
    }

    async fn allows(&self, _ask: &s3::Ask<'_>) -> bool {
        // Every key may do everything.
        true
    }
}
