//! Packaging: a trained model as a component for a machine at the line, which needs no cloud to be installed.
//!
//! The component is one archive: the model package, the Edge Agent's configuration and unit file, and a recipe in JSON and
//! YAML of the form that Greengrass knows.

use std::path::Path;

use anyhow::Context as _;
use linewarden_objects::PutOptions;
use linewarden_store::{Job, PackagingJob, PackagingStatus};
use serde_json::{Value, json};

use super::import::of_object;
use super::{JobError, Worker};

impl Worker {
    pub(super) async fn package(&self, job: &Job) -> Result<(), JobError> {
        let store = &self.services.store;
        let asked = store.packaging_job(&job.project, name_of(job)).await?;
        let running = "The component is being made.";
        store.change_packaging_job(&job.project, &asked.name, PackagingStatus::Running, running, None, None).await?;
        let component = Component::of(&asked);
        let package = self.services.packages.join(&job.project).join(asked.model_version.to_string());
        let archive = self.scratch.join(format!("{}.tar", job.id));
        let (recipe, target) = (component.recipe(), archive.clone());
        let (name, settings) = (component.name.clone(), component.settings());
        let made =
            tokio::task::spawn_blocking(move || write_archive(&target, &package, &name, &settings, &recipe)).await;
        made.context("making a component")?.context("cannot make the component")?;
        let put = self.put(&archive, &component).await;
        if let Err(error) = tokio::fs::remove_file(&archive).await {
            tracing::warn!(%error, "cannot remove a component's archive");
        }
        put?;
        let output = json!({ "Greengrass": {
            "ComponentVersionArn": format!(
                "arn:aws:greengrass:{}:aws:components:{}", self.services.naming.region, component.name
            ),
            "ComponentName": component.name,
            "ComponentVersion": component.version,
        } });
        let done = "The component is in its bucket.";
        let succeeded = PackagingStatus::Succeeded;
        Ok(store.change_packaging_job(&job.project, &asked.name, succeeded, done, Some(&output), Some(&job.id)).await?)
    }

    async fn put(&self, archive: &Path, component: &Component) -> Result<(), JobError> {
        let objects = &self.services.objects;
        let (bucket, prefix) = (&component.bucket, &component.prefix);
        let base = format!("{prefix}{}/{}/", component.name, component.version);
        let key = format!("{base}{}.tar", component.name);
        let failed = |error, key: &str| of_object(error, &format!("s3://{bucket}/{key}"));
        objects.put_file(bucket, &key, archive, PutOptions::default()).await.map_err(|error| failed(error, &key))?;
        let recipe = component.recipe();
        let texts = [("recipe.json", format!("{recipe:#}\n")), ("recipe.yaml", yaml(&recipe, 0))];
        for (name, text) in texts {
            let key = format!("{base}{name}");
            objects
                .put(bucket, &key, text.into_bytes(), PutOptions::default())
                .await
                .map_err(|error| failed(error, &key))?;
        }
        Ok(())
    }

    pub(super) async fn fail_packaging(&self, job: &Job, told: &str) -> Result<(), JobError> {
        let (store, failed) = (&self.services.store, PackagingStatus::Failed);
        Ok(store.change_packaging_job(&job.project, name_of(job), failed, told, None, Some(&job.id)).await?)
    }
}

fn name_of(job: &Job) -> &str {
    job.subject.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// What is to be made.
struct Component {
    name: String,
    version: String,
    description: String,
    bucket: String,
    prefix: String,
    device: &'static str,
    platform: Value,
}

impl Component {
    fn of(job: &PackagingJob) -> Self {
        let text = |place: &str| job.configuration.pointer(&format!("/Greengrass/{place}")).and_then(Value::as_str);
        let accelerator = text("TargetPlatform/Accelerator").is_some() || text("TargetDevice").is_some();
        // The device that the options name decides; a card asks for the provider that needs no engine built beforehand.
        let device = match (accelerator, text("CompilerOptions")) {
            (true, Some(options)) if options.contains("trt-ver") => "tensorrt",
            (true, _) => "cuda",
            (false, _) => "cpu",
        };
        let architecture = match text("TargetPlatform/Arch") {
            Some("X86_64") => "amd64",
            _ => "aarch64",
        };
        Self {
            name: text("ComponentName").unwrap_or_default().to_owned(),
            version: text("ComponentVersion").map_or_else(|| format!("1.0.{}", job.model_version), str::to_owned),
            description: text("ComponentDescription").unwrap_or("An anomaly detection model.").to_owned(),
            bucket: text("S3OutputLocation/Bucket").unwrap_or_default().to_owned(),
            prefix: text("S3OutputLocation/Prefix").unwrap_or_default().to_owned(),
            device,
            platform: json!({ "os": "linux", "architecture": architecture }),
        }
    }

    /// The Edge Agent's configuration on the machine that the component is for.
    fn settings(&self) -> String {
        format!("[agent]\nmodels = \"models\"\nstart = [\"{}\"]\ndevice = \"{}\"\n", self.name, self.device)
    }

    fn recipe(&self) -> Value {
        let archive = format!("{}.tar", self.name);
        let base = format!("s3://{}/{}{}/{}/{archive}", self.bucket, self.prefix, self.name, self.version);
        json!({
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": self.name,
            "ComponentVersion": self.version,
            "ComponentDescription": self.description,
            "ComponentPublisher": "Linewarden",
            "Manifests": [{
                "Platform": self.platform,
                "Lifecycle": { "Run": format!(
                    "linewarden serve {{artifacts:decompressedPath}}/{0}/{0}/linewarden.toml", self.name
                ) },
                "Artifacts": [{ "Uri": base, "Unarchive": "NONE" }],
            }],
        })
    }
}

/// `NAME/models/NAME/...`, `NAME/linewarden.toml`, `NAME/linewarden-agent.service` and the recipe.
fn write_archive(target: &Path, package: &Path, name: &str, settings: &str, recipe: &Value) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(target)?));
    archive.append_dir_all(format!("{name}/models/{name}"), package)?;
    let unit = format!(
        "[Unit]\nDescription=Linewarden Edge Agent with {name}\nAfter=network.target\n\n[Service]\n\
         ExecStart=/usr/bin/env linewarden serve /opt/linewarden/{name}/linewarden.toml\nRestart=always\nRestartSec=1\n\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    let texts = [
        ("linewarden.toml", settings.to_owned()),
        ("linewarden-agent.service", unit),
        ("recipe.json", format!("{recipe:#}\n")),
        ("recipe.yaml", yaml(recipe, 0)),
    ];
    for (file, text) in texts {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
    }
    archive.into_inner()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
}

/// A document of objects, lists and texts as YAML: every text stands in JSON's quotes, which YAML reads.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let nested = |value: &Value| match value {
        Value::Object(_) | Value::Array(_) => format!("\n{}", yaml(value, depth + 1)),
        plain => format!(" {plain}\n"),
    };
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, value)| format!("{indent}{name}:{}", nested(value))).collect()
        }
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::Object(_) => {
                    let text = yaml(item, depth + 1);
                    format!("{indent}- {}", text.trim_start())
                }
                other => format!("{indent}-{}", nested(other)),
            })
            .collect(),
        plain => format!("{indent}{plain}\n"),
    }
}
