//! Thresholds that somebody can sign: from a rate of false rejects that is allowed, or from what mistakes cost.
//!
//! Scores of pictures that the model was not trained on come in, with their truths; a [`Choice`] goes out, which says
//! the threshold and how far these pictures can vouch for it. All reckoning is done on the logit of the score, which is
//! a straight line over the logarithm of the distance from normal. A threshold is never read off a class that is not
//! there: then there is an error.

mod package;

use serde::{Deserialize, Serialize};

pub use package::{RewriteError, restore_threshold, rewrite_threshold};

/// How sure every bound is, one-sided.
pub const CONFIDENCE: f64 = 0.95;
/// The fewest normal pictures from which a threshold is chosen.
pub const LEAST_NORMALS: usize = 10;
/// The fewest pictures of either class against which costs are weighed.
pub const LEAST_OF_A_CLASS: usize = 5;
/// A threshold above the highest normal is at least this much above it, in logits: between the median normal and the
/// threshold of calibration there are 2.2.
const STEP: f64 = 0.05;
/// Scores nearer to 0 or 1 than this are all the same to a graph that computes in single precision.
const SATURATED: f64 = 1e-6;
/// Costs a part that differ by less are the same.
const ROUNDING: f64 = 1e-12;
/// The tail is fitted to a tenth of the pictures, but to no fewer than these.
const TAIL_PICTURES: usize = 10;

/// What the threshold shall do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wish {
    /// Reject at most this share of the normal parts.
    FalseRejects(f64),
    /// Cost least.
    Costs(Costs),
}

/// What mistakes cost, in any unit, and how often there is anything to find.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// Of an anomaly that passes.
    pub miss: f64,
    /// Of a normal part that is rejected.
    pub reject: f64,
    /// Share of anomalous parts on the line, which the data set does not say.
    pub defect_rate: f64,
}

/// How a threshold was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Counted: the pictures vouch for the rate.
    Counted,
    /// From the tail of the scores, beyond what the pictures can vouch for.
    Extrapolated,
    /// The cheapest.
    Costs,
}

/// A threshold, and what the pictures say of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// Scores from here on are anomalous.
    pub threshold: f64,
    /// How it was found.
    pub method: Method,
    /// The rate of false rejects that was asked for.
    pub target_false_reject: Option<f64>,
    /// The costs that were given.
    pub costs: Option<Costs>,
    /// What mistakes cost a part, in the costs' unit.
    pub cost_per_part: Option<f64>,
    /// Normals that lie at or above it.
    pub rejected: Rate,
    /// Anomalies that lie below it; nothing without anomalies.
    pub missed: Option<Rate>,
    /// Normal pictures that could vouch for the target, if none of them is rejected.
    pub normals_needed: Option<usize>,
}

/// How often something went wrong, and how often it may go wrong with other pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// Pictures with which it went wrong.
    pub count: usize,
    /// Of so many.
    pub of: usize,
    /// Their share.
    pub rate: f64,
    /// The true rate is below this with a confidence of 95 % (Clopper and Pearson, one-sided).
    pub upper_bound: f64,
}

/// One row of a what-if table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhatIf {
    /// Scores from here on would be anomalous.
    pub threshold: f64,
    /// Whether it is the model's own.
    pub is_current: bool,
    /// Normals that would be rejected; nothing without normals.
    pub rejected: Option<Rate>,
    /// Anomalies that would be missed; nothing without anomalies.
    pub missed: Option<Rate>,
    /// What mistakes would cost a part, where costs are given and both classes are there.
    pub cost_per_part: Option<f64>,
}

/// Why no threshold can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ThresholdError {
    /// Too few normals.
    #[error(
        "a threshold needs at least {LEAST_NORMALS} normal pictures that the model was not trained on, there are {0}"
    )]
    FewNormals(usize),
    /// Too few of one class.
    #[error(
        "weighing costs needs at least {LEAST_OF_A_CLASS} pictures of either class that the model was not trained on, \
         there are {normals} normal and {anomalies} anomalous ones; without anomalies ask for a rate of false rejects"
    )]
    FewOfAClass {
        /// Normals.
        normals: usize,
        /// Anomalies.
        anomalies: usize,
    },
    /// No threshold below 1 is high enough.
    #[error(
        "{} false rejects would need a threshold that no score can reach: the highest normal picture has {highest:.6}; \
         allow more, or look whether it is mislabelled", percent(*.target)
    )]
    OutOfReach {
        /// What was asked for.
        target: f64,
        /// Score of the highest normal.
        highest: f64,
    },
    /// All scores are one.
    #[error("all pictures have the same score, so that no threshold tells them apart")]
    OneScore,
    /// It is cheapest not to inspect.
    #[error(
        "with these costs and a defect rate of {} it is cheapest to {} every part ({without:.3} a part, against {with:.3} \
         with the best threshold): no threshold is set",
        percent(*.defect_rate), if *.rejects_all { "reject" } else { "pass" }
    )]
    Pointless {
        /// Whether everything is best rejected, or nothing.
        rejects_all: bool,
        /// Share of anomalous parts.
        defect_rate: f64,
        /// What that costs a part.
        without: f64,
        /// What the best threshold costs a part.
        with: f64,
    },
}

