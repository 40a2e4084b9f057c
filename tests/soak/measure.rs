//! What is measured, and what is made of it: pure.

use std::time::{Duration, Instant};

use crate::plant::Fault;

/// The daemon at a moment when all is well.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Since the measuring began.
    pub(crate) at: Duration,
    /// What was healed last.
    pub(crate) fault: Fault,
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// Messages in the outbox, live and historical.
    pub(crate) waiting: f64,
    /// What the outbox has on disk.
    pub(crate) outbox_bytes: u64,
}

/// Milliseconds from a part's last picture to its decision's arrival, each with its moment.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<(Duration, f64)>);

impl Latencies {
    pub(crate) fn extend(&mut self, began: Instant, heard: Vec<(Instant, f64)>) {
        self.0.extend(heard.into_iter().map(|(at, ms)| (at.duration_since(began), ms)));
    }

    pub(crate) fn between(&self, from: Duration, until: Duration) -> Vec<f64> {
        self.0.iter().filter(|(at, _)| (from..until).contains(at)).map(|(_, ms)| *ms).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

pub(crate) fn quantile(share: f64, values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.saturating_sub(1)).copied()
}

/// Of the line with the least squares.
pub(crate) fn slope_per_second(samples: &[(f64, f64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| samples.iter().map(pick).sum::<f64>() / count;
    let (mean_at, mean_value) = (mean(|one| one.0), mean(|one| one.1));
    let together: f64 = samples.iter().map(|(at, value)| (at - mean_at) * (value - mean_value)).sum();
    let spread: f64 = samples.iter().map(|(at, _)| (at - mean_at).powi(2)).sum();
    if spread > 0.0 { together / spread } else { 0.0 }
}

#[test]
fn the_slope_is_that_of_a_line_and_the_quantile_one_of_the_values() {
    assert!((slope_per_second(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]) - 2.0).abs() < 1e-9);
    assert!((slope_per_second(&[(0.0, 5.0), (10.0, 5.0)])).abs() < 1e-9);
    assert_eq!(quantile(0.5, &[3.0, 1.0, 2.0]), Some(2.0));
    assert_eq!(quantile(0.99, &[3.0, 1.0, 2.0]), Some(3.0));
    assert_eq!(quantile(0.99, &[]), None);
}
