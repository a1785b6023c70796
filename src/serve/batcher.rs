//! Which waiting jobs join the batch: pure policy, the time is passed in.
//!
//! Classes go before each other, and within one the oldest job goes first. When the first does not fit, younger ones that fit may overtake
//! it, the largest of the first class so that the room is used best; but once the first has waited too long nobody overtakes it any more,
//! so large jobs cannot starve. Nor can classes: while jobs wait that are old, one pick in a few is the oldest's, among the rows that its
//! class may have. Nothing waits for company: a job that fits is picked at once.
use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Duration, Instant},
};

/// One pick of so many is the oldest aged job's: no class starves, and those who go before it are held up once in eight picks.
pub const AGED_EVERY: usize = 8;

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
    /// After waiting so long a job has its turn, whatever its class.
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

    /// The larger of the rows and of the tokens.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { rows: self.rows.max(other.rows), tokens: self.tokens.max(other.tokens) }
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

/// What a batch has left, and who has the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Room that nobody has.
    pub free: Room,
    /// Rows of the jobs that run, by class.
    pub rows: [usize; Class::ALL.len()],
}

impl Standing {
    fn is_idle(&self) -> bool {
        self.rows.iter().all(|&rows| rows == 0)
    }
}

/// Jobs of one class that have waited long enough to have their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aged {
    /// How many there are.
    pub jobs: usize,
    /// The most that one of them needs.
    pub most: Room,
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
    /// Picks since the oldest aged job, or the one before it, had its turn.
    n_before_aged: usize,
}

impl<J> Batcher<J> {
    /// An empty queue of a batch of `rows_max` rows. `overtake_max`: how long the first job may be overtaken.
    pub fn new(overtake_max: Duration, sharing: Sharing, rows_max: usize) -> Self {
        Self { waiting: VecDeque::new(), overtake_max, sharing, rows_max, n_before_aged: 0 }
    }

    /// Adds a job that has waited since `since`.
    pub fn push(&mut self, job: J, need: Room, class: Class, since: Instant) {
        self.waiting.push_back(Waiting { job, need, class, since });
    }

