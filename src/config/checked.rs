//! Configuration as meant: what the daemon runs. Built only here, after every rule was checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use linewarden_core::{DecisionRules, ModelRef};
use linewarden_model::package::Package;
use linewarden_model::{DeviceRequest, Rect};
use linewarden_publish::{BrokerUrl, PublisherConfig};
use toml::de::DeValue;

use super::ConfigError;
use super::raw::{self, Section, Source};
use super::shape::Shapes;
use crate::line::source as capture_source;

/// What this process does.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
    /// How long cameras, and after them each line's outbox, may take to end.
    pub shutdown_grace: Duration,
    /// At least one.
    pub lines: Vec<LineConfig>,
}

/// One conveyor.
#[derive(Debug, Clone)]
pub struct LineConfig {
    /// Letters, digits, `-` and `_`; unique.
    pub name: String,
    /// The model package.
    pub model: PathBuf,
    /// Which model that is.
    pub model_ref: ModelRef,
    /// Processor, as the element `anomalydetect` names it.
    pub device: String,
    /// Which one of several.
    pub device_id: u32,
    /// Threads within an operator.
    pub threads: u32,
    /// Whether pictures of another size than the training pictures are scaled.
    pub scale: bool,
    /// Every how-manieth frame is scored.
    pub interval: u32,
    /// Region that is scored.
    pub roi: Option<Rect>,
    /// From result to verdict.
    pub decision: DecisionConfig,
    /// How messages reach the broker; without it the line only counts and logs.
    pub publisher: Option<PublisherConfig>,
    /// At least one.
    pub cameras: Vec<CameraConfig>,
}

/// From result to verdict.
#[derive(Debug, Clone)]
pub struct DecisionConfig {
    /// The guide's three rules.
    pub rules: DecisionRules,
    /// How long after capture a decision may be acted on.
    pub expires_after: Duration,
    /// What a frame that could not be scored becomes.
    pub on_unknown: UnknownPolicy,
}

/// The verdict that is sent for a frame that could not be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownPolicy {
    /// `unknown`: the gate follows its own policy.
    #[default]
    Unknown,
    /// `reject`, for a gate that knows only two verdicts and plays safe.
    Reject,
    /// `pass`, for a gate that knows only two verdicts and must not lose good parts.
    Pass,
}

/// One camera of a line.
#[derive(Debug, Clone)]
pub struct CameraConfig {
    /// Letters, digits, `-` and `_`; unique within its line.
    pub name: String,
    /// Name of the shape; none for a free launch line.
    pub pipeline: Option<String>,
    /// Where its frames come from.
    pub capture: Capture,
    /// A live camera that delivers nothing for this long is lost.
    pub stall_after: Duration,
}

/// A source of frames: a launch line without its sink.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    /// In GStreamer's launch syntax, ending in one pad with raw video.
    pub launch: String,
    /// Whether frames come at their own pace: then old ones give way, and an end is a failure.
    pub live: bool,
    /// Set after the line was parsed.
    pub properties: Vec<SourceProperty>,
    /// The folder whose pictures the daemon feeds into `appsrc name=source`.
    pub folder: Option<Folder>,
}

/// A property whose value is a text of the user's. Never shown when it is a secret.
#[derive(Clone)]
pub struct SourceProperty {
    /// Name of the element within the launch line.
    pub element: String,
    /// Name of the property.
    pub property: String,
    /// The value.
    pub value: String,
    secret: bool,
}

/// A folder of pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Whether the first picture follows the last.
    pub again: bool,
    /// Pictures a second; as fast as they can be scored without it.
    pub rate_hz: Option<f64>,
}

impl SourceProperty {
    pub(crate) fn new(element: String, property: String, value: String, secret: bool) -> Self {
        Self { element, property, value, secret }
    }
}

impl fmt::Debug for SourceProperty {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.secret { "***" } else { &self.value };
        write!(formatter, "{}.{}={value}", self.element, self.property)
    }
}

