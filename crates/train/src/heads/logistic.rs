//! Logistic regression for two or more classes, with the penalty and the meaning of `strength` that scikit-learn's `C`
//! has.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut1, Axis};

use super::lbfgs::minimise;

/// Rows to learn from: what is seen, its class and how much it counts.
pub(super) struct Lesson<'a> {
    /// One row a sample.
    pub(super) rows: ArrayView2<'a, f32>,
    /// The class of each row.
    pub(super) classes: &'a [usize],
    /// The weight of each row.
    pub(super) weights: &'a [f32],
}

/// One linear function a class; the class with the highest is the answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Logistic {
    /// `[classes, inputs]`
    pub(super) weights: Array2<f32>,
    /// One a class.
    pub(super) bias: Array1<f32>,
}

impl Logistic {
    /// Fits all classes at once; `strength` is the share of the data against the penalty on the weights.
    pub(super) fn fit(lesson: &Lesson<'_>, classes: usize, strength: f64, iterations: usize) -> Self {
        let inputs = lesson.rows.ncols();
        let split = |point: &[f64]| {
            let values: Vec<f32> = point.iter().map(|&value| value as f32).collect();
            let (weights, bias) = values.split_at(classes * inputs);
            let weights = Array2::from_shape_vec((classes, inputs), weights.to_vec());
            Self { weights: weights.expect("as many values as weights"), bias: Array1::from_vec(bias.to_vec()) }
        };
        let objective = |point: &[f64], gradient: &mut [f64]| {
            let model = split(point);
            let mut shares = model.probabilities(lesson.rows);
            let mut loss = 0.0;
            for ((mut row, &class), &weight) in shares.outer_iter_mut().zip(lesson.classes).zip(lesson.weights) {
                loss -= f64::from(weight) * f64::from(row[class].max(f32::MIN_POSITIVE)).ln();
                row[class] -= 1.0;
                row *= weight;
            }
            let slopes = shares.t().dot(&lesson.rows);
            let (of_weights, of_bias) = gradient.split_at_mut(classes * inputs);
            let weights = &point[..classes * inputs];
            for ((target, &slope), weight) in of_weights.iter_mut().zip(&slopes).zip(weights) {
                *target = strength * f64::from(slope) + weight;
            }
            for (target, column) in of_bias.iter_mut().zip(shares.axis_iter(Axis(1))) {
                *target = strength * column.iter().map(|&share| f64::from(share)).sum::<f64>();
            }
            strength * loss + 0.5 * weights.iter().map(|weight| weight * weight).sum::<f64>()
        };
        split(&minimise(objective, vec![0.0; classes * (inputs + 1)], iterations))
    }

    /// The probability of each class for each row.
    fn probabilities(&self, rows: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut values = rows.dot(&self.weights.t()) + &self.bias;
        for mut row in values.outer_iter_mut() {
            softmax(&mut row);
        }
        values
    }
}

/// A linear function that is positive for the second of two classes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Binary {
    /// One an input.
    pub(super) weights: Vec<f32>,
    /// Added to the product.
    pub(super) bias: f32,
}

impl Binary {
    /// Fits two classes that count the same, however many rows each has.
    pub(super) fn fit_balanced(
        rows: ArrayView2<'_, f32>,
        is_second: &[bool],
        strength: f64,
        iterations: usize,
    ) -> Self {
        let classes: Vec<usize> = is_second.iter().map(|&second| usize::from(second)).collect();
        let second = classes.iter().sum::<usize>();
        let counts = [classes.len() - second, second];
        let weight = |&class: &usize| classes.len() as f32 / (2.0 * counts[class].max(1) as f32);
        let weights: Vec<f32> = classes.iter().map(weight).collect();
        // Two functions share what one would carry alone, and so are penalised half as much.
        let lesson = Lesson { rows, classes: &classes, weights: &weights };
        let both = Logistic::fit(&lesson, 2, strength / 2.0, iterations);
        let weights = &both.weights.row(1) - &both.weights.row(0);
        Self { weights: weights.to_vec(), bias: both.bias[1] - both.bias[0] }
    }

    /// Positive for the second class.
    #[cfg(test)]
    fn value(&self, row: &[f32]) -> f32 {
        self.bias + self.weights.iter().zip(row).map(|(weight, value)| weight * value).sum::<f32>()
    }
}

/// From one value a class to probabilities, in place.
pub(super) fn softmax(values: &mut ArrayViewMut1<'_, f32>) {
    let highest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    values.mapv_inplace(|value| (value - highest).exp());
    let sum = values.sum();
    values.mapv_inplace(|value| value / sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_classes_in_a_row_are_told_apart() {
        let rows: Vec<f32> = (0..90).flat_map(|index| [(index % 3) as f32, (index % 7) as f32 * 0.1]).collect();
        let rows = ArrayView2::from_shape((90, 2), &rows).unwrap();
        let classes: Vec<usize> = (0..90).map(|index| index % 3).collect();
        let lesson = Lesson { rows, classes: &classes, weights: &[1.0; 90] };
        let model = Logistic::fit(&lesson, 3, 10.0, 100);
        for (row, &class) in model.probabilities(rows).outer_iter().zip(&classes) {
            assert!(row[class] > 0.6, "{row}");
        }
    }

    #[test]
    fn the_rare_class_counts_as_much_as_the_other() {
        // One in ten is high; between the two means lies the border.
        let high = |index: usize| index.is_multiple_of(10);
        let rows: Vec<f32> = (0..100).map(|index| if high(index) { 1.0 } else { -1.0 }).collect();
        let truth: Vec<bool> = (0..100).map(high).collect();
        let rows = ArrayView2::from_shape((100, 1), &rows).unwrap();
        let model = Binary::fit_balanced(rows, &truth, 0.1, 100);
        assert!(model.value(&[0.0]).abs() < 1e-3 && model.value(&[1.0]) > 0.5, "{model:?}");
    }

    #[test]
    fn a_class_that_nobody_saw_is_never_the_answer() {
        let rows = ArrayView2::from_shape((4, 1), &[0.0, 0.1, 1.0, 0.9]).unwrap();
        let lesson = Lesson { rows, classes: &[0, 0, 1, 1], weights: &[1.0; 4] };
        let model = Logistic::fit(&lesson, 3, 10.0, 200);
        assert!(model.probabilities(rows).column(2).iter().all(|&share| share < 0.05));
    }
}
