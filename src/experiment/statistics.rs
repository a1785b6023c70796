//! How arms are compared: what `tests/goldens/statistics.rs` holds to the numbers of scipy and statsmodels.
//!
//! A difference is always treatment less control, a p-value two-sided, an interval one of 95 %.
#![allow(clippy::cast_precision_loss, reason = "counts of readers and events are far below 2^52")]
pub mod many;
pub mod means;
pub mod proportions;
pub mod ranks;
pub mod sequential;

use statrs::distribution::{Continuous, ContinuousCDF, Normal, StudentsT};

/// What intervals leave out.
pub const ALPHA: f64 = 0.05;

/// The ends of a 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// As far on both sides.
    fn around(middle: f64, half: f64) -> Self {
        Self { low: middle - half, high: middle + half }
    }
}

/// A difference, where it may lie, and how surprising it would be if there were none.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// Treatment less control.
    pub difference: f64,
    /// Where the difference may lie.
    pub interval: Interval,
    /// Standard error of the difference.
    pub standard_error: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// A difference that is about normal.
pub fn normal(difference: f64, variance: f64) -> Comparison {
    let standard_error = variance.sqrt();
    Comparison {
        difference,
        interval: Interval::around(difference, z_of(1.0 - ALPHA / 2.0) * standard_error),
        standard_error,
        p: p_of_z(difference / standard_error),
    }
}

/// The chance of a standard normal number that is as far from 0 as this one; 1 for what is no number, as 0 / 0 is.
pub(super) fn p_of_z(z: f64) -> f64 {
    if z.is_nan() { 1.0 } else { (2.0 * Normal::standard().sf(z.abs())).min(1.0) }
}

/// The standard normal number that is not passed with this probability.
pub(super) fn z_of(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// The chance of a t that is as far from 0, and the t that 2.5 % pass.
fn student(t: f64, degrees: f64) -> Option<(f64, f64)> {
    let distribution = StudentsT::new(0.0, 1.0, degrees).ok()?;
    let p = if t.is_nan() { 1.0 } else { (2.0 * distribution.sf(t.abs())).min(1.0) };
    Some((p, passed_by(&distribution, ALPHA / 2.0)))
}

/// The t that is passed with this probability, below a half.
///
/// Newton's steps from the normal quantile, which is below it: the tail is convex, so they come from one side and never pass it.
/// The library's own quantile loses digits with many degrees: six are left of a million.
fn passed_by(distribution: &StudentsT, probability: f64) -> f64 {
    const STEPS_MAX: usize = 100;
    let mut t = z_of(1.0 - probability);
    for _ in 0..STEPS_MAX {
        let step = (distribution.sf(t) - probability) / distribution.pdf(t);
        t += step;
        if step.abs() <= f64::EPSILON * t {
            break;
        }
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_degrees_are_those_of_the_tables() {
        for (degrees, expected) in [(1.0, 12.706_204_736), (2.0, 4.302_652_730), (30.0, 2.042_272_456)] {
            let (_, t) = student(0.0, degrees).unwrap();
            assert!((t - expected).abs() < 1e-8, "{degrees}: {t}");
        }
    }

    #[test]
    fn no_difference_of_no_variance_is_no_surprise() {
        assert_eq!(normal(0.0, 0.0).p, 1.0);
        assert_eq!(normal(1.0, 0.0).p, 0.0);
    }
}
