//! Challenges as they are asked for and told of: the same over HTTP, over MQTT and in the evidence.

use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::{Challenge, ModelRef, Outcome, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::parse_duration;

/// Long enough to fetch the parts and run them.
const WITHIN: Duration = Duration::from_secs(600);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const LONGEST_NAME: usize = 64;

/// What somebody who announces a challenge says.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) expect: Vec<String>,
    #[serde(default)]
    pub(crate) within: Option<String>,
}

/// Why no challenge runs that was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It cannot be one.
    #[error("{0}")]
    Wrong(String),
    /// It has to wait.
    #[error("{0}")]
    Busy(String),
}

impl Request {
    pub(crate) fn checked(self) -> Result<Challenge, Refusal> {
        let wrong = |text: String| Err(Refusal::Wrong(text));
        let name = self.name.unwrap_or_else(|| "challenge".to_owned());
        if !(1..=LONGEST_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            return wrong(format!("`name` must be 1 to {LONGEST_NAME} characters"));
        }
        let mut expected = Vec::with_capacity(self.expect.len());
        for verdict in &self.expect {
            match verdict.as_str() {
                "pass" => expected.push(Verdict::Pass),
                "reject" => expected.push(Verdict::Reject),
                other => return wrong(format!("`expect` must hold `pass` and `reject` only, got `{other}`")),
            }
        }
        let within = self.within.as_deref().map_or(Some(WITHIN), parse_duration);
        let Some(within) = within.filter(|within| !within.is_zero() && *within <= LONGEST) else {
            return wrong(format!("`within` must be a duration up to {LONGEST:?} such as \"10min\""));
        };
        Ok(Challenge { name, expected, within })
    }
}

/// A challenge that runs.
pub(super) fn announced(challenge: &Challenge, from: Timestamp) -> Value {
    let until = from.checked_add(challenge.within).unwrap_or(Timestamp::MAX);
    json!({
        "name": challenge.name,
        "expected": challenge.expected,
        "announced_at": moment(from),
        "until": moment(until),
    })
}

/// A challenge that ended.
pub(super) fn ended(outcome: &Outcome, model: &ModelRef) -> Value {
    let part = |(&expected, got): (&Verdict, Option<&(u64, Verdict)>)| {
        let (part, verdict) = got.map_or((None, None), |&(part, verdict)| (Some(part), Some(verdict)));
        json!({ "expected": expected, "part": part, "verdict": verdict })
    };
    let got = outcome.got.iter().map(Some).chain(std::iter::repeat(None));
    json!({
        "name": outcome.name,
        "result": result(outcome),
        "missed": outcome.missed,
        "false_rejects": outcome.false_rejects,
        "not_run": outcome.not_run,
        "parts": outcome.expected.iter().zip(got).map(part).collect::<Vec<_>>(),
        "announced_at": moment(outcome.from),
        "ended_at": moment(outcome.to),
        "model": model,
    })
}

pub(super) fn result(outcome: &Outcome) -> &'static str {
    if outcome.has_passed { "passed" } else { "failed" }
}

fn moment(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: Option<&str>, expect: &[&str], within: Option<&str>) -> Result<Challenge, String> {
        let owned = |text: &str| text.to_owned();
        let expect = expect.iter().copied().map(owned).collect();
        let request = Request { name: name.map(owned), expect, within: within.map(owned) };
        request.checked().map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_wrong_with_a_challenge_is_told_by_its_key() {
        let sound = request(Some("shift 1"), &["pass", "reject"], Some("5min")).unwrap();
        assert_eq!((sound.expected, sound.within), (vec![Verdict::Pass, Verdict::Reject], Duration::from_secs(300)));
        assert_eq!(request(None, &["pass"], None).unwrap().within, WITHIN);
        let table = [
            (request(Some(""), &["pass"], None), "`name` must be 1 to 64 characters"),
            (request(Some("a\nb"), &["pass"], None), "`name` must be 1 to 64 characters"),
            (request(None, &["good"], None), "`expect` must hold `pass` and `reject` only, got `good`"),
            (request(None, &["pass"], Some("5")), "`within` must be a duration"),
            (request(None, &["pass"], Some("0s")), "`within` must be a duration"),
            (request(None, &["pass"], Some("2d")), "`within` must be a duration"),
        ];
        for (outcome, expected) in table {
            let told = outcome.unwrap_err();
            assert!(told.contains(expected), "{told}");
        }
    }
}
