//! Thresholds and their bounds against tables, against simulated lines whose truth is known, and as properties.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may fail by panicking")]

mod forty;

use forty::forty;
use linewarden_train::threshold::{
    Choice, Costs, Method, ThresholdError, Wish, choose, normals_needed, percent, upper_bound, what_if,
};
use proptest::prelude::*;

fn of_normals(target: f64, scores: &[f64]) -> Result<Choice, ThresholdError> {
    choose(Wish::FalseRejects(target), scores, &vec![false; scores.len()])
}

fn costs(miss: f64, reject: f64, defect_rate: f64) -> Costs {
    Costs { miss, reject, defect_rate }
}

/// Expected values: scipy 1.17, `beta.ppf(0.95, count + 1, of - count)`.
#[test]
fn bounds_are_clopper_and_pearson_s() {
    for (count, of, expected) in [
        (0, 1, 0.95),
        (0, 10, 0.258_865_550_893_052_2),
        (0, 60, 0.048_702_913_310_097_49),
        (1, 100, 0.046_559_811_453_538_935),
        (2, 100, 0.061_619_200_396_040_69),
        (3, 24, 0.292_273_196_507_989_33),
        (5, 16, 0.548_347_080_848_747_4),
        (15, 16, 0.996_799_302_289_811),
        (0, 597, 0.005_005_407_993_466_689),
        (0, 598, 0.004_997_058_694_246_506),
        (10, 1000, 0.016_903_175_120_562_504),
        (250, 5000, 0.055_368_119_640_891_014),
    ] {
        let bound = upper_bound(count, of);
        assert!((bound - expected).abs() < 1e-9, "{count} of {of}: {bound}");
    }
    assert_eq!((upper_bound(7, 7), upper_bound(0, 0)), (1.0, 1.0));
    assert_eq!((normals_needed(0.005), normals_needed(0.05), normals_needed(0.01)), (598, 59, 299));
}

#[test]
fn shares_are_told_with_two_digits_that_count() {
    for (share, told) in [
        (0.0487, "4.9 %"),
        (0.005, "0.5 %"),
        (0.000_123, "0.012 %"),
        (0.5, "50 %"),
        (1.0, "100 %"),
        (0.0, "0 %"),
        (0.2, "20 %"),
        (0.0998, "10 %"),
    ] {
        assert_eq!(percent(share), told);
    }
}

#[test]
fn sixty_normals_cannot_vouch_for_half_a_percent_and_say_so() {
    let scores: Vec<f64> = (0..60).map(|index| 0.05 + 0.004 * f64::from(index)).collect();
    let choice = of_normals(0.005, &scores).unwrap();
    assert_eq!((choice.method, choice.rejected.count, choice.normals_needed), (Method::Extrapolated, 0, Some(598)));
    assert!(choice.threshold > 0.286 && choice.threshold < 0.9, "{}", choice.threshold);
    let told = choice.sentences();
    assert_eq!(told[0], "60 held-out normals can only vouch for 4.9 %, not 0.5 %: collect about 600.");
    assert!(told[1].contains("extrapolates"), "{told:?}");
}

#[test]
fn where_training_held_out_a_sample_others_can_vouch_for_more() {
    let scores: Vec<f64> = (0..400).map(|index| 0.05 + 0.001 * f64::from(index)).collect();
    let strict = of_normals(0.005, &scores).unwrap();
    let expected = "training held out 400 of 2000 normal pictures: keep some 600 others back, and let `linewarden \
                    threshold` choose from them";
    assert_eq!(strict.held_out_advice(2000).as_deref(), Some(expected));
    assert_eq!(strict.held_out_advice(400), None, "all there are");
    assert_eq!(of_normals(0.01, &scores).unwrap().held_out_advice(2000), None, "400 vouch for 1 %");
}

