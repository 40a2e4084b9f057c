//! Packaging: a trained model as a component for a machine at the line, which needs no cloud to be installed.
//!
//! The component is one archive: the model package, the Edge Agent's configuration and unit file, and a recipe in JSON and
//! YAML of the form that Greengrass knows. `target.rs` says what the compiler options ask for, `component.rs` writes the files.

mod component;
mod target;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use linewarden_model::package::Package;
use linewarden_objects::{ObjectError, PutOptions};
use linewarden_store::{DatasetKind, Job, PackagingJob, PackagingStatus};
use serde_json::{Value, json};
use tokio::process::Command;

use super::import::{of_object, shortened};
use super::pictures::For;
use super::{JobError, Worker};
use crate::packages::Opened;
use component::Component;
pub(crate) use target::Target;

impl Worker {
    pub(super) async fn package(&self, job: &Job) -> Result<(), JobError> {
        let asked = self.services.store.packaging_job(&job.project, name_of(job)).await?;
        self.told(job, "The component is being made.").await?;
        let greengrass = asked.configuration.get("Greengrass").unwrap_or(&Value::Null);
        let target = Target::of(greengrass).map_err(JobError::Refused)?;
        let component = Component::of(&asked, &target);
        self.must_be_new(job, &component).await?;
        let folder = self.scratch.join(&job.id);
        tokio::fs::create_dir_all(&folder).await.context("cannot make a folder for the component")?;
        let made = self.package_in(&folder, job, &asked, &target, &component).await;
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
            tracing::warn!(%error, folder = %folder.display(), "cannot remove what a packaging job left");
        }
        let notes = made?;
        let output = json!({ "Greengrass": {
            "ComponentVersionArn": format!(
                "arn:aws:greengrass:{}:aws:components:{}", self.services.naming.region, component.name
            ),
            "ComponentName": component.name,
            "ComponentVersion": component.version,
        } });
        let (store, succeeded) = (&self.services.store, PackagingStatus::Succeeded);
        let done = format!("The component is in its bucket.{notes}");
        Ok(store
            .change_packaging_job(&job.project, &asked.name, succeeded, &done, Some(&output), Some(&job.id))
            .await?)
    }

    /// Gives what is to be said of it.
    async fn package_in(
        &self,
        folder: &Path,
        job: &Job,
        asked: &PackagingJob,
        target: &Target,
        component: &Component,
    ) -> Result<String, JobError> {
        let (packages, project, version) = (self.services.packages.clone(), job.project.clone(), asked.model_version);
        let opened = tokio::task::spawn_blocking(move || packages.open(&project, version)).await;
        let opened = opened.context("reading a package")?.context("cannot read the model")?;
        let (path, mut notes) = match target.precision.format() {
            Some(format) => self.converted(folder, job, &opened, format, target.bound).await?,
            None => (opened.path().to_owned(), String::new()),
        };
        if !target.ignored.is_empty() {
            notes += &format!(" Of CompilerOptions these mean nothing here: {}.", target.ignored.join(", "));
        }
        let archive = folder.join("component.tar");
        let (own, into) = (component.clone(), archive.clone());
        let written = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
            Ok(own.write_archive(&into, &Package::read(&path)?)?)
        });
        written.await.context("making a component")?.context("cannot make the component")?;
        self.put(&archive, component).await?;
        Ok(notes)
    }

    /// The model in another number format, and how far its scores moved: by this program's own `optimize`, in a process that
    /// can be ended at any moment.
    async fn converted(
        &self,
        folder: &Path,
        job: &Job,
        opened: &Opened,
        format: &str,
        bound: f64,
    ) -> Result<(PathBuf, String), JobError> {
        self.told(job, &format!("The model is being turned into {format}.")).await?;
        let project = job.project.as_str();
        let kinds = self.services.store.datasets(project).await?;
        // Other pictures than it was trained on tell more, where there are some.
        let has_test = kinds.iter().any(|dataset| dataset.kind == DatasetKind::Test);
        let kind = if has_test { DatasetKind::Test } else { DatasetKind::Train };
        if !kinds.iter().any(|dataset| dataset.kind == kind) {
            let told =
                format!("precision {format} of CompilerOptions needs a data set of the project, and it has none.");
            return Err(JobError::Refused(told));
        }
        let dataset = self.lay_out(folder, project, &For::Packaging, kind).await?;
        let out = folder.join("converted");
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["optimize", "--json", "--format", format, "--model"]).arg(opened.path());
        command.arg("--dataset").arg(&dataset).arg("--out").arg(&out).args(self.images(folder).await?);
        command.args(["--bound", &bound.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().context("cannot start the conversion")?;
        let mut stop = self.stop.clone();
        // Dropped, and so ended, when the service stops.
        let output = tokio::select! {
            output = child.wait_with_output() => output.context("cannot wait for the conversion")?,
            _ = stop.changed() => return Err(JobError::Interrupted),
        };
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(match said.lines().find_map(|line| line.strip_prefix("error: ")) {
                Some(told) => JobError::Refused(shortened(told)),
                None => JobError::Failed(anyhow::anyhow!("the conversion ended with {}: {said}", output.status)),
            });
        }
        let document: Value = serde_json::from_slice(&output.stdout).context("what the conversion said")?;
        let trials = document["trials"].as_array().into_iter().flatten();
        let moved = trials.filter(|trial| trial["kept"] == true).find_map(|trial| trial["largest_change"].as_f64());
        let moved = moved.context("the conversion does not say how far scores moved")?;
        let views = document["views"].as_u64().unwrap_or_default();
        Ok((out, format!(" As {format} it scores {views} views within {moved:.4} of what it scored before.")))
    }

    /// As the old service: no two components of one name and version.
    async fn must_be_new(&self, job: &Job, component: &Component) -> Result<(), JobError> {
        // What an attempt that was interrupted put there is its own.
        if job.attempts > 1 {
            return Ok(());
        }
        match self.services.objects.head(&component.bucket, &component.archive_key()).await {
            Ok(_) => Err(JobError::Refused(format!(
                "There is a component {} of version {} in the bucket {} already: give another ComponentVersion, or \
                 another place.",
                component.name, component.version, component.bucket
            ))),
            Err(ObjectError::NotFound { .. } | ObjectError::NoBucket(_)) => Ok(()),
            Err(error) => Err(of_object(error, &component.archive_key())),
        }
    }

    /// The recipes, and last the archive.
    async fn put(&self, archive: &Path, component: &Component) -> Result<(), JobError> {
        let (objects, bucket) = (&self.services.objects, &component.bucket);
        let failed = |error, key: &str| of_object(error, &format!("s3://{bucket}/{key}"));
        for (name, text) in component.recipes() {
            let key = format!("{}{name}", component.base());
            let put = objects.put(bucket, &key, text.into_bytes(), PutOptions::default()).await;
            put.map_err(|error| failed(error, &key))?;
        }
        let key = component.archive_key();
        objects.put_file(bucket, &key, archive, PutOptions::default()).await.map_err(|error| failed(error, &key))?;
        Ok(())
    }

    async fn told(&self, job: &Job, message: &str) -> Result<(), JobError> {
        let (store, running) = (&self.services.store, PackagingStatus::Running);
        Ok(store.change_packaging_job(&job.project, name_of(job), running, message, None, None).await?)
    }

    pub(super) async fn fail_packaging(&self, job: &Job, told: &str) -> Result<(), JobError> {
        let (store, failed) = (&self.services.store, PackagingStatus::Failed);
        Ok(store.change_packaging_job(&job.project, name_of(job), failed, told, None, Some(&job.id)).await?)
    }
}

fn name_of(job: &Job) -> &str {
    job.subject.get("name").and_then(Value::as_str).unwrap_or_default()
}