    /// Number of waiting jobs.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What all of them need together.
    pub fn need(&self) -> Room {
        self.waiting.iter().fold(Room::default(), |sum, waiting| sum.and(waiting.need))
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the next job that may join a batch, if there is one. An idle batch takes it whatever it needs: it would otherwise wait for ever.
    pub fn pick(&mut self, now: Instant, standing: &Standing) -> Option<Picked<J>> {
        let aged = self.oldest_aged(now);
        let position = self.next(now, standing, aged)?;
        self.n_before_aged =
            if aged.is_none_or(|aged| aged == position) { 0 } else { self.n_before_aged + 1 };
        self.waiting.remove(position).map(|waiting| Picked {
            job: waiting.job,
            need: waiting.need,
            waited: now.saturating_duration_since(waiting.since),
        })
    }

    fn next(&self, now: Instant, standing: &Standing, aged: Option<usize>) -> Option<usize> {
        let is_idle = standing.is_idle();
        if let Some(aged) = aged.filter(|_| self.n_before_aged + 1 >= AGED_EVERY) {
            let Waiting { need, class, .. } = self.waiting[aged];
            let rows: usize = standing.rows[class as usize..].iter().sum();
            // One that is larger than what its class may have has its turn when its class has nothing.
            let is_turn =
                rows == 0 || need.rows + rows + self.sharing.left_by(class, self.rows_max) <= self.rows_max;
            if is_idle || is_turn {
                // Its class has rows left. If others have those, nobody takes the next ones before it.
                return (is_idle || need.fits(standing.free)).then_some(aged);
            }
        }
        // Of equals `min_by_key` takes the one in front, which is the oldest.
        let (position, first) = self.waiting.iter().enumerate().min_by_key(|(_, waiting)| waiting.class)?;
        if is_idle || self.fits(first, standing.free) {
            Some(position)
        } else if now.saturating_duration_since(first.since) >= self.overtake_max {
            None
        } else {
            self.best_fit(standing.free)
        }
    }

    fn is_aged(&self, waiting: &Waiting<J>, now: Instant) -> bool {
        waiting.class > Class::Interactive
            && now.saturating_duration_since(waiting.since) >= self.sharing.aging
    }

    fn oldest_aged(&self, now: Instant) -> Option<usize> {
        self.waiting.iter().position(|waiting| self.is_aged(waiting, now))
    }

    /// Who waits for a turn, by class.
    pub fn aged(&self, now: Instant) -> [Aged; Class::ALL.len()] {
        let mut aged = [Aged::default(); Class::ALL.len()];
        for waiting in self.waiting.iter().filter(|waiting| self.is_aged(waiting, now)) {
            let Aged { jobs, most } = &mut aged[waiting.class as usize];
            (*jobs, *most) = (*jobs + 1, most.max(waiting.need));
        }
        aged
    }

    /// Gives every job the class that `class` says.
    pub fn classify(&mut self, mut class: impl FnMut(&mut J) -> Class) {
        self.waiting.iter_mut().for_each(|waiting| waiting.class = class(&mut waiting.job));
    }

    /// Whether a job fits beside what its class leaves to others.
    fn fits(&self, waiting: &Waiting<J>, free: Room) -> bool {
        let left = self.sharing.left_by(waiting.class, self.rows_max);
        waiting.need.fits(free.less(Room { rows: left, tokens: 0 }))
    }

    /// The largest that fits of the first class of which any does.
    fn best_fit(&self, free: Room) -> Option<usize> {
        let fitting = self.waiting.iter().enumerate().filter(|(_, waiting)| self.fits(waiting, free));
        // Of equals the first, which is the oldest.
        fitting
            .min_by_key(|(_, waiting)| (waiting.class, Reverse((waiting.need.rows, waiting.need.tokens))))
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

    /// Keeps the jobs of which `stays` (job, class, need) is true, and hands the others to `each`. It is asked in the order in which they go, but for
    /// turns of those who have waited long.
    pub fn retain(&mut self, mut stays: impl FnMut(&J, Class, Room) -> bool, mut each: impl FnMut(J)) {
        for of_class in Class::ALL {
            let mut kept = VecDeque::with_capacity(self.waiting.len());
            for waiting in self.waiting.drain(..) {
                if waiting.class != of_class || stays(&waiting.job, of_class, waiting.need) {
                    kept.push_back(waiting);
                } else {
                    each(waiting.job);
                }
            }
            self.waiting = kept;
        }
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
        loop {
            let rows = usize::from(!(idle && picked.is_empty()));
            let Some(pick) = batcher.pick(now, &Standing { free, rows: [rows, 0, 0] }) else { return picked };
            free = free.less(pick.need);
            picked.push(pick.job);
        }
    }

    #[test]
    fn jobs_that_fit_go_in_order_of_age() {
        let (mut batcher, now) = queue(&[1, 3, 2]);
        assert_eq!(picks(&mut batcher, now, room(6, 1000), false), [1, 3, 2]);
        assert!(batcher.is_empty());
    }

    #[test]
    fn who_stays_is_asked_in_the_order_in_which_they_go() {
        let (mut batcher, now) = classes(
            &[Class::Bulk, Class::Default, Class::Interactive, Class::Default, Class::Interactive],
            0.0,
        );
        let (mut asked, mut left) = (Vec::new(), Vec::new());
        let stays = |&job: &usize, class, need| {
            assert_eq!(need, room(1, 10));
            asked.push((job, class));
            job < 3
        };
        batcher.retain(stays, |job| left.push(job));
        let (reader, other) = (Class::Interactive, Class::Default);
        assert_eq!(asked, [(2, reader), (4, reader), (1, other), (3, other), (0, Class::Bulk)]);
        assert_eq!(left, [4, 3]);
        assert_eq!(picks(&mut batcher, now, room(8, 1000), false), [2, 1, 0]);
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
        let standing = Standing { free: room(1, 10), rows: [1, 0, 0] };
        let picked = batcher.pick(start + Duration::from_millis(7), &standing).unwrap();
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
    fn who_comes_now_does_not_wait_for_a_crowd_that_aged() {
        let (mut batcher, start) = classes(&[Class::Bulk; 100], 0.0);
        let now = start + AGING;
        batcher.push(100, room(1, 10), Class::Interactive, now);
        assert_eq!(picks(&mut batcher, now, room(8, 1000), false)[0], 100);
    }

    /// A batch that is always full of jobs of four rows, of which one leaves before each pick: the numbers of picks at which bulk was taken
    /// beside an endless interactive load.
    fn turns(n_picks: usize, waited: Duration) -> Vec<usize> {
        let (mut batcher, start) = classes(&[], 0.0);
        (0..9).for_each(|_| batcher.push(0, room(4, 10), Class::Bulk, start));
        let (now, mut running) = (start + waited, VecDeque::from([Class::Interactive; 2]));
        let mut turns = Vec::new();
        for number in 0..n_picks {
            batcher.push(1, room(4, 10), Class::Interactive, now);
            running.pop_front();
            let mut rows = [0; 3];
            running.iter().for_each(|&class| rows[class as usize] += 4);
            let picked = batcher.pick(now, &Standing { free: room(4, 1000), rows }).unwrap();
            turns.extend((picked.job == 0).then_some(number));
            running.push_back(if picked.job == 0 { Class::Bulk } else { Class::Interactive });
        }
        turns
    }

    #[test]
    fn one_pick_in_a_few_is_an_aged_job_s_however_many_go_before_it() {
        assert_eq!(turns(32, AGING), [7, 15, 23, 31]);
        assert!(turns(100, AGING - Duration::from_nanos(1)).is_empty(), "nor any before it is old");
    }

    #[test]
    fn an_aged_job_takes_no_row_of_those_before_it_and_holds_others_up_only_where_its_class_has_some() {
        for (rows, free, expected) in [
            ([4, 0, 0], room(4, 1000), Some(0)),
            ([1, 0, 4], room(3, 1000), Some(1)),
            ([0, 0, 1], room(7, 1000), Some(1)),
            ([5, 0, 0], room(3, 1000), None),
        ] {
            let (mut batcher, start) = classes(&[], 0.0);
            batcher.push(0, room(4, 10), Class::Bulk, start);
            let now = start + AGING;
            (1..9).for_each(|_| batcher.push(1, room(1, 10), Class::Interactive, now));
            let full = Standing { free: room(1, 1000), rows: [7, 0, 0] };
            (1..AGED_EVERY).for_each(|_| assert_eq!(batcher.pick(now, &full).unwrap().job, 1));
            let picked = batcher.pick(now, &Standing { free, rows }).map(|picked| picked.job);
            assert_eq!(picked, expected, "{rows:?}");
        }
    }

    #[test]
    fn an_aged_job_that_is_larger_than_the_rows_of_its_class_does_not_starve() {
        let (mut batcher, start) = classes(&[], 0.0);
        batcher.push(0, room(5, 10), Class::Bulk, start);
        let now = start + AGING;
        (1..20).for_each(|_| batcher.push(1, room(1, 10), Class::Interactive, now));
        let running = |n: usize| Standing { free: room(8 - n, 1000), rows: [n, 0, 0] };
        (1..AGED_EVERY).for_each(|_| assert_eq!(batcher.pick(now, &running(7)).unwrap().job, 1));
        // Nobody goes before it until as many have left as it needs.
        assert!((4..8).all(|n| batcher.pick(now, &running(n)).is_none()));
        assert_eq!(batcher.pick(now, &running(3)).unwrap().job, 0);
    }

    #[test]
    fn an_idle_batch_takes_an_aged_job_in_its_turn_too() {
        let (mut batcher, start) = classes(&[Class::Bulk], 0.0);
        let now = start + AGING;
        (1..=AGED_EVERY).for_each(|number| batcher.push(number, room(1, 10), Class::Interactive, now));
        let idle = Standing { free: room(8, 1000), ..Standing::default() };
        let jobs: Vec<_> = (0..9).map(|_| batcher.pick(now, &idle).unwrap().job).collect();
        assert_eq!(jobs, [1, 2, 3, 4, 5, 6, 7, 0, 8]);
    }

    #[test]
    fn the_best_fit_is_looked_for_in_the_first_class_of_which_any_fits() {
        let (mut batcher, start) = classes(&[], 0.0);
        for (job, class) in [(8, Class::Interactive), (1, Class::Interactive), (2, Class::Interactive)] {
            batcher.push(job, room(job, 10), class, start);
        }
        batcher.push(3, room(3, 10), Class::Default, start);
        assert_eq!(picks(&mut batcher, start, room(6, 1000), false), [2, 1, 3]);
    }

    #[test]
    fn who_is_given_another_class_goes_as_one_of_it() {
        let (mut batcher, now) = classes(&[Class::Bulk, Class::Default, Class::Bulk], 0.0);
        batcher.classify(|&mut job| if job == 2 { Class::Interactive } else { Class::Default });
        assert_eq!(picks(&mut batcher, now, room(8, 1000), false), [2, 0, 1]);
    }

    #[test]
    fn bulk_and_default_leave_rows_to_those_before_them() {
        use Class::{Bulk, Default, Interactive};
        for (class, n_picked) in [(Interactive, 8), (Default, 6), (Bulk, 4)] {
            let (mut batcher, now) = classes(&[class; 9], 0.25);
            assert_eq!(picks(&mut batcher, now, room(8, 1000), false).len(), n_picked, "{class:?}");
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
