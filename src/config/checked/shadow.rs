//! `[line.shadow]`: a second model that looks over the first one's shoulder. `[mqtt] commands`: who may change the first.

use std::path::PathBuf;

use linewarden_model::package::Package;

use super::Context;
use crate::config::raw::Section;

/// A model that scores a sample of the line's frames, and decides nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowConfig {
    /// The model package.
    pub model: PathBuf,
    /// Which share of the frames it scores, above 0 and up to 1.
    pub share: f64,
}

const SHARE: f64 = 0.1;
const LEAST_SHARE: f64 = 0.0001;

/// The outer `None` after noting what is wrong, the inner one for a line without a shadow.
pub(super) fn read_shadow(line: &Section<'_>, context: &Context) -> Option<Option<ShadowConfig>> {
    let Some(section) = line.section("shadow") else { return Some(None) };
    let model = section.text("model");
    if section.value("model").is_none() {
        section.missing("model", "the folder or .tar of a model package");
    }
    let share = match section.value("share") {
        Some(_) => section.number("share", LEAST_SHARE, 1.0),
        None => Some(SHARE),
    };
    section.finish();
    let model = model?;
    let package = Package::read(&context.path(&model.value));
    let package = package.map_err(|error| section.problem(model.at, format!("`model`: {error}"))).ok()?;
    Some(Some(ShadowConfig { model: package.path().to_owned(), share: share? }))
}

/// The folder whose models commands over MQTT may name, when commands are heard at all: as `[line.mqtt]` says, else as
/// `[mqtt]` does. The outer `None` after noting what is wrong.
pub(super) fn read_commands(
    line: &Section<'_>,
    context: &Context,
    common: Option<&PathBuf>,
) -> Option<Option<PathBuf>> {
    match line.section("mqtt") {
        Some(own) => read_common_commands(&own, context, common),
        None => Some(common.cloned()),
    }
}

/// The same of `[mqtt]` itself.
pub(super) fn read_common_commands(
    mqtt: &Section<'_>,
    context: &Context,
    common: Option<&PathBuf>,
) -> Option<Option<PathBuf>> {
    let folder = mqtt.text("models").map(|folder| (context.path(&folder.value), folder.at));
    if let Some((path, at)) = &folder
        && !path.is_dir()
    {
        mqtt.problem(at.clone(), format!("`models` must be a folder of model packages, got `{}`", path.display()));
        return None;
    }
    let folder = folder.map(|(path, _)| path).or_else(|| common.cloned());
    let is_on = match mqtt.value("commands") {
        Some(_) => mqtt.boolean("commands")?,
        None => common.is_some(),
    };
    if is_on && folder.is_none() {
        mqtt.problem(mqtt.at(), "`commands` need `models`: the folder whose models they may name");
        return None;
    }
    Some(folder.filter(|_| is_on))
}
