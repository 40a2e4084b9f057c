//! Whether the scores of a line still come from where the training pictures' came from.
//!
//! The last scores are compared with a reference by the one-sided Kolmogorov-Smirnov statistic: the largest lead by which
//! scores have moved upwards. Light that fades, a lens that gets dirty or a new batch of material show here while parts still
//! pass, before false rejects rise. Pure; memory is bounded by the window.

use std::collections::VecDeque;

/// One false alarm in ten thousand comparisons of scores that did not move (Smirnov's limit, one-sided).
const CHANCE: f64 = 1e-4;
/// A smaller lead is of no consequence, however certain.
const LEAST_LEAD: f64 = 0.15;
/// Once alarmed, the lead must fall below this share of the limit.
const CALM_SHARE: f64 = 0.7;
/// Neighbouring frames show the same part: not every one is worth a comparison.
const COMPARE_EVERY: usize = 20;
/// Fewer scores say nothing of a distribution.
const FEWEST: usize = 20;

/// What scores are compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    /// In ascending order.
    scores: Vec<f64>,
}

impl Reference {
    /// Scores of parts that are known to be good, such as held-out training pictures; `None` for fewer than 20.
    pub fn new(mut scores: Vec<f64>) -> Option<Self> {
        scores.retain(|score| score.is_finite());
        scores.sort_by(f64::total_cmp);
        (scores.len() >= FEWEST).then_some(Self { scores })
    }

    /// How many scores there are.
    pub fn count(&self) -> usize {
        self.scores.len()
    }

    /// By how much these scores, in ascending order, lie above the reference: the largest difference between the share of the
    /// reference and the share of these that lie at or below one value. 0 when they do not; 1 when all lie above all.
    fn lead(&self, scores: &[f64]) -> f64 {
        let share =
            |sorted: &[f64], value: f64| sorted.partition_point(|&score| score <= value) as f64 / sorted.len() as f64;
        let leads = self.scores.iter().map(|&value| share(&self.scores, value) - share(scores, value));
        leads.fold(0.0, f64::max)
    }
}

/// A comparison's outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lead {
    /// How far scores moved up, 0 to 1.
    pub lead: f64,
    /// From here on it is an alarm.
    pub limit: f64,
    /// Whether the alarm is on.
    pub is_drifting: bool,
    /// Whether that changed with this comparison.
    pub has_changed: bool,
}

/// Watches the scores of one line, or of one of its cameras.
#[derive(Debug, Clone)]
pub struct Drift {
    reference: Option<Reference>,
    /// Scores gathered to become the reference, when the model brought none.
    learning: Vec<f64>,
    window: VecDeque<f64>,
    size: usize,
    since_comparison: usize,
    is_drifting: bool,
}

impl Drift {
    /// Compares the last `size` scores. Without a reference the first `size` scores become it.
    pub fn new(reference: Option<Reference>, size: usize) -> Self {
        let size = size.max(FEWEST);
        Self {
            reference,
            learning: Vec::new(),
            window: VecDeque::with_capacity(size),
            size,
            since_comparison: 0,
            is_drifting: false,
        }
    }

    /// A frame was scored. Gives an outcome whenever the window was compared.
    pub fn observe(&mut self, score: f64) -> Option<Lead> {
        if !score.is_finite() {
            return None;
        }
        let Some(reference) = &self.reference else {
            self.learning.push(score);
            if self.learning.len() >= self.size {
                self.reference = Reference::new(std::mem::take(&mut self.learning));
            }
            return None;
        };
        if self.window.len() == self.size {
            self.window.pop_front();
        }
        self.window.push_back(score);
        self.since_comparison += 1;
        if self.window.len() < self.size || self.since_comparison < COMPARE_EVERY {
            return None;
        }
        self.since_comparison = 0;
        let mut scores: Vec<f64> = self.window.iter().copied().collect();
        scores.sort_by(f64::total_cmp);
        let lead = reference.lead(&scores);
        let limit = limit(self.size, reference.count());
        let was_drifting = self.is_drifting;
        self.is_drifting = lead > if was_drifting { CALM_SHARE * limit } else { limit };
        Some(Lead { lead, limit, is_drifting: self.is_drifting, has_changed: was_drifting != self.is_drifting })
    }