/// Whether so many pictures of either class are enough to choose from; asked before they are scored.
///
/// # Errors
/// When a class that the wish needs is missing or too small.
pub fn check_enough(wish: Wish, normals: usize, anomalies: usize) -> Result<(), ThresholdError> {
    match wish {
        Wish::FalseRejects(_) if normals < LEAST_NORMALS => Err(ThresholdError::FewNormals(normals)),
        Wish::Costs(_) if normals.min(anomalies) < LEAST_OF_A_CLASS => {
            Err(ThresholdError::FewOfAClass { normals, anomalies })
        }
        _ => Ok(()),
    }
}

/// Chooses a threshold from pictures that the model was not trained on: the scores, and which are anomalous.
///
/// # Errors
/// When a class that the wish needs is missing or too small, or no threshold fulfils it.
pub fn choose(wish: Wish, scores: &[f64], is_anomalous: &[bool]) -> Result<Choice, ThresholdError> {
    let pictures = Pictures::new(scores, is_anomalous);
    check_enough(wish, pictures.normals.len(), pictures.anomalies.len())?;
    match wish {
        Wish::FalseRejects(target) => pictures.for_false_rejects(target),
        Wish::Costs(costs) => pictures.for_costs(costs),
    }
}

/// What other thresholds would do: the model's own, those given, and of all others those than which none is better in
/// both respects, thinned evenly to `rows`. Lowest threshold first.
pub fn what_if(
    scores: &[f64],
    is_anomalous: &[bool],
    current: f64,
    others: &[f64],
    costs: Option<&Costs>,
    rows: usize,
) -> Vec<WhatIf> {
    let pictures = Pictures::new(scores, is_anomalous);
    let mut thresholds = thinned(pictures.undominated(), rows);
    thresholds.extend(others.iter().copied().chain([current]));
    thresholds.sort_by(f64::total_cmp);
    thresholds.dedup();
    let row = |threshold: f64| {
        let (rejected, missed) = (pictures.rejected(threshold), pictures.missed(threshold));
        let cost = |costs: &Costs| Some(costs.of(rejected?.rate, missed?.rate));
        let cost_per_part = costs.and_then(cost);
        WhatIf { threshold, is_current: threshold == current, rejected, missed, cost_per_part }
    };
    thresholds.into_iter().map(row).collect()
}

/// The least share that `count` of `of` refute with a confidence of 95 %: the upper end of Clopper and Pearson's
/// one-sided interval. 1 where nothing was counted.
pub fn upper_bound(count: usize, of: usize) -> f64 {
    if count >= of {
        return 1.0;
    }
    let (mut low, mut high) = (count as f64 / of as f64, 1.0);
    // The chance of so few falls as the share grows. 60 halvings leave nothing of the interval.
    for _ in 0..60 {
        let share = f64::midpoint(low, high);
        if chance_of_at_most(count, of, share) > 1.0 - CONFIDENCE { low = share } else { high = share }
    }
    f64::midpoint(low, high)
}

/// How many normals, none of them rejected, vouch for a rate of false rejects.
pub fn normals_needed(target: f64) -> usize {
    ((1.0 - CONFIDENCE).ln() / (-target).ln_1p()).ceil() as usize
}

/// A share in percent with two digits that count, such as `0.5 %`.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent <= 0.0 { 0 } else { (1.0 - percent.log10().floor()).clamp(0.0, 6.0) as usize };
    let text = format!("{percent:.digits$}");
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{short} %")
}

/// The chance of at most `count` of `of` when each has this chance.
fn chance_of_at_most(count: usize, of: usize, share: f64) -> f64 {
    let (ln_yes, ln_no) = (share.ln(), (-share).ln_1p());
    let mut ln_term = of as f64 * ln_no;
    let mut sum = ln_term.exp();
    for index in 0..count {
        ln_term += ((of - index) as f64 / (index + 1) as f64).ln() + ln_yes - ln_no;
        sum += ln_term.exp();
    }
    sum
}

impl Rate {
    /// `count` of `of`; nothing of nothing.
    pub fn new(count: usize, of: usize) -> Option<Self> {
        let rate = || Self { count, of, rate: count as f64 / of as f64, upper_bound: upper_bound(count, of) };
        (of > 0).then(rate)
    }
}

