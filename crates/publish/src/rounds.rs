//! Which of several brokers is tried next, and after how long: a machine without clock or sockets.

use std::time::Duration;

use linewarden_core::Backoff;

/// A connection that held this long was a good one: its broker is tried again first, and soon.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

/// Goes round the brokers, and stays with one that was good.
pub(crate) struct Rounds {
    brokers: usize,
    current: usize,
    backoff: Backoff,
}

impl Rounds {
    pub(crate) fn of(brokers: usize) -> Self {
        Self { brokers, current: 0, backoff: Backoff::of_peer() }
    }

    /// The place of the broker that is tried now.
    pub(crate) fn current(&self) -> usize {
        self.current
    }

    /// The connection, or the attempt, ended after so long. Gives how long to wait before the next one: the library fails at
    /// once while a broker refuses connections, so every round of them waits, but not while there is another one to ask.
    pub(crate) fn ended(&mut self, after: Duration) -> Option<Duration> {
        let (was_good, was_last) = (after >= GOOD_CONNECTION, self.current + 1 >= self.brokers);
        if was_good {
            self.backoff.reset();
        } else {
            self.current = if was_last { 0 } else { self.current + 1 };
        }
        (was_good || was_last).then(|| self.backoff.next_delay())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_waits_and_a_good_broker_is_stayed_with() {
        let (bad, good) = (Duration::from_millis(1), GOOD_CONNECTION);
        let mut rounds = Rounds::of(3);
        for (after, is_waited, next) in [
            (bad, false, 1),
            (bad, false, 2),
            (bad, true, 0),
            (bad, false, 1),
            (good, true, 1),
            (good, true, 1),
            (bad, false, 2),
            (bad, true, 0),
        ] {
            assert_eq!((rounds.ended(after).is_some(), rounds.current()), (is_waited, next));
        }
        let mut alone = Rounds::of(1);
        let first = alone.ended(bad).unwrap();
        let later = (0..6).filter_map(|_| alone.ended(bad)).last().unwrap();
        assert!(later > first && alone.current() == 0, "{first:?} {later:?}");
        assert!(alone.ended(good).unwrap() < later, "a good connection begins anew");
    }
}
