//! The way into the queue: a ticket, which is there before anything is computed for a job, and what a job that comes now would meet.
use super::{
    Arc, Class, Duration, Engine, EngineError, Instant, Limits, Ordering, Precedence, Room, Shared,
    pace::Pace,
    patience::Patience,
    pressure,
    rates::{Rates, Work},
};
use crate::serve::batcher::{AGED_EVERY, Aged};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The longest wait over what a job may be expected to wait when it comes. Whoever is let in and then refused because she waited too long has
/// lost that time, and nobody is who waits up to twice as long as was expected, unless the queue is made short in the meantime.
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
    pub(super) patience: Patience,
    /// Room that no running job has.
    free: Room,
    /// Rows that are being written, or are about to be.
    n_rows: usize,
    /// Who has a ticket and does not run, by class.
    queued: [Queued; Class::ALL.len()],
    /// Who of them is aged.
    pub(super) aged: [Aged; Class::ALL.len()],
}

/// Those of one class who have a ticket.
#[derive(Clone, Copy, Debug, Default)]
struct Queued {
    jobs: usize,
    need: Room,
}

impl Queued {
    fn add(&mut self, need: Room) {
        *self = Self { jobs: self.jobs + 1, need: self.need.and(need) };
    }

    fn remove(&mut self, need: Room) {
        *self = Self { jobs: self.jobs.saturating_sub(1), need: self.need.less(need) };
    }
}

impl Now {
    /// Notes what runs, and who of those who wait is aged. `takes_one`: whether another one could begin now.
    pub(super) fn runs(
        &mut self,
        (n_rows, takes_one): (usize, bool),
        free: Room,
        aged: [Aged; Class::ALL.len()],
    ) {
        (self.n_rows, self.free, self.aged) = (n_rows, free, aged);
        let above_bulk = sum(&self.queued[..Class::Bulk as usize]);
        if takes_one && above_bulk.jobs == 0 {
            self.patience.ran_dry();
        }
    }

    /// Those who go before a job of a class that comes now: of its class and those before it all, of the others who have their turn.
    fn ahead(&self, class: Class) -> Queued {
        let (own, behind) = self.queued.split_at(class as usize + 1);
        let (own, behind) = (sum(own), sum(behind));
        // The first may be due at once.
        let turns = own.jobs / (AGED_EVERY - 1) + 1;
        let aged = self.aged[class as usize + 1..].iter();
        let due = aged.clone().map(|aged| aged.jobs).sum::<usize>().min(turns);
        let most = aged.map(|aged| aged.most).fold(Room::default(), Room::max);
        let need = std::iter::repeat_n(most, due).fold(own.need, Room::and);
        // Who is young now may be old when the others have left.
        Queued { jobs: own.jobs + behind.jobs.min(turns), need }
    }

    /// How long a job of a class that comes now is going to wait, where it takes so long until so many have left: not at all where it has room
    /// beside all that go before it, and they are not enough without it, or nobody knows.
    fn wait(
        &self,
        need: Room,
        (class, left): (Class, usize),
        rows_enough: usize,
        until_left: impl FnOnce(usize) -> Option<Duration>,
    ) -> Duration {
        let ahead = self.ahead(class);
        let has_room = ahead.need.and(need).fits(self.free.less(Room { rows: left, tokens: 0 }));
        if has_room && self.n_rows + ahead.need.rows < rows_enough {
            return Duration::ZERO;
        }
        until_left(ahead.jobs + 1).unwrap_or_default()
    }
}

fn sum(queued: &[Queued]) -> Queued {
    queued.iter().fold(Queued::default(), |sum, queued| Queued {
        jobs: sum.jobs + queued.jobs,
        need: sum.need.and(queued.need),
    })
}

