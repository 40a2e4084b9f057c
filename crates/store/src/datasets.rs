//! Data sets and their entries.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use crate::jobs::{NewJob, add_job, remove_job};
use crate::rows::{count, json, now, text, time, whole, word};
use crate::tokens::{made_before, remember};
use crate::{ClientToken, Created, Metadata, StoreError, Subject, project_must_exist};

/// What a data set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetKind {
    /// To train models.
    Train,
    /// To evaluate them.
    Test,
}

/// Where a data set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatasetStatus {
    /// Its manifest is being read.
    CreateInProgress,
    /// It is whole.
    CreateComplete,
    /// Its manifest cannot be used.
    CreateFailed,
    /// Changes are being made.
    UpdateInProgress,
    /// The changes were made.
    UpdateComplete,
    /// None of the changes were made.
    UpdateFailedRollbackComplete,
}

/// What a person said of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A good part.
    Normal,
    /// Something is wrong with it.
    Anomaly,
}

/// A data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// What it is for.
    pub kind: DatasetKind,
    /// Where it is.
    pub status: DatasetStatus,
    /// The same for people.
    pub status_message: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its entries changed last.
    pub updated_at: Timestamp,
    /// Its entries.
    pub counts: Counts,
}

/// How many entries there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All.
    pub total: u64,
    /// Those that have a class.
    pub labeled: u64,
    /// Good parts.
    pub normal: u64,
    /// Bad ones.
    pub anomaly: u64,
}

/// An entry that comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Which picture: an entry's name within its data set.
    pub source_ref: String,
    /// The whole line of the manifest.
    pub line: String,
    /// None while nobody has said.
    pub class: Option<Class>,
}

/// An entry that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the data set.
    pub id: u64,
    /// The whole line of the manifest.
    pub line: String,
}

/// Which entries are asked for; all by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Those that have a class, or those that have none.
    pub labeled: Option<bool>,
    /// Those of this class.
    pub class: Option<Class>,
    /// Those that were there before.
    pub before: Option<Timestamp>,
    /// Those that came after.
    pub after: Option<Timestamp>,
    /// Those whose `source-ref` has this in it, in this case.
    pub source_ref_contains: Option<String>,
}

const KINDS: [DatasetKind; 2] = [DatasetKind::Train, DatasetKind::Test];
const STATES: [DatasetStatus; 6] = [
    DatasetStatus::CreateInProgress,
    DatasetStatus::CreateComplete,
    DatasetStatus::CreateFailed,
    DatasetStatus::UpdateInProgress,
    DatasetStatus::UpdateComplete,
    DatasetStatus::UpdateFailedRollbackComplete,
];

impl DatasetKind {
    /// `train` or `test`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// From what [`DatasetKind::as_str`] gives.
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl DatasetStatus {
    /// As the service writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateInProgress => "CREATE_IN_PROGRESS",
            Self::CreateComplete => "CREATE_COMPLETE",
            Self::CreateFailed => "CREATE_FAILED",
            Self::UpdateInProgress => "UPDATE_IN_PROGRESS",
            Self::UpdateComplete => "UPDATE_COMPLETE",
            Self::UpdateFailedRollbackComplete => "UPDATE_FAILED_ROLLBACK_COMPLETE",
        }
    }

    /// Whether its entries stand.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::CreateComplete | Self::UpdateComplete | Self::UpdateFailedRollbackComplete)
    }
}

impl Class {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Anomaly => "anomaly",
        }
    }
}

const COLUMNS: &str = "SELECT d.kind, d.status, d.status_message, d.created_at, d.updated_at,
    (SELECT COUNT(*) FROM entries e WHERE e.project = d.project AND e.kind = d.kind) AS total,
    (SELECT COUNT(*) FROM entries e WHERE e.project = d.project AND e.kind = d.kind AND e.class = 'normal') AS normal,
    (SELECT COUNT(*) FROM entries e WHERE e.project = d.project AND e.kind = d.kind AND e.class = 'anomaly') AS anomaly
    FROM datasets d WHERE d.project = $1 AND (d.kind = $2 OR $2 = '') ORDER BY d.kind DESC";