impl Config {
    /// What would run, for people.
    pub fn summary(&self) -> String {
        let mut text = format!("http on {}\n", self.listen);
        for line in &self.lines {
            let ModelRef { project, version, .. } = &line.model_ref;
            let broker =
                line.publisher.as_ref().map_or("no broker".to_owned(), |publisher| publisher.broker.to_string());
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

/// What every line shares while the file is read.
struct Context {
    base: PathBuf,
    shapes: Shapes,
}

impl Context {
    fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }
}

/// Reads `text`, which was found at `path`.
pub(crate) fn check(path: &Path, text: String, pipelines: Option<&Path>) -> Result<Config, ConfigError> {
    let base = path.parent().map(Path::to_owned).unwrap_or_default();
    let source = Source::new(path, text);
    if let Err(error) = capture_source::init() {
        source.problem(0..0, format!("{error:#}"));
        return Err(ConfigError { problems: source.into_problems() });
    }
    let beside = base.join("pipelines");
    let folders: Vec<PathBuf> = std::iter::once(beside).chain(pipelines.map(Path::to_owned)).collect();
    let shapes = Shapes::read(&folders).map_err(|problems| ConfigError { problems })?;
    let context = Context { base, shapes };
    let config = {
        let table = source.parse();
        read_config(&Section::root(&source, &table), &context)
    };
    let problems = source.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError { problems }),
    }
}

