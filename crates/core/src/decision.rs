//! From a result to a verdict, by the three rules of the Lookout for Vision guide: confidence, coverage by label, and
//! number of anomaly types.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::health::Fault;
use crate::result::FrameResult;

/// What the gate is told to do with a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Let it through.
    Pass,
    /// Take it off the line.
    Reject,
    /// No verdict could be reached in time: the gate follows its configured policy.
    Unknown,
}

impl Verdict {
    /// Every verdict, for series that must exist from the start.
    pub const ALL: [Self; 3] = [Self::Pass, Self::Reject, Self::Unknown];

    /// The name used in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Reject => "reject",
            Self::Unknown => "unknown",
        }
    }
}

/// What the gate is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let the part through.
    Pass,
    /// Take it off the line.
    Reject,
    /// Stop the line: nobody knows what this part is.
    Stop,
    /// Follow your own policy for parts that nobody knows.
    None,
}

impl From<Verdict> for Action {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Reject => Self::Reject,
            Verdict::Unknown => Self::None,
        }
    }
}

/// What said when a frame was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// Nothing but its arrival here.
    #[default]
    Arrival,
    /// The frame's time stamp, tied to this machine's clock: when it was taken, or reached this machine.
    Pts,
    /// The camera's clock, as its RTCP reports tell it.
    Ntp,
    /// The camera's clock, by PTP.
    Ptp,
}

impl ClockSource {
    /// Every clock, for series that must exist from the start.
    pub const ALL: [Self; 4] = [Self::Arrival, Self::Pts, Self::Ntp, Self::Ptp];

    /// The name used in messages and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Pts => "pts",
            Self::Ntp => "ntp",
            Self::Ptp => "ptp",
        }
    }
}

/// Why a verdict was given.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The model found nothing.
    Normal,
    /// Anomalous, but less sure than the confidence limit.
    BelowConfidence {
        /// How sure the model was.
        confidence: f64,
    },
    /// Anomalous and sure, but below every coverage and type limit.
    BelowLimits,
    /// Anomalous and at least as sure as the confidence limit.
    Confidence {
        /// How sure the model was.
        confidence: f64,
    },
    /// A label covers more than its limit.
    Coverage {
        /// The label.
        label: String,
        /// The share of the picture that it covers, 0 to 1.
        area: f64,
    },
    /// More kinds of anomaly than allowed.
    AnomalyTypes {
        /// How many kinds were found.
        found: usize,
    },
    /// The frame was not scored.
    NotScored {
        /// Why, from a bounded set such as `model_failed`.
        why: &'static str,
    },
    /// So many of the part's frames reject.
    Votes {
        /// Frames that reject.
        rejects: usize,
        /// Frames that were scored.
        frames: usize,
    },
    /// No verdict stood when it had to.
    Deadline,
    /// More came than could be scored in time.
    Overload,
    /// The camera that should have seen the part is lost.
    CameraLost {
        /// Its name.
        camera: String,
    },
    /// The camera that should have seen the part has not delivered yet.
    CameraStarting {
        /// Its name.
        camera: String,
    },
    /// The camera did not see the part.
    MissingView {
        /// Its name.
        camera: String,
    },
    /// The camera's pictures are not to be trusted.
    CameraUnhealthy {
        /// What is wrong with them.
        fault: Fault,
    },
    /// Fewer frames were scored than the part's verdict needs.
    TooFewFrames {
        /// Frames that were scored.
        frames: usize,
        /// How many it takes.
        needed: usize,
    },
    /// No frame shows the part.
    NoFrames,
    /// The line ended before the part was decided.
    Stopped,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal => write!(formatter, "normal"),
            Self::BelowConfidence { confidence } => write!(formatter, "below_confidence: {confidence:.4}"),
            Self::BelowLimits => write!(formatter, "below_limits"),
            Self::Confidence { confidence } => write!(formatter, "confidence: {confidence:.4}"),
            Self::Coverage { label, area } => write!(formatter, "coverage: {label} {area:.6}"),
            Self::AnomalyTypes { found } => write!(formatter, "anomaly_types: {found}"),
            Self::NotScored { why } => write!(formatter, "not_scored: {why}"),
            Self::Votes { rejects, frames } => write!(formatter, "votes: {rejects} of {frames}"),
            Self::Deadline => write!(formatter, "deadline"),
            Self::Overload => write!(formatter, "overload"),
            Self::CameraLost { camera } => write!(formatter, "camera_lost: {camera}"),
            Self::CameraStarting { camera } => write!(formatter, "camera_starting: {camera}"),
            Self::MissingView { camera } => write!(formatter, "missing_view: {camera}"),
            Self::TooFewFrames { frames, needed } => write!(formatter, "too_few_frames: {frames} of {needed}"),
            Self::NoFrames => write!(formatter, "no_frames"),
            Self::Stopped => write!(formatter, "stopped"),
            Self::CameraUnhealthy { fault } => write!(formatter, "camera_unhealthy: {}", fault.as_str()),
        }
    }
}