impl Dataset {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        let (normal, anomaly) = (count(row, "normal")?, count(row, "anomaly")?);
        Ok(Self {
            kind: word(row, "kind", &KINDS, DatasetKind::as_str)?,
            status: word(row, "status", &STATES, DatasetStatus::as_str)?,
            status_message: text(row, "status_message")?,
            created_at: time(row, "created_at")?,
            updated_at: time(row, "updated_at")?,
            counts: Counts { total: count(row, "total")?, labeled: normal + anomaly, normal, anomaly },
        })
    }
}

impl Metadata {
    /// Makes a data set: whole and empty, or being made by the job that reads `source`.
    ///
    /// # Errors
    /// `NotFound` of the project, `Exists`, `TokenReused`.
    pub async fn create_dataset(
        &self,
        project: &str,
        kind: DatasetKind,
        source: Option<&Value>,
        job: Option<NewJob>,
        token: Option<ClientToken>,
    ) -> Result<Created<Dataset>, StoreError> {
        let mut writing = self.write().await?;
        if made_before(&mut writing, token.as_ref()).await?.is_some() {
            drop(writing);
            return Ok(Created::Again(self.dataset(project, kind).await?));
        }
        project_must_exist(&mut writing, project).await?;
        if status_of(&mut writing, project, kind).await?.is_some() {
            return Err(StoreError::Exists(Subject::dataset(project, kind)));
        }
        let (status, message) = match job {
            Some(_) => (DatasetStatus::CreateInProgress, "The dataset is being created."),
            None => (DatasetStatus::CreateComplete, "The dataset was created successfully."),
        };
        let query = "INSERT INTO datasets (project, kind, status, status_message, source, created_at, updated_at)
            VALUES ($1, $2, $3, $4, $5, $6, $6)";
        let query = sqlx::query(query).bind(project).bind(kind.as_str()).bind(status.as_str()).bind(message);
        let source = source.unwrap_or(&Value::Null).to_string();
        query.bind(source).bind(now()).execute(&mut *writing).await?;
        if let Some(job) = job {
            add_job(&mut writing, project, job).await?;
        }
        remember(&mut writing, token.as_ref(), kind.as_str()).await?;
        writing.commit().await?;
        Ok(Created::New(self.dataset(project, kind).await?))
    }

    /// The data set with its counts.
    ///
    /// # Errors
    /// `NotFound` of the project or the data set.
    pub async fn dataset(&self, project: &str, kind: DatasetKind) -> Result<Dataset, StoreError> {
        let mut connection = self.read().await?;
        let row = sqlx::query(COLUMNS).bind(project).bind(kind.as_str()).fetch_optional(&mut *connection).await?;
        match row {
            Some(row) => Dataset::read(&row),
            None => {
                project_must_exist(&mut connection, project).await?;
                Err(StoreError::NotFound(Subject::dataset(project, kind)))
            }
        }
    }

