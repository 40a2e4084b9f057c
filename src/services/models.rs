//! Models: trained as jobs, hosted by inference units.

use std::sync::Arc;

use linewarden_contract::Fault;
use linewarden_store::{DatasetKind, JobKind, Model, ModelChange, ModelStatus, NewJob, NewModel};
use serde_json::{Value, json};

use super::{Answer, Call, QUOTA, Services, fault, time};
use crate::events::HostingEvents;
use crate::hosting::Units;

/// More units of one model than any machine here has cores for.
const MOST_UNITS: u64 = 64;

impl Services {
    pub(super) async fn create_model(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let location = call.members.get("OutputConfig").and_then(|config| config.get("S3Location"));
        let at = |member: &str| location.and_then(|location| location.get(member)).and_then(Value::as_str);
        let bucket = at("Bucket").unwrap_or_default();
        let key = call.optional("KmsKeyId");
        self.ready_to_train(project).await?;
        if !self.objects.bucket_exists(bucket).await.map_err(Fault::internal)? {
            return Err(Fault::validation(format!("The S3 bucket {bucket} of OutputConfig does not exist.")));
        }
        if let Some(key) = key.filter(|key| !self.vault.has(key)) {
            return Err(Fault::validation(format!("The key {key} of KmsKeyId does not exist.")));
        }
        let new = NewModel {
            description: call.optional("Description").map(str::to_owned),
            output_bucket: bucket.to_owned(),
            output_prefix: at("Prefix").map(str::to_owned),
            kms_key: key.map(str::to_owned),
            tags: call.tags(),
        };
        let (naming, name) = (self.naming.clone(), project.to_owned());
        let arn = move |version| naming.model(&name, version);
        let created = self.store.create_model(project, new, arn, call.token()).await.map_err(fault)?;
        self.bell.ring();
        Ok(json!({ "ModelMetadata": self.model_metadata(project, &created.into_inner()) }))
    }

    /// Training needs a data set that is whole.
    async fn ready_to_train(&self, project: &str) -> Result<(), Fault> {
        self.store.project(project).await.map_err(fault)?;
        let datasets = self.store.datasets(project).await.map_err(fault)?;
        if !datasets.iter().any(|dataset| dataset.kind == DatasetKind::Train) {
            let told = format!("The project {project} has no training data set.");
            return Err(Fault::conflict("DATASET", format!("{project}/train"), told));
        }
        match datasets.iter().find(|dataset| !dataset.status.is_whole()) {
            None => Ok(()),
            Some(dataset) => {
                let (kind, status) = (dataset.kind.as_str(), dataset.status.as_str());
                let told = format!("The {kind} data set of the project {project} is in the state {status}.");
                Err(Fault::conflict("DATASET", format!("{project}/{kind}"), told))
            }
        }
    }

    pub(super) async fn describe_model(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        let model = self.store.model(project, version).await.map_err(fault)?;
        let mut description = self.model_metadata(project, &model);
        let mut location = json!({ "Bucket": model.output_bucket });
        if let Some(prefix) = &model.output_prefix {
            location["Prefix"] = prefix.as_str().into();
        }
        description["OutputConfig"] = json!({ "S3Location": location });
        let object = |key: &str| json!({ "Bucket": model.output_bucket, "Key": key });
        let evaluation = model.evaluation.as_ref();
        let optional = [
            ("EvaluationManifest", evaluation.map(|evaluation| object(&evaluation.manifest_key))),
            ("EvaluationResult", evaluation.map(|evaluation| object(&evaluation.result_key))),
            ("EvaluationEndTimestamp", evaluation.map(|evaluation| time(evaluation.ended_at))),
            ("KmsKeyId", model.kms_key.as_deref().map(Value::from)),
            ("MinInferenceUnits", model.units.map(|units| units.0.into())),
            ("MaxInferenceUnits", model.units.map(|units| units.1.into())),
        ];
        for (member, value) in optional {
            if let Some(value) = value {
                description[member] = value;
            }
        }
        Ok(json!({ "ModelDescription": description }))
    }

    pub(super) async fn list_models(&self, call: &Call<'_>) -> Answer {
        let (project, limit) = (call.text("ProjectName"), call.limit());
        let after = match call.after()? {
            Some(token) => Some(token.parse().map_err(|_| Fault::validation("The value of NextToken is not valid."))?),
            None => None,
        };
        let models = self.store.models(project, after, limit + 1).await.map_err(fault)?;
        let page = models.get(..limit as usize).unwrap_or(&models);
        let listed: Value = page.iter().map(|model| self.model_metadata(project, model)).collect();
        let mut answer = json!({ "Models": listed });
        if let Some(last) = page.last().filter(|_| models.len() > page.len()) {
            answer["NextToken"] = call.pages().write(&last.version.to_string()).into();
        }
        Ok(answer)
    }

    pub(super) async fn delete_model(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        if let Some(line) = (self.line_of)(&self.packages.place(project, version)) {
            let told = format!("The model is used by the line {line}: give that another model first.");
            return Err(Fault::conflict("MODEL", self.naming.model(project, version), told));
        }
        let from = [
            ModelStatus::Training,
            ModelStatus::Trained,
            ModelStatus::TrainingFailed,
            ModelStatus::HostingFailed,
            ModelStatus::Deleting,
        ];
        let change = ModelChange { status: Some(ModelStatus::Deleting), ..ModelChange::default() };
        let job = NewJob { kind: JobKind::Delete, subject: json!({ "version": version }) };
        self.store.change_model(project, version, &from, change, Some(job)).await.map_err(fault)?;
        self.bell.ring();
        Ok(json!({ "ModelArn": self.naming.model(project, version) }))
    }

