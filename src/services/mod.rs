//! What the old service's operations mean: projects, data sets, models, packaging jobs and tags.
//!
//! A checked request comes in by its members' names, its answer goes out in the service's form, or a [`Fault`]. The store
//! keeps what is so, `src/jobs/` does what takes long, `src/hosting/` scores. Nothing here knows of HTTP or signatures.

mod datasets;
mod detection;
mod models;
mod packaging;
mod projects;
mod running;
mod tags;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use linewarden_contract::{Arn, Fault, Input, Operation, PageToken, write_timestamp};
use linewarden_objects::{Objects, Vault};
use linewarden_store::{ClientToken, Metadata, StoreError, Subject};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::api::{self, Operations};
use crate::hosting::Hosting;
use crate::jobs::Bell;
use crate::packages::Packages;

pub(crate) use datasets::entries_of;
pub(crate) use detection::detect_anomaly_result;
pub(crate) use running::Running;

/// A page of a list when the caller does not say.
const PAGE: u32 = 100;
/// Whose quotas can be raised: nobody's, here.
const QUOTA: &str = "linewarden";

/// Everything that the operations need.
pub(crate) struct Services {
    pub(crate) store: Metadata,
    pub(crate) objects: Objects,
    /// Which keys there are for objects.
    pub(crate) vault: Vault,
    pub(crate) hosting: Arc<Hosting>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) naming: Naming,
    /// The finished packages.
    pub(crate) packages: Packages,
    pub(crate) line_of: LineOf,
}

/// The line of this machine that runs a package, or keeps it for the way back.
pub(crate) type LineOf = Arc<dyn Fn(&Path) -> Option<String> + Send + Sync>;

/// How resources are named.
#[derive(Debug, Clone)]
pub(crate) struct Naming {
    pub(crate) region: String,
    pub(crate) account: String,
}

/// One call, checked against the contract.
pub(crate) struct Call<'a> {
    pub(crate) operation: &'static Operation,
    pub(crate) members: &'a Input,
    /// The picture of `DetectAnomalies`.
    pub(crate) body: Bytes,
}

type Answer = Result<Value, Fault>;

impl Naming {
    pub(crate) fn project(&self, project: &str) -> String {
        Arn::project(&self.region, &self.account, project).to_string()
    }

    pub(crate) fn model(&self, project: &str, version: u64) -> String {
        Arn::model(&self.region, &self.account, project, version).to_string()
    }
}

impl Services {
    /// Does what the operation says.
    ///
    /// # Errors
    /// With the service's own errors.
    async fn answer(&self, call: &Call<'_>) -> Answer {
        match call.operation.name() {
            "CreateProject" => self.create_project(call).await,
            "DescribeProject" => self.describe_project(call).await,
            "ListProjects" => self.list_projects(call).await,
            "DeleteProject" => self.delete_project(call).await,
            "CreateDataset" => self.create_dataset(call).await,
            "DescribeDataset" => self.describe_dataset(call).await,
            "DeleteDataset" => self.delete_dataset(call).await,
            "ListDatasetEntries" => self.list_dataset_entries(call).await,
            "UpdateDatasetEntries" => self.update_dataset_entries(call).await,
            "CreateModel" => self.create_model(call).await,
            "DescribeModel" => self.describe_model(call).await,
            "ListModels" => self.list_models(call).await,
            "DeleteModel" => self.delete_model(call).await,
            "StartModel" => self.start_model(call).await,
            "StopModel" => self.stop_model(call).await,
            "DetectAnomalies" => self.detect_anomalies(call).await,
            "StartModelPackagingJob" => self.start_packaging(call).await,
            "DescribeModelPackagingJob" => self.describe_packaging(call).await,
            "ListModelPackagingJobs" => self.list_packaging(call).await,
            "TagResource" => self.tag_resource(call).await,
            "UntagResource" => self.untag_resource(call).await,
            "ListTagsForResource" => self.list_tags(call).await,
            other => Err(Fault::internal(format!("no code for the operation `{other}`"))),
        }
    }

    /// The version that `latest` or a number means.
    async fn version(&self, project: &str, written: &str) -> Result<u64, Fault> {
        if let Ok(version) = written.parse() {
            return Ok(version);
        }
        let newest = self.store.newest_model(project).await.map_err(fault)?;
        newest.ok_or_else(|| Fault::not_found("MODEL", project, format!("The project {project} has no model.")))
    }
}

#[async_trait]
impl Operations for Services {
    async fn call(&self, call: &api::Call) -> Result<Value, Fault> {
        let api::Call { operation, input, body, caller, request_id } = call;
        tracing::debug!(request_id, user = caller.user, operation = operation.name(), "call");
        self.answer(&Call { operation, members: input, body: body.clone() }).await
    }
}

impl Call<'_> {
    /// A member that the contract requires; empty without it.
    fn text(&self, member: &str) -> &str {
        self.optional(member).unwrap_or_default()
    }

    fn optional(&self, member: &str) -> Option<&str> {
        self.members.get(member).and_then(Value::as_str)
    }

    fn whole(&self, member: &str) -> Option<u64> {
        self.members.get(member).and_then(Value::as_u64)
    }

    /// How many items a page has.
    fn limit(&self) -> u32 {
        self.whole("MaxResults").and_then(|limit| u32::try_from(limit).ok()).unwrap_or(PAGE)
    }

    /// After what the page begins.
    fn after(&self) -> Result<Option<String>, Fault> {
        self.pages().position(self.members)
    }

    /// Tokens that only lists of the same project and filters take back.
    fn pages(&self) -> PageToken {
        PageToken::of(self.operation, self.members)
    }

    /// The caller's word that a repeated request is the same one.
    fn token(&self) -> Option<ClientToken> {
        let token = self.optional("ClientToken")?;
        let mut request = self.members.clone();
        request.remove("ClientToken");
        let request = Value::Object(request).to_string();
        Some(ClientToken {
            operation: self.operation.name(),
            token: token.to_owned(),
            request_sha256: format!("{:x}", Sha256::digest(request.as_bytes())),
        })
    }

    fn tags(&self) -> Vec<(String, String)> {
        let tags = self.members.get("Tags").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text = |tag: &Value, member: &str| tag.get(member).and_then(Value::as_str).map(str::to_owned);
        tags.iter().filter_map(|tag| Some((text(tag, "Key")?, text(tag, "Value")?))).collect()
    }
}

/// What the store refused, in the service's words.
pub(crate) fn fault(error: StoreError) -> Fault {
    let conflict = |subject: &Subject, told: String| Fault::conflict(subject.kind(), subject.id(), told);
    match error {
        StoreError::NotFound(subject) => {
            Fault::not_found(subject.kind(), subject.id(), format!("The {subject} does not exist."))
        }
        StoreError::Exists(subject) => conflict(&subject, format!("The {subject} exists already.")),
        StoreError::InUse(subject) => conflict(&subject, format!("The {subject} is in use.")),
        StoreError::WrongState { subject, status } => {
            conflict(&subject, format!("The {subject} is in the state {status}, which does not allow this."))
        }
        StoreError::TokenReused => {
            Fault::validation("The client token was used before, with another request: send another token.")
        }
        StoreError::Quota { what, most } => {
            Fault::quota(QUOTA, format!("You have reached the limit of {most} {what}."))
        }
        error => Fault::internal(error),
    }
}

/// As the service writes times.
fn time(at: jiff::Timestamp) -> Value {
    write_timestamp(at)
}
