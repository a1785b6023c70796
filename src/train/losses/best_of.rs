//! What a list adds to the best of several: for whoever samples several lists and serves the best of them.
//!
//! The mean of rewards grows where all lists of a reader become the one that is best in the mean; the best of k grows where they stay
//! unlike, and each finds something that the others miss.
//! Source: Walder and Karkhanis, "Pass@K Policy Optimization", arXiv 2505.15201 (the estimator of its leave-one-out baseline).

/// Returns for each of n values how much larger the largest of `k` values is with it than without it, in the mean over all sets of k
/// values that hold it, times k: a policy that is moved by these in the mean goes where the best of k grows. `k` = 1: the values themselves.
/// # Panics
/// If `k` is 0 or larger than n.
#[allow(clippy::cast_precision_loss, reason = "lists of one prompt")]
pub fn added_to_best(values: &[f64], k: usize) -> Vec<f64> {
    let n = values.len();
    assert!((1..=n).contains(&k), "the best of {k} among {n}");
    if k == 1 {
        return values.to_vec();
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    // Share of the sets of k that hold a value and, as their second largest, the one `below` values above the least.
    let n_sets = binomial(n - 1, k - 1);
    let share = |below: usize| binomial(below, k - 2) / n_sets;
    let mut added = vec![0.0; n];
    for (place, &idx) in order.iter().enumerate() {
        let second = order[..place].iter().enumerate();
        let sum: f64 = second.map(|(below, &other)| share(below) * (values[idx] - values[other])).sum();
        added[idx] = sum * k as f64;
    }
    added
}

/// Sets of k of n things.
#[allow(clippy::cast_precision_loss, reason = "lists of one prompt")]
fn binomial(n: usize, k: usize) -> f64 {
    if k > n {
        return 0.0;
    }
    (0..k).map(|i| (n - i) as f64 / (i + 1) as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By going through all sets.
    fn by_sets(values: &[f64], k: usize) -> Vec<f64> {
        let n = values.len();
        let best = |set: u32| {
            (0..n).filter(|i| set >> i & 1 == 1).map(|i| values[i]).fold(f64::NEG_INFINITY, f64::max)
        };
        let of_value = |i: usize| {
            let sets: Vec<u32> =
                (0..1_u32 << n).filter(|set| set.count_ones() as usize == k && set >> i & 1 == 1).collect();
            let added: f64 = sets.iter().map(|set| best(*set) - best(set & !(1 << i))).sum();
            k as f64 * added / sets.len() as f64
        };
        (0..n).map(of_value).collect()
    }

    #[test]
    fn what_a_value_adds_is_its_mean_over_all_sets_that_hold_it() {
        let values = [0.3, 0.9, 0.1, 0.5, 0.5, 0.45];
        for k in 2..=values.len() {
            for (got, expected) in added_to_best(&values, k).iter().zip(by_sets(&values, k)) {
                assert!((got - expected).abs() < 1e-12, "k = {k}: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn with_one_value_at_a_time_each_is_worth_itself() {
        assert_eq!(added_to_best(&[0.2, 0.7], 1), [0.2, 0.7]);
    }

    #[test]
    fn of_all_values_the_largest_alone_adds_something_and_two_that_are_alike_add_nothing() {
        assert_eq!(added_to_best(&[0.25, 1.0, 0.5], 3), [0.0, 1.5, 0.0]);
        assert_eq!(added_to_best(&[1.0, 1.0, 0.5], 3), [0.0, 0.0, 0.0]);
    }
}
