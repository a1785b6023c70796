//! The way into the queue: a ticket, which is there before anything is computed for a job, and what a job that comes now would meet.
use super::{
    Arc, Class, Duration, Engine, EngineError, Instant, Limits, Ordering, Room, Shared,
    pace::Pace,
    pressure,
    rates::{Rates, Work},
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest wait over what a job may be expected to wait when it comes. Whoever is let in and then refused because she waited too long has
/// lost that time, and nobody is who waits up to twice as long as was expected.
const WAIT_OVER_EXPECTED: u32 = 2;

/// What is known of a thread's work, by the thread and by those who come.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) pace: Pace,
    now: Mutex<Now>,
}

/// What changes with every job and step.
#[derive(Debug)]
pub(super) struct Now {
    pub(super) rates: Rates,
    /// Room that no running job has.
    free: Room,
    /// Rows that are being written.
    n_rows: usize,
    /// Who has a ticket and does not run, by class.
    queued: [Queued; Class::ALL.len()],
}

/// Those of one class who have a ticket.
#[derive(Clone, Copy, Debug, Default)]
struct Queued {
    jobs: usize,
    need: Room,
}

impl Now {
    /// Notes what runs.
    pub(super) fn runs(&mut self, n_rows: usize, free: Room) {
        (self.n_rows, self.free) = (n_rows, free);
    }

    /// Those who go before a job of a class that comes now, but for jobs that waited long.
    fn ahead(&self, class: Class) -> Queued {
        let ahead = Class::ALL.into_iter().filter(|other| *other <= class);
        ahead.fold(Queued::default(), |sum, other| {
            let Queued { jobs, need } = self.queued[other as usize];
            Queued { jobs: sum.jobs + jobs, need: sum.need.and(need) }
        })
    }
}

impl Load {
    pub(super) fn new(room: Room) -> Self {
        let now = Now { rates: Rates::default(), free: room, n_rows: 0, queued: Default::default() };
        Self { pace: Pace::default(), now: Mutex::new(now) }
    }

    /// For a few lines.
    pub(super) fn lock(&self) -> MutexGuard<'_, Now> {
        // What is measured is whole after every statement, so a panic elsewhere while it was locked broke nothing.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue; given back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    class: Class,
    need: Room,
    shared: Arc<Shared>,
}

impl Ticket {
    /// Whose place it is.
    pub(super) fn class(&self) -> Class {
        self.class
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut now = self.shared.load.lock();
        let queued = &mut now.queued[self.class as usize];
        *queued = Queued { jobs: queued.jobs.saturating_sub(1), need: queued.need.less(self.need) };
    }
}

impl Shared {
    /// How long a job of a class that comes now and needs so much room is going to wait.
    pub(super) fn wait(&self, need: Room, class: Class) -> Duration {
        let now = self.load.lock();
        let (room, sharing) = (self.limits.room, self.limits.sharing);
        let (ahead, left) = (now.ahead(class), sharing.left_by(class, room.rows));
        if ahead.need.and(need).fits(now.free.less(Room { rows: left, tokens: 0 })) {
            return Duration::ZERO;
        }
        self.load.pace.until_left(ahead.jobs + 1).unwrap_or_default()
    }

    /// How near the thread is to where it refuses, with jobs that wait and rows that run, if one more comes of which nobody said how it
    /// is to be served.
    pub(super) fn pressure(&self, queued: usize, rows: usize, need: Room) -> f64 {
        let wait = (self.wait(need, Class::Default), self.limits.expected_wait_max());
        pressure((queued, self.limits.queue_max), (rows, self.limits.room.rows), wait)
    }
}

impl Limits {
    /// The longest that a job may be expected to wait when it comes.
    pub(super) fn expected_wait_max(&self) -> Duration {
        self.queue_wait_max / WAIT_OVER_EXPECTED
    }
}

impl Work {
    /// The room that it takes.
    fn room(&self) -> Room {
        let written = self.rows.saturating_mul(self.row_tokens_max);
        Room { rows: self.rows, tokens: self.prompt_tokens.saturating_add(written) }
    }
}

