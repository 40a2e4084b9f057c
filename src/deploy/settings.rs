//! The agent's configuration: read as the agent reads it, completed as its owner wrote it, and made when there is none.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use linewarden_model::DetectorOptions;
use toml_edit::{Array, DocumentMut, Item, Value};

use crate::cli::CallError;
use crate::config::{self, AgentConfig, Doors};

/// A configuration with an agent.
#[derive(Debug)]
pub(super) struct Settings {
    path: PathBuf,
    /// As it is to be.
    text: String,
    /// As it was; nothing where there was none.
    before: Option<String>,
    max_running: usize,
    pub(super) models: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) options: DetectorOptions,
}

impl Settings {
    /// Reads the configuration, or makes one for a machine that has none. Of what it says nothing is written yet.
    pub(super) fn open(path: &Path, device: &str) -> anyhow::Result<Self> {
        if path.exists() {
            return Self::existing(path);
        }
        let folder = folder_of(path);
        let models = folder.join("models");
        fs::create_dir_all(&models).with_context(|| format!("cannot make `{}`", models.display()))?;
        let text = format!(
            "# Made by `linewarden deploy`; docs/edge-agent.md tells what else it can say.\n[agent]\nmodels = \"models\"\ndevice = \"{device}\"\n"
        );
        // Read by the agent's own eyes, from a file that goes again.
        let trial = tempfile::Builder::new().suffix(".toml").tempfile_in(folder);
        let mut trial = trial.with_context(|| format!("cannot write into `{}`", folder.display()))?;
        trial.write_all(text.as_bytes())?;
        let agent = agent_of(trial.path())?;
        Ok(Self::of(path, agent, text, None))
    }

    /// Reads a configuration that must be there.
    pub(super) fn existing(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let told = format!("there is no configuration at `{}`: name it with `--config`", path.display());
                return Err(CallError(told).into());
            }
            text => text.with_context(|| format!("cannot read `{}`", path.display()))?,
        };
        let agent = agent_of(path)?;
        Ok(Self::of(path, agent, text.clone(), Some(text)))
    }

    fn of(path: &Path, agent: AgentConfig, text: String, before: Option<String>) -> Self {
        let AgentConfig { models, socket, options, max_running, .. } = agent;
        Self { path: path.to_owned(), text, before, max_running, models, socket, options }
    }

    /// Has the agent run a component from its start on.
    pub(super) fn start(&mut self, name: &str) -> anyhow::Result<()> {
        let mut document: DocumentMut =
            self.text.parse().with_context(|| format!("cannot read `{}`", self.path.display()))?;
        let agent = document.get_mut("agent").and_then(Item::as_table_like_mut);
        let agent = agent.with_context(|| format!("`{}` has no `[agent]`", self.path.display()))?;
        let start = agent.entry("start").or_insert(Item::Value(Value::Array(Array::new())));
        let start = start.as_array_mut().with_context(|| format!("`start` in `{}` is no list", self.path.display()))?;
        if start.iter().any(|known| known.as_str() == Some(name)) {
            return Ok(());
        }
        if start.len() >= self.max_running {
            let told = format!(
                "`{}` starts {} components, and `max_running` allows no more: raise it, or say `--no-start`",
                self.path.display(),
                start.len()
            );
            return Err(CallError(told).into());
        }
        start.push(name);
        self.text = document.to_string();
        Ok(())
    }

    /// Writes it, whole or not at all.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        if self.before.as_deref() == Some(&self.text) {
            return Ok(());
        }
        self.write(&self.text)
    }

    /// As it was before.
    pub(super) fn restore(&self) -> anyhow::Result<()> {
        match &self.before {
            Some(before) => self.write(before),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
                _ => Ok(()),
            },
        }
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let told = || format!("cannot write `{}`", self.path.display());
        let folder = folder_of(&self.path);
        let mut file = tempfile::NamedTempFile::new_in(folder).with_context(told)?;
        file.write_all(text.as_bytes()).with_context(told)?;
        // As it was, or as files are made: others read it too.
        let permissions = match fs::metadata(&self.path) {
            Ok(metadata) => metadata.permissions(),
            Err(_) => std::os::unix::fs::PermissionsExt::from_mode(0o644),
        };
        file.as_file().set_permissions(permissions).with_context(told)?;
        file.as_file().sync_all().with_context(told)?;
        file.persist(&self.path).with_context(told)?;
        Ok(())
    }
}

/// A bare name lies here.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn agent_of(path: &Path) -> anyhow::Result<AgentConfig> {
    let config = config::load(path, None, Doors::All)?;
    config.agent.ok_or_else(|| {
        let told =
            format!("`{}` has no `[agent]` with `models = \"FOLDER\"`: a component is for an agent", path.display());
        CallError(told).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_made_and_completed_and_its_owners_words_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("line/linewarden.toml");
        let mut made = Settings::open(&path, "cpu").unwrap();
        assert!(!path.exists(), "nothing is written before the model has run");
        made.start("cap").unwrap();
        made.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("device = \"cpu\"\nstart = [\"cap\"]\n"), "{text}");
        made.restore().unwrap();
        assert!(!path.exists());

        let own = "# our agent\n[agent] # at press 1\nmodels = \"models\"\nmax_running = 1   # a small machine\n";
        fs::write(&path, own).unwrap();
        let mut settings = Settings::existing(&path).unwrap();
        settings.start("cap").unwrap();
        settings.start("cap").unwrap();
        assert_eq!(settings.text, format!("{own}start = [\"cap\"]\n"));
        assert!(settings.start("lid").unwrap_err().to_string().contains("`max_running` allows no more"));
        fs::write(&path, "[agent]\nmodel = \"models\"\n").unwrap();
        assert!(Settings::existing(&path).is_err());
    }
}
