//! `[line.decision]`: from result to verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use linewarden_core::DecisionRules;
use linewarden_model::package::Package;
use toml::de::DeValue;

use crate::config::raw::{self, Section};

/// From result to verdict.
#[derive(Debug, Clone)]
pub struct DecisionConfig {
    /// The guide's three rules.
    pub rules: DecisionRules,
    /// How long after capture a decision may be acted on.
    pub expires_after: Duration,
    /// What a part becomes that could not be decided.
    pub on_unknown: UnknownPolicy,
}

/// What is sent for a part that could not be decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownPolicy {
    /// `unknown`: the gate follows its own policy.
    #[default]
    Unknown,
    /// `reject`, for a gate that knows only two verdicts and plays safe.
    Reject,
    /// `pass`, for a gate that knows only two verdicts and must not lose good parts.
    Pass,
    /// `unknown`, and the gate is asked to stop the line.
    Stop,
}

pub(super) fn read_decision(line: &Section<'_>, package: Option<&Package>) -> Option<DecisionConfig> {
    let Some(section) = line.section("decision") else {
        let rules = DecisionRules::default();
        return Some(DecisionConfig { rules, expires_after: EXPIRES_AFTER, on_unknown: UnknownPolicy::default() });
    };
    let confidence = section.number("confidence_limit", 0.0, 1.0);
    let types = section.integer("anomaly_types_limit", 0, i64::from(u32::MAX));
    let coverage = section.section("coverage_limit").map(|table| read_coverage(&table, package)).unwrap_or_default();
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(3600));
    let expires_after = section.duration("expires_after", least, most).unwrap_or(EXPIRES_AFTER);
    let policies = [
        ("unknown", UnknownPolicy::Unknown),
        ("reject", UnknownPolicy::Reject),
        ("pass", UnknownPolicy::Pass),
        ("stop", UnknownPolicy::Stop),
    ];
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
