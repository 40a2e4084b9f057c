//! Models: versions of a project that count up and are never reused.

use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::jobs::{JobKind, NewJob, add_job};
use crate::rows::{count, now, optional_count, optional_text, text, time, whole, word};
use crate::tags::put_tags;
use crate::tokens::{made_before, remember};
use crate::{ClientToken, Created, Metadata, StoreError, Subject, project_must_exist};

/// Where a model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the service names them")]
pub enum ModelStatus {
    Training,
    Trained,
    TrainingFailed,
    StartingHosting,
    Hosted,
    HostingFailed,
    StoppingHosting,
    Deleting,
}

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// From 1.
    pub version: u64,
    /// Where it is.
    pub status: ModelStatus,
    /// The same for people.
    pub status_message: String,
    /// What the caller said of it.
    pub description: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// Where its evaluation goes.
    pub output_bucket: String,
    /// What the keys of the evaluation's files begin with.
    pub output_prefix: Option<String>,
    /// The key that its files are encrypted with.
    pub kms_key: Option<String>,
    /// Once it was trained.
    pub evaluation: Option<Evaluation>,
    /// Inference units, least and most, while it is hosted.
    pub units: Option<(u64, u64)>,
}

/// How good a model is, and where that is written in full.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// F1 score.
    pub f1: f64,
    /// Share of the anomalies that were found.
    pub recall: f64,
    /// Share of the found ones that are anomalies.
    pub precision: f64,
    /// Key of the evaluation manifest in the model's output bucket.
    pub manifest_key: String,
    /// Key of the evaluation result there.
    pub result_key: String,
    /// When it was done.
    pub ended_at: Timestamp,
}

/// A model that is to be trained.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NewModel {
    /// What the caller says of it.
    pub description: Option<String>,
    /// Where its evaluation goes.
    pub output_bucket: String,
    /// What the keys of the evaluation's files begin with.
    pub output_prefix: Option<String>,
    /// The key that its files are to be encrypted with.
    pub kms_key: Option<String>,
    /// Key and value.
    pub tags: Vec<(String, String)>,
}

/// What becomes of a model; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelChange {
    /// Its new state.
    pub status: Option<ModelStatus>,
    /// The same for people.
    pub status_message: Option<String>,
    /// How good it is.
    pub evaluation: Option<Evaluation>,
    /// Its inference units; `Some(None)` takes them away.
    pub units: Option<Option<(u64, u64)>>,
}

const STATES: [ModelStatus; 8] = [
    ModelStatus::Training,
    ModelStatus::Trained,
    ModelStatus::TrainingFailed,
    ModelStatus::StartingHosting,
    ModelStatus::Hosted,
    ModelStatus::HostingFailed,
    ModelStatus::StoppingHosting,
    ModelStatus::Deleting,
];

impl ModelStatus {
    /// As the service writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Training => "TRAINING",
            Self::Trained => "TRAINED",
            Self::TrainingFailed => "TRAINING_FAILED",
            Self::StartingHosting => "STARTING_HOSTING",
            Self::Hosted => "HOSTED",
            Self::HostingFailed => "HOSTING_FAILED",
            Self::StoppingHosting => "STOPPING_HOSTING",
            Self::Deleting => "DELETING",
        }
    }
}

impl Evaluation {
    fn write(&self) -> String {
        let Self { f1, recall, precision, manifest_key, result_key, ended_at } = self;
        let ended_at = ended_at.as_microsecond();
        json!({ "f1": f1, "recall": recall, "precision": precision, "manifest_key": manifest_key, "result_key": result_key, "ended_at": ended_at })
            .to_string()
    }

    fn read(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let number = |name: &str| value.get(name).and_then(Value::as_f64);
        let key = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            f1: number("f1")?,
            recall: number("recall")?,
            precision: number("precision")?,
            manifest_key: key("manifest_key")?,
            result_key: key("result_key")?,
            ended_at: Timestamp::from_microsecond(value.get("ended_at")?.as_i64()?).ok()?,
        })
    }
}

