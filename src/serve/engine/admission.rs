//! The way into the queue: a ticket, which is there before anything is computed for a job, and what a job that comes now would meet.
use super::{
    Arc, Duration, Engine, EngineError, Instant, Ordering, OwnedSemaphorePermit, Room, Shared, pace::Pace,
    rates::Rates,
};
use crate::serve::engine::rates::Work;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

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
    pub(super) free: Room,
    /// Rows that are being written.
    pub(super) n_rows: usize,
    /// What those need who have a ticket and do not run.
    waiting: Room,
}

impl Load {
    pub(super) fn new(room: Room) -> Self {
        let waiting = Room { rows: 0, tokens: 0 };
        let now = Now { rates: Rates::default(), free: room, n_rows: 0, waiting };
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
    _place: OwnedSemaphorePermit,
    _tokens: OwnedSemaphorePermit,
    need: Room,
    shared: Arc<Shared>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut now = self.shared.load.lock();
        now.waiting = now.waiting.less(self.need);
    }
}

/// The places of a queue: as many jobs, and as many tokens of theirs.
#[derive(Clone, Debug)]
pub(super) struct Places {
    jobs: Arc<Semaphore>,
    tokens: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(jobs_max: usize, tokens_max: usize) -> Self {
        Self { jobs: Arc::new(Semaphore::new(jobs_max)), tokens: Arc::new(Semaphore::new(tokens_max)) }
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
    /// Takes a place in the queue.
    ///
    /// # Errors
    /// `QueueFull` or `TokenBacklog` without waiting, or `Gone`.
    pub fn admit(&self, work: &Work) -> Result<Ticket, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Gone);
        }
        let limits = &self.shared.limits;
        let retry_after = self.shared.load.pace.until_free(limits.queue_max);
        let refuse = |reason, error| {
            self.shared.metrics.refused(reason, retry_after);
            error
        };
        let full = || refuse("full", EngineError::QueueFull { queued: limits.queue_max, retry_after });
        let backlog =
            || refuse("tokens", EngineError::TokenBacklog { tokens: limits.queue_tokens_max, retry_after });
        let need = work.room();
        let tokens = u32::try_from(need.tokens).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.places.jobs).try_acquire_owned().map_err(|_| full())?;
        let of_tokens = Arc::clone(&self.places.tokens).try_acquire_many_owned(tokens);
        let of_tokens = of_tokens.map_err(|_| backlog())?;
        let mut now = self.shared.load.lock();
        now.waiting = now.waiting.and(need);
        Ok(Ticket { _place: place, _tokens: of_tokens, need, shared: Arc::clone(&self.shared) })
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

    /// How long a job that comes now is going to wait: not at all where it has room beside all that came before, or nobody ever waited.
    pub fn wait(&self, work: &Work) -> Duration {
        let has_room = {
            let now = self.shared.load.lock();
            now.waiting.and(work.room()).fits(now.free)
        };
        let until_left = || self.shared.load.pace.until_left(self.n_queued() + 1);
        if has_room { Duration::ZERO } else { until_left().unwrap_or_default() }
    }

    /// Whether no place in the queue is left.
    pub fn is_full(&self) -> bool {
        self.places.jobs.available_permits() == 0
    }

    /// Whether more than half of the queue is taken, so that what can wait should not be asked for.
    pub fn is_pressed(&self) -> bool {
        2 * self.n_queued() > self.shared.limits.queue_max
    }

    /// The longest that a job may wait, and when to come back if it would be longer.
    pub fn wait_max(&self) -> (Duration, Duration) {
        let limits = &self.shared.limits;
        (limits.queue_wait_max, self.shared.load.pace.until_free(limits.queue_max))
    }

    fn n_queued(&self) -> usize {
        self.shared.limits.queue_max.saturating_sub(self.places.jobs.available_permits())
    }
}
