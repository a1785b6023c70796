//! Means and ratios of readers.
use super::{Comparison, Interval, student};

/// Number, mean and variance (of a sample: over n - 1) of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moments {
    /// How many.
    pub n: usize,
    /// Their mean; 0 of none.
    pub mean: f64,
    /// Their variance; 0 of one.
    pub variance: f64,
}

impl Moments {
    /// Of these values.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / (n.max(1) as f64);
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Self { n, mean, variance: squares / (n.saturating_sub(1).max(1) as f64) }
    }

    fn variance_of_mean(self) -> f64 {
        self.variance / self.n as f64
    }
}

/// A comparison of means by Student's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TTest {
    /// The statistic.
    pub t: f64,
    /// Degrees of freedom.
    pub degrees: f64,
    /// What it says.
    pub comparison: Comparison,
}

/// Welch's t-test of two means, whose variances may differ; none with fewer than two values on a side, or without any variance.
pub fn welch(control: Moments, treatment: Moments) -> Option<TTest> {
    let (of_control, of_treatment) = (control.variance_of_mean(), treatment.variance_of_mean());
    let variance = of_control + of_treatment;
    if control.n < 2 || treatment.n < 2 || variance <= 0.0 {
        return None;
    }
    let spread = |part: f64, n: usize| part.powi(2) / (n - 1) as f64;
    let degrees = variance.powi(2) / (spread(of_control, control.n) + spread(of_treatment, treatment.n));
    t_test(treatment.mean - control.mean, variance, degrees)
}

/// Student's t-test of the mean difference of pairs; none with fewer than two, or if all differ by the same.
pub fn paired(control: &[f64], treatment: &[f64]) -> Option<TTest> {
    let differences: Vec<f64> = treatment.iter().zip(control).map(|(after, before)| after - before).collect();
    let moments = Moments::of(&differences);
    if moments.n < 2 || moments.variance <= 0.0 {
        return None;
    }
    t_test(moments.mean, moments.variance_of_mean(), (moments.n - 1) as f64)
}

fn t_test(difference: f64, variance: f64, degrees: f64) -> Option<TTest> {
    let standard_error = variance.sqrt();
    let t = difference / standard_error;
    let (p, t_of_interval) = student(t, degrees)?;
    let interval = Interval::around(difference, t_of_interval * standard_error);
    Some(TTest { t, degrees, comparison: Comparison { difference, interval, standard_error, p } })
}

/// A ratio of sums over readers, such as clicks per answer, and its variance: readers are independent, their answers are not.
///
/// Delta method. Source: Deng, Knoblich, Lu, "Applying the Delta Method in Metric Analytics", KDD 2018. None without a second reader
/// or with nothing to divide by.
pub fn ratio(parts: &[f64], wholes: &[f64]) -> Option<(f64, f64)> {
    let (part, whole) = (Moments::of(parts), Moments::of(wholes));
    if part.n < 2 || part.n != whole.n || whole.mean == 0.0 {
        return None;
    }
    let ratio = part.mean / whole.mean;
    let variance = part.variance - 2.0 * ratio * covariance(parts, wholes) + ratio.powi(2) * whole.variance;
    Some((ratio, variance / (whole.mean.powi(2) * part.n as f64)))
}

/// Values less what an earlier measurement of the same readers foretells of them: the same mean, less variance.
///
/// Source: CUPED, Deng, Xu, Kohavi, Walker, WSDM 2013. `theta` is the slope of the values on the earlier ones; all arms must share
/// one, and `mean_before` too.
pub fn cuped(before: &[f64], values: &[f64], theta: f64, mean_before: f64) -> Vec<f64> {
    before.iter().zip(values).map(|(before, value)| value - theta * (before - mean_before)).collect()
}

/// The slope that leaves the least variance; none if the earlier values are all the same.
pub fn theta(before: &[f64], values: &[f64]) -> Option<f64> {
    let variance = Moments::of(before).variance;
    (variance > 0.0).then(|| covariance(before, values) / variance)
}

