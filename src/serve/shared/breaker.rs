//! When the shared cache is left alone: pure, chances come in as arguments.
use std::time::Duration;

/// Counts failures in a row, and says how long nobody asks after too many.
#[derive(Debug)]
pub struct Breaker {
    failures_max: u32,
    pause: Duration,
    n_failures: u32,
}

impl Breaker {
    /// A breaker that lets everybody ask. It opens at `failures_max` failures in a row, for about a `pause`.
    pub fn new(failures_max: u32, pause: Duration) -> Self {
        Self { failures_max, pause, n_failures: 0 }
    }

    /// Notes a success: failures are counted anew.
    pub fn succeeded(&mut self) {
        self.n_failures = 0;
    }

    /// Notes a failure; says whether it is one too many.
    pub fn failed(&mut self) -> bool {
        self.n_failures = self.n_failures.saturating_add(1);
        self.n_failures >= self.failures_max
    }

    /// How long nobody asks, from half a pause to one and a half, at a `chance` from 0 to 1: servers that failed together do not come
    /// back together.
    pub fn pause(&self, chance: f64) -> Duration {
        self.pause.mul_f64(0.5 + chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_at_failures_in_a_row_and_a_success_starts_anew() {
        let mut breaker = Breaker::new(3, Duration::from_secs(1));
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded();
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
        assert!(breaker.failed(), "until something succeeds");
        breaker.succeeded();
        assert!(!breaker.failed());
    }

    #[test]
    fn pauses_differ_by_chance_within_bounds() {
        let breaker = Breaker::new(1, Duration::from_secs(1));
        for (chance, pause_ms) in [(0.0, 500), (0.5, 1000), (1.0, 1500), (7.0, 1500), (-1.0, 500)] {
            assert_eq!(breaker.pause(chance), Duration::from_millis(pause_ms));
        }
    }
}
