//! What an output has been told and has not taken yet. Whoever tells never waits: the lock is held for a push.
//!
//! Decisions queue, up to a limit, and the oldest falls out: a newer part can still be caught. State, score and counts
//! are kept as they are now, so that none of them can fall out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use linewarden_core::{Action, Decision, ScoredFrame, Verdict};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Decisions that may wait for one output: at 120 parts a minute, more than half a minute of one line.
const CAPACITY: usize = 1024;

/// The last score of a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Score {
    pub(crate) camera: String,
    pub(crate) score: f64,
    pub(crate) threshold: f64,
    pub(crate) is_anomalous: bool,
    pub(crate) captured_at: Timestamp,
}

/// How many decisions a line has made, whatever became of them here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) pass: u64,
    pub(crate) reject: u64,
    pub(crate) unknown: u64,
}

impl Counts {
    pub(crate) fn total(self) -> u64 {
        self.pass + self.reject + self.unknown
    }
}

/// A line as it is now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LineNow {
    pub(crate) state: &'static str,
    pub(crate) score: Option<Score>,
    pub(crate) counts: Counts,
}

/// What has come since the last look.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    /// With the place of its line.
    pub(crate) decisions: Vec<(usize, Arc<Decision>)>,
    pub(crate) lines: Vec<LineNow>,
    pub(crate) is_stopping: bool,
}

/// What became of an output's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputStats {
    /// Decisions that fell out of the full mailbox.
    pub dropped: u64,
    /// Decisions that were shown or sent.
    pub delivered: u64,
    /// Decisions whose time passed before they could be shown or sent as live.
    pub expired: u64,
    /// Decisions that were shown and that nobody acknowledged in time; only where acknowledgements are asked for.
    pub unacknowledged: u64,
    /// Peers that are connected: clients of a server, or the one server of a client.
    pub connected: usize,
}

/// Counters that the output itself keeps.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) delivered: AtomicU64,
    pub(crate) expired: AtomicU64,
    pub(crate) unacknowledged: AtomicU64,
    pub(crate) connected: AtomicUsize,
}

/// The name used in messages.
pub(crate) const fn action_word(action: Action) -> &'static str {
    match action {
        Action::Pass => "pass",
        Action::Reject => "reject",
        Action::Stop => "stop",
        Action::None => "none",
    }
}

#[derive(Debug)]
pub(crate) struct Mailbox {
    names: Vec<String>,
    inner: Mutex<Inner>,
    news: Notify,
    pub(crate) tally: Tally,
}

#[derive(Debug)]
struct Inner {
    decisions: VecDeque<(usize, Arc<Decision>)>,
    lines: Vec<LineNow>,
    dropped: u64,
    is_stopping: bool,
}

impl Mailbox {
    pub(crate) fn new(names: Vec<String>) -> Arc<Self> {
        let line = LineNow { state: "starting", score: None, counts: Counts::default() };
        let lines = vec![line; names.len()];
        let inner = Inner { decisions: VecDeque::new(), lines, dropped: 0, is_stopping: false };
        Arc::new(Self { names, inner: Mutex::new(inner), news: Notify::new(), tally: Tally::default() })
    }

    /// Where the line stands among those of this mailbox.
    pub(crate) fn place(&self, line: &str) -> Option<usize> {
        self.names.iter().position(|name| name == line)
    }

    /// Locks even after a panic elsewhere: every change leaves valid lists behind.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn decided(&self, line: usize, decision: Arc<Decision>) {
        let mut inner = self.inner();
        if let Some(now) = inner.lines.get_mut(line) {
            match decision.verdict {
                Verdict::Pass => now.counts.pass += 1,
                Verdict::Reject => now.counts.reject += 1,
                Verdict::Unknown => now.counts.unknown += 1,
            }
        }
        inner.decisions.push_back((line, decision));
        if inner.decisions.len() > CAPACITY {
            inner.decisions.pop_front();
            inner.dropped += 1;
        }
        drop(inner);
        self.news.notify_one();
    }

    pub(crate) fn scored(&self, line: usize, frame: &ScoredFrame) {
        let score = Score {
            camera: frame.camera.clone(),
            score: frame.result.anomaly_score,
            threshold: frame.result.anomaly_threshold,
            is_anomalous: frame.result.is_anomalous,
            captured_at: frame.captured_at,
        };
        // Nobody is woken for a score: it goes out with the next decision or heartbeat.
        if let Some(now) = self.inner().lines.get_mut(line) {
            now.score = Some(score);
        }
    }

    pub(crate) fn state(&self, line: usize, state: &'static str) {
        if let Some(now) = self.inner().lines.get_mut(line) {
            now.state = state;
        }
        self.news.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.inner().is_stopping = true;
        self.news.notify_one();
    }

    pub(crate) fn stats(&self) -> OutputStats {
        let tally = &self.tally;
        OutputStats {
            dropped: self.inner().dropped,
            delivered: tally.delivered.load(Ordering::Relaxed),
            expired: tally.expired.load(Ordering::Relaxed),
            unacknowledged: tally.unacknowledged.load(Ordering::Relaxed),
            connected: tally.connected.load(Ordering::Relaxed),
        }
    }

    /// Waits until something was told. For the output's own task alone: one wish to be woken is kept.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    /// Lets time pass in which there is nobody to tell: news are delivered until then, for decisions expire all the same.
    /// True when `deliver` says that the end came.
    pub(crate) async fn pass_time(&self, time: Duration, mut deliver: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                () = self.news() => {}
                () = tokio::time::sleep_until(until) => return false,
            }
            if deliver() {
                return true;
            }
        }
    }

    /// Everything that came since the last look.
    pub(crate) fn take(&self) -> Mail {
        let mut inner = self.inner();
        let decisions = inner.decisions.drain(..).collect();
        Mail { decisions, lines: inner.lines.clone(), is_stopping: inner.is_stopping }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::tests_support::decision;

    #[test]
    fn a_full_mailbox_loses_its_oldest_decision_and_counts_it_but_no_state() {
        let mailbox = Mailbox::new(vec!["a".to_owned()]);
        for part in 0..CAPACITY as u64 + 3 {
            mailbox.decided(0, Arc::new(decision(part, Verdict::Reject)));
        }
        mailbox.state(0, "running");
        let mail = mailbox.take();
        assert_eq!(mailbox.stats().dropped, 3);
        assert_eq!((mail.decisions.len(), mail.decisions[0].1.part), (CAPACITY, 3));
        assert_eq!((mail.lines[0].state, mail.lines[0].counts.reject), ("running", CAPACITY as u64 + 3));
        assert!(mailbox.take().decisions.is_empty());
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    use jiff::SignedDuration;
    use linewarden_core::{ClockSource, Reason};

    use super::*;

    /// A decision of now that is live for a minute.
    pub(crate) fn decision(part: u64, verdict: Verdict) -> Decision {
        let now = Timestamp::now();
        Decision {
            part,
            trigger: Some(part + 100),
            verdict,
            reason: Reason::Normal,
            frames: Vec::new(),
            captured_at: now,
            decided_at: now,
            reject_at: None,
            expires_at: now + SignedDuration::from_secs(60),
            action: verdict.into(),
            clock: ClockSource::Arrival,
            encoder: None,
            last_captured_at: now,
        }
    }
}
