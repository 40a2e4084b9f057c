//! Challenge parts: parts whose verdict is known, run at the start of a shift to see that the line still tells them apart.
//!
//! What must come out is announced, then the parts are run; the next decisions are the challenge's. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::decision::Verdict;

/// More parts in one challenge are a slip.
pub const MOST_PARTS: usize = 1000;

/// A challenge that was announced.
#[derive(Debug, Clone, PartialEq)]
pub struct Challenge {
    /// What whoever announced it calls it, such as `shift 1`.
    pub name: String,
    /// The verdict that each part must get, in the order in which they are run: pass or reject.
    pub expected: Vec<Verdict>,
    /// It fails when it takes longer.
    pub within: Duration,
}

/// How a challenge ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Which one.
    pub name: String,
    /// Whether each part got the verdict that it must.
    pub has_passed: bool,
    /// Known bad parts that did not get a reject.
    pub missed: usize,
    /// Known good parts that did not pass.
    pub false_rejects: usize,
    /// Parts that did not come in time.
    pub not_run: usize,
    /// What had to come out.
    pub expected: Vec<Verdict>,
    /// What came out, with the number of its part.
    pub got: Vec<(u64, Verdict)>,
    /// When it was announced.
    pub from: Timestamp,
    /// When it ended.
    pub to: Timestamp,
}

/// Why a challenge is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// It announces no part, or too many.
    #[error("`expect` must hold 1 to {MOST_PARTS} verdicts, got {0}")]
    Count(usize),
    /// No part is known to be unknown.
    #[error("`expect` must hold `pass` and `reject` only")]
    Verdict,
    /// One at a time.
    #[error("challenge `{0}` is still running")]
    Running(String),
}

/// The challenge that runs on a line, if one does.
#[derive(Debug, Clone, Default)]
pub struct Challenger {
    running: Option<Running>,
}

#[derive(Debug, Clone)]
struct Running {
    challenge: Challenge,
    from: Timestamp,
    got: Vec<(u64, Verdict)>,
}

impl Challenger {
    /// Announces a challenge: decisions from now on belong to it.
    ///
    /// # Errors
    /// When another one runs, or when this one announces nothing that can be told apart.
    pub fn announce(&mut self, challenge: Challenge, now: Timestamp) -> Result<(), ChallengeError> {
        if let Some(running) = &self.running {
            return Err(ChallengeError::Running(running.challenge.name.clone()));
        }
        if !(1..=MOST_PARTS).contains(&challenge.expected.len()) {
            return Err(ChallengeError::Count(challenge.expected.len()));
        }
        if challenge.expected.contains(&Verdict::Unknown) {
            return Err(ChallengeError::Verdict);
        }
        self.running = Some(Running { challenge, from: now, got: Vec::new() });
        Ok(())
    }

    /// The challenge that runs, and when it was announced.
    pub fn running(&self) -> Option<(&Challenge, Timestamp)> {
        self.running.as_ref().map(|running| (&running.challenge, running.from))
    }

    /// The name of the challenge that a part belongs to: one that was captured before it was announced does not.
    pub fn takes(&self, captured_at: Timestamp) -> Option<&str> {
        let running = self.running.as_ref().filter(|running| running.from <= captured_at)?;
        Some(&running.challenge.name)
    }

    /// When the running challenge must be over.
    pub fn deadline(&self) -> Option<Timestamp> {
        let running = self.running.as_ref()?;
        Some(running.from.checked_add(running.challenge.within).unwrap_or(Timestamp::MAX))
    }

    /// A part that it [takes](Self::takes) was decided. Gives the outcome when it was the last one.
    pub fn decided(&mut self, part: u64, verdict: Verdict, now: Timestamp) -> Option<Outcome> {
        let running = self.running.as_mut()?;
        running.got.push((part, verdict));
        if running.got.len() < running.challenge.expected.len() { None } else { self.end(now) }
    }

    /// Time went by. Gives the outcome when that was too long.
    pub fn tick(&mut self, now: Timestamp) -> Option<Outcome> {
        (self.deadline()? <= now).then(|| self.end(now)).flatten()
    }

    /// Ends the running challenge, with what has come so far.
    pub fn end(&mut self, now: Timestamp) -> Option<Outcome> {
        let Running { challenge: Challenge { name, expected, .. }, from, got } = self.running.take()?;
        let wrong = |wanted: Verdict| {
            let pairs = expected.iter().zip(&got);
            pairs.filter(|(expected, (_, verdict))| **expected == wanted && *verdict != wanted).count()
        };
        let (missed, false_rejects) = (wrong(Verdict::Reject), wrong(Verdict::Pass));
        let not_run = expected.len() - got.len();
        let has_passed = missed + false_rejects + not_run == 0;
        Some(Outcome { name, has_passed, missed, false_rejects, not_run, expected, got, from, to: now })
    }
}

