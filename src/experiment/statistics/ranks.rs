//! Whether one arm's values are larger, whatever their scale: for what a few readers do far more than others.
use super::p_of_z;

/// A rank test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankTest {
    /// Pairs in which the treatment's value is the larger one, ties by half.
    pub u: f64,
    /// Two-sided p-value.
    pub p: f64,
}

/// The test of Mann and Whitney, normal approximation with corrections for ties and continuity; none of no values, or if all are
/// equal.
pub fn mann_whitney(control: &[f64], treatment: &[f64]) -> Option<RankTest> {
    let mut all: Vec<(f64, bool)> = control.iter().map(|&value| (value, false)).collect();
    all.extend(treatment.iter().map(|&value| (value, true)));
    all.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (n_control, n_treatment) = (control.len() as f64, treatment.len() as f64);
    let n = n_control + n_treatment;
    let (mut rank_sum, mut ties, mut n_before) = (0.0, 0.0, 0.0);
    for tied in all.chunk_by(|one, other| one.0 == other.0) {
        let n_tied = tied.len() as f64;
        let n_treated = tied.iter().filter(|(_, treated)| *treated).count() as f64;
        rank_sum += n_treated * (n_before + (n_tied + 1.0) / 2.0);
        ties += n_tied.powi(3) - n_tied;
        n_before += n_tied;
    }
    let u = rank_sum - n_treatment * (n_treatment + 1.0) / 2.0;
    let pairs = n_control * n_treatment;
    let variance = pairs / 12.0 * ((n + 1.0) - ties / (n * (n - 1.0)));
    if variance.is_nan() || variance <= 0.0 {
        return None;
    }
    let distance = ((u - pairs / 2.0).abs() - 0.5).max(0.0);
    Some(RankTest { u, p: p_of_z(distance / variance.sqrt()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_and_no_values_cannot_be_ranked() {
        assert!(mann_whitney(&[1.0, 1.0], &[1.0]).is_none());
        assert!(mann_whitney(&[], &[1.0, 2.0]).is_none());
    }

    #[test]
    fn a_tie_counts_by_half() {
        assert_eq!(mann_whitney(&[1.0, 2.0], &[2.0, 3.0]).unwrap().u, 3.5);
    }
}