/// When a result becomes a reject.
///
/// An anomalous result must first reach `confidence_limit`. With neither of the finer limits set, that alone rejects
/// (the guide's first rule). With `coverage_limits` or `anomaly_types_limit` set, one of those must be exceeded too
/// (the guide's second and third rule); a label without a limit then never rejects by its area.
#[derive(Debug, Clone, PartialEq)]
pub struct DecisionRules {
    confidence_limit: f64,
    coverage_limits: BTreeMap<String, f64>,
    anomaly_types_limit: Option<u32>,
}

/// A limit that makes no sense.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// The confidence limit is no share.
    #[error("`confidence-limit` must be from 0 to 1, got {0}")]
    Confidence(f64),
    /// A coverage limit is no share.
    #[error("coverage limit of `{label}` must be from 0 to 1, got {limit}")]
    Coverage {
        /// The label.
        label: String,
        /// What was given.
        limit: f64,
    },
    /// An entry of a coverage list is not `label=number`.
    #[error("`coverage-limit` must be a list of `label=share` like `scratch=0.01,dent=0.005`, got `{0}`")]
    CoverageList(String),
}

impl Default for DecisionRules {
    /// Rejects whatever the model calls anomalous with a confidence of at least 0.5.
    fn default() -> Self {
        Self { confidence_limit: 0.5, coverage_limits: BTreeMap::new(), anomaly_types_limit: None }
    }
}

impl DecisionRules {
    /// Rules with these limits; shares are from 0 to 1.
    ///
    /// # Errors
    /// When a share is outside 0 to 1.
    pub fn new(
        confidence_limit: f64,
        coverage_limits: BTreeMap<String, f64>,
        anomaly_types_limit: Option<u32>,
    ) -> Result<Self, RulesError> {
        if !(0.0..=1.0).contains(&confidence_limit) {
            return Err(RulesError::Confidence(confidence_limit));
        }
        for (label, &limit) in &coverage_limits {
            if !(0.0..=1.0).contains(&limit) {
                return Err(RulesError::Coverage { label: label.clone(), limit });
            }
        }
        Ok(Self { confidence_limit, coverage_limits, anomaly_types_limit })
    }

    /// Reads `label=0.01,other=0.005`; an empty text is no limits.
    ///
    /// # Errors
    /// When an entry is not `label=number`.
    pub fn parse_coverage(text: &str) -> Result<BTreeMap<String, f64>, RulesError> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        entries
            .map(|entry| {
                let malformed = || RulesError::CoverageList(entry.to_owned());
                let (label, share) = entry.rsplit_once('=').ok_or_else(malformed)?;
                let share: f64 = share.trim().parse().map_err(|_| malformed())?;
                if label.trim().is_empty() {
                    return Err(malformed());
                }
                Ok((label.trim().to_owned(), share))
            })
            .collect()
    }

    /// The labels whose coverage is limited: a model must have them.
    pub fn limited_labels(&self) -> impl Iterator<Item = &str> {
        self.coverage_limits.keys().map(String::as_str)
    }

    /// The verdict on one result, and why.
    pub fn decide(&self, result: &FrameResult) -> (Verdict, Reason) {
        if !result.is_anomalous {
            return (Verdict::Pass, Reason::Normal);
        }
        let confidence = result.confidence;
        if confidence < self.confidence_limit {
            return (Verdict::Pass, Reason::BelowConfidence { confidence });
        }
        if self.coverage_limits.is_empty() && self.anomaly_types_limit.is_none() {
            return (Verdict::Reject, Reason::Confidence { confidence });
        }
        if let Some(reason) = self.coverage_exceeded(result).or_else(|| self.types_exceeded(result)) {
            return (Verdict::Reject, reason);
        }
        (Verdict::Pass, Reason::BelowLimits)
    }

    fn coverage_exceeded(&self, result: &FrameResult) -> Option<Reason> {
        result.labels().find_map(|anomaly| {
            let limit = *self.coverage_limits.get(&anomaly.name)?;
            let area = anomaly.total_percentage_area;
            (area > limit).then(|| Reason::Coverage { label: anomaly.name.clone(), area })
        })
    }

    fn types_exceeded(&self, result: &FrameResult) -> Option<Reason> {
        let limit = usize::try_from(self.anomaly_types_limit?).unwrap_or(usize::MAX);
        let found = result.labels().count();
        (found > limit).then_some(Reason::AnomalyTypes { found })
    }
}

