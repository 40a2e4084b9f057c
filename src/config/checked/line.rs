//! `[[line]]`: one conveyor.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use linewarden_contract::{Arn, Resource};
use linewarden_core::ModelRef;
use linewarden_model::package::Package;
use linewarden_model::{DeviceRequest, Rect};
use linewarden_outputs::modbus::ModbusConfig;
use linewarden_publish::PublisherConfig;

use super::Context;
use super::camera::{CameraConfig, read_cameras};
use super::decision::{DecisionConfig, read_decision};
use super::gate::{GateConfig, read_gate};
use super::mqtt::read_line_publisher;
use super::outputs::read_modbus;
use super::parts::{PartsConfig, read_parts};
use super::shadow::{ShadowConfig, read_commands, read_shadow};
use super::watch::{WatchConfig, read_watch};
use crate::config::raw::{Placed, Section};
use crate::packages::{Opened, Packages};

/// One conveyor.
#[derive(Debug, Clone)]
pub struct LineConfig {
    /// Letters, digits, `-` and `_`; unique.
    pub name: String,
    /// The model package, readable as long as this is held.
    pub(crate) model: Opened,
    /// Which model that is.
    pub model_ref: ModelRef,
    /// Scores of normal pictures from its training; none of older packages.
    pub normal_scores: Arc<[f64]>,
    /// Processor, as the element `anomalydetect` names it.
    pub device: String,
    /// Which one of several.
    pub device_id: u32,
    /// Threads within an operator.
    pub threads: u32,
    /// Frames of cameras that run together; 0: as the device has it.
    pub batch: u32,
    /// Whether pictures of another size than the training pictures are scaled.
    pub scale: bool,
    /// Every how-manieth frame is scored.
    pub interval: u32,
    /// Region that is scored.
    pub roi: Option<Rect>,
    /// From result to verdict.
    pub decision: DecisionConfig,
    /// Where the reject gate is.
    pub gate: GateConfig,
    /// How frames become parts; without it each frame is a part.
    pub parts: Option<PartsConfig>,
    /// How messages reach the broker; without it the line only counts and logs.
    pub publisher: Option<PublisherConfig>,
    /// How a PLC gets the decisions over Modbus.
    pub modbus: Option<ModbusConfig>,
    /// The folder whose models commands over MQTT may name; without it none are heard.
    pub command_models: Option<PathBuf>,
    /// A second model that scores a sample of the frames.
    pub shadow: Option<ShadowConfig>,
    /// What is watched beside the verdicts.
    pub watch: WatchConfig,
    /// At least one.
    pub cameras: Vec<CameraConfig>,
}

impl LineConfig {
    /// Whose scores are watched for drift, each by themselves: a camera's; of several cameras also all of the line (`None`).
    pub fn drift_scopes(&self) -> Vec<Option<usize>> {
        let whole = (self.cameras.len() > 1).then_some(None);
        whole.into_iter().chain((0..self.cameras.len()).map(Some)).collect()
    }
}

