//! Data sets from manifests, and changes to them.

use anyhow::Context as _;
use linewarden_objects::ObjectError;
use linewarden_store::{DatasetKind, Job, JobKind};
use serde_json::Value;

use super::{JobError, Worker};
use crate::services::entries_of;

/// The quota of the old service.
const MOST_MANIFEST_BYTES: u64 = 1 << 30;
/// A state's message is at most this long; the rest stands in `dataset check`.
const MOST_TOLD: usize = 2000;

impl Worker {
    pub(super) async fn import(&self, job: &Job) -> Result<(), JobError> {
        let (kind, object) = (kind_of(job)?, job.subject.get("object"));
        let text = |member: &str| object.and_then(|object| object.get(member)).and_then(Value::as_str);
        let (bucket, key) = (text("Bucket").unwrap_or_default(), text("Key").unwrap_or_default());
        let name = format!("s3://{bucket}/{key}");
        let version = text("VersionId");
        let read = self.services.objects.read_version_at_most(bucket, key, version, MOST_MANIFEST_BYTES).await;
        let content = read.map_err(|error| of_object(error, &name))?;
        let entries =
            tokio::task::spawn_blocking(move || entries_of(&content, &name)).await.context("reading a manifest")?;
        let entries = entries.map_err(|told| JobError::Refused(shortened(&told)))?;
        Ok(self.services.store.complete_dataset(&job.project, kind, &entries, &job.id).await?)
    }

    pub(super) async fn update(&self, job: &Job) -> Result<(), JobError> {
        let lines = job.subject.get("lines").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let lines: Vec<&str> = lines.iter().filter_map(Value::as_str).collect();
        // They were checked when they came.
        let entries = entries_of(lines.join("\n").as_bytes(), "Changes").map_err(JobError::Refused)?;
        Ok(self.services.store.apply_changes(&job.project, kind_of(job)?, &entries, &job.id).await?)
    }

    pub(super) async fn fail_import(&self, job: &Job, told: &str) -> Result<(), JobError> {
        let (store, kind) = (&self.services.store, kind_of(job)?);
        match job.kind {
            JobKind::Import => store.fail_dataset(&job.project, kind, told, &job.id).await?,
            _ => store.fail_update(&job.project, kind, told, &job.id).await?,
        }
        Ok(())
    }
}

fn kind_of(job: &Job) -> Result<DatasetKind, JobError> {
    let kind = job.subject.get("kind").and_then(Value::as_str).and_then(DatasetKind::from_name);
    kind.ok_or_else(|| JobError::Failed(anyhow::anyhow!("the job names no data set: {}", job.subject)))
}

/// What of an object's error is the caller's doing.
pub(super) fn of_object(error: ObjectError, name: &str) -> JobError {
    match error {
        ObjectError::Storage { .. } | ObjectError::Damaged { .. } => {
            JobError::Failed(anyhow::Error::from(error).context(format!("cannot read {name}")))
        }
        error => JobError::Refused(format!("{name}: {error}")),
    }
}

/// As much of a message as a state holds.
pub(super) fn shortened(told: &str) -> String {
    match told.char_indices().nth(MOST_TOLD) {
        Some((end, _)) => format!("{}…", told.get(..end).unwrap_or_default()),
        None => told.to_owned(),
    }
}
