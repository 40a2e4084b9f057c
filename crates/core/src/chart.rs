//! A control chart of a line's rejects: whether their share among the last parts is still what chance makes of the usual one.
//!
//! A p-chart (Shewhart) whose limits are the exact tails of the binomial distribution, since rejects are rare. Pure.

use std::collections::VecDeque;

/// Chance of one tail. A chart that is drawn once a sample takes three deviations, 0.00135; this one looks after every part,
/// which gives chance some ten times as many tries.
const TAIL: f64 = 1e-4;
/// Once told, an alarm stays until chance explains the rejects this well, two deviations: one that comes and goes with every
/// part tells nobody anything.
const CALM_TAIL: f64 = 0.022_75;
/// A usual share is never taken for less, so that the first reject of a faultless line is no alarm.
const LEAST_SHARE: f64 = 0.001;

/// What the last parts say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Too few parts yet, or the usual share is being learnt.
    Learning,
    /// As usual.
    InControl,
    /// More rejects than chance explains: the process, the light or the model changed.
    TooMany,
    /// Fewer rejects than chance explains: perhaps the camera no longer sees what is wrong.
    TooFew,
}

/// The last parts of a line.
#[derive(Debug, Clone)]
pub struct RejectChart {
    usual_share: Option<f64>,
    learnt: (usize, usize),
    window: VecDeque<bool>,
    rejects: usize,
    size: usize,
    state: Control,
}

impl RejectChart {
    /// Watches the last `size` parts. Without a usual share the first `5 * size` parts give it.
    pub fn new(usual_share: Option<f64>, size: usize) -> Self {
        let usual_share = usual_share.map(|share| share.clamp(LEAST_SHARE, 1.0 - LEAST_SHARE));
        let size = size.max(1);
        let window = VecDeque::with_capacity(size);
        Self { usual_share, learnt: (0, 0), window, rejects: 0, size, state: Control::Learning }
    }

    /// A part was decided. Gives the new state when it is another.
    pub fn observe(&mut self, is_reject: bool) -> Option<Control> {
        let share = match self.usual_share {
            Some(share) => share,
            None => return self.learn(is_reject),
        };
        if self.window.len() == self.size && self.window.pop_front() == Some(true) {
            self.rejects -= 1;
        }
        self.window.push_back(is_reject);
        self.rejects += usize::from(is_reject);
        let state = self.judge(share);
        let before = std::mem::replace(&mut self.state, state);
        (before != state).then_some(state)
    }

    /// Share of rejects among the last parts; `None` before the first.
    pub fn share(&self) -> Option<f64> {
        (!self.window.is_empty()).then(|| self.rejects as f64 / self.window.len() as f64)
    }

    /// What the last parts say.
    pub fn state(&self) -> Control {
        self.state
    }

    /// The usual share of rejects, once it is known.
    pub fn usual_share(&self) -> Option<f64> {
        self.usual_share
    }

    /// Too many are told at once, too few only of a full window.
    fn judge(&self, share: f64) -> Control {
        let (parts, rejects) = (self.window.len(), self.rejects);
        let limit = |alarm| if self.state == alarm { CALM_TAIL } else { TAIL };
        if at_least(parts, rejects, share) < limit(Control::TooMany) {
            Control::TooMany
        } else if parts < self.size {
            Control::Learning
        } else if 1.0 - at_least(parts, rejects + 1, share) < limit(Control::TooFew) {
            Control::TooFew
        } else {
            Control::InControl
        }
    }

    fn learn(&mut self, is_reject: bool) -> Option<Control> {
        let (parts, rejects) = &mut self.learnt;
        *parts += 1;
        *rejects += usize::from(is_reject);
        if *parts >= 5 * self.size {
            self.usual_share = Some((*rejects as f64 / *parts as f64).clamp(LEAST_SHARE, 1.0 - LEAST_SHARE));
            self.state = Control::InControl;
            return Some(Control::InControl);
        }
        None
    }
}

/// Chance of `least` or more among `count` when each has this chance, by summing the terms of the binomial distribution.
fn at_least(count: usize, least: usize, chance: f64) -> f64 {
    let (odds, count) = (chance / (1.0 - chance), count);
    // The logarithm of the first term: a hundredth to the power of a thousand is no number any more.
    let mut log_term = count as f64 * (1.0 - chance).ln();
    let mut below = 0.0;
    for number in 0..least {
        below += log_term.exp();
        log_term += ((count - number.min(count)) as f64 / (number + 1) as f64 * odds).ln();
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_those_of_the_binomial_distribution() {
        let table = [
            // of, at least, chance; by summing the terms with exact fractions
            (10, 0, 0.3, 1.0),
            (10, 1, 0.1, 1.0 - 0.9_f64.powi(10)),
            (4, 4, 0.5, 0.0625),
            (3, 2, 0.2, 3.0 * 0.04 * 0.8 + 0.008),
            (2, 3, 0.5, 0.0),
        ];
        for (count, least, chance, expected) in table {
            assert!((at_least(count, least, chance) - expected).abs() < 1e-12, "{count} {least} {chance}");
        }
    }

    #[test]
    fn a_burst_of_rejects_is_told_before_the_window_is_full_and_once() {
        let mut chart = RejectChart::new(Some(0.02), 200);
        let told: Vec<Control> = (0..60).filter_map(|part| chart.observe(part >= 20 && part % 3 == 0)).collect();
        assert_eq!(told, [Control::TooMany]);
        let told: Vec<Control> = (0..400).filter_map(|part| chart.observe(part % 50 == 0)).collect();
        assert_eq!(told, [Control::InControl]);
    }

    #[test]
    fn a_line_that_rejects_nothing_any_more_is_told() {
        let mut chart = RejectChart::new(Some(0.05), 200);
        let told: Vec<Control> = (0..200).filter_map(|_| chart.observe(false)).collect();
        assert_eq!(told, [Control::TooFew]);
        assert_eq!(chart.share(), Some(0.0));
    }

    #[test]
    fn the_usual_share_is_learnt_and_chance_is_no_alarm() {
        let mut chart = RejectChart::new(None, 100);
        let told: Vec<Control> = (0..2000).filter_map(|part| chart.observe(part % 25 == 0)).collect();
        assert_eq!(told[0], Control::InControl);
        assert!(!told.contains(&Control::TooMany) && !told.contains(&Control::TooFew), "{told:?}");
        assert_eq!((chart.state(), chart.usual_share()), (Control::InControl, Some(0.04)));
    }

    #[test]
    fn an_alarm_does_not_come_and_go_with_every_part() {
        let mut chart = RejectChart::new(Some(0.05), 100);
        // One part in five, then one in eight: less than what raised the alarm, and more than chance explains.
        let parts = (0..100).map(|part| part % 5 == 0).chain((0..200).map(|part| part % 8 == 0));
        let told: Vec<Control> = parts.filter_map(|is_reject| chart.observe(is_reject)).collect();
        assert_eq!(told, [Control::TooMany]);
    }
}
