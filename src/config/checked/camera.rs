//! `[[line.camera]]`: where frames come from.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::Context;
use super::capture_source;
use super::health::{ClockConfig, HealthConfig, read_clock, read_health};
use super::line::read_name;
use super::parts::{ViewConfig, read_view};
use crate::config::raw::Section;

/// A camera that stands still for longer is tried again, so that its return shows within two seconds.
const STALL_AFTER: Duration = Duration::from_secs(2);

/// One camera of a line.
#[derive(Debug, Clone)]
pub struct CameraConfig {
    /// Letters, digits, `-` and `_`; unique within its line.
    pub name: String,
    /// Name of the shape; none for a free launch line.
    pub pipeline: Option<String>,
    /// Where its frames come from.
    pub capture: Capture,
    /// A live camera that delivers nothing for this long, after its first frame, is lost.
    pub stall_after: Duration,
    /// Whose time a frame's capture is told in.
    pub clock: ClockConfig,
    /// Which faults of its pictures are looked for.
    pub health: HealthConfig,
    /// When it sees a part; only parts ask for it.
    pub view: ViewConfig,
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
    /// What waits for the model.
    pub queue: QueueConfig,
}

/// The queue between a camera and the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueConfig {
    /// How many frames may wait.
    pub frames: u32,
    /// What falls out when one more comes; by what `live` says when nobody chose.
    pub drop: Option<QueueDrop>,
}

/// What falls out of a full queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueDrop {
    /// The frame that has waited longest.
    Oldest,
    /// The frame that comes.
    Newest,
    /// Nothing: the source waits.
    None,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { frames: 2, drop: None }
    }
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

pub(super) fn read_cameras(line: &Section<'_>, context: &Context) -> Option<Vec<CameraConfig>> {
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
    let stall_after = section.duration("stall_after", least, most).unwrap_or(STALL_AFTER);
    let clock = read_clock(section);
    let view = read_view(section, line);
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
    let queue = read_queue(section);
    let health = read_health(section, capture.as_ref().is_some_and(|capture| capture.live));
    section.finish();
    let capture = Capture { queue, ..capture? };
    let written = pipeline.as_ref().map(|pipeline| ("pipeline", pipeline));
    let (key, written) = written.or(launch.as_ref().map(|launch| ("launch", launch)))?;
    // Built once and thrown away: what parses here will start.
    if let Err(error) = capture_source::build(&capture) {
        section.problem(written.at.clone(), format!("`{key}`: {error}"));
        return None;
    }
    let pipeline = pipeline.map(|pipeline| pipeline.value);
    Some(CameraConfig { name: name?, pipeline, capture, stall_after, clock, health, view })
}

fn read_queue(camera: &Section<'_>) -> QueueConfig {
    let Some(section) = camera.section("queue") else { return QueueConfig::default() };
    let frames = section.integer("frames", 1, 1000).and_then(|frames| u32::try_from(frames).ok());
    let choices = [("oldest", QueueDrop::Oldest), ("newest", QueueDrop::Newest), ("none", QueueDrop::None)];
    let drop = section.choice("drop", &choices);
    section.finish();
    QueueConfig { frames: frames.unwrap_or(QueueConfig::default().frames), drop }
}
