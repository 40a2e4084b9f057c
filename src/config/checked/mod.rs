//! Configuration as meant: what the daemon runs. Built only here, after every rule was checked; one file a table.

mod agent;
mod api;
mod camera;
mod decision;
mod evidence;
mod gate;
mod health;
mod line;
mod mqtt;
mod outputs;
mod parts;
mod shadow;
mod watch;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linewarden_core::ModelRef;
use linewarden_outputs::OutputsConfig;

use super::ConfigError;
use super::raw::{Section, Source};
use super::shape::Shapes;
use crate::line::source as capture_source;
use agent::read_agent;
pub use agent::{AgentConfig, SocketAccess};
use api::read_api;
pub use api::{ApiConfig, EncryptionConfig, RemoteConfig, TlsConfig};
pub use camera::{CameraConfig, Capture, Folder, QueueConfig, QueueDrop, SourceProperty};
pub use decision::{DecisionConfig, UnknownPolicy};
use evidence::read_evidence;
pub use evidence::{EvidenceConfig, EvidenceRules};
pub use gate::GateConfig;
pub use health::{ClockChoice, ClockConfig, HealthConfig};
pub use line::LineConfig;
use line::read_line;
use mqtt::read_publisher;
use outputs::{read_opcua, read_sparkplug};
pub use parts::{DigitalTrigger, Measure, PartsConfig, PictureConfig, TriggerConfig, ViewConfig};
#[cfg(feature = "modbus")]
pub use parts::{ModbusPoint, ModbusTrigger};
pub use shadow::ShadowConfig;
use shadow::read_common_commands;
pub use watch::{DriftConfig, DriftReference, RejectChartConfig, WatchConfig};

/// What this process does.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
    /// How long cameras, and after them each line's outbox, may take to end.
    pub shutdown_grace: Duration,
    /// What is kept of decided parts; nothing without it.
    pub evidence: Option<EvidenceConfig>,
    /// At least one, or an agent, or the REST API.
    pub lines: Vec<LineConfig>,
    /// The Edge Agent; only `serve` has it.
    pub agent: Option<AgentConfig>,
    /// The REST API; only `serve` has it.
    pub api: Option<ApiConfig>,
    /// What the lines' decisions go to beside MQTT.
    pub outputs: OutputsConfig,
}

impl Config {
    /// What would run, for people.
    pub fn summary(&self) -> String {
        let mut text = format!("http on {}\n", self.listen);
        if let Some(agent) = &self.agent {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "agent on {}: models in `{}`", agent.socket.display(), agent.models.display());
        }
        if let Some(api) = &self.api {
            let _ = writeln!(text, "api on {}, s3 on {}: data in `{}`", self.listen, api.s3_listen, api.data.display());
        }
        for line in &self.lines {
            let ModelRef { project, version, .. } = &line.model_ref;
            let broker = line.publisher.as_ref().map_or("no broker".to_owned(), |publisher| {
                let others = publisher.other_brokers.iter().map(|broker| format!(", then {broker}"));
                format!("{}{}", publisher.broker, others.collect::<String>())
            });
            // Writing to a string cannot fail.
            let _ = writeln!(text, "line `{}`: model {project} {version} on {}, {broker}", line.name, line.device);
            for camera in &line.cameras {
                let pipeline = camera.pipeline.as_deref().unwrap_or("a launch line");
                let _ = writeln!(text, "  camera `{}`: {pipeline}", camera.name);
            }
        }
        text
    }
}

/// Which of a configuration's tables are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doors {
    /// The lines alone: `linewarden run`.
    Lines,
    /// Every door that the configuration names: `linewarden serve`.
    All,
}

/// What every line shares while the file is read.
pub(super) struct Context {
    pub(super) base: PathBuf,
    pub(super) shapes: Shapes,
    /// The REST API with its models, once `[api]` was read.
    pub(super) api: OnceCell<ApiConfig>,
}

impl Context {
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }
}

