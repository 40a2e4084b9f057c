//! How often one access key may call one operation. Pictures wait for inference units besides, which refuse by themselves.

use std::num::NonZeroU32;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use linewarden_contract::Fault;

/// Calls are let through up to twice the rate at once, and then at the rate.
pub(super) struct Throttle {
    /// Only callers that signed come here, so there are no more of them than keys and operations.
    calls: DefaultKeyedRateLimiter<(String, &'static str)>,
    clock: DefaultClock,
}

impl Throttle {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let quota =
            Quota::per_second(per_second).allow_burst(per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1)));
        Self { calls: RateLimiter::keyed(quota), clock: DefaultClock::default() }
    }

    pub(super) fn admit(&self, access_key_id: &str, operation: &'static str) -> Result<(), Fault> {
        self.calls.check_key(&(access_key_id.to_owned(), operation)).map_err(|until| Fault::Throttled {
            message: format!("Too many calls of {operation}: wait, and call again."),
            quota_code: Some("calls-per-second".to_owned()),
            retry_after: Some(until.wait_time_from(self.clock.now())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_and_operation_wait_and_no_other() {
        let throttle = Throttle::new(NonZeroU32::new(3).unwrap());
        for _ in 0..6 {
            throttle.admit("a", "ListModels").unwrap();
        }
        let fault = throttle.admit("a", "ListModels").unwrap_err();
        assert_eq!((fault.status(), fault.error_type()), (429, "ThrottlingException"));
        assert_eq!(fault.retry_after().map(|wait| wait.as_secs()), Some(1));
        throttle.admit("b", "ListModels").unwrap();
        throttle.admit("a", "ListProjects").unwrap();
    }
}
