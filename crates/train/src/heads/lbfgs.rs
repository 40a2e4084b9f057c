//! Minimising a smooth convex function by L-BFGS (Nocedal and Wright, "Numerical Optimization", algorithm 7.5).

use std::collections::VecDeque;

/// Steps that shape the next direction.
const MEMORY: usize = 10;
/// Share of the promised decrease that a step must bring.
const SUFFICIENT_DECREASE: f64 = 1e-4;
/// Halvings of a step before the search gives up.
const HALVINGS: usize = 30;
/// A gradient this small against the point's length is the minimum.
const TOLERANCE: f64 = 1e-6;

/// A step and the change of the gradient over it.
struct Step {
    moved: Vec<f64>,
    gradient_change: Vec<f64>,
    inverse_curvature: f64,
}

/// The point at which `objective` is least, or the best after so many iterations. `objective` writes the gradient at
/// the point it is given and returns the value there.
pub(super) fn minimise(
    mut objective: impl FnMut(&[f64], &mut [f64]) -> f64,
    start: Vec<f64>,
    iterations: usize,
) -> Vec<f64> {
    let mut point = start;
    let mut gradient = vec![0.0; point.len()];
    let mut value = objective(&point, &mut gradient);
    let mut steps: VecDeque<Step> = VecDeque::with_capacity(MEMORY);
    let mut next_gradient = gradient.clone();
    for _ in 0..iterations {
        if length(&gradient) <= TOLERANCE * length(&point).max(1.0) {
            break;
        }
        let direction = direction(&gradient, &steps);
        let slope = dot(&direction, &gradient);
        // Without curvature to go by, the first step is as long as the gradient allows.
        let mut stride = if steps.is_empty() { 1.0_f64.min(1.0 / length(&gradient)) } else { 1.0 };
        let mut found = None;
        for _ in 0..HALVINGS {
            let next: Vec<f64> = point.iter().zip(&direction).map(|(place, way)| place + stride * way).collect();
            let next_value = objective(&next, &mut next_gradient);
            if next_value <= value + SUFFICIENT_DECREASE * stride * slope {
                found = Some((next, next_value));
                break;
            }
            stride /= 2.0;
        }
        let Some((next, next_value)) = found else { break };
        let moved: Vec<f64> = next.iter().zip(&point).map(|(to, from)| to - from).collect();
        let gradient_change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(to, from)| to - from).collect();
        let curvature = dot(&moved, &gradient_change);
        if curvature > f64::EPSILON * dot(&gradient_change, &gradient_change) {
            if steps.len() == MEMORY {
                steps.pop_front();
            }
            steps.push_back(Step { moved, gradient_change, inverse_curvature: 1.0 / curvature });
        }
        (point, value) = (next, next_value);
        gradient.copy_from_slice(&next_gradient);
    }
    point
}

/// Downhill, bent by the curvature that the last steps met.
fn direction(gradient: &[f64], steps: &VecDeque<Step>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let share = step.inverse_curvature * dot(&step.moved, &direction);
        add(&mut direction, -share, &step.gradient_change);
        shares.push(share);
    }
    if let Some(last) = steps.back() {
        let scale = 1.0 / (last.inverse_curvature * dot(&last.gradient_change, &last.gradient_change));
        direction.iter_mut().for_each(|way| *way *= scale);
    }
    for (step, share) in steps.iter().zip(shares.into_iter().rev()) {
        let correction = step.inverse_curvature * dot(&step.gradient_change, &direction);
        add(&mut direction, share - correction, &step.moved);
    }
    direction
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(one, other)| one * other).sum()
}

fn length(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}

fn add(target: &mut [f64], factor: f64, values: &[f64]) {
    target.iter_mut().zip(values).for_each(|(place, value)| *place += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_valley_is_followed_to_its_lowest_point() {
        let objective = |point: &[f64], gradient: &mut [f64]| {
            let (x, y) = (point[0] - 3.0, point[1] + 1.0);
            gradient.copy_from_slice(&[2.0 * x, 2000.0 * y]);
            x * x + 1000.0 * y * y
        };
        let lowest = minimise(objective, vec![0.0, 0.0], 50);
        assert!((lowest[0] - 3.0).abs() < 1e-4 && (lowest[1] + 1.0).abs() < 1e-4, "{lowest:?}");
    }
}
