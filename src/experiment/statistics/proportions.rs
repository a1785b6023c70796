//! Shares of readers, and whether arms got the readers that they should have.
use super::{ALPHA, Interval, normal, p_of_z, z_of};
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};

/// A sample ratio mismatch is alarming below this: an experiment with one is broken, whatever else it shows.
pub const MISMATCH_ALARM: f64 = 0.001;

/// Some of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many did.
    pub n: u64,
    /// Out of how many, at least one.
    pub of: u64,
}

impl Share {
    fn rate(self) -> f64 {
        self.n as f64 / self.of as f64
    }

    fn variance(self) -> f64 {
        self.rate() * (1.0 - self.rate()) / self.of as f64
    }

    /// Wilson's score interval. Source: Wilson 1927.
    pub fn wilson(self) -> Interval {
        let (z, n, rate) = (z_of(1.0 - ALPHA / 2.0), self.of as f64, self.rate());
        let scale = 1.0 + z * z / n;
        let middle = (rate + z * z / (2.0 * n)) / scale;
        let half = z * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt() / scale;
        // The ends are exact where nobody or everybody did; rounding errors would leave the range of shares.
        Interval {
            low: if self.n == 0 { 0.0 } else { middle - half },
            high: if self.n == self.of { 1.0 } else { middle + half },
        }
    }
}

/// Two shares, compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoProportions {
    /// The statistic of the pooled test; not a number where nobody or everybody did.
    pub z: f64,
    /// Its p-value.
    pub p: f64,
    /// Treatment less control.
    pub difference: f64,
    /// Treatment over control, less 1; none where nobody of control did.
    pub relative_lift: Option<f64>,
    /// Where the difference may lie, by Newcombe's hybrid of score intervals, which holds for small shares too. Source: Newcombe 1998,
    /// method 10.
    pub newcombe: Interval,
    /// The same by Wald, for comparison with others' reports.
    pub wald: Interval,
    /// Variance of the difference, as Wald has it.
    pub variance: f64,
}

/// Compares two shares.
pub fn two_proportions(control: Share, treatment: Share) -> TwoProportions {
    let difference = treatment.rate() - control.rate();
    let pooled = (control.n + treatment.n) as f64 / (control.of + treatment.of) as f64;
    let pooled_variance = pooled * (1.0 - pooled) * (1.0 / control.of as f64 + 1.0 / treatment.of as f64);
    let z = difference / pooled_variance.sqrt();
    let (of_control, of_treatment) = (control.wilson(), treatment.wilson());
    let below = (treatment.rate() - of_treatment.low).hypot(of_control.high - control.rate());
    let above = (of_treatment.high - treatment.rate()).hypot(control.rate() - of_control.low);
    let variance = control.variance() + treatment.variance();
    TwoProportions {
        z,
        p: p_of_z(z),
        difference,
        relative_lift: (control.n > 0).then(|| treatment.rate() / control.rate() - 1.0),
        newcombe: Interval { low: difference - below, high: difference + above },
        wald: normal(difference, variance).interval,
        variance,
    }
}

/// How far observed counts are from expected ones.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Mismatch {
    /// The statistic.
    pub chi_square: f64,
    /// Degrees of freedom.
    pub degrees: usize,
    /// The chance of a mismatch as large.
    pub p: f64,
}

impl Mismatch {
    /// Whether nothing that the experiment shows can be trusted.
    pub fn is_alarming(&self) -> bool {
        self.p < MISMATCH_ALARM
    }
}

/// Compares counts with what was to be expected of them; none with fewer than two arms, or where nothing is expected of one.
pub fn sample_ratio(observed: &[f64], expected: &[f64]) -> Option<Mismatch> {
    let degrees = observed.len().checked_sub(1).filter(|degrees| *degrees > 0)?;
    if expected.iter().any(|expected| *expected <= 0.0) {
        return None;
    }
    let cells = observed.iter().zip(expected);
    let chi_square = cells.map(|(observed, expected)| (observed - expected).powi(2) / expected).sum();
    let p = ChiSquared::new(degrees as f64).ok()?.sf(chi_square);
    Some(Mismatch { chi_square, degrees, p })
}