#[test]
fn as_many_normals_are_rejected_as_the_pictures_can_vouch_for() {
    let scores: Vec<f64> = (0..100).map(|index| 0.05 + 0.004 * f64::from(index)).collect();
    // 1 of 100 vouches for 4.66 %, 2 of 100 for 6.16 %, 0 of 100 for 2.95 %.
    for (target, rejected) in [(0.05, 1), (0.0617, 2), (0.03, 0)] {
        let choice = of_normals(target, &scores).unwrap();
        assert_eq!((choice.method, choice.rejected.count), (Method::Counted, rejected), "{target}");
        assert!(choice.rejected.upper_bound <= target);
    }
    let choice = of_normals(0.05, &scores).unwrap();
    assert!(choice.threshold > scores[98] && choice.threshold < scores[99]);
    assert_eq!(
        choice.sentences(),
        [format!(
            "The threshold {:.4} rejects 1 of 100 held-out normals, which vouches for at most 4.7 % false rejects with \
             95 % confidence (5 % were allowed).",
            choice.threshold
        )]
    );
}

#[test]
fn equal_scores_are_rejected_together_or_not_at_all() {
    let mut scores = vec![0.1; 96];
    scores.extend([0.4, 0.4, 0.4, 0.6]);
    // Two might be rejected, but then a third would be too.
    let choice = of_normals(0.0617, &scores).unwrap();
    assert_eq!(choice.rejected.count, 1);
    assert!(choice.threshold > 0.4 && choice.threshold < 0.6);
    let choice = of_normals(0.05, &[0.2; 100]).unwrap();
    assert_eq!(choice.rejected.count, 0);
    assert!(choice.threshold > 0.2);
}

#[test]
fn a_missing_class_is_an_error_and_never_a_threshold() {
    assert_eq!(of_normals(0.05, &[0.1; 9]), Err(ThresholdError::FewNormals(9)));
    let anomalies_alone = choose(Wish::FalseRejects(0.05), &[0.9; 30], &[true; 30]);
    assert_eq!(anomalies_alone, Err(ThresholdError::FewNormals(0)));
    let wish = Wish::Costs(costs(10.0, 1.0, 0.01));
    let few = ThresholdError::FewOfAClass { normals: 30, anomalies: 0 };
    assert!(few.to_string().contains("without anomalies ask for a rate of false rejects"));
    assert_eq!(choose(wish, &[0.1; 30], &[false; 30]), Err(few));
    let few = ThresholdError::FewOfAClass { normals: 0, anomalies: 30 };
    assert_eq!(choose(wish, &[0.9; 30], &[true; 30]), Err(few));
    let same = choose(wish, &[0.5; 20], &[[false; 10], [true; 10]].concat());
    assert_eq!(same, Err(ThresholdError::OneScore));
}

#[test]
fn a_normal_that_scores_like_the_worst_anomaly_is_named_instead_of_a_threshold_of_one() {
    let mut scores = vec![0.1; 30];
    scores.push(1.0);
    let error = of_normals(0.001, &scores).unwrap_err();
    assert!(matches!(error, ThresholdError::OutOfReach { .. }), "{error}");
    assert!(error.to_string().starts_with("0.1 % false rejects would need a threshold that no score can reach"));
}

/// Expected values: every threshold between two scores tried in numpy.
#[test]
fn the_cheapest_threshold_depends_on_what_mistakes_cost() {
    let (scores, truths) = forty();
    for (wished, cost, threshold) in [
        // Two gaps cost the same; this one has more room.
        (costs(1.0, 1.0, 0.4), 0.1, 0.263_241_011_012_560_8),
        (costs(100.0, 1.0, 0.01), 0.165, 0.201_934_170_618_320_14),
        (costs(20.0, 1.0, 0.01), 0.128_75, 0.565_845_549_389_633_2),
    ] {
        let choice = choose(Wish::Costs(wished), &scores, &truths).unwrap();
        assert!((choice.threshold - threshold).abs() < 1e-9, "{wished:?}: {choice:?}");
        assert!((choice.cost_per_part.unwrap() - cost).abs() < 1e-9, "{wished:?}: {choice:?}");
    }
    let told = choose(Wish::Costs(costs(20.0, 1.0, 0.01)), &scores, &truths).unwrap().sentences();
    assert_eq!(
        told,
        [
            "The threshold 0.5658 is the cheapest, 0.1288 a part, when a miss costs 20, a false reject 1 and 1 % of the \
             parts are anomalous.",
            "It rejects 1 of 24 held-out normals: at most 18 % with 95 % confidence.",
            "It misses 7 of 16 held-out anomalies: at most 67 % with 95 % confidence.",
        ]
    );
}