/// The verdict on a part, with its place in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Number of the part on its line; with one decision a frame, the frame's number.
    pub part: u64,
    /// Number of the trigger that opened the part, if one did.
    pub trigger: Option<u64>,
    /// What the gate does.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// `camera/frame` of every frame that was looked at.
    pub frames: Vec<String>,
    /// When the part's first frame was captured.
    pub captured_at: Timestamp,
    /// When the verdict was reached.
    pub decided_at: Timestamp,
    /// When the part reaches the gate, if the gate's position is known.
    pub reject_at: Option<Timestamp>,
    /// After this moment the decision must not be acted on, and is not sent as live.
    pub expires_at: Timestamp,
    /// What the gate is asked to do.
    pub action: Action,
    /// What said when the part was captured.
    pub clock: ClockSource,
    /// The encoder's count at the trigger, if there was one.
    pub encoder: Option<i64>,
    /// When the last frame that the verdict rests on was captured: it could not be reached before. Not in the message.
    pub last_captured_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Anomaly, BACKGROUND};

    fn result(is_anomalous: bool, confidence: f64, areas: &[(&str, f64)]) -> FrameResult {
        let anomaly = |&(name, area): &(&str, f64)| Anomaly {
            name: name.to_owned(),
            total_percentage_area: area,
            hex_color: "#23A436".to_owned(),
        };
        FrameResult {
            is_anomalous,
            confidence,
            anomaly_score: if is_anomalous { confidence } else { 1.0 - confidence },
            anomaly_threshold: 0.5,
            anomalies: areas.iter().map(anomaly).collect(),
        }
    }

    fn rules(confidence: f64, coverage: &str, types: Option<u32>) -> DecisionRules {
        DecisionRules::new(confidence, DecisionRules::parse_coverage(coverage).unwrap(), types).unwrap()
    }

    #[test]
    fn each_rule_of_the_guide_rejects_only_beyond_its_limit() {
        let scratch = [(BACKGROUND, 0.97), ("scratch", 0.03)];
        let both = [(BACKGROUND, 0.95), ("scratch", 0.03), ("dent", 0.02)];
        let table = [
            // rules, result, verdict
            (rules(0.5, "", None), result(false, 0.99, &[]), Verdict::Pass),
            (rules(0.5, "", None), result(true, 0.5, &[]), Verdict::Reject),
            (rules(0.8, "", None), result(true, 0.79, &scratch), Verdict::Pass),
            (rules(0.8, "", None), result(true, 0.8, &[]), Verdict::Reject),
            (rules(0.5, "scratch=0.03", None), result(true, 0.9, &scratch), Verdict::Pass),
            (rules(0.5, "scratch=0.029", None), result(true, 0.9, &scratch), Verdict::Reject),
            (rules(0.5, "dent=0", None), result(true, 0.9, &scratch), Verdict::Pass),
            (rules(0.95, "scratch=0.01", None), result(true, 0.9, &scratch), Verdict::Pass),
            (rules(0.5, "", Some(1)), result(true, 0.9, &scratch), Verdict::Pass),
            (rules(0.5, "", Some(1)), result(true, 0.9, &both), Verdict::Reject),
            (rules(0.5, "", Some(0)), result(true, 0.9, &scratch), Verdict::Reject),
            (rules(0.5, "dent=0.5", Some(1)), result(true, 0.9, &both), Verdict::Reject),
        ];
        for (row, (rules, result, verdict)) in table.iter().enumerate() {
            assert_eq!(rules.decide(result).0, *verdict, "row {row}");
        }
    }

    #[test]
    fn the_background_is_neither_a_type_nor_a_label() {
        let whole = result(true, 0.9, &[(BACKGROUND, 1.0)]);
        assert_eq!(rules(0.5, "background=0.5", None).decide(&whole).0, Verdict::Pass);
        assert_eq!(rules(0.5, "", Some(0)).decide(&whole).0, Verdict::Pass);
    }

    #[test]
    fn limits_out_of_range_are_named() {
        let message = |rules: Result<DecisionRules, RulesError>| rules.unwrap_err().to_string();
        assert_eq!(
            message(DecisionRules::new(1.5, BTreeMap::new(), None)),
            "`confidence-limit` must be from 0 to 1, got 1.5"
        );
        let coverage = DecisionRules::parse_coverage("dent=7").unwrap();
        assert_eq!(
            message(DecisionRules::new(0.5, coverage, None)),
            "coverage limit of `dent` must be from 0 to 1, got 7"
        );
        assert!(DecisionRules::parse_coverage("dent").unwrap_err().to_string().ends_with("got `dent`"));
        assert!(DecisionRules::new(f64::NAN, BTreeMap::new(), None).is_err());
    }

    proptest::proptest! {
        #[test]
        fn more_confidence_never_turns_a_reject_into_a_pass(
            low in 0.0_f64..1.0, more in 0.0_f64..1.0, limit in 0.0_f64..1.0, area in 0.0_f64..1.0,
        ) {
            let rules = DecisionRules::new(limit, BTreeMap::from([("dent".to_owned(), 0.3)]), Some(2)).unwrap();
            let high = (low + more).min(1.0);
            if rules.decide(&result(true, low, &[("dent", area)])).0 == Verdict::Reject {
                proptest::prop_assert_eq!(rules.decide(&result(true, high, &[("dent", area)])).0, Verdict::Reject);
            }
        }
    }
}
