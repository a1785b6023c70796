//! Intervals and rank statistics of the figures that are reported.
#![allow(clippy::cast_precision_loss, reason = "counts of users and samples are far below 2^52")]
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;

/// A mean with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// 2.5th percentile of resampled means.
    pub low: f64,
    /// 97.5th percentile of resampled means.
    pub high: f64,
}

/// Resamples of the bootstrap.
pub const N_RESAMPLES: usize = 1_000;

/// Percentile bootstrap of the mean, users resampled; of differences it is the paired interval.
pub fn bootstrap(values: &[f64], seed: u64) -> Estimate {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.is_empty() {
        return Estimate { mean, low: mean, high: mean };
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..N_RESAMPLES)
        .map(|_| (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).sum::<f64>() / n)
        .collect();
    means.sort_by(f64::total_cmp);
    Estimate { mean, low: means[N_RESAMPLES / 40], high: means[N_RESAMPLES - 1 - N_RESAMPLES / 40] }
}

/// Percentile bootstrap of the mean of the same users under several seeds, users and seeds resampled: what other readers and other
/// draws of a model would give. With one seed it is [`bootstrap`].
///
/// Source: Owen, "The pigeonhole bootstrap", 2007. Few seeds say little of their own spread: with three the interval is a little
/// too narrow.
pub fn bootstrap_crossed(by_seed: &[Vec<f64>], seed: u64) -> Estimate {
    let (first, n_seeds) = match by_seed {
        [] => return bootstrap(&[], seed),
        [one] => return bootstrap(one, seed),
        [first, ..] => (first, by_seed.len()),
    };
    let of_user = |user: usize, seeds: &[usize]| seeds.iter().map(|&at| by_seed[at][user]).sum::<f64>();
    let n = (first.len() * n_seeds).max(1) as f64;
    let all: Vec<usize> = (0..n_seeds).collect();
    let mean = (0..first.len()).map(|user| of_user(user, &all)).sum::<f64>() / n;
    if first.is_empty() {
        return Estimate { mean, low: mean, high: mean };
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut means: Vec<f64> = (0..N_RESAMPLES)
        .map(|_| {
            let seeds: Vec<usize> = (0..n_seeds).map(|_| rng.random_range(0..n_seeds)).collect();
            let users = (0..first.len()).map(|_| rng.random_range(0..first.len()));
            users.map(|user| of_user(user, &seeds)).sum::<f64>() / n
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Estimate { mean, low: means[N_RESAMPLES / 40], high: means[N_RESAMPLES - 1 - N_RESAMPLES / 40] }
}

/// Percentile bootstrap of the ratio of two means over the same users.
pub fn bootstrap_ratio(part: &[f64], whole: &[f64], seed: u64) -> Estimate {
    let n = part.len().min(whole.len());
    let ratio = |idxs: &mut dyn Iterator<Item = usize>| {
        let (part, whole) = idxs.fold((0.0, 0.0), |sums, idx| (sums.0 + part[idx], sums.1 + whole[idx]));
        part / whole
    };
    let mean = ratio(&mut (0..n));
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut ratios: Vec<f64> =
        (0..N_RESAMPLES).map(|_| ratio(&mut (0..n).map(|_| rng.random_range(0..n)))).collect();
    ratios.sort_by(f64::total_cmp);
    Estimate { mean, low: ratios[N_RESAMPLES / 40], high: ratios[N_RESAMPLES - 1 - N_RESAMPLES / 40] }
}

/// Jaccard similarity of two sets; none of two empty ones.
pub fn jaccard<T: Ord>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Option<f64> {
    let (common, all) = (a.intersection(b).count(), a.union(b).count());
    (all > 0).then(|| common as f64 / all as f64)
}

/// Spearman's rank correlation with mean ranks of ties; none where one side is constant.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let (a, b) = (ranks(a), ranks(b));
    let n = a.len() as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let covariance: f64 = a.iter().zip(&b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum();
    let spread = |values: &[f64], mean: f64| values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    let product = spread(&a, mean_a) * spread(&b, mean_b);
    (product > 0.0).then(|| covariance / product.sqrt())
}

fn ranks(values: &[f64]) -> Vec<f64> {
    values
        .iter()
        .map(|value| {
            let below = values.iter().filter(|other| *other < value).count() as f64;
            let equal = values.iter().filter(|other| *other == value).count() as f64;
            below + (equal + 1.0) / 2.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_means_is_no_mean_of_ratios() {
        let Estimate { mean, low, high } = bootstrap_ratio(&[1.0, 0.0, 2.0, 1.0], &[4.0, 1.0, 2.0, 1.0], 1);
        assert!((mean - 0.5).abs() < 1e-12);
        assert!(low < 0.5 && 0.5 < high && low >= 0.0);
        let Estimate { mean, low, high } = bootstrap_ratio(&[2.0; 9], &[4.0; 9], 1);
        assert_eq!((mean, low, high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn interval_holds_the_mean_and_is_the_same_for_a_seed() {
        let values: Vec<f64> = (0..200).map(|idx| f64::from(idx % 7)).collect();
        let estimate = bootstrap(&values, 5);
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high, "{estimate:?}");
        assert_eq!(estimate, bootstrap(&values, 5));
    }

    #[test]
    fn seeds_that_differ_widen_the_interval_and_one_seed_changes_nothing() {
        let users: Vec<f64> = (0..300).map(|idx| f64::from(idx % 5)).collect();
        assert_eq!(bootstrap_crossed(std::slice::from_ref(&users), 3), bootstrap(&users, 3));
        let shifted = |by: f64| users.iter().map(|value| value + by).collect::<Vec<_>>();
        let width = |by: f64| {
            let Estimate { mean, low, high } =
                bootstrap_crossed(&[shifted(-by), shifted(0.0), shifted(by)], 3);
            assert!((mean - 2.0).abs() < 1e-9 && low <= mean && mean <= high, "{mean}");
            high - low
        };
        assert!(width(1.0) > 2.0 * width(0.0), "{} {}", width(1.0), width(0.0));
        assert_eq!(bootstrap_crossed(&[], 3).mean, 0.0);
    }

    #[test]
    fn sets_that_share_one_of_three_are_a_third_alike() {
        let (a, b) = (BTreeSet::from(["x", "y"]), BTreeSet::from(["y", "z"]));
        assert_eq!(jaccard(&a, &b), Some(1.0 / 3.0));
        assert_eq!(jaccard(&a, &BTreeSet::new()), Some(0.0));
        assert_eq!(jaccard::<u8>(&BTreeSet::new(), &BTreeSet::new()), None);
    }

    #[test]
    fn rank_correlation_sees_order_only_and_shares_ranks_of_ties() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 200.0, 3000.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(spearman(&[1.0, 1.0], &[3.0, 2.0]), None);
        // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
        let tied = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((tied - 0.948_683_298).abs() < 1e-6, "{tied}");
    }
}
