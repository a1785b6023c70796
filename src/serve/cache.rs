//! Stored answers, by everything that can change them, for a while, within a bound of memory.
use crate::{bundle::manifest::BundleId, signals::UserSignals};
use moka::{Expiry, future::Cache};
use sha2::{Digest, Sha256};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// sha256 over tenant and key of the reader, the canonical signals, the bundle, the options and the arms: two requests with equal keys have equal
/// answers.
///
/// The whole digest is compared when a stored answer is read, so nobody gets an answer that was made from another's signals.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// `whose`: bytes that are equal exactly when reader and tenant are. `options`: a canonical encoding of every option that can change the answer. `arms`: one of the arms of experiments, which
    /// share nothing even where their options are equal: what one arm's readers make of the cache is not another's.
    pub fn new(whose: &[u8], signals: &UserSignals, bundle: &BundleId, options: &[u8], arms: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"newshound answer 1");
        for part in [whose, &signals.digest(), bundle.0.as_bytes(), options, arms] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

#[derive(Debug)]
struct Stored<A> {
    answer: Arc<A>,
    since: Instant,
    ttl: Duration,
    n_bytes: u32,
}

impl<A> Clone for Stored<A> {
    fn clone(&self) -> Self {
        Self { answer: Arc::clone(&self.answer), ..*self }
    }
}

/// Each answer is kept as long as it says itself, counted anew when it is replaced.
struct OwnTtl;

impl<A> Expiry<CacheKey, Stored<A>> for OwnTtl {
    fn expire_after_create(&self, _: &CacheKey, stored: &Stored<A>, _: Instant) -> Option<Duration> {
        Some(stored.ttl)
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        stored: &Stored<A>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(stored.ttl)
    }
}

/// Answers of type `A` by key. Errors are never stored.
pub struct AnswerCache<A> {
    stored: Cache<CacheKey, Stored<A>>,
}

impl<A> fmt::Debug for AnswerCache<A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AnswerCache").finish_non_exhaustive()
    }
}

impl<A: Send + Sync + 'static> AnswerCache<A> {
    /// An empty cache. `bytes_max`: at most this much is stored, by the callers' own estimate.
    pub fn new(bytes_max: u64) -> Self {
        let stored = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, stored: &Stored<A>| stored.n_bytes)
            .expire_after(OwnTtl)
            .build();
        Self { stored }
    }

    /// The answer stored under a key, and its age at `now`.
    pub async fn get(&self, key: CacheKey, now: Instant) -> Option<(Arc<A>, Duration)> {
        let stored = self.stored.get(&key).await?;
        Some((stored.answer, now.saturating_duration_since(stored.since)))
    }

    /// Stores an answer of about `n_bytes` for as long as `ttl`.
    pub async fn put(&self, key: CacheKey, (answer, n_bytes): (Arc<A>, usize), ttl: Duration, now: Instant) {
        let n_bytes = u32::try_from(n_bytes).unwrap_or(u32::MAX);
        self.stored.insert(key, Stored { answer, since: now, ttl, n_bytes }).await;
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
    use crate::signals::{SignalDraft, Stream};

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

    fn with_arms(user: &str, text: &str, bundle: &str, (options, arms): (&[u8], &[u8])) -> CacheKey {
        let bundle = BundleId(bundle.to_owned());
        CacheKey::new(user.as_bytes(), &signals(text), &bundle, options, arms)
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
        let cache = AnswerCache::new(1000);
        let now = Instant::now();
        let (one, other) = (key("user", "a", "b", b""), key("other", "a", "b", b""));
        cache.put(one, (Arc::new(7), 10), MINUTE, now).await;
        let later = now + Duration::from_secs(3);
        assert_eq!(cache.get(one, later).await, Some((Arc::new(7), Duration::from_secs(3))));
        assert_eq!(cache.get(other, later).await, None);
    }

    #[tokio::test]
    async fn what_weighs_more_than_the_bound_is_not_kept() {
        let cache = AnswerCache::new(100);
        let now = Instant::now();
        cache.put(key("fits", "a", "b", b""), (Arc::new(1), 100), MINUTE, now).await;
        cache.put(key("too heavy", "a", "b", b""), (Arc::new(2), 101), MINUTE, now).await;
        assert_eq!(cache.size().await, (1, 100));
        assert!(cache.get(key("fits", "a", "b", b""), now).await.is_some());
        assert!(cache.get(key("too heavy", "a", "b", b""), now).await.is_none());
    }

    #[tokio::test]
    async fn each_answer_has_a_time_of_its_own_and_what_has_expired_has_no_size() {
        let ttl = Duration::from_millis(1);
        let cache = AnswerCache::new(100);
        let now = Instant::now();
        let (short, long) = (key("short", "a", "b", b""), key("long", "a", "b", b""));
        cache.put(short, (Arc::new(1), 10), ttl, now).await;
        cache.put(long, (Arc::new(2), 20), MINUTE, now).await;
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