fn read_config(root: &Section<'_>, context: &Context) -> Option<Config> {
    let listen = read_listen(root);
    let shutdown_grace = read_grace(root);
    let publisher = root.section("mqtt").map(|section| read_publisher(&section, context));
    let sections = root.sections("line");
    if sections.is_empty() {
        root.missing("line", "one or more tables `[[line]]`");
    }
    let mut names = BTreeSet::new();
    let lines: Vec<Option<LineConfig>> =
        sections.iter().map(|section| read_line(section, context, publisher.as_ref(), &mut names)).collect();
    root.finish();
    Some(Config { listen, shutdown_grace, lines: lines.into_iter().collect::<Option<_>>()? })
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

/// `None` after noting what is wrong. The name of the line is filled in later.
fn read_publisher(mqtt: &Section<'_>, context: &Context) -> Option<PublisherConfig> {
    let broker = read_broker(mqtt);
    let file = |key| mqtt.text(key).map(|path| context.path(&path.value));
    let (credentials_file, ca_file, cert_file, key_file) =
        (file("credentials_file"), file("ca_file"), file("cert_file"), file("key_file"));
    let topic_prefix = mqtt.text("topic_prefix").map(|prefix| prefix.value);
    let outbox_capacity = mqtt.integer("outbox_capacity", 1, 1_000_000);
    let (ms, second, hour) = (Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(3600));
    let result_expiry = mqtt.duration("result_expiry", ms, 24 * hour);
    let heartbeat_interval = mqtt.duration("heartbeat_interval", 100 * ms, hour);
    let keep_alive = mqtt.duration("keep_alive", second, 18 * hour);
    let connect_timeout = mqtt.duration("connect_timeout", 100 * ms, 60 * second);
    let acknowledge_timeout = mqtt.duration("acknowledge_timeout", 100 * ms, hour);
    mqtt.finish();

    let mut config = PublisherConfig::new(broker?, "line");
    let given = |value: &mut Duration, written: Option<Duration>| *value = written.unwrap_or(*value);
    given(&mut config.result_expiry, result_expiry);
    given(&mut config.heartbeat_interval, heartbeat_interval);
    given(&mut config.keep_alive, keep_alive);
    given(&mut config.connect_timeout, connect_timeout);
    given(&mut config.acknowledge_timeout, acknowledge_timeout);
    config.topic_prefix = topic_prefix.unwrap_or(config.topic_prefix);
    if let Some(capacity) = outbox_capacity.and_then(|capacity| usize::try_from(capacity).ok()) {
        config.outbox_capacity = capacity;
    }
    (config.credentials_file, config.ca_file) = (credentials_file, ca_file);
    (config.cert_file, config.key_file) = (cert_file, key_file);
    // What spans several keys, and what the files hold. The element has dashes where this file has underscores.
    if let Err(error) = config.check() {
        mqtt.problem(mqtt.at(), dashes_to_underscores(&error.to_string()));
        return None;
    }
    Some(config)
}

/// Never quotes the address: it may hold a password.
fn read_broker(mqtt: &Section<'_>) -> Option<BrokerUrl> {
    let Some(broker) = mqtt.text("broker") else {
        if mqtt.value("broker").is_none() {
            mqtt.missing("broker", "an address such as \"mqtt://127.0.0.1:1883\"");
        }
        return None;
    };
    let url = broker.value.parse::<BrokerUrl>();
    url.map_err(|error| mqtt.problem(broker.at, error)).ok()
}

/// Rewrites the quoted keys of a message, and nothing else in it.
fn dashes_to_underscores(message: &str) -> String {
    let keys = ["credentials-file", "ca-file", "cert-file", "key-file", "topic-prefix"];
    keys.iter().fold(message.to_owned(), |message, key| {
        message.replace(&format!("`{key}`"), &format!("`{}`", key.replace('-', "_")))
    })
}

fn read_line(
    section: &Section<'_>,
    context: &Context,
    publisher: Option<&Option<PublisherConfig>>,
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
    let interval = whole("interval", 1, 1_000_000).unwrap_or(1);
    let scale = section.boolean("scale").unwrap_or(false);
    let roi = section.read("roi", "\"x,y,width,height\" in pixels", |value| parse_roi(value.as_str()?));
    let decision = read_decision(section, package.as_ref());
    let cameras = read_cameras(section, context);
    section.finish();

    let name = name?;
    let mut publisher = match publisher {
        Some(publisher) => Some(publisher.clone()?),
        None => None,
    };
    if let Some(publisher) = &mut publisher {
        publisher.line.clone_from(&name);
    }
    let package = package?;
    Some(LineConfig {
        name,
        model: package.path().to_owned(),
        model_ref: package.info().model_ref(),
        device: device.map_or_else(|| "auto".to_owned(), |device| device.value),
        device_id,
        threads,
        scale,
        interval,
        roi: roi.map(|roi| roi.value),
        decision: decision?,
        publisher,
        cameras: cameras?,
    })
}

/// A name that can be a topic level and a label, and that no other has.
fn read_name(section: &Section<'_>, names: &mut BTreeSet<String>, what: &str) -> Option<String> {
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

fn read_model(section: &Section<'_>, context: &Context) -> Option<Package> {
    let Some(model) = section.text("model") else {
        if section.value("model").is_none() {
            section.missing("model", "the folder or .tar of a model package");
        }
        return None;
    };
    let package = Package::read(&context.path(&model.value));
    package.map_err(|error| section.problem(model.at, format!("`model`: {error}"))).ok()
}

fn parse_roi(text: &str) -> Option<Rect> {
    let numbers: Vec<u32> = text.split(',').map(|number| number.trim().parse().ok()).collect::<Option<_>>()?;
    let &[x, y, width_px, height_px] = numbers.as_slice() else { return None };
    Some(Rect { x, y, width_px, height_px }).filter(|_| width_px > 0 && height_px > 0)
}

fn read_decision(line: &Section<'_>, package: Option<&Package>) -> Option<DecisionConfig> {
    let Some(section) = line.section("decision") else {
        let rules = DecisionRules::default();
        return Some(DecisionConfig { rules, expires_after: EXPIRES_AFTER, on_unknown: UnknownPolicy::default() });
    };
    let confidence = section.number("confidence_limit", 0.0, 1.0);
    let types = section.integer("anomaly_types_limit", 0, i64::from(u32::MAX));
    let coverage = section.section("coverage_limit").map(|table| read_coverage(&table, package)).unwrap_or_default();
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(3600));
    let expires_after = section.duration("expires_after", least, most).unwrap_or(EXPIRES_AFTER);
    let policies =
        [("unknown", UnknownPolicy::Unknown), ("reject", UnknownPolicy::Reject), ("pass", UnknownPolicy::Pass)];
    let on_unknown = section.choice("on_unknown", &policies).unwrap_or_default();
    section.finish();
    let types = types.and_then(|types| u32::try_from(types).ok());
    let rules = DecisionRules::new(confidence.unwrap_or(DEFAULT_CONFIDENCE_LIMIT), coverage, types);
    let rules = rules.map_err(|error| section.problem(section.at(), error)).ok()?;
    Some(DecisionConfig { rules, expires_after, on_unknown })
}

const EXPIRES_AFTER: Duration = Duration::from_secs(2);
/// As [`DecisionRules::default`].
const DEFAULT_CONFIDENCE_LIMIT: f64 = 0.5;

fn read_coverage(table: &Section<'_>, package: Option<&Package>) -> BTreeMap<String, f64> {
    let mut limits = BTreeMap::new();
    for (label, at, value) in table.entries() {
        let known: Option<Vec<&str>> =
            package.map(|package| package.info().labels.iter().map(|label| label.name.as_str()).collect());
        if let Some(known) = known.filter(|known| !known.contains(&label)) {
            let message = match known.is_empty() {
                true => format!("`{label}`: the model has no labels, so no coverage can be limited"),
                false => raw::unknown("label of the model", label, &known),
            };
            table.problem(at, message);
        }
        let share = |value: &DeValue<'_>| raw::as_number(value).filter(|share| (0.0..=1.0).contains(share));
        match share(value.get_ref()) {
            Some(share) => {
                limits.insert(label.to_owned(), share);
            }
            None => {
                let got = raw::shown(value.get_ref());
                table.problem(value.span(), format!("`{label}` must be a number from 0 to 1, got {got}"));
            }
        }
    }
    limits
}

fn read_cameras(line: &Section<'_>, context: &Context) -> Option<Vec<CameraConfig>> {
    let sections = line.sections("camera");
    if sections.is_empty() {
        line.missing("camera", "one or more tables `[[line.camera]]`");
    }
    let mut names = BTreeSet::new();
    let cameras: Vec<_> = sections.iter().map(|camera| read_camera(camera, line, context, &mut names)).collect();
    if cameras.is_empty() {
        return None;
    }
    cameras.into_iter().collect()
}

fn read_camera(
    section: &Section<'_>,
    line: &Section<'_>,
    context: &Context,
    names: &mut BTreeSet<String>,
) -> Option<CameraConfig> {
    let name = read_name(section, names, "camera");
    if let Some(name) = &name {
        section.set_scope(format!("{}, camera `{name}`", line.scope()));
    }
    let (least, most) = (Duration::from_millis(500), Duration::from_secs(3600));
    let stall_after = section.duration("stall_after", least, most).unwrap_or(Duration::from_secs(10));
    let (pipeline, launch) = (section.text("pipeline"), section.text("launch"));
    let capture = match (&pipeline, &launch) {
        (Some(pipeline), None) => context.shapes.capture(pipeline, section, &context.base),
        (None, Some(launch)) => Some(Capture {
            launch: launch.value.clone(),
            live: section.boolean("live").unwrap_or(false),
            ..Capture::default()
        }),
        (Some(_), Some(launch)) => {
            section.problem(launch.at.clone(), "`pipeline` and `launch` exclude each other: give one");
            None
        }
        (None, None) => {
            if section.value("pipeline").is_none() && section.value("launch").is_none() {
                section.missing("pipeline", "a shape, or `launch` a launch line without its sink");
            }
            None
        }
    };
    section.finish();
    let capture = capture?;
    let written = pipeline.as_ref().map(|pipeline| ("pipeline", pipeline));
    let (key, written) = written.or(launch.as_ref().map(|launch| ("launch", launch)))?;
    // Built once and thrown away: what parses here will start.
    if let Err(error) = capture_source::build(&capture) {
        section.problem(written.at.clone(), format!("`{key}`: {error}"));
        return None;
    }
    Some(CameraConfig { name: name?, pipeline: pipeline.map(|pipeline| pipeline.value), capture, stall_after })
}