    pub(super) async fn start_model(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        let min = call.whole("MinInferenceUnits").unwrap_or(1);
        let max = call.whole("MaxInferenceUnits").unwrap_or(min);
        if max < min {
            return Err(Fault::validation(format!(
                "MaxInferenceUnits must be at least MinInferenceUnits, got {max} and {min}."
            )));
        }
        if max > MOST_UNITS {
            let told = format!("A model has at most {MOST_UNITS} inference units.");
            return Err(Fault::quota(QUOTA, told));
        }
        let change = ModelChange {
            status: Some(ModelStatus::StartingHosting),
            status_message: Some("The model is being started.".to_owned()),
            units: Some(Some((min, max))),
            ..ModelChange::default()
        };
        let from = [ModelStatus::Trained, ModelStatus::HostingFailed];
        self.store.change_model(project, version, &from, change, None).await.map_err(fault)?;
        self.host(project.to_owned(), version, min, max);
        Ok(json!({ "Status": "STARTING_HOSTING" }))
    }

    /// Loads the model beside the caller, and writes down what became of it.
    pub(crate) fn host(&self, project: String, version: u64, min: u64, max: u64) {
        let (hosting, store) = (Arc::clone(&self.hosting), self.store.clone());
        let packages = self.packages.clone();
        let units = |count: u64| usize::try_from(count).unwrap_or(1);
        let units = Units { min: units(min), max: units(max) };
        tokio::spawn(async move {
            let key = (project.clone(), version);
            let started = tokio::task::spawn_blocking({
                let (hosting, key) = (Arc::clone(&hosting), key.clone());
                move || hosting.start(&key, packages.open(&key.0, key.1)?, units)
            });
            let (status, message) = match started.await {
                Ok(Ok(())) => (ModelStatus::Hosted, "The model is running.".to_owned()),
                Ok(Err(error)) => (ModelStatus::HostingFailed, format!("The model cannot be started: {error:#}")),
                Err(error) => (ModelStatus::HostingFailed, format!("The model cannot be started: {error}")),
            };
            let failed = status == ModelStatus::HostingFailed;
            let change = ModelChange {
                status: Some(status),
                status_message: Some(message.clone()),
                units: failed.then_some(None),
                ..ModelChange::default()
            };
            if failed {
                HostingEvents.failed(&project, version, &message);
            }
            if let Err(error) =
                store.change_model(&project, version, &[ModelStatus::StartingHosting], change, None).await
            {
                tracing::error!(%error, project, version, "cannot write down that a model was started");
                hosting.stop(&key);
            }
        });
    }

    pub(super) async fn stop_model(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        let change = ModelChange {
            status: Some(ModelStatus::StoppingHosting),
            status_message: Some("The model is being stopped.".to_owned()),
            ..ModelChange::default()
        };
        self.store.change_model(project, version, &[ModelStatus::Hosted], change, None).await.map_err(fault)?;
        let (hosting, store, key) = (Arc::clone(&self.hosting), self.store.clone(), (project.to_owned(), version));
        tokio::spawn(async move {
            let (project, version) = key.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || hosting.stop(&key)).await {
                tracing::error!(%error, project, version, "stopping a model panicked");
            }
            if let Err(error) =
                store.change_model(&project, version, &[ModelStatus::StoppingHosting], stopped(), None).await
            {
                tracing::error!(%error, project, version, "cannot write down that a model was stopped");
            }
        });
        Ok(json!({ "Status": "STOPPING_HOSTING" }))
    }

    /// After a start of this process: what was hosted is hosted again, and what was being stopped has stopped.
    pub(crate) async fn resume_hosting(&self) -> Result<(), Fault> {
        for (project, model) in self.store.hosted_models().await.map_err(fault)? {
            if model.status == ModelStatus::StoppingHosting {
                let from = [ModelStatus::StoppingHosting];
                self.store.change_model(&project, model.version, &from, stopped(), None).await.map_err(fault)?;
                continue;
            }
            let change = ModelChange { status: Some(ModelStatus::StartingHosting), ..ModelChange::default() };
            let from = [ModelStatus::Hosted, ModelStatus::StartingHosting];
            self.store.change_model(&project, model.version, &from, change, None).await.map_err(fault)?;
            let (min, max) = model.units.unwrap_or((1, 1));
            self.host(project, model.version, min, max);
        }
        Ok(())
    }

    fn model_metadata(&self, project: &str, model: &Model) -> Value {
        let mut metadata = json!({
            "CreationTimestamp": time(model.created_at),
            "ModelVersion": model.version.to_string(),
            "ModelArn": self.naming.model(project, model.version),
            "Status": model.status.as_str(),
            "StatusMessage": model.status_message,
        });
        if let Some(description) = &model.description {
            metadata["Description"] = description.as_str().into();
        }
        if let Some(evaluation) = &model.evaluation {
            metadata["Performance"] = json!({
                "F1Score": evaluation.f1, "Recall": evaluation.recall, "Precision": evaluation.precision,
            });
        }
        metadata
    }
}

/// What a model is once it was stopped.
fn stopped() -> ModelChange {
    ModelChange {
        status: Some(ModelStatus::Trained),
        status_message: Some("Training completed successfully.".to_owned()),
        units: Some(None),
        ..ModelChange::default()
    }
}
