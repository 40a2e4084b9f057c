//! From the scores of several parts to one calibrated score.
//!
//! Every part's scores come from pictures that it was not fitted to, are measured against those of the normal pictures
//! and weighed by a balanced logistic regression. Its value is shifted so that the threshold, which is chosen on the same
//! pictures, becomes a score of 0.5.
//!
//! A picture that is cut into several views has the value of its highest one, and so one view speaks for each picture in
//! the regression, too: the one that it makes the highest, of those that may. As that depends on the weights, they are
//! fitted again until the same views speak.

use ndarray::ArrayView2;

use super::logistic::Binary;

const STRENGTH: f64 = 0.1;
const ITERATIONS: usize = 100;
/// How often the weights are fitted, at most, until the same views speak for their pictures.
const ROUNDS: usize = 6;
/// Thresholds that are tried between the lowest and the highest score.
const THRESHOLDS: usize = 1000;
/// F1s this close are the same.
const EQUAL_F1: f64 = 1e-6;
/// Width of the middle half of a normal distribution, in deviations.
const NORMAL_MIDDLE_HALF: f64 = 1.349;
/// The logistic function of this multiple comes closest to the normal distribution.
const LOGISTIC_FOR_NORMAL: f64 = 1.702;
const LEAST_WIDTH: f64 = 1e-6;

/// What can score a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Distance to the nearest normal patch.
    Bank,
    /// Distance from what is normal at each place.
    Gaussian,
    /// What looks like a labelled defect.
    Patch,
    /// The picture as a whole.
    Image,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bank, Self::Gaussian, Self::Patch, Self::Image];
}

/// The scores that each part gave a view of a picture, by [`Part`] as a number.
pub(super) type PartScores = [f32; Part::ALL.len()];

/// What all parts said of a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scored {
    /// Of each view; at least one.
    pub(super) views: Vec<PartScores>,
    /// Whether a view may speak for the picture when weights are fitted: one of a defect's picture in which the mask shows
    /// nothing may not. At least one may.
    pub(super) may_speak: Vec<bool>,
}

/// `sigmoid(bias + sum of weight * score)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    /// What is looked at, and how much it weighs.
    pub(crate) weights: Vec<(Part, f32)>,
    /// Added to the sum.
    pub(crate) bias: f32,
}

impl Stack {
    /// Fits the weights of some parts to pictures; both classes must be there.
    pub(super) fn fit(parts: &[Part], pictures: &[&Scored], is_anomalous: &[bool]) -> Self {
        let mut stack = Self::even(parts, pictures, is_anomalous);
        let mut speakers = Vec::new();
        for _ in 0..ROUNDS {
            let speak: Vec<usize> = pictures.iter().map(|picture| stack.speaker(picture)).collect();
            if speak == speakers {
                break;
            }
            let rows: Vec<PartScores> =
                pictures.iter().zip(&speak).map(|(picture, &view)| picture.views[view]).collect();
            stack = Self::fit_rows(parts, &rows, is_anomalous);
            speakers = speak;
        }
        stack
    }

    /// All parts weigh the same, measured by the views of normal pictures: where fitting begins.
    fn even(parts: &[Part], pictures: &[&Scored], is_anomalous: &[bool]) -> Self {
        let views = pictures
            .iter()
            .zip(is_anomalous)
            .flat_map(|(picture, &odd)| picture.views.iter().map(move |view| (*view, odd)));
        let (rows, classes): (Vec<PartScores>, Vec<bool>) = views.unzip();
        let weight = |&part: &Part| (part, (1.0 / scale(part, &rows, &classes).1) as f32);
        Self { weights: parts.iter().map(weight).collect(), bias: 0.0 }
    }

    /// The view that speaks for a picture.
    fn speaker(&self, picture: &Scored) -> usize {
        let values = picture.views.iter().map(|view| self.value_of_view(view)).enumerate();
        let mut most = (0, f32::NEG_INFINITY);
        for (view, value) in values.filter(|&(view, _)| picture.may_speak[view]) {
            if value > most.1 {
                most = (view, value);
            }
        }
        most.0
    }

    fn fit_rows(parts: &[Part], scores: &[PartScores], is_anomalous: &[bool]) -> Self {
        let scales: Vec<(f64, f64)> = parts.iter().map(|&part| scale(part, scores, is_anomalous)).collect();
        let standardised = |scores: &PartScores| -> Vec<f32> {
            let value = |(&part, (mean, deviation)): (&Part, &(f64, f64))| {
                ((f64::from(scores[part as usize]) - mean) / deviation) as f32
            };
            parts.iter().zip(&scales).map(value).collect()
        };
        let rows: Vec<f32> = scores.iter().flat_map(standardised).collect();
        let rows = ArrayView2::from_shape((scores.len(), parts.len()), &rows).expect("a value for each part");
        let model = Binary::fit_balanced(rows, is_anomalous, STRENGTH, ITERATIONS);
        let mut bias = f64::from(model.bias);
        let mut weights = Vec::with_capacity(parts.len());
        for ((&part, (mean, deviation)), &weight) in parts.iter().zip(&scales).zip(&model.weights) {
            let weight = f64::from(weight) / deviation;
            bias -= weight * mean;
            weights.push((part, weight as f32));
        }
        Self { weights, bias: bias as f32 }
    }

