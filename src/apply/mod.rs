//! `linewarden apply`: what a file declares of projects, data sets and models, held against what the REST API knows, and made
//! so step by step.
//!
//! A file and an endpoint come in; a plan goes out, and its steps are done in order, each waited for. Nothing is ever deleted,
//! and a plan that was broken off is taken up by the next call.

mod client;
mod declared;
mod plan;

use std::time::Duration;

use anyhow::{Context as _, bail};
use linewarden_access::encoded;
use serde_json::{Value, json};

pub(crate) use client::Client;
pub(crate) use declared::{Declared, read};
use plan::{Found, FoundModel, FoundProject};
pub(crate) use plan::{Plan, Step};

/// How often a job is asked after.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Asks the API for everything that the declaration is about.
pub(crate) async fn look(client: &Client, declared: &Declared) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for project in &declared.projects {
        let path = format!("projects/{}", project.name);
        let Some(described) = client.get(&path).await? else { continue };
        let datasets = described["ProjectDescription"]["Datasets"].as_array().cloned().unwrap_or_default();
        let datasets = datasets.iter().filter_map(|one| Some((text(one, "DatasetType")?, text(one, "Status")?)));
        let mut of_project = FoundProject { datasets: datasets.collect(), models: Vec::new() };
        for model in client.list(&format!("{path}/models"), "Models").await? {
            let version = text(&model, "ModelVersion").context("a model without a version")?;
            let Some(whole) = client.get(&format!("{path}/models/{version}")).await? else { continue };
            let whole = &whole["ModelDescription"];
            let arn = text(whole, "ModelArn").context("a model without an ARN")?;
            let tags = client.get(&format!("tags/{}", encoded(&arn))).await?.unwrap_or_default();
            let tags = tags["Tags"].as_array().cloned().unwrap_or_default();
            of_project.models.push(FoundModel {
                version,
                arn,
                description: text(whole, "Description").unwrap_or_default(),
                status: text(whole, "Status").unwrap_or_default(),
                units: (whole["MinInferenceUnits"].as_u64(), whole["MaxInferenceUnits"].as_u64()),
                tags: tags.iter().filter_map(|tag| Some((text(tag, "Key")?, text(tag, "Value")?))).collect(),
            });
        }
        found.projects.insert(project.name.clone(), of_project);
    }
    Ok(found)
}

/// Does one step and waits for its end; `say` hears what the service says meanwhile.
pub(crate) async fn make_so(client: &Client, step: &Step, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    match step {
        Step::CreateProject { project } => {
            client.change("POST", "projects", &json!({ "ProjectName": project })).await?;
        }
        Step::CreateDataset { project, kind, manifest } => {
            let source = json!({ "GroundTruthManifest": { "S3Object": manifest.as_object("Key") } });
            let body = json!({ "DatasetType": kind, "DatasetSource": source });
            client.change("POST", &format!("projects/{project}/datasets"), &body).await?;
            let path = format!("projects/{project}/datasets/{kind}");
            wait(client, &path, "DatasetDescription", &["CREATE_COMPLETE", "UPDATE_COMPLETE"], say).await?;
        }
        Step::AwaitDataset { project, kind } => {
            let path = format!("projects/{project}/datasets/{kind}");
            wait(client, &path, "DatasetDescription", &["CREATE_COMPLETE", "UPDATE_COMPLETE"], say).await?;
        }
        Step::Train { project, description, output, tags, hosted } => {
            let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
            let body = json!({ "Description": description, "OutputConfig": { "S3Location": output.as_object("Prefix") }, "Tags": tags });
            let made = client.change("POST", &format!("projects/{project}/models"), &body).await?;
            let version = text(&made["ModelMetadata"], "ModelVersion").context("a model without a version")?;
            trained(client, project, &version, say).await?;
            if let Some(units) = hosted {
                host(client, project, &version, *units, say).await?;
            }
        }
        Step::AwaitTraining { project, version, .. } => trained(client, project, version, say).await?,
        Step::Tag { arn, set, remove, .. } => {
            let path = format!("tags/{}", encoded(arn));
            if !set.is_empty() {
                let tags: Vec<Value> = set.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
                client.change("POST", &path, &json!({ "Tags": tags })).await?;
            }
            if !remove.is_empty() {
                let keys: Vec<String> = remove.iter().map(|key| format!("tagKeys={}", encoded(key))).collect();
                client.change("DELETE", &format!("{path}?{}", keys.join("&")), &Value::Null).await?;
            }
        }
        Step::Host { project, version, units, .. } => host(client, project, version, *units, say).await?,
        Step::Stop { project, version, .. } => {
            let path = format!("projects/{project}/models/{version}");
            client.change("POST", &format!("{path}/stop"), &Value::Null).await?;
            wait(client, &path, "ModelDescription", &["TRAINED"], say).await?;
        }
    }
    Ok(())
}

async fn trained(client: &Client, project: &str, version: &str, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    wait(client, &format!("projects/{project}/models/{version}"), "ModelDescription", &["TRAINED", "HOSTED"], say).await
}

async fn host(
    client: &Client,
    project: &str,
    version: &str,
    (least, most): (u64, u64),
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let path = format!("projects/{project}/models/{version}");
    let body = json!({ "MinInferenceUnits": least, "MaxInferenceUnits": most });
    client.change("POST", &format!("{path}/start"), &body).await?;
    wait(client, &path, "ModelDescription", &["HOSTED"], say).await
}

/// Waits until the resource is in a state that is `wanted`; one that it will not leave by itself is a failure.
async fn wait(
    client: &Client,
    path: &str,
    member: &str,
    wanted: &[&str],
    say: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    const UNDER_WAY: [&str; 6] = [
        "CREATE_IN_PROGRESS",
        "UPDATE_IN_PROGRESS",
        "UPDATE_FAILED_ROLLBACK_IN_PROGRESS",
        "TRAINING",
        "STARTING_HOSTING",
        "STOPPING_HOSTING",
    ];
    loop {
        let described = client.get(path).await?.with_context(|| format!("`{path}` is gone"))?;
        let described = &described[member];
        let (status, message) =
            (text(described, "Status").unwrap_or_default(), text(described, "StatusMessage").unwrap_or_default());
        if wanted.contains(&status.as_str()) {
            return Ok(());
        }
        if !UNDER_WAY.contains(&status.as_str()) {
            bail!("it ended as {status}: {message}");
        }
        say(&message);
        tokio::time::sleep(ASK_EVERY).await;
    }
}

fn text(value: &Value, member: &str) -> Option<String> {
    value.get(member)?.as_str().map(str::to_owned)
}