impl Load {
    pub(super) fn new(room: Room) -> Self {
        let (queued, aged) = Default::default();
        let (rates, patience) = Default::default();
        let now = Now { rates, patience, free: room, n_rows: 0, queued, aged };
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
    precedence: Arc<Precedence>,
    /// The class as one of which it is counted.
    class: Class,
    need: Room,
    shared: Arc<Shared>,
}

impl Ticket {
    /// The class that it has by now; counted as one of that from then on.
    pub(super) fn class(&mut self) -> Class {
        let class = self.precedence.class();
        if class != self.class {
            let mut now = self.shared.load.lock();
            now.queued[self.class as usize].remove(self.need);
            now.queued[class as usize].add(self.need);
            self.class = class;
        }
        class
    }
}

impl Ticket {
    /// Whether bulk asked for it, whoever joined later.
    pub(super) fn is_of_bulk(&self) -> bool {
        self.precedence.first() == Class::Bulk
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.load.lock().queued[self.class as usize].remove(self.need);
    }
}

impl Shared {
    /// How long a job of a class that comes now and needs so much room is going to wait. `takes`: how long such a job takes alone, which says
    /// something where nobody has waited yet.
    fn wait(&self, need: Room, class: Class, takes: Option<Duration>) -> Duration {
        let Limits { sharing, room, rows_enough, .. } = &self.limits;
        let left = sharing.left_by(class, room.rows);
        let until_left = |n_jobs: usize| {
            // So many have room beside each other.
            let n_rounds = n_jobs.div_ceil((rows_enough / need.rows.max(1)).max(1));
            let of_all = |takes: Duration| takes.saturating_mul(u32::try_from(n_rounds).unwrap_or(u32::MAX));
            // The first to wait is let in, or it would never be seen how long that takes.
            self.load.pace.until_left(n_jobs).or(takes.filter(|_| n_jobs > 1).map(of_all))
        };
        self.load.lock().wait(need, (class, left), *rows_enough, until_left)
    }

    /// The longest that a job of a class may be expected to wait now.
    pub(super) fn wait_max(&self, class: Class) -> Duration {
        let (now, usual) = (self.load.lock(), self.limits.expected_wait_max());
        // Those of later classes who may have their turn first are as many more that leave.
        let turns = now.ahead(class).jobs - sum(&now.queued[..=class as usize]).jobs;
        let Some(leaves) = self.load.pace.until_left(1 + turns) else { return usual };
        now.patience.wait_max(class, usual, (leaves, now.rates.preparation()))
    }

    /// For how many jobs, itself among them, one of each class that waits may still have to wait; none where the queue is as long as is usual.
    pub(super) fn patience(&self) -> Option<[usize; Class::ALL.len()]> {
        if !self.load.lock().patience.has_overflowed() {
            return None;
        }
        let leaves = self.load.pace.until_left(1)?;
        Some(Class::ALL.map(|class| match class {
            Class::Bulk => usize::MAX,
            Class::Interactive | Class::Default => {
                let longest = WAIT_OVER_EXPECTED * self.wait_max(class);
                // The next one stays however long that takes: it is the one by which that is seen.
                usize::try_from(longest.as_nanos() / leaves.as_nanos()).unwrap_or(usize::MAX).max(1)
            }
        }))
    }

