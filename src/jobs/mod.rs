//! What takes long: data sets from manifests, changes to them, training, packaging, and what is removed.
//!
//! Jobs lie in the store's queue. One worker does those of seconds, another those of minutes, each one at a time; what the
//! process's end interrupts is begun anew by the next one, and given up with a reason when that happens again and again.

mod import;
mod packaging;
mod pictures;
mod training;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use linewarden_core::Backoff;
use linewarden_store::{Job, JobKind, Lane, StoreError};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::services::Services;
pub(crate) use packaging::Target;

/// A job that no bell announced is found after this long.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A job that ended the process so often is at fault itself.
const MOST_ATTEMPTS: u64 = 3;

/// Tells the workers that there is something to do.
#[derive(Default)]
pub(crate) struct Bell([Notify; 2]);

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.iter().for_each(Notify::notify_one);
    }

    async fn heard(&self, lane: Lane) {
        match lane {
            Lane::Short => self.0[0].notified().await,
            Lane::Long => self.0[1].notified().await,
        }
    }
}

/// The workers.
pub(crate) struct Jobs {
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
}

/// What a worker needs.
#[derive(Clone)]
struct Worker {
    services: Arc<Services>,
    lane: Lane,
    /// For pictures and packages that are being made.
    scratch: PathBuf,
    stop: watch::Receiver<bool>,
}

/// Why a job is not done.
#[derive(Debug, thiserror::Error)]
enum JobError {
    /// The caller's doing: told in the state of what was to be made.
    #[error("{0}")]
    Refused(String),
    /// Nobody wants it any more.
    #[error("it is not wanted any more")]
    Unwanted,
    /// The process ends: the next one begins anew.
    #[error("the process ends")]
    Interrupted,
    /// Ours: the store, the disk.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            // What the job was about was removed or changed meanwhile.
            StoreError::NotFound(_) | StoreError::WrongState { .. } => Self::Unwanted,
            error => Self::Failed(error.into()),
        }
    }
}

impl Jobs {
    /// Begins to work, first on what an earlier process left undone.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn start(services: &Arc<Services>, scratch: PathBuf) -> anyhow::Result<Self> {
        // What lies there is half of something.
        match tokio::fs::remove_dir_all(&scratch).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => tokio::fs::create_dir_all(&scratch).await?,
        }
        let requeued = services.store.requeue_interrupted().await?;
        if requeued > 0 {
            tracing::info!(jobs = requeued, "jobs that were interrupted are done again");
        }
        let (stop, stopped) = watch::channel(false);
        let worker =
            |lane| Worker { services: Arc::clone(services), lane, scratch: scratch.clone(), stop: stopped.clone() };
        let workers = [Lane::Short, Lane::Long].map(|lane| tokio::spawn(worker(lane).work())).into();
        Ok(Self { stop, workers })
    }

    /// Interrupts what is being done.
    pub(crate) async fn stop(self) {
        // A worker that ended by itself hears nothing.
        let _ = self.stop.send(true);
        for worker in self.workers {
            if let Err(error) = worker.await {
                tracing::error!(%error, "a worker panicked");
            }
        }
    }
}

impl Worker {
    async fn work(mut self) {
        let mut backoff = Backoff::of_peer();
        while !*self.stop.borrow() {
            let waiting = match self.services.store.claim_next(self.lane).await {
                Ok(Some(job)) => match self.finish(&job).await {
                    Ok(()) => {
                        backoff.reset();
                        continue;
                    }
                    Err(error) => {
                        tracing::error!(job = job.id, kind = ?job.kind, "a job is tried again: {error:#}");
                        if let Err(error) = self.services.store.requeue_job(&job.id).await {
                            tracing::error!(%error, "cannot lay a job back");
                        }
                        backoff.next_delay()
                    }
                },
                Ok(None) => LOOK_EVERY,
                Err(error) => {
                    tracing::error!(%error, "cannot ask for jobs");
                    backoff.next_delay()
                }
            };
            let services = Arc::clone(&self.services);
            tokio::select! {
                () = services.bell.heard(self.lane) => {}
                () = tokio::time::sleep(waiting) => {}
                _ = self.stop.changed() => {}
            }
        }
    }

    /// Does a job, and writes down what became of it.
    async fn finish(&self, job: &Job) -> anyhow::Result<()> {
        let done = if job.attempts > MOST_ATTEMPTS {
            let told = format!(
                "It was interrupted {} times by the end of the process, and is not tried again.",
                job.attempts - 1
            );
            Err(JobError::Refused(told))
        } else {
            self.does(job).await
        };
        let told = match done {
            Ok(()) => return Ok(()),
            Err(JobError::Interrupted) => return Ok(()),
            Err(JobError::Unwanted) => return Ok(self.services.store.finish_job(&job.id).await?),
            Err(JobError::Failed(error)) if job.attempts < MOST_ATTEMPTS => return Err(error),
            Err(JobError::Failed(error)) => {
                tracing::error!(job = job.id, kind = ?job.kind, "a job failed: {error:#}");
                "An internal error occurred; the log says which.".to_owned()
            }
            Err(JobError::Refused(told)) => told,
        };
        let failed = match job.kind {
            JobKind::Import | JobKind::Update => self.fail_import(job, &told).await,
            JobKind::Train => self.fail_training(job, &told).await,
            JobKind::Package => self.fail_packaging(job, &told).await,
            // There is nobody to tell; the next start tries again.
            JobKind::Delete => anyhow::bail!("{told}"),
        };
        match failed {
            Ok(()) => Ok(()),
            Err(JobError::Failed(error)) => Err(error),
            Err(_) => Ok(self.services.store.finish_job(&job.id).await?),
        }
    }

    async fn does(&self, job: &Job) -> Result<(), JobError> {
        match job.kind {
            JobKind::Import => self.import(job).await,
            JobKind::Update => self.update(job).await,
            JobKind::Train => self.train(job).await,
            JobKind::Package => self.package(job).await,
            JobKind::Delete => self.delete(job).await,
        }
    }

    /// Removes a model with its package. Its evaluation stays where its owner wanted it.
    async fn delete(&self, job: &Job) -> Result<(), JobError> {
        let version = version_of(job)?;
        let services = &self.services;
        let (packages, project) = (services.packages.clone(), job.project.clone());
        let removed = tokio::task::spawn_blocking(move || packages.remove(&project, version)).await;
        removed.context("removing a package")?.context("cannot remove a package")?;
        let arn = services.naming.model(&job.project, version);
        Ok(services.store.delete_model(&job.project, version, &arn).await?)
    }
}

fn version_of(job: &Job) -> Result<u64, JobError> {
    let version = job.subject.get("version").and_then(serde_json::Value::as_u64);
    version.ok_or_else(|| JobError::Failed(anyhow::anyhow!("the job names no version: {}", job.subject)))
}