    /// The data sets of a project, that for training first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn datasets(&self, project: &str) -> Result<Vec<Dataset>, StoreError> {
        let query = sqlx::query(COLUMNS).bind(project).bind("");
        query.fetch_all(&mut *self.read().await?).await?.iter().map(Dataset::read).collect()
    }

    /// Removes a data set that no training reads and no job changes.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` while it is being made or changed, `InUse` while a model is trained from it.
    pub async fn delete_dataset(&self, project: &str, kind: DatasetKind) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let status = must_exist(&mut writing, project, kind).await?;
        if !status.is_whole() && status != DatasetStatus::CreateFailed {
            return Err(StoreError::WrongState { subject: Subject::dataset(project, kind), status: status.as_str() });
        }
        let query = "SELECT version FROM models WHERE project = $1 AND status = 'TRAINING'";
        if sqlx::query(query).bind(project).fetch_optional(&mut *writing).await?.is_some() {
            return Err(StoreError::InUse(Subject::dataset(project, kind)));
        }
        let query = sqlx::query("DELETE FROM datasets WHERE project = $1 AND kind = $2");
        query.bind(project).bind(kind.as_str()).execute(&mut *writing).await?;
        Ok(writing.commit().await?)
    }

    /// The manifest was read: the data set is whole, and the job is done.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn complete_dataset(
        &self,
        project: &str,
        kind: DatasetKind,
        entries: &[NewEntry],
        job: &str,
    ) -> Result<(), StoreError> {
        let message = "The dataset was created successfully.";
        let (from, to) = (DatasetStatus::CreateInProgress, DatasetStatus::CreateComplete);
        self.change_dataset(project, kind, entries, job, (from, to, message)).await
    }

    /// The manifest cannot be used.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn fail_dataset(
        &self,
        project: &str,
        kind: DatasetKind,
        message: &str,
        job: &str,
    ) -> Result<(), StoreError> {
        let (from, to) = (DatasetStatus::CreateInProgress, DatasetStatus::CreateFailed);
        self.change_dataset(project, kind, &[], job, (from, to, message)).await
    }

    /// Takes changes on: the job is to make them.
    ///
    /// # Errors
    /// `NotFound`, `WrongState` unless it is whole, `TokenReused`.
    pub async fn begin_update(
        &self,
        project: &str,
        kind: DatasetKind,
        job: NewJob,
        token: Option<ClientToken>,
    ) -> Result<Created<()>, StoreError> {
        let mut writing = self.write().await?;
        if made_before(&mut writing, token.as_ref()).await?.is_some() {
            return Ok(Created::Again(()));
        }
        let status = must_exist(&mut writing, project, kind).await?;
        if !status.is_whole() {
            return Err(StoreError::WrongState { subject: Subject::dataset(project, kind), status: status.as_str() });
        }
        let message = "The dataset is being updated.";
        set_status(&mut writing, project, kind, DatasetStatus::UpdateInProgress, message).await?;
        add_job(&mut writing, project, job).await?;
        remember(&mut writing, token.as_ref(), kind.as_str()).await?;
        writing.commit().await?;
        Ok(Created::New(()))
    }

    /// Makes all changes and ends the job: entries of known pictures are replaced where they are, new ones follow.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn apply_changes(
        &self,
        project: &str,
        kind: DatasetKind,
        entries: &[NewEntry],
        job: &str,
    ) -> Result<(), StoreError> {
        let message = "The dataset was updated successfully.";
        let (from, to) = (DatasetStatus::UpdateInProgress, DatasetStatus::UpdateComplete);
        self.change_dataset(project, kind, entries, job, (from, to, message)).await
    }

    /// None of the changes are made.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`.
    pub async fn fail_update(
        &self,
        project: &str,
        kind: DatasetKind,
        message: &str,
        job: &str,
    ) -> Result<(), StoreError> {
        let (from, to) = (DatasetStatus::UpdateInProgress, DatasetStatus::UpdateFailedRollbackComplete);
        self.change_dataset(project, kind, &[], job, (from, to, message)).await
    }

    async fn change_dataset(
        &self,
        project: &str,
        kind: DatasetKind,
        entries: &[NewEntry],
        job: &str,
        (from, to, message): (DatasetStatus, DatasetStatus, &str),
    ) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        let status = must_exist(&mut writing, project, kind).await?;
        if status != from {
            return Err(StoreError::WrongState { subject: Subject::dataset(project, kind), status: status.as_str() });
        }
        put_entries(&mut writing, project, kind, entries).await?;
        set_status(&mut writing, project, kind, to, message).await?;
        remove_job(&mut writing, job).await?;
        Ok(writing.commit().await?)
    }

    /// A page of the entries that the filter lets through, from the one after `after` on.
    ///
    /// # Errors
    /// `NotFound` of the project or the data set.
    pub async fn list_entries(
        &self,
        project: &str,
        kind: DatasetKind,
        filter: &EntryFilter,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut connection = self.read().await?;
        let class = match (filter.class, filter.labeled) {
            // Nothing has a class and none.
            (Some(_), Some(false)) => return must_exist(&mut connection, project, kind).await.map(|_| Vec::new()),
            (Some(class), _) => class.as_str(),
            (None, Some(true)) => "any",
            (None, Some(false)) => "none",
            (None, None) => "",
        };
        must_exist(&mut connection, project, kind).await?;
        let query = "SELECT id, line FROM entries WHERE project = $1 AND kind = $2 AND id > $3
            AND ($4 = '' OR ($4 = 'any' AND class <> '') OR ($4 = 'none' AND class = '') OR class = $4)
            AND created_at < $5 AND created_at > $6 AND ($7 = '' OR REPLACE(source_ref, $7, '') <> source_ref)
            ORDER BY id LIMIT $8";
        let micros = |at: Option<Timestamp>, otherwise: i64| at.map_or(otherwise, Timestamp::as_microsecond);
        let query = sqlx::query(query).bind(project).bind(kind.as_str()).bind(whole(after)).bind(class);
        let query = query.bind(micros(filter.before, i64::MAX)).bind(micros(filter.after, i64::MIN));
        let query = query.bind(filter.source_ref_contains.as_deref().unwrap_or_default()).bind(i64::from(limit));
        let rows = query.fetch_all(&mut *connection).await?;
        rows.iter().map(|row| Ok(Entry { id: count(row, "id")?, line: text(row, "line")? })).collect()
    }

    /// What the data set was made from; `Null` when it was made empty.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn dataset_source(&self, project: &str, kind: DatasetKind) -> Result<Value, StoreError> {
        let query = sqlx::query("SELECT source FROM datasets WHERE project = $1 AND kind = $2");
        let row = query.bind(project).bind(kind.as_str()).fetch_optional(&mut *self.read().await?).await?;
        json(&row.ok_or_else(|| StoreError::NotFound(Subject::dataset(project, kind)))?, "source")
    }
}

