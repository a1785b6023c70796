//! Which waiting jobs join the batch: pure policy, the time is passed in.
//!
//! The oldest job goes first. When it does not fit, younger ones that fit may overtake it, the largest first so that the
//! room is used best; but once the oldest has waited too long nobody overtakes it any more, so large jobs cannot starve.
//! Nothing waits for company: a job that fits is picked at once.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Room in the batch, or what a job takes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Rows decoded together.
    pub rows: usize,
    /// Prompt tokens plus the most that the rows can write.
    pub tokens: usize,
}

impl Room {
    /// Whether it is there.
    pub fn fits(self, free: Self) -> bool {
        self.rows <= free.rows && self.tokens <= free.tokens
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { rows: self.rows.saturating_add(other.rows), tokens: self.tokens.saturating_add(other.tokens) }
    }

    /// What is left when `taken` is taken away, never below zero.
    #[must_use]
    pub fn less(self, taken: Self) -> Self {
        Self { rows: self.rows.saturating_sub(taken.rows), tokens: self.tokens.saturating_sub(taken.tokens) }
    }
}

/// A job that left the queue, and how long it was in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Picked<J> {
    /// The job.
    pub job: J,
    /// What it takes.
    pub need: Room,
    /// Time from `push` to now.
    pub waited: Duration,
}

#[derive(Debug)]
struct Waiting<J> {
    job: J,
    need: Room,
    since: Instant,
}

/// Waiting jobs, oldest first.
#[derive(Debug)]
pub struct Batcher<J> {
    waiting: VecDeque<Waiting<J>>,
    overtake_max: Duration,
}

impl<J> Batcher<J> {
    /// An empty queue. `overtake_max`: how long the oldest job may be overtaken.
    pub fn new(overtake_max: Duration) -> Self {
        Self { waiting: VecDeque::new(), overtake_max }
    }

    /// Adds a job that has waited since `since`.
    pub fn push(&mut self, job: J, need: Room, since: Instant) {
        self.waiting.push_back(Waiting { job, need, since });
    }

    /// Number of waiting jobs.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next job that may join a batch with `free` room, if there is one.
    ///
    /// With `idle` (nothing runs) the oldest job is taken whatever it needs: it would otherwise wait for ever.
    pub fn pick(&mut self, now: Instant, free: Room, idle: bool) -> Option<Picked<J>> {
        let oldest = self.waiting.front()?;
        let position = if idle || oldest.need.fits(free) {
            0
        } else if now.saturating_duration_since(oldest.since) >= self.overtake_max {
            return None;
        } else {
            self.largest_that_fits(free)?
        };
        self.waiting.remove(position).map(|waiting| Picked {
            job: waiting.job,
            need: waiting.need,
            waited: now.saturating_duration_since(waiting.since),
        })
    }

    fn largest_that_fits(&self, free: Room) -> Option<usize> {
        let fitting = self.waiting.iter().enumerate().filter(|(_, waiting)| waiting.need.fits(free));
        // `max_by_key` keeps the last of equals; the reversed position makes that the oldest.
        fitting
            .max_by_key(|(position, waiting)| (waiting.need.rows, waiting.need.tokens, usize::MAX - position))
            .map(|(position, _)| position)
    }

    /// Removes every job of which `gone` (job, time waited) is true, and hands them to `each`.
    pub fn remove_if(&mut self, now: Instant, gone: impl Fn(&J, Duration) -> bool, mut each: impl FnMut(J)) {
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for waiting in self.waiting.drain(..) {
            if gone(&waiting.job, now.saturating_duration_since(waiting.since)) {
                each(waiting.job);
            } else {
                kept.push_back(waiting);
            }
        }
        self.waiting = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OVERTAKE_MAX: Duration = Duration::from_millis(100);

    fn room(rows: usize, tokens: usize) -> Room {
        Room { rows, tokens }
    }

    /// Jobs are named by their number of rows; each came one millisecond after the one before.
    fn queue(rows: &[usize]) -> (Batcher<usize>, Instant) {
        let start = Instant::now();
        let mut batcher = Batcher::new(OVERTAKE_MAX);
        for (idx, &rows) in rows.iter().enumerate() {
            batcher.push(rows, room(rows, rows * 10), start + Duration::from_millis(idx as u64));
        }
        (batcher, start)
    }

    fn picks(batcher: &mut Batcher<usize>, now: Instant, mut free: Room, idle: bool) -> Vec<usize> {
        let mut picked = Vec::new();
        while let Some(pick) = batcher.pick(now, free, idle && picked.is_empty()) {
            free = free.less(pick.need);
            picked.push(pick.job);
        }
        picked
    }

    #[test]
    fn jobs_that_fit_go_in_order_of_age() {
        let (mut batcher, now) = queue(&[1, 3, 2]);
        assert_eq!(picks(&mut batcher, now, room(6, 1000), false), [1, 3, 2]);
        assert!(batcher.is_empty());
    }

    #[test]
    fn a_large_job_does_not_block_smaller_ones_and_the_best_fit_overtakes() {
        let (mut batcher, now) = queue(&[8, 1, 3, 2]);
        assert_eq!(picks(&mut batcher, now, room(4, 1000), false), [3, 1]);
        assert_eq!(batcher.len(), 2);
    }

    #[test]
    fn nobody_overtakes_a_job_that_waited_too_long() {
        let (mut batcher, start) = queue(&[8, 1]);
        assert_eq!(picks(&mut batcher, start + OVERTAKE_MAX, room(4, 1000), false), [0; 0]);
        assert_eq!(picks(&mut batcher, start + OVERTAKE_MAX, room(9, 1000), false), [8, 1]);
    }

    #[test]
    fn overtaking_ends_exactly_at_the_limit() {
        let (mut batcher, start) = queue(&[8, 1]);
        let just_before = start + OVERTAKE_MAX - Duration::from_nanos(1);
        assert_eq!(picks(&mut batcher, just_before, room(4, 1000), false), [1]);
    }

    #[test]
    fn tokens_bound_the_batch_as_rows_do() {
        let (mut batcher, now) = queue(&[2]);
        assert_eq!(picks(&mut batcher, now, room(2, 19), false), [0; 0]);
        assert_eq!(picks(&mut batcher, now, room(2, 20), false), [2]);
    }

    #[test]
    fn an_idle_batch_takes_the_oldest_whatever_it_needs() {
        let (mut batcher, now) = queue(&[9, 1]);
        assert_eq!(picks(&mut batcher, now, room(4, 40), true), [9]);
    }

    #[test]
    fn a_picked_job_knows_how_long_it_waited() {
        let (mut batcher, start) = queue(&[1]);
        let picked = batcher.pick(start + Duration::from_millis(7), room(1, 10), false).unwrap();
        assert_eq!(picked.waited, Duration::from_millis(7));
    }

    #[test]
    fn gone_jobs_are_removed_and_the_others_keep_their_order() {
        let (mut batcher, now) = queue(&[1, 2, 3, 4]);
        let mut removed = Vec::new();
        batcher.remove_if(now, |job, _| job % 2 == 0, |job| removed.push(job));
        assert_eq!(removed, [2, 4]);
        assert_eq!(picks(&mut batcher, now, room(10, 100), false), [1, 3]);
    }
}
