//! Stored answers, by everything that can change them, for a while, within a bound of memory.
use crate::{
    bundle::manifest::BundleId,
    serve::owner::{Epoch, Owner},
    signals::UserSignals,
};
use moka::{Expiry, future::Cache, notification::RemovalCause};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// The reader and her epoch, and sha256 over tenant and key of the reader, the canonical signals, the bundle, the options and the arms: two
/// requests with equal keys have equal answers.
///
/// All of it is compared when a stored answer is read. So nobody gets an answer that was made from another's signals, not even where
/// the digests of two readers' questions are equal, nor one from before her epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey {
    epoch: Epoch,
    digest: [u8; 32],
}

impl CacheKey {
    /// `whose`: bytes that are equal exactly when reader and tenant are, and her epoch. `options`: a canonical encoding of every option that can change the answer. `arms`: one of the arms of experiments, which
    /// share nothing even where their options are equal: what one arm's readers make of the cache is not another's.
    pub fn new(
        (whose, epoch): (&[u8], Epoch),
        signals: &UserSignals,
        bundle: &BundleId,
        options: &[u8],
        arms: &[u8],
    ) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"newshound answer 1");
        for part in [whose, &signals.digest(), bundle.0.as_bytes(), options, arms] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self { epoch, digest: hash.finalize().into() }
    }

    /// The epoch of the reader in which the question was asked.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The digest, which is the same at every server; epochs are each server's own.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.digest.iter().take(4).try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

/// How long an answer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Until this age it is fresh.
    pub fresh: Duration,
    /// From this age on, before it is stale, a use of it should have it made anew.
    pub due: Duration,
    /// For so long after it was fresh it is used all the same, while it is made anew.
    pub stale: Duration,
    /// For so long after that it is used only where nothing better can be had.
    pub spare: Duration,
}

impl Keep {
    /// Lets an answer be due within the last `ahead` of its fresh time, at most the last half, at a `moment` of it from 0 to 1: answers that
    /// were made together are not made anew together.
    pub fn until(
        fresh: Duration,
        ahead: Duration,
        (stale, spare): (Duration, Duration),
        moment: f64,
    ) -> Self {
        let ahead = ahead.min(fresh / 2).mul_f64(moment.clamp(0.0, 1.0));
        Self { fresh, due: fresh - ahead, stale, spare }
    }

    /// Lets an answer be used for a while, and neither made anew nor used for longer.
    pub fn only(fresh: Duration) -> Self {
        Self { fresh, due: fresh, stale: Duration::ZERO, spare: Duration::ZERO }
    }

    /// How long it is used where there may be better.
    pub fn usable(&self) -> Duration {
        self.fresh + self.stale
    }

    fn whole(&self) -> Duration {
        self.usable() + self.spare
    }

    /// Whether an answer of an age is to be made anew.
    pub fn freshness(&self, age: Duration) -> Freshness {
        if age >= self.usable() {
            Freshness::Spare
        } else if age >= self.fresh {
            Freshness::Stale
        } else if age >= self.due {
            Freshness::Due
        } else {
            Freshness::Fresh
        }
    }
}

/// Whether a stored answer is to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not yet.
    Fresh,
    /// Soon, for its time is nearly over.
    Due,
    /// Its time is over, and it is used all the same.
    Stale,
    /// Its time is over, and it is used only where nothing better can be had.
    Spare,
}

/// A stored answer that may be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<A> {
    /// The answer.
    pub answer: Arc<A>,
    /// How long it was stored.
    pub age: Duration,
    /// Whether it is to be made anew.
    pub freshness: Freshness,
}

#[derive(Debug)]
struct Stored<A> {
    answer: Arc<A>,
    since: Instant,
    keep: Keep,
    n_bytes: u32,
}

impl<A> Clone for Stored<A> {
    fn clone(&self) -> Self {
        Self { answer: Arc::clone(&self.answer), ..*self }
    }
}

impl<A> Stored<A> {
    /// How long it is still kept.
    fn left(&self, now: Instant) -> Option<Duration> {
        Some(self.keep.whole().saturating_sub(now.saturating_duration_since(self.since)))
    }
}

/// Each answer is kept as long as it says itself, from when it was made; counted anew when it is replaced.
struct OwnTtl;

impl<A> Expiry<CacheKey, Stored<A>> for OwnTtl {
    fn expire_after_create(&self, _: &CacheKey, stored: &Stored<A>, now: Instant) -> Option<Duration> {
        stored.left(now)
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        stored: &Stored<A>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        stored.left(now)
    }
}

