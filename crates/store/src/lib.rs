//! Where projects, data sets, models and jobs are kept: SQLite, or PostgreSQL.
//!
//! Each method of [`Metadata`] is one transaction: what it acknowledged is there after the process was killed, and nothing
//! of what it refused is. It knows the states of things, not what they mean: that is the caller's. Pictures, manifests and
//! model packages are not here.

mod datasets;
mod error;
mod jobs;
mod models;
mod packaging;
mod projects;
mod rows;
mod tags;
mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, Executor as _, SqlSafeStr as _, Transaction};

pub use datasets::{Class, Counts, Dataset, DatasetKind, DatasetStatus, Entry, EntryFilter, NewEntry};
pub use error::{StoreError, Subject};
pub use jobs::{Job, JobKind, Lane, NewJob};
pub use models::{Evaluation, Model, ModelChange, ModelStatus, NewModel};
pub use packaging::{NewPackagingJob, PackagingJob, PackagingStatus};
pub use projects::Project;
pub use tokens::{ClientToken, Created};

/// Connections side by side: SQLite has one writer and any number of readers.
const CONNECTIONS: u32 = 4;
/// How long a writer waits for another one.
const BUSY: Duration = Duration::from_secs(10);

/// Which database.
#[derive(Debug, Clone)]
pub enum Database {
    /// A file, made when it is not there.
    Sqlite(PathBuf),
    /// `postgres://user:password@host/database`.
    Postgres(String),
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metadata {
    pool: AnyPool,
    /// SQLite's writers line up where they begin, instead of failing where they first write.
    begin: &'static str,
}

type Writing = Transaction<'static, Any>;

impl Metadata {
    /// Opens the database, and brings it to this program's schema.
    ///
    /// # Errors
    /// When it cannot be reached, or is of a newer program.
    pub async fn open(database: &Database) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let (url, begin) = match database {
            Database::Sqlite(path) => (sqlite_url(path), "BEGIN IMMEDIATE"),
            Database::Postgres(url) => (url.clone(), "BEGIN"),
        };
        let is_sqlite = matches!(database, Database::Sqlite(_));
        // The error would quote the address, which may hold a password.
        let options: AnyConnectOptions = url.parse().map_err(|_| StoreError::Address)?;
        let pool = AnyPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(BUSY + BUSY);
        let pool = pool.after_connect(move |connection, _| {
            Box::pin(async move {
                if is_sqlite {
                    let busy_ms = BUSY.as_millis();
                    let settings = format!(
                        "PRAGMA busy_timeout = {busy_ms}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON"
                    );
                    connection.execute(sqlx::AssertSqlSafe(settings)).await?;
                }
                Ok(())
            })
        });
        let pool = pool.connect_with(options).await?;
        migrations().run(&pool).await?;
        Ok(Self { pool, begin })
    }

    /// Waits for what is under way, and closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn write(&self) -> Result<Writing, StoreError> {
        Ok(self.pool.begin_with(self.begin).await?)
    }

    async fn read(&self) -> Result<sqlx::pool::PoolConnection<Any>, StoreError> {
        Ok(self.pool.acquire().await?)
    }
}

/// What made the schema, step by step. A step that was released is never changed.
fn migrations() -> Migrator {
    let steps = [(1, "first", include_str!("../migrations/0001_first.sql"))];
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(steps.map(step).to_vec())
}

/// The path with everything percent-encoded that means something in an address.
fn sqlite_url(path: &std::path::Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut url = "sqlite://".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => url.push(char::from(byte)),
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url + "?mode=rwc"
}

/// Whether there is such a project.
async fn project_must_exist(connection: &mut AnyConnection, project: &str) -> Result<(), StoreError> {
    let found =
        sqlx::query("SELECT name FROM projects WHERE name = $1").bind(project).fetch_optional(connection).await?;
    found.map(|_| ()).ok_or_else(|| StoreError::NotFound(Subject::project(project)))
}
