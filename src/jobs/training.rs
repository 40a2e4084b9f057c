//! Training: this program's own `train` in a process of its own, so that it can be ended at any moment and cannot take the
//! service with it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use linewarden_objects::PutOptions;
use linewarden_store::{DatasetKind, Evaluation, Job, Model, ModelChange, ModelStatus};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::import::{of_object, shortened};
use super::pictures::For;
use super::{JobError, Worker, version_of};

/// How often the worker looks whether its model is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What a process that failed said last.
const LAST_LINES: usize = 200;

/// How a training ended.
struct Ended {
    status: ExitStatus,
    said: Vec<String>,
}

impl Worker {
    pub(super) async fn train(&self, job: &Job) -> Result<(), JobError> {
        let version = version_of(job)?;
        let model = self.services.store.model(&job.project, version).await?;
        if model.status != ModelStatus::Training {
            return Err(JobError::Unwanted);
        }
        let folder = self.scratch.join(&job.id);
        let trained = self.train_in(&folder, job, &model).await;
        // Half a training is of no use to anybody.
        if let Err(error) = tokio::fs::remove_dir_all(&folder).await {
            tracing::warn!(%error, folder = %folder.display(), "cannot remove what a training left");
        }
        trained
    }

    async fn train_in(&self, folder: &Path, job: &Job, model: &Model) -> Result<(), JobError> {
        let (project, version) = (job.project.as_str(), model.version);
        self.tell(project, version, "The pictures are being fetched.").await?;
        let train = self.lay_out(folder, project, &For::Training(version), DatasetKind::Train).await?;
        let has_test = self.services.store.datasets(project).await?.iter().any(|one| one.kind == DatasetKind::Test);
        let test = match has_test {
            true => Some(self.lay_out(folder, project, &For::Training(version), DatasetKind::Test).await?),
            false => None,
        };
        let out = folder.join("package");
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["train", "--json", "--log-format", "json", "--log-level", "info", "--dataset"]).arg(&train);
        if let Some(test) = &test {
            command.arg("--test").arg(test);
        }
        command.args(self.images(folder).await?);
        command.arg("--out").arg(&out).args(["--project", project, "--model-version", &version.to_string()]);
        let Ended { status, said } = self.run(command, project, version).await?;
        if !status.success() {
            return Err(self.refusal(status, &said, folder));
        }
        self.hand_over(&out, job, model).await
    }

    /// Runs the training, tells of its steps, and ends it when it is not wanted any more.
    async fn run(&self, mut command: Command, project: &str, version: u64) -> Result<Ended, JobError> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start the training")?;
        let errors = child.stderr.take().context("a pipe")?;
        let mut lines = BufReader::new(errors).lines();
        let (mut said, mut stop) = (Vec::new(), self.stop.clone());
        loop {
            tokio::select! {
                line = lines.next_line() => match line.context("cannot hear the training")? {
                    Some(line) => {
                        if let Some(step) = step_of(&line) {
                            self.tell(project, version, &format!("The model is being trained: {step}.")).await?;
                        } else if said.len() < LAST_LINES {
                            said.push(line);
                        }
                    }
                    None => break,
                },
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if let Err(error) = self.must_be_wanted(project, version).await {
                        end(&mut child).await;
                        return Err(error);
                    }
                }
                _ = stop.changed() => {
                    end(&mut child).await;
                    return Err(JobError::Interrupted);
                }
            }
        }
        let status = child.wait().await.context("cannot wait for the training")?;
        Ok(Ended { status, said })
    }

    async fn tell(&self, project: &str, version: u64, message: &str) -> Result<(), JobError> {
        let change = ModelChange { status_message: Some(message.to_owned()), ..ModelChange::default() };
        self.services.store.change_model(project, version, &[ModelStatus::Training], change, None).await?;
        Ok(())
    }

    /// What a training that failed said, without the folders of this machine.
    fn refusal(&self, status: ExitStatus, said: &[String], folder: &Path) -> JobError {
        let told: Vec<&str> = said.iter().map(String::as_str).skip_while(|line| !line.starts_with("error: ")).collect();
        let told = told.join("\n");
        if told.is_empty() {
            return JobError::Failed(anyhow::anyhow!("the training ended with {status}: {}", said.join("; ")));
        }
        let images = format!("{}/", folder.join("images").display());
        let told = told.replace(&images, "s3://").replace(&format!("{}/", folder.display()), "");
        JobError::Refused(shortened(told.trim_start_matches("error: ")))
    }

    /// The package to where hosting finds it, its evaluation to where the caller wants it, and only then the model's state.
    async fn hand_over(&self, out: &Path, job: &Job, model: &Model) -> Result<(), JobError> {
        let (project, version) = (job.project.as_str(), model.version);
        let prefix = model.output_prefix.as_deref().unwrap_or_default();
        let manifest_key = format!("{prefix}EvaluationManifest-{project}-{version}.json");
        let result_key = format!("{prefix}EvaluationResult-{project}-{version}.json");
        let result = tokio::fs::read(out.join("EvaluationResult.json")).await.context("the evaluation")?;
        let parsed: Value = serde_json::from_slice(&result).context("the evaluation")?;
        let summary = |member: &str| find_number(&parsed, member);
        let evaluation = Evaluation {
            f1: summary("F1Score").unwrap_or_default(),
            recall: summary("Recall").unwrap_or_default(),
            precision: summary("Precision").unwrap_or_default(),
            manifest_key: manifest_key.clone(),
            result_key: result_key.clone(),
            ended_at: Timestamp::now(),
        };
        let files = [("EvaluationManifest.jsonl", manifest_key), ("EvaluationResult.json", result_key)];
        for (file, key) in files {
            let options = PutOptions {
                content_type: Some("application/json".to_owned()),
                kms_key: model.kms_key.clone(),
                ..PutOptions::default()
            };
            let name = format!("s3://{}/{key}", model.output_bucket);
            let put = self.services.objects.put_file(&model.output_bucket, &key, &out.join(file), options).await;
            put.map_err(|error| of_object(error, &name))?;
        }
        let (packages, from) = (self.services.packages.clone(), out.to_owned());
        let (owner, key) = (project.to_owned(), model.kms_key.clone());
        tokio::task::spawn_blocking(move || packages.keep(&from, &owner, version, key.as_deref()))
            .await
            .context("moving a package")?
            .context("cannot keep the package")?;
        let change = ModelChange {
            status: Some(ModelStatus::Trained),
            status_message: Some("Training completed successfully.".to_owned()),
            evaluation: Some(evaluation),
            ..ModelChange::default()
        };
        self.services.store.change_model(project, version, &[ModelStatus::Training], change, None).await?;
        Ok(self.services.store.finish_job(&job.id).await?)
    }

    pub(super) async fn fail_training(&self, job: &Job, told: &str) -> Result<(), JobError> {
        let change = ModelChange {
            status: Some(ModelStatus::TrainingFailed),
            status_message: Some(told.to_owned()),
            ..ModelChange::default()
        };
        self.services
            .store
            .change_model(&job.project, version_of(job)?, &[ModelStatus::Training], change, None)
            .await?;
        Ok(self.services.store.finish_job(&job.id).await?)
    }
}

/// A step that the training began, from a line of its log.
fn step_of(line: &str) -> Option<String> {
    let entry: Value = serde_json::from_str(line).ok()?;
    entry.get("steps")?;
    Some(entry.get("message")?.as_str()?.to_owned())
}

async fn end(child: &mut Child) {
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "cannot end a training");
    }
}

/// The number of this name, wherever the document has it first.
fn find_number(document: &Value, name: &str) -> Option<f64> {
    match document {
        Value::Object(members) => members
            .get(name)
            .and_then(Value::as_f64)
            .or_else(|| members.values().find_map(|member| find_number(member, name))),
        _ => None,
    }
}
