//! `[line.parts]`, and what a camera's table says of its view: how frames become parts.

#[cfg(feature = "modbus")]
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
use linewarden_core::parts::{CameraView, GatePosition, MissingView, PartPlan, PartPolicy};
use linewarden_core::presence::PresenceRules;
use linewarden_model::Rect;
use linewarden_publish::{PublisherConfig, check_topic};

use super::line::parse_roi;
use super::{CameraConfig, DecisionConfig, GateConfig};
use crate::config::raw::{self, Section, parse_duration};

/// How the frames of a line become parts.
#[derive(Debug, Clone)]
pub struct PartsConfig {
    /// What opens a part.
    pub trigger: TriggerConfig,
    /// Windows, policies and times.
    pub plan: PartPlan,
}

/// What opens a part.
#[derive(Debug, Clone, PartialEq)]
pub enum TriggerConfig {
    /// A message on this topic.
    Mqtt {
        /// Without wildcards.
        topic: String,
    },
    /// Each so many counts of an encoder, which tells its count on this topic.
    Encoder {
        /// Without wildcards.
        topic: String,
        /// At least 1.
        counts_per_part: i64,
    },
    /// Time.
    Rate {
        /// Parts a second.
        rate_hz: f64,
    },
    /// What a camera sees.
    Picture(PictureConfig),
    /// An input of this machine.
    Digital(DigitalTrigger),
    /// A PLC that is asked over Modbus TCP.
    #[cfg(feature = "modbus")]
    Modbus(ModbusTrigger),
}

/// A GPIO line with a light barrier.
#[derive(Debug, Clone, PartialEq)]
pub struct DigitalTrigger {
    /// The character device of its chip.
    pub chip: PathBuf,
    /// Its number on the chip.
    pub offset: u32,
    /// A part comes with a falling edge instead of a rising one.
    pub on_fall: bool,
    /// Edges within this time after one are the same; zero to take each.
    pub debounce: Duration,
}

/// When a picture shows a part.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureConfig {
    /// Name of the camera.
    pub camera: String,
    /// Where to look; everywhere without it.
    pub region: Option<Rect>,
    /// What to look at.
    pub measure: Measure,
    /// From where on a part is there.
    pub rules: PresenceRules,
}

/// What of a picture tells of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Measure {
    /// Its mean brightness, 0 to 255.
    #[default]
    Brightness,
    /// The standard deviation of its brightness.
    Contrast,
}

/// A PLC that is asked for parts.
#[cfg(feature = "modbus")]
#[derive(Debug, Clone, PartialEq)]
pub struct ModbusTrigger {
    /// Where it is.
    pub address: SocketAddr,
    /// Its unit.
    pub unit: u8,
    /// What is read.
    pub point: ModbusPoint,
    /// Time between two readings.
    pub poll: Duration,
}

/// What is read of a PLC.
#[cfg(feature = "modbus")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModbusPoint {
    /// A part each time it rises.
    DiscreteInput(u16),
    /// A part each time its value changes, which is the part's number.
    InputRegister(u16),
    /// The same.
    HoldingRegister(u16),
}

/// What a camera's table says of its view.
#[derive(Debug, Clone)]
pub struct ViewConfig {
    offset: SignedDuration,
    window: Duration,
    min_frames: usize,
    max_frames: Option<usize>,
}

/// `[line.parts]` before the line's name and its other tables are known.
pub(super) struct WrittenParts<'a> {
    section: Section<'a>,
    kind: Option<Kind>,
    topic: Option<String>,
    policy: Option<PartPolicy>,
    missing_view: MissingView,
    grace: Duration,
    remember: Duration,
}

#[derive(Clone)]
enum Kind {
    Mqtt,
    Encoder(i64),
    Rate(f64),
    /// With the camera's place in the file.
    Picture(PictureConfig, Range<usize>),
    Digital(DigitalTrigger),
    #[cfg(feature = "modbus")]
    Modbus(ModbusTrigger),
}

#[derive(Clone, Copy)]
enum Word {
    Mqtt,
    Encoder,
    Rate,
    Picture,
    Digital,
    #[cfg(feature = "modbus")]
    Modbus,
}

const DEFAULT_CHIP: &str = "/dev/gpiochip0";
const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);
const DEFAULT_WINDOW: Duration = Duration::from_millis(100);
const DEFAULT_GRACE: Duration = Duration::from_millis(100);
const DEFAULT_REMEMBER: Duration = Duration::from_secs(2);