    /// Moves the scores so that the best threshold on these pictures becomes 0.
    pub(super) fn calibrated(mut self, pictures: &[&Scored], is_anomalous: &[bool]) -> Self {
        let values: Vec<f64> = pictures.iter().map(|picture| f64::from(self.value(picture))).collect();
        self.bias -= best_threshold(&values, is_anomalous) as f32;
        self
    }

    /// Positive for anomalies: that of the highest view, as the detector has it.
    pub(super) fn value(&self, picture: &Scored) -> f32 {
        picture.views.iter().map(|view| self.value_of_view(view)).fold(f32::NEG_INFINITY, f32::max)
    }

    /// From 0 (normal) to 1 (anomalous), and 0.5 at the threshold.
    pub(super) fn score(&self, picture: &Scored) -> f64 {
        picture.views.iter().map(|view| self.score_of_view(view)).fold(0.0, f64::max)
    }

    fn value_of_view(&self, scores: &PartScores) -> f32 {
        self.bias + self.weights.iter().map(|&(part, weight)| weight * scores[part as usize]).sum::<f32>()
    }

    /// What the graph makes of a view.
    pub(super) fn score_of_view(&self, scores: &PartScores) -> f64 {
        1.0 / (1.0 + (-f64::from(self.value_of_view(scores))).exp())
    }

    /// Whether a part is looked at.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.weights.iter().any(|&(own, _)| own == part)
    }
}

/// Mean and deviation of a part's scores of normal pictures.
fn scale(part: Part, scores: &[PartScores], is_anomalous: &[bool]) -> (f64, f64) {
    let normal = || {
        scores.iter().zip(is_anomalous).filter(|(_, odd)| !**odd).map(|(scores, _)| f64::from(scores[part as usize]))
    };
    let count = normal().count().max(1) as f64;
    let mean = normal().sum::<f64>() / count;
    let variance = normal().map(|score| (score - mean).powi(2)).sum::<f64>() / count;
    // Normals that all score the same leave the scale to the anomalies.
    (mean, variance.sqrt().max(1e-3 * mean.abs()).max(1e-6))
}

/// The threshold at which the best F1 is to be expected of pictures like these; both classes must be there.
///
/// Held-out pictures are few, and what lies between two of them is chance. Each score therefore stands for all the scores
/// that such a picture could as well have had: a bell around it, as wide as Silverman's rule has it for the class. (Tiles, 30
/// normals and 10 of each defect, five draws: mean F1 0.870, and 0.859 by the scores as they are.)
pub(super) fn best_threshold(scores: &[f64], is_anomalous: &[bool]) -> f64 {
    let (normals, anomalies) = (Spread::of(scores, is_anomalous, false), Spread::of(scores, is_anomalous, true));
    let lowest = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let f1 = |step: usize| {
        let threshold = lowest + (highest - lowest) * step as f64 / THRESHOLDS as f64;
        let (found, wrong) = (anomalies.above(threshold), normals.above(threshold));
        (threshold, 2.0 * found / (found + wrong + anomalies.scores.len() as f64).max(f64::MIN_POSITIVE))
    };
    let tried: Vec<(f64, f64)> = (0..=THRESHOLDS).map(f1).collect();
    let most = tried.iter().map(|&(_, f1)| f1).fold(0.0, f64::max);
    // Between classes that lie far apart all thresholds are equal.
    let best: Vec<f64> =
        tried.iter().filter(|(_, f1)| *f1 >= most - EQUAL_F1).map(|&(threshold, _)| threshold).collect();
    best.get(best.len() / 2).copied().unwrap_or(0.0)
}

/// The scores of one class, each with a bell around it.
struct Spread {
    scores: Vec<f64>,
    width: f64,
}

