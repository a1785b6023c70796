//! What the device's time costs, and whom it is attributed to: pure, times come in as arguments.
//!
//! The device is what model threads compute on. Each of its steps is split over the rows that it computed, by tokens; what
//! lies between steps is idle. So all times together are the uptime, and all costs together the uptime at its price.
pub mod clock;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Nanoseconds of an hour: a price is told for an hour, as machines are rented.
const NANOSECONDS_PER_HOUR: u128 = 3_600_000_000_000;

/// What an hour of the device costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Price {
    /// Billionths of the currency's unit; 0 where costs are not told.
    pub nanos_per_hour: u64,
    /// Code of ISO 4217.
    pub currency: String,
    /// What the operator calls this price; empty where it has no name.
    pub version: String,
}

impl Price {
    /// No price: costs are not told.
    pub fn none() -> Self {
        Self { nanos_per_hour: 0, currency: String::new(), version: String::new() }
    }

    /// Whether costs are told.
    pub fn is_told(&self) -> bool {
        self.nanos_per_hour > 0
    }

    /// What so many nanoseconds cost, in billionths of the currency's unit, rounded down.
    fn of(&self, nanoseconds: u64) -> u64 {
        let nanos = u128::from(nanoseconds) * u128::from(self.nanos_per_hour) / NANOSECONDS_PER_HOUR;
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// What time was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spending {
    /// A generation that gave an answer.
    Useful,
    /// Rows of such a generation that were stopped early.
    Pruned,
    /// A generation for which nobody waited to its end.
    Cancelled,
    /// A generation whose deadline passed.
    Deadline,
    /// A generation that gave no answer: the model failed, or wrote no valid list.
    Failed,
    /// Nothing: it lies between steps.
    Idle,
}

impl Spending {
    /// Everything that time can be spent on.
    pub const ALL: [Self; 6] =
        [Self::Useful, Self::Pruned, Self::Cancelled, Self::Deadline, Self::Failed, Self::Idle];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Useful => "useful",
            Self::Pruned => "pruned",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::Failed => "failed",
            Self::Idle => "idle",
        }
    }
}

/// What time was saved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saving {
    /// A stored answer: what it took to make it.
    Cache,
    /// An answer that was generated for another request at the same time: what it took.
    Coalesce,
    /// Prompt tokens that were known: what as many take that are not. An estimate.
    Prefix,
    /// Rows that were stopped early: what they would have taken, had they become as long as the others. An estimate.
    Pruning,
}

impl Saving {
    /// Everything that time can be saved by.
    pub const ALL: [Self; 4] = [Self::Cache, Self::Coalesce, Self::Prefix, Self::Pruning];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Coalesce => "coalesce",
            Self::Prefix => "prefix",
            Self::Pruning => "pruning",
        }
    }
}

/// What a generation cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Its share of the time of all steps that computed something for it.
    pub device_time: Duration,
    /// The same at the price of the server, in billionths of the currency's unit; 0 where there is no price.
    pub nanos: u64,
}

/// A cost that is paid once: by the request that is answered first.
#[derive(Debug)]
pub struct Owed {
    nanos: AtomicU64,
}

impl Owed {
    /// Nobody has paid it.
    pub fn new(cost: Cost) -> Self {
        Self { nanos: AtomicU64::new(cost.nanos) }
    }

    /// It was paid, at another server.
    pub fn paid() -> Self {
        Self { nanos: AtomicU64::new(0) }
    }

    /// What is to be paid, in billionths of the currency's unit; nothing from now on.
    pub fn pay(&self) -> u64 {
        self.nanos.swap(0, Ordering::Relaxed)
    }
}

/// A sum of times, and with it of costs.
#[derive(Debug, Default)]
pub struct Account {
    nanoseconds: AtomicU64,
}