#[test]
fn costs_that_make_inspection_pointless_are_told() {
    let (mut scores, mut truths) = forty();
    // A normal above every anomaly and an anomaly below every normal, so that every threshold is wrong both ways.
    scores.extend([0.95, 0.005]);
    truths.extend([false, true]);
    let told = |wished| choose(Wish::Costs(wished), &scores, &truths).unwrap_err().to_string();
    let pass = told(costs(1.0, 10.0, 0.001));
    assert!(pass.contains("a defect rate of 0.1 % it is cheapest to pass every part"), "{pass}");
    let reject = told(costs(10_000.0, 0.01, 0.5));
    assert!(reject.contains("cheapest to reject every part"), "{reject}");
}

#[test]
fn what_if_rows_cannot_be_bettered_in_both_respects() {
    let (scores, truths) = forty();
    let given = costs(20.0, 1.0, 0.01);
    let rows = what_if(&scores, &truths, 0.5, &[0.9], Some(&given), 12);
    assert!(rows.is_sorted_by(|one, other| one.threshold < other.threshold));
    assert_eq!(rows.iter().filter(|row| row.is_current).map(|row| row.threshold).collect::<Vec<_>>(), [0.5]);
    assert!(rows.iter().any(|row| row.threshold == 0.9));
    let row = rows.iter().find(|row| row.is_current).unwrap();
    assert_eq!((row.rejected.unwrap().count, row.missed.unwrap().count), (1, 7));
    assert!((row.cost_per_part.unwrap() - (0.99 / 24.0 + 0.2 * 7.0 / 16.0)).abs() < 1e-12);
    let undominated: Vec<_> = rows.iter().filter(|row| !row.is_current && row.threshold != 0.9).collect();
    let counts = |row: &linewarden_train::threshold::WhatIf| (row.rejected.unwrap().count, row.missed.unwrap().count);
    for pair in undominated.windows(2) {
        assert!(counts(pair[0]).0 > counts(pair[1]).0 && counts(pair[0]).1 < counts(pair[1]).1, "{pair:?}");
    }
    let first = counts(undominated[0]);
    assert_eq!(first, (4, 0), "the lowest misses nothing: 0.227, 0.47, 0.481 and 0.719 are rejected");

    let normals_alone = what_if(&forty().0[..24], &[false; 24], 0.5, &[], Some(&given), 12);
    assert!(normals_alone.iter().all(|row| row.missed.is_none() && row.cost_per_part.is_none()));
    assert_eq!(normals_alone.last().unwrap().rejected.unwrap().count, 0);
    assert_eq!(what_if(&[], &[], 0.5, &[], None, 12).len(), 1, "the model's own threshold is always told");
}