/// `None` on a line without parts.
pub(super) fn read_parts<'a>(line: &Section<'a>) -> Option<WrittenParts<'a>> {
    let section = line.section("parts")?;
    let words = [
        ("mqtt", Word::Mqtt),
        ("encoder", Word::Encoder),
        ("rate", Word::Rate),
        ("picture", Word::Picture),
        ("digital", Word::Digital),
        #[cfg(feature = "modbus")]
        ("modbus", Word::Modbus),
    ];
    let word = section.choice("trigger", &words);
    if section.value("trigger").is_none() {
        section.missing("trigger", "one of mqtt, encoder, rate, picture, digital, modbus");
    }
    let topic = read_topic(&section);
    let counts = section.integer("counts_per_part", 1, i64::MAX);
    let rate = section.number("rate", 0.001, 1000.0);
    let picture = section.section("picture").and_then(|picture| read_picture(&picture));
    let digital = section.section("digital").and_then(|digital| read_digital(&digital));
    #[cfg(feature = "modbus")]
    let modbus = section.section("modbus").and_then(|modbus| read_modbus(&modbus));
    let needs = |key: &'static str, allowed: &str| {
        if section.value(key).is_none() {
            section.missing(key, allowed);
        }
    };
    let kind = word.and_then(|word| match word {
        Word::Mqtt => Some(Kind::Mqtt),
        Word::Encoder => {
            needs("counts_per_part", "the encoder's counts from part to part");
            counts.map(Kind::Encoder)
        }
        Word::Rate => {
            needs("rate", "parts a second");
            rate.map(Kind::Rate)
        }
        Word::Picture => {
            needs("picture", "a table with `camera`, `present_at` and `absent_at`");
            picture.map(|(picture, at)| Kind::Picture(picture, at))
        }
        Word::Digital => {
            needs("digital", "a table with `line`, the number of a GPIO line, and its `chip`");
            digital.map(Kind::Digital)
        }
        #[cfg(feature = "modbus")]
        Word::Modbus => {
            needs("modbus", "a table with `address` and one of `discrete_input`, `input_register`, `holding_register`");
            modbus.map(Kind::Modbus)
        }
    });
    let policy = read_policy(&section);
    let missing = [("unknown", MissingView::Unknown), ("reject", MissingView::Reject), ("ignore", MissingView::Ignore)];
    let missing_view = section.choice("missing_view", &missing).unwrap_or_default();
    let grace = section.duration("grace", Duration::ZERO, MINUTE).unwrap_or(DEFAULT_GRACE);
    let remember = section.duration("remember", 10 * MS, MINUTE).unwrap_or(DEFAULT_REMEMBER);
    section.finish();
    Some(WrittenParts { section, kind, topic, policy, missing_view, grace, remember })
}

fn read_topic(section: &Section<'_>) -> Option<String> {
    let topic = section.text("topic")?;
    if let Err(error) = check_topic("topic", &topic.value) {
        section.problem(topic.at, error);
        return None;
    }
    Some(topic.value)
}

/// When a picture shows a part, and where its camera is named.
fn read_picture(section: &Section<'_>) -> Option<(PictureConfig, Range<usize>)> {
    let camera = section.text("camera");
    let region = section.read("region", "\"x,y,width,height\" in pixels", |value| parse_roi(value.as_str()?));
    let measures = [("brightness", Measure::Brightness), ("contrast", Measure::Contrast)];
    let measure = section.choice("measure", &measures).unwrap_or_default();
    let (present_at, absent_at) = (section.number("present_at", 0.0, 255.0), section.number("absent_at", 0.0, 255.0));
    let length = |key| section.duration(key, Duration::ZERO, MINUTE).unwrap_or_default();
    let (least_length, least_gap) = (length("least_length"), length("least_gap"));
    section.finish();
    for (key, allowed) in [
        ("camera", "the name of the camera that sees the parts come"),
        ("present_at", "the level from which on a part is there"),
        ("absent_at", "the level at which none is"),
    ] {
        if section.value(key).is_none() {
            section.missing(key, allowed);
        }
    }
    let (camera, present_at, absent_at) = (camera?, present_at?, absent_at?);
    if absent_at > present_at {
        section.problem(section.at(), "`absent_at` must not be more than `present_at`");
        return None;
    }
    let signed = |length: Duration| SignedDuration::try_from(length).unwrap_or_default();
    let rules = PresenceRules {
        // Grey levels: a few digits are all they need.
        present_at: present_at as f32,
        absent_at: absent_at as f32,
        least_length: signed(least_length),
        least_gap: signed(least_gap),
    };
    let region = region.map(|region| region.value);
    Some((PictureConfig { camera: camera.value, region, measure, rules }, camera.at))
}