/// Why an answer is stored no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its time was over.
    Expired,
    /// There was no room for it, or for all.
    Size,
    /// A newer one has its place.
    Replaced,
    /// It was taken out.
    Removed,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Expired, Self::Size, Self::Replaced, Self::Removed];

    /// Its word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Size => "size",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
        }
    }

    fn of(cause: RemovalCause) -> Self {
        match cause {
            RemovalCause::Expired => Self::Expired,
            RemovalCause::Size => Self::Size,
            RemovalCause::Replaced => Self::Replaced,
            RemovalCause::Explicit => Self::Removed,
        }
    }
}

/// Answers of type `A` by key.
pub struct AnswerCache<A> {
    stored: Cache<CacheKey, Stored<A>>,
}

impl<A> fmt::Debug for AnswerCache<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AnswerCache").finish_non_exhaustive()
    }
}

impl<A: Send + Sync + 'static> AnswerCache<A> {
    /// An empty cache. `bytes_max`: at most this much is stored, by the callers' own estimate. `left` hears of every answer that leaves.
    pub fn new(bytes_max: u64, left: impl Fn(Cause) + Send + Sync + 'static) -> Self {
        let stored = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, stored: &Stored<A>| stored.n_bytes)
            .expire_after(OwnTtl)
            .eviction_listener(move |_, _, cause| left(Cause::of(cause)))
            .build();
        Self { stored }
    }

    /// The answer stored under a key, as it is at `now`.
    pub async fn get(&self, key: CacheKey, now: Instant) -> Option<Found<A>> {
        let Stored { answer, since, keep, .. } = self.stored.get(&key).await?;
        let age = now.saturating_duration_since(since);
        Some(Found { answer, age, freshness: keep.freshness(age) })
    }

    /// Stores an answer of about `n_bytes` that was made at `since`.
    pub async fn put(&self, key: CacheKey, (answer, n_bytes): (Arc<A>, usize), keep: Keep, since: Instant) {
        let n_bytes = u32::try_from(n_bytes).unwrap_or(u32::MAX);
        self.stored.insert(key, Stored { answer, since, keep, n_bytes }).await;
    }

    /// Drops what is stored under a key.
    pub async fn remove(&self, key: CacheKey) {
        self.stored.invalidate(&key).await;
    }

    /// Every key of a reader, of whatever epoch. Looks at all that is stored, so not for an async thread.
    pub fn keys_of(&self, owner: Owner) -> Vec<CacheKey> {
        self.stored.iter().filter(|(key, _)| key.epoch.owner == owner).map(|(key, _)| *key).collect()
    }

    /// Number of entries and their weight in bytes, without those that are too old or too many.
    pub async fn size(&self) -> (u64, u64) {
        // Entries that expire are taken away by later reads and writes, of which there may be none.
        self.stored.run_pending_tasks().await;
        (self.stored.entry_count(), self.stored.weighted_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        serve::owner::Epochs,
        signals::{SignalDraft, Stream},
    };
    use std::sync::mpsc;

    const MINUTE: Duration = Duration::from_secs(60);

    fn signals(text: &str) -> UserSignals {
        let draft = SignalDraft {
            stream: Stream::Search,
            text: text.to_owned(),
            time_unix_s: 1_700_000_000,
            category: None,
            source: None,
            dwell_ms: None,
            weight: None,
        };
        UserSignals::new(vec![draft]).unwrap()
    }

    fn epoch(user: &str) -> Epoch {
        Epochs::default().now(Owner::of(user.as_bytes()))
    }

    fn with_arms(user: &str, text: &str, bundle: &str, (options, arms): (&[u8], &[u8])) -> CacheKey {
        let bundle = BundleId(bundle.to_owned());
        CacheKey::new((user.as_bytes(), epoch(user)), &signals(text), &bundle, options, arms)
    }

    fn key(user: &str, text: &str, bundle: &str, options: &[u8]) -> CacheKey {
        with_arms(user, text, bundle, (options, b""))
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let same = key("user", "text", "bundle", b"options");
        assert_eq!(same, key("user", "text", "bundle", b"options"));
        for other in [
            key("other", "text", "bundle", b"options"),
            key("user", "other", "bundle", b"options"),
            key("user", "text", "other", b"options"),
            key("user", "text", "bundle", b"other"),
            with_arms("user", "text", "bundle", (b"options", b"arm")),
        ] {
            assert_ne!(same, other);
        }
        assert_ne!(key("user", "text", "bundl", b"eoptions"), same, "parts do not run into each other");
    }

    #[tokio::test]
    async fn a_stored_answer_is_read_back_with_its_age() {
        let cache = AnswerCache::new(1000, drop);
        let now = Instant::now();
        let (one, other) = (key("user", "a", "b", b""), key("other", "a", "b", b""));
        cache.put(one, (Arc::new(7), 10), Keep::only(MINUTE), now).await;
        let later = now + Duration::from_secs(3);
        let (answer, age, freshness) = (Arc::new(7), Duration::from_secs(3), Freshness::Fresh);
        assert_eq!(cache.get(one, later).await, Some(Found { answer, age, freshness }));
        assert_eq!(cache.get(other, later).await, None);
    }

    #[tokio::test]
    async fn not_even_equal_digests_give_a_reader_the_answer_of_another() {
        let cache = AnswerCache::new(1000, drop);
        let now = Instant::now();
        let one = key("user", "a", "b", b"");
        let collision = CacheKey { epoch: epoch("other"), ..one };
        cache.put(one, (Arc::new(7), 10), Keep::only(MINUTE), now).await;
        assert!(cache.get(collision, now).await.is_none() && cache.get(one, now).await.is_some());
        assert_eq!(cache.keys_of(Owner::of(b"user")), [one]);
        cache.remove(one).await;
        assert!(cache.keys_of(Owner::of(b"user")).is_empty() && cache.get(one, now).await.is_none());
    }

    #[tokio::test]
    async fn an_answer_is_fresh_then_due_then_stale_then_spare() {
        let cache = AnswerCache::new(1000, drop);
        let (now, key) = (Instant::now(), key("user", "a", "b", b""));
        let keep = Keep::until(MINUTE, MINUTE / 4, (MINUTE, MINUTE), 1.0);
        cache.put(key, (Arc::new(7), 10), keep, now).await;
        let moment = Duration::from_nanos(1);
        for (age, expected) in [
            (Duration::ZERO, Freshness::Fresh),
            (MINUTE * 3 / 4 - moment, Freshness::Fresh),
            (MINUTE * 3 / 4, Freshness::Due),
            (MINUTE - moment, Freshness::Due),
            (MINUTE, Freshness::Stale),
            (2 * MINUTE - moment, Freshness::Stale),
            (2 * MINUTE, Freshness::Spare),
        ] {
            assert_eq!(cache.get(key, now + age).await.unwrap().freshness, expected, "{age:?}");
        }
    }

    #[test]
    fn answers_are_due_at_different_moments_and_never_in_their_first_half() {
        let due = |ahead: Duration, moment| {
            Keep::until(MINUTE, ahead, (Duration::ZERO, Duration::ZERO), moment).due
        };
        assert_eq!(due(MINUTE / 4, 0.0), MINUTE);
        assert_eq!(due(MINUTE / 4, 0.5), MINUTE * 7 / 8);
        assert_eq!(due(10 * MINUTE, 1.0), MINUTE / 2);
        assert_eq!(due(Duration::ZERO, 1.0), MINUTE);
    }

    #[tokio::test]
    async fn what_weighs_more_than_the_bound_is_not_kept() {
        let (seen, left) = mpsc::channel();
        let cache = AnswerCache::new(100, move |cause| seen.send(cause).unwrap());
        let now = Instant::now();
        cache.put(key("fits", "a", "b", b""), (Arc::new(1), 100), Keep::only(MINUTE), now).await;
        cache.put(key("too heavy", "a", "b", b""), (Arc::new(2), 101), Keep::only(MINUTE), now).await;
        assert_eq!(cache.size().await, (1, 100));
        assert!(cache.get(key("fits", "a", "b", b""), now).await.is_some());
        assert!(cache.get(key("too heavy", "a", "b", b""), now).await.is_none());
        cache.put(key("fits", "a", "b", b""), (Arc::new(3), 100), Keep::only(MINUTE), now).await;
        cache.remove(key("fits", "a", "b", b"")).await;
        assert_eq!(cache.size().await, (0, 0));
        assert_eq!(left.try_iter().collect::<Vec<_>>(), [Cause::Size, Cause::Replaced, Cause::Removed]);
    }

    #[tokio::test]
    async fn each_answer_has_a_time_of_its_own_and_what_has_expired_has_no_size() {
        let ttl = Duration::from_millis(1);
        let cache = AnswerCache::new(100, drop);
        let now = Instant::now();
        let (short, long) = (key("short", "a", "b", b""), key("long", "a", "b", b""));
        cache.put(short, (Arc::new(1), 10), Keep::only(ttl), now).await;
        cache.put(long, (Arc::new(2), 20), Keep::only(MINUTE), now).await;
        // The cache reads the system's clock, so the millisecond really has to pass.
        while now.elapsed() < 4 * ttl {
            tokio::task::yield_now().await;
        }
        assert!(cache.get(short, now).await.is_none() && cache.get(long, now).await.is_some());
        // Expired entries leave by a wheel that turns once a second.
        while cache.size().await != (1, 20) && now.elapsed() < MINUTE {
            tokio::task::yield_now().await;
        }
        assert_eq!(cache.size().await, (1, 20));
    }
}
