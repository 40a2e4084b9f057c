//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// Short enough that publishing resumes within two seconds of the broker's return.
const LONGEST: Duration = Duration::from_millis(1500);

/// Doubles from attempt to attempt, up to a limit, and scatters, so that a hall full of lines does not knock all at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    pub(crate) fn next_delay(&mut self) -> Duration {
        // Each `RandomState` is keyed differently, which is random enough to scatter a delay.
        let scatter = RandomState::new().hash_one(self.attempts);
        let delay = delay(self.attempts, scatter);
        self.attempts = self.attempts.saturating_add(1);
        delay
    }

    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// From half of the doubled delay to all of it.
fn delay(attempts: u32, scatter: u64) -> Duration {
    let longest = FIRST.saturating_mul(1 << attempts.min(16)).min(LONGEST);
    let share = (scatter % 1024) as u32;
    longest / 2 + longest / 2 * share / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_waits_and_none_waits_longer_than_the_limit() {
        let table = [(0, 50, 100), (1, 100, 200), (2, 200, 400), (3, 400, 800), (4, 750, 1500), (u32::MAX, 750, 1500)];
        for (attempts, least_ms, most_ms) in table {
            for scatter in [0, 511, 1023, u64::MAX] {
                let delay = delay(attempts, scatter);
                assert!(delay >= Duration::from_millis(least_ms), "attempt {attempts}: {delay:?}");
                assert!(delay <= Duration::from_millis(most_ms), "attempt {attempts}: {delay:?}");
            }
        }
    }

    #[test]
    fn a_reset_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..10 {
            backoff.next_delay();
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
