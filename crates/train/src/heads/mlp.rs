//! A network with one hidden layer, fitted by Adam (Kingma and Ba, 2015) in small batches.

use ndarray::{Array1, Array2, ArrayView2, Axis, Zip};

use super::logistic::softmax;

/// Units of the hidden layer.
pub(super) const HIDDEN: usize = 64;
const STEPS: usize = 3000;
const BATCH: usize = 256;
/// At the start; it falls to nothing along half a cosine.
const LEARNING_RATE: f64 = 4e-3;
/// Weights shrink by this share of the learning rate in each step.
const DECAY: f32 = 1.0;
const FIRST_MOMENT: f32 = 0.9;
const SECOND_MOMENT: f32 = 0.999;

/// `outer * relu(inner * row + inner_bias) + outer_bias`, one value a class.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mlp {
    /// `[HIDDEN, inputs]`
    pub(super) inner: Array2<f32>,
    pub(super) inner_bias: Array1<f32>,
    /// `[classes, HIDDEN]`
    pub(super) outer: Array2<f32>,
    pub(super) outer_bias: Array1<f32>,
}

impl Mlp {
    /// Fits all classes at once; `shares` says how far each row belongs to each class. The same rows and seed give the
    /// same network.
    pub(super) fn fit(rows: ArrayView2<'_, f32>, shares: ArrayView2<'_, f32>, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed_001b);
        let mut network = Self::start(rows.ncols(), shares.ncols(), &mut random);
        let mut moments = [
            Moments::new(network.inner.raw_dim()),
            Moments::new(network.inner_bias.view().insert_axis(Axis(0)).raw_dim()),
            Moments::new(network.outer.raw_dim()),
            Moments::new(network.outer_bias.view().insert_axis(Axis(0)).raw_dim()),
        ];
        let mut order: Vec<usize> = (0..rows.nrows()).collect();
        let mut next = order.len();
        for step in 1..=STEPS {
            if next >= order.len() {
                random.shuffle(&mut order);
                next = 0;
            }
            let batch = &order[next..(next + BATCH).min(order.len())];
            next += batch.len();
            let gradients = network.gradients(rows.select(Axis(0), batch), &shares.select(Axis(0), batch));
            let progress = step as f64 / STEPS as f64;
            let rate = LEARNING_RATE * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
            network.step(&gradients, &mut moments, rate as f32, step);
        }
        network
    }

    /// As He et al. (2015) begin: the values keep their spread through the layers.
    fn start(inputs: usize, classes: usize, random: &mut fastrand::Rng) -> Self {
        let mut layer = |outputs: usize, inputs: usize, gain: f32| {
            let spread = (3.0 * gain / inputs.max(1) as f32).sqrt();
            Array2::from_shape_simple_fn((outputs, inputs), || (2.0 * random.f32() - 1.0) * spread)
        };
        Self {
            inner: layer(HIDDEN, inputs, 2.0),
            inner_bias: Array1::zeros(HIDDEN),
            outer: layer(classes, HIDDEN, 1.0),
            outer_bias: Array1::zeros(classes),
        }
    }

    fn gradients(&self, rows: Array2<f32>, shares: &Array2<f32>) -> Self {
        let before = rows.dot(&self.inner.t()) + &self.inner_bias;
        let hidden = before.mapv(|value| value.max(0.0));
        let mut errors = hidden.dot(&self.outer.t()) + &self.outer_bias;
        for mut row in errors.outer_iter_mut() {
            softmax(&mut row);
        }
        errors -= shares;
        errors /= rows.nrows() as f32;
        let mut hidden_errors = errors.dot(&self.outer);
        Zip::from(&mut hidden_errors).and(&before).for_each(|error, &value| {
            if value <= 0.0 {
                *error = 0.0;
            }
        });
        Self {
            inner: hidden_errors.t().dot(&rows),
            inner_bias: hidden_errors.sum_axis(Axis(0)),
            outer: errors.t().dot(&hidden),
            outer_bias: errors.sum_axis(Axis(0)),
        }
    }

    fn step(&mut self, gradients: &Self, moments: &mut [Moments; 4], rate: f32, step: usize) {
        let [inner, inner_bias, outer, outer_bias] = moments;
        inner.step(&mut self.inner, &gradients.inner, rate, DECAY, step);
        outer.step(&mut self.outer, &gradients.outer, rate, DECAY, step);
        inner_bias.step_bias(&mut self.inner_bias, &gradients.inner_bias, rate, step);
        outer_bias.step_bias(&mut self.outer_bias, &gradients.outer_bias, rate, step);
    }
}

/// Adam's running means of a gradient and of its square.
struct Moments {
    mean: Array2<f32>,
    square: Array2<f32>,
}

impl Moments {
    fn new(shape: ndarray::Ix2) -> Self {
        Self { mean: Array2::zeros(shape), square: Array2::zeros(shape) }
    }

    fn step(&mut self, values: &mut Array2<f32>, gradient: &Array2<f32>, rate: f32, decay: f32, step: usize) {
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let mean_gain = 1.0 / (1.0 - FIRST_MOMENT.powi(exponent));
        let square_gain = 1.0 / (1.0 - SECOND_MOMENT.powi(exponent));
        Zip::from(values).and(gradient).and(&mut self.mean).and(&mut self.square).for_each(
            |value, &slope, mean, square| {
                *mean = FIRST_MOMENT * *mean + (1.0 - FIRST_MOMENT) * slope;
                *square = SECOND_MOMENT * *square + (1.0 - SECOND_MOMENT) * slope * slope;
                let way = *mean * mean_gain / ((*square * square_gain).sqrt() + 1e-8);
                *value -= rate * (way + decay * *value);
            },
        );
    }

    fn step_bias(&mut self, values: &mut Array1<f32>, gradient: &Array1<f32>, rate: f32, step: usize) {
        let mut matrix = values.clone().insert_axis(Axis(0));
        self.step(&mut matrix, &gradient.clone().insert_axis(Axis(0)), rate, 0.0, step);
        values.assign(&matrix.row(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring around a disc: no line tells them apart.
    fn ring() -> (Vec<f32>, Vec<usize>) {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut rows, mut classes) = (Vec::new(), Vec::new());
        for index in 0..2000 {
            let angle = random.f32() * std::f32::consts::TAU;
            let radius = if index % 2 == 0 { 0.8 * random.f32() } else { 1.4 + 0.4 * random.f32() };
            rows.extend([radius * angle.cos(), radius * angle.sin()]);
            classes.push(index % 2);
        }
        (rows, classes)
    }

    #[test]
    fn a_ring_is_told_from_the_disc_within_it() {
        let (rows, classes) = ring();
        let rows = ArrayView2::from_shape((2000, 2), &rows).unwrap();
        let shares = Array2::from_shape_fn((2000, 2), |(row, class)| f32::from(u8::from(classes[row] == class)));
        let network = Mlp::fit(rows, shares.view(), 1);
        assert_eq!(network, Mlp::fit(rows, shares.view(), 1));
        let hidden = (rows.dot(&network.inner.t()) + &network.inner_bias).mapv(|value| value.max(0.0));
        let values = hidden.dot(&network.outer.t()) + &network.outer_bias;
        let right =
            values.outer_iter().zip(&classes).filter(|(row, class)| (row[1] > row[0]) == (**class == 1)).count();
        assert!(right > 1950, "{right} of 2000");
    }
}
