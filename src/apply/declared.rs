//! What the file says: projects with their data sets and models.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// Everything that shall be so.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    #[serde(rename = "project")]
    pub(crate) projects: Vec<Project>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Project {
    pub(crate) name: String,
    pub(crate) train: Option<Dataset>,
    pub(crate) test: Option<Dataset>,
    #[serde(default, rename = "model")]
    pub(crate) models: Vec<Model>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dataset {
    /// `s3://bucket/key` of a manifest.
    pub(crate) manifest: Location,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    /// What tells it from the project's other models: its description there.
    pub(crate) description: String,
    /// `s3://bucket/prefix` of its evaluation.
    pub(crate) output: Location,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    /// Inference units, the fewest and the most; 0 is not hosted, and without it that is left as it is.
    hosted: Option<Units>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Units {
    One(u64),
    Range([u64; 2]),
}

/// A place in an object store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Location {
    pub(crate) bucket: String,
    /// A key, or the beginning of keys; may be empty.
    pub(crate) key: String,
}

impl TryFrom<String> for Location {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let parts = written.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")));
        match parts {
            Some((bucket, key)) if !bucket.is_empty() => Ok(Self { bucket: bucket.to_owned(), key: key.to_owned() }),
            _ => Err(format!("must be a place such as s3://bucket/key, got `{written}`")),
        }
    }
}

impl Location {
    /// As the API has it: a bucket, and a key or prefix by this name, unless it is empty.
    pub(crate) fn as_object(&self, key: &str) -> Value {
        let mut object = json!({ "Bucket": self.bucket });
        if !self.key.is_empty() {
            object[key] = self.key.clone().into();
        }
        object
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "s3://{}/{}", self.bucket, self.key)
    }
}

impl Model {
    /// The fewest and the most inference units; `Some(None)` is none at all.
    pub(crate) fn hosted(&self) -> Option<Option<(u64, u64)>> {
        match self.hosted? {
            Units::One(0) => Some(None),
            Units::One(units) => Some(Some((units, units))),
            Units::Range([least, most]) => Some(Some((least, most))),
        }
    }
}

/// Reads the file.
///
/// # Errors
/// Names line and key of what is wrong, and what is allowed.
pub(crate) fn read(path: &Path) -> anyhow::Result<Declared> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    parse(&text).with_context(|| format!("`{}` is wrong", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Declared> {
    let declared: Declared =
        toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))?;
    let mut names = std::collections::BTreeSet::new();
    for project in &declared.projects {
        let name = &project.name;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 255 || !name.bytes().all(is_name) || name.starts_with(['-', '_']) {
            bail!(
                "the project name `{name}` must be 1 to 255 letters, digits, - and _, and begin with a letter or digit"
            );
        }
        if !names.insert(name) {
            bail!("the project `{name}` comes twice");
        }
        let mut descriptions = std::collections::BTreeSet::new();
        for model in &project.models {
            let description = &model.description;
            let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            if description.is_empty() || description.len() > 500 || !description.bytes().all(is_letter) {
                bail!(
                    "project `{name}`: a model's description must be 1 to 500 letters, digits, . - and _, got `{description}`"
                );
            }
            if !descriptions.insert(description) {
                bail!(
                    "project `{name}`: the model `{description}` comes twice: models are told apart by their descriptions"
                );
            }
            if let Some(Some((least, most))) = model.hosted()
                && !(1..=most).contains(&least)
            {
                bail!(
                    "project `{name}`, model `{description}`: `hosted` must be a number of inference units, or [fewest, most]"
                );
            }
        }
        if !project.models.is_empty() && project.train.is_none() {
            bail!("project `{name}` has models and no data set: say `train = {{ manifest = \"s3://bucket/key\" }}`");
        }
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_is_read_and_what_is_wrong_is_told_by_name() {
        let declared = parse(
            "[[project]]\nname = \"cap\"\ntrain = { manifest = \"s3://b/train.manifest\" }\n\
             [[project.model]]\ndescription = \"first\"\noutput = \"s3://b\"\nhosted = [1, 2]\ntags = { line = \"1\" }\n",
        );
        let declared = declared.unwrap();
        let model = &declared.projects[0].models[0];
        assert_eq!((model.hosted(), model.output.as_object("Prefix")), (Some(Some((1, 2))), json!({ "Bucket": "b" })));
        let project = "[[project]]\nname = \"cap\"\n";
        let model = "[[project.model]]\noutput = \"s3://b\"\n";
        for (text, told) in [
            (project.replace("cap", "-cap"), "`-cap` must be"),
            (format!("{project}{project}"), "comes twice"),
            (format!("{project}tests = 1\n"), "unknown field `tests`"),
            (format!("{project}train = {{ manifest = \"b/key\" }}\n"), "must be a place such as s3://bucket/key"),
            (format!("{project}{model}description = \"first\"\n"), "has models and no data set"),
            (format!("{project}{model}description = \"two words\"\n"), "got `two words`"),
            (format!("{project}{model}description = \"x\"\nhosted = [3, 2]\n"), "`hosted` must be"),
        ] {
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