/// Reads `text`, which was found at `path`.
pub(crate) fn check(path: &Path, text: String, pipelines: Option<&Path>, doors: Doors) -> Result<Config, ConfigError> {
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let source = Source::new(path, text);
    if let Err(error) = capture_source::init() {
        source.problem(0..0, format!("{error:#}"));
        return Err(ConfigError { problems: source.into_problems() });
    }
    let beside = base.join("pipelines");
    let folders: Vec<PathBuf> = std::iter::once(beside).chain(pipelines.map(Path::to_owned)).collect();
    let shapes = Shapes::read(&folders).map_err(|problems| ConfigError { problems })?;
    let context = Context { base, shapes, api: OnceCell::new() };
    let config = {
        let table = source.parse();
        read_config(&Section::root(&source, &table), &context, doors)
    };
    let problems = source.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError { problems }),
    }
}

fn read_config(root: &Section<'_>, context: &Context, doors: Doors) -> Option<Config> {
    let listen = read_listen(root);
    let shutdown_grace = read_grace(root);
    let publisher = root.section("mqtt").map(|section| read_publisher(&section, context));
    let evidence = root.section("evidence").map(|section| read_evidence(&section, context));
    let sections = root.sections("line");
    let agent = root.section("agent").map(|section| read_agent(&section, context));
    let api = root.section("api").map(|section| read_api(&section, context, listen));
    if let Some(Some(api)) = &api {
        // Set here, and nowhere else.
        let _ = context.api.set(api.clone());
    }
    match doors {
        Doors::Lines if sections.is_empty() => root.missing("line", "one or more tables `[[line]]`"),
        Doors::All if sections.is_empty() && agent.is_none() && api.is_none() => {
            root.missing("line", "one or more tables `[[line]]`, or a table `[agent]` or `[api]`");
        }
        _ => {}
    }
    let commands = root.section("mqtt").and_then(|mqtt| read_common_commands(&mqtt, context, None)?);
    let mut names = BTreeSet::new();
    let mut read =
        |section: &Section<'_>| read_line(section, context, publisher.as_ref(), commands.as_ref(), &mut names);
    let lines: Vec<Option<LineConfig>> = sections.iter().map(&mut read).collect();
    let opcua = read_opcua(root, context);
    let sparkplug = read_sparkplug(root, context, publisher.as_ref());
    root.finish();
    let evidence = match evidence {
        Some(evidence) => Some(evidence?),
        None => None,
    };
    let lines: Vec<LineConfig> = lines.into_iter().collect::<Option<_>>()?;
    let outputs = OutputsConfig {
        lines: lines.iter().map(|line| line.name.clone()).collect(),
        modbus: lines.iter().filter_map(|line| Some((line.name.clone(), line.modbus.clone()?))).collect(),
        opcua: opcua.map_or(Some(None), |config| config.map(Some))?,
        sparkplug: sparkplug.map_or(Some(None), |config| config.map(Some))?,
    };
    let agent = match agent {
        Some(agent) => Some(agent?).filter(|_| doors == Doors::All),
        None => None,
    };
    let api = match api {
        Some(api) => Some(api?).filter(|_| doors == Doors::All),
        None => None,
    };
    Some(Config { listen, shutdown_grace, evidence, lines, agent, api, outputs })
}

fn read_listen(root: &Section<'_>) -> SocketAddr {
    let http = root.section("http");
    let allowed = "an address and port such as \"127.0.0.1:8750\"";
    let listen = http.as_ref().and_then(|http| http.read("listen", allowed, |value| value.as_str()?.parse().ok()));
    http.iter().for_each(Section::finish);
    listen.map_or_else(|| (Ipv4Addr::LOCALHOST, 8750).into(), |listen| listen.value)
}

fn read_grace(root: &Section<'_>) -> Duration {
    let shutdown = root.section("shutdown");
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(600));
    let grace = shutdown.as_ref().and_then(|shutdown| shutdown.duration("grace", least, most));
    shutdown.iter().for_each(Section::finish);
    grace.unwrap_or(Duration::from_secs(5))
}
