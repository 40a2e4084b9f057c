//! Which rejects the gate has not acknowledged yet. Pure: the caller says what time it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::outbox::Key;

/// Rejects that are waited for at a time; the oldest of more counts as not acknowledged.
const MOST_WAITING: usize = 4096;

/// What became of the rejects that a gate was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GateStats {
    /// Acknowledged in time.
    pub acknowledged: u64,
    /// Not acknowledged in time.
    pub unacknowledged: u64,
    /// Still in time.
    pub waiting: usize,
    /// The last reject whose time is over was not acknowledged.
    pub alarm: bool,
}

/// What a gate has answered to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// A reject, after this long.
    Reject(Duration),
    /// Something that no answer was waited for: another decision, one whose time is over, or nothing of ours.
    Unknown,
}

/// The rejects of a line.
#[derive(Debug)]
pub(crate) struct Gate {
    timeout: Duration,
    /// In the order of their time.
    waiting: VecDeque<(Key, Instant)>,
    stats: GateStats,
}

impl Gate {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout, waiting: VecDeque::new(), stats: GateStats::default() }
    }

    /// A reject is on its way. Gives what is no longer waited for.
    pub(crate) fn expect(&mut self, key: Key, now: Instant) -> Option<Key> {
        self.waiting.push_back((key, now));
        if self.waiting.len() <= MOST_WAITING {
            return None;
        }
        let (oldest, _) = self.waiting.pop_front()?;
        self.missed();
        Some(oldest)
    }

    /// The gate says that it has heard.
    pub(crate) fn answer(&mut self, key: &Key, now: Instant) -> Answered {
        let Some(place) = self.waiting.iter().position(|(waiting, _)| waiting == key) else { return Answered::Unknown };
        let Some((_, since)) = self.waiting.remove(place) else { return Answered::Unknown };
        self.stats.acknowledged += 1;
        self.stats.alarm = false;
        Answered::Reject(now.duration_since(since))
    }

    /// The rejects whose time is over.
    pub(crate) fn overdue(&mut self, now: Instant) -> Vec<Key> {
        let is_over = |&(_, since): &(Key, Instant)| now.duration_since(since) >= self.timeout;
        let count = self.waiting.iter().take_while(|waiting| is_over(waiting)).count();
        let overdue: Vec<Key> = self.waiting.drain(..count).map(|(key, _)| key).collect();
        overdue.iter().for_each(|_| self.missed());
        overdue
    }

    pub(crate) fn stats(&self) -> GateStats {
        GateStats { waiting: self.waiting.len(), ..self.stats }
    }

    fn missed(&mut self) {
        self.stats.unacknowledged += 1;
        self.stats.alarm = true;
    }
}

/// What a PLC may send: the bare `id` of a decision, or JSON with `id` or with `boot_id` and `seq`.
pub(crate) fn parse_answer(payload: &[u8]) -> Option<Key> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Answer {
        Named { boot_id: String, seq: u64 },
        Id { id: String },
        Text(String),
    }
    let text = std::str::from_utf8(payload).ok()?.trim_matches(|letter: char| letter.is_whitespace() || letter == '\0');
    match serde_json::from_str(text) {
        Ok(Answer::Named { boot_id, seq }) => Some(Key { boot_id: boot_id.into(), seq }),
        Ok(Answer::Id { id } | Answer::Text(id)) => parse_id(&id),
        Err(_) => parse_id(text),
    }
}

/// `<boot id>-d-<number>`.
fn parse_id(id: &str) -> Option<Key> {
    let (boot_id, seq) = id.trim().rsplit_once("-d-")?;
    Some(Key { boot_id: boot_id.into(), seq: seq.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> Key {
        Key { boot_id: "00-11".into(), seq }
    }

    #[test]
    fn every_form_of_an_answer_is_understood_and_nonsense_is_not() {
        let good = [
            "00-11-d-7",
            " 00-11-d-7\r\n",
            "00-11-d-7\0\0\0",
            "\"00-11-d-7\"",
            r#"{"id":"00-11-d-7"}"#,
            r#"{"boot_id":"00-11","seq":7}"#,
            r#"{"seq":7,"boot_id":"00-11","gate":"open","id":"x"}"#,
        ];
        for text in good {
            assert_eq!(parse_answer(text.as_bytes()), Some(key(7)), "{text}");
        }
        for text in ["", "7", "00-11-r-7", "00-11-d-", "00-11-d-x", "{}", r#"{"seq":7}"#, "[1]", "null", "{\"id\":7}"] {
            assert_eq!(parse_answer(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_answer(&[0xff, 0xfe]), None);
    }

    #[test]
    fn a_reject_is_answered_once_or_missed_once() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut gate = Gate::new(Duration::from_millis(100));
        (1..=3).for_each(|seq| assert_eq!(gate.expect(key(seq), at(seq)), None));
        assert_eq!(gate.answer(&key(2), at(20)), Answered::Reject(Duration::from_millis(18)));
        assert_eq!(gate.answer(&key(2), at(21)), Answered::Unknown, "a second time");
        assert_eq!(gate.answer(&key(9), at(22)), Answered::Unknown, "never asked for");
        assert_eq!(gate.overdue(at(100)), []);
        assert_eq!(gate.overdue(at(101)), [key(1)]);
        assert_eq!(gate.stats(), GateStats { acknowledged: 1, unacknowledged: 1, waiting: 1, alarm: true });
        assert_eq!(gate.answer(&key(1), at(102)), Answered::Unknown, "too late");
        assert!(gate.stats().alarm);
        gate.answer(&key(3), at(102));
        assert_eq!(gate.stats(), GateStats { acknowledged: 2, unacknowledged: 1, waiting: 0, alarm: false });
    }

    #[test]
    fn a_gate_that_never_answers_takes_no_more_than_its_room() {
        let start = Instant::now();
        let mut gate = Gate::new(Duration::from_secs(60));
        let given_up: Vec<u64> = (0..5000).filter_map(|seq| gate.expect(key(seq), start)).map(|key| key.seq).collect();
        assert_eq!(given_up, Vec::from_iter(0..5000 - 4096));
        assert_eq!((gate.stats().waiting, gate.stats().unacknowledged), (4096, 904));
    }
}