impl Costs {
    /// What mistakes cost a part at these rates.
    fn of(&self, false_rejects: f64, misses: f64) -> f64 {
        (1.0 - self.defect_rate) * self.reject * false_rejects + self.defect_rate * self.miss * misses
    }
}

impl Choice {
    /// What to do when training, which holds out a sample of many pictures, held out too few of `normals` to vouch for
    /// the target.
    pub fn held_out_advice(&self, normals: usize) -> Option<String> {
        let (of, needed) = (self.rejected.of, self.normals_needed?);
        (of < needed && of < normals).then(|| {
            format!(
                "training held out {of} of {normals} normal pictures: keep some {} others back, and let `linewarden \
                 threshold` choose from them",
                about(needed)
            )
        })
    }

    /// What somebody who signs the threshold must know, in sentences.
    pub fn sentences(&self) -> Vec<String> {
        let Rate { count, of, upper_bound, .. } = self.rejected;
        let threshold = self.threshold;
        let bound = percent(upper_bound);
        let mut said = Vec::new();
        match (self.method, self.target_false_reject, self.costs) {
            (Method::Extrapolated, Some(target), _) => {
                let needed = about(self.normals_needed.unwrap_or_else(|| normals_needed(target)));
                let target = percent(target);
                said.push(format!(
                    "{of} held-out normals can only vouch for {bound}, not {target}: collect about {needed}."
                ));
                said.push(format!(
                    "The threshold {threshold:.4} lies above all of them and extrapolates the tail of their scores to \
                     {target} false rejects: no picture was seen out there."
                ));
            }
            (_, Some(target), _) => said.push(format!(
                "The threshold {threshold:.4} rejects {count} of {of} held-out normals, which vouches for at most {bound} \
                 false rejects with 95 % confidence ({} were allowed).",
                percent(target)
            )),
            (_, _, Some(Costs { miss, reject, defect_rate })) => {
                let cost = self.cost_per_part.unwrap_or_default();
                said.push(format!(
                    "The threshold {threshold:.4} is the cheapest, {cost:.4} a part, when a miss costs {miss}, a false \
                     reject {reject} and {} of the parts are anomalous.",
                    percent(defect_rate)
                ));
                said.push(format!("It rejects {count} of {of} held-out normals: at most {bound} with 95 % confidence."));
            }
            (_, None, None) => {}
        }
        if let Some(Rate { count, of, upper_bound, .. }) = self.missed {
            let bound = percent(upper_bound);
            said.push(format!("It misses {count} of {of} held-out anomalies: at most {bound} with 95 % confidence."));
        }
        said
    }
}

/// Two digits that count, upwards.
fn about(number: usize) -> usize {
    let step = 10_usize.pow(number.max(1).ilog10().saturating_sub(1));
    number.div_ceil(step) * step
}

/// The scores of each class, sorted.
struct Pictures {
    normals: Vec<f64>,
    anomalies: Vec<f64>,
}

impl Pictures {
    fn new(scores: &[f64], is_anomalous: &[bool]) -> Self {
        let of = |class: bool| {
            let pairs = scores.iter().zip(is_anomalous).filter(|&(_, &truth)| truth == class);
            let mut scores: Vec<f64> = pairs.map(|(&score, _)| score).collect();
            scores.sort_by(f64::total_cmp);
            scores
        };
        Self { normals: of(false), anomalies: of(true) }
    }

    fn rejected(&self, threshold: f64) -> Option<Rate> {
        let below = self.normals.partition_point(|&normal| normal < threshold);
        Rate::new(self.normals.len() - below, self.normals.len())
    }

    fn missed(&self, threshold: f64) -> Option<Rate> {
        Rate::new(self.anomalies.partition_point(|&anomaly| anomaly < threshold), self.anomalies.len())
    }

    fn for_false_rejects(&self, target: f64) -> Result<Choice, ThresholdError> {
        let normals: Vec<f64> = self.normals.iter().map(|&normal| logit(normal)).collect();
        let count = normals.len();
        // How many may be rejected so that the pictures still vouch for the target: the bound grows with the number.
        let vouched = first_that(count, |rejected| upper_bound(rejected, count) > target).checked_sub(1);
        let above_all = normals[count - 1] + STEP;
        let threshold = match vouched {
            Some(rejected) => above(&normals, count - rejected).unwrap_or(above_all),
            None => above_all.max(tail(&normals, target)),
        };
        if threshold > logit(1.0) {
            return Err(ThresholdError::OutOfReach { target, highest: score(normals[count - 1]) });
        }
        let method = if vouched.is_some() { Method::Counted } else { Method::Extrapolated };
        let threshold = score(threshold);
        let rejected = self.rejected(threshold).ok_or(ThresholdError::FewNormals(0))?;
        Ok(Choice {
            threshold,
            method,
            target_false_reject: Some(target),
            costs: None,
            cost_per_part: None,
            rejected,
            missed: self.missed(threshold),
            normals_needed: Some(normals_needed(target)),
        })
    }

