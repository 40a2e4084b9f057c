//! What is to be done and takes long: a queue that outlives the process.

use serde_json::Value;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use crate::rows::{count, json, now, text, whole, word};
use crate::{Metadata, StoreError};

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Read a manifest into a new data set.
    Import,
    /// Make changes to a data set.
    Update,
    /// Train a model.
    Train,
    /// Remove a model.
    Delete,
    /// Make a component of a model.
    Package,
}

/// Who does it: what takes minutes does not hold up what takes seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Seconds.
    Short,
    /// Minutes.
    Long,
}

/// A job that is to be laid.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// What is to be done.
    pub kind: JobKind,
    /// To what: the job's own words.
    pub subject: Value,
}

/// A job that somebody took.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// What is to be done.
    pub kind: JobKind,
    /// For which project.
    pub project: String,
    /// To what.
    pub subject: Value,
    /// How often it was taken, with this time: more than once when the process ended amid it.
    pub attempts: u64,
}

const KINDS: [JobKind; 5] = [JobKind::Import, JobKind::Update, JobKind::Train, JobKind::Delete, JobKind::Package];

impl JobKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Update => "update",
            Self::Train => "train",
            Self::Delete => "delete",
            Self::Package => "package",
        }
    }

    fn lane(self) -> Lane {
        match self {
            Self::Train | Self::Package => Lane::Long,
            Self::Import | Self::Update | Self::Delete => Lane::Short,
        }
    }
}

impl Lane {
    fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

impl Job {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: text(row, "id")?,
            kind: word(row, "kind", &KINDS, JobKind::as_str)?,
            project: text(row, "project")?,
            subject: json(row, "subject")?,
            attempts: count(row, "attempts")?,
        })
    }
}

impl Metadata {
    /// Takes the oldest job of the lane that nobody has taken.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_next(&self, lane: Lane) -> Result<Option<Job>, StoreError> {
        loop {
            let mut writing = self.write().await?;
            let query = "SELECT id FROM jobs WHERE lane = $1 AND state = 'queued' ORDER BY created_at, id LIMIT 1";
            let Some(row) = sqlx::query(query).bind(lane.as_str()).fetch_optional(&mut *writing).await? else {
                return Ok(None);
            };
            let id: String = row.try_get("id")?;
            let query = "UPDATE jobs SET state = 'running', attempts = attempts + 1 WHERE id = $1 AND state = 'queued'
                RETURNING id, kind, project, subject, attempts";
            let row = sqlx::query(query).bind(&id).fetch_optional(&mut *writing).await?;
            writing.commit().await?;
            // Somebody else was faster otherwise.
            if let Some(row) = row {
                return Job::read(&row).map(Some);
            }
        }
    }

    /// The job is done, or has no sense any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_job(&self, id: &str) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        remove_job(&mut writing, id).await?;
        Ok(writing.commit().await?)
    }

    /// The job could not be done now: it waits again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn requeue_job(&self, id: &str) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        sqlx::query("UPDATE jobs SET state = 'queued' WHERE id = $1").bind(id).execute(&mut *writing).await?;
        Ok(writing.commit().await?)
    }

    /// At the start of the process: what was taken and not finished waits again. Tells how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn requeue_interrupted(&self) -> Result<u64, StoreError> {
        let mut writing = self.write().await?;
        let query = sqlx::query("UPDATE jobs SET state = 'queued' WHERE state = 'running'");
        let requeued = query.execute(&mut *writing).await?.rows_affected();
        writing.commit().await?;
        Ok(requeued)
    }
}

pub(crate) async fn add_job(connection: &mut AnyConnection, project: &str, job: NewJob) -> Result<(), StoreError> {
    let NewJob { kind, subject } = job;
    let query = "INSERT INTO jobs (id, kind, lane, project, subject, state, attempts, created_at)
        VALUES ($1, $2, $3, $4, $5, 'queued', $6, $7)";
    // Its first half is the time, so that jobs of one moment keep their order.
    let id = uuid::Uuid::now_v7().to_string();
    let query = sqlx::query(query).bind(id).bind(kind.as_str()).bind(kind.lane().as_str()).bind(project);
    query.bind(subject.to_string()).bind(whole(0)).bind(now()).execute(connection).await?;
    Ok(())
}

pub(crate) async fn remove_job(connection: &mut AnyConnection, id: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM jobs WHERE id = $1").bind(id).execute(connection).await?;
    Ok(())
}