impl Spread {
    fn of(scores: &[f64], is_anomalous: &[bool], class: bool) -> Self {
        let own = scores.iter().zip(is_anomalous).filter(|(_, odd)| **odd == class);
        let mut own: Vec<f64> = own.map(|(score, _)| *score).collect();
        own.sort_unstable_by(f64::total_cmp);
        let count = own.len().max(1) as f64;
        let mean = own.iter().sum::<f64>() / count;
        let deviation = (own.iter().map(|score| (score - mean).powi(2)).sum::<f64>() / count).sqrt();
        let quantile =
            |share: f64| own.get((own.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0.0);
        // A few far away must not blur the many.
        let middle_half = (quantile(0.75) - quantile(0.25)) / NORMAL_MIDDLE_HALF;
        let deviation = if middle_half > 0.0 { deviation.min(middle_half) } else { deviation };
        Self { scores: own, width: deviation.max(LEAST_WIDTH) * count.powf(-0.2) }
    }

    /// How many are to be expected from a threshold on. A bell's integral, as near as the logistic function comes.
    fn above(&self, threshold: f64) -> f64 {
        let share = |score: &f64| 1.0 / (1.0 + (LOGISTIC_FOR_NORMAL * (threshold - score) / self.width).exp());
        self.scores.iter().map(share).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_lie_between_the_classes_or_where_f1_is_best() {
        let table: [(&[f64], &[bool], std::ops::RangeInclusive<f64>); 5] = [
            (&[1.0, 2.0, 6.0, 7.0], &[false, false, true, true], 3.9..=4.1),
            (&[7.0, 1.0, 6.0, 2.0], &[true, false, true, false], 3.9..=4.1),
            // Normals that vary need more room than anomalies that do not.
            (&[1.0, 2.0, 3.0, 7.0, 7.1, 7.2], &[false, false, false, true, true, true], 5.5..=6.95),
            // One anomaly among the normals: catching it would cost two false alarms.
            (&[1.0, 1.1, 1.2, 1.3, 5.0, 6.0, 7.0], &[false, true, false, false, true, true, true], 1.4..=4.0),
            // Nothing tells them apart.
            (&[3.0, 3.0], &[false, true], 3.0..=3.0),
        ];
        for (scores, truth, expected) in table {
            let found = best_threshold(scores, truth);
            assert!(expected.contains(&found), "{scores:?}: {found}, not in {expected:?}");
        }
    }

    #[test]
    fn a_part_that_says_nothing_weighs_little_and_the_threshold_is_one_half() {
        let mut random = fastrand::Rng::with_seed(4);
        let truth: Vec<bool> = (0..60).map(|index| index % 3 == 0).collect();
        let mut view = |odd: bool| [random.f32() + f32::from(u8::from(odd)) * 3.0, 0.0, random.f32(), 0.0];
        let pictures: Vec<Scored> =
            truth.iter().map(|&odd| Scored { views: vec![view(odd)], may_speak: vec![true] }).collect();
        let pictures: Vec<&Scored> = pictures.iter().collect();
        let stack = Stack::fit(&[Part::Bank, Part::Patch], &pictures, &truth).calibrated(&pictures, &truth);
        assert!(stack.weights[0].1 > 4.0 * stack.weights[1].1.abs(), "{stack:?}");
        assert!(stack.has(Part::Patch) && !stack.has(Part::Image));
        for (picture, &odd) in pictures.iter().zip(&truth) {
            assert_eq!(stack.score(picture) >= 0.5, odd);
        }
    }

    #[test]
    fn the_view_with_the_defect_speaks_for_a_picture_of_many() {
        const VIEWS: usize = 8;
        let mut random = fastrand::Rng::with_seed(6);
        let truth: Vec<bool> = (0..40).map(|index| index % 2 == 0).collect();
        // One view of a defect's picture is higher by both parts; nobody says which. A third part is noise of any height.
        let mut picture = |odd: bool| {
            let defect = random.usize(..VIEWS);
            let rise = |view: usize| if odd && view == defect { 2.0 } else { 0.0 };
            let views =
                (0..VIEWS).map(|view| [random.f32() + rise(view), 0.0, random.f32() + rise(view), 9.0 * random.f32()]);
            Scored { views: views.collect(), may_speak: vec![true; VIEWS] }
        };
        let pictures: Vec<Scored> = truth.iter().map(|&odd| picture(odd)).collect();
        let pictures: Vec<&Scored> = pictures.iter().collect();
        let parts = [Part::Bank, Part::Patch, Part::Image];
        let stack = Stack::fit(&parts, &pictures, &truth).calibrated(&pictures, &truth);
        assert!(pictures.iter().zip(&truth).all(|(picture, &odd)| (stack.score(picture) >= 0.5) == odd), "{stack:?}");
        // Where masks say which view it is, no other one speaks.
        let mut masked = pictures[0].clone();
        let highest = stack.speaker(&masked);
        masked.may_speak = (0..VIEWS).map(|view| view != highest).collect();
        assert_ne!(stack.speaker(&masked), highest);
        assert_eq!(stack.score(&masked), stack.score(pictures[0]));
    }
}
