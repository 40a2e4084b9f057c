//! The line's decisions against the truth of the belt.

use std::fmt;
use std::time::Duration;

use linewarden_synthetic::Defect;

use super::watch::Seen;

/// One part: what it is, and what the line said.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    /// What is wrong with the part, if anything.
    pub(super) truth: Option<Defect>,
    /// What the line said.
    pub(super) seen: Seen,
}

/// How well the line did.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Score {
    parts: u64,
    decided: usize,
    undecided: usize,
    good_passed: usize,
    false_rejects: usize,
    /// For each kind of defect: rejected, and how many there were.
    defects: Vec<(Defect, usize, usize)>,
    latency_p50: Duration,
    latency_p99: Duration,
}

impl Outcome {
    fn is_reject(&self) -> bool {
        self.seen.verdict == "reject"
    }

    /// Whether the verdict is the one that the truth asks for.
    pub(super) fn is_right(&self) -> bool {
        self.seen.verdict == if self.truth.is_some() { "reject" } else { "pass" }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seen { part, verdict, score, marked, age } = &self.seen;
        let truth = self.truth.map_or("good", Defect::as_str);
        let score = score.map_or("-".to_owned(), |score| format!("{score:.3}"));
        let marked = if *marked > 0.0 { format!("{:.2} %", marked * 100.0) } else { String::new() };
        let age_ms = age.as_secs_f64() * 1e3;
        let remark = match (self.is_right(), self.truth, verdict.as_str()) {
            (true, ..) => "",
            (false, _, "unknown") => "  UNKNOWN",
            (false, Some(_), _) => "  MISSED",
            (false, None, _) => "  FALSE REJECT",
        };
        write!(formatter, "{part:>6}  {truth:<12}  {verdict:<8} {score:>6} {marked:>8} {age_ms:>9.1} ms{remark}")
    }
}

impl Score {
    /// Of a belt with this many parts.
    pub(super) fn of(outcomes: &[Outcome], parts: u64) -> Self {
        let count = |wanted: &dyn Fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| wanted(outcome)).count();
        let kinds = Defect::ALL.into_iter().map(|defect| {
            let rejected = count(&|outcome| outcome.truth == Some(defect) && outcome.is_reject());
            (defect, rejected, count(&|outcome| outcome.truth == Some(defect)))
        });
        let mut ages: Vec<Duration> = outcomes.iter().map(|outcome| outcome.seen.age).collect();
        ages.sort_unstable();
        Self {
            parts,
            decided: outcomes.len(),
            undecided: count(&|outcome| outcome.seen.verdict == "unknown"),
            good_passed: count(&|outcome| outcome.truth.is_none() && outcome.seen.verdict == "pass"),
            false_rejects: count(&|outcome| outcome.truth.is_none() && outcome.is_reject()),
            defects: kinds.filter(|&(_, _, there)| there > 0).collect(),
            latency_p50: rank(&ages, 50),
            latency_p99: rank(&ages, 99),
        }
    }

    /// Whether every part was decided one way or the other.
    pub(super) fn is_complete(&self) -> bool {
        self.decided as u64 == self.parts && self.undecided == 0
    }
}

/// The nearest-rank percentile of sorted values.
fn rank(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected: usize = self.defects.iter().map(|&(_, rejected, _)| rejected).sum();
        let defective: usize = self.defects.iter().map(|&(_, _, there)| there).sum();
        let good = self.good_passed + self.false_rejects;
        writeln!(formatter, "Decided         {} of {} parts", self.decided - self.undecided, self.parts)?;
        writeln!(formatter, "Defects found   {rejected} of {defective}")?;
        for (defect, rejected, there) in &self.defects {
            writeln!(formatter, "  {:<14}{rejected} of {there}", defect.as_str())?;
        }
        writeln!(formatter, "False rejects   {} of {good} good parts", self.false_rejects)?;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            formatter,
            "Capture to PLC  p50 {:.1} ms, p99 {:.1} ms",
            milliseconds(self.latency_p50),
            milliseconds(self.latency_p99)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(truth: Option<Defect>, verdict: &str) -> Outcome {
        let age = Duration::from_millis(20);
        Outcome { truth, seen: Seen { part: 7, verdict: verdict.to_owned(), score: Some(0.9), marked: 0.012, age } }
    }

    #[test]
    fn misses_and_false_rejects_are_told_apart() {
        let outcomes = [
            outcome(None, "pass"),
            outcome(None, "reject"),
            outcome(Some(Defect::Dent), "reject"),
            outcome(Some(Defect::Dent), "pass"),
            outcome(Some(Defect::Stain), "unknown"),
        ];
        let told = Score::of(&outcomes, 5).to_string();
        assert_eq!(
            told,
            "Decided         4 of 5 parts\n\
             Defects found   1 of 3\n\
             \x20 dent          1 of 2\n\
             \x20 stain         0 of 1\n\
             False rejects   1 of 2 good parts\n\
             Capture to PLC  p50 20.0 ms, p99 20.0 ms"
        );
        assert!(outcomes[3].to_string().ends_with("MISSED"));
        assert!(outcomes[1].to_string().ends_with("FALSE REJECT"));
        assert!(outcomes[4].to_string().ends_with("UNKNOWN"));
    }

    #[test]
    fn a_belt_is_complete_when_every_part_was_decided() {
        let passed = [outcome(None, "pass")];
        assert!(Score::of(&passed, 1).is_complete());
        assert!(!Score::of(&passed, 2).is_complete());
        assert!(!Score::of(&[outcome(None, "unknown")], 1).is_complete());
    }
}
