//! How long to wait before something that failed is tried again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Doubles from the first wait to the longest. Up to a quarter of each is left out by chance, so that a hall full of lines
/// that lost the same broker or switch does not knock all at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// For a peer in the network, whose return must show within two seconds, with a second to spare for a slow one.
    pub const fn of_peer() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// Waits from three quarters of `first` to all of `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// The wait after one more failure.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        // Each `RandomState` is keyed differently: chance enough for a wait.
        let share = (RandomState::new().hash_one(self.failures) % 1024) as u32;
        delay * 3 / 4 + delay / 4 * share / 1024
    }

    /// It worked: the next failure is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_longest_and_start_over_after_a_reset() {
        let expect = |most_ms: u64, backoff: &mut Backoff| {
            let (got, most) = (backoff.next_delay(), Duration::from_millis(most_ms));
            assert!((most * 3 / 4..=most).contains(&got), "{got:?} of {most:?}");
        };
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        for _ in 0..20 {
            for most_ms in [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000] {
                expect(most_ms, &mut backoff);
            }
            backoff.reset();
        }
        backoff.failures = u32::MAX;
        expect(30_000, &mut backoff);
    }
}
