//! What tenants may take of the model: tokens a minute, each tenant for itself, so that one who asks for much leaves the others alone.
//!
//! A generation is charged before anything is computed for it, by the most that it can take, and corrected when it ends by what it took:
//! the tokens of its prompt that went through the model, and those that its rows wrote. What is answered without the model costs nothing.
//!
//! A bucket of ours, because `governor` never gives anything back, and refuses for ever whoever asks for more than a bucket holds.
use crate::serve::settings::TenantSettings;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tracing::info;

/// Tenants whose buckets are apart, some megabyte. Where tenants come from a proxy's metadata anybody could make up more: those share one.
const BUCKETS_MAX: usize = 10_000;
/// What they share; no tenant's name has a control character.
const OTHERS: &str = "\u{0}";
/// How often the tenants that were refused most are told in the log, and how many of them.
const TOLD_EVERY: Duration = Duration::from_secs(60);
const TOLD_MAX: usize = 3;

/// Every tenant's budget.
#[derive(Debug)]
pub struct Budgets {
    settings: TenantSettings,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    buckets: HashMap<String, Bucket>,
    told_at: Instant,
}

/// Why a generation is not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted {
    /// What the tenant may take.
    pub tokens_per_minute: u64,
    /// When there is enough for it again.
    pub retry_after: Duration,
}

/// What a generation was charged; dropped, it is corrected.
#[derive(Debug)]
pub struct Charge {
    /// Absent where the tenant has no limit.
    budget: Option<(Arc<Budgets>, String)>,
    charged: u64,
    used: u64,
}

impl Budgets {
    /// Full budgets.
    pub fn new(settings: TenantSettings) -> Self {
        let state = State { buckets: HashMap::new(), told_at: Instant::now() };
        Self { settings, state: Mutex::new(state) }
    }

    /// Charges a tenant; a request without one belongs to the tenant without a name.
    ///
    /// # Errors
    /// If its budget is used up.
    pub fn charge(
        self: &Arc<Self>,
        tenant: Option<&str>,
        tokens: usize,
        now: Instant,
    ) -> Result<Charge, Exhausted> {
        let tenant = tenant.unwrap_or_default();
        let Some(limit) = self.limit(tenant) else { return Ok(Charge::free()) };
        let mut state = self.lock();
        let name = state.bucket_of(tenant, |name| self.limit(name), now);
        let bucket = state.buckets.entry(name.clone()).or_insert_with(|| Bucket::full(limit, now));
        let charged = tokens as u64;
        let exhausted = |retry_after| Exhausted { tokens_per_minute: limit.tokens_per_minute, retry_after };
        bucket.take(limit, charged, now).map_err(exhausted)?;
        Ok(Charge { budget: Some((Arc::clone(self), name)), charged, used: 0 })
    }

    /// Says in the log, once a minute, which tenants were refused most. Metrics name none: there may be very many.
    pub fn upkeep(&self, now: Instant) {
        let mut state = self.lock();
        if now.saturating_duration_since(state.told_at) < TOLD_EVERY {
            return;
        }
        state.told_at = now;
        let refused =
            state.buckets.iter_mut().map(|(name, bucket)| (std::mem::take(&mut bucket.n_refused), name));
        let mut refused: Vec<_> = refused.filter(|(n_refused, _)| *n_refused > 0).collect();
        refused.sort_unstable_by(|one, other| other.cmp(one));
        for (n_refused, name) in refused.into_iter().take(TOLD_MAX) {
            info!(tenant = %name.escape_debug(), n_refused, "tenant is over its budget");
        }
    }

    fn limit(&self, tenant: &str) -> Option<Limit> {
        let of_tenant = self.settings.limits.get(tenant).copied();
        let tokens_per_minute = of_tenant.unwrap_or(self.settings.tokens_per_minute);
        (tokens_per_minute > 0).then_some(Limit { tokens_per_minute, burst: self.settings.burst })
    }