/// How often a challenge must pass. The first one is due at once: nothing is proven of a line that has just started.
#[derive(Debug, Clone)]
pub struct Duty {
    every: Duration,
    /// None while one is overdue.
    due_at: Option<Timestamp>,
}

impl Duty {
    /// One must pass now, and then again within `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, due_at: None }
    }

    /// A challenge ended.
    pub fn ended(&mut self, has_passed: bool, now: Timestamp) {
        let later = || now.checked_add(self.every).unwrap_or(Timestamp::MAX);
        self.due_at = has_passed.then(later);
    }

    /// What was proven holds no longer, as after a change of the model.
    pub fn void(&mut self) {
        self.due_at = None;
    }

    /// Time went by.
    pub fn tick(&mut self, now: Timestamp) {
        self.due_at = self.due_at.filter(|due_at| now < *due_at);
    }

    /// When the next one must have passed; none when that time is over.
    pub fn due_at(&self) -> Option<Timestamp> {
        self.due_at
    }

    /// Whether one should have passed by now.
    pub fn is_overdue(&self) -> bool {
        self.due_at.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Pass, Reject, Unknown};
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn challenge(expected: &[Verdict]) -> Challenge {
        Challenge { name: "shift 1".to_owned(), expected: expected.to_vec(), within: Duration::from_secs(60) }
    }

    /// Missed, false rejects, not run.
    fn outcome(expected: &[Verdict], got: &[Verdict]) -> (bool, usize, usize, usize) {
        let mut challenger = Challenger::default();
        challenger.announce(challenge(expected), second(0)).unwrap();
        let parts = (1..).zip(got);
        let ended = parts.filter_map(|(part, &verdict)| challenger.decided(part, verdict, second(1))).last();
        let Outcome { has_passed, missed, false_rejects, not_run, .. } =
            ended.or_else(|| challenger.tick(second(60))).unwrap();
        assert_eq!(challenger.running(), None);
        (has_passed, missed, false_rejects, not_run)
    }

    #[test]
    fn a_challenge_passes_only_when_every_known_part_got_its_verdict() {
        let table = [
            (vec![Pass, Reject], vec![Pass, Reject], (true, 0, 0, 0)),
            (vec![Pass, Reject], vec![Reject, Pass], (false, 1, 1, 0)),
            (vec![Reject, Reject], vec![Reject, Unknown], (false, 1, 0, 0)),
            (vec![Pass, Pass], vec![Pass, Unknown], (false, 0, 1, 0)),
            (vec![Pass, Reject, Reject], vec![Pass], (false, 0, 0, 2)),
        ];
        for (expected, got, ended) in table {
            assert_eq!(outcome(&expected, &got), ended, "{expected:?} {got:?}");
        }
    }

    #[test]
    fn a_challenge_that_makes_no_sense_is_refused_and_a_second_one_waits() {
        let mut challenger = Challenger::default();
        assert_eq!(challenger.announce(challenge(&[]), second(0)), Err(ChallengeError::Count(0)));
        assert_eq!(challenger.announce(challenge(&[Unknown]), second(0)), Err(ChallengeError::Verdict));
        assert!(challenger.decided(1, Pass, second(0)).is_none(), "no challenge, no outcome");
        challenger.announce(challenge(&[Pass]), second(0)).unwrap();
        let error = challenger.announce(challenge(&[Pass]), second(1)).unwrap_err();
        assert_eq!(error.to_string(), "challenge `shift 1` is still running");
        assert_eq!((challenger.takes(second(-1)), challenger.takes(second(0))), (None, Some("shift 1")));
        assert_eq!(challenger.tick(second(59)), None);
        assert_eq!(challenger.tick(second(60)).map(|outcome| outcome.not_run), Some(1));
    }

    #[test]
    fn a_challenge_is_due_from_the_start_after_its_time_and_after_every_change() {
        let mut duty = Duty::new(Duration::from_secs(100));
        assert!(duty.is_overdue());
        duty.ended(true, second(10));
        assert_eq!((duty.is_overdue(), duty.due_at()), (false, Some(second(110))));
        duty.tick(second(109));
        assert!(!duty.is_overdue());
        duty.tick(second(110));
        assert!(duty.is_overdue());
        duty.ended(true, second(120));
        duty.ended(false, second(130));
        assert!(duty.is_overdue(), "what failed proves the contrary");
        duty.ended(true, second(140));
        duty.void();
        assert!(duty.is_overdue());
    }
}
