//! Packaging jobs: a trained model as a component for machines at the line.

use linewarden_contract::Fault;
use linewarden_store::{NewPackagingJob, PackagingJob};
use serde_json::{Value, json};

use super::{Answer, Call, Services, fault, time};
use crate::jobs::Target;

impl Services {
    pub(super) async fn start_packaging(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let version = self.version(project, call.text("ModelVersion")).await?;
        let configuration = call.members.get("Configuration").cloned().unwrap_or_default();
        let greengrass = configuration.get("Greengrass").unwrap_or(&Value::Null);
        Target::of(greengrass).map_err(Fault::validation)?;
        let bucket =
            configuration.pointer("/Greengrass/S3OutputLocation/Bucket").and_then(Value::as_str).unwrap_or_default();
        if !self.objects.bucket_exists(bucket).await.map_err(Fault::internal)? {
            return Err(Fault::validation(format!("The S3 bucket {bucket} of S3OutputLocation does not exist.")));
        }
        let new = NewPackagingJob {
            name: call.optional("JobName").map(str::to_owned),
            model_version: version,
            description: call.optional("Description").map(str::to_owned),
            configuration,
        };
        let created = self.store.create_packaging_job(project, new, call.token()).await.map_err(fault)?;
        self.bell.ring();
        Ok(json!({ "JobName": created.into_inner().name }))
    }

    pub(super) async fn describe_packaging(&self, call: &Call<'_>) -> Answer {
        let project = call.text("ProjectName");
        let job = self.store.packaging_job(project, call.text("JobName")).await.map_err(fault)?;
        let mut description = metadata(project, &job);
        description["ModelPackagingConfiguration"] = job.configuration.clone();
        if let Some(output) = &job.output {
            description["ModelPackagingOutputDetails"] = output.clone();
        }
        Ok(json!({ "ModelPackagingDescription": description }))
    }

    pub(super) async fn list_packaging(&self, call: &Call<'_>) -> Answer {
        let (project, limit) = (call.text("ProjectName"), call.limit());
        let jobs = self.store.packaging_jobs(project, call.after()?.as_deref(), limit + 1).await.map_err(fault)?;
        let page = jobs.get(..limit as usize).unwrap_or(&jobs);
        let listed: Value = page.iter().map(|job| metadata(project, job)).collect();
        let mut answer = json!({ "ModelPackagingJobs": listed });
        if let Some(last) = page.last().filter(|_| jobs.len() > page.len()) {
            answer["NextToken"] = call.pages().write(&last.name).into();
        }
        Ok(answer)
    }
}

fn metadata(project: &str, job: &PackagingJob) -> Value {
    let mut metadata = json!({
        "JobName": job.name,
        "ProjectName": project,
        "ModelVersion": job.model_version.to_string(),
        "ModelPackagingMethod": "Greengrass",
        "Status": job.status.as_str(),
        "StatusMessage": job.status_message,
        "CreationTimestamp": time(job.created_at),
        "LastUpdatedTimestamp": time(job.updated_at),
    });
    if let Some(description) = &job.description {
        metadata["ModelPackagingJobDescription"] = description.as_str().into();
    }
    metadata
}