/// An input of this machine.
fn read_digital(section: &Section<'_>) -> Option<DigitalTrigger> {
    let chip = section.text("chip").map_or_else(|| DEFAULT_CHIP.to_owned(), |chip| chip.value);
    let offset = section.integer("line", 0, i64::from(u16::MAX)).and_then(|offset| u32::try_from(offset).ok());
    let on_fall = section.choice("edge", &[("rising", false), ("falling", true)]).unwrap_or_default();
    let debounce = section.duration("debounce", Duration::ZERO, Duration::from_secs(1)).unwrap_or_default();
    section.finish();
    if section.value("line").is_none() {
        section.missing("line", "the number of a GPIO line on its chip");
    }
    Some(DigitalTrigger { chip: chip.into(), offset: offset?, on_fall, debounce })
}

#[cfg(feature = "modbus")]
fn read_modbus(section: &Section<'_>) -> Option<ModbusTrigger> {
    let allowed = "an address and port such as \"192.0.2.5:502\"";
    let address = section.read("address", allowed, |value| value.as_str()?.parse().ok());
    let unit = section.integer("unit", 0, 255).and_then(|unit| u8::try_from(unit).ok()).unwrap_or(1);
    let poll = section.duration("poll", MS, Duration::from_secs(1)).unwrap_or(5 * MS);
    let place = |key| section.integer(key, 0, 65_535).and_then(|place| u16::try_from(place).ok());
    let points = [
        place("discrete_input").map(ModbusPoint::DiscreteInput),
        place("input_register").map(ModbusPoint::InputRegister),
        place("holding_register").map(ModbusPoint::HoldingRegister),
    ];
    section.finish();
    if section.value("address").is_none() {
        section.missing("address", allowed);
    }
    let mut points = points.into_iter().flatten();
    let (Some(point), None) = (points.next(), points.next()) else {
        section.problem(section.at(), "give one of `discrete_input`, `input_register` and `holding_register`");
        return None;
    };
    Some(ModbusTrigger { address: address?.value, unit, point, poll })
}

fn read_policy(section: &Section<'_>) -> Option<PartPolicy> {
    let voting = PartPolicy::KOfN { k: 1, n: None };
    let words = [("any", PartPolicy::Any), ("all", PartPolicy::All), ("k_of_n", voting), ("worst", PartPolicy::Worst)];
    let policy = section.choice("policy", &words);
    let whole = |key| section.integer(key, 1, 1000).and_then(|number| usize::try_from(number).ok());
    let (k, n) = (whole("k"), whole("n"));
    let is_voting = policy == Some(voting);
    if !is_voting && (section.value("k").is_some() || section.value("n").is_some()) {
        section.problem(section.at(), "`k` and `n` need `policy = \"k_of_n\"`");
    }
    if !is_voting {
        return policy.or_else(|| section.value("policy").is_none().then(PartPolicy::default));
    }
    if section.value("k").is_none() {
        section.missing("k", "how many frames must reject");
    }
    if k.zip(n).is_some_and(|(k, n)| k > n) {
        section.problem(section.at(), "`k` must not be more than `n`");
        return None;
    }
    k.map(|k| PartPolicy::KOfN { k, n })
}

/// What a camera's table says of its view; keys that only parts know are refused without them.
pub(super) fn read_view(camera: &Section<'_>, line: &Section<'_>) -> ViewConfig {
    let allowed = "a duration from -60s to 60s such as \"-20ms\" or \"150ms\"";
    let offset = camera.read("offset", allowed, |value| parse_offset(value.as_str()?));
    let window = camera.duration("window", MS, MINUTE);
    let whole = |key| camera.integer(key, 1, 1000).and_then(|number| usize::try_from(number).ok());
    let (min_frames, max_frames) = (whole("min_frames"), whole("max_frames"));
    if line.value("parts").is_none() {
        for key in ["offset", "window", "min_frames", "max_frames"] {
            if let Some(value) = camera.value(key) {
                camera.problem(value.span(), format!("`{key}` needs `[line.parts]`: without it each frame is a part"));
            }
        }
    }
    if min_frames.zip(max_frames).is_some_and(|(least, most)| least > most) {
        camera.problem(camera.at(), "`min_frames` must not be more than `max_frames`");
    }
    ViewConfig {
        offset: offset.map(|offset| offset.value).unwrap_or_default(),
        window: window.unwrap_or(DEFAULT_WINDOW),
        min_frames: min_frames.unwrap_or(1),
        max_frames,
    }
}