impl Model {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let evaluation = optional_text(row, "evaluation")?;
        let evaluation = evaluation.map(|text| Evaluation::read(&text).ok_or(StoreError::Damaged(text))).transpose()?;
        Ok(Self {
            version: count(row, "version")?,
            status: word(row, "status", &STATES, ModelStatus::as_str)?,
            status_message: text(row, "status_message")?,
            description: optional_text(row, "description")?,
            created_at: time(row, "created_at")?,
            output_bucket: text(row, "output_bucket")?,
            output_prefix: optional_text(row, "output_prefix")?,
            kms_key: optional_text(row, "kms_key")?,
            evaluation,
            units: optional_count(row, "min_units")?.zip(optional_count(row, "max_units")?),
        })
    }
}

impl Metadata {
    /// Makes the next version of a project, in training by a job whose subject is `{"version": N}`. `arn` names a version,
    /// for its tags.
    ///
    /// # Errors
    /// `NotFound` of the project, `TokenReused`.
    pub async fn create_model(
        &self,
        project: &str,
        model: NewModel,
        arn: impl Fn(u64) -> String,
        token: Option<ClientToken>,
    ) -> Result<Created<Model>, StoreError> {
        let mut writing = self.write().await?;
        if let Some(version) = made_before(&mut writing, token.as_ref()).await? {
            drop(writing);
            let version = version.parse().map_err(|_| StoreError::Damaged(version))?;
            return Ok(Created::Again(self.model(project, version).await?));
        }
        let query = "UPDATE projects SET last_model_version = last_model_version + 1 WHERE name = $1
            RETURNING last_model_version";
        let row = sqlx::query(query).bind(project).fetch_optional(&mut *writing).await?;
        let row = row.ok_or_else(|| StoreError::NotFound(Subject::project(project)))?;
        let version = count(&row, "last_model_version")?;
        let NewModel { description, output_bucket, output_prefix, kms_key, tags } = model;
        let query = "INSERT INTO models
            (project, version, status, status_message, description, created_at, output_bucket, output_prefix, kms_key)
            VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let query = sqlx::query(query).bind(project).bind(whole(version)).bind(ModelStatus::Training.as_str());
        let query = query.bind("The model is being trained.").bind(description).bind(now());
        query.bind(output_bucket).bind(output_prefix).bind(kms_key).execute(&mut *writing).await?;
        put_tags(&mut writing, &arn(version), &tags).await?;
        add_job(&mut writing, project, NewJob { kind: JobKind::Train, subject: json!({ "version": version }) }).await?;
        remember(&mut writing, token.as_ref(), &version.to_string()).await?;
        writing.commit().await?;
        Ok(Created::New(self.model(project, version).await?))
    }

    /// One version.
    ///
    /// # Errors
    /// `NotFound` of the project or the model.
    pub async fn model(&self, project: &str, version: u64) -> Result<Model, StoreError> {
        read_model(&mut *self.read().await?, project, version).await
    }

    /// The highest version that is there.
    ///
    /// # Errors
    /// `NotFound` of the project.
    pub async fn newest_model(&self, project: &str) -> Result<Option<u64>, StoreError> {
        let mut connection = self.read().await?;
        project_must_exist(&mut connection, project).await?;
        let query = sqlx::query("SELECT version FROM models WHERE project = $1 ORDER BY version DESC LIMIT 1");
        let row = query.bind(project).fetch_optional(&mut *connection).await?;
        row.map(|row| count(&row, "version")).transpose()
    }