/// Uniform random numbers in (0, 1), the same everywhere.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// A normal deviate (Box and Muller).
    fn deviate(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[test]
fn a_counted_threshold_keeps_its_word_on_lines_whose_truth_is_known() {
    let mut random = Random(7);
    let lines = 1000;
    // Scores are uniform, so that a threshold truly rejects 1 - threshold.
    let broken = (0..lines).filter(|_| {
        let scores: Vec<f64> = (0..100).map(|_| random.uniform()).collect();
        let choice = of_normals(0.05, &scores).unwrap();
        assert_eq!(choice.method, Method::Counted);
        1.0 - choice.threshold > 0.05
    });
    // 5 % may be broken; the middle of the gap is a little kinder than its lower end.
    let broken = broken.count();
    assert!(broken <= 50, "{broken} of {lines}");
}

#[test]
fn an_extrapolated_threshold_comes_near_its_target_for_light_and_heavy_tails() {
    let logistic = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    type Tail = fn(&mut Random) -> f64;
    let light: Tail = |random| -2.2 + random.deviate();
    let heavy: Tail = |random| -2.2 - 0.6 * random.uniform().ln();
    for (name, tail) in [("normal", light), ("exponential", heavy)] {
        for pictures in [30, 60, 200] {
            let mut random = Random(11);
            let mut line: Vec<f64> = (0..200_000).map(|_| logistic(tail(&mut random))).collect();
            line.sort_by(f64::total_cmp);
            let mut rates: Vec<f64> = (0..200)
                .map(|_| {
                    let scores: Vec<f64> = (0..pictures).map(|_| logistic(tail(&mut random))).collect();
                    let choice = of_normals(0.005, &scores).unwrap();
                    assert_eq!(choice.method, Method::Extrapolated);
                    1.0 - line.partition_point(|&score| score < choice.threshold) as f64 / line.len() as f64
                })
                .collect();
            rates.sort_by(f64::total_cmp);
            let (median, mean) = (rates[100], rates.iter().sum::<f64>() / 200.0);
            assert!(median < 0.006, "{name}, {pictures}: median {median}, mean {mean}");
            assert!(median > 0.0001, "{name}, {pictures}: median {median}, mean {mean}");
            assert!(mean < 0.012, "{name}, {pictures}: median {median}, mean {mean}");
        }
    }
}

fn some_scores(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
    // A few levels, so that there are ties, and the ends, where scores saturate.
    prop::collection::vec(prop_oneof![0.001..0.95_f64, (0_u8..=20).prop_map(|level| f64::from(level) / 20.0)], count)
}

proptest! {
    #[test]
    fn no_threshold_is_zero_or_the_minimum(scores in some_scores(0..150), target in 0.0001..0.2_f64) {
        if let Ok(choice) = of_normals(target, &scores) {
            let median = { let mut sorted = scores.clone(); sorted.sort_by(f64::total_cmp); sorted[sorted.len() / 2] };
            prop_assert!(choice.threshold > 0.0 && choice.threshold < 1.0);
            prop_assert!(choice.threshold > median, "{} {}", choice.threshold, median);
            let rejected = scores.iter().filter(|&&score| score >= choice.threshold).count();
            prop_assert_eq!(rejected, choice.rejected.count);
            match choice.method {
                Method::Counted => prop_assert!(choice.rejected.upper_bound <= target),
                _ => prop_assert!(rejected == 0 && choice.rejected.upper_bound > target),
            }
        }
    }

    #[test]
    fn a_smaller_target_never_lowers_the_threshold(scores in some_scores(10..150), one in 0.0005..0.2_f64, other in 0.0005..0.2_f64) {
        let (strict, lax) = (one.min(other), one.max(other));
        if let (Ok(strict), Ok(lax)) = (of_normals(strict, &scores), of_normals(lax, &scores)) {
            prop_assert!(strict.threshold >= lax.threshold, "{strict:?} {lax:?}");
        }
    }

    #[test]
    fn nothing_is_cheaper_than_the_cheapest(
        normals in some_scores(5..40), anomalies in some_scores(5..40),
        miss in 0.1..100.0_f64, reject in 0.1..10.0_f64, defect_rate in 0.001..0.5_f64, other in 0.0..1.0_f64,
    ) {
        let scores = [normals.clone(), anomalies.clone()].concat();
        let truths = [vec![false; normals.len()], vec![true; anomalies.len()]].concat();
        let given = costs(miss, reject, defect_rate);
        if let Ok(choice) = choose(Wish::Costs(given), &scores, &truths) {
            let rows = what_if(&scores, &truths, choice.threshold, &[other, 0.0], Some(&given), 50);
            let least = rows.iter().filter_map(|row| row.cost_per_part).fold(f64::INFINITY, f64::min);
            prop_assert!(choice.cost_per_part.unwrap() <= least + 1e-9, "{choice:?} {least}");
        }
    }
}
