//! How many readers there are, counted without keeping who they are.
use super::Metrics;
use datasketches::hll::{HllSketch, HllType};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Within this time a reader counts once: long enough for most visits, and short beside what costs are compared over. Hours of the clock, so
/// that all servers have the same.
const HOUR: Duration = Duration::from_secs(3600);
/// Logarithm of a sketch's registers: 2 KiB, and an estimate that is right within 1.3 % (one standard error, 0.83 / 2^6).
const LG_REGISTERS: u8 = 12;

/// Distinct readers within the running hour, of arms (experiment, arm) and of all together.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<Option<(String, String)>, Hour>>);

#[derive(Debug)]
struct Hour {
    number: u64,
    sketch: HllSketch,
    n_counted: u64,
}

impl Seen {
    /// How many more readers there are with this one: mostly none or one, since what is counted is an estimate.
    fn more(&self, whose: Option<(String, String)>, reader: &[u8], now: Duration) -> u64 {
        let number = now.as_secs() / HOUR.as_secs();
        // Every hour is whole after every statement.
        let mut hours = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hours.get(&whose).is_none_or(|hour| hour.number < number) {
            // The size is one that the library takes.
            let Ok(sketch) = HllSketch::new(LG_REGISTERS, HllType::Hll4) else { return 0 };
            hours.insert(whose.clone(), Hour { number, sketch, n_counted: 0 });
        }
        let Some(hour) = hours.get_mut(&whose) else { return 0 };
        hour.sketch.update(reader);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let n_seen = hour.sketch.estimate().round() as u64;
        let more = n_seen.saturating_sub(hour.n_counted);
        hour.n_counted += more;
        more
    }
}

impl Metrics {
    /// Counts a reader who got an answer, once an hour. `reader`: equal bytes for the same one.
    pub fn reader(&self, reader: &[u8]) {
        let more = self.seen.more(None, reader, now());
        self.counter("newshound_readers_total", &[]).increment(more);
    }

    /// Counts a reader who got an answer under an arm, once an hour.
    pub fn arm_reader(&self, arm: (&str, &str), reader: &[u8]) {
        let arm = self.arm_named(arm);
        let more = self.seen.more(Some(arm.clone()), reader, now());
        self.arm_counter("newshound_arm_readers_total", (&arm.0, &arm.1), None, more);
    }
}

/// A clock before 1970 is in its first hour.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(seen: &Seen, arm: &str, readers: std::ops::Range<u32>, hours: u32) -> u64 {
        let whose = || Some(("x".to_owned(), arm.to_owned()));
        readers.map(|reader| seen.more(whose(), &reader.to_le_bytes(), HOUR * hours)).sum()
    }

    #[test]
    fn a_reader_counts_once_an_hour_and_under_every_arm() {
        let seen = Seen::default();
        assert_eq!(counted(&seen, "a", 0..100, 7), 100);
        assert_eq!(counted(&seen, "a", 0..100, 7), 0);
        assert_eq!(counted(&seen, "a", 50..150, 7), 50);
        assert_eq!(counted(&seen, "b", 0..1, 7), 1);
        assert_eq!(counted(&seen, "a", 0..100, 8), 100);
        // A clock that goes back counts into the hour that has begun.
        assert_eq!(counted(&seen, "a", 0..100, 7), 0);
    }

    #[test]
    fn many_readers_are_counted_within_a_few_hundredths() {
        let (seen, n_readers) = (Seen::default(), 200_000);
        let n_counted = counted(&seen, "a", 0..n_readers, 0) + counted(&seen, "a", 0..n_readers, 0);
        // Four standard errors are 5.2 %.
        assert!(n_counted.abs_diff(n_readers.into()) < 10_400, "{n_counted}");
    }
}