/// A duration, and a sign before it.
fn parse_offset(text: &str) -> Option<SignedDuration> {
    let (is_negative, amount) = text.strip_prefix('-').map_or((false, text), |amount| (true, amount));
    let amount = parse_duration(amount).filter(|amount| *amount <= MINUTE)?;
    let amount = SignedDuration::try_from(amount).ok()?;
    Some(if is_negative { -amount } else { amount })
}

impl WrittenParts<'_> {
    /// With everything else that the line says. `None` after noting what is wrong.
    pub(super) fn with(
        self,
        line_name: &str,
        cameras: &[CameraConfig],
        decision: &DecisionConfig,
        gate: &GateConfig,
        publisher: Option<&PublisherConfig>,
    ) -> Option<PartsConfig> {
        let trigger = self.trigger(line_name, cameras, publisher);
        let plan = PartPlan {
            cameras: cameras.iter().map(CameraConfig::part_view).collect(),
            policy: self.policy?,
            missing_view: self.missing_view,
            grace: self.grace,
            gate: gate.position,
            decide_before: gate.decide_before,
            expires_after: decision.expires_after,
            remember: self.remember,
        };
        self.check_windows(&plan);
        Some(PartsConfig { trigger: trigger?, plan })
    }

    fn trigger(
        &self,
        line_name: &str,
        cameras: &[CameraConfig],
        publisher: Option<&PublisherConfig>,
    ) -> Option<TriggerConfig> {
        let topic = |level: &str| {
            let Some(publisher) = publisher else {
                self.section.problem(self.section.at(), "this trigger comes over MQTT and needs a broker: `[mqtt]`");
                return None;
            };
            let usual = || format!("{}/{line_name}/{level}", publisher.topic_prefix);
            Some(self.topic.clone().unwrap_or_else(usual))
        };
        match self.kind.clone()? {
            Kind::Mqtt => Some(TriggerConfig::Mqtt { topic: topic("trigger")? }),
            Kind::Encoder(counts_per_part) => {
                Some(TriggerConfig::Encoder { topic: topic("encoder")?, counts_per_part })
            }
            Kind::Rate(rate_hz) => Some(TriggerConfig::Rate { rate_hz }),
            Kind::Picture(picture, at) => {
                let names: Vec<&str> = cameras.iter().map(|camera| camera.name.as_str()).collect();
                if !names.contains(&picture.camera.as_str()) {
                    self.section.problem(at, raw::unknown("camera", &picture.camera, &names));
                    return None;
                }
                Some(TriggerConfig::Picture(picture))
            }
            Kind::Digital(digital) => Some(TriggerConfig::Digital(digital)),
            #[cfg(feature = "modbus")]
            Kind::Modbus(modbus) => Some(TriggerConfig::Modbus(modbus)),
        }
    }

    /// A window that ends after the verdict must stand would make every part unknown.
    fn check_windows(&self, plan: &PartPlan) {
        let end = match plan.gate {
            Some(GatePosition::Delay(delay)) => delay,
            // How long the counts take is not known before the belt runs.
            Some(GatePosition::Counts(_)) => return,
            None => plan.expires_after,
        };
        let limit = SignedDuration::try_from(end.saturating_sub(plan.decide_before)).unwrap_or(SignedDuration::MAX);
        for view in &plan.cameras {
            let window = SignedDuration::try_from(view.window).unwrap_or(SignedDuration::MAX);
            let ends = view.offset.saturating_add(window);
            if ends >= limit {
                let CameraView { name, .. } = view;
                let message = format!(
                    "camera `{name}`: `offset` and `window` end {ends:?} after the trigger, but the verdict must stand \
                     after {limit:?} (the gate, or `expires_after`, less `decide_before`)"
                );
                self.section.problem(self.section.at(), message);
            }
        }
    }
}

impl CameraConfig {
    fn part_view(&self) -> CameraView {
        let ViewConfig { offset, window, min_frames, max_frames } = self.view;
        CameraView { name: self.name.clone(), offset, window, min_frames, max_frames }
    }
}