    fn for_costs(&self, costs: Costs) -> Result<Choice, ThresholdError> {
        let mut best: Option<(f64, f64, f64)> = None;
        for (low, high) in self.gaps() {
            let threshold = score(f64::midpoint(low, high));
            let (Some(rejected), Some(missed)) = (self.rejected(threshold), self.missed(threshold)) else { continue };
            let cost = costs.of(rejected.rate, missed.rate);
            // Of equally cheap thresholds, but for rounding, the one with most room around it.
            let is_better = |&(least, room, _): &(f64, f64, f64)| {
                let difference = cost - least;
                difference < -ROUNDING || (difference < ROUNDING && high - low > room)
            };
            if best.as_ref().is_none_or(is_better) {
                best = Some((cost, high - low, threshold));
            }
        }
        let (cost, _, threshold) = best.ok_or(ThresholdError::OneScore)?;
        for (rejects_all, without) in [(true, costs.of(1.0, 0.0)), (false, costs.of(0.0, 1.0))] {
            if without < cost - ROUNDING {
                let defect_rate = costs.defect_rate;
                return Err(ThresholdError::Pointless { rejects_all, defect_rate, without, with: cost });
            }
        }
        Ok(Choice {
            threshold,
            method: Method::Costs,
            target_false_reject: None,
            costs: Some(costs),
            cost_per_part: Some(cost),
            rejected: self.rejected(threshold).ok_or(ThresholdError::OneScore)?,
            missed: self.missed(threshold),
            normals_needed: None,
        })
    }

    /// Neighbouring logits that differ, lowest first.
    fn gaps(&self) -> impl Iterator<Item = (f64, f64)> + use<> {
        let mut all: Vec<f64> = self.normals.iter().chain(&self.anomalies).map(|&score| logit(score)).collect();
        all.sort_by(f64::total_cmp);
        all.dedup();
        let pairs: Vec<(f64, f64)> = all.windows(2).map(|pair| (pair[0], pair[1])).collect();
        pairs.into_iter()
    }

    /// Thresholds than which none has both fewer rejects and fewer misses. Without anomalies: those that reject few.
    fn undominated(&self) -> Vec<f64> {
        let holds = |class: &[f64], wanted: f64| class.binary_search_by(|&of| logit(of).total_cmp(&wanted)).is_ok();
        let middles = |(low, high): (f64, f64)| score(f64::midpoint(low, high));
        if self.anomalies.is_empty() {
            let highest = self.normals.len().saturating_sub(self.normals.len() / 10 + 2);
            let tail = Self { normals: self.normals[highest..].to_vec(), anomalies: Vec::new() };
            let above_all = self.normals.last().map(|&highest| score(logit(highest) + STEP));
            return tail.gaps().map(middles).chain(above_all).collect();
        }
        let is_undominated = |&(low, high): &(f64, f64)| holds(&self.normals, low) && holds(&self.anomalies, high);
        self.gaps().filter(is_undominated).map(middles).collect()
    }
}

/// The least number below `count` of which the condition, once true always true, holds; else `count`.
fn first_that(count: usize, condition: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = usize::midpoint(low, high);
        if condition(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

/// A threshold that the first `kept` of the sorted values stay below: in the middle of the next gap, if there is one.
fn above(sorted: &[f64], kept: usize) -> Option<f64> {
    let highest_kept = *sorted.get(kept.checked_sub(1)?)?;
    let next = sorted[kept..].iter().find(|&&value| value > highest_kept)?;
    Some(f64::midpoint(highest_kept, *next))
}

/// Where a tail of this share begins when the highest values keep falling off as they do: an exponential tail of the
/// logits (of the distances: a Pareto tail, as Hill and Weissman extrapolate it).
fn tail(sorted: &[f64], share: f64) -> f64 {
    let count = sorted.len();
    let highest = (count / 10).max(TAIL_PICTURES).min(count / 2).max(1);
    let start = sorted[count - highest - 1];
    let mean_excess = sorted[count - highest..].iter().map(|value| value - start).sum::<f64>() / highest as f64;
    start + mean_excess * (highest as f64 / count as f64 / share).ln().max(0.0)
}

/// At most `rows` of the values, the first and the last among them.
fn thinned(values: Vec<f64>, rows: usize) -> Vec<f64> {
    if values.len() <= rows {
        return values;
    }
    (0..rows).map(|row| values[row * (values.len() - 1) / (rows - 1).max(1)]).collect()
}

fn logit(score: f64) -> f64 {
    let inside = score.clamp(SATURATED, 1.0 - SATURATED);
    (inside / (1.0 - inside)).ln()
}

fn score(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}
