//! `[line.drift]`, `[line.reject_chart]`, `[line.challenge]`: what is watched beside the verdict of each part.

use std::time::Duration;

use crate::config::raw::Section;

/// What is watched beside the verdict of each part.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchConfig {
    /// Whether scores still come from where those of the training pictures did.
    pub drift: Option<DriftConfig>,
    /// Whether chance explains the rejects.
    pub reject_chart: Option<RejectChartConfig>,
    /// How often a challenge must pass.
    pub challenge_every: Option<Duration>,
}

/// Which scores are compared with which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriftConfig {
    /// How many of the last parts are compared.
    pub window: usize,
    /// With what.
    pub reference: DriftReference,
}

/// What scores are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriftReference {
    /// The scores of normal pictures that the model's package holds.
    Training,
    /// The line's own first scores.
    Line,
}

/// Of which parts the rejects are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectChartConfig {
    /// How many of the last parts.
    pub window: usize,
    /// The share of rejects that is usual; learnt when nobody says.
    pub usual_share: Option<f64>,
}

const DRIFT_WINDOW: usize = 500;
const CHART_WINDOW: usize = 200;

pub(super) fn read_watch(line: &Section<'_>) -> WatchConfig {
    WatchConfig { drift: read_drift(line), reject_chart: read_chart(line), challenge_every: read_challenge(line) }
}

fn read_drift(line: &Section<'_>) -> Option<DriftConfig> {
    let usual = DriftConfig { window: DRIFT_WINDOW, reference: DriftReference::Training };
    let Some(section) = line.section("drift") else { return Some(usual) };
    let is_watched = section.boolean("watch").unwrap_or(true);
    let references = [("training", DriftReference::Training), ("line", DriftReference::Line)];
    let drift = DriftConfig {
        window: read_window(&section).unwrap_or(usual.window),
        reference: section.choice("reference", &references).unwrap_or(usual.reference),
    };
    section.finish();
    is_watched.then_some(drift)
}

fn read_chart(line: &Section<'_>) -> Option<RejectChartConfig> {
    let Some(section) = line.section("reject_chart") else {
        return Some(RejectChartConfig { window: CHART_WINDOW, usual_share: None });
    };
    let is_watched = section.boolean("watch").unwrap_or(true);
    let chart = RejectChartConfig {
        window: read_window(&section).unwrap_or(CHART_WINDOW),
        usual_share: section.number("usual_share", 0.0, 1.0),
    };
    section.finish();
    is_watched.then_some(chart)
}

fn read_window(section: &Section<'_>) -> Option<usize> {
    section.integer("window", 20, 100_000).and_then(|window| usize::try_from(window).ok())
}

fn read_challenge(line: &Section<'_>) -> Option<Duration> {
    let section = line.section("challenge")?;
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(100 * 24 * 3600));
    let every = section.duration("required_every", least, most);
    if section.value("required_every").is_none() {
        section.missing("required_every", "a duration such as \"8h\"");
    }
    section.finish();
    every
}
