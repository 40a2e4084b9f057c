//! How long to wait before a failed camera is tried again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Doubles from half a second to half a minute; a quarter of each wait is chance, so that cameras that were lost together
/// do not all come back in the same moment.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn next_delay(&mut self) -> Duration {
        let delay = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        // The standard library's hasher keys are the chance that a wait needs.
        let chance =
            f64::from(u16::try_from(RandomState::new().hash_one(self.failures) & 0xFFFF).unwrap_or(0)) / 65536.0;
        delay.mul_f64(0.75 + 0.25 * chance)
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute_and_start_over_after_a_reset() {
        let mut backoff = Backoff::default();
        let expect = |seconds: f64, backoff: &mut Backoff| {
            let got = backoff.next_delay().as_secs_f64();
            assert!((0.75 * seconds..=seconds).contains(&got), "{got} for {seconds}");
        };
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0] {
            expect(seconds, &mut backoff);
        }
        backoff.reset();
        expect(0.5, &mut backoff);
    }
}
