//! What is deployed: the archive of a packaging job, or a model package of our own, as a folder or an archive.

use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context as _;
use linewarden_model::package::Package;
use serde_json::Value;

use crate::agent::{NAMES, is_name};
use crate::cli::CallError;

/// A recipe and a configuration are short; what is longer is neither.
const LONGEST_TEXT_BYTES: u64 = 1024 * 1024;

/// A model component that was read, and whose parts belong together.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: String,
    /// As in `1.0.2`; a package of our own has none.
    pub(crate) version: Option<String>,
    /// The device that the packaging job was asked for.
    pub(crate) device: Option<String>,
    pub(crate) package: Package,
}

/// What an archive says of itself beside the package.
#[derive(Debug, Default)]
struct Told {
    name: Option<String>,
    version: Option<String>,
    device: Option<String>,
}

impl Component {
    /// Reads a component; `-` is standard input. `name` goes before what the component is called by itself.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or has no usable name.
    pub(crate) fn read(source: &Path, name: Option<&str>) -> anyhow::Result<Self> {
        if source == Path::new("-") {
            let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
            io::copy(&mut io::stdin().lock(), &mut file).context("cannot read the component from standard input")?;
            return Self::of_file(file.path(), name);
        }
        if !source.exists() {
            return Err(CallError(format!("there is no component at `{}`", source.display())).into());
        }
        Self::of_file(source, name)
    }

    fn of_file(path: &Path, name: Option<&str>) -> anyhow::Result<Self> {
        let package = Package::read(path)?;
        let told = if path.is_dir() { Told::default() } else { told_by(path)? };
        let own = if path.is_dir() { path.file_name() } else { path.file_stem() };
        let own = || own.and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let name = match name {
            Some(name) => name.to_owned(),
            None => told.name.unwrap_or_else(own),
        };
        if !is_name(&name) {
            let told = format!("`{name}` cannot be a component's name: {NAMES}; give one with `--name`");
            return Err(CallError(told).into());
        }
        Ok(Self { name, version: told.version, device: told.device, package })
    }
}

/// Recipe and configuration lie beside the folder of models: `NAME/recipe.json`, `NAME/linewarden.toml`.
fn told_by(path: &Path) -> anyhow::Result<Told> {
    let unreadable = || format!("cannot read `{}` as a tar archive", path.display());
    let mut archive = tar::Archive::new(std::fs::File::open(path).with_context(unreadable)?);
    let mut told = Told::default();
    for entry in archive.entries().with_context(unreadable)? {
        let mut entry = entry.with_context(unreadable)?;
        let name = entry.path().with_context(unreadable)?.into_owned();
        let is_beside = name.components().filter(|part| matches!(part, std::path::Component::Normal(_))).count() == 2;
        let file = name.file_name().and_then(|file| file.to_str()).unwrap_or_default().to_owned();
        if !is_beside || !["recipe.json", "linewarden.toml"].contains(&file.as_str()) {
            continue;
        }
        let mut text = String::new();
        entry.by_ref().take(LONGEST_TEXT_BYTES).read_to_string(&mut text).with_context(unreadable)?;
        if file == "recipe.json" {
            let recipe: Value = serde_json::from_str(&text).with_context(|| format!("`{}`", name.display()))?;
            let of = |member: &str| recipe.get(member).and_then(Value::as_str).map(str::to_owned);
            (told.name, told.version) = (of("ComponentName"), of("ComponentVersion"));
        } else {
            let settings: toml::Table = toml::from_str(&text).with_context(|| format!("`{}`", name.display()))?;
            let device = settings.get("agent").and_then(|agent| agent.get("device"));
            told.device = device.and_then(toml::Value::as_str).map(str::to_owned);
        }
    }
    Ok(told)
}