impl Engine {
    /// Takes a place in the queue; a class leaves some to those before it.
    ///
    /// # Errors
    /// `QueueFull` or `TokenBacklog` without waiting, or `Gone`.
    pub fn admit(&self, work: &Work, class: Class) -> Result<Ticket, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Gone);
        }
        let (limits, need) = (&self.shared.limits, work.room());
        let retry_after = self.shared.load.pace.until_free(limits.queue_max);
        let (jobs_max, tokens_max) = self.places(class);
        let mut now = self.shared.load.lock();
        let Queued { jobs, need: taken } = now.ahead(Class::Bulk);
        if jobs >= jobs_max {
            self.shared.metrics.refused("full", retry_after);
            return Err(EngineError::QueueFull { queued: jobs_max, retry_after });
        }
        if taken.and(need).tokens > tokens_max {
            self.shared.metrics.refused("tokens", retry_after);
            return Err(EngineError::TokenBacklog { tokens: tokens_max, retry_after });
        }
        let queued = &mut now.queued[class as usize];
        *queued = Queued { jobs: queued.jobs + 1, need: queued.need.and(need) };
        Ok(Ticket { class, need, shared: Arc::clone(&self.shared) })
    }

    /// The jobs and tokens that may wait, of all classes together, when one of a class comes.
    fn places(&self, class: Class) -> (usize, usize) {
        let limits = &self.shared.limits;
        let rest = |n: usize| n.saturating_sub(limits.sharing.left_by(class, n));
        (rest(limits.queue_max).max(1), rest(limits.queue_tokens_max))
    }

    /// About how many tokens the prompt of signals of so many bytes has, at most `most`; `most` before any was measured.
    pub fn prompt_tokens(&self, n_bytes: usize, most: usize) -> usize {
        self.shared.load.lock().rates.prompt_tokens(n_bytes).map_or(most, |tokens| tokens.min(most))
    }

    /// Notes how long the prompt of signals of so many bytes took, all of which had a place in it.
    pub fn prepared(&self, n_bytes: usize, n_tokens: usize, took: Duration) {
        self.shared.load.lock().rates.prepared(n_bytes, n_tokens, took);
    }

    /// How long work takes from its preparation to its last list, once it need not wait; none where too little was measured lately.
    pub fn takes(&self, work: &Work) -> Option<Duration> {
        let now = self.shared.load.lock();
        now.rates.takes(work, now.n_rows, Instant::now())
    }

    /// How long work of a class that comes now is going to wait: not at all where it has room beside all that go before it, or nobody ever
    /// waited.
    pub fn wait(&self, work: &Work, class: Class) -> Duration {
        self.shared.wait(work.room(), class)
    }

    /// Whether no place in the queue is left to a class.
    pub fn is_full(&self, class: Class) -> bool {
        self.n_queued() >= self.places(class).0
    }

    /// Whether more than half of the queue is taken, so that what can wait should not be asked for.
    pub fn is_pressed(&self) -> bool {
        2 * self.n_queued() > self.shared.limits.queue_max
    }

    /// The longest that a job may be expected to wait, and when to come back if it would be longer.
    pub fn wait_max(&self) -> (Duration, Duration) {
        let limits = &self.shared.limits;
        (limits.expected_wait_max(), self.shared.load.pace.until_free(limits.queue_max))
    }

    fn n_queued(&self) -> usize {
        self.shared.load.lock().ahead(Class::Bulk).jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{batcher::Sharing, engine::prefixes::PrefixLimits, metrics::Metrics};
    use std::sync::atomic::AtomicBool;

    /// A thread with a queue of 8 and a batch of 128 rows, which nobody may be expected to wait for longer than a second.
    fn thread() -> Arc<Shared> {
        let room = Room { rows: 128, tokens: 1000 };
        let limits = Limits {
            room,
            queue_max: 8,
            queue_tokens_max: 10_000,
            queue_wait_max: Duration::from_secs(2),
            overtake_max: Duration::ZERO,
            sharing: Sharing { interactive: 0.0, above_bulk: 0.5, aging: Duration::MAX },
            prefixes: PrefixLimits { bytes_max: 0, age_max: Duration::ZERO },
        };
        let metrics = Arc::new(Metrics::new(room.rows).unwrap());
        Arc::new(Shared { limits, stopping: AtomicBool::new(false), load: Load::new(room), metrics })
    }

    #[test]
    fn pressure_is_of_the_queue_the_rows_or_the_wait_of_one_more() {
        let shared = thread();
        let one = Room { rows: 8, tokens: 100 };
        let check = |queued, rows, expected: f64| {
            assert_eq!(shared.pressure(queued, rows, one), expected, "{queued} wait, {rows} run");
        };
        check(0, 0, 0.0);
        check(2, 0, 0.25);
        check(2, 64, 0.5);
        shared.load.pace.note(Duration::from_millis(375));
        check(2, 64, 0.5);
        // Few rows that have all tokens: one more has to wait until one has left.
        shared.load.lock().runs(8, Room { rows: 120, tokens: 99 });
        check(0, 8, 0.375);
        let ticket = |class| {
            shared.load.lock().queued[class as usize] = Queued { jobs: 1, need: one };
            Ticket { class, need: one, shared: Arc::clone(&shared) }
        };
        let before = ticket(Class::Interactive);
        check(1, 8, 0.75);
        drop(before);
        // Nobody of another class waits for bulk.
        let _bulk = ticket(Class::Bulk);
        check(1, 8, 0.375);
        shared.load.lock().runs(0, shared.limits.room);
        check(0, 0, 0.0);
    }
}