    /// Versions, the newest first, from the one below `below` on.
    ///
    /// # Errors
    /// `NotFound` of the project.
    pub async fn models(&self, project: &str, below: Option<u64>, limit: u32) -> Result<Vec<Model>, StoreError> {
        let mut connection = self.read().await?;
        project_must_exist(&mut connection, project).await?;
        let query = "SELECT * FROM models WHERE project = $1 AND version < $2 ORDER BY version DESC LIMIT $3";
        let below = below.map_or(i64::MAX, whole);
        let rows =
            sqlx::query(query).bind(project).bind(below).bind(i64::from(limit)).fetch_all(&mut *connection).await?;
        rows.iter().map(Model::read).collect()
    }

    /// Those that are hosted, or on the way there or back, with their projects.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn hosted_models(&self) -> Result<Vec<(String, Model)>, StoreError> {
        let query = "SELECT * FROM models WHERE status IN ('STARTING_HOSTING', 'HOSTED', 'STOPPING_HOSTING')";
        let rows = sqlx::query(query).fetch_all(&mut *self.read().await?).await?;
        rows.iter().map(|row| Ok((text(row, "project")?, Model::read(row)?))).collect()
    }

    /// Changes a model that is in one of the states `from`, and lays a job where one is given.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn change_model(
        &self,
        project: &str,
        version: u64,
        from: &[ModelStatus],
        change: ModelChange,
        job: Option<NewJob>,
    ) -> Result<Model, StoreError> {
        let mut writing = self.write().await?;
        let model = read_model(&mut writing, project, version).await?;
        let wrong = |status: ModelStatus| StoreError::WrongState {
            subject: Subject::model(project, version),
            status: status.as_str(),
        };
        if !from.contains(&model.status) {
            return Err(wrong(model.status));
        }
        let ModelChange { status, status_message, evaluation, units } = change;
        let units = units.unwrap_or(model.units);
        let evaluation = evaluation.or(model.evaluation).map(|evaluation| evaluation.write());
        // PostgreSQL lets others write between our reading and our writing.
        let query =
            "UPDATE models SET status = $4, status_message = $5, evaluation = $6, min_units = $7, max_units = $8
            WHERE project = $1 AND version = $2 AND status = $3";
        let query = sqlx::query(query).bind(project).bind(whole(version)).bind(model.status.as_str());
        let query =
            query.bind(status.unwrap_or(model.status).as_str()).bind(status_message.unwrap_or(model.status_message));
        let query =
            query.bind(evaluation).bind(units.map(|units| whole(units.0))).bind(units.map(|units| whole(units.1)));
        if query.execute(&mut *writing).await?.rows_affected() == 0 {
            return Err(wrong(model.status));
        }
        if let Some(job) = job {
            add_job(&mut writing, project, job).await?;
        }
        let model = read_model(&mut writing, project, version).await?;
        writing.commit().await?;
        Ok(model)
    }

    /// Removes a version for good, with its tags and the jobs that are about it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_model(&self, project: &str, version: u64, arn: &str) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        read_model(&mut writing, project, version).await?;
        let subject = json!({ "version": version }).to_string();
        let jobs = sqlx::query("DELETE FROM jobs WHERE project = $1 AND subject = $2").bind(project).bind(subject);
        jobs.execute(&mut *writing).await?;
        sqlx::query("DELETE FROM tags WHERE arn = $1").bind(arn).execute(&mut *writing).await?;
        let query = sqlx::query("DELETE FROM models WHERE project = $1 AND version = $2");
        query.bind(project).bind(whole(version)).execute(&mut *writing).await?;
        Ok(writing.commit().await?)
    }
}

async fn read_model(connection: &mut AnyConnection, project: &str, version: u64) -> Result<Model, StoreError> {
    let query = sqlx::query("SELECT * FROM models WHERE project = $1 AND version = $2");
    match query.bind(project).bind(whole(version)).fetch_optional(&mut *connection).await? {
        Some(row) => Model::read(&row),
        None => {
            project_must_exist(connection, project).await?;
            Err(StoreError::NotFound(Subject::model(project, version)))
        }
    }
}