async fn status_of(
    connection: &mut AnyConnection,
    project: &str,
    kind: DatasetKind,
) -> Result<Option<DatasetStatus>, StoreError> {
    let query = sqlx::query("SELECT status FROM datasets WHERE project = $1 AND kind = $2");
    let row = query.bind(project).bind(kind.as_str()).fetch_optional(connection).await?;
    row.map(|row| word(&row, "status", &STATES, DatasetStatus::as_str)).transpose()
}

async fn must_exist(
    connection: &mut AnyConnection,
    project: &str,
    kind: DatasetKind,
) -> Result<DatasetStatus, StoreError> {
    match status_of(connection, project, kind).await? {
        Some(status) => Ok(status),
        None => {
            project_must_exist(connection, project).await?;
            Err(StoreError::NotFound(Subject::dataset(project, kind)))
        }
    }
}

async fn set_status(
    connection: &mut AnyConnection,
    project: &str,
    kind: DatasetKind,
    status: DatasetStatus,
    message: &str,
) -> Result<(), StoreError> {
    let query =
        "UPDATE datasets SET status = $3, status_message = $4, updated_at = $5 WHERE project = $1 AND kind = $2";
    let query = sqlx::query(query).bind(project).bind(kind.as_str()).bind(status.as_str()).bind(message).bind(now());
    query.execute(connection).await?;
    Ok(())
}

async fn put_entries(
    connection: &mut AnyConnection,
    project: &str,
    kind: DatasetKind,
    entries: &[NewEntry],
) -> Result<(), StoreError> {
    if entries.is_empty() {
        return Ok(());
    }
    let query = sqlx::query("SELECT next_entry FROM datasets WHERE project = $1 AND kind = $2");
    let row = query.bind(project).bind(kind.as_str()).fetch_one(&mut *connection).await?;
    let mut next = count(&row, "next_entry")?;
    let created_at = now();
    for NewEntry { source_ref, line, class } in entries {
        let class = class.map_or("", Class::as_str);
        let query = "UPDATE entries SET line = $4, class = $5 WHERE project = $1 AND kind = $2 AND source_ref = $3";
        let query = sqlx::query(query).bind(project).bind(kind.as_str()).bind(source_ref).bind(line).bind(class);
        if query.execute(&mut *connection).await?.rows_affected() > 0 {
            continue;
        }
        let query = "INSERT INTO entries (project, kind, id, source_ref, line, class, created_at)
            VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let query = sqlx::query(query).bind(project).bind(kind.as_str()).bind(whole(next)).bind(source_ref);
        query.bind(line).bind(class).bind(created_at).execute(&mut *connection).await?;
        next += 1;
    }
    let query = sqlx::query("UPDATE datasets SET next_entry = $3 WHERE project = $1 AND kind = $2");
    query.bind(project).bind(kind.as_str()).bind(whole(next)).execute(connection).await?;
    Ok(())
}