    fn correct(&self, name: &str, charged: u64, used: u64) {
        let Some(limit) = self.limit(name) else { return };
        if let Some(bucket) = self.lock().buckets.get_mut(name) {
            bucket.correct(limit, charged, used);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Levels are whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The name of a tenant's bucket: its own, unless there are too many. A full bucket is as good as none, and makes room.
    fn bucket_of(&mut self, tenant: &str, limit: impl Fn(&str) -> Option<Limit>, now: Instant) -> String {
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(tenant) {
            self.buckets.retain(|name, bucket| limit(name).is_some_and(|limit| !bucket.is_full(limit, now)));
            if self.buckets.len() >= BUCKETS_MAX {
                return OTHERS.to_owned();
            }
        }
        tenant.to_owned()
    }
}

impl Charge {
    /// Nothing is charged, and nothing corrected.
    pub fn free() -> Self {
        Self { budget: None, charged: 0, used: 0 }
    }

    /// Notes how many tokens were used; without a word none were.
    pub fn used(&mut self, tokens: u64) {
        self.used = tokens;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some((budgets, name)) = &self.budget {
            budgets.correct(name, self.charged, self.used);
        }
    }
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
struct Limit {
    tokens_per_minute: u64,
    burst: Duration,
}

#[allow(clippy::cast_precision_loss, reason = "tokens stay far below 2^52")]
impl Limit {
    fn per_second(self) -> f64 {
        self.tokens_per_minute as f64 / 60.0
    }

    fn holds(self) -> f64 {
        self.per_second() * self.burst.as_secs_f64()
    }
}

#[derive(Debug)]
struct Bucket {
    /// Below zero, where more was used than there was.
    level: f64,
    at: Instant,
    /// Since they were told last.
    n_refused: u64,
}

#[allow(clippy::cast_precision_loss, reason = "tokens stay far below 2^52")]
impl Bucket {
    fn full(limit: Limit, now: Instant) -> Self {
        Self { level: limit.holds(), at: now, n_refused: 0 }
    }

    fn level(&self, limit: Limit, now: Instant) -> f64 {
        let filled = limit.per_second() * now.saturating_duration_since(self.at).as_secs_f64();
        (self.level + filled).min(limit.holds())
    }

    fn is_full(&self, limit: Limit, now: Instant) -> bool {
        self.level(limit, now) >= limit.holds()
    }

    /// Takes tokens, or says when there are enough. More than the bucket holds are there when it is full, and leave a debt: such a request
    /// would otherwise never be served.
    fn take(&mut self, limit: Limit, tokens: u64, now: Instant) -> Result<(), Duration> {
        (self.level, self.at) = (self.level(limit, now), self.at.max(now));
        let needed = (tokens as f64).min(limit.holds());
        if self.level < needed {
            self.n_refused += 1;
            return Err(Duration::from_secs_f64((needed - self.level) / limit.per_second()));
        }
        self.level -= tokens as f64;
        Ok(())
    }

    fn correct(&mut self, limit: Limit, charged: u64, used: u64) {
        self.level = (self.level + charged as f64 - used as f64).min(limit.holds());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MINUTE: Duration = Duration::from_secs(60);

    fn budgets(tokens_per_minute: u64, limits: &[(&str, u64)]) -> (Arc<Budgets>, Instant) {
        let limits: BTreeMap<_, _> = limits.iter().map(|&(name, limit)| (name.to_owned(), limit)).collect();
        let settings = TenantSettings { tokens_per_minute, burst: MINUTE, limits };
        (Arc::new(Budgets::new(settings)), Instant::now())
    }

    #[test]
    fn a_tenant_takes_what_it_has_and_the_next_minute_as_much_again_and_others_are_left_alone() {
        let (budgets, now) = budgets(600, &[]);
        let mut whole = budgets.charge(Some("noisy"), 600, now).unwrap();
        whole.used(600);
        drop(whole);
        let exhausted = budgets.charge(Some("noisy"), 10, now).unwrap_err();
        assert_eq!(exhausted, Exhausted { tokens_per_minute: 600, retry_after: Duration::from_secs(1) });
        assert!(budgets.charge(Some("quiet"), 600, now).is_ok() && budgets.charge(None, 600, now).is_ok());
        let soon = now + exhausted.retry_after;
        assert!(
            budgets.charge(Some("noisy"), 11, soon).is_err()
                && budgets.charge(Some("noisy"), 10, soon).is_ok()
        );
        let much_later = now + 10 * MINUTE;
        assert!(budgets.charge(Some("noisy"), 600, much_later).is_ok(), "no more than a bucket is saved up");
    }

    #[test]
    fn what_was_not_used_is_given_back_and_what_was_used_beyond_the_estimate_is_owed() {
        let (budgets, now) = budgets(600, &[]);
        let mut one = budgets.charge(Some("a"), 600, now).unwrap();
        assert!(budgets.charge(Some("a"), 1, now).is_err());
        one.used(500);
        drop(one);
        let mut other = budgets.charge(Some("a"), 100, now).unwrap();
        other.used(160);
        drop(other);
        let exhausted = budgets.charge(Some("a"), 10, now).unwrap_err();
        assert_eq!(exhausted.retry_after, Duration::from_secs(7), "sixty are owed");
    }

    #[test]
    fn more_than_a_bucket_holds_is_served_when_it_is_full() {
        let (budgets, now) = budgets(600, &[]);
        let mut large = budgets.charge(Some("a"), 1200, now).unwrap();
        large.used(1200);
        drop(large);
        assert!(budgets.charge(Some("a"), 1200, now + MINUTE).is_err());
        assert!(budgets.charge(Some("a"), 1200, now + 2 * MINUTE).is_ok());
    }

    #[test]
    fn tenants_have_limits_of_their_own_and_none_where_it_is_zero() {
        let (budgets, now) = budgets(600, &[("large", 6000), ("free", 0)]);
        assert!(budgets.charge(Some("large"), 6000, now).is_ok());
        assert!(budgets.charge(Some("free"), 1 << 40, now).unwrap().budget.is_none());
        assert!(self::budgets(0, &[]).0.charge(Some("any"), 1 << 40, now).unwrap().budget.is_none());
    }

    #[test]
    fn tenants_that_are_made_up_share_one_bucket_once_there_are_very_many() {
        let (budgets, now) = budgets(600, &[]);
        let charges: Vec<_> = (0..BUCKETS_MAX)
            .map(|number| budgets.charge(Some(&number.to_string()), 1, now).unwrap())
            .collect();
        let _shared = budgets.charge(Some("one more"), 600, now).unwrap();
        assert!(budgets.charge(Some("another"), 1, now).is_err());
        assert_eq!(budgets.lock().buckets.len(), BUCKETS_MAX + 1);
        drop(charges);
        assert!(budgets.charge(Some("another"), 600, now).is_ok(), "full buckets made room");
        assert!(budgets.lock().buckets.len() <= 3);
    }
}
