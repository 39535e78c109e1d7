//! Limited-memory BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) with backtracking to Armijo's condition.

use std::collections::VecDeque;

/// Steps whose curvature is remembered.
const MEMORY: usize = 8;
/// Armijo's constant, and how often a step is halved.
const DECREASE: f64 = 1e-4;
const HALVINGS: usize = 30;
/// Norm of the gradient at which it stops.
const TOLERANCE: f64 = 1e-6;

/// Minimises a convex function, which returns its value and writes its gradient; returns where.
pub(crate) fn minimise(mut function: impl FnMut(&[f64], &mut [f64]) -> f64, start: Vec<f64>, steps: usize) -> Vec<f64> {
    let mut at = start;
    let mut gradient = vec![0.0; at.len()];
    let mut value = function(&at, &mut gradient);
    let mut memory: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    for _ in 0..steps {
        if dot(&gradient, &gradient).sqrt() < TOLERANCE {
            break;
        }
        let direction = direction(&gradient, &memory);
        let slope = dot(&direction, &gradient);
        let mut length = if memory.is_empty() { 1.0 / dot(&gradient, &gradient).sqrt().max(1.0) } else { 1.0 };
        let mut next_gradient = vec![0.0; at.len()];
        let stepped = (0..HALVINGS).find_map(|_| {
            let next: Vec<f64> = at.iter().zip(&direction).map(|(x, d)| x + length * d).collect();
            let next_value = function(&next, &mut next_gradient);
            if next_value <= value + DECREASE * length * slope {
                return Some((next, next_value));
            }
            length /= 2.0;
            None
        });
        let Some((next, next_value)) = stepped else { break };
        let step: Vec<f64> = next.iter().zip(&at).map(|(new, old)| new - old).collect();
        let change: Vec<f64> = next_gradient.iter().zip(&gradient).map(|(new, old)| new - old).collect();
        if dot(&step, &change) > 1e-12 {
            memory.push_back((step, change));
            if memory.len() > MEMORY {
                memory.pop_front();
            }
        }
        (at, value, gradient) = (next, next_value, next_gradient);
    }
    at
}

/// The two-loop recursion: minus the inverse curvature times the gradient.
fn direction(gradient: &[f64], memory: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::with_capacity(memory.len());
    for (step, change) in memory.iter().rev() {
        let share = dot(step, &direction) / dot(step, change);
        add(&mut direction, -share, change);
        shares.push(share);
    }
    if let Some((step, change)) = memory.back() {
        let scale = dot(step, change) / dot(change, change);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((step, change), share) in memory.iter().zip(shares.into_iter().rev()) {
        let back = dot(change, &direction) / dot(step, change);
        add(&mut direction, share - back, step);
    }
    direction
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(x, y)| *x += factor * y);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_badly_scaled_bowl_is_descended_to_its_bottom() {
        let scales: Vec<f64> = (0..20).map(|at| 10.0_f64.powi(at % 5)).collect();
        let bowl = |x: &[f64], gradient: &mut [f64]| {
            let mut value = 0.0;
            for (at, scale) in scales.iter().enumerate() {
                let away = x[at] - at as f64;
                gradient[at] = scale * away;
                value += 0.5 * scale * away * away;
            }
            value
        };
        let bottom = minimise(bowl, vec![0.0; 20], 200);
        assert!(bottom.iter().enumerate().all(|(at, x)| (x - at as f64).abs() < 1e-5), "{bottom:?}");
    }
}
