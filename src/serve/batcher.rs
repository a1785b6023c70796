//! Which waiting jobs join the batch: pure policy, the time is passed in.
//!
//! Classes go before each other, and within one the oldest job goes first; a job that has waited long enough goes as if it were of the first
//! class, so that no class starves. When the first does not fit, younger ones that fit may overtake it, the largest first so that the
//! room is used best; but once the first has waited too long nobody overtakes it any more, so large jobs cannot starve.
//! Nothing waits for company: a job that fits is picked at once.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A reader waits.
    Interactive,
    /// Nobody said.
    Default,
    /// Nobody waits for it now.
    Bulk,
}

impl Class {
    /// All, the first first.
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Default, Self::Bulk];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Default => "default",
            Self::Bulk => "bulk",
        }
    }
}

/// How classes share rows and queue.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sharing {
    /// The share that is left to interactive jobs by all others: 0 to 1.
    pub interactive: f64,
    /// The share that bulk leaves to all others: no less than that.
    pub above_bulk: f64,
    /// After waiting so long a job goes as if it were interactive.
    pub aging: Duration,
}

impl Sharing {
    /// What of `n` a class leaves to those before it, rounded down.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts stay far below 2^52, shares are from 0 to 1"
    )]
    pub fn left_by(&self, class: Class, n: usize) -> usize {
        let share = match class {
            Class::Interactive => 0.0,
            Class::Default => self.interactive,
            Class::Bulk => self.above_bulk,
        };
        (share * n as f64) as usize
    }
}

/// Room in the batch, or what a job takes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    class: Class,
    since: Instant,
}

/// Waiting jobs, oldest first.
#[derive(Debug)]
pub struct Batcher<J> {
    waiting: VecDeque<Waiting<J>>,
    /// How long the first job may be overtaken.
    overtake_max: Duration,
    sharing: Sharing,
    /// Rows of the batch, of which classes leave their shares.
    rows_max: usize,
}

impl<J> Batcher<J> {
    /// An empty queue of a batch of `rows_max` rows. `overtake_max`: how long the first job may be overtaken.
    pub fn new(overtake_max: Duration, sharing: Sharing, rows_max: usize) -> Self {
        Self { waiting: VecDeque::new(), overtake_max, sharing, rows_max }
    }

    /// Adds a job that has waited since `since`.
    pub fn push(&mut self, job: J, need: Room, class: Class, since: Instant) {
        self.waiting.push_back(Waiting { job, need, class, since });
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
    /// With `idle` (nothing runs) the first job is taken whatever it needs: it would otherwise wait for ever.
    pub fn pick(&mut self, now: Instant, free: Room, idle: bool) -> Option<Picked<J>> {
        // Of equals `min_by_key` takes the one in front, which is the oldest.
        let (position, first) =
            self.waiting.iter().enumerate().min_by_key(|(_, waiting)| self.class(waiting, now))?;
        let position = if idle || self.fits(first, free, now) {
            position
        } else if now.saturating_duration_since(first.since) >= self.overtake_max {
            return None;
        } else {
            self.largest_that_fits(free, now)?
        };
        self.waiting.remove(position).map(|waiting| Picked {
            job: waiting.job,
            need: waiting.need,
            waited: now.saturating_duration_since(waiting.since),
        })
    }

    /// The class that a job has by now.
    fn class(&self, waiting: &Waiting<J>, now: Instant) -> Class {
        let is_old = now.saturating_duration_since(waiting.since) >= self.sharing.aging;
        if is_old { Class::Interactive } else { waiting.class }
    }

    /// Whether a job fits beside what its class leaves to others.
    fn fits(&self, waiting: &Waiting<J>, free: Room, now: Instant) -> bool {
        let left = self.sharing.left_by(self.class(waiting, now), self.rows_max);
        waiting.need.fits(free.less(Room { rows: left, tokens: 0 }))
    }

    fn largest_that_fits(&self, free: Room, now: Instant) -> Option<usize> {
        let fitting = self.waiting.iter().enumerate().filter(|(_, waiting)| self.fits(waiting, free, now));
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
    const AGING: Duration = Duration::from_secs(2);
    const SHARING: Sharing = Sharing { interactive: 0.0, above_bulk: 0.5, aging: AGING };

    fn room(rows: usize, tokens: usize) -> Room {
        Room { rows, tokens }
    }

    /// Jobs are named by their number of rows; each came one millisecond after the one before.
    fn queue(rows: &[usize]) -> (Batcher<usize>, Instant) {
        let start = Instant::now();
        let mut batcher = Batcher::new(OVERTAKE_MAX, SHARING, 8);
        for (idx, &rows) in rows.iter().enumerate() {
            let since = start + Duration::from_millis(idx as u64);
            batcher.push(rows, room(rows, rows * 10), Class::Default, since);
        }
        (batcher, start)
    }

    /// Jobs of one row and these classes, named by their number, that all came now.
    fn classes(classes: &[Class], interactive: f64) -> (Batcher<usize>, Instant) {
        let now = Instant::now();
        let mut batcher = Batcher::new(OVERTAKE_MAX, Sharing { interactive, ..SHARING }, 8);
        for (number, &class) in classes.iter().enumerate() {
            batcher.push(number, room(1, 10), class, now);
        }
        (batcher, now)
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

    #[test]
    fn classes_go_before_each_other_and_within_one_the_oldest() {
        use Class::{Bulk, Default, Interactive};
        let (mut batcher, now) = classes(&[Bulk, Default, Interactive, Default, Interactive], 0.0);
        assert_eq!(picks(&mut batcher, now, room(9, 1000), false), [2, 4, 1, 3, 0]);
    }

    #[test]
    fn a_job_that_waited_long_enough_goes_before_classes_that_came_later() {
        use Class::{Bulk, Interactive};
        for (waited, expected) in [(AGING, [0, 1]), (AGING - Duration::from_nanos(1), [1, 0])] {
            let (mut batcher, start) = classes(&[Bulk], 0.0);
            let now = start + waited;
            batcher.push(1, room(1, 10), Interactive, now);
            assert_eq!(picks(&mut batcher, now, room(8, 1000), false), expected, "{waited:?}");
        }
    }

    #[test]
    fn bulk_and_default_leave_rows_to_those_before_them() {
        use Class::{Bulk, Default, Interactive};
        for (class, n_picked) in [(Interactive, 8), (Default, 6), (Bulk, 4)] {
            let (mut batcher, now) = classes(&[class; 9], 0.25);
            assert_eq!(picks(&mut batcher, now, room(8, 1000), false).len(), n_picked, "{class:?}");
            assert_eq!(
                picks(&mut batcher, now + AGING, room(1, 1000), false).len(),
                1,
                "an old one takes any"
            );
        }
    }

    #[test]
    fn bulk_that_leaves_its_rows_holds_nobody_up() {
        use Class::{Bulk, Interactive};
        let (mut batcher, start) = classes(&[Bulk, Interactive], 0.0);
        let now = start + OVERTAKE_MAX;
        assert_eq!(picks(&mut batcher, now, room(4, 1000), false), [1]);
        assert_eq!(picks(&mut batcher, now, room(4, 1000), true), [0], "an idle batch takes it");
    }

    #[test]
    fn shares_of_nothing_and_of_everything() {
        let sharing = Sharing { interactive: 0.3, above_bulk: 1.0, aging: AGING };
        assert_eq!(Class::ALL.map(|class| sharing.left_by(class, 10)), [0, 3, 10]);
        assert_eq!(Class::ALL.map(|class| SHARING.left_by(class, 1)), [0, 0, 0]);
    }
}
