//! `[line.gate]`: where the reject gate is, and by when it must know.

use std::time::Duration;

use linewarden_core::parts::GatePosition;

use crate::config::raw::Section;

/// The reject gate of a line.
#[derive(Debug, Clone)]
pub struct GateConfig {
    /// How far it is from the trigger, or from the camera on a line without parts; none when nobody said so.
    pub position: Option<GatePosition>,
    /// How long before the part is at the gate, or before its decision expires, the verdict must stand.
    pub decide_before: Duration,
}

/// What an actuator and a PLC's scan want to know before, and a message needs on its way.
const DECIDE_BEFORE: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3600);

impl Default for GateConfig {
    fn default() -> Self {
        Self { position: None, decide_before: DECIDE_BEFORE }
    }
}

/// `None` after noting what is wrong.
pub(super) fn read_gate(line: &Section<'_>) -> Option<GateConfig> {
    let Some(section) = line.section("gate") else { return Some(GateConfig::default()) };
    let delay = section.duration("delay", Duration::from_millis(1), LONGEST);
    let distance = section.number("distance_mm", 0.001, 1e6);
    let speed = section.number("speed_mm_s", 0.001, 1e6);
    let counts = section.integer("encoder_counts", 1, i64::MAX);
    let written = section.duration("decide_before", Duration::ZERO, LONGEST);
    section.finish();
    let has = |key| section.value(key).is_some();
    let ways = [has("delay"), has("distance_mm") || has("speed_mm_s"), has("encoder_counts")];
    match ways.iter().filter(|is_given| **is_given).count() {
        0 => section.missing(
            "delay",
            "the time from trigger to gate; or give `distance_mm` and `speed_mm_s`, or `encoder_counts`",
        ),
        1 if has("distance_mm") && !has("speed_mm_s") => {
            section.missing("speed_mm_s", "the belt's speed, with `distance_mm`")
        }
        1 if has("speed_mm_s") && !has("distance_mm") => {
            section.missing("distance_mm", "the way from trigger to gate, with `speed_mm_s`");
        }
        1 => {}
        _ => section.problem(
            section.at(),
            "`delay`, `distance_mm` with `speed_mm_s`, and `encoder_counts` exclude each other: give one",
        ),
    }
    let by_speed = distance.zip(speed).and_then(|(distance, speed)| Duration::try_from_secs_f64(distance / speed).ok());
    let delay = delay.or(by_speed);
    // A gate that is nearer than that leaves half of its way.
    let usual = delay.map_or(DECIDE_BEFORE, |delay| DECIDE_BEFORE.min(delay / 2));
    let decide_before = written.unwrap_or(usual);
    if delay.is_some_and(|delay| decide_before >= delay) {
        section
            .problem(section.at(), "`decide_before` must be less than the time to the gate: nothing could be decided");
        return None;
    }
    let position = delay.map(GatePosition::Delay).or(counts.map(GatePosition::Counts))?;
    Some(GateConfig { position: Some(position), decide_before })
}
