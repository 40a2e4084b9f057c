//! A component's texts and its archive.

use std::path::Path;

use linewarden_model::package::Package;
use linewarden_store::PackagingJob;
use serde_json::{Value, json};

use super::target::Target;

/// What is to be made.
#[derive(Debug, Clone)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) version: String,
    description: String,
    pub(super) bucket: String,
    prefix: String,
    device: String,
    platform: Value,
}

impl Component {
    pub(super) fn of(job: &PackagingJob, target: &Target) -> Self {
        let text = |place: &str| job.configuration.pointer(&format!("/Greengrass/{place}")).and_then(Value::as_str);
        Self {
            name: text("ComponentName").unwrap_or_default().to_owned(),
            version: text("ComponentVersion").map_or_else(|| format!("1.0.{}", job.model_version), str::to_owned),
            description: text("ComponentDescription").unwrap_or("An anomaly detection model.").to_owned(),
            bucket: text("S3OutputLocation/Bucket").unwrap_or_default().to_owned(),
            prefix: text("S3OutputLocation/Prefix").unwrap_or_default().to_owned(),
            device: target.device.clone(),
            platform: json!({ "os": "linux", "architecture": target.architecture }),
        }
    }

    /// Where its files lie in the bucket.
    pub(super) fn base(&self) -> String {
        format!("{}{}/{}/", self.prefix, self.name, self.version)
    }

    pub(super) fn archive_key(&self) -> String {
        format!("{}{}.tar", self.base(), self.name)
    }

    /// The Edge Agent's configuration on the machine that the component is for.
    fn settings(&self) -> String {
        format!("[agent]\nmodels = \"models\"\nstart = [\"{}\"]\ndevice = \"{}\"\n", self.name, self.device)
    }

    pub(super) fn recipe(&self) -> Value {
        let name = &self.name;
        // Greengrass knows no tar archives, so the component takes its own apart.
        json!({
            "RecipeFormatVersion": "2020-01-25",
            "ComponentName": name,
            "ComponentVersion": self.version,
            "ComponentDescription": self.description,
            "ComponentPublisher": "Linewarden",
            "Manifests": [{
                "Platform": self.platform,
                "Lifecycle": {
                    "Install": format!("tar -xf {{artifacts:path}}/{name}.tar -C {{work:path}}"),
                    "Run": format!("linewarden serve {{work:path}}/{name}/linewarden.toml"),
                },
                "Artifacts": [{ "Uri": format!("s3://{}/{}", self.bucket, self.archive_key()), "Unarchive": "NONE" }],
            }],
        })
    }

    /// The texts beside the archive, and in it.
    pub(super) fn recipes(&self) -> [(&'static str, String); 2] {
        let recipe = self.recipe();
        [("recipe.json", format!("{recipe:#}\n")), ("recipe.yaml", yaml(&recipe, 0))]
    }

    /// `NAME/models/NAME/...`, `NAME/linewarden.toml`, `NAME/linewarden-agent.service` and the recipe.
    pub(super) fn write_archive(&self, target: &Path, package: &Package) -> std::io::Result<()> {
        let name = &self.name;
        let mut archive = tar::Builder::new(std::io::BufWriter::new(std::fs::File::create(target)?));
        let files = tempfile::tempdir_in(target.parent().unwrap_or(Path::new(".")))?;
        package.write_to(files.path())?;
        archive.append_dir_all(format!("{name}/models/{name}"), files.path())?;
        let unit = format!(
            "[Unit]\nDescription=Linewarden Edge Agent with {name}\nAfter=network.target\n\n[Service]\n\
             ExecStart=/usr/bin/env linewarden serve /opt/linewarden/{name}/linewarden.toml\nRestart=always\nRestartSec=1\n\n\
             [Install]\nWantedBy=multi-user.target\n"
        );
        let mut texts = vec![("linewarden.toml", self.settings()), ("linewarden-agent.service", unit)];
        texts.extend(self.recipes());
        for (file, text) in texts {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            archive.append_data(&mut header, format!("{name}/{file}"), text.as_bytes())?;
        }
        archive.into_inner()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
    }
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
