//! When a job is worth nothing any more.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Until when an answer is of use to anybody who waits for it. Shared by all who do: the latest wins.
#[derive(Debug)]
pub struct Deadline {
    origin: Instant,
    /// Nanoseconds after the origin; the largest number means never.
    passes_at: AtomicU64,
}

impl Deadline {
    /// A deadline, or none.
    pub fn new(at: Option<Instant>) -> Self {
        let origin = Instant::now();
        Self { origin, passes_at: AtomicU64::new(nanoseconds(origin, at)) }
    }

    /// Moves the deadline to a later time; an earlier one changes nothing.
    pub fn extend(&self, at: Option<Instant>) {
        self.passes_at.fetch_max(nanoseconds(self.origin, at), Ordering::Relaxed);
    }

    /// How long it is until then; none where it never passes.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let passes_at = self.passes_at.load(Ordering::Relaxed);
        let passed = nanoseconds(self.origin, Some(now));
        (passes_at < u64::MAX).then(|| Duration::from_nanos(passes_at.saturating_sub(passed)))
    }

    /// Whether nobody can use an answer any more.
    pub fn passed(&self, now: Instant) -> bool {
        nanoseconds(self.origin, Some(now)) >= self.passes_at.load(Ordering::Relaxed)
    }
}

fn nanoseconds(origin: Instant, at: Option<Instant>) -> u64 {
    let Some(at) = at else { return u64::MAX };
    u64::try_from(at.saturating_duration_since(origin).as_nanos()).unwrap_or(u64::MAX)
}