/// Compares the shares of several arms with what all of them have together; none with fewer than two arms, or where nobody or everybody did.
///
/// Pearson's chi-square of homogeneity.
pub fn equal_shares(shares: &[Share]) -> Option<Mismatch> {
    let degrees = shares.len().checked_sub(1).filter(|degrees| *degrees > 0)?;
    let all = shares.iter().fold((0, 0), |(n, of), share| (n + share.n, of + share.of));
    let rate = all.0 as f64 / all.1 as f64;
    // Not a number where there is nobody at all.
    if !(rate > 0.0 && rate < 1.0) {
        return None;
    }
    let cell = |share: &Share| {
        (share.n as f64 - share.of as f64 * rate).powi(2) / (share.of as f64 * rate * (1.0 - rate))
    };
    let chi_square = shares.iter().filter(|share| share.of > 0).map(cell).sum();
    let p = ChiSquared::new(degrees as f64).ok()?.sf(chi_square);
    Some(Mismatch { chi_square, degrees, p })
}

/// Readers that each arm needs to find a relative lift of a share with this power, at a level of 5 %; none where there is no lift or
/// it leaves the range of shares.
///
/// Cohen's h, normal approximation, both tails. Source: Cohen, "Statistical Power Analysis", 1988, chapter 6.
pub fn sample_size(base_rate: f64, relative_lift: f64, power: f64) -> Option<f64> {
    let angle = |rate: f64| 2.0 * rate.sqrt().asin();
    let lifted = base_rate * (1.0 + relative_lift);
    let effect = (angle(lifted) - angle(base_rate)).abs();
    let level = z_of(1.0 - ALPHA / 2.0);
    if !(0.0..=1.0).contains(&base_rate) || !(0.0..=1.0).contains(&lifted) || effect == 0.0 {
        return None;
    }
    if !(ALPHA..1.0).contains(&power) {
        return None;
    }
    // The power grows with the effect in standard errors, so halving finds it.
    let below = |z: f64| Normal::standard().cdf(z);
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        let reached = below(middle - level) + below(-middle - level);
        if reached < power { low = middle } else { high = middle }
    }
    Some(2.0 * (low / effect).powi(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_at_the_ends_have_no_impossible_intervals() {
        let none = Share { n: 0, of: 10 }.wilson();
        let all = Share { n: 10, of: 10 }.wilson();
        assert!(none.low == 0.0 && none.high > 0.0 && all.high == 1.0 && all.low < 1.0);
        let same = two_proportions(Share { n: 0, of: 10 }, Share { n: 0, of: 10 });
        assert_eq!((same.p, same.relative_lift), (1.0, None));
    }

    #[test]
    fn an_alarm_sounds_at_half_a_point_in_two_hundred_thousand_and_not_at_noise() {
        let check = |observed: [f64; 2], expected: bool| {
            let half = (observed[0] + observed[1]) / 2.0;
            assert_eq!(sample_ratio(&observed, &[half, half]).unwrap().is_alarming(), expected);
        };
        check([101_010.0, 98_990.0], true);
        check([100_300.0, 99_700.0], false);
        assert!(sample_ratio(&[1.0], &[1.0]).is_none());
        assert!(sample_ratio(&[1.0, 0.0], &[1.0, 0.0]).is_none());
    }

    #[test]
    fn shares_are_compared_as_by_the_pooled_test_of_two() {
        let (one, other) = (Share { n: 30, of: 200 }, Share { n: 55, of: 240 });
        let both = equal_shares(&[one, other]).unwrap();
        let pooled = two_proportions(one, other);
        assert!((both.chi_square - pooled.z.powi(2)).abs() < 1e-9, "{both:?} {pooled:?}");
        assert!((both.p - pooled.p).abs() < 1e-9 && both.degrees == 1);
        for same in [&[one][..], &[Share { n: 0, of: 9 }; 2], &[Share { n: 9, of: 9 }; 2], &[]] {
            assert!(equal_shares(same).is_none());
        }
    }

    #[test]
    fn what_no_number_of_readers_can_find_has_no_size() {
        assert!(sample_size(0.1, 0.0, 0.8).is_none());
        assert!(sample_size(0.9, 0.5, 0.8).is_none());
        assert!(sample_size(0.1, 0.1, 1.0).is_none());
    }
}