impl Account {
    /// Adds time, and returns by how much the cost of all of it grew, in billionths of the currency's unit.
    ///
    /// Only the sum is rounded, never a part: what one amount leaves of a billionth is in a later one, so that amounts add up to the
    /// cost of the sum whichever threads they are added by.
    pub fn add(&self, time: Duration, price: &Price) -> u64 {
        let added = nanoseconds(time);
        let before = self.nanoseconds.fetch_add(added, Ordering::Relaxed);
        price.of(before.saturating_add(added)) - price.of(before)
    }
}

/// Splits the time of a step by weights, such as the tokens that were computed for each group. The parts add up to the whole, to
/// the nanosecond; without any weight there are none.
pub fn split(took: Duration, weights: &[u64]) -> impl Iterator<Item = Duration> {
    let whole = u128::from(nanoseconds(took));
    let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    // Each part reaches from one rounded border to the next, so nothing is lost between them.
    let border = move |below: u128| u64::try_from(whole * below / total.max(1)).unwrap_or(u64::MAX);
    let mut below = 0;
    weights.iter().filter(move |_| total > 0).map(move |&weight| {
        let from = border(below);
        below += u128::from(weight);
        Duration::from_nanos(border(below) - from)
    })
}

/// What one generation uses, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    total: Duration,
    /// Of rows that were stopped early.
    pruned: Duration,
    /// Of one row that has run since the prefill, or since rows were drawn.
    per_row: Duration,
    n_steps: u32,
    /// Of the prompt, as far as it was computed, and of all rows.
    tokens: u64,
    /// Rows that ended by themselves, and their tokens.
    ended: (u32, u64),
    /// The same of rows that were stopped early.
    stopped: (u32, u64),
}

impl Used {
    /// Adds a prefill, which was for this generation alone; its tokens are those of the prompt that were computed, and the first of each row.
    pub fn prefill(&mut self, took: Duration, n_tokens: usize) {
        self.total += took;
        self.tokens += n_tokens as u64;
    }

    /// Adds the share in a step in which each of `n_rows` rows got a token.
    pub fn step(&mut self, share: Duration, n_rows: usize) {
        self.total += share;
        self.per_row += share / u32::try_from(n_rows).unwrap_or(u32::MAX).max(1);
        self.n_steps += 1;
        self.tokens += n_rows as u64;
    }

    /// Adds rows, each with its first token, that run on without those before them.
    pub fn drawn(&mut self, n_rows: usize) {
        self.tokens += n_rows as u64;
        (self.per_row, self.n_steps) = (Duration::ZERO, 0);
    }

    /// Notes the end of a row of so many tokens.
    pub fn row_ended(&mut self, n_tokens: usize, is_pruned: bool) {
        let rows = if is_pruned { &mut self.stopped } else { &mut self.ended };
        *rows = (rows.0 + 1, rows.1 + n_tokens as u64);
        if is_pruned {
            self.pruned += self.per_row;
        }
    }

    /// All time.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// All tokens that were computed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Time of rows that were stopped early.
    pub fn pruned(&self) -> Duration {
        // Parts of a row are rounded apart from the whole.
        self.pruned.min(self.total)
    }

    /// Time that rows which were stopped early did not take, if they had become as long as those that ended by themselves.
    pub fn spared(&self) -> Duration {
        let ((n_ended, ended), (n_stopped, stopped)) = (self.ended, self.stopped);
        let expected = ended * u64::from(n_stopped) / u64::from(n_ended.max(1));
        let n_tokens = u32::try_from(expected.saturating_sub(stopped)).unwrap_or(u32::MAX);
        (self.per_row / self.n_steps.max(1)).saturating_mul(n_tokens)
    }
}

/// How long the prefill of a token takes, over all that were computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrefillRate {
    took: Duration,
    n_tokens: u64,
}

impl PrefillRate {
    /// Notes a prefill.
    pub fn note(&mut self, n_tokens: usize, took: Duration) {
        self.took = self.took.saturating_add(took);
        self.n_tokens += n_tokens as u64;
    }

