//! Projects.

use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::rows::{now, text, time};
use crate::tokens::{made_before, remember};
use crate::{ClientToken, Created, Metadata, StoreError, Subject, project_must_exist};

/// The quota of the old service.
const MOST_PROJECTS: u64 = 100;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its name, which is its own among all.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Project {
    fn read(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self { name: text(row, "name")?, created_at: time(row, "created_at")? })
    }
}

impl Metadata {
    /// Makes a project.
    ///
    /// # Errors
    /// `Exists`, `Quota` with 100 projects, `TokenReused`.
    pub async fn create_project(&self, name: &str, token: Option<ClientToken>) -> Result<Created<Project>, StoreError> {
        let mut writing = self.write().await?;
        if let Some(name) = made_before(&mut writing, token.as_ref()).await? {
            drop(writing);
            return Ok(Created::Again(self.project(&name).await?));
        }
        let found = sqlx::query("SELECT name FROM projects WHERE name = $1").bind(name).fetch_optional(&mut *writing);
        if found.await?.is_some() {
            return Err(StoreError::Exists(Subject::project(name)));
        }
        let all = sqlx::query("SELECT COUNT(*) AS number FROM projects").fetch_one(&mut *writing).await?;
        if crate::rows::count(&all, "number")? >= MOST_PROJECTS {
            return Err(StoreError::Quota { what: "projects", most: MOST_PROJECTS });
        }
        let query = sqlx::query("INSERT INTO projects (name, created_at) VALUES ($1, $2)").bind(name).bind(now());
        query.execute(&mut *writing).await?;
        remember(&mut writing, token.as_ref(), name).await?;
        writing.commit().await?;
        Ok(Created::New(self.project(name).await?))
    }

    /// The project of this name.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn project(&self, name: &str) -> Result<Project, StoreError> {
        let query = sqlx::query("SELECT name, created_at FROM projects WHERE name = $1").bind(name);
        let row = query.fetch_optional(&mut *self.read().await?).await?;
        Project::read(&row.ok_or_else(|| StoreError::NotFound(Subject::project(name)))?)
    }

    /// Projects by name, from the one after `after` on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn projects(&self, after: Option<&str>, limit: u32) -> Result<Vec<Project>, StoreError> {
        let query = "SELECT name, created_at FROM projects WHERE name > $1 ORDER BY name LIMIT $2";
        let query = sqlx::query(query).bind(after.unwrap_or_default()).bind(i64::from(limit));
        query.fetch_all(&mut *self.read().await?).await?.iter().map(Project::read).collect()
    }

    /// Removes a project that has neither data sets nor models.
    ///
    /// # Errors
    /// `NotFound`, `InUse`.
    pub async fn delete_project(&self, name: &str) -> Result<(), StoreError> {
        let mut writing = self.write().await?;
        project_must_exist(&mut writing, name).await?;
        for query in ["SELECT kind FROM datasets WHERE project = $1", "SELECT status FROM models WHERE project = $1"] {
            if sqlx::query(query).bind(name).fetch_optional(&mut *writing).await?.is_some() {
                return Err(StoreError::InUse(Subject::project(name)));
            }
        }
        for query in [
            "DELETE FROM jobs WHERE project = $1",
            "DELETE FROM packaging_jobs WHERE project = $1",
            "DELETE FROM projects WHERE name = $1",
        ] {
            sqlx::query(query).bind(name).execute(&mut *writing).await?;
        }
        Ok(writing.commit().await?)
    }
}
