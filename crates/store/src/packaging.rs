//! Packaging jobs.

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::any::AnyRow;

use crate::jobs::{JobKind, NewJob, add_job, remove_job};
use crate::rows::{count, json, now, optional_text, text, time, whole, word};
use crate::tokens::{made_before, remember};
use crate::{ClientToken, Created, Metadata, ModelStatus, StoreError, Subject, project_must_exist};

/// Where a packaging job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the service names them")]
pub enum PackagingStatus {
    Created,
    Running,
    Succeeded,
    Failed,
}

/// A packaging job.
#[derive(Debug, Clone, PartialEq)]
pub struct PackagingJob {
    /// Its name, its own within the project.
    pub name: String,
    /// Which model.
    pub model_version: u64,
    /// What the caller said of it.
    pub description: Option<String>,
    /// As the caller wrote it.
    pub configuration: Value,
    /// What came out, in the service's form.
    pub output: Option<Value>,
    /// Where it is.
    pub status: PackagingStatus,
    /// The same for people.
    pub status_message: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it changed last.
    pub updated_at: Timestamp,
}

/// A packaging job that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPackagingJob {
    /// One is made when there is none.
    pub name: Option<String>,
    /// Which model.
    pub model_version: u64,
    /// What the caller says of it.
    pub description: Option<String>,
    /// As the caller wrote it.
    pub configuration: Value,
}

const STATES: [PackagingStatus; 4] =
    [PackagingStatus::Created, PackagingStatus::Running, PackagingStatus::Succeeded, PackagingStatus::Failed];

impl PackagingStatus {
    /// As the service writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
        }
    }
}

impl PackagingJob {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let output = optional_text(row, "output")?;
        Ok(Self {
            name: text(row, "name")?,
            model_version: count(row, "model_version")?,
            description: optional_text(row, "description")?,
            configuration: json(row, "configuration")?,
            output: output
                .map(|text| serde_json::from_str(&text).map_err(|_| StoreError::Damaged(text)))
                .transpose()?,
            status: word(row, "status", &STATES, PackagingStatus::as_str)?,
            status_message: text(row, "status_message")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
        })
    }
}

impl Metadata {
    /// Lays a packaging job of a trained model; the worker's job has the subject `{"name": N}`.
    ///
    /// # Errors
    /// `NotFound` of project or model, `WrongState` of a model without a package, `Exists`, `TokenReused`.
    pub async fn create_packaging_job(
        &self,
        project: &str,
        job: NewPackagingJob,
        token: Option<ClientToken>,
    ) -> Result<Created<PackagingJob>, StoreError> {
        let mut writing = self.write().await?;
        if let Some(name) = made_before(&mut writing, token.as_ref()).await? {
            drop(writing);
            return Ok(Created::Again(self.packaging_job(project, &name).await?));
        }
        let version = job.model_version;
        let query = sqlx::query("SELECT status FROM models WHERE project = $1 AND version = $2");
        let Some(row) = query.bind(project).bind(whole(version)).fetch_optional(&mut *writing).await? else {
            project_must_exist(&mut writing, project).await?;
            return Err(StoreError::NotFound(Subject::model(project, version)));
        };
        let status = text(&row, "status")?;
        let without = [ModelStatus::Training, ModelStatus::TrainingFailed, ModelStatus::Deleting];
        if let Some(without) = without.into_iter().find(|without| without.as_str() == status) {
            return Err(StoreError::WrongState { subject: Subject::model(project, version), status: without.as_str() });
        }
        let name = job.name.unwrap_or_else(|| format!("job-{}", uuid::Uuid::new_v4()));
        let query = sqlx::query("SELECT name FROM packaging_jobs WHERE project = $1 AND name = $2");
        if query.bind(project).bind(&name).fetch_optional(&mut *writing).await?.is_some() {
            return Err(StoreError::Exists(Subject::packaging_job(project, &name)));
        }
        let query = "INSERT INTO packaging_jobs
            (project, name, model_version, description, configuration, status, status_message, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)";
        let query = sqlx::query(query).bind(project).bind(&name).bind(whole(version)).bind(job.description);
        let query = query.bind(job.configuration.to_string()).bind(PackagingStatus::Created.as_str());
        query.bind("The model packaging job was created.").bind(now()).execute(&mut *writing).await?;
        add_job(&mut writing, project, NewJob { kind: JobKind::Package, subject: json!({ "name": name }) }).await?;
        remember(&mut writing, token.as_ref(), &name).await?;
        writing.commit().await?;
        Ok(Created::New(self.packaging_job(project, &name).await?))
    }

    /// The job of this name.
    ///
    /// # Errors
    /// `NotFound` of the project or the job.
    pub async fn packaging_job(&self, project: &str, name: &str) -> Result<PackagingJob, StoreError> {
        let mut connection = self.read().await?;
        let query = sqlx::query("SELECT * FROM packaging_jobs WHERE project = $1 AND name = $2");
        match query.bind(project).bind(name).fetch_optional(&mut *connection).await? {
            Some(row) => PackagingJob::read(&row),
            None => {
                project_must_exist(&mut connection, project).await?;
                Err(StoreError::NotFound(Subject::packaging_job(project, name)))
            }
        }
    }

    /// Jobs by name, from the one after `after` on.
    ///
    /// # Errors
    /// `NotFound` of the project.
    pub async fn packaging_jobs(
        &self,
        project: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<PackagingJob>, StoreError> {
        let mut connection = self.read().await?;
        project_must_exist(&mut connection, project).await?;
        let query = "SELECT * FROM packaging_jobs WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3";
        let query = sqlx::query(query).bind(project).bind(after.unwrap_or_default()).bind(i64::from(limit));
        query.fetch_all(&mut *connection).await?.iter().map(PackagingJob::read).collect()
    }

    /// Writes down where a job is; `done` names the worker's job, which ends with it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn change_packaging_job(
        &self,
        project: &str,
        name: &str,
        status: PackagingStatus,
        message: &str,
        output: Option<&Value>,
        done: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let query = "UPDATE packaging_jobs SET status = $3, status_message = $4, output = $5, updated_at = $6
            WHERE project = $1 AND name = $2";
        let query = sqlx::query(query).bind(project).bind(name).bind(status.as_str()).bind(message);
        let query = query.bind(output.map(Value::to_string)).bind(now());
        if query.execute(&mut *writing).await?.rows_affected() == 0 {
            return Err(StoreError::NotFound(Subject::packaging_job(project, name)));
        }
        if let Some(id) = done {
            remove_job(&mut writing, id).await?;
        }
        Ok(writing.commit().await?)
    }
}
