//! Why something cannot be done.

use std::fmt;

use crate::DatasetKind;

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    kind: &'static str,
    id: String,
}

impl Subject {
    pub(crate) fn project(project: &str) -> Self {
        Self { kind: "PROJECT", id: project.to_owned() }
    }

    pub(crate) fn dataset(project: &str, kind: DatasetKind) -> Self {
        Self { kind: "DATASET", id: format!("{project}/{}", kind.as_str()) }
    }

    pub(crate) fn model(project: &str, version: u64) -> Self {
        Self { kind: "MODEL", id: format!("{project}/{version}") }
    }

    pub(crate) fn packaging_job(project: &str, name: &str) -> Self {
        Self { kind: "MODEL_PACKAGE_JOB", id: format!("{project}/{name}") }
    }

    /// `PROJECT`, `DATASET`, `MODEL` or `MODEL_PACKAGE_JOB`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// Its name; below a project's with a `/` between.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            "PROJECT" => "project",
            "DATASET" => "data set",
            "MODEL" => "model",
            _ => "packaging job",
        };
        write!(out, "{kind} {}", self.id)
    }
}

/// Why the store did nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is none.
    #[error("the {0} does not exist")]
    NotFound(Subject),
    /// There is one already.
    #[error("the {0} exists already")]
    Exists(Subject),
    /// Something else needs it.
    #[error("the {0} is in use")]
    InUse(Subject),
    /// Its state does not allow it.
    #[error("the {subject} is in the state {status}")]
    WrongState {
        /// What.
        subject: Subject,
        /// As the service writes it.
        status: &'static str,
    },
    /// The same token with another request.
    #[error("the client token was used before, with another request")]
    TokenReused,
    /// As many as there may be.
    #[error("there are {most} {what} already")]
    Quota {
        /// In the plural.
        what: &'static str,
        /// The most.
        most: u64,
    },
    /// The address of the database is no address.
    #[error("the database's address cannot be understood: allowed is `postgres://user:password@host/database`")]
    Address,
    /// A row says what no program of ours wrote.
    #[error("the database has `{0}` where it cannot be")]
    Damaged(String),
    /// The schema is another one.
    #[error("the database cannot be brought to this program's schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}
