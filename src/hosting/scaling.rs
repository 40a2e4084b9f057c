//! How many inference units a hosted model should have: a machine without clock, thread or model.

use std::time::Duration;

/// Pictures that wait for this long say that there are too few units.
const GROW_AFTER: Duration = Duration::from_millis(300);
/// Units that had nothing to do for this long are one too many.
const SHRINK_AFTER: Duration = Duration::from_secs(30);

/// Between which numbers the units of a model may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Units {
    /// At least one.
    pub(crate) min: usize,
    /// At least `min`.
    pub(crate) max: usize,
}

/// What a model's queue and units look like at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Since the machine began.
    pub(super) at: Duration,
    /// Pictures that no unit has taken yet.
    pub(super) waiting: usize,
    /// Units that score a picture now.
    pub(super) busy: usize,
}

/// Decides one unit at a time.
#[derive(Debug)]
pub(super) struct Scaling {
    units: Units,
    desired: usize,
    short_since: Option<Duration>,
    idle_since: Option<Duration>,
}

impl Scaling {
    pub(super) fn new(units: Units) -> Self {
        Self { units, desired: units.min, short_since: None, idle_since: None }
    }

    pub(super) fn desired(&self) -> usize {
        self.desired
    }

    /// The number of units that there should be from now on.
    pub(super) fn observe(&mut self, load: Load) -> usize {
        let Load { at, waiting, busy } = load;
        let is_short = waiting > 0 && busy >= self.desired;
        // One unit less would have been enough, too.
        let is_idle = waiting == 0 && busy < self.desired;
        let since = |since: &mut Option<Duration>, holds: bool| {
            let began = holds.then(|| since.unwrap_or(at));
            *since = began;
            began.map(|began| at.saturating_sub(began))
        };
        let (short, idle) = (since(&mut self.short_since, is_short), since(&mut self.idle_since, is_idle));
        if short.is_some_and(|short| short >= GROW_AFTER) && self.desired < self.units.max {
            self.desired += 1;
            self.short_since = Some(at);
        } else if idle.is_some_and(|idle| idle >= SHRINK_AFTER) && self.desired > self.units.min {
            self.desired -= 1;
            self.idle_since = Some(at);
        }
        self.desired
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Milliseconds, pictures that wait, units that work.
    type Moment = (u64, usize, usize);

    fn run(units: Units, loads: &[Moment]) -> Vec<usize> {
        let mut scaling = Scaling::new(units);
        let load = |&(at_ms, waiting, busy): &Moment| Load { at: Duration::from_millis(at_ms), waiting, busy };
        loads.iter().map(|one| scaling.observe(load(one))).collect()
    }

    #[test]
    fn demand_that_lasts_adds_a_unit_and_rest_that_lasts_takes_one_away() {
        let units = Units { min: 1, max: 3 };
        let table: [(&str, &[Moment], &[usize]); 6] = [
            ("a burst is no demand", &[(0, 5, 1), (200, 5, 1), (250, 0, 1), (600, 5, 1)], &[1, 1, 1, 1]),
            (
                "one at a time",
                &[(0, 9, 1), (300, 9, 1), (400, 9, 2), (600, 9, 2), (900, 9, 3), (2000, 9, 3)],
                &[1, 2, 2, 3, 3, 3],
            ),
            ("a new unit is waited for", &[(0, 9, 1), (300, 9, 1), (600, 9, 1), (900, 9, 1)], &[1, 2, 2, 2]),
            ("rest", &[(0, 9, 1), (300, 9, 1), (400, 0, 0), (30_399, 0, 0), (30_400, 0, 0)], &[1, 2, 2, 2, 1]),
            ("work of one keeps one", &[(0, 9, 1), (300, 9, 1), (400, 0, 1), (30_400, 0, 1)], &[1, 2, 2, 1]),
            ("never below the least", &[(0, 0, 0), (60_000, 0, 0)], &[1, 1]),
        ];
        for (what, loads, expected) in table {
            assert_eq!(run(units, loads), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn the_limits_hold(min in 1_usize..4, more in 0_usize..4, loads in proptest::collection::vec((0_u64..100_000, 0_usize..9, 0_usize..9), 0..200)) {
            let units = Units { min, max: min + more };
            for desired in run(units, &loads) {
                prop_assert!((units.min..=units.max).contains(&desired));
            }
        }
    }
}