    /// Whether scores are still gathered that become the reference.
    pub fn is_learning(&self) -> bool {
        self.reference.is_none()
    }

    /// Whether the alarm is on.
    pub fn is_drifting(&self) -> bool {
        self.is_drifting
    }

    /// Starts over, as after a change of the model.
    pub fn restart(&mut self, reference: Option<Reference>) {
        *self = Self::new(reference, self.size);
    }
}

/// Smirnov's limit for the one-sided statistic of two samples, or what is of consequence when that is more.
fn limit(one: usize, other: usize) -> f64 {
    let samples = 1.0 / one as f64 + 1.0 / other as f64;
    (samples * -CHANCE.ln() / 2.0).sqrt().max(LEAST_LEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evenly spread from `low` to `high`, in an order that is not sorted.
    fn spread(count: usize, low: f64, high: f64) -> Vec<f64> {
        let place = |index: usize| (index * 7919 % count) as f64 / count as f64;
        (0..count).map(|index| low + (high - low) * place(index)).collect()
    }

    fn last(drift: &mut Drift, scores: &[f64]) -> Lead {
        scores.iter().filter_map(|&score| drift.observe(score)).last().unwrap()
    }

    #[test]
    fn scores_that_move_up_alarm_while_all_of_them_still_pass() {
        let reference = Reference::new(spread(60, 0.02, 0.2));
        let table = [
            // the line's scores, whether that is an alarm
            (spread(500, 0.02, 0.2), false),
            (spread(500, 0.03, 0.22), false),
            (spread(500, 0.10, 0.3), true),
            (spread(500, 0.2, 0.45), true),
            // Scores that fall cost no good part.
            (spread(500, 0.0, 0.05), false),
        ];
        for (row, (scores, expected)) in table.into_iter().enumerate() {
            let mut drift = Drift::new(reference.clone(), 400);
            assert_eq!(last(&mut drift, &scores).is_drifting, expected, "row {row}");
        }
    }

    #[test]
    fn an_alarm_is_told_once_and_ends_only_when_scores_are_well_back() {
        let mut drift = Drift::new(Reference::new(spread(200, 0.0, 0.2)), 100);
        let all = [spread(200, 0.0, 0.2), spread(300, 0.2, 0.4), spread(300, 0.0, 0.2)].concat();
        let changes: Vec<bool> = all
            .iter()
            .filter_map(|&score| drift.observe(score))
            .filter(|lead| lead.has_changed)
            .map(|lead| lead.is_drifting)
            .collect();
        assert_eq!(changes, [true, false]);
    }

    #[test]
    fn few_training_pictures_ask_for_a_larger_lead() {
        assert!((limit(500, 30) - 0.403_4).abs() < 1e-3, "{}", limit(500, 30));
        assert!(limit(500, 1000) < 0.2);
        assert_eq!(limit(100_000, 100_000), LEAST_LEAD);
        assert_eq!(Reference::new(vec![0.1; FEWEST - 1]), None);
        assert_eq!(Reference::new(vec![f64::NAN; 100]), None);
    }

    #[test]
    fn without_a_reference_the_first_scores_of_the_line_become_it() {
        let mut drift = Drift::new(None, 100);
        assert!(spread(99, 0.0, 0.2).iter().all(|&score| drift.observe(score).is_none()));
        assert!(drift.is_learning());
        assert!(drift.observe(0.1).is_none() && !drift.is_learning());
        assert!(!last(&mut drift, &spread(200, 0.0, 0.2)).is_drifting);
        assert!(last(&mut drift, &spread(200, 0.3, 0.4)).is_drifting);
        drift.restart(None);
        assert!(drift.observe(0.9).is_none());
    }

    proptest::proptest! {
        #[test]
        fn a_lead_is_a_share_and_identical_scores_have_none(
            scores in proptest::collection::vec(0.0_f64..1.0, FEWEST..200),
        ) {
            let reference = Reference::new(scores.clone()).unwrap();
            let mut sorted = scores;
            sorted.sort_by(f64::total_cmp);
            proptest::prop_assert_eq!(reference.lead(&sorted), 0.0);
            let above: Vec<f64> = sorted.iter().map(|score| score + 2.0).collect();
            proptest::prop_assert!((reference.lead(&above) - 1.0).abs() < 1e-12);
        }
    }
}
