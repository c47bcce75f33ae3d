//! Finds the lowest point of a smooth convex function: L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4) with steps halved
//! until they lead down.
//!
//! There are libraries for this; those for logistic regression pull to nothing but zero, and one that minimises any function brings thirty
//! packages along.

use std::collections::VecDeque;

/// Steps that are remembered.
const MEMORY: usize = 10;
const MOST_STEPS: usize = 300;
/// A step that lowers the value by less than this share of it is the last.
const ENOUGH: f64 = 1e-7;
/// The share of the expected descent with which a step is content (Armijo's rule).
const CONTENT: f64 = 1e-4;
const MOST_HALVINGS: usize = 40;

/// A function with its slope.
pub trait Slope {
    /// The value at a point; `slope` is written over.
    fn at(&self, point: &[f64], slope: &mut [f64]) -> f64;
}

/// A step: what changed of the point, and of the slope, and their product.
struct Step {
    moved: Vec<f64>,
    bent: Vec<f64>,
    product: f64,
}

/// The lowest point that is found from `point` on.
pub fn least(function: &impl Slope, mut point: Vec<f64>) -> Vec<f64> {
    let mut slope = vec![0.0; point.len()];
    let mut value = function.at(&point, &mut slope);
    let mut steps: VecDeque<Step> = VecDeque::new();
    for _ in 0..MOST_STEPS {
        let mut direction = downhill(&steps, &slope);
        let mut descent = dot(&direction, &slope);
        if descent >= 0.0 {
            steps.clear();
            direction = slope.iter().map(|slope| -slope).collect();
            descent = -dot(&slope, &slope);
        }
        // The first step has no experience of how far to go.
        let mut length = if steps.is_empty() {
            1.0 / dot(&slope, &slope).sqrt().max(1.0)
        } else {
            1.0
        };
        let mut next = None;
        for _ in 0..MOST_HALVINGS {
            let other: Vec<f64> = point.iter().zip(&direction).map(|(at, by)| at + length * by).collect();
            let mut other_slope = vec![0.0; point.len()];
            let other_value = function.at(&other, &mut other_slope);
            if other_value <= value + CONTENT * length * descent {
                next = Some((other, other_slope, other_value));
                break;
            }
            length /= 2.0;
        }
        let Some((other, other_slope, other_value)) = next else {
            return point;
        };
        let moved = difference(&other, &point);
        let bent = difference(&other_slope, &slope);
        let product = dot(&moved, &bent);
        let gained = value - other_value;
        (point, slope, value) = (other, other_slope, other_value);
        if product > 0.0 {
            steps.push_back(Step { moved, bent, product });
            if steps.len() > MEMORY {
                steps.pop_front();
            }
        }
        if gained < ENOUGH * value.abs() {
            break;
        }
    }
    point
}

/// The direction that the steps so far advise.
fn downhill(steps: &VecDeque<Step>, slope: &[f64]) -> Vec<f64> {
    let mut direction: Vec<f64> = slope.iter().map(|slope| -slope).collect();
    let mut shares = Vec::with_capacity(steps.len());
    for step in steps.iter().rev() {
        let share = dot(&step.moved, &direction) / step.product;
        add(&mut direction, -share, &step.bent);
        shares.push(share);
    }
    if let Some(last) = steps.back() {
        let scale = last.product / dot(&last.bent, &last.bent);
        direction.iter_mut().for_each(|by| *by *= scale);
    }
    for (step, share) in steps.iter().zip(shares.iter().rev()) {
        let back = dot(&step.bent, &direction) / step.product;
        add(&mut direction, share - back, &step.moved);
    }
    direction
}

fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| one * other).sum()
}

fn difference(one: &[f64], other: &[f64]) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| one - other).collect()
}

fn add(to: &mut [f64], times: f64, what: &[f64]) {
    to.iter_mut().zip(what).for_each(|(to, what)| *to += times * what);
}
