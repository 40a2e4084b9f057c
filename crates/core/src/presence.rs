//! Whether a part is in the picture: the trigger of a line without a sensor.
//!
//! One number a picture comes in, such as how far a region differs from the empty belt; a part opens when it has been high
//! for long enough, and closes when it has been low for long enough. Between the two limits nothing changes, so that a part
//! which flickers stays one part. Pure: the caller says what time it is.

use jiff::{SignedDuration, Timestamp};

/// When a part is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PresenceRules {
    /// At this level and above something is there.
    pub present_at: f32,
    /// At this level and below nothing is; at most `present_at`.
    pub absent_at: f32,
    /// What is shorter is no part.
    pub least_length: SignedDuration,
    /// A gap that is shorter parts nothing.
    pub least_gap: SignedDuration,
}

/// What one picture changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PresenceChange {
    /// A part is there since this moment.
    Opened(Timestamp),
    /// The part is gone since this moment.
    Closed(Timestamp),
}

/// The presence of parts in one region.
#[derive(Debug, Clone)]
pub struct Presence {
    rules: PresenceRules,
    is_present: bool,
    /// Since when the level says otherwise.
    otherwise_since: Option<Timestamp>,
}

impl Presence {
    /// An empty belt.
    pub fn new(rules: PresenceRules) -> Self {
        Self { rules, is_present: false, otherwise_since: None }
    }

    /// Whether a part is there.
    pub fn is_present(&self) -> bool {
        self.is_present
    }

    /// A picture's level. Pictures must come in order; one without a number for a level says nothing.
    pub fn look(&mut self, at: Timestamp, level: f32) -> Option<PresenceChange> {
        let says_otherwise = match self.is_present {
            true => level <= self.rules.absent_at,
            false => level >= self.rules.present_at,
        };
        // A level between the limits takes nothing back that began: a blurred edge may pass through it.
        let takes_back = match self.is_present {
            true => level >= self.rules.present_at,
            false => level <= self.rules.absent_at,
        };
        if takes_back {
            self.otherwise_since = None;
        }
        if !says_otherwise {
            return None;
        }
        let since = *self.otherwise_since.get_or_insert(at);
        let needed = if self.is_present { self.rules.least_gap } else { self.rules.least_length };
        if at.duration_since(since) < needed {
            return None;
        }
        self.is_present = !self.is_present;
        self.otherwise_since = None;
        Some(if self.is_present { PresenceChange::Opened(since) } else { PresenceChange::Closed(since) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: PresenceRules = PresenceRules {
        present_at: 10.0,
        absent_at: 5.0,
        least_length: SignedDuration::from_millis(100),
        least_gap: SignedDuration::from_millis(100),
    };

    /// What the levels, 50 ms apart, open (`+ms`) and close (`-ms`).
    fn told(rules: PresenceRules, levels: &[f32]) -> Vec<String> {
        let mut presence = Presence::new(rules);
        let mut told = Vec::new();
        for (number, level) in levels.iter().enumerate() {
            let at = Timestamp::from_millisecond(50 * number as i64).unwrap();
            match presence.look(at, *level) {
                Some(PresenceChange::Opened(since)) => told.push(format!("+{}", since.as_millisecond())),
                Some(PresenceChange::Closed(since)) => told.push(format!("-{}", since.as_millisecond())),
                None => {}
            }
        }
        told
    }

    #[test]
    fn a_part_opens_once_with_its_first_picture_and_closes_once() {
        let table: [(&str, &[f32], &[&str]); 7] = [
            ("a part", &[0.0, 20.0, 20.0, 20.0, 0.0, 0.0, 0.0], &["+50", "-200"]),
            ("too short", &[0.0, 20.0, 20.0, 0.0, 0.0], &[]),
            ("a gap too short", &[20.0, 20.0, 20.0, 0.0, 0.0, 20.0, 20.0, 20.0], &["+0"]),
            ("flickers between the limits", &[20.0, 7.0, 20.0, 7.0, 7.0, 20.0, 7.0], &["+0"]),
            ("never high enough", &[9.0, 9.9, 9.0, 9.9, 9.0], &[]),
            ("two parts", &[20.0, 20.0, 20.0, 0.0, 0.0, 0.0, 20.0, 20.0, 20.0], &["+0", "-150", "+300"]),
            ("no number", &[f32::NAN, f32::NAN, f32::NAN, f32::NAN], &[]),
        ];
        for (name, levels, expected) in table {
            assert_eq!(told(RULES, levels), expected, "{name}");
        }
    }

    #[test]
    fn without_least_lengths_one_picture_is_a_part() {
        let rules = PresenceRules { least_length: SignedDuration::ZERO, least_gap: SignedDuration::ZERO, ..RULES };
        assert_eq!(told(rules, &[0.0, 20.0, 0.0, 20.0]), ["+50", "-100", "+150"]);
    }

    proptest! {
        #[test]
        fn parts_open_and_close_in_turn_and_time_never_runs_back(levels in prop::collection::vec(0.0_f32..20.0, 0..200)) {
            let told = told(RULES, &levels);
            let mut last = 0;
            for (number, change) in told.iter().enumerate() {
                prop_assert_eq!(change.starts_with('+'), number % 2 == 0);
                let at: i64 = change[1..].parse().unwrap();
                prop_assert!(at >= last);
                last = at;
            }
        }
    }
}