    /// About how long the prefill of so many tokens takes.
    pub fn of(&self, n_tokens: usize) -> Duration {
        let nanoseconds =
            u128::from(nanoseconds(self.took)) * n_tokens as u128 / u128::from(self.n_tokens.max(1));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ns(nanoseconds: u64) -> Duration {
        Duration::from_nanos(nanoseconds)
    }

    fn price(nanos_per_hour: u64) -> Price {
        Price { nanos_per_hour, ..Price::none() }
    }

    #[test]
    fn an_hour_costs_its_price_and_a_moment_its_part() {
        let hour = Duration::from_secs(3600);
        let check = |nanos_per_hour, time, expected| {
            assert_eq!(Account::default().add(time, &price(nanos_per_hour)), expected, "{time:?}");
        };
        check(1_000_000_000, hour, 1_000_000_000);
        check(1_000_000_000, ns(3_600), 1);
        check(1_000_000_000, ns(3_599), 0);
        check(0, hour, 0);
        check(u64::MAX, 24 * hour, u64::MAX);
    }

    #[test]
    fn amounts_add_up_to_the_cost_of_all_time_however_small_they_are() {
        let (account, price) = (Account::default(), price(2_345_678_901));
        let times = (1..5_000u64).map(|n| ns(n * n % 997));
        let amounts: u64 = times.clone().map(|time| account.add(time, &price)).sum();
        assert_eq!(amounts, Account::default().add(times.sum(), &price));
        assert!(amounts > 0);
    }

    #[test]
    fn threads_that_add_at_the_same_time_lose_nothing() {
        let (account, price) = (Account::default(), price(3_333_333_333));
        let adding = || (0..10_000).map(|_| account.add(ns(997), &price)).sum::<u64>();
        let amounts = std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(adding));
            threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>()
        });
        assert_eq!(amounts, Account::default().add(40_000 * ns(997), &price));
    }

    #[test]
    fn a_cost_is_paid_once() {
        let owed = Owed::new(Cost { nanos: 7, ..Cost::default() });
        assert_eq!([owed.pay(), owed.pay()], [7, 0]);
    }

    #[test]
    fn parts_of_a_step_follow_their_weights_and_add_up() {
        let check = |took, weights: &[u64], expected: &[u64]| {
            let expected: Vec<_> = expected.iter().map(|&part| ns(part)).collect();
            assert_eq!(split(ns(took), weights).collect::<Vec<_>>(), expected, "{took} by {weights:?}");
        };
        check(100, &[1, 3], &[25, 75]);
        check(10, &[1, 1, 1], &[3, 3, 4]);
        check(1, &[1, 1], &[0, 1]);
        check(7, &[0, 5, 0], &[0, 7, 0]);
        check(7, &[0, 0], &[]);
        check(7, &[], &[]);
        let uneven: Vec<u64> = (1..100).map(|n| n * n % 17).collect();
        assert_eq!(split(ns(1_000_003), &uneven).sum::<Duration>(), ns(1_000_003));
    }

    #[test]
    fn a_row_that_is_stopped_has_used_its_part_of_the_steps_until_then() {
        let mut used = Used::default();
        used.prefill(ns(1000), 14);
        used.step(ns(40), 4);
        used.step(ns(40), 4);
        used.row_ended(3, true);
        used.step(ns(30), 3);
        (0..3).for_each(|_| used.row_ended(4, false));
        assert_eq!((used.total(), used.pruned()), (ns(1110), ns(20)));
        // One token less than the others have, at ten nanoseconds a step.
        assert_eq!(used.spared(), ns(10));
    }

    #[test]
    fn without_early_stopping_nothing_is_spared() {
        let mut used = Used::default();
        used.step(ns(40), 4);
        used.row_ended(2, false);
        assert_eq!((used.pruned(), used.spared()), (ns(0), ns(0)));
        let mut longer = used;
        longer.row_ended(9, true);
        assert_eq!(longer.spared(), ns(0), "it was longer already");
    }

    #[test]
    fn known_tokens_are_worth_what_computed_ones_took() {
        let mut rate = PrefillRate::default();
        assert_eq!(rate.of(100), ns(0));
        rate.note(100, ns(1000));
        rate.note(300, ns(2000));
        assert_eq!(rate.of(8), ns(60));
    }
}
