//! What became of the requests of a load: how many of which kind, and how long they took.
use super::super::CommandError;
use crate::client::refusal::Refusal;
use hdrhistogram::Histogram;
use hyper::body::Bytes;
use std::{collections::BTreeMap, time::Duration};

/// Percentiles that are reported.
const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];
/// Times are kept in microseconds up to a minute, to three digits.
const TIME_US_MAX: u64 = 60_000_000;

/// Times, of which percentiles are asked.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Times {
    /// None yet.
    ///
    /// # Errors
    /// If the histogram is refused, which has fixed bounds.
    pub fn new() -> Result<Self, CommandError> {
        let times = Histogram::new_with_bounds(1, TIME_US_MAX, 3);
        times.map(Self).map_err(|error| CommandError::Usage(error.to_string()))
    }

    /// Adds one.
    pub fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_US_MAX));
    }

    /// Adds those of another.
    pub fn join(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// How many.
    pub fn n(&self) -> u64 {
        self.0.len()
    }

    /// A percentile in milliseconds; no number where nothing was measured.
    pub fn ms(&self, percentile: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        #[allow(clippy::cast_precision_loss, reason = "times are below a minute")]
        let us = self.0.value_at_quantile(percentile / 100.0) as f64;
        us / 1000.0
    }

    /// Percentiles in milliseconds by name; none where nothing was measured.
    pub fn percentiles(&self) -> BTreeMap<String, f64> {
        let measured = PERCENTILES.iter().filter(|_| !self.0.is_empty());
        measured.map(|&percentile| (format!("p{percentile}"), self.ms(percentile))).collect()
    }
}

/// What became of requests whose answers are not looked into.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Times of answers.
    pub answered: Times,
    /// Times of refusals.
    pub refused: Times,
    /// Refusals by code and reason.
    pub reasons: BTreeMap<String, u64>,
    /// Refusals that say when to come again.
    pub n_retry: u64,
}

impl Seen {
    /// Nothing yet.
    ///
    /// # Errors
    /// As `Times::new`.
    pub fn new() -> Result<Self, CommandError> {
        let (reasons, n_retry) = (BTreeMap::new(), 0);
        Ok(Self { answered: Times::new()?, refused: Times::new()?, reasons, n_retry })
    }

    /// Adds a request.
    pub fn add(&mut self, outcome: &Result<Bytes, Refusal>, took: Duration) {
        match outcome {
            Ok(_) => self.answered.add(took),
            Err(refusal) => {
                self.refused.add(took);
                self.n_retry += u64::from(refusal.retry_after.is_some());
                *self.reasons.entry(refusal.kind()).or_default() += 1;
            }
        }
    }

    /// Adds those of another.
    pub fn join(&mut self, other: Self) {
        self.answered.join(&other.answered);
        self.refused.join(&other.refused);
        self.n_retry += other.n_retry;
        for (reason, n) in other.reasons {
            *self.reasons.entry(reason).or_default() += n;
        }
    }

    /// The same, if anything was answered.
    ///
    /// # Errors
    /// If nothing was: such a load measured nothing.
    pub fn answered_any(self) -> Result<Self, CommandError> {
        match (self.answered.n(), self.refused.n()) {
            (0, n_requests) => Err(CommandError::NoAnswer { n_requests }),
            _ => Ok(self),
        }
    }
}

/// The middle of some numbers, or the mean of the two in the middle; 0 of none.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => 0.0,
        n if n % 2 == 1 => numbers[middle],
        _ => f64::midpoint(numbers[middle - 1], numbers[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Code;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_middles() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < 1e-9);
        assert!((median(vec![9.0, 1.0, 5.0, 6.0]) - 5.5).abs() < 1e-9);
        assert_eq!(median(Vec::new()), 0.0);
    }

    #[test]
    fn refusals_are_told_apart_and_have_times_of_their_own() {
        let mut seen = Seen::new().unwrap();
        let second = Duration::from_secs(1);
        let refusal = |reason: &str, retry_after| Refusal {
            reason: reason.to_owned(),
            retry_after,
            ..Refusal::new(Code::ResourceExhausted, "")
        };
        seen.add(&Err(refusal("QUEUE_FULL", Some(second))), second);
        assert!(matches!(seen.clone().answered_any(), Err(CommandError::NoAnswer { n_requests: 1 })));
        let mut other = Seen::new().unwrap();
        other.add(&Err(refusal("", None)), second);
        other.add(&Ok(Bytes::new()), Duration::from_millis(2));
        seen.join(other);
        assert_eq!((seen.answered.n(), seen.refused.n(), seen.n_retry), (1, 2, 1));
        assert_eq!(
            seen.reasons.keys().collect::<Vec<_>>(),
            ["RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED QUEUE_FULL"]
        );
        assert!((seen.answered.ms(99.0) - 2.0).abs() < 0.01);
    }
}
