//! `[line.camera.health]`: which faults of a camera are looked for, and what they lead to; `clock`: whose time counts.

use std::time::Duration;

use linewarden_core::health::{Fault, FaultPolicy, HealthRules};

use crate::config::raw::Section;

/// Which faults are looked for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct HealthConfig {
    /// None when no picture is looked at.
    pub rules: Option<HealthRules>,
}

/// Whose time a frame's capture is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockConfig {
    /// Which clocks may be used.
    pub choice: ClockChoice,
    /// How far the camera's clock may be from this machine's.
    pub tolerance: Duration,
}

/// Which clocks may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClockChoice {
    /// The camera's while it agrees with ours, else the frame's time stamp, else its arrival.
    #[default]
    Auto,
    /// The camera's, even if it does not agree with ours.
    Camera,
    /// The frame's time stamp, else its arrival.
    Pts,
    /// The frame's arrival.
    Arrival,
}

/// For each fault its keys: policy, duration, limit; and from where to where the limit may go.
const KEYS: [(Fault, &str, &str, &str, f64); 5] = [
    (Fault::Frozen, "frozen", "frozen_after", "least_change", 255.0),
    (Fault::Black, "black", "black_after", "least_brightness", 255.0),
    (Fault::OverExposed, "over_exposed", "over_exposed_after", "most_glare", 1.0),
    (Fault::OutOfFocus, "out_of_focus", "out_of_focus_after", "least_sharpness", 100.0),
    (Fault::Moved, "moved", "moved_after", "least_likeness", 1.0),
];

pub(super) fn read_health(camera: &Section<'_>, is_live: bool) -> HealthConfig {
    let Some(section) = camera.section("health") else {
        // A folder may well show one picture twice, and a file a black one.
        return HealthConfig { rules: is_live.then(HealthRules::default) };
    };
    let mut rules = HealthRules::default();
    let policies = [("off", FaultPolicy::Off), ("warn", FaultPolicy::Warn), ("unknown", FaultPolicy::Unknown)];
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(3600));
    for (fault, policy, after, limit, most_limit) in KEYS {
        let Some(rule) = rules.faults.get_mut(fault as usize) else { continue };
        rule.policy = section.choice(policy, &policies).unwrap_or(rule.policy);
        rule.after = section.duration(after, least, most).unwrap_or(rule.after);
        // Limits are read as they are written; a few digits are all they need.
        rule.limit = section.number(limit, 0.0, most_limit).map(|limit| limit as f32);
    }
    rules.clear_after = section.duration("clear_after", Duration::ZERO, most).unwrap_or(rules.clear_after);
    let learn_frames = section.integer("learn_frames", 1, 100_000).and_then(|frames| u32::try_from(frames).ok());
    rules.learn_frames = learn_frames.unwrap_or(rules.learn_frames);
    section.finish();
    let is_any = rules.faults.iter().any(|rule| rule.policy != FaultPolicy::Off);
    HealthConfig { rules: is_any.then_some(rules) }
}

pub(super) fn read_clock(camera: &Section<'_>) -> ClockConfig {
    let choices = [
        ("auto", ClockChoice::Auto),
        ("camera", ClockChoice::Camera),
        ("pts", ClockChoice::Pts),
        ("arrival", ClockChoice::Arrival),
    ];
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(3600));
    ClockConfig {
        choice: camera.choice("clock", &choices).unwrap_or_default(),
        tolerance: camera.duration("clock_tolerance", least, most).unwrap_or(Duration::from_secs(1)),
    }
}
