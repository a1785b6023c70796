//! A p-value that may be looked at every day: looking until it is small does not make it small.

/// The always-valid p-value of a difference of this variance: with any rule for when to stop, the chance that it ever falls below
/// 5 % where there is no difference is at most 5 %.
///
/// `expected`: the size of difference that the test is made for, fixed before looking; a wrong one costs power, never validity.
/// A mixture of sequential probability ratios over normal differences around 0 with that standard deviation.
/// Source: Johari, Pekelis, Walsh, "Always Valid Inference", arXiv 1512.04922, equation 8; the variance is estimated.
pub fn always_valid(difference: f64, variance: f64, expected: f64) -> f64 {
    let mixture = expected.powi(2);
    if !(variance > 0.0 && mixture > 0.0 && difference.is_finite()) {
        return 1.0;
    }
    let total = variance + mixture;
    let log_ratio = 0.5 * (variance / total).ln() + mixture * difference.powi(2) / (2.0 * variance * total);
    (-log_ratio).exp().min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::statistics::p_of_z;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn what_cannot_be_compared_shows_nothing() {
        for (difference, variance, expected) in [(1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (f64::NAN, 1.0, 1.0)] {
            assert_eq!(always_valid(difference, variance, expected), 1.0);
        }
    }

    #[test]
    fn a_large_difference_is_found() {
        assert!(always_valid(5.0, 1.0, 2.0) < 0.001);
        assert_eq!(always_valid(0.0, 1.0, 2.0), 1.0);
    }

    /// Runs of equal arms that looked at 200 times falsely find a difference.
    #[test]
    fn equal_arms_are_found_to_differ_rarely_however_often_one_looks() {
        const N_RUNS: usize = 1000;
        const N_LOOKS: usize = 200;
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let (mut n_sequential, mut n_fixed) = (0, 0);
        for _ in 0..N_RUNS {
            let (mut sum, mut sequential, mut fixed) = (0.0, false, false);
            for look in 1..=N_LOOKS {
                // Ten readers more on each side: a difference of means of clicks with variance 0.25 each.
                let clicks =
                    |random: &mut ChaCha8Rng| (0..10).filter(|_| random.random_bool(0.5)).count() as f64;
                sum += clicks(&mut random) - clicks(&mut random);
                let n = 10.0 * look as f64;
                let (difference, variance) = (sum / n, 0.5 / n);
                sequential |= always_valid(difference, variance, 0.05) < 0.05;
                fixed |= p_of_z(difference / variance.sqrt()) < 0.05;
            }
            n_sequential += usize::from(sequential);
            n_fixed += usize::from(fixed);
        }
        // 5 % and two standard errors of a share of 1,000 runs.
        assert!(n_sequential <= 64, "{n_sequential} of {N_RUNS}");
        assert!(n_fixed > 200, "a p-value for one look finds something in {n_fixed} of {N_RUNS}");
    }
}