    /// How near the thread is to where it refuses, with jobs that wait and rows that run, if one more comes of which nobody said how it
    /// is to be served.
    pub(super) fn pressure(&self, queued: usize, rows: usize, need: Room) -> f64 {
        let wait = (self.wait(need, Class::Default, None), self.wait_max(Class::Default));
        // Those who wait only because enough run without them are as much work as if they ran.
        let rows = rows + sum(&self.load.lock().queued).need.rows;
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
    pub fn admit(&self, work: &Work, precedence: Arc<Precedence>) -> Result<Ticket, EngineError> {
        if self.shared.stopping.load(Ordering::Relaxed) {
            return Err(EngineError::Gone);
        }
        let (need, class) = (work.room(), precedence.class());
        let retry_after = self.retry_after();
        let (jobs_max, tokens_max) = self.places(class);
        let mut now = self.shared.load.lock();
        let Queued { jobs, need: taken } = sum(&now.queued);
        // One that is larger than the queue says nothing of how many come.
        let is_full = jobs >= jobs_max || taken.and(need).tokens > tokens_max.max(need.tokens);
        if class < Class::Bulk && is_full {
            now.patience.overflowed();
        }
        if jobs >= jobs_max {
            self.shared.metrics.refused("full", retry_after);
            return Err(EngineError::QueueFull { queued: jobs_max, retry_after });
        }
        if taken.and(need).tokens > tokens_max {
            self.shared.metrics.refused("tokens", retry_after);
            return Err(EngineError::TokenBacklog { tokens: tokens_max, retry_after });
        }
        now.queued[class as usize].add(need);
        Ok(Ticket { precedence, class, need, shared: Arc::clone(&self.shared) })
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

    /// How long a job of a class that comes now is going to wait.
    pub fn wait(&self, work: &Work, class: Class) -> Duration {
        self.shared.wait(work.room(), class, self.takes(work))
    }

    /// Whether the queue has a place for a job of a class, and room for its tokens.
    pub fn has_place(&self, work: &Work, class: Class) -> bool {
        let (jobs_max, tokens_max) = self.places(class);
        let Queued { jobs, need } = sum(&self.shared.load.lock().queued);
        jobs < jobs_max && need.and(work.room()).tokens <= tokens_max
    }

    /// Whether more than half of the queue is taken, or it is short because it was full, so that what can wait should not be asked for.
    pub fn is_pressed(&self) -> bool {
        let now = self.shared.load.lock();
        now.patience.has_overflowed() || 2 * sum(&now.queued).jobs > self.shared.limits.queue_max
    }

    /// The longest that a job of a class may be expected to wait now.
    pub fn wait_max(&self, class: Class) -> Duration {
        self.shared.wait_max(class)
    }

    /// The same where the queue was never full.
    pub fn usual_wait_max(&self) -> Duration {
        self.shared.limits.expected_wait_max()
    }

    /// Somebody of a class came who would have waited longer; nobody waits for bulk, whose queue says nothing of others'.
    pub fn overflowed(&self, class: Class) {
        if class < Class::Bulk {
            self.shared.load.lock().patience.overflowed();
        }
    }

    /// When half of a full queue would have left: in overload a place is free sooner, and taken by others.
    pub fn retry_after(&self) -> Duration {
        self.shared.load.pace.until_free(self.shared.limits.queue_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::{
        batcher::{Batcher, Sharing, Standing},
        engine::{prefixes::PrefixLimits, pulse::Pulse},
        metrics::Metrics,
    };
    use std::sync::atomic::AtomicBool;

    const LEAVES_EVERY: Duration = Duration::from_millis(50);
    const AGING: Duration = Duration::from_secs(2);
    const NEED: Room = Room { rows: 4, tokens: 100 };
    const ROOM: Room = Room { rows: 8, tokens: 1000 };
    const PROBE: usize = usize::MAX;

    /// A batch of two jobs, of which one leaves after each interval, and those who wait for it.
    struct Simulated {
        batcher: Batcher<usize>,
        classes: Vec<Class>,
        running: Vec<Class>,
        queued: [Queued; 3],
        now: Instant,
    }

    impl Simulated {
        fn new(sharing: Sharing) -> Self {
            let batcher = Batcher::new(Duration::from_millis(250), sharing, ROOM.rows);
            let running = vec![Class::Interactive; 2];
            Self { batcher, classes: Vec::new(), running, queued: Default::default(), now: Instant::now() }
        }

        fn push(&mut self, job: usize, class: Class, since: Instant) {
            self.batcher.push(job, NEED, class, since);
            self.queued[class as usize].add(NEED);
        }

        fn come(&mut self, class: Class, waited: Duration) {
            self.push(self.classes.len(), class, self.now.checked_sub(waited).unwrap());
            self.classes.push(class);
        }

        fn standing(&self) -> Standing {
            let mut standing = Standing { free: ROOM, ..Standing::default() };
            for &class in &self.running {
                standing.free = standing.free.less(NEED);
                standing.rows[class as usize] += NEED.rows;
            }
            standing
        }

        fn expected(&self, class: Class, sharing: &Sharing) -> Duration {
            let (queued, aged, free) = (self.queued, self.batcher.aged(self.now), self.standing().free);
            let (rates, patience) = Default::default();
            let now = Now { rates, patience, free, n_rows: 8, queued, aged };
            let pace = Pace::default();
            pace.note(LEAVES_EVERY);
            let left = sharing.left_by(class, ROOM.rows);
            now.wait(NEED, (class, left), usize::MAX, |n_jobs| pace.until_left(n_jobs))
        }

        /// One leaves, and who fits joins; says whether that was the probe.
        fn pass(&mut self, probe: Class) -> bool {
            self.now += LEAVES_EVERY;
            self.running.remove(0);
            while let Some(picked) = self.batcher.pick(self.now, &self.standing()) {
                let class = self.classes.get(picked.job).copied().unwrap_or(probe);
                self.queued[class as usize].remove(NEED);
                self.running.push(class);
                if picked.job == PROBE {
                    return true;
                }
            }
            false
        }
    }

    #[test]
    fn nobody_waits_longer_than_was_expected_where_many_of_all_classes_wait() {
        let mut seed = 7_u32;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as usize % n
        };
        for round in 0..300 {
            let probe = Class::ALL[round % 3];
            // Bulk that leaves rows waits for those too.
            let above_bulk = if probe == Class::Bulk { 0.0 } else { 0.5 };
            let sharing = Sharing { interactive: 0.0, above_bulk, aging: AGING };
            let mut simulated = Simulated::new(sharing);
            for _ in 0..below(40) {
                let waited = Duration::from_millis(below(4000) as u64);
                simulated.come(Class::ALL[below(3)], waited);
            }
            // So that turns are due or were just had.
            for _ in 0..below(12).min(simulated.classes.len() / 2) {
                simulated.pass(probe);
            }
            let (came, expected) = (simulated.now, simulated.expected(probe, &sharing));
            simulated.push(PROBE, probe, came);
            while !simulated.pass(probe) {}
            let waited = simulated.now - came;
            assert!(waited <= expected, "{round}: {probe:?} waited {waited:?}, not {expected:?}");
        }
    }

    #[test]
    fn an_aged_job_that_takes_the_room_makes_others_wait() {
        let sharing = Sharing { interactive: 0.0, above_bulk: 0.5, aging: AGING };
        for (waited, expected) in
            [(AGING, 2 * LEAVES_EVERY), (AGING - Duration::from_nanos(1), Duration::ZERO)]
        {
            let mut simulated = Simulated::new(sharing);
            simulated.running.pop();
            simulated.come(Class::Bulk, waited);
            assert_eq!(simulated.expected(Class::Interactive, &sharing), expected, "{waited:?}");
        }
    }

    /// A thread with a queue of 8 and a batch of 128 rows, which nobody may be expected to wait for longer than a second.
    fn thread() -> Arc<Shared> {
        let room = Room { rows: 128, tokens: 1000 };
        let limits = Limits {
            room,
            rows_enough: 128,
            queue_max: 8,
            queue_tokens_max: 10_000,
            queue_wait_max: Duration::from_secs(2),
            overtake_max: Duration::ZERO,
            sharing: Sharing { interactive: 0.0, above_bulk: 0.5, aging: Duration::MAX },
            prefixes: PrefixLimits { bytes_max: 0, age_max: Duration::ZERO },
            step_max: Duration::MAX,
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let (stopping, load, pulse) = (AtomicBool::new(false), Load::new(room), Pulse::default());
        Arc::new(Shared { limits, stopping, load, pulse, metrics })
    }

    const ONE: Room = Room { rows: 8, tokens: 100 };

    fn ticket(shared: &Arc<Shared>, class: Class) -> Ticket {
        shared.load.lock().queued[class as usize].add(ONE);
        let precedence = Arc::new(Precedence::new(class));
        Ticket { precedence, class, need: ONE, shared: Arc::clone(shared) }
    }

    #[test]
    fn where_nobody_has_waited_yet_a_wait_is_of_those_that_have_room_beside_each_other() {
        let (shared, takes) = (thread(), Duration::from_millis(300));
        shared.load.lock().runs((128, false), Room::default(), Default::default());
        let check = |expected| {
            assert_eq!(shared.wait(ONE, Class::Default, Some(takes)), expected);
        };
        // Whoever is first is let in and measured.
        check(Duration::ZERO);
        let _waiting: Vec<Ticket> = (0..16).map(|_| ticket(&shared, Class::Default)).collect();
        check(2 * takes);
        assert_eq!(shared.wait(ONE, Class::Default, None), Duration::ZERO, "nobody knows");
        shared.load.pace.note(Duration::from_millis(10));
        check(17 * Duration::from_millis(10));
    }

    #[test]
    fn who_waits_in_a_queue_that_was_full_stays_for_twice_what_one_may_be_expected_to_wait_who_comes() {
        let (shared, leaves) = (thread(), Duration::from_millis(50));
        assert_eq!(shared.patience(), None);
        shared.load.lock().patience.overflowed();
        assert_eq!(shared.patience(), None, "nobody knows how fast they leave");
        shared.load.pace.note(leaves);
        // The next place is free after 50 ms; nothing is known of how long a prompt takes, which is little more.
        assert_eq!(shared.patience(), Some([2, 2, usize::MAX]));
        (0..20).for_each(|_| shared.load.pace.note(Duration::from_secs(60)));
        assert_eq!(shared.patience(), Some([1, 1, usize::MAX]), "the next one stays");
    }

    #[test]
    fn a_queue_that_was_full_is_short_while_somebody_waits_or_enough_run() {
        let (shared, usual, leaves) = (thread(), Duration::from_secs(1), Duration::from_millis(50));
        shared.load.pace.note(leaves);
        let is_short = || shared.wait_max(Class::Default) < 2 * leaves;
        assert_eq!(shared.wait_max(Class::Default), usual);
        let runs = |n_rows, takes_one| {
            shared.load.lock().runs((n_rows, takes_one), shared.limits.room, Default::default());
        };
        shared.load.lock().patience.overflowed();
        assert!(is_short());
        assert_eq!(shared.wait_max(Class::Bulk), usual);
        let waits = ticket(&shared, Class::Default);
        runs(8, true);
        assert!(is_short(), "somebody waits");
        drop(waits);
        runs(128, false);
        assert!(is_short(), "enough run");
        let _bulk = ticket(&shared, Class::Bulk);
        runs(120, true);
        assert_eq!(shared.wait_max(Class::Default), usual, "bulk may wait");
    }

    #[test]
    fn a_short_queue_lets_the_next_one_in_whoever_of_later_classes_waits() {
        let shared = thread();
        shared.load.pace.note(Duration::from_millis(50));
        shared.load.lock().runs((128, false), Room::default(), Default::default());
        shared.load.lock().patience.overflowed();
        let is_let_in = |class| shared.wait(ONE, class, None) < shared.wait_max(class);
        let bulk = [ticket(&shared, Class::Bulk), ticket(&shared, Class::Bulk)];
        assert!(is_let_in(Class::Default) && is_let_in(Class::Interactive));
        let _default = ticket(&shared, Class::Default);
        assert!(is_let_in(Class::Interactive));
        assert!(!is_let_in(Class::Default), "one waits");
        drop(bulk);
        assert!(!is_let_in(Class::Default), "one waits");
    }

    #[test]
    fn pressure_is_of_the_queue_the_rows_or_the_wait_of_one_more() {
        let (shared, one) = (thread(), ONE);
        let check = |queued, rows, expected: f64| {
            assert_eq!(shared.pressure(queued, rows, one), expected, "{queued} wait, {rows} run");
        };
        check(0, 0, 0.0);
        check(2, 0, 0.25);
        check(2, 64, 0.5);
        shared.load.pace.note(Duration::from_millis(375));
        check(2, 64, 0.5);
        // Few rows that have all tokens: one more has to wait until one has left.
        shared.load.lock().runs((8, true), Room { rows: 120, tokens: 99 }, Default::default());
        check(0, 8, 0.375);
        let before = ticket(&shared, Class::Interactive);
        check(1, 8, 0.75);
        drop(before);
        // Bulk that waits may have its turn first, but no more than one of it.
        let _bulk = [ticket(&shared, Class::Bulk), ticket(&shared, Class::Bulk)];
        check(1, 8, 0.75);
        shared.load.lock().runs((0, true), shared.limits.room, Default::default());
        // Nobody would wait; the two are going to run.
        check(0, 0, 0.125);
    }
}
