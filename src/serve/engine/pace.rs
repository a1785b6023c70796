//! How fast jobs leave, so that refused clients are told a time that means something.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Shortest and longest delay that a client is told.
const DELAY_MIN: Duration = Duration::from_millis(50);
const DELAY_MAX: Duration = Duration::from_secs(10);

/// The longest time between two jobs that counts, over the average before: with an eighth of the weight it doubles the average.
const STEEPEST: u64 = 8;

/// A moving average of the time between two jobs that leave while others wait: where nobody does, jobs leave as they come.
#[derive(Debug, Default)]
pub(super) struct Pace {
    nanoseconds: AtomicU64,
}

impl Pace {
    /// Notes that a job left `took` after the one before. Written by one thread only.
    pub(super) fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.nanoseconds.load(Ordering::Relaxed);
        // A machine that stood still for a moment is not slow from then on.
        let took = if before == 0 { took } else { took.min(before.saturating_mul(STEEPEST)) };
        let after = if before == 0 { took } else { before - before / 8 + took / 8 };
        self.nanoseconds.store(after, Ordering::Relaxed);
    }

    /// How long until `queued` jobs have left; none before any left a thread on which others waited.
    pub(super) fn until_left(&self, queued: usize) -> Option<Duration> {
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds.saturating_mul(queued)))
    }

    /// How long until half of `queued` jobs have left: later than that a client would come to an empty queue.
    pub(super) fn until_free(&self, queued: usize) -> Duration {
        let half = u64::try_from(queued / 2).unwrap_or(u64::MAX).max(1);
        let delay = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed).saturating_mul(half));
        delay.clamp(DELAY_MIN, DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_follow_the_pace_between_their_limits() {
        let pace = Pace::default();
        assert_eq!(pace.until_free(100), DELAY_MIN);
        pace.note(Duration::from_millis(10));
        assert_eq!(pace.until_free(100), Duration::from_millis(500));
        assert_eq!(pace.until_free(1_000_000), DELAY_MAX);
    }

    #[test]
    fn a_queue_takes_its_length_to_leave() {
        let pace = Pace::default();
        assert_eq!(pace.until_left(3), None);
        pace.note(Duration::from_millis(10));
        assert_eq!(pace.until_left(3), Some(Duration::from_millis(30)));
    }

    #[test]
    fn one_long_time_between_two_at_most_doubles_the_pace() {
        let pace = Pace::default();
        pace.note(Duration::from_millis(80));
        pace.note(Duration::from_secs(30));
        assert_eq!(pace.until_left(1), Some(Duration::from_millis(150)));
    }

    #[test]
    fn the_pace_moves_towards_what_is_seen() {
        let pace = Pace::default();
        pace.note(Duration::from_millis(80));
        pace.note(Duration::from_millis(160));
        assert_eq!(pace.until_free(2), Duration::from_millis(90));
    }
}