pub(super) fn read_line(
    section: &Section<'_>,
    context: &Context,
    publisher: Option<&Option<PublisherConfig>>,
    commands: Option<&PathBuf>,
    names: &mut BTreeSet<String>,
) -> Option<LineConfig> {
    let name = read_name(section, names, "line");
    if let Some(name) = &name {
        section.set_scope(format!("line `{name}`"));
    }
    let package = read_model(section, context);
    let device = section.read("device", "one of auto, cpu, cuda, tensorrt, openvino", |value| {
        let device = value.as_str()?;
        device.parse::<DeviceRequest>().is_ok().then(|| device.to_owned())
    });
    let whole = |key, least, most| section.integer(key, least, most).and_then(|number| u32::try_from(number).ok());
    let device_id = whole("device_id", 0, 1024).unwrap_or(0);
    let threads = whole("threads", 1, 256).unwrap_or(1);
    let batch = whole("batch", 0, 64).unwrap_or(0);
    let interval = whole("interval", 1, 1_000_000).unwrap_or(1);
    let scale = section.boolean("scale").unwrap_or(false);
    let roi = section.read("roi", "\"x,y,width,height\" in pixels", |value| parse_roi(value.as_str()?));
    let decision = read_decision(section, package.as_ref().map(|(package, _)| package));
    let gate = read_gate(section);
    let parts = read_parts(section);
    let cameras = read_cameras(section, context);
    let publisher = read_line_publisher(section, context, publisher);
    let command_models = read_commands(section, context, commands);
    let shadow = read_shadow(section, context);
    let watch = read_watch(section);
    let modbus = read_modbus(section);
    section.finish();

    let name = name?;
    let mut publisher = match publisher {
        Some(publisher) => Some(publisher?),
        None => None,
    };
    if let Some(publisher) = &mut publisher {
        publisher.line.clone_from(&name);
    }
    let (decision, gate, cameras) = (decision?, gate?, cameras?);
    let parts = match parts {
        Some(parts) => Some(parts.with(&name, &cameras, &decision, &gate, publisher.as_ref())?),
        None => None,
    };
    let (package, opened) = package?;
    Some(LineConfig {
        name,
        model: opened,
        model_ref: package.info().model_ref(),
        normal_scores: package.info().normal_scores.as_slice().into(),
        device: device.map_or_else(|| "auto".to_owned(), |device| device.value),
        device_id,
        threads,
        batch,
        scale,
        interval,
        roi: roi.map(|roi| roi.value),
        decision,
        gate,
        parts,
        publisher,
        modbus: modbus.map_or(Some(None), |config| config.map(Some))?,
        command_models: command_models?,
        shadow: shadow?,
        watch,
        cameras,
    })
}

/// A name that can be a topic level and a label, and that no other has.
pub(super) fn read_name(section: &Section<'_>, names: &mut BTreeSet<String>, what: &str) -> Option<String> {
    let allowed = "1 to 64 letters, digits, `-` and `_`";
    if section.value("name").is_none() {
        section.missing("name", allowed);
    }
    let is_allowed = |text: &&str| {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=64).contains(&text.len()) && text.bytes().all(is_letter)
    };
    let name = section.read("name", allowed, |value| value.as_str().filter(is_allowed).map(str::to_owned))?;
    if !names.insert(name.value.clone()) {
        section.problem(name.at, format!("`name` must be unique: there is another {what} `{}`", name.value));
    }
    Some(name.value)
}

fn read_model(section: &Section<'_>, context: &Context) -> Option<(Package, Opened)> {
    let Some(model) = section.text("model") else {
        if section.value("model").is_none() {
            section.missing("model", "the folder or .tar of a model package");
        }
        return None;
    };
    let opened = match model.value.strip_prefix("arn:") {
        None => Opened::plain(context.path(&model.value)),
        Some(_) => trained_model(&model, section, context)?,
    };
    let package = Package::read(opened.path());
    package
        .map(|package| (package, opened))
        .map_err(|error| section.problem(model.at, format!("`model`: {error}")))
        .ok()
}

/// Where the REST API keeps the model of this ARN.
fn trained_model(model: &Placed<String>, section: &Section<'_>, context: &Context) -> Option<Opened> {
    let refuse = |told: String| section.problem(model.at.clone(), format!("`model`: {told}"));
    let Some(Resource::Model { project, version }) = Arn::parse(&model.value).ok().map(|arn| arn.resource().clone())
    else {
        let allowed = "arn:aws:lookoutvision:REGION:ACCOUNT:model/PROJECT/VERSION";
        refuse(format!("must be a package or the ARN of a model, {allowed}, got `{}`", model.value));
        return None;
    };
    let Some(api) = context.api.get() else {
        refuse("an ARN names a model of the REST API, which needs a table `[api]` in this file".to_owned());
        return None;
    };
    let vault =
        api.vault().map_err(|error| refuse(format!("cannot read the keys of `[api.encryption]`: {error}"))).ok()?;
    let packages = Packages::new(api.models(), vault);
    if !packages.has(&project, version) {
        refuse(format!("the REST API has no trained model {project}/{version}"));
        return None;
    }
    packages.open(&project, version).map_err(|error| refuse(format!("{error:#}"))).ok()
}

pub(super) fn parse_roi(text: &str) -> Option<Rect> {
    let numbers: Vec<u32> = text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
    let &[x, y, width_px, height_px] = numbers.as_slice() else { return None };
    Some(Rect { x, y, width_px, height_px }).filter(|_| width_px > 0 && height_px > 0)
}