/// Covariance of a sample: over n - 1.
fn covariance(one: &[f64], other: &[f64]) -> f64 {
    let (mean_one, mean_other) = (Moments::of(one).mean, Moments::of(other).mean);
    let products = one.iter().zip(other).map(|(one, other)| (one - mean_one) * (other - mean_other));
    products.sum::<f64>() / one.len().saturating_sub(1).max(1) as f64
}

/// Differences of the means of resamples: positions of control's and of treatment's values, drawn with replacement.
pub fn resampled(
    control: &[f64],
    treatment: &[f64],
    resamples: impl Iterator<Item = (Vec<usize>, Vec<usize>)>,
) -> Vec<f64> {
    let mean =
        |values: &[f64], idxs: &[usize]| idxs.iter().map(|&idx| values[idx]).sum::<f64>() / idxs.len() as f64;
    resamples
        .map(|(of_control, of_treatment)| mean(treatment, &of_treatment) - mean(control, &of_control))
        .collect()
}

/// The percentile interval of resampled differences, which lie between neighbours where no resample is; none of none.
pub fn percentile_interval(mut differences: Vec<f64>) -> Option<Interval> {
    differences.sort_by(f64::total_cmp);
    let last = differences.len().checked_sub(1)?;
    let at = |share: f64| {
        let place = share * last as f64;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a position within the list"
        )]
        let below = place as usize;
        let above = (below + 1).min(last);
        differences[below] + (place - below as f64) * (differences[above] - differences[below])
    };
    Some(Interval { low: at(super::ALPHA / 2.0), high: at(1.0 - super::ALPHA / 2.0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::statistics::{p_of_z, z_of};

    #[test]
    fn too_few_values_or_none_that_vary_are_not_compared() {
        let of = |values: &[f64]| Moments::of(values);
        assert!(welch(of(&[1.0]), of(&[1.0, 2.0])).is_none());
        assert!(welch(of(&[1.0, 1.0]), of(&[2.0, 2.0])).is_none());
        assert!(welch(of(&[1.0, 1.0]), of(&[2.0, 3.0])).is_some());
        assert!(paired(&[1.0, 2.0], &[2.0, 3.0]).is_none());
        assert!(ratio(&[1.0, 2.0], &[0.0, 0.0]).is_none());
        assert!(theta(&[1.0, 1.0], &[1.0, 2.0]).is_none());
        assert!(percentile_interval(Vec::new()).is_none());
    }

    /// With many readers Student's distribution is the normal one: the difference of two arms is about as surprising as
    /// its number of standard errors says, and the interval has 1.96 of them on both sides.
    #[test]
    fn millions_of_readers_are_compared_as_exactly_as_dozens() {
        for n in [10_000, 100_000, 1_000_000, 10_000_000] {
            for standard_errors in [0.5, 1.96, 4.0, 8.0] {
                let of = |mean| Moments { n, mean, variance: 0.5 * n as f64 };
                let test = welch(of(0.0), of(standard_errors)).unwrap();
                let Comparison { interval, p, .. } = test.comparison;
                // The first terms of the expansions by 1 / degrees, and the size of the second.
                let (z, degrees) = (standard_errors, test.degrees);
                let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let expected = p_of_z(z) + density * (z.powi(3) + z) / (2.0 * degrees);
                let tolerance = z.powi(8) / (16.0 * degrees.powi(2)) + if p < 1e-12 { 1e-3 } else { 1e-6 };
                assert!((p / expected - 1.0).abs() < tolerance, "{n} {z}: {p}, expected {expected}");
                let (half, normal) = ((interval.high - interval.low) / 2.0, z_of(0.975));
                let expected = normal + (normal.powi(3) + normal) / (4.0 * degrees);
                assert!((half / expected - 1.0).abs() < 1e-6, "{n}: {half}, expected {expected}");
            }
        }
    }

    #[test]
    fn what_an_earlier_measurement_foretells_is_taken_out() {
        let (before, values) = ([1.0, 2.0, 3.0], [3.0, 5.0, 7.0]);
        let theta = theta(&before, &values).unwrap();
        let adjusted = Moments::of(&cuped(&before, &values, theta, 2.0));
        assert_eq!((adjusted.mean, adjusted.variance), (5.0, 0.0));
    }
}
